"""Which schedule leaves selected weights at zero when the run ends?

python benchmarks/schedules.py --data-dir ~/tensorflow_datasets

Trains the cells that are missing in benchmarks/cells, each a small JSON file,
and writes the tables of README.md and docs/schedules.md from all of them.
`--tables` only writes the tables. `--part 0/2` and `--part 1/2` share the work
of two processes.
"""

import argparse
import itertools
import json
import math
import os
import pathlib
import statistics
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import documents
import keras
import networks
import numpy as np

import keras_swd

CELLS = pathlib.Path(__file__).parent / "cells"
ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "schedules.md")
DEFAULT = {
    "data": "mnist",
    "sparsity": 0.99,
    "optimizer": "momentum",
    "rate": 0.1,
    "rates": "hold",
    "end": 5e3,
    "finish": 0.8,
    "allocation": "LAMP",
    "seed": 0,
}
WEIGHT_DECAY = 1e-3  # the default; a cell names another one
RATES = {
    "sgd": 0.3,
    "momentum": 0.1,
    "adam": 0.005,
    "adamw": 0.005,
    "adamw 0.004": 0.005,
}
#: Network, epochs and batch for each data set.
SETTINGS = {
    "mnist": (networks.lenet5, 10, 128),
    "digits": (networks.digits_cnn, 40, 64),
}


def cell(**changes):
    return DEFAULT | changes


def plan():
    """The tables: their name, row and column keys, and cells."""
    seeds = range(3)
    results = [
        cell(sparsity=s, optimizer=o, rate=r, seed=seed)
        for (o, r, s), seed in itertools.product(
            [
                ("momentum", 0.1, 0.9),
                ("momentum", 0.1, 0.98),
                ("momentum", 0.1, 0.99),
                ("adam", 0.005, 0.98),
                ("adam", 0.005, 0.99),
            ],
            seeds,
        )
    ]
    allocations = [
        cell(allocation=a, rate=r, seed=seed)
        for a, r, seed in itertools.product(
            ("LAMP", "GlobalRanking"), (0.05, 0.1), seeds
        )
    ]
    growth = [
        *(cell(finish=f) for f in (0.6, 1.0)),
        *(cell(end=e) for e in (5e2, 5e4)),
        *(cell(rates=r) for r in ("constant", "cosine", "step")),
        *(cell(rates=r, finish=1.0) for r in ("constant", "cosine", "step")),
        cell(),
    ]
    digits = [
        cell(data="digits", sparsity=0.9, optimizer=o, rate=RATES[o],
             rates=r, end=e, finish=f)
        for o, r, e, f in itertools.product(
            RATES, ("constant", "step", "hold"), (5e2, 5e3, 5e4), (0.8, 1.0),
        )
    ]  # fmt: skip
    decay = [
        *(cell(sparsity=0.98, seed=seed) for seed in seeds),
        *(cell(sparsity=0.98, end=1e4, seed=seed, weight_decay=5e-4)
          for seed in seeds),
    ]  # fmt: skip
    return {
        "results": (["optimizer", "rate", "sparsity"], results),
        "digits": (["optimizer", "rates", "finish", "end"], digits),
        "decay": (["weight_decay", "end"], decay),
        "allocations": (["allocation", "rate"], allocations),
        "growth": (["rates", "finish", "end"], growth),
    }


def path_of(options):
    name = "-".join(str(value) for value in options.values())
    return CELLS / f"{name}.json"


def load(data, data_dir):
    if data == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(0).permutation(len(digits.target))
        x = digits.images[order, :, :, None] / 16.0
        y = digits.target[order]
        test = len(y) // 4
        return (x[test:], y[test:]), (x[:test], y[:test])
    import tensorflow_datasets as tfds

    def split(name):
        loaded = tfds.load(data, split=name, data_dir=data_dir, batch_size=-1)
        x, y = tfds.as_numpy((loaded["image"], loaded["label"]))
        return (x / 255.0 - 0.1307) / 0.3081, y

    return split("train"), split("test")


def learning_rate(kind, rate, steps):
    schedules = keras.optimizers.schedules
    if kind == "constant":
        return rate
    if kind == "step":
        return schedules.PiecewiseConstantDecay(
            [steps // 3, 2 * steps // 3], [rate, rate / 10, rate / 100]
        )
    hold = int(0.7 * steps) if kind == "hold" else 0
    return schedules.CosineDecay(
        rate, steps - hold, warmup_target=rate, warmup_steps=hold
    )


def make_optimizer(name, rate):
    if name == "adam":
        return keras.optimizers.Adam(rate)
    if name == "adamw":
        # The regularizer decays already.
        return keras.optimizers.AdamW(rate, weight_decay=0.0)
    if name == "adamw 0.004":  # Keras' default: it decays twice
        return keras.optimizers.AdamW(rate)
    momentum = 0.9 if name == "momentum" else 0.0
    return keras.optimizers.SGD(rate, momentum=momentum)


def run(options, train, test):
    build, epochs, batch = SETTINGS[options["data"]]
    keras.backend.clear_session()
    keras.utils.set_random_seed(options["seed"])
    steps = epochs * math.ceil(len(train[1]) / batch)
    rate = learning_rate(options["rates"], options["rate"], steps)
    decay = options.get("weight_decay", WEIGHT_DECAY)
    model = build(keras_swd.SelectiveWeightDecay(decay))
    model.compile(
        make_optimizer(options["optimizer"], rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    scheduler = keras_swd.PruningScheduler(
        options["sparsity"],
        keras_swd.Exponential(0.1, options["end"], finish=options["finish"]),
        getattr(keras_swd, options["allocation"])(),
    )
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            history = model.fit(
                *train,
                batch_size=batch,
                epochs=epochs,
                verbose=0,
                validation_data=test,
                callbacks=[scheduler],
            ).history
        except ValueError as error:  # diverged: NaN is not removed
            return options | {"diverged": str(error)}
    return options | {
        "before": history["val_accuracy"][-1],
        "after": model.evaluate(*test, batch_size=1000, verbose=0)[1],
        "residual": history["swd_residual"][-1],
        "kept": [int(np.count_nonzero(w)) for w in model.get_weights()[::2]],
        "warnings": [str(w.message) for w in caught],
        "seconds": round(time.monotonic() - start),
    }


def train_missing(data_dir, part, parts):
    CELLS.mkdir(exist_ok=True)
    loaded = {}
    cells = {
        path_of(options): options
        for _, options_list in plan().values()
        for options in options_list
    }
    for i, (path, options) in enumerate(cells.items()):
        if path.exists() or i % parts != part:
            continue
        data = options["data"]
        loaded.setdefault(data, load(data, data_dir))
        result = run(options, *loaded[data])
        documents.write_json(path, result)
        print(path.name, result.get("after", "diverged"), flush=True)


def table(keys, cells):
    rows = {}
    for options in cells:
        key = tuple(options.get(k, WEIGHT_DECAY) for k in keys)
        if path_of(options).exists():
            result = json.loads(path_of(options).read_text())
            rows.setdefault(key, []).append(result)
    lines = [
        f"| {' | '.join(keys)} | seeds | before | after | lost | warned |",
        f"|{'---|' * (len(keys) + 5)}",
    ]
    for key, results in rows.items():
        good = [r for r in results if "after" in r]
        shown = " | ".join(f"{k:g}" if k != str(k) else k for k in key)
        if not good:
            lines.append(f"| {shown} | {len(results)} | diverged | | | |")
            continue
        before, after = (
            100 * statistics.mean(r[k] for r in good)
            for k in ("before", "after")
        )
        warned = sum(bool(r["warnings"]) for r in good)
        lines.append(
            f"| {shown} | {len(good)} | {before:.2f} | {after:.2f} "
            f"| {before - after:.2f} | {warned} |"
        )
    return "\n".join(lines)


def write(path=None):
    bodies = {name: table(*grid) for name, grid in plan().items()}
    for document in DOCUMENTS:
        documents.write_tables(document, bodies, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="where tfds keeps its data sets")
    parser.add_argument("--part", default="0/1", help="which share, e.g. 0/2")
    parser.add_argument("--tables", action="store_true")
    documents.add_json(parser)
    args = parser.parse_args()
    if not args.tables:
        train_missing(args.data_dir, *map(int, args.part.split("/")))
    write(args.json)


if __name__ == "__main__":
    main()
