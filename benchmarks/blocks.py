"""Are zeros in blocks worth it? Time of a Dense layer stored sparse over dense.

python benchmarks/blocks.py --json benchmarks/blocks.json

Each layer is written twice by `keras_swd.export.to_tflite`, sparse and dense,
and both files run in turns in LiteRT, one sample at a time on one thread. A
ratio compares two turns of one round; the table shows the median of all rounds
and the range of the middle half. `--tables` only writes the table of
docs/faster.md from the JSON file.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from documents import write_json, write_tables

from keras_swd import Block, Unstructured
from keras_swd.export import to_tflite

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "faster.md"
RESULT = ROOT / "benchmarks" / "blocks.json"
#: Inputs and units of the layers.
SHAPES = ((256, 256), (512, 512), (1024, 1024), (2048, 512))
#: Granularity and share of zeros.
ZEROS = (
    (Block((4, 1)), 0.7),
    (Block((4, 1)), 0.8),
    (Block((4, 1)), 0.9),
    (Block((4, 1)), 0.95),
    (Unstructured(), 0.9),
)
TURN = 0.005  # seconds


def pruned_dense(inputs, units, granularity, zeros):
    """A Dense layer whose lowest units, of a random kernel, are zero."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((inputs,)), keras.layers.Dense(units)]
    )
    kernel = model.layers[0].kernel
    scores = granularity.unit_scores(keras.ops.abs(kernel))
    order = np.argsort(keras.ops.convert_to_numpy(scores))
    kept = np.ones(len(order), "float32")
    kept[order[: round(zeros * len(order))]] = 0.0
    kernel.assign(kernel * granularity.expand(kept, kernel.shape))
    return model


def runner(path):
    """A function that runs a file so often, and returns seconds per run."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    shape = interpreter.get_input_details()[0]["shape"]
    sample = np.random.default_rng(0).standard_normal(shape, "float32")
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample)

    def run(times):
        # One thread computes; what other programs take is not counted.
        start = time.thread_time()
        for _ in range(times):
            interpreter.invoke()
        return (time.thread_time() - start) / times

    return run


def measure(shape, granularity, zeros, rounds):
    model = pruned_dense(*shape, granularity, zeros)
    with tempfile.TemporaryDirectory() as folder:
        runs, sizes = {}, {}
        for sparse in (False, True):
            path = pathlib.Path(folder, f"{sparse}.tflite")
            sizes[sparse] = to_tflite(model, path, sparse=sparse).bytes
            runs[sparse] = runner(path)
        times = {s: max(1, round(TURN / run(20))) for s, run in runs.items()}
        seen = [
            {sparse: run(times[sparse]) for sparse, run in runs.items()}
            for _ in range(rounds)
        ]
    ratios = [s[True] / s[False] for s in seen]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "inputs": shape[0],
        "units": shape[1],
        "granularity": repr(granularity),
        "zeros": zeros,
        "dense_us": 1e6 * statistics.median(s[False] for s in seen),
        "sparse_over_dense": statistics.median(ratios),
        "middle_half": [low, high],
        "bytes_over_dense": sizes[True] / sizes[False],
        "rounds": rounds,
    }


def table(result):
    shapes = [f"{i}×{u}" for i, u in SHAPES]
    lines = [
        f"| granularity | zeros | {' | '.join(shapes)} | bytes |",
        f"|{'---|' * (len(shapes) + 3)}",
    ]
    for granularity, zeros in ZEROS:
        row = [
            r
            for r in result["layers"]
            if (r["granularity"], r["zeros"]) == (repr(granularity), zeros)
        ]
        ratios = " | ".join(f"{r['sparse_over_dense']:.2f}" for r in row)
        size = statistics.median(r["bytes_over_dense"] for r in row)
        name = repr(granularity).replace("shape=", "")
        lines.append(f"| `{name}` | {zeros:.0%} | {ratios} | {size:.2f} |")
    lines.append("")
    lines.append(
        f"{result['machine']}, LiteRT {result['litert']}, one thread, one "
        "sample; sparse over dense, so below 1 is faster and smaller."
    )
    return "\n".join(lines)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if args.tables:
        write()
        return
    import ai_edge_litert

    result = {
        "machine": processor(),
        "litert": ai_edge_litert.__version__,
        "layers": [
            measure(shape, granularity, zeros, args.rounds)
            for granularity, zeros in ZEROS
            for shape in SHAPES
        ],
    }
    print(table(result))
    if args.json:
        write_json(args.json, result)


def write():
    """Writes the table of the document from what was kept."""
    result = json.loads(RESULT.read_text())
    write_tables(DOCUMENT, {"blocks": table(result)})


if __name__ == "__main__":
    main()
