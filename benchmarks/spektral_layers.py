"""Which of Spektral's layers does Keras 3 take, and which of them are pruned?

python benchmarks/spektral_layers.py

Puts each convolutional layer of Spektral into a functional model, once as it is
and once from keras_swd.graphs.layers, with a sparse and with a dense adjacency
matrix. The model is called, saved and loaded, cloned, and trained for a step.
Writes the table of docs/graphs.md from benchmarks/spektral_layers.json, in some
minutes; `--tables` calls nothing and only writes it. Arguments are chosen such
that a copy which has forgotten one is another layer.
"""

import argparse
import json
import os
import pathlib
import re
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import spektral
import tensorflow as tf
from documents import write_json, write_tables

import keras_swd
from keras_swd.graphs import layers

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "graphs.md"
RESULT = ROOT / "benchmarks" / "spektral_layers.json"
NODES, FEATURES, EDGE_FEATURES = 6, 4, 3
CHANNELS = {"node_channels": 5, "edge_channels": 2}
ARGUMENTS = {
    "AGNNConv": {},
    "APPNPConv": {"channels": 5, "mlp_hidden": [3]},
    "ARMAConv": {"channels": 5, "iterations": 2},
    "CensNetConv": CHANNELS,
    "ChebConv": {"channels": 5, "K": 3},
    "CrystalConv": {},
    "DiffusionConv": {"channels": 5, "K": 2},
    "ECCConv": {"channels": 5, "kernel_network": [3]},
    "EdgeConv": {"channels": 5, "mlp_hidden": [3]},
    "GATConv": {"channels": 5, "attn_heads": 2, "add_self_loops": False},
    "GCNConv": {"channels": 5},
    "GCSConv": {"channels": 5},
    "GINConv": {"channels": 5, "mlp_hidden": [3]},
    "GINConvBatch": {"channels": 5, "mlp_hidden": [3]},
    "GTVConv": {"channels": 5},
    "GatedGraphConv": {"channels": 5, "n_layers": 2},
    "GeneralConv": {"channels": 5, "batch_norm": False},
    "GraphSageConv": {"channels": 5},
    "TAGConv": {"channels": 5, "K": 2},
    "XENetConv": {"stack_channels": 4, **CHANNELS},
    "XENetConvBatch": {"stack_channels": 4, **CHANNELS},
}
WITH_EDGES = ("CrystalConv", "ECCConv", "XENetConv")
BATCHES = ("GINConvBatch", "XENetConvBatch")


class Different(Exception):
    """A copy computes something else."""


def graph(name, sparse):
    """What a layer takes: features, adjacency, and features of the edges."""
    random = np.random.default_rng(0)
    a = np.roll(np.eye(NODES, dtype="float32"), 1, axis=1)
    a += a.T
    x = random.normal(size=(NODES, FEATURES))
    e = random.normal(size=(2 * NODES, EDGE_FEATURES))
    if name == "CensNetConv":
        a = tuple(map(np.asarray, layers.CensNetConv.preprocess(a)))
        e = e[:NODES]
    if name in BATCHES:
        x, a = x[None], a[None]
        e = random.normal(size=(1, NODES, NODES, EDGE_FEATURES))
    has_edges = name in (*WITH_EDGES, "CensNetConv", "XENetConvBatch")
    inputs = keras.tree.map_structure(
        lambda array: tf.constant(array, "float32"),
        [x, a, e] if has_edges else [x, a],
    )
    if sparse:
        inputs[1] = keras.tree.map_structure(tf.sparse.from_dense, inputs[1])
    return inputs


def make_model(layer, inputs):
    """A functional model of one layer."""

    def like(tensor):
        sparse = isinstance(tensor, tf.SparseTensor)
        shape = (None,) * (len(tensor.shape) - 1) + tuple(tensor.shape[-1:])
        return keras.Input(batch_shape=shape, sparse=sparse)

    symbolic = keras.tree.map_structure(like, inputs)
    return keras.Model(symbolic, layer(symbolic))


def compare(model, copy, inputs, tolerance):
    pairs = zip(
        keras.tree.flatten(model(inputs)),
        keras.tree.flatten(copy(inputs)),
        strict=True,
    )
    if not all(np.allclose(a, b, tolerance, tolerance) for a, b in pairs):
        raise Different("the copy computes something else")


def load(model, inputs):
    layer = type(model.layers[-1])
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        # Spektral does not register its classes.
        copy = keras.saving.load_model(path, {layer.__name__: layer})
    compare(model, copy, inputs, 0.0)


def clone(model, inputs):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    compare(model, copy, inputs, 1e-5)


def fit(model, inputs):
    targets = keras.tree.map_structure(tf.ones_like, model(inputs))
    targets = tuple(targets) if isinstance(targets, list) else targets
    data = tf.data.Dataset.from_tensors((tuple(inputs), targets))
    model.compile("adam", "mse")
    model.fit(data, shuffle=False, verbose=0)


def failures(layer_class, name, sparse):
    """What fails, and why: a dictionary of reasons, empty if all works."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    inputs = graph(name, sparse)
    try:
        model = make_model(layer_class(**ARGUMENTS[name]), inputs)
        model(inputs)
    except Exception as error:
        return {"call": reason(error)}
    found = {}
    for check in (load, clone, fit):
        try:
            check(model, inputs)
        except Exception as error:
            found[check.__name__] = reason(error)
    return found


def reason(error):
    """The line of a message in which Keras quotes what went wrong."""
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    text = text.split("Error encountered:")[-1]
    text = re.sub(r"(?s)^.*Example error message .*?>:", "", text)
    text = re.sub(r"^Exception encountered when calling .*", "", text.strip())
    text = re.sub(
        r"SparseTensor\(.*\) to Tensor", "SparseTensor to Tensor", text
    )
    line = text.strip().splitlines()[0].replace("|", "/")
    return re.sub(r"\. (?=[A-Z]).*", ".", line)


def kernels(name):
    """How many kernels a regularizer reaches, and the names of the others."""
    keras.utils.clear_session()
    swd = keras_swd.SelectiveWeightDecay()
    layer = getattr(layers, name)(kernel_regularizer=swd, **ARGUMENTS[name])
    model = make_model(layer, graph(name, sparse=False))
    found = keras_swd.sparsity_report(model).kernels
    others = [k.path.split("/", 1)[1] for k in found if not k.prunable]
    return len(found) - len(others), others


def measure():
    """What each layer cannot do, as it is and adapted, and what is pruned."""
    found = []
    for name in ARGUMENTS:
        forms = getattr(spektral.layers, name), getattr(layers, name)
        cells = [
            failures(form, name, sparse)
            for form in forms
            for sparse in (True, False)
        ]
        pruned, others = kernels(name)
        found.append(
            {"layer": name, "failures": cells}
            | {"kernels": pruned, "not_reached": others}
        )
        print(json.dumps(found[-1]), flush=True)
    versions = {
        "Spektral": spektral.__version__,
        "Keras": keras.__version__,
        "TensorFlow": tf.__version__,
    }
    return {"layers": found, "versions": versions}


def table(result):
    """The rows of the document, and under them the reasons by number."""
    lines = [
        "| layer | as it is, sparse | as it is, dense | adapted, sparse "
        "| adapted, dense | kernels pruned | not reached |",
        "|---|---|---|---|---|---|---|",
    ]
    reasons = {}

    def cell(found):
        for why in found.values():
            reasons.setdefault(why, len(reasons) + 1)
        parts = (f"{what} ({reasons[why]})" for what, why in found.items())
        return "no: " + ", ".join(parts) if found else "yes"

    for row in result["layers"]:
        cells = map(cell, row["failures"])
        others = ", ".join(f"`{other}`" for other in row["not_reached"])
        lines.append(
            f"| `{row['layer']}` | {' | '.join(cells)} "
            f"| {row['kernels']} | {others} |"
        )
    lines.append("")
    lines += [f"{number}. `{why}`" for why, number in reasons.items()]
    versions = (f"{name} {v}" for name, v in result["versions"].items())
    lines += ["", f"{', '.join(versions)}."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", metavar="FILE", default=RESULT)
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if not args.tables:
        with warnings.catch_warnings():
            # Spektral's about dense matrices, Keras' about NumPy's `copy`.
            warnings.simplefilter("ignore")
            result = measure()
        write_json(args.json, result)
    write()


def write():
    """Writes the table of the document from what was kept."""
    result = json.loads(RESULT.read_text())
    write_tables(DOCUMENT, {"layers": table(result)})


if __name__ == "__main__":
    main()
