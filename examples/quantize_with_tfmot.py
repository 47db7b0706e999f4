"""Prunes LeNet-5 on MNIST, then trains and exports it in 8 bits with tfmot.

python examples/quantize_with_tfmot.py --data-dir ~/tensorflow_datasets
"""

import argparse
import json
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow_datasets as tfds
from ai_edge_litert.interpreter import Interpreter
from keras import layers

from keras_swd import PruningScheduler, SelectiveWeightDecay, export

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--data-dir", help="where tfds keeps its data sets")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--sparsity", type=float, default=0.9)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--json", metavar="FILE", help="write the result here")
args = parser.parse_args()

keras.utils.set_random_seed(args.seed)


def load(split):
    """Standardized images and their labels."""
    folder = args.data_dir
    data = tfds.load("mnist", split=split, data_dir=folder, batch_size=-1)
    images, labels = tfds.as_numpy((data["image"], data["label"]))
    return ((images / 255.0 - 0.1307) / 0.3081).astype("float32"), labels


def accuracy_of_file(path):
    """The share of test images that LiteRT names right."""
    run = Interpreter(path).get_signature_runner()
    (name,) = run.get_input_details()
    answers = [run(**{name: x[None]}).popitem()[1] for x in test[0]]
    return float(np.mean(np.argmax(answers, axis=-1)[:, 0] == test[1]))


train, test = load("train"), load("test")
swd = SelectiveWeightDecay()
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
compiled = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
fall = keras.optimizers.schedules.CosineDecay(0.1, args.epochs * 469)
model.compile(keras.optimizers.SGD(fall, momentum=0.9), **compiled)
model.fit(*train, 128, args.epochs, 2, [PruningScheduler(args.sparsity)])

# One epoch in tf_keras, with the rounding of the file, zeros kept.
aware = export.to_quantization_aware(model)
aware.compile("adam", **compiled)
aware.fit(*train, 128, verbose=2, callbacks=[export.keep_zeros(aware)])

with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/lenet5.tflite"
    report = export.to_tflite(aware, path, "int8", check_with=test[0][:1000])
    in_file = accuracy_of_file(path)
counts = [int(np.sum(w == 0)) for w in model.get_weights() if w.ndim > 1]
result = vars(args) | {
    "accuracy": model.evaluate(*test, verbose=0)[1],
    "accuracy_quantization_aware": aware.evaluate(*test, verbose=0)[1],
    "accuracy_in_file": in_file,
    "bytes": report.bytes,
    "zeros": [
        {"kernel": kernel.path, "pruned": count, "in_file": kernel.zeros}
        for kernel, count in zip(report.kernels, counts, strict=True)
    ],
}
print(report, json.dumps(result), sep="\n")
if args.json:
    Path(args.json).write_text(json.dumps(result))
