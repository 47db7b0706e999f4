"""Prunes LeNet-5 on MNIST while it trains, without fine-tuning.

python examples/lenet5_mnist.py --data-dir ~/tensorflow_datasets --sparsity 0.99
"""

import argparse
import json
import math

import keras
import tensorflow_datasets as tfds
from keras import layers

import keras_swd

BATCH = 128
RATES = {"sgd": 0.1, "adam": 0.005}  # held, then falling as a cosine
HOLD = 0.7  # share of the run after which the learning rate falls

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data-dir", help="where tfds keeps its data sets")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--optimizer", choices=RATES, default="sgd")
parser.add_argument("--out", metavar="FILE", help="save the model here")
parser.add_argument("--json", metavar="FILE", help="write the result here")
args = parser.parse_args()

keras.utils.set_random_seed(args.seed)


def load(split):
    """Standardized images and their labels."""
    data = tfds.load(
        "mnist", split=split, data_dir=args.data_dir, batch_size=-1
    )
    images, labels = tfds.as_numpy((data["image"], data["label"]))
    return (images / 255.0 - 0.1307) / 0.3081, labels


train, test = load("train"), load("test")
swd = keras_swd.SelectiveWeightDecay()
pruned = {"activation": "relu", "kernel_regularizer": swd}
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        layers.Conv2D(6, 5, padding="same", **pruned),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 5, **pruned),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(120, **pruned),
        layers.Dense(84, **pruned),
        layers.Dense(10, activation="softmax", kernel_regularizer=swd),
    ]
)

steps = args.epochs * math.ceil(len(train[1]) / BATCH)
rate = RATES[args.optimizer]
falling = keras.optimizers.schedules.CosineDecay(
    rate,
    decay_steps=steps - int(HOLD * steps),
    warmup_target=rate,
    warmup_steps=int(HOLD * steps),
)
optimizer = {
    "sgd": keras.optimizers.SGD(falling, momentum=0.9),
    "adam": keras.optimizers.Adam(falling),
}[args.optimizer]
model.compile(
    optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"]
)
history = model.fit(
    *train,
    batch_size=BATCH,
    epochs=args.epochs,
    validation_data=test,
    verbose=2,
    callbacks=[keras_swd.PruningScheduler(args.sparsity)],
)

model = keras_swd.strip(model)
report = keras_swd.sparsity_report(model)
result = vars(args) | {
    "accuracy_before_removal": history.history["val_accuracy"][-1],
    "accuracy": model.evaluate(*test, verbose=0)[1],
}
print(report)
print(json.dumps(result))
if args.out:
    model.save(args.out)
if args.json:
    with open(args.json, "w") as file:
        json.dump(result, file)
