"""What the commands are given: checked before anything slow begins."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def start(backend: str | None = None) -> None:
    """Imports Keras without what TensorFlow prints when it starts.

    Args:
        backend: String, the backend that a command needs. Defaults to `None`,
            the user's.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if backend is not None:
        # The files that are read and written are the same for each backend.
        os.environ["KERAS_BACKEND"] = backend
    with _silent_errors():
        importlib.import_module("keras_swd")


@contextlib.contextmanager
def _silent_errors() -> Iterator[None]:
    """Drops what is written to standard error from C++, too."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def in_one_line(error: Exception) -> str:
    """The message of an error without line breaks, and not too long.

    What to do stands at its end.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:250]} … {text[-247:]}"


def check_input(model: str, suffixes: tuple[str, ...]) -> Path:
    """Returns the path of a model's file, or raises with what is wrong."""
    path = Path(model)
    if path.is_dir():
        raise ValueError(f"{model} is a folder, not a file.")
    if not path.is_file():
        raise ValueError(f"{model} does not exist.")
    if path.suffix not in suffixes:
        hint = ""
        if path.suffix in (".h5", ".hdf5"):
            hint = (
                " Load it in Python with keras.saving.load_model and save it "
                "as .keras."
            )
        elif path.suffix == ".tflite":
            hint = " A .tflite file is one already; see keras-swd inspect."
        raise ValueError(
            f"{model} does not end in {' or '.join(suffixes)}.{hint}"
        )
    return path


def check_folder(folder: str) -> Path:
    """Returns the path of a folder, or raises with what is wrong."""
    path = Path(folder)
    if not path.exists():
        raise ValueError(f"{folder} does not exist.")
    if not path.is_dir():
        raise ValueError(f"{folder} is a file, not a folder.")
    return path


def check_output(
    option: str, path: str | None, suffix: str = "", source: Path | None = None
) -> None:
    """Raises if a file cannot be written there: better now than later.

    `source` is what the command reads, and must not be replaced.
    """
    if path is None:
        return
    target = Path(path)
    if suffix and target.suffix != suffix:
        raise ValueError(f"{option} {path}: the name must end in {suffix}.")
    if source is not None and target.exists() and target.samefile(source):
        raise ValueError(f"{option} {path}: this is the file that is read.")
    if target.is_dir():
        raise ValueError(f"{option} {path}: this is a folder, not a file.")
    if target.exists() and not target.is_file():
        raise ValueError(f"{option} {path}: this is a device, not a file.")
    if not target.parent.is_dir():
        raise ValueError(
            f"{option} {path}: the folder {target.parent} does not exist."
        )
    if not os.access(target.parent, os.W_OK):
        raise ValueError(
            f"{option} {path}: the folder {target.parent} is not writable."
        )


def load_model(path: Path) -> Any:
    """Returns the model of a .keras file, or raises with what is wrong."""
    import keras

    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            begins_as_zip = file.read(2) == b"PK"
        wrong = (
            "is damaged or cut short; copy or save it again"
            if begins_as_zip
            else "is no .keras file, whatever its name; save with model.save()"
        )
        raise ValueError(f"{path} {wrong}.")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises anything on a strange file.
        message = str(error)
        unknown = re.search(r"Could not locate \w+ '([^']+)'", message)
        if unknown:
            wrong = (
                f"needs the custom object {unknown[1]!r}, which only your code "
                "defines. Load it in Python and use keras_swd.sparsity_report "
                "or keras_swd.export.to_tflite there"
            )
        elif "safe_mode" in message or "unsafe" in message:
            wrong = (
                "holds Python code (a Lambda layer), which is not run from a "
                "file. If you trust it, load it in Python with safe_mode=False"
            )
        else:
            wrong = f"cannot be read: {in_one_line(error).rstrip('.')}"
        raise ValueError(f"{path} {wrong}.") from error
    if not model.built:
        raise ValueError(
            f"{path} holds a model that was saved before it had weights. Call "
            "it on data, or model.build(input_shape), and save it again."
        )
    return model


def load_arrays(samples: str) -> Any:
    """Returns the array of an .npz file, or its arrays by name if several."""
    import numpy as np

    path = Path(samples)
    if not path.is_file():
        raise ValueError(f"--representative {samples}: this is no file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (
        AttributeError,
        EOFError,
        TypeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise ValueError(
            f"--representative {samples}: this is no .npz file of numbers; "
            "write it with numpy.savez(path, inputs)."
        ) from error
    if not arrays:
        raise ValueError(f"--representative {samples}: this file is empty.")
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))
