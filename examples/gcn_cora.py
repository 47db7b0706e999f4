"""Prunes a graph convolutional network while it trains: accuracy by sparsity.

python examples/gcn_cora.py --dataset cora --seeds 10 --json gcn_cora.json

Runs that the file holds already are not repeated; the plot stands beside it.
"""

import argparse
import json
import os
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from spektral.utils.sparse import sp_matrix_to_sp_tensor

import keras_swd
from keras_swd import graphs
from keras_swd.graphs.layers import GCNConv

SPARSITIES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.99)
GROWING = keras_swd.Exponential(0.1, 5e3, finish=0.6)  # few steps: be early
UNTOUCHED = keras_swd.Constant(0.0)  # no selective decay
METHODS = {  # arguments of the scheduler
    "SWD": {"schedule": GROWING},
    "magnitude, fine-tuned": {"schedule": UNTOUCHED, "remove_at": 0.5},
    "magnitude": {"schedule": UNTOUCHED},
}
HOLD = 0.9  # share of the run after which the learning rate falls
WEIGHT_DECAY = 2e-4

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--dataset", default="cora", help="citeseer, pubmed")
parser.add_argument("--data-dir", help="where the data set's files are")
parser.add_argument("--seeds", type=int, default=10, help="how many")
parser.add_argument("--first", type=int, default=0, help="the first seed")
parser.add_argument(
    "--sparsities", type=float, nargs="+", default=list(SPARSITIES)
)
parser.add_argument("--epochs", type=int, default=200)
parser.add_argument("--rate", type=float, default=0.05)
parser.add_argument("--allocation", default="LAMP", help="GlobalRanking, ...")
parser.add_argument(
    "--methods", nargs="+", choices=METHODS, default=list(METHODS)
)
parser.add_argument("--words", action="store_true", help="prune whole inputs")
parser.add_argument(
    "--out", metavar="FILE", help="save the last model that is trained"
)
parser.add_argument("--json", metavar="FILE", default="gcn_cora.json")
args = parser.parse_args()

data = graphs.load_planetoid(args.dataset, args.data_dir)
graph = data[0]
adjacency = sp_matrix_to_sp_tensor(GCNConv.preprocess(graph.a))
batch = tf.data.Dataset.from_tensors(  # the whole graph, its training nodes
    ((graph.x, adjacency), graph.y, data.mask_tr)
)


def fit(model, rate, callbacks):
    """Trains a step per epoch."""
    loss = keras.losses.CategoricalCrossentropy(
        reduction="mean_with_sample_weight"
    )
    model.compile(keras.optimizers.Adam(rate), loss)
    model.fit(
        batch,
        epochs=args.epochs,
        shuffle=False,
        callbacks=callbacks,
        verbose=0,
    )


def train(method, sparsity, seed):
    """Trains one network; its accuracy on the test nodes, its non-zeros."""
    keras.utils.set_random_seed(seed)
    model = graphs.gcn(graph.x.shape[1], graph.y.shape[1])
    if method == "dense":  # as published: the first kernel decays, no other
        decay = keras_swd.SelectiveWeightDecay(5e-4)
        model = keras_swd.with_regularizer(model, decay, exclude=["classes"])
        fit(model, 0.01, [])
    else:
        kind = keras_swd.Channel(axis=0) if args.words else None
        swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY, granularity=kind)
        spared = ["classes"] if args.words else []
        model = keras_swd.with_regularizer(model, swd, exclude=spared)
        falling = keras.optimizers.schedules.CosineDecay(
            args.rate,
            decay_steps=args.epochs - int(HOLD * args.epochs),
            warmup_target=args.rate,
            warmup_steps=int(HOLD * args.epochs),
        )
        allocation = getattr(keras_swd, args.allocation)()
        scheduler = keras_swd.PruningScheduler(
            sparsity, allocation=allocation, **METHODS[method]
        )
        fit(model, falling, [scheduler])
    if args.out:
        keras_swd.strip(model).save(args.out)
    output = model.predict(batch, verbose=0)
    right = output.argmax(axis=1) == graph.y.argmax(axis=1)
    nonzeros = sum(np.count_nonzero(w) for w in model.get_weights())
    return float(right[data.mask_te].mean()), int(nonzeros)


def spread(accuracy):
    """Sample standard deviation over the last axis, the seeds."""
    seeds = accuracy.shape[-1]
    return accuracy.std(-1, ddof=1 if seeds > 1 else 0)


def save():
    """Writes the file whole, or leaves the one that was there."""
    unfinished = Path(f"{args.json}.part")
    unfinished.write_text(json.dumps(results, indent=1))
    os.replace(unfinished, args.json)


names = ("dataset", "epochs", "rate", "allocation", "words", "first")
results = {name: getattr(args, name) for name in names} | {"runs": {}}
if Path(args.json).exists():
    kept = json.loads(Path(args.json).read_text())
    kept.setdefault("first", 0)
    if any(kept[name] != results[name] for name in names):
        parser.error(f"{args.json} holds runs with other settings.")
    results = kept
grid = [("dense", 0.0)] + [
    (m, s) for s in args.sparsities for m in args.methods
]
for method, sparsity in grid:
    runs = results["runs"].setdefault(f"{method} {sparsity}", [])
    for seed in range(len(runs), args.seeds):
        runs.append(train(method, sparsity, args.first + seed))
        save()
    accuracy, nonzeros = np.array(runs[: args.seeds]).T
    print(
        f"{method:21} {sparsity:4.0%}  accuracy {accuracy.mean():.2%} "
        f"± {spread(accuracy):.2%}  non-zeros {nonzeros.mean():8,.0f}"
    )

left = [100 * (1 - sparsity) for sparsity in args.sparsities]
for method in args.methods:
    runs = [
        results["runs"][f"{method} {s}"][: args.seeds] for s in args.sparsities
    ]
    accuracy = 100 * np.array(runs)[:, :, 0]
    plt.errorbar(left, accuracy.mean(1), spread(accuracy), label=method)
dense = 100 * np.mean(results["runs"]["dense 0.0"], axis=0)[0]
plt.axhline(dense, color="gray", linestyle="dashed", label="dense")
plt.xscale("log")
plt.gca().invert_xaxis()
plt.xticks(left, [f"{share:.0f}" for share in left])
plt.minorticks_off()
plt.xlabel(f"{'words' if args.words else 'weights'} left (%)")
plt.ylabel("test accuracy (%)")
plt.title(f"{args.dataset}, mean and standard deviation of {args.seeds} seeds")
plt.legend()
plt.savefig(Path(args.json).with_suffix(".png"), dpi=150)
