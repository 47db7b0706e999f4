"""Halves ResNet-20 on CIFAR-10: channels that go, and a smaller network.

python examples/resnet20_cifar10.py --data-dir ~/tensorflow_datasets --json FILE

`--method` compares: `swd` decays the channels that are to go; `slimming` pulls
all scales to zero, removes the lowest halfway and trains on; `narrow`
trains a network that is narrower from the start; `dense` the whole one.
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow_datasets as tfds
from ai_edge_litert.interpreter import Interpreter
from keras import layers

import keras_swd

BATCH, RATE, WEIGHT_DECAY = 128, 0.1, 5e-4

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data-dir", help="where tfds keeps its data sets")
parser.add_argument(
    "--method", choices=["swd", "slimming", "narrow", "dense"], default="swd"
)
parser.add_argument("--left", type=float, default=0.5, help="of parameters")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--out", metavar="FILE", help="save the model here, its files beside it"
)
parser.add_argument("--json", metavar="FILE", help="write the result here")
args = parser.parse_args()
keras.utils.set_random_seed(args.seed)


def load(split):
    """Standardized images and their labels."""
    data = tfds.load(
        "cifar10", split=split, data_dir=args.data_dir, batch_size=-1
    )
    images, labels = tfds.as_numpy((data["image"], data["label"]))
    return ((images / 255.0 - 0.473) / 0.251).astype("float32"), labels


def resnet20(width=1.0):
    """ResNet-20 with `16 * width` maps."""
    decay = keras.regularizers.L2(WEIGHT_DECAY / 2)

    def convolution(x, maps, strides=1, size=3):
        x = layers.Conv2D(
            round(maps * width),
            size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_regularizer=decay,
        )(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((32, 32, 3))
    x = layers.ReLU()(convolution(inputs, 16))
    for maps in (16, 32, 64):
        for block in range(3):
            strides = 2 if block == 0 and maps > 16 else 1
            y = layers.ReLU()(convolution(x, maps, strides))
            y = convolution(y, maps)
            if strides == 2:
                x = convolution(x, maps, strides, size=1)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, kernel_regularizer=decay)(x))


def augmented(images, labels):
    """Batches of shifted and flipped images, forever in a new order."""
    generator = np.random.default_rng(args.seed)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    while True:
        order = generator.permutation(len(images))
        for start in range(0, len(images), BATCH):
            chosen = order[start : start + BATCH]
            shifts = generator.integers(0, 9, (len(chosen), 2))
            batch = np.stack(
                [
                    padded[i, dy : dy + 32, dx : dx + 32]
                    for i, (dy, dx) in zip(chosen, shifts, strict=True)
                ]
            )
            flipped = generator.random(len(chosen)) < 0.5
            batch[flipped] = batch[flipped, :, ::-1]
            yield batch, labels[chosen]


def size(model):
    """Trainable parameters."""
    return sum(math.prod(w.shape) for w in model.trainable_weights)


def milliseconds(path):
    """The median time of a file for one image, on one thread."""
    runner = Interpreter(str(path), num_threads=1)
    runner.allocate_tensors()
    times = []
    for _ in range(200):
        start = time.perf_counter()
        runner.invoke()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def export(network, path, quantization):
    """Writes a file that agrees with the network."""
    return keras_swd.export.to_tflite(
        network,
        path,
        quantization,
        representative_data=train[0][:200],
        check_with=test[0][:200],
    )


def compare_files(small, path):
    """Files of the small network and of the whole one: bytes and time."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("float32", "int8"):
            quantization = None if kind == "float32" else kind
            files = {
                "small": path.with_name(f"{path.stem}-{kind}.tflite"),
                "whole": Path(folder, f"{kind}.tflite"),
            }
            found[kind] = {
                f"{size}_bytes": export(
                    network, files[size], quantization
                ).bytes
                for size, network in (("small", small), ("whole", resnet20()))
            }
            for size, file in files.items():
                found[kind][f"{size}_milliseconds"] = milliseconds(file)
    return found


train, test = load("train"), load("test")
model = resnet20()
full = size(model)
ranking = keras_swd.GlobalRanking()
budget = keras_swd.Parameters(left=args.left)
callbacks = []
if args.method == "narrow":
    width = 1.0
    while size(model) > args.left * full:
        width -= 1 / 64
        model = resnet20(width)
elif args.method == "slimming":
    slim = keras_swd.NetworkSlimming(1e-4)
    model = keras_swd.with_regularizer(model, slim)
    callbacks = [
        keras_swd.PruningScheduler(budget, allocation=ranking, remove_at=0.5)
    ]
elif args.method == "swd":
    swd = keras_swd.SelectiveWeightDecay(
        WEIGHT_DECAY, granularity=keras_swd.CoupledChannels(kernels=True)
    )
    model = keras_swd.with_regularizer(model, swd)
    callbacks = [keras_swd.PruningScheduler(budget, allocation=ranking)]
steps = math.ceil(len(train[1]) / BATCH)
rate = keras.optimizers.schedules.CosineDecay(RATE, args.epochs * steps)
model.compile(
    keras.optimizers.SGD(rate, momentum=0.9),
    keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
start = time.perf_counter()
model.fit(
    augmented(*train),
    steps_per_epoch=steps,
    epochs=args.epochs,
    verbose=2,
    callbacks=callbacks,
)
seconds = time.perf_counter() - start
before = model.evaluate(*test, verbose=0)[1]
small = keras_swd.shrink(model)
result = {
    "method": args.method,
    "left": args.left,
    "epochs": args.epochs,
    "seed": args.seed,
    "accuracy": before,
    "accuracy_after_shrinking": small.evaluate(*test, verbose=0)[1],
    "parameters": size(small),
    "parameters_left": size(small) / full,
    "seconds": seconds,
}
if args.out:
    small.save(args.out)
    result["files"] = compare_files(small, Path(args.out))
print(json.dumps(result))
if args.json:
    Path(args.json).write_text(json.dumps(result))
