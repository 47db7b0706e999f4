"""How much faster is a network with fewer channels?

python benchmarks/shrink.py

Removes channels of networks with random weights until 75, 50 or 25 % of the
multiplications are left, the same share of every set of coupled channels,
shrinks them, and times the shrunk network over the whole one: the TensorFlow
Lite file in float32 and in int8, one thread, and Keras itself, in turns. Writes
the cells that are missing in benchmarks/cells/shrink_speed, each a small JSON
file, and the tables of docs/shrink.md: that of these cells, and that of the
runs of examples/resnet20_cifar10.py in benchmarks/cells/resnet20. `--tables`
only writes the tables.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import networks
import numpy as np
from documents import add_json, markdown, write_json, write_tables

import keras_swd

ROOT = pathlib.Path(__file__).parents[1]
CELLS = ROOT / "benchmarks" / "cells" / "shrink_speed"
TRAINED = ROOT / "benchmarks" / "cells" / "resnet20"
METHODS = ("swd", "slimming", "narrow", "dense")
DOCUMENT = ROOT / "docs" / "shrink.md"
LEFT = (0.75, 0.5, 0.25)
ROUNDS, SECONDS = 9, 0.3
SAMPLES = 16


def application(name, size):
    """A network of keras.applications with logits, for images of a size."""

    def build():
        model = getattr(keras.applications, name)(
            weights=None,
            input_shape=(size, size, 3),
            classifier_activation=None,
        )
        # Open ReLUs keep rounding from growing from layer to layer, as it
        # does with random weights: int8 files would disagree.
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.epsilon = 0.01
                layer.beta.assign(np.ones(layer.beta.shape))
        return model

    return build


NETWORKS = {
    "ResNet-20": networks.resnet20,
    "ResNet50": application("ResNet50", 224),
    "MobileNetV2": application("MobileNetV2", 224),
    "VGG16": application("VGG16", 224),
    "EfficientNetB0": application("EfficientNetB0", 224),
}


def pruned(model, left):
    """The model with channels at zero, and the same without them."""
    swd = keras_swd.SelectiveWeightDecay(
        granularity=keras_swd.CoupledChannels(kernels=True)
    )
    model = keras_swd.with_regularizer(model, swd)
    budget = keras_swd.Operations(left=left)
    keras_swd.remove(model, budget, keras_swd.Uniform())
    return keras_swd.shrink(model)


class FileClock:
    """Times a file in LiteRT, one thread."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(path), num_threads=1)
        self.interpreter.allocate_tensors()

    def run(self):
        """Runs the file once."""
        self.interpreter.invoke()


class KerasClock:
    """Times a compiled Keras model on one image."""

    def __init__(self, model):
        self.model = model
        self.x = np.zeros((1, *model.input_shape[1:]), "float32")

    def run(self):
        """Runs the model once."""
        self.model.predict_on_batch(self.x)


def seconds(clock):
    """Seconds per run, over at least a fraction of a second."""
    runs, start = 0, time.perf_counter()
    while runs == 0 or time.perf_counter() - start < SECONDS:
        clock.run()
        runs += 1
    return (time.perf_counter() - start) / runs


def ratio(whole, small):
    """Median ratio of two clocks, run in turns."""
    for clock in (whole, small):
        clock.run()
    ratios = []
    for _ in range(ROUNDS):
        base = seconds(whole)
        ratios.append(seconds(small) / base)
    return statistics.median(ratios)


def export(model, path, quantization, x):
    """Writes a file; returns its bytes."""
    return keras_swd.export.to_tflite(
        model,
        path,
        quantization=quantization,
        sparse=False,
        representative_data=x,
        check_with=x,
    ).bytes


def measure(name, left):
    """One cell: what is left, and how long it takes."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    small = pruned(model, left)
    reports = [keras_swd.sparsity_report(m) for m in (model, small)]
    whole, rest = reports
    shape = (SAMPLES, *model.input_shape[1:])
    x = np.random.default_rng(0).standard_normal(shape, "float32")
    cell = {
        "network": name,
        "budget": left,
        "operations": whole.operations,
        "operations_left": rest.operations / whole.operations,
        "parameters_left": rest.total.size / whole.total.size,
        "activations_left": rest.activations / whole.activations,
        "keras": ratio(KerasClock(model), KerasClock(small)),
        "load": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        for mode in (None, "int8"):
            label = mode or "float32"
            paths = [pathlib.Path(folder, f"{n}.tflite") for n in "ab"]
            try:
                sizes = [
                    export(m, path, mode, x)
                    for m, path in zip((model, small), paths, strict=True)
                ]
            except keras_swd.export.ExportError as error:
                cell[label] = {"refused": str(error)}
                continue
            cell[label] = {
                "latency": ratio(*map(FileClock, paths)),
                "bytes": sizes[1] / sizes[0],
            }
    return cell


def trained_table():
    """The runs on CIFAR-10, means of the seeds, as a Markdown table."""
    rows = []
    for method in METHODS:
        paths = sorted(TRAINED.glob(f"{method}-*.json"))
        runs = [json.loads(path.read_text()) for path in paths]
        if not runs:
            continue
        accuracies = [100.0 * run["accuracy_after_shrinking"] for run in runs]
        left = statistics.fmean(run["parameters_left"] for run in runs)
        rows.append(
            [
                method,
                f"{left:.3f}",
                f"{statistics.fmean(accuracies):.2f}",
                ", ".join(f"{accuracy:.2f}" for accuracy in accuracies),
            ]
        )
    return markdown(["method", "parameters left", "accuracy", "seeds"], rows)


def speed_table():
    """All timings as a Markdown table."""
    rows = []
    for name in NETWORKS:
        for left in LEFT:
            path = CELLS / f"{name.lower()}-{left}.json"
            if not path.exists():
                continue
            cell = json.loads(path.read_text())

            def told(mode, cell=cell):
                found = cell[mode]
                return (
                    "refused"
                    if "refused" in found
                    else (f"{found['latency']:.2f}")
                )

            rows.append(
                [
                    name,
                    f"{cell['operations'] / 1e6:,.0f} M",
                    f"{cell['operations_left']:.3f}",
                    f"{cell['parameters_left']:.3f}",
                    told("float32"),
                    told("int8"),
                    f"{cell['keras']:.2f}",
                ]
            )
    head = [
        "network",
        "multiplications",
        "of these left",
        "parameters left",
        "float32 file",
        "int8 file",
        "Keras",
    ]
    return markdown(head, rows)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    add_json(parser)
    args = parser.parse_args()
    CELLS.mkdir(parents=True, exist_ok=True)
    names = [args.network] if args.network else list(NETWORKS)
    for name in [] if args.tables else names:
        for left in LEFT:
            path = CELLS / f"{name.lower()}-{left}.json"
            if path.exists():
                continue
            cell = measure(name, left)
            write_json(path, cell)
            print(json.dumps(cell), flush=True)
    write(args.json)


def write(path=None):
    """Writes the tables of the document from what was kept."""
    tables = {"speed": speed_table(), "resnet20": trained_table()}
    write_tables(DOCUMENT, tables, path)


if __name__ == "__main__":
    main()
