"""How accurate is ResNet-20 on CIFAR-10 when single weights are removed?

python benchmarks/cifar10.py --data-dir DIR --seed 0

Trains the cells that are missing in benchmarks/cells/cifar10, each a method at
a sparsity with a seed, for equal epochs in all, and writes the table of
docs/compare.md from all that are there; a cell that was killed goes on from its
last whole epoch. `--methods` and `--sparsities` take some of them, so that two
processes can share the work. `--cells FOLDER` begins anew elsewhere, and writes
no table; `--models FOLDER` keeps the networks; `--tables` trains nothing. An
epoch takes two to five minutes on two cores.
"""

import argparse
import functools
import json
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import networks
import numpy as np
import tensorflow as tf
from documents import add_json, markdown, write_tables

import keras_swd

ROOT = pathlib.Path(__file__).parents[1]
CELLS = ROOT / "benchmarks" / "cells" / "cifar10"
DOCUMENT = ROOT / "docs" / "compare.md"
SPARSITIES = (0.9, 0.95, 0.98)
BATCH, EPOCHS, RATE, WEIGHT_DECAY = 128, 10, 0.1, 5e-4
STEPS = math.ceil(50_000 / BATCH)  # of an epoch
TUNED_AT, TFMOT = 0.5, (0.2, 0.7)  # shares of the run: one removal; a ramp
SETTINGS = {
    "data": "cifar10",
    "network": "resnet20",
    "epochs": EPOCHS,
    "batch": BATCH,
    "rate": RATE,
    "weight_decay": WEIGHT_DECAY,
    "tuned_at": TUNED_AT,
    "tfmot": TFMOT,
}


def build_model():
    """The network, with ordinary weight decay, which methods replace."""
    return networks.resnet20(keras.regularizers.L2(WEIGHT_DECAY / 2))


def ramp(build_model, fit, sparsity, begin=0.1, finish=0.6):
    """One ranking, of which a growing part is decayed hard, as on LeNet-5."""
    swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(build_model(), swd)
    pruning = keras_swd.PruningScheduler(
        sparsity,
        schedule=keras_swd.Exponential(100.0, 1000.0, finish=0.8),
        allocation=keras_swd.GlobalRanking(),
        ramp=keras_swd.Polynomial(0.01, 1.0, begin=begin, finish=finish),
    )
    return fit(model, [pruning])


def strong_ramp(build_model, fit, sparsity):
    """The later ramp, with decay that leaves selected weights no noise."""
    swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(build_model(), swd)
    pruning = keras_swd.PruningScheduler(
        sparsity,
        schedule=keras_swd.Constant(1e4),
        allocation=keras_swd.GlobalRanking(),
        ramp=keras_swd.Polynomial(0.01, 1.0, begin=0.2, finish=0.7),
    )
    return fit(model, [pruning])


def from_nothing(build_model, fit, sparsity):
    """The strong ramp as it is recommended: it begins with nothing."""
    swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(build_model(), swd)
    pruning = keras_swd.PruningScheduler(
        sparsity,
        schedule=keras_swd.Constant(0.5 / (RATE * WEIGHT_DECAY)),
        allocation=keras_swd.GlobalRanking(),
        ramp=keras_swd.Polynomial(0.0, 1.0, begin=0.2, finish=0.7),
    )
    return fit(model, [pruning])


def tfmot_polynomial(build_model, fit, sparsity):
    """What the TensorFlow Model Optimization toolkit has for this."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    tools = tfmot.sparsity.keras
    begin, end = (round(share * EPOCHS * STEPS) for share in TFMOT)
    end -= (end - begin) % 100  # it removes at every hundredth step
    schedule = tools.PolynomialDecay(0.0, sparsity, begin, end)
    model = keras_swd.export.to_tf_keras(build_model())
    model = tools.prune_low_magnitude(model, schedule)
    numbers = fit(model, [tools.UpdatePruningStep()], api=tf_keras)
    kernels = [
        w for w in tools.strip_pruning(model).get_weights() if w.ndim > 1
    ]
    left = sum(np.count_nonzero(w) for w in kernels)
    return numbers | {"sparsity": 1.0 - left / sum(w.size for w in kernels)}


METHODS = {
    "dense": None,
    "SWD": keras_swd.SelectiveWeightDecay(WEIGHT_DECAY),
    "SWD, ramp": ramp,
    "SWD, later ramp": functools.partial(ramp, begin=0.2, finish=0.7),
    "SWD, strong ramp": strong_ramp,
    "SWD, from nothing": from_nothing,
    "one-shot, tuned": keras_swd.MagnitudePruning(
        WEIGHT_DECAY, end=TUNED_AT, removals=1
    ),
    "tfmot": tfmot_polynomial,
}


class Task:
    """The images, and where a cell keeps what it is at.

    Args:
        data_dir: Folder of the data sets.
        work: Folder of the unfinished cell.
        kept: File for the network, or `None`.
    """

    def __init__(self, data_dir, work, kept):
        self.data_dir, self.work, self.kept = data_dir, work, kept

    def load(self, split):
        """Standardized images and their labels."""
        import tensorflow_datasets as tfds

        data = tfds.load(
            "cifar10", split=split, data_dir=self.data_dir, batch_size=-1
        )
        images, labels = tfds.as_numpy((data["image"], data["label"]))
        return ((images / 255.0 - 0.473) / 0.251).astype("float32"), labels

    def batches(self):
        """Shifted and flipped images, forever."""
        images, labels = map(tf.constant, self.load("train"))
        shape = images.shape[1:]
        shift = shape[0] // 8

        def augment(i):
            around = ((shift, shift), (shift, shift), (0, 0))
            padded = tf.pad(tf.gather(images, i), around)
            image = tf.image.random_crop(padded, shape)
            image = tf.image.random_flip_left_right(image)
            return image, tf.gather(labels, i)

        order = tf.data.Dataset.range(len(labels)).shuffle(len(labels))
        return order.map(augment).batch(BATCH).repeat()

    def fit(self, model, callbacks, api=keras):
        """Trains with a cosine, and evaluates."""
        rate = api.optimizers.schedules.CosineDecay(RATE, EPOCHS * STEPS)
        model.compile(
            api.optimizers.SGD(rate, momentum=0.9),
            api.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        backup = api.callbacks.BackupAndRestore(str(self.work))
        model.fit(
            self.batches(),
            steps_per_epoch=STEPS,
            epochs=EPOCHS,
            verbose=2,
            callbacks=[backup, *callbacks],
        )
        if self.kept and api is keras:
            keras_swd.strip(model).save(self.kept)
        images, labels = self.load("test")
        return {"accuracy": model.evaluate(images, labels, verbose=0)[1]}


def run(args):
    """Trains the missing cells of a seed."""
    folder = pathlib.Path(args.cells)
    if args.models:
        pathlib.Path(args.models).mkdir(parents=True, exist_ok=True)
    cells = [("dense", 0.0)] if "dense" in args.methods else []
    pruning = [method for method in args.methods if method != "dense"]
    cells += [(m, s) for s in args.sparsities for m in pruning]
    for method, sparsity in cells:
        name = f"{method}-{sparsity:g}-{args.seed}"
        kept = args.models and pathlib.Path(args.models, f"{name}.keras")
        task = Task(args.data_dir, folder / "unfinished" / name, kept)
        keras_swd.compare(
            build_model,
            task.fit,
            {method: METHODS[method]},
            [sparsity or SPARSITIES[0]],
            seeds=[args.seed],
            folder=folder,
            settings=SETTINGS,
        )


def table():
    """Mean and standard deviation in percent, by method and sparsity."""
    found = {}
    for path in sorted(CELLS.glob("*.json")):
        cell = json.loads(path.read_text())
        key = cell["method"], cell["sparsity"]
        found.setdefault(key, []).append(100 * cell["numbers"]["accuracy"])

    def told(key):
        runs = found.get(key, [])
        spread = f" ± {np.std(runs, ddof=1):.2f}" if len(runs) > 1 else ""
        return f"{np.mean(runs):.2f}{spread}" if runs else ""

    head = ["method", *(f"{100 * s:g} %" for s in SPARSITIES)]
    trained = {method for method, sparsity in found if sparsity}
    pruning = [method for method in METHODS if method in trained]
    rows = [[m, *(told((m, s)) for s in SPARSITIES)] for m in pruning]
    whole = told(("dense", 0.0))
    return f"{markdown(head, rows)}\n\nWithout pruning: {whole}."


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="where tfds keeps its data sets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=list(METHODS)
    )
    parser.add_argument(
        "--sparsities", type=float, nargs="+", default=SPARSITIES
    )
    parser.add_argument("--cells", default=CELLS, help="folder of the results")
    parser.add_argument("--models", help="folder to keep the networks in")
    parser.add_argument("--tables", action="store_true")
    add_json(parser)
    args = parser.parse_args()
    if not args.tables:
        run(args)
    if args.cells == CELLS:
        write(args.json)


def write(path=None):
    """Writes the table of the document from the cells."""
    write_tables(DOCUMENT, {"cifar10": table()}, path)


if __name__ == "__main__":
    main()
