"""What `keras-swd demo` does: prune a small network and show the result."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import platform
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

import keras_swd
from keras_swd.demo.folder import whole_folder
from keras_swd.demo.result import DemoResult, keras_row, tflite_row
from keras_swd.demo.training import (
    BATCH_SIZE,
    LEARNING_RATE,
    BeforeRemoval,
    digits,
    fit,
    network,
    progress,
)
from keras_swd.rebuilding.stripping import plain_copy
from keras_swd.report.sparsity import sparsity_report

SPARSITY = 0.95
WEIGHT_DECAY = 1e-3
EPOCHS = 40
FILES = (
    "model.keras",
    "model.tflite",
    "pruning.json",
    "report.json",
    "sparsity.png",
    "tensorboard",
)
#: What `keras-swd report` adds; a later demo replaces it too.
PAGE = "report.html"


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
        folder: String or path of the folder to write, the pruned model as
            `model.keras` and `model.tflite`, `report.json` and
            `sparsity.png`, and what `PruningSummaries` writes, all or none. An
            earlier demo's folder is replaced. Defaults to `"keras_swd_demo"`.
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
    with (
        whole_folder(folder, FILES, others=[PAGE]) as work,
        _gathered_warnings() as notes,
    ):
        result = _run(work, Path(folder), epochs, seed, console, notes)
    console.print(result.table(), highlight=False)
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
    images, labels, test_images, test_labels = digits(seed)
    dense = network(lambda: keras.regularizers.L2(WEIGHT_DECAY / 2), seed)
    console.print(
        f"Data: {len(images):,} handwritten digits to train on, "
        f"{len(test_images):,} others to test on.\n"
        f"Network: convolutional, {dense.count_params():,} parameters, trained "
        "twice from the same start.\nResidual: share of the sum of squares "
        "that is left in the weights to be removed.\n"
    )
    with progress(console) as track:
        fit(dense, images, labels, epochs, [track("Dense baseline", epochs)])
        model = network(
            lambda: keras_swd.SelectiveWeightDecay(WEIGHT_DECAY), seed
        )
        before = BeforeRemoval()
        scheduler = keras_swd.PruningScheduler(SPARSITY, remove_at=1.0)
        summaries = keras_swd.PruningSummaries(
            work, scheduler, {"seed": seed, "batch_size": BATCH_SIZE}
        )
        show = track("Selective decay", epochs)
        fit(
            model,
            images,
            labels,
            epochs,
            [before, scheduler, summaries, show],
        )
    pruned = plain_copy(model)

    rows = [
        keras_row(name, kept, work, test_images, test_labels)
        for name, kept in (
            ("Dense baseline", plain_copy(dense)),
            ("SWD, before removal", before.model_before),
            ("SWD, after removal", pruned),
        )
    ]
    with console.status("Converting to TensorFlow Lite ..."):
        report, files = _export(pruned, work, test_images)
        rows += [
            tflite_row(name, content, test_images, test_labels)
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
        "  sparsity.png   a picture of each layer\n"
        "  pruning.json   each epoch of the run; tensorboard/ has it, too\n\n"
        f"Next: keras-swd inspect {result.folder / 'model.keras'}\n"
        f"      keras-swd report {result.folder}",
        soft_wrap=True,
        markup=False,
    )
