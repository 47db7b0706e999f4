"""Step time with pruning over step time without, in one process.

python benchmarks/overhead.py --json benchmarks/overhead.json

That file is what the tables of README.md are written from; `--tables` measures
nothing and only writes them.

Each network trains in turns: plain, with `keras.regularizers.L2`, with SWD
renewed at every step, and, under tf_keras, plain and with tfmot's
`prune_low_magnitude`, its masks renewed at every hundredth step (its default)
and at every step, which is slow: it has fewer steps and fewer turns. Each round
builds its models anew, since of two that are built alike one is often a few
hundredths slower than the other. Turns have another order each time, since one
is slower or faster after some than after others. A ratio compares two turns of
one order; the table shows the median of all, and for SWD the lowest and highest
median of a round. Seven rounds take about 40 minutes on 2 cores, and 11 GB,
since models that are gone leave memory behind, plain ones too.
"""

import argparse
import gc
import json
import os
import pathlib
import statistics
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import networks
import numpy as np
from documents import markdown, write_json, write_tables
from rich.console import Console
from rich.table import Table

import keras_swd
from keras_swd.selection import kth_smallest

ROOT = pathlib.Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "overhead.json"
#: Network, shape of an input, batch, steps of a turn, target for SWD.
NETWORKS = {
    "LeNet-300-100": (networks.lenet_300_100, (784,), 128, 400, 1.15),
    "LeNet-5": (networks.lenet5, (28, 28, 1), 128, 150, 1.10),
    "ResNet-20": (networks.resnet20, (32, 32, 3), 128, 8, 1.05),
    "MLP, 25 million": (networks.mlp_25m, (1024,), 512, 12, 1.15),
}
STEP_COLUMNS = (
    "network", "batch", "plain, ms", "SWD", "rounds", "target", "L2", "tfmot",
    "tfmot, 1",
)  # fmt: skip
SELECTION_COLUMNS = ("weights", "ours, ms", "np.partition, ms", "ratio")
SIZES = (270_000, 4_300_000, 25_500_000)
SKIP = 3  # first steps of a turn, in which counts are found anew
TURNS = 3  # of each model of a round
#: What takes minutes, a share of the steps, and how many rounds have a turn
#: of it.
SLOW, FEWER, FEW = "tfmot each step", 5, 2


class Clock(keras.callbacks.Callback):
    """Times the steps of a turn."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())

    def step(self):
        return (self.ends[-1] - self.ends[SKIP]) / (len(self.ends) - 1 - SKIP)


def keras_turns(build, optimizer, data, steps):
    """Functions that train for one turn and return seconds per step."""

    def turn(regularizer, callbacks=()):
        model = build(regularizer)
        model.compile(
            {
                "sgd": keras.optimizers.SGD(0.01, momentum=0.9),
                "adam": keras.optimizers.Adam(1e-4),
            }[optimizer],
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return lambda: fit(model, Clock(), callbacks, data, steps)

    scheduler = keras_swd.PruningScheduler(0.9, total_steps=100_000)
    return {
        "plain": turn(None),
        "L2": turn(keras.regularizers.L2(2.5e-4)),
        "SWD": turn(keras_swd.SelectiveWeightDecay(), [scheduler]),
    }


def tfmot_turns(build, optimizer, data, steps):
    """The same for tfmot on tf_keras."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    sparsity = tfmot.sparsity.keras

    class LegacyClock(tf_keras.callbacks.Callback):
        on_train_begin = Clock.on_train_begin
        on_train_batch_end = Clock.on_train_batch_end
        step = Clock.step

    def turn(every=None, steps=steps):
        model = build(None, keras=tf_keras)
        callbacks = []
        if every:
            schedule = sparsity.PolynomialDecay(
                0.0, 0.9, 0, 100_000, frequency=every
            )
            model = sparsity.prune_low_magnitude(model, schedule)
            callbacks = [sparsity.UpdatePruningStep()]
        model.compile(
            {
                "sgd": tf_keras.optimizers.SGD(0.01, momentum=0.9),
                "adam": tf_keras.optimizers.Adam(1e-4),
            }[optimizer],
            tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        return lambda: fit(model, LegacyClock(), callbacks, data, steps)

    return {
        "tf_keras": turn(),
        "tfmot": turn(every=100),
        SLOW: turn(every=1, steps=max(steps // FEWER, 2 * SKIP)),
    }


def fit(model, clock, callbacks, data, steps):
    model.fit(
        data,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[*callbacks, clock],
    )
    return clock.step()


def measure_round(build, optimizer, data, steps, rng, slow):
    """Seconds per step of each turn of models built for this round."""
    turns = keras_turns(build, optimizer, data, steps)
    turns |= tfmot_turns(build, optimizer, data, steps)
    if not slow:
        del turns[SLOW]
    for turn in turns.values():
        turn()
    seen = []
    for i in range(TURNS):
        due = [name for name in turns if name != SLOW or i == 0]
        order = rng.permutation(due).tolist()
        seen.append({name: turns[name]() for name in order})
    return seen


def measure_steps(name, optimizer, rounds):
    import tensorflow as tf

    build, shape, batch, steps, target = NETWORKS[name]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *shape)).astype("float32")
    data = tf.data.Dataset.from_tensors((x, rng.integers(0, 10, batch)))
    data = data.repeat()
    seen, by_round = [], []
    for i in range(rounds):
        new = measure_round(build, optimizer, data, steps, rng, i < FEW)
        by_round.append(statistics.median(s["SWD"] / s["plain"] for s in new))
        seen += new
        gc.collect()

    def ratio(one, other):
        return statistics.median(s[one] / s[other] for s in seen if one in s)

    return {
        "network": name,
        "batch": batch,
        "optimizer": optimizer,
        "parameters": build().count_params(),
        "plain_ms": 1e3 * statistics.median(s["plain"] for s in seen),
        "swd_over_plain": ratio("SWD", "plain"),
        "swd_over_plain_by_round": by_round,
        "l2_over_plain": ratio("L2", "plain"),
        "tfmot_over_tf_keras": ratio("tfmot", "tf_keras"),
        "tfmot_each_step_over_tf_keras": ratio(SLOW, "tf_keras"),
        "target": target,
        "rounds": rounds,
    }


def measure_selection(size, rounds, share=0.9):
    values = np.random.default_rng(0).standard_normal(size, "float32")
    k = round(share * size)
    seen = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        ours = kth_smallest(values, k)
        middle = time.perf_counter()
        theirs = np.partition(np.abs(values), k - 1)[k - 1]
        end = time.perf_counter()
        if ours != theirs:
            raise RuntimeError(f"Thresholds differ: {ours} and {theirs}.")
        seen.append((middle - start, end - middle))
    return {
        "elements": size,
        "selection_ms": 1e3 * statistics.median(s[0] for s in seen[1:]),
        "partition_ms": 1e3 * statistics.median(s[1] for s in seen[1:]),
        "ratio": statistics.median(s[0] / s[1] for s in seen[1:]),
        "rounds": rounds,
    }


def step_row(r):
    by_round = r["swd_over_plain_by_round"]
    return [
        r["network"],
        str(r["batch"]),
        f"{r['plain_ms']:.1f}",
        f"{r['swd_over_plain']:.2f}",
        f"{min(by_round):.2f} to {max(by_round):.2f}",
        f"{r['target']:.2f}",
        f"{r['l2_over_plain']:.2f}",
        f"{r['tfmot_over_tf_keras']:.2f}",
        f"{r['tfmot_each_step_over_tf_keras']:.2f}",
    ]


def selection_row(r):
    return [
        f"{r['elements']:,}",
        f"{r['selection_ms']:.2f}",
        f"{r['partition_ms']:.2f}",
        f"{r['ratio']:.2f}",
    ]


def show(result):
    console = Console()
    table = Table(title="Step time, median of ratios")
    for column in STEP_COLUMNS:
        table.add_column(column, justify="right")
    for r in result["steps"]:
        table.add_row(*step_row(r))
    console.print(table)
    table = Table(title="Selection of one threshold against np.partition")
    for column in SELECTION_COLUMNS:
        table.add_column(column, justify="right")
    for r in result["selection"]:
        table.add_row(*selection_row(r))
    console.print(table)


def write():
    """Writes the tables of README.md from what was measured."""
    result = json.loads(RESULT.read_text())
    steps = [step_row(r) for r in result["steps"]]
    selection = [selection_row(r) for r in result["selection"]]
    bodies = {
        "overhead": markdown(STEP_COLUMNS, steps),
        "selection": markdown(SELECTION_COLUMNS, selection),
    }
    write_tables(ROOT / "README.md", bodies)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--optimizer", choices=("sgd", "adam"), default="sgd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.add_argument("--tables", action="store_true")
    args = parser.parse_args()
    if args.tables:
        write()
        return
    # A turn ends before the schedule does, and says so.
    warnings.filterwarnings("ignore", category=UserWarning)
    result = {
        "steps": [
            measure_steps(name, args.optimizer, args.rounds)
            for name in args.networks
        ],
        "selection": [measure_selection(n, TURNS * args.rounds) for n in SIZES],
    }
    show(result)
    if args.json:
        write_json(args.json, result)
    write()


if __name__ == "__main__":
    main()
