"""Which ramp and strength suit ResNet-20? Searched on small CIFAR-10 images.

python benchmarks/ramps.py --data-dir DIR

Trains what is missing in benchmarks/cells/ramps, and writes the table of
docs/schedules.md. It is the training of benchmarks/cifar10.py on images of half
the width and height, which take a quarter of the time. 5,000 of the training
images are held out and evaluated on, and the seed is one that is not in that
benchmark's table: neither its images nor its seeds are chosen on. `--trials`
takes some, so that two processes can share the work.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cifar10
import keras
import networks
import tensorflow as tf
from cifar10 import WEIGHT_DECAY
from documents import add_json, markdown, write_tables

import keras_swd

ROOT = pathlib.Path(__file__).parents[1]
CELLS = ROOT / "benchmarks" / "cells" / "ramps"
DOCUMENT = ROOT / "docs" / "schedules.md"
SEED = 2
SPLITS = {"train": "train[:45000]", "test": "train[45000:]"}


def build_model():
    """The network for small images."""
    decay = keras.regularizers.L2(WEIGHT_DECAY / 2)
    return networks.resnet20(decay, side=16)


class SmallTask(cifar10.Task):
    """The same training on the means of two by two pixels."""

    def load(self, split):
        images, labels = super().load(SPLITS[split])
        return tf.nn.avg_pool2d(images, 2, 2, "VALID").numpy(), labels


def swd(
    build_model,
    fit,
    sparsity,
    allocation="GlobalRanking",
    weight_decay=WEIGHT_DECAY,
    strength=(100.0, 1000.0, 0.8),
    ramp=(0.01, 0.1, 0.6),
    remove_at=1.0,
):
    """Selective Weight Decay, by default with the settings of MNIST's ramp.

    `strength` is the first, the last, and where its growth ends; `ramp` the
    first part of the target, where its growth begins, and where it ends.
    """
    regularizer = keras_swd.SelectiveWeightDecay(weight_decay)
    model = keras_swd.with_regularizer(build_model(), regularizer)
    first, last, finish = strength
    if ramp:
        part, begin, end = ramp
        ramp = keras_swd.Polynomial(part, 1.0, begin=begin, finish=end)
    pruning = keras_swd.PruningScheduler(
        sparsity,
        schedule=keras_swd.Exponential(first, last, finish=finish),
        allocation=getattr(keras_swd, allocation)(),
        ramp=ramp,
        remove_at=remove_at,
    )
    return fit(model, [pruning])


TRIALS = {
    "one-shot, tuned": cifar10.METHODS["one-shot, tuned"],
    "gradual": keras_swd.MagnitudePruning(WEIGHT_DECAY),
    "tfmot": cifar10.METHODS["tfmot"],
    "SWD": keras_swd.SelectiveWeightDecay(WEIGHT_DECAY),
    "SWD, ramp": swd,
    "stronger": functools.partial(swd, strength=(1e3, 1e3, 1.0)),
    "weaker": functools.partial(swd, strength=(10.0, 1e3, 0.8)),
    "later": functools.partial(swd, ramp=(0.01, 0.2, 0.7)),
    "latest": functools.partial(swd, ramp=(0.01, 0.4, 0.8)),
    "later, LAMP": functools.partial(
        swd, allocation="LAMP", ramp=(0.01, 0.2, 0.7)
    ),
    "later, weaker": functools.partial(
        swd, strength=(1.0, 1e3, 0.9), ramp=(0.01, 0.2, 0.7)
    ),
    "later, stronger": functools.partial(
        swd, strength=(1e4, 1e4, 1.0), ramp=(0.01, 0.2, 0.7)
    ),
    "later, stronger, from 0": functools.partial(
        swd, strength=(1e4, 1e4, 1.0), ramp=(0.0, 0.2, 0.7)
    ),
    "earlier": functools.partial(swd, ramp=(0.01, 0.0, 0.4)),
    "whole": functools.partial(swd, ramp=None, strength=(0.1, 5e3, 0.8)),
    "decay": functools.partial(swd, weight_decay=2 * WEIGHT_DECAY),
    "LAMP": functools.partial(swd, allocation="LAMP"),
    "removed": functools.partial(swd, remove_at=0.7),
}


def run(args):
    """Trains the missing trials."""
    settings = cifar10.SETTINGS | {"pixels": 16}
    for trial, sparsity in itertools.product(args.trials, args.sparsities):
        name = f"{trial}-{sparsity:g}-{SEED}"
        task = SmallTask(args.data_dir, CELLS / "unfinished" / name, None)
        keras_swd.compare(
            build_model,
            task.fit,
            {trial: TRIALS[trial]},
            [sparsity],
            seeds=[SEED],
            folder=CELLS,
            settings=settings,
        )


def table():
    """Held-out accuracy in percent of each trial, by sparsity."""
    found = {}
    for path in CELLS.glob("*.json"):
        cell = json.loads(path.read_text())
        accuracy = 100 * cell["numbers"]["accuracy"]
        found[cell["method"], cell["sparsity"]] = f"{accuracy:.2f}"
    columns = sorted({sparsity for _, sparsity in found})
    head = ["trial", *(f"{100 * s:g} %" for s in columns)]
    trials = [t for t in TRIALS if any((t, s) in found for s in columns)]
    rows = [[t, *(found.get((t, s), "") for s in columns)] for t in trials]
    return markdown(head, rows)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="where tfds keeps its data sets")
    parser.add_argument(
        "--trials", nargs="+", choices=TRIALS, default=list(TRIALS)
    )
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.95])
    parser.add_argument("--tables", action="store_true")
    add_json(parser)
    args = parser.parse_args()
    if not args.tables:
        run(args)
    write(args.json)


def write(path=None):
    """Writes the table of the document from the cells."""
    write_tables(DOCUMENT, {"ramps": table()}, path)


if __name__ == "__main__":
    main()
