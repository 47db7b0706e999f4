"""What `keras-swd demo` does: prune a small network and show the result."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_swd
from keras_swd.files import whole_folder, write_whole
from keras_swd.report import (
    SparsityReport,
    sparsity_report,
)

SPARSITY = 0.95
WEIGHT_DECAY = 1e-3
LEARNING_RATE = 0.05
EPOCHS = 40
BATCH_SIZE = 64
FILES = ("model.keras", "model.tflite", "report.json", "sparsity.png")


@dataclasses.dataclass(frozen=True)
class DemoRow:
    """One model of the demo, as it is stored in a file.

    Args:
        name: String.
        accuracy: Float in [0, 1], on images that training did not see.
        parameters: Integer.
        nonzeros: Integer, how many of them are not zero.
        bytes: Integer, size of the file.
        gzip_bytes: Integer, its size after gzip.
    """

    name: str
    accuracy: float
    parameters: int
    nonzeros: int
    bytes: int
    gzip_bytes: int


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Args:
        rows: Tuple of `DemoRow`.
        sparsity: `SparsityReport` of the pruned model.
        tflite: `TFLiteReport` of the file that was written.
        settings: Dictionary: epochs, seed, versions and the like.
        notes: Tuple of strings: warnings of the run; none in a usual one.
        folder: Path of the folder that was written.
    """

    rows: tuple[DemoRow, ...]
    sparsity: SparsityReport
    tflite: Any
    settings: dict[str, Any]
    notes: tuple[str, ...]
    folder: Path

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns the result as JSON, and writes it to a file if asked.

        Args:
            path: String or path of a file, written whole or not at all; its
                folder must exist. Defaults to `None`, no file.

        Returns:
            String.
        """
        record = {
            "settings": self.settings,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "sparsity": self.sparsity.to_dict(),
            "tflite": self.tflite.to_dict(),
        }
        text = json.dumps(record, indent=2) + "\n"
        if path is not None:
            write_whole(path, text.encode())
        return text


def run_demo(
    folder: str | os.PathLike[str] = "keras_swd_demo",
    epochs: int = EPOCHS,
    seed: int = 0,
    console=None,
) -> DemoResult:
    """Trains a small network twice, dense and pruned, and compares the two.

    The data are the 1797 handwritten digits that come with scikit-learn. Both
    runs start from the same weights and see the same batches; both have
    ordinary weight decay, the second the selective one in addition. Sets
    Keras' global random seed.

    Args:
        folder: String or path of the folder to write: the pruned model as
            `model.keras` and `model.tflite`, `report.json` and
            `sparsity.png`, all or none. An earlier demo's folder is replaced.
            Defaults to `"keras_swd_demo"`.
        epochs: Integer, of each run. Defaults to `40`.
        seed: Integer. Defaults to `0`.
        console: `rich.console.Console` to print to. Defaults to `None`, the
            terminal.

    Returns:
        `DemoResult`.

    Raises:
        ValueError: If `folder` cannot be written or holds other files, or
            Keras does not run on TensorFlow.
        ImportError: If scikit-learn or LiteRT is missing.
    """
    from rich.console import Console

    console = console or Console(highlight=False)
    _check_environment()
    with whole_folder(folder, FILES) as work, _gathered_warnings() as notes:
        result = _run(work, Path(folder), epochs, seed, console, notes)
    console.print(_table(result.rows))
    for note in result.notes:
        console.print(f"Note: {note}", markup=False)
    _explain(result, console)
    return result


def _check_environment() -> None:
    """Raises before training if what the demo needs is missing."""
    for module, package in (
        ("sklearn", "scikit-learn, for its digits"),
        ("ai_edge_litert", "LiteRT, to write and run TFLite files"),
    ):
        if importlib.util.find_spec(module) is None:
            raise ImportError(
                f"The demo needs {package}: pip install "
                "'keras_swd[demo,tflite]'."
            )
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "The demo writes a TFLite file, for which Keras must run on "
            "TensorFlow: set KERAS_BACKEND=tensorflow. "
            f"Received: the backend {keras.config.backend()!r}."
        )


def _run(work, target, epochs, seed, console, notes) -> DemoResult:
    start = time.monotonic()
    images, labels, test_images, test_labels = _digits(seed)
    dense = _network(lambda: keras.regularizers.L2(WEIGHT_DECAY / 2), seed)
    console.print(
        f"Data: {len(images):,} handwritten digits to train on, "
        f"{len(test_images):,} others to test on.\n"
        f"Network: convolutional, {dense.count_params():,} parameters, trained "
        "twice from the same start.\nResidual: share of the sum of squares "
        "that is left in the weights to be removed.\n"
    )
    with _progress(console) as track:
        _fit(dense, images, labels, epochs, [track("Dense baseline", epochs)])
        model = _network(
            lambda: keras_swd.SelectiveWeightDecay(WEIGHT_DECAY), seed
        )
        before = _BeforeRemoval()
        scheduler = keras_swd.PruningScheduler(SPARSITY, remove_at=1.0)
        show = track("Selective decay", epochs)
        _fit(model, images, labels, epochs, [before, scheduler, show])
    pruned = _plain(model)

    rows = [
        _keras_row(name, network, work, test_images, test_labels)
        for name, network in (
            ("Dense baseline", _plain(dense)),
            ("SWD, before removal", before.model_before),
            ("SWD, after removal", pruned),
        )
    ]
    with console.status("Converting to TensorFlow Lite ..."):
        report, files = _export(pruned, work, test_images)
        rows += [
            _tflite_row(name, content, test_images, test_labels)
            for name, content in files.items()
        ]
    result = DemoResult(
        rows=tuple(rows),
        sparsity=sparsity_report(pruned),
        tflite=dataclasses.replace(report, path=str(target / "model.tflite")),
        settings={
            "epochs": epochs,
            "seed": seed,
            "sparsity": SPARSITY,
            "weight_decay": WEIGHT_DECAY,
            "learning_rate": LEARNING_RATE,
            "batch_size": BATCH_SIZE,
            "seconds": round(time.monotonic() - start, 1),
            "keras_swd": keras_swd.__version__,
            "keras": keras.__version__,
            "backend": keras.config.backend(),
            "python": platform.python_version(),
        },
        notes=tuple(notes),
        folder=target,
    )
    pruned.save(work / "model.keras")
    result.sparsity.plot(work / "sparsity.png")
    result.to_json(work / "report.json")
    return result


# Data, network and training -------------------------------------------------


def _digits(seed: int) -> list[np.ndarray]:
    """Images and labels to train on, then those to test on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = (digits.images[order, :, :, None] / 16.0).astype("float32")
    labels = digits.target[order].astype("int32")
    test = len(labels) // 4
    return [images[test:], labels[test:], images[:test], labels[:test]]


def _network(regularizer: Callable, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    layers = keras.layers

    def pruned(kind, name: str, *sizes: int, **options):
        return kind(
            *sizes, kernel_regularizer=regularizer(), name=name, **options
        )

    convolution = {"padding": "same", "activation": "relu"}
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            pruned(layers.Conv2D, "conv_1", 24, 3, **convolution),
            pruned(layers.Conv2D, "conv_2", 48, 3, **convolution),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            pruned(layers.Dense, "dense", 48, activation="relu"),
            pruned(layers.Dense, "logits", 10),
        ],
        name="digits",
    )
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def _fit(model, images, labels, epochs: int, callbacks: list) -> None:
    def rate(epoch: int) -> float:
        """Held for 70 percent of the run, then a cosine to zero."""
        falling = max(epoch / epochs - 0.7, 0.0) / 0.3
        return LEARNING_RATE * (1.0 + math.cos(math.pi * falling)) / 2.0

    model.fit(
        images,
        labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.LearningRateScheduler(rate), *callbacks],
    )


def _plain(model: keras.Model) -> keras.Model:
    """A copy without regularizers and without optimizer.

    An optimizer saves a velocity for each weight, which doubles the file.
    """
    stripped = keras_swd.strip(model)
    copy = keras.Sequential.from_config(stripped.get_config())
    copy.set_weights(stripped.get_weights())
    return copy


class _BeforeRemoval(keras.callbacks.Callback):
    """Keeps a copy of the model as it is just before weights are removed.

    Callbacks run in their order: this one stands before the scheduler.
    """

    model_before: keras.Model

    def on_train_end(self, logs=None):
        self.model_before = _plain(self.model)


class _Track(keras.callbacks.Callback):
    """Moves a bar of a `rich.progress.Progress`, one step per epoch."""

    def __init__(self, progress, title: str, epochs: int):
        super().__init__()
        self.progress = progress
        self.task = progress.add_task(title, total=epochs, logs="")

    def on_epoch_end(self, epoch, logs=None):
        text = f"training accuracy {logs['accuracy']:.1%}"
        if "sparsity" in logs:
            text = f"sparsity {logs['sparsity']:.1%}"
            text += f"  residual {logs['swd_residual']:.1e}"
        self.progress.update(self.task, advance=1, logs=text)


@contextlib.contextmanager
def _progress(console) -> Iterator[Callable]:
    """Yields a function that makes a callback with a bar of its own."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TextColumn("{task.fields[logs]}"),
        console=console,
    )
    with progress:
        yield lambda title, epochs: _Track(progress, title, epochs)


@contextlib.contextmanager
def _gathered_warnings() -> Iterator[list[str]]:
    """Gathers the text of warnings, which would tear the progress bars."""
    notes: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = lambda message, *_, **__: notes.append(
            str(message)
        )
        yield notes


# Measuring ------------------------------------------------------------------


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def _keras_row(name: str, model, work: Path, images, labels) -> DemoRow:
    from keras_swd.export.tflite.agreement import gzip_size

    model.save(work / "measured.keras")
    content = (work / "measured.keras").read_bytes()
    (work / "measured.keras").unlink()
    total = sparsity_report(model).total
    return DemoRow(
        name=name,
        accuracy=_accuracy(model.predict(images, verbose=0), labels),
        parameters=total.size,
        nonzeros=total.nonzeros,
        bytes=len(content),
        gzip_bytes=gzip_size(content),
    )


def _export(model, work: Path, images) -> tuple[Any, dict[str, bytes]]:
    """Writes model.tflite; returns its report, and the files by their names."""
    from keras_swd.export import to_tflite

    dense = work / "dense.tflite"
    to_tflite(model, dense, sparse=False, check_with=images)
    files = {"TFLite, all weights": dense.read_bytes()}
    dense.unlink()
    path = work / "model.tflite"
    report = to_tflite(model, path, check_with=images)
    if report.sparse:
        files["TFLite, zeros left out"] = path.read_bytes()
    return report, files


def _tflite_row(name: str, content: bytes, images, labels) -> DemoRow:
    """Runs the file as an application would."""
    from ai_edge_litert.interpreter import Interpreter

    from keras_swd.export.tflite.agreement import gzip_size
    from keras_swd.export.tflite.flatbuffer import stored_tensors
    from keras_swd.export.tflite.quiet import quiet

    with quiet():
        run = Interpreter(model_content=content).get_signature_runner()
        (feed,) = run.get_input_details()
        (logits,) = run(**{feed: images}).values()
    counted = [t for t in stored_tensors(content) if t.zeros is not None]
    return DemoRow(
        name=name,
        accuracy=_accuracy(logits, labels),
        parameters=sum(t.size for t in counted),
        nonzeros=sum(t.size - (t.zeros or 0) for t in counted),
        bytes=len(content),
        gzip_bytes=gzip_size(content),
    )


# Showing and writing --------------------------------------------------------


def _table(rows):
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", no_wrap=True)
    for title in ("accuracy", "parameters", "non-zero", "bytes", "gzip"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        counts = (row.parameters, row.nonzeros, row.bytes, row.gzip_bytes)
        table.add_row(
            row.name, f"{row.accuracy:.2%}", *(f"{n:,}" for n in counts)
        )
    return table


def _explain(result: DemoResult, console) -> None:
    part = result.sparsity.prunable
    console.print(
        f"Removed: {part.zeros:,} of {part.size:,} kernel weights "
        f"({part.percentage}), in a run of "
        f"{result.settings['seconds']:.0f} seconds.\n\n"
        f"Written to {result.folder}:\n"
        "  model.keras    the pruned model; loads without keras_swd\n"
        "  model.tflite   the same for TensorFlow Lite\n"
        "  report.json    the figures above, and those of each layer\n"
        "  sparsity.png   a picture of each layer\n\n"
        f"Next: keras-swd inspect {result.folder / 'model.keras'}",
        soft_wrap=True,
        markup=False,
    )
