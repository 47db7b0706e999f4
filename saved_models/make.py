"""Makes the models of this folder: trains, exports, tests, writes the card.

python saved_models/make.py lenet5-mnist-95 --data-dir DIR
python saved_models/make.py --readme

Each model is trained by the command that its card names, in a process of its
own; `--trained FOLDER --seconds N` takes what that command left in a folder.
The TensorFlow Lite file is the smallest after gzip of those whose accuracy on
the test set is at most `LOST` below that of Keras. `DIR` holds the data sets of
tfds, or the files of Cora.
"""

import argparse
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent
MODES = (None, "float16", "dynamic", "int8", "int16x8")
LOST = 0.002  # of accuracy, that a smaller file may cost
BATCH = 1000
PACKAGES = ("keras", "tensorflow", "ai-edge-litert", "numpy")


# The data: each is what a model is calibrated with, and tested on ------------


class Images:
    """Standardized images of a data set of tfds."""

    def __init__(self, name, mean, deviation, data_dir):
        import tensorflow_datasets as tfds

        def load(split):
            data = tfds.load(
                name, split=split, data_dir=data_dir, batch_size=-1
            )
            images, labels = tfds.as_numpy((data["image"], data["label"]))
            images = (images / 255.0 - mean) / deviation
            return images.astype("float32"), labels

        self.calibration = load("train[:500]")[0]
        self.inputs, self.labels = load("test")

    def deployed(self, model):
        """The model that becomes a file."""
        return model

    def accuracy(self, answers):
        return float(np.mean(answers.argmax(axis=-1) == self.labels))

    def of_keras(self, model):
        """Accuracy of a model on the test set."""
        return self.accuracy(
            model.predict(self.inputs, batch_size=BATCH, verbose=0)
        )

    def of_tflite(self, path):
        """Accuracy of a file on the test set."""
        return self.accuracy(run(path, self.inputs, BATCH))


class Digits(Images):
    """The test images of `keras-swd demo`."""

    def __init__(self, data_dir):
        from keras_swd.demo.training import digits

        self.calibration, _, self.inputs, self.labels = digits(seed=0)


class Cora:
    """The public split; a file holds the graph, and gets features."""

    def __init__(self, data_dir):
        from keras_swd import graphs

        data = graphs.load_cora(data_dir)
        self.inputs = self.calibration = data[0].x
        self.a = graphs.layers.GCNConv.preprocess(data[0].a)
        self.test, self.labels = data.mask_te, data[0].y.argmax(axis=1)

    def deployed(self, model):
        from keras_swd import graphs

        return graphs.bake(model, self.a)

    def accuracy(self, answers):
        answers = answers.reshape(len(self.labels), -1).argmax(axis=-1)
        return float(np.mean((answers == self.labels)[self.test]))

    def of_keras(self, model):
        a = self.a.toarray()
        return self.accuracy(
            model.predict([self.inputs, a], batch_size=len(a), verbose=0)
        )

    def of_tflite(self, path):
        return self.accuracy(run(path, self.inputs, len(self.inputs)))


def run(path, inputs, batch):
    """What LiteRT computes with a file."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path)).get_signature_runner()
    (name,) = runner.get_input_details()
    batches = range(0, len(inputs), batch)
    answers = [runner(**{name: inputs[i : i + batch]}) for i in batches]
    return np.concatenate([next(iter(a.values())) for a in answers])


DATA = {
    "mnist": lambda folder: Images("mnist", 0.1307, 0.3081, folder),
    "cifar10": lambda folder: Images("cifar10", 0.473, 0.251, folder),
    "cora": Cora,
    "digits": Digits,
}


# The models ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is made: what it is, its data, and what trains it."""

    title: str
    data: str
    inputs: str
    command: str
    model: str = "model.keras"  # the file that the command leaves


def lenet5(sparsity):
    return Recipe(
        f"LeNet-5, 61,706 parameters, {sparsity:.0%} of its kernels removed",
        "mnist",
        "images (n, 28, 28, 1), float32, (pixel / 255 - 0.1307) / 0.3081",
        f"python examples/lenet5_mnist.py --sparsity {sparsity} --seed 0 "
        "--out model.keras",
    )


def gcn(sparsity):
    return Recipe(
        f"Graph convolutional network, {sparsity:.0%} of its kernels removed",
        "cora",
        "features (2708, 1433), float32, as `load_cora` gives them; in Keras "
        "also the matrix of `GCNConv.preprocess`",
        f"python examples/gcn_cora.py --sparsities {sparsity} --methods SWD "
        "--seeds 1 --out model.keras",
    )


CIFAR10_INPUTS = "images (n, 32, 32, 3), float32, (pixel / 255 - 0.473) / 0.251"


def resnet20(method, sparsity):
    """One of benchmarks/cifar10.py, trained anew."""
    removed = f", {sparsity:.0%} of its kernels removed" if sparsity else ""
    options = f"--sparsities {sparsity} " if sparsity else ""
    return Recipe(
        f"ResNet-20, 272,474 trainable parameters{removed}",
        "cifar10",
        CIFAR10_INPUTS,
        f"python benchmarks/cifar10.py --methods {shlex.quote(method)} "
        f"{options}--seed 0 --cells . --models .",
        f"{method}-{sparsity:g}-0.keras",
    )


RECIPES = {
    "lenet5-mnist-95": lenet5(0.95),
    "lenet5-mnist-98": lenet5(0.98),
    "lenet5-mnist-99": lenet5(0.99),
    "resnet20-cifar10": resnet20("dense", 0.0),
    "resnet20-cifar10-90": resnet20("SWD, strong ramp", 0.9),
    "resnet20-cifar10-95": resnet20("SWD, strong ramp", 0.95),
    "resnet20-cifar10-98": resnet20("SWD, strong ramp", 0.98),
    "resnet20-cifar10-half": Recipe(
        "ResNet-20 with half of its parameters: channels cut out",
        "cifar10",
        CIFAR10_INPUTS,
        "python examples/resnet20_cifar10.py --method swd --left 0.5 --seed 0 "
        "--out model.keras",
    ),
    "gcn-cora-90": gcn(0.9),
    "gcn-cora-98": gcn(0.98),
    "digits-95": Recipe(
        "Convolutional network of `keras-swd demo`, 95% of its kernels removed",
        "digits",
        "images (n, 8, 8, 1), float32, pixel / 16",
        "keras-swd demo",
        "keras_swd_demo/model.keras",
    ),
}


def make(name, data_dir):
    """Trains a model, and writes its files and its card."""
    with tempfile.TemporaryDirectory() as work:
        seconds = train(RECIPES[name], data_dir, work)
        keep(name, data_dir, work, seconds)


def keep(name, data_dir, trained, seconds):
    """Writes the files and the card of a model that was trained."""
    recipe = RECIPES[name]
    source = pathlib.Path(trained, recipe.model)
    model = load(source)
    data = DATA[recipe.data](data_dir)
    with tempfile.TemporaryDirectory() as work:
        deployed, accuracy = data.deployed(model), data.of_keras(model)
        best = export(deployed, data, accuracy, pathlib.Path(work))
        card = describe(name, recipe, model, data, best)
        card["seconds"] = round(seconds)
        card["files"] = {
            "keras": entry(source, FOLDER / f"{name}.keras"),
            "tflite": entry(best, FOLDER / f"{name}.tflite")
            | card["files"]["tflite"],
        }
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(card, indent=1) + "\n")
    print(path.read_text())


def train(recipe, data_dir, work):
    """Runs the recipe's command; how many seconds it took."""
    program, *rest = shlex.split(recipe.command)
    if program == "python":
        program = sys.executable
        rest[0] = str(ROOT / rest[0])
        rest += ["--data-dir", str(data_dir)] if data_dir else []
    else:
        program = str(pathlib.Path(sys.executable).with_name(program))
    start = time.monotonic()
    subprocess.run([program, *rest], cwd=work, check=True)
    return time.monotonic() - start


def load(path):
    import keras_swd.graphs.layers  # noqa: F401, registers its layers

    return keras.saving.load_model(path, compile=False)


def export(model, data, accuracy, work):
    """The smallest file after gzip that is as accurate as it should be."""
    from keras_swd import export

    sizes, reached = {}, {}
    for mode in MODES:
        path = work / f"{mode or 'float32'}.tflite"
        try:
            report = export.to_tflite(
                model,
                path,
                quantization=mode,
                representative_data=data.calibration,
                check_with=data.calibration,
            )
        except export.ExportError as error:
            print(f"{mode} is refused: {error}")
            continue
        sizes[path] = report.gzip_bytes
    for path in sorted(sizes, key=sizes.get):
        reached[path.stem] = data.of_tflite(path)
        if reached[path.stem] >= accuracy - LOST:
            return path
    sys.exit(f"No file is as accurate as {accuracy:.2%}: {reached}.")


def describe(name, recipe, model, data, file):
    """The card of a model, without its files' sizes."""
    import keras_swd

    total = keras_swd.sparsity_report(model).total
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    zeros = sum(np.sum(w == 0) for w in kernels)
    versions = {p: importlib.metadata.version(p) for p in PACKAGES}
    return {
        "name": name,
        "title": recipe.title,
        "data": recipe.data,
        "inputs": recipe.inputs,
        "command": recipe.command,
        "seed": 0,
        "accuracy": {
            "keras": data.of_keras(model),
            "tflite": data.of_tflite(file),
        },
        "tested": len(data.labels) if recipe.data != "cora" else 1000,
        "parameters": total.size,
        "zeros": total.zeros,
        "sparsity": zeros / sum(w.size for w in kernels),
        "files": {"tflite": {"quantization": file.stem}},
        "versions": {
            "python": platform.python_version(),
            "keras_swd": keras_swd.__version__,
            **versions,
        },
    }


def entry(source, target):
    """Copies a file, whole; its size and checksum."""
    from keras_swd.files import write_whole

    content = source.read_bytes()
    write_whole(target, content)
    return {
        "bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, mtime=0)),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


# The list of all -------------------------------------------------------------


def write_readme():
    """Writes the table of README.md from the cards."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from documents import write_tables

    cards = [json.loads((FOLDER / f"{n}.json").read_text()) for n in made()]
    write_tables(FOLDER / "README.md", {"models": table(cards)})


def made():
    """Names of the models that are there, in order."""
    return [name for name in RECIPES if (FOLDER / f"{name}.json").exists()]


def table(cards):
    """One row for each card, and the commands."""
    from documents import markdown

    head = ["name", "zeros", "accuracy, Keras", "bytes", "accuracy, TFLite"]
    head += ["bytes", "after gzip", "weights"]
    rows = []
    for card in cards:
        accuracy, files = card["accuracy"], card["files"]
        row = [f"`{card['name']}`", f"{card['sparsity']:.1%}"]
        row += [f"{accuracy['keras']:.2%}", f"{files['keras']['bytes']:,}"]
        row += [f"{accuracy['tflite']:.2%}", f"{files['tflite']['bytes']:,}"]
        row += [f"{files['tflite']['gzip_bytes']:,}"]
        rows.append([*row, files["tflite"]["quantization"]])
    told = [
        f"- `{card['name']}`: {card['title']}. `{card['command']}`. "
        f"Inputs: {card['inputs']}."
        for card in cards
    ]
    return markdown(head, rows) + "\n\n" + "\n".join(told)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="which models")
    parser.add_argument("--data-dir", help="the folder of the data")
    parser.add_argument("--trained", help="a folder; train nothing, keep this")
    parser.add_argument("--seconds", type=float, help="what that took")
    parser.add_argument("--readme", action="store_true", help="only the list")
    args = parser.parse_args()
    if args.trained and (len(args.names) != 1 or args.seconds is None):
        parser.error("--trained needs one NAME, and --seconds.")
    if unknown := sorted(set(args.names) - set(RECIPES)):
        parser.error(f"{unknown[0]!r} is none of {', '.join(RECIPES)}.")
    if args.trained:
        keep(*args.names, args.data_dir, args.trained, args.seconds)
    elif not args.readme:
        for name in args.names or RECIPES:
            make(name, args.data_dir)
    write_readme()


if __name__ == "__main__":
    main()
