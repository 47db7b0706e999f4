"""Size of files for TFLite Micro with pruned weights packed, over plain ones.

python benchmarks/micro.py

The networks are not trained: sizes depend on how many weights are zero, not
on which. The table of docs/microcontrollers.md is written from
benchmarks/micro.json; `--tables` measures nothing and only writes it.
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
from documents import write_json, write_tables

from keras_swd.export.micro import writing as micro
from keras_swd.export.micro.interpreter import MicroFile

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "microcontrollers.md"
RESULT = ROOT / "benchmarks" / "micro.json"
NETWORKS = {
    "LeNet-300-100": networks.lenet_300_100,
    "LeNet-5": networks.lenet5,
}
QUANTIZATIONS = (None, "int8")
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
SAMPLES = 16
ROUNDS = 25


def pruned(build, sparsity):
    """A network whose smallest weights in each kernel are zero."""
    keras.utils.set_random_seed(0)
    model = build()
    for kernel in (w for w in model.weights if len(w.shape) >= 2):
        values = keras.ops.convert_to_numpy(kernel).copy()
        order = np.argsort(np.abs(values), axis=None)
        values.flat[order[: round(sparsity * values.size)]] = 0
        kernel.assign(values)
    return model


def export(name, quantization, sparsity, samples):
    """The report of a packed network, and its file in TFLite Micro."""
    model = pruned(NETWORKS[name], sparsity)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        report = micro.to_tflite_micro(
            model, path, quantization, samples, samples
        )
        return report, MicroFile(path.read_bytes())


def seconds(file, samples):
    start = time.perf_counter()
    file.run({"input_0": samples}, ["output_0"])
    return time.perf_counter() - start


def measure(name, quantization):
    """One row for each sparsity; times are ratios within one round."""
    shape = NETWORKS[name]().inputs[0].shape[1:]
    samples = np.random.default_rng(0).random((SAMPLES, *shape), "float32")
    _, plain = export(name, quantization, 0.0, samples)
    for sparsity in SPARSITIES:
        report, packed = export(name, quantization, sparsity, samples)
        ratios = [
            seconds(packed, samples) / seconds(plain, samples)
            for _ in range(ROUNDS)
        ]
        yield {
            "network": name,
            "sparsity": sparsity,
            "time_ratio": statistics.median(ratios),
            **report.to_dict(),
            "path": None,
        }


def table(results):
    lines = [
        "| network | type | zeros | plain KiB | packed KiB | packed / plain "
        "| plain memory KiB | packed memory KiB | time |",
        f"|{'---|' * 9}",
    ]
    lines += [
        f"| {r['network']} | {r['quantization'] or 'float32'} "
        f"| {r['sparsity']:.0%} | {r['plain_bytes'] / 1024:.1f} "
        f"| {r['bytes'] / 1024:.1f} | {r['ratio']:.2f} "
        f"| {r['plain_arena_bytes'] / 1024:.1f} "
        f"| {r['arena_bytes'] / 1024:.1f} | {r['time_ratio']:.1f} |"
        for r in results
    ]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", metavar="FILE", default=RESULT)
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if args.tables:
        write()
        return
    results = [
        row
        for name in NETWORKS
        for quantization in QUANTIZATIONS
        for row in measure(name, quantization)
    ]
    write_json(args.json, results)
    print(table(results))
    write()


def write():
    """Writes the table of the document from what was kept."""
    results = json.loads(RESULT.read_text())
    write_tables(DOCUMENT, {"sizes": table(results)})


if __name__ == "__main__":
    main()
