"""What pruning costs on a graph, how large the files get, and the tables.

python benchmarks/graphs.py time --data-dir DIR
python benchmarks/graphs.py files --data-dir DIR
python benchmarks/graphs.py tables

The first trains Kipf's network on Cora for 200 epochs, dense and pruned in
turn; the second writes its TensorFlow Lite files. Both keep what they find
under benchmarks/cells/graphs, where examples/gcn_cora.py keeps its runs. The
third writes the tables of docs/graphs.md from there.
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
import numpy as np
from documents import add_json, markdown, write_json, write_tables

ROOT = pathlib.Path(__file__).parents[1]
CELLS = ROOT / "benchmarks" / "cells" / "graphs"
DOCUMENT = ROOT / "docs" / "graphs.md"
EPOCHS, ROUNDS = 200, 5
SPARSITIES = (0.9, 0.98)
MODES = (None, "float16", "dynamic", "int8", "int16x8")
SHARES = ("0.5", "0.75", "0.9", "0.95", "0.98", "0.99")
METHODS = ("SWD", "magnitude, fine-tuned", "magnitude")


class Cora:
    """The graph, as training and export take it."""

    def __init__(self, folder):
        import tensorflow as tf
        from spektral.utils.sparse import sp_matrix_to_sp_tensor

        from keras_swd import graphs
        from keras_swd.graphs.layers import GCNConv

        data = graphs.load_cora(folder)
        self.x, self.y = data[0].x, data[0].y
        self.a = GCNConv.preprocess(data[0].a).tocoo()
        self.test = data.mask_te
        self.batch = tf.data.Dataset.from_tensors(
            ((self.x, sp_matrix_to_sp_tensor(self.a)), self.y, data.mask_tr)
        )

    def train(self, sparsity=None):
        """Trains a network; with `sparsity`, pruned. Returns it."""
        import keras_swd

        keras.utils.set_random_seed(0)
        swd = keras_swd.SelectiveWeightDecay(2e-4)
        plain = keras.regularizers.L2(1e-4)
        model = keras_swd.graphs.gcn(
            self.x.shape[1],
            self.y.shape[1],
            kernel_regularizer=plain if sparsity is None else swd,
        )
        rate = keras.optimizers.schedules.CosineDecay(
            0.05,
            EPOCHS // 10,
            warmup_target=0.05,
            warmup_steps=EPOCHS * 9 // 10,
        )
        loss = keras.losses.CategoricalCrossentropy(
            reduction="mean_with_sample_weight"
        )
        model.compile(keras.optimizers.Adam(rate), loss)
        growing = keras_swd.Exponential(0.1, 5e3, finish=0.6)
        scheduler = keras_swd.PruningScheduler(sparsity, growing)
        model.fit(
            self.batch,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=[] if sparsity is None else [scheduler],
        )
        return model

    def accuracy(self, output):
        """Of the test nodes."""
        right = output.argmax(axis=1) == self.y.argmax(axis=1)
        return float(right[self.test].mean())


def measure_time(cora):
    """Seconds of dense and pruned training, in turn, and their ratio."""
    seconds = {"dense": [], "pruned": []}
    for _ in range(ROUNDS):
        for name, sparsity in (("dense", None), ("pruned", 0.95)):
            start = time.perf_counter()
            cora.train(sparsity)
            seconds[name].append(time.perf_counter() - start)
            print(name, round(seconds[name][-1], 2), flush=True)
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    return {
        "epochs": EPOCHS,
        "rounds": ROUNDS,
        "seconds": medians,
        "ratio": medians["pruned"] / medians["dense"],
    }


def measure_files(cora):
    """Bytes and accuracy of each kind of file."""
    from keras_swd import graphs, strip

    rows = []
    for sparsity in SPARSITIES:
        model = strip(cora.train(sparsity))
        forms = {
            "features": (graphs.bake(model, cora.a), cora.x),
            "features and edges": (
                graphs.with_edges(model, len(cora.x), cora.a.nnz),
                [
                    np.asarray(part)[None]
                    for part in (cora.x, cora.a.row, cora.a.col, cora.a.data)
                ],
            ),
        }
        keras_accuracy = cora.accuracy(model.predict(cora.batch, verbose=0))
        for inputs, (form, sample) in forms.items():
            for mode in MODES:
                row = {
                    "sparsity": sparsity,
                    "inputs": inputs,
                    "quantization": mode,
                    "keras_accuracy": keras_accuracy,
                }
                rows.append(row | write_file(cora, form, sample, mode))
                print(rows[-1], flush=True)
    return {"files": rows}


def write_file(cora, model, sample, mode):
    """Writes one file, runs it, and returns what it is."""
    from ai_edge_litert.interpreter import Interpreter

    from keras_swd import export

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "gcn.tflite")
        try:
            report = export.to_tflite(
                model,
                path,
                quantization=mode,
                representative_data=sample,
                check_with=sample,
            )
        except export.ExportError as error:
            return {"refused": str(error)}
        runner = Interpreter(str(path)).get_signature_runner()
        given = sample if isinstance(sample, list) else [sample]
        (output,) = runner(
            **dict(zip(report.inputs, given, strict=True))
        ).values()
    return {
        "bytes": report.bytes,
        "gzip_bytes": report.gzip_bytes,
        "sparse": report.sparse,
        "accuracy": cora.accuracy(output.reshape(len(cora.x), -1)),
    }


def accuracy_table(found):
    """Mean and standard deviation by sparsity and method."""
    runs = found["runs"]

    def cell(key):
        accuracy, _ = np.array(runs[key]).T
        return f"{accuracy.mean():.2%} ± {accuracy.std(ddof=1):.2%}"

    sparsities = [s for s in SHARES if all(f"{m} {s}" in runs for m in METHODS)]
    rows = []
    for s in sparsities:
        nonzeros = np.mean([n for _, n in runs[f"SWD {s}"]])
        cells = [cell(f"{method} {s}") for method in METHODS]
        rows.append([f"{float(s):.0%}", f"{nonzeros:,.0f}", *cells])
    dense = f"Dense: {cell('dense 0.0')}, {len(runs['dense 0.0'])} seeds."
    return f"{dense}\n\n" + markdown(["removed", "non-zeros", *METHODS], rows)


def files_table(found):
    """Bytes by mode, of both forms at both sparsities."""
    files = found["files"]
    columns = [
        (s, i) for s in SPARSITIES for i in ("features", "features and edges")
    ]
    rows = []
    for mode in MODES:
        row = [mode or "float32"]
        for sparsity, inputs in columns:
            file = next(
                f
                for f in files
                if (f["sparsity"], f["inputs"], f["quantization"])
                == (sparsity, inputs, mode)
            )
            row.append(
                "refused"
                if "refused" in file
                else f"{file['bytes']:,} ({file['gzip_bytes']:,} gzip), "
                f"{'sparse' if file['sparse'] else 'dense'}, "
                f"{file['accuracy']:.1%}"
            )
        rows.append(row)
    head = [f"{s:.0%}, {inputs}" for s, inputs in columns]
    return markdown(["", *head], rows)


def write(json_path=None):
    """Writes the tables of the document from what was kept."""
    tables = {
        "cora": ("accuracy", accuracy_table),
        "cora-fresh": ("accuracy fresh", accuracy_table),
        "cora-0.1": ("accuracy 0.1", accuracy_table),
        "cora-GlobalRanking": ("accuracy GlobalRanking", accuracy_table),
        "cora-Uniform": ("accuracy Uniform", accuracy_table),
        "cora-words": ("words", accuracy_table),
        "files": ("files", files_table),
        "time": ("time", time_told),
    }
    bodies = {}
    for name, (mark, table) in tables.items():
        path = CELLS / f"{name}.json"
        if path.exists():
            bodies[mark] = table(json.loads(path.read_text()))
    write_tables(DOCUMENT, bodies, json_path)


def time_told(found):
    """How long training took, as a sentence."""
    seconds = found["seconds"]
    return (
        f"{found['epochs']} epochs took {seconds['pruned']:.1f} s pruned and "
        f"{seconds['dense']:.1f} s dense, {found['ratio']:.2f} times as long "
        f"(medians of {found['rounds']} runs in turn, "
        "`python benchmarks/graphs.py time --data-dir DIR`)."
    )


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["time", "files", "tables"])
    parser.add_argument("--data-dir", help="the folder of Cora's files")
    add_json(parser)
    args = parser.parse_args()
    if args.what == "tables":
        write(args.json)
        return
    measure = {"time": measure_time, "files": measure_files}[args.what]
    found = measure(Cora(args.data_dir))
    write_json(CELLS / f"{args.what}.json", found)
    write(args.json)


if __name__ == "__main__":
    main()
