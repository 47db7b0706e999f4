"""Writes a pruned network as TFLite in every mode, and tests each on MNIST.

python examples/lenet5_mnist.py --sparsity 0.95 --out lenet5.keras
python examples/export_lenet5.py lenet5.keras --out exported
"""

import argparse
import json
from pathlib import Path

import keras
import numpy as np
import tensorflow_datasets as tfds
from ai_edge_litert.interpreter import Interpreter
from rich.console import Console
from rich.table import Table

from keras_swd import export

MODES = (None, "float16", "dynamic", "int8", "int16x8")
BATCH = 1000

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("model", help="a .keras file of examples/lenet5_mnist.py")
parser.add_argument("--out", default="exported", help="folder for the files")
parser.add_argument("--data-dir", help="where tfds keeps its data sets")
parser.add_argument("--json", metavar="FILE", help="write the result here")
args = parser.parse_args()


def load(split):
    """Standardized images and their labels."""
    data = tfds.load(
        "mnist", split=split, data_dir=args.data_dir, batch_size=-1
    )
    images, labels = tfds.as_numpy((data["image"], data["label"]))
    return ((images / 255.0 - 0.1307) / 0.3081).astype("float32"), labels


def predict(path, images):
    """What the file's classifier says, run by LiteRT."""
    interpreter = Interpreter(str(path))
    place = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(place, (BATCH, *images.shape[1:]))
    interpreter.allocate_tensors()
    answers = []
    for start in range(0, len(images), BATCH):
        interpreter.set_tensor(place, images[start : start + BATCH])
        interpreter.invoke()
        last = interpreter.get_output_details()[0]["index"]
        answers.append(interpreter.get_tensor(last).argmax(axis=-1))
    return np.concatenate(answers)


examples, (images, labels) = load("train[:500]")[0], load("test")
model = keras.saving.load_model(args.model)
folder = Path(args.out)
folder.mkdir(parents=True, exist_ok=True)
accuracy = model.evaluate(images, labels, verbose=0)[1]
result = {"keras": {"accuracy": accuracy}}
table = Table(title=f"{args.model}: {accuracy:.2%} in Keras")
for column in ("quantization", "accuracy", "bytes", "gzip", "zeros left out"):
    table.add_column(column, justify="right")
for mode in MODES:
    name = mode or "float32"
    path = folder / f"{name}.tflite"
    report = export.to_tflite(
        model,
        path,
        quantization=mode,
        representative_data=examples,
        check_with=images[:256],
    )
    accuracy = float(np.mean(predict(path, images) == labels))
    result[name] = {"accuracy": accuracy, **report.to_dict()}
    table.add_row(
        name,
        f"{accuracy:.2%}",
        f"{report.bytes:,}",
        f"{report.gzip_bytes:,}",
        "yes" if report.sparse else "no",
    )
Console().print(table)
if args.json:
    Path(args.json).write_text(json.dumps(result, indent=2))
