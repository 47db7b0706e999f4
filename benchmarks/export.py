"""How small and how fast are the files of a pruned network, in each mode?

python benchmarks/export.py --data-dir ~/tensorflow_datasets

Writes the cells that are missing in benchmarks/cells/export, each a small JSON
file, and the tables of docs/export.md from all of them. `--tables` only writes
the tables; `--predict` first predicts the sizes of the cells' files again;
`--network` does so for one network only. The networks have random weights, the
smallest of each kernel set to zero; one, `mnist`, is LeNet-5 as
examples/lenet5_mnist.py trains it. A latency is that of a file over that of the
plain float32 file, one thread, the two run in turns.
"""

import argparse
import gzip
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import documents
import keras
import networks
import numpy as np

import keras_swd
from keras_swd.export import (
    ExportError,
    information_limit,
    plan_sizes,
    to_tflite,
)

ROOT = pathlib.Path(__file__).parents[1]
MODES = ROOT / "benchmarks" / "export_lenet5.json"
CELLS = pathlib.Path(__file__).parent / "cells" / "export"
DOCUMENT = ROOT / "docs" / "export.md"
README = ROOT / "README.md"
EXAMPLE = ROOT / "examples" / "lenet5_mnist.py"
#: Bits of an entry that is not zero.
BITS = {None: 32, "float16": 16, "dynamic": 8, "int8": 8, "int16x8": 8}
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
ROUNDS, SECONDS = 9, 0.2


def mobilenetv2():
    """MobileNetV2 on images of 96 x 96 x 3, with logits.

    With random weights, 52 normalizations in a row blow rounding up: float16
    weights alone would change the outputs by 2 to 15 percent. A larger epsilon
    holds channels that hardly vary back, and a shift of 1 leaves most ReLUs
    open, which brings this down to 0.3 percent.
    """
    model = keras.applications.MobileNetV2(
        (96, 96, 3), weights=None, classifier_activation=None
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 0.01
            layer.beta.assign(keras.ops.ones_like(layer.beta))
    return model


NETWORKS = {
    "lenet5": networks.lenet5,
    "resnet20": networks.resnet20,
    "mobilenetv2": mobilenetv2,
}


def plan():
    """The network and the sparsity of each cell."""
    cells = [(name, s) for name in NETWORKS for s in SPARSITIES]
    return [*cells, ("mnist", 0.95)]


def path_of(network, sparsity):
    return CELLS / f"{network}-{sparsity}.json"


def pruned(network, sparsity):
    """A network with random weights, the same share of each kernel zero."""
    keras.utils.set_random_seed(0)
    model = NETWORKS[network]()
    random = np.random.default_rng(0)
    for weight in model.weights:
        values = np.array(keras.ops.convert_to_numpy(weight))
        if values.ndim > 1:
            order = np.argsort(np.abs(values), axis=None, kind="stable")
            values.flat[order[: round(sparsity * values.size)]] = 0.0
        else:
            # A trained network has other biases and statistics than 0 and 1.
            values += random.uniform(0.01, 0.1, values.shape)
        weight.assign(values)
    samples = random.normal(size=(64, *model.input_shape[1:]))
    # Normalization learns what comes: signals that vanish round to nothing.
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(samples.astype("float32"), training=True)
    return model, samples


def trained(sparsity, data_dir):
    """LeNet-5 as the example trains it, and images to calibrate with."""
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model.keras")
        command = [sys.executable, str(EXAMPLE), "--out", model]
        command += ["--data-dir", str(data_dir), "--sparsity", str(sparsity)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        model = keras.saving.load_model(model)
    images = tfds.load("mnist", split="train[:64]", data_dir=data_dir)
    x = np.stack([row["image"] for row in tfds.as_numpy(images)])
    return model, (x / 255.0 - 0.1307) / 0.3081


class Clock:
    """A file in LiteRT, one thread, and how long it takes."""

    def __init__(self, path):
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=path, num_threads=1)
        self.interpreter.allocate_tensors()
        for detail in self.interpreter.get_input_details():
            zeros = np.zeros(detail["shape"], detail["dtype"])
            self.interpreter.set_tensor(detail["index"], zeros)
        self.interpreter.invoke()

    def seconds(self):
        """Seconds per run, over at least a fraction of a second."""
        runs, start = 0, time.perf_counter()
        while time.perf_counter() - start < SECONDS:
            self.interpreter.invoke()
            runs += 1
        return (time.perf_counter() - start) / runs


def latency_ratio(path, plain):
    """Median ratio of a file's time to that of the plain file."""
    clocks = Clock(plain), Clock(path)
    ratios = []
    for _ in range(ROUNDS):
        base, other = (clock.seconds() for clock in clocks)
        ratios.append(other / base)
    return statistics.median(ratios)


def kernel_spans(content):
    """Where in a file the kernels lie: pairs of start and length."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    for tensor in map(graph.Tensors, range(graph.TensorsLength())):
        buffer = model.Buffers(tensor.Buffer())
        if tensor.ShapeLength() < 2 or not buffer.DataLength():
            continue
        yield buffer._tab.Vector(buffer._tab.Offset(4)), buffer.DataLength()
        sparsity = tensor.Sparsity()
        if sparsity is not None:
            rows = sparsity.DimMetadata(tensor.ShapeLength() - 1)
            yield _span(rows.ArraySegmentsType(), rows.ArraySegments())
            yield _span(rows.ArrayIndicesType(), rows.ArrayIndices())


def _span(kind, table):
    width = {1: 4, 2: 2, 3: 1}[kind]
    place = table.Offset(4)
    return table.Vector(place), table.VectorLen(place) * width


def graph_sizes(content):
    """Bytes of a file that hold no kernel, and the same after gzip."""
    blank, kernels = bytearray(content), 0
    for start, length in kernel_spans(content):
        blank[start : start + length] = bytes(length)
        kernels += length
    zeros = len(gzip.compress(bytes(kernels), 6))
    return len(content) - kernels, len(gzip.compress(blank, 6)) - zeros


def measure(model, samples, folder):
    """One record per mode and way to store zeros; plain float32 first."""
    plain = os.path.join(folder, "plain.tflite")
    for quantization, sparse in itertools.product(BITS, (False, True)):
        first = quantization is None and not sparse
        path = plain if first else os.path.join(folder, "other.tflite")
        record = {"quantization": quantization, "sparse": sparse}
        try:
            report = to_tflite(
                model,
                path,
                quantization=quantization,
                sparse=sparse,
                representative_data=samples,
            )
        except ExportError as error:
            yield record | {"refused": str(error)}
            continue
        content = pathlib.Path(path).read_bytes()
        graph, graph_gzip = graph_sizes(content)
        record |= {
            "bytes": report.bytes,
            "gzip_bytes": report.gzip_bytes,
            "graph_bytes": graph,
            "graph_gzip_bytes": graph_gzip,
            "latency": 1.0 if first else latency_ratio(path, plain),
        }
        yield record


def predict(model, files):
    """Adds to the records of files how large they were predicted to be."""
    predicted = {
        (file.dtype, file.encoding): file
        for file in plan_sizes(model, [present_sparsity(model)]).files
    }
    for record in files:
        encoding = "sparse" if record["sparse"] else "plain"
        file = predicted.get((record["quantization"] or "float32", encoding))
        if file is not None and "bytes" in record:
            record["predicted_bytes"] = file.bytes
            record["predicted_gzip_bytes"] = file.gzip_bytes


def present_sparsity(model):
    return keras_swd.sparsity_report(model).prunable.sparsity


def build(network, sparsity, data_dir):
    if network == "mnist":
        return trained(sparsity, data_dir)
    return pruned(network, sparsity)


def make_cell(network, sparsity, data_dir):
    model, samples = build(network, sparsity, data_dir)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        files = list(measure(model, samples.astype("float32"), folder))
    load.append(os.getloadavg()[0])
    predict(model, files)
    limits = {str(b): information_limit(model, b) for b in set(BITS.values())}
    return {
        "network": network,
        "sparsity": sparsity,
        "limits": limits,
        "cores": os.cpu_count(),
        "load": load,
        "files": files,
    }


def make_missing(data_dir, only):
    CELLS.mkdir(parents=True, exist_ok=True)
    for network, sparsity in plan():
        path = path_of(network, sparsity)
        if not path.exists() and only in (None, network):
            write_cell(path, make_cell(network, sparsity, data_dir))


def predict_again(data_dir, only):
    """Predicts the sizes of the files in the cells that are there."""
    for network, sparsity in plan():
        path = path_of(network, sparsity)
        if path.exists() and only in (None, network):
            cell = json.loads(path.read_text())
            model, _ = build(network, sparsity, data_dir)
            predict(model, cell["files"])
            write_cell(path, cell)


def write_cell(path, cell):
    documents.write_json(path, cell)
    print(path.name, flush=True)


def table(cell):
    """The files of a cell: sizes, against the limit, and latency."""
    lines = [
        "| mode | zeros | KiB | gzip KiB | graph KiB | over the limit "
        "| gzip over the limit | latency |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for file in cell["files"]:
        quantization = file["quantization"]
        stored = "left out" if file["sparse"] else "stored"
        start = f"| {quantization or 'float32'} | {stored} "
        if "refused" in file:
            lines.append(f"{start}| refused: {why(file['refused'])} ||||||")
            continue
        limit = cell["limits"][str(BITS[quantization])]
        over = (file["bytes"] - file["graph_bytes"]) / limit
        gzip_over = (file["gzip_bytes"] - file["graph_gzip_bytes"]) / limit
        lines.append(
            f"{start}| {file['bytes'] / 1024:,.1f} "
            f"| {file['gzip_bytes'] / 1024:,.1f} "
            f"| {file['graph_bytes'] / 1024:,.1f} "
            f"| {over:.2f} | {gzip_over:.2f} | {file['latency']:.2f} |"
        )
    return "\n".join(lines)


def conditions(cell):
    """What is known of the machine while a cell's latencies were taken."""
    if "load" not in cell:
        return "Latencies taken beside other work, whose load was not recorded."
    before, after = cell["load"]
    return (
        f"Latencies taken on {cell['cores']} cores at a load average of "
        f"{before:.1f} before and {after:.1f} after all files."
    )


def why(reason):
    """A refusal in the words that a table has room for."""
    told = reason.removeprefix("No file was written. ").split(": ", 1)[-1]
    first = told.split(". ")[0].replace("|", "/").replace("\n", " ")
    return first if len(first) <= 90 else f"{first[:90]} ..."


def predictions(cells):
    """How far predicted sizes are from those of the files."""
    lines = [
        "| network | zeros | mode | stored | bytes | gzip bytes |",
        "|---|---|---|---|---|---|",
    ]
    for cell in cells:
        for file in cell["files"]:
            if "predicted_bytes" not in file:
                continue
            errors = (
                f"{file[f'predicted_{key}'] / file[key] - 1:+.1%}"
                for key in ("bytes", "gzip_bytes")
            )
            lines.append(
                f"| {cell['network']} | {cell['sparsity']:.0%} "
                f"| {file['quantization'] or 'float32'} "
                f"| {'sparse' if file['sparse'] else 'plain'} "
                f"| {' | '.join(errors)} |"
            )
    return "\n".join(lines)


def write(document=DOCUMENT, path=None):
    paths = [path_of(*cell) for cell in plan()]
    cells = [json.loads(p.read_text()) for p in paths if p.exists()]
    bodies = {
        f"{cell['network']} {cell['sparsity']}": (
            f"{table(cell)}\n\n{conditions(cell)}"
        )
        for cell in cells
    }
    bodies["predictions"] = predictions(cells)
    documents.write_tables(document, bodies, path)
    bodies = {"modes": modes(json.loads(MODES.read_text()))}
    documents.write_tables(README, bodies)


def modes(result):
    """What `examples/export_lenet5.py` wrote: accuracy and size of a file."""
    rows = [
        [
            name,
            f"{100 * file['accuracy']:.2f}",
            f"{file['bytes']:,}",
            f"{file['gzip_bytes']:,}",
            "yes" if file["sparse"] else "no",
        ]
        for name, file in result.items()
        if name != "keras"
    ]
    whole = f"In Keras: {100 * result['keras']['accuracy']:.2f}."
    head = ["quantization", "accuracy", "bytes", "gzip", "zeros left out"]
    return f"{documents.markdown(head, rows)}\n\n{whole}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="where tfds keeps its data sets")
    parser.add_argument("--network", choices=[*NETWORKS, "mnist"])
    parser.add_argument(
        "--tables",
        nargs="?",
        type=pathlib.Path,
        const=DOCUMENT,
        metavar="FILE",
        help="only write the tables of this document",
    )
    parser.add_argument(
        "--predict",
        action="store_true",
        help="predict the sizes again before the tables are written",
    )
    documents.add_json(parser)
    args = parser.parse_args()
    if args.predict:
        predict_again(args.data_dir, args.network)
    elif args.tables is None:
        make_missing(args.data_dir, args.network)
    write(args.tables or DOCUMENT, args.json)


if __name__ == "__main__":
    main()
