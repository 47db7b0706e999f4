"""Compares pruning methods on MNIST, all with the same number of epochs.

python examples/compare_methods.py --data-dir ~/tensorflow_datasets

Finished runs are kept in `--folder`; the same command goes on from there. With
two processes on two cores, set TF_NUM_INTRAOP_THREADS=1.
"""

import argparse
import math

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers

import keras_swd

BATCH = 128
WARMUP = 100  # steps in which the learning rate rises
HOLD = 0.7  # share of the run after which the learning rate falls
WEIGHT_DECAY = 1e-3
TRAINED = 0.4  # share of the run after which methods for trained models begin
ROUNDS = 20  # removals of methods that remove step by step
#: Filters of two convolutions and of their padding, units of dense layers.
NETWORKS = {
    "lenet5": ((6, "same"), (16, "valid"), (120, 84, 10)),
    "lenet5-caffe": ((20, "valid"), (50, "valid"), (500, 10)),
}


# The methods: a regularizer, or a function of a few lines ---------------------


def global_ranking(build_model, fit, sparsity):
    """One ranking of all weights, as in the paper, in place of `LAMP`."""
    swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(build_model(), swd)
    ranking = keras_swd.GlobalRanking()
    return fit(
        model, [keras_swd.PruningScheduler(sparsity, allocation=ranking)]
    )


def ramp(build_model, fit, sparsity):
    """The same, of which a growing part is selected, and decayed hard."""
    swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(build_model(), swd)
    pruning = keras_swd.PruningScheduler(
        sparsity,
        schedule=keras_swd.Exponential(100.0, 1000.0, finish=0.8),
        allocation=keras_swd.GlobalRanking(),
        ramp=keras_swd.Polynomial(0.01, 1.0, begin=0.1, finish=0.6),
    )
    return fit(model, [pruning])


def strong_ramp(build_model, fit, sparsity):
    """A later ramp, of so strong a decay that gradients hardly move weights."""
    swd = keras_swd.SelectiveWeightDecay(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(build_model(), swd)
    pruning = keras_swd.PruningScheduler(
        sparsity,
        schedule=keras_swd.Constant(0.5 / (args.rate * WEIGHT_DECAY)),
        allocation=keras_swd.GlobalRanking(),
        ramp=keras_swd.Polynomial(0.0, 1.0, begin=0.2, finish=0.7),
    )
    return fit(model, [pruning])


def adaptive_sparsity(build_model, fit, sparsity):
    """It needs a lower rate: some weights are out of use from the start."""
    asl = keras_swd.AdaptiveSparsity(WEIGHT_DECAY)
    model = keras_swd.with_regularizer(build_model(), asl)
    logs = {}
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, found: logs.update(found)
    )
    pruning = keras_swd.PruningScheduler(sparsity)
    numbers = fit(model, [pruning, keep], scale=0.5)
    return numbers | {"sparsity before removal": logs["asl_sparsity"]}


def rewinding(build_model, fit, sparsity):
    """The smallest weights go at half time, then the learning rate repeats."""
    half = keras_swd.MagnitudePruning(WEIGHT_DECAY, end=0.5, removals=1)
    model = keras_swd.with_regularizer(build_model(), half)
    return fit(model, [keras_swd.PruningScheduler(sparsity)], rewind=0.5)


def irrelevant_weights(build_model, fit, sparsity):
    return step_by_step(
        keras_swd.IrrelevantWeights(), build_model, fit, sparsity
    )


def lobster(build_model, fit, sparsity):
    return step_by_step(keras_swd.Lobster(), build_model, fit, sparsity)


def step_by_step(regularizer, build_model, fit, sparsity):
    """An equal share of what is left goes after every round but the last two.

    The floor is 0: the sparsity is given here, not the accuracy. The last but
    one removes what rounding has left over.
    """
    model = build_model()
    fit(model, [], end=TRAINED)
    model = keras_swd.with_regularizer(model, regularizer)
    share = 1.0 - (1.0 - sparsity) ** (1.0 / (ROUNDS - 2))
    removal = keras_swd.FloorScheduler(
        0.0, monitor="accuracy", share=share, sparsity=sparsity
    )
    return fit(model, [removal], begin=TRAINED, rounds=ROUNDS)


def tfmot_polynomial(build_model, fit, sparsity):
    """What the TensorFlow Model Optimization toolkit has for this."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    tools = tfmot.sparsity.keras
    # From a fifth of the run on, every hundred steps; the last one counts.
    end = int(HOLD * args.epochs * STEPS)
    begin = end - int(0.5 * args.epochs * STEPS) // 100 * 100
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
    "SWD, global": global_ranking,
    "SWD, ramp": ramp,
    "SWD, strong ramp": strong_ramp,
    "GReg1": keras_swd.GReg1(WEIGHT_DECAY, begin=TRAINED),
    "GReg2": keras_swd.GReg2(WEIGHT_DECAY, begin=TRAINED),
    "AdaptiveSparsity": adaptive_sparsity,
    "IrrelevantWeights": irrelevant_weights,
    "Lobster": lobster,
    "one-shot": keras_swd.MagnitudePruning(WEIGHT_DECAY, end=1.0, removals=1),
    "one-shot, tuned": keras_swd.MagnitudePruning(
        WEIGHT_DECAY, end=0.5, removals=1
    ),
    "iterative": keras_swd.MagnitudePruning(
        WEIGHT_DECAY, begin=TRAINED, end=0.8, removals=5
    ),
    "gradual": keras_swd.MagnitudePruning(WEIGHT_DECAY),
    "rewinding": rewinding,
    "tfmot": tfmot_polynomial,
}


# The task ---------------------------------------------------------------------

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data-dir", help="where tfds keeps its data sets")
parser.add_argument("--network", choices=NETWORKS, default="lenet5")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--rate", type=float, default=0.1, help="of learning")
parser.add_argument(
    "--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98, 0.99]
)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument(
    "--methods", nargs="+", choices=METHODS, default=list(METHODS)
)
parser.add_argument("--processes", type=int, default=1)
parser.add_argument("--ray", action="store_true", help="use a Ray cluster")
parser.add_argument("--folder", default="comparison", help="of finished runs")
parser.add_argument("--json", metavar="FILE", help="write the result here")
parser.add_argument("--plot", metavar="FILE", help="draw the result here")
parser.add_argument("--lowest", type=float, help="where the plot begins")
args = parser.parse_args()


def load(split):
    """Standardized images and their labels."""
    folder = args.data_dir
    data = tfds.load("mnist", split=split, data_dir=folder, batch_size=-1)
    images, labels = tfds.as_numpy((data["image"], data["label"]))
    return ((images / 255.0 - 0.1307) / 0.3081).astype("float32"), labels


train, test = load("train"), load("test")
STEPS = math.ceil(len(train[1]) / BATCH)  # of an epoch


def build_model():
    """A network with ordinary weight decay, which methods replace."""
    decay = {"kernel_regularizer": keras.regularizers.L2(WEIGHT_DECAY / 2)}
    first, second, (*hidden, last) = NETWORKS[args.network]
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            *convolution(*first, **decay),
            *convolution(*second, **decay),
            layers.Flatten(),
            *(layers.Dense(n, activation="relu", **decay) for n in hidden),
            layers.Dense(last, **decay),
        ]
    )


def convolution(filters, padding, **decay):
    """A convolution, and pooling."""
    return (
        layers.Conv2D(filters, 5, padding=padding, activation="relu", **decay),
        layers.MaxPooling2D(),
    )


def learning_rate(api, rate, first, whole):
    """Rises for a few steps, is held, and then falls as a cosine."""
    ops = keras.ops

    class Held(api.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            step = ops.cast(step, "float32") + first
            fallen = ops.clip((step / whole - HOLD) / (1.0 - HOLD), 0.0, 1.0)
            falling = (1.0 + ops.cos(math.pi * fallen)) / 2.0
            return rate * ops.minimum((step + 1.0) / WARMUP, falling)

        def get_config(self):
            return {}

    return Held()


def fit(
    model,
    callbacks,
    begin=0.0,
    end=1.0,
    rounds=None,
    scale=1.0,
    rewind=None,
    api=keras,
):
    """Trains from `begin` to `end` of the run, and evaluates.

    Rounds are what Keras calls epochs, of which callbacks hear. `scale`
    multiplies the learning rate. At `rewind` its schedule is at its end, and
    begins again. For a model of tf_keras, pass that as `api`.
    """
    whole = args.epochs * STEPS
    rounds = rounds or math.ceil((end - begin) * args.epochs)
    steps = round((end - begin) * whole / rounds)
    falling = learning_rate(
        api, scale * args.rate, begin * whole, (rewind or 1.0) * whole
    )
    if rewind:
        again = round(rewind * whole)
        falling = keras_swd.LearningRateRewinding(falling, at=again)
    sgd = api.optimizers.SGD(falling, momentum=0.9)
    model.compile(
        keras_swd.with_pruning(sgd) if api is keras else sgd,
        api.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images, labels = map(tf.constant, train)
    batches = tf.data.Dataset.range(len(labels)).shuffle(len(labels))
    batches = (
        batches.batch(BATCH)
        .repeat()
        .map(lambda i: (tf.gather(images, i), tf.gather(labels, i)))
    )
    model.fit(
        batches,
        steps_per_epoch=steps,
        epochs=rounds,
        shuffle=False,  # `batches` are shuffled
        verbose=0,
        callbacks=callbacks,
    )
    return {"accuracy": model.evaluate(*test, batch_size=1000, verbose=0)[1]}


def workers():
    """Processes here, or on a Ray cluster."""
    if not args.ray:
        return args.processes
    from ray.util.multiprocessing import Pool

    return Pool(args.processes)


comparison = keras_swd.compare(
    build_model,
    fit,
    {name: METHODS[name] for name in args.methods},
    args.sparsities,
    args.seeds,
    folder=args.folder,
    workers=workers(),
    settings={
        "data": "mnist",
        "network": args.network,
        "epochs": args.epochs,
        "batch": BATCH,
        "rate": args.rate,
        "warmup": WARMUP,
        "hold": HOLD,
        "weight_decay": WEIGHT_DECAY,
        "trained": TRAINED,
        "rounds": ROUNDS,
    },
)
print(comparison)
if args.json:
    comparison.to_json(args.json)
if args.plot:
    comparison.plot(args.plot, args.lowest)
