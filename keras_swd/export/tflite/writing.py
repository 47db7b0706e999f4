"""Write a Keras model as a TFLite file that is known to work."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.export.tflite import signature
from keras_swd.export.tflite.agreement import compare
from keras_swd.export.tflite.conversion import (
    Candidate,
    Request,
    convert,
)
from keras_swd.export.tflite.differences import UndefinedOutputError
from keras_swd.export.tflite.modes import MODES, check_tolerance
from keras_swd.export.tflite.quantization import (
    check_quantization,
    is_quantization_aware,
)
from keras_swd.export.tflite.records import (
    ExportError,
    TFLiteCheck,
    TFLiteReport,
)
from keras_swd.export.tflite.reference import Reference, prepare
from keras_swd.export.tflite.samples import (
    calibration_arrays,
    gathered,
    whole_batches,
)
from keras_swd.files import beside, check_target, put, write_new

# Of representative data, as many samples are compared.
COMPARED = 64


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantization: str | None = None,
    sparse: bool | str = "auto",
    representative_data: Any = None,
    check_with: Any = None,
    tolerance: float | None = None,
    flex: bool = False,
) -> TFLiteReport:
    """Writes a TFLite file and proves that it works.

    The file is written beside `path`, run by LiteRT with its default
    delegates and without any, compared with Keras, and only then renamed to
    `path`. Whatever fails leaves no file, and a file that was there before
    stays as it was; the error names the nearest combination of arguments that
    works, having tried it.

    | quantization | weights | activations | agrees with Keras within |
    |---|---|---|---|
    | `None` | float32 | float32 | 1e-4 of the largest output |
    | `"float16"` | float16 | float32 | 1e-2 of the largest output |
    | `"dynamic"` | int8 | float32, rounded on the way | 0.25 of the rms |
    | `"int8"` | int8 | int8 | 0.25 of the rms |
    | `"int16x8"` | int8 | int16 | 0.25 of the rms |

    "Of the rms": the root mean square of the differences over that of the
    output. Inputs and outputs of the file have the types that the model's have,
    usually float32, in each mode. Weights
    that are zero in the model are zero in the file, in each mode. The
    converter leaves tensors below 1024 entries in float in the mode
    `"dynamic"`; what has no operator in integers stays in float in the modes
    `"int8"` and `"int16x8"`, and the report's `fallback` lists it.

    A sparse file stores kernels without their zeros. That makes it smaller
    from about one third of zeros on (in integers two thirds), and larger
    below; it needs as much memory and time as a dense one, since the zeros
    come back when it is loaded. LiteRT's default delegate cannot run most
    sparse kernels of integers: such files are refused.

    Models whose inputs take any number of samples become files that do too,
    where possible. Recurrent layers need a fixed number: then the file takes
    one sample, and the report's `batch_size` is 1. Models trained with
    another float type, e.g. `mixed_float16`, are exported and compared in
    float32.

    Args:
        model: Built Keras model on the TensorFlow backend, or a model of
            tf_keras, as tfmot makes them. One that was trained by tfmot's
            quantization-aware training becomes an `"int8"` file.
        path: String or path ending in `.tflite`, in an existing folder.
        quantization: `None`, `"float16"`, `"dynamic"`, `"int8"` or
            `"int16x8"`. Defaults to `None`.
        sparse: `True`, `False` or `"auto"`: store kernels without their zeros,
            with them, or take the smallest file that works. Defaults to
            `"auto"`.
        representative_data: Inputs as the model meets them in use, for the
            modes `"int8"` and `"int16x8"`, which round each activation within
            the range that these show: an array, or for several inputs a
            list, tuple or dictionary of arrays, or an iterable of batches of
            such (a `tf.data.Dataset`, a generator), without labels. At most
            500 samples are used. Defaults to `None`; a model from
            quantization-aware training has the ranges in it.
        check_with: Sample inputs: an array, or for several inputs a list,
            tuple or dictionary of arrays, as the model takes them. Defaults
            to `None`, which takes 64 of `representative_data`, or else makes a
            few random ones: normal for floats, 0 to 255 for `uint8`, 0 or 1
            for other integers. Real
            samples say more.
        tolerance: Float, the largest difference allowed in an output, relative
            to the measure in the table. Defaults to `None`, the number in the
            table.
        flex: Boolean, may the file use TensorFlow's own operators, where
            TensorFlow Lite has none? It is refused all the same unless LiteRT
            can run it, which takes its "Flex" delegate; the Python packages
            come without. Defaults to `False`.

    Returns:
        `TFLiteReport`; printed, it is a table.

    Raises:
        ExportError: If no file works: an operator is missing in TensorFlow
            Lite, outputs disagree or are NaN, zeros are lost, the disk is
            full, the backend is another one.
        TypeError: If `model` is no Keras model.
        ValueError: If an argument does not fit, or the model is not built or
            has weights that are not finite.
        ImportError: If TensorFlow or LiteRT is not installed.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    >>> kernel = model.layers[0].kernel
    >>> _ = kernel.assign(kernel * (keras.random.uniform((64, 64)) > 0.9))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_tflite(model, f"{folder}/model.tflite")
    >>> report.sparse, report.zeros == report.model_zeros
    (True, True)
    """
    target = check_path(path)
    request = request_for(
        model,
        quantization,
        sparse,
        representative_data,
        check_with,
        tolerance,
        flex,
    )
    try:
        return write_smallest(request, target)
    except (UnwritableError, UndefinedOutputError):
        raise  # other arguments would change nothing
    except ExportError as error:
        remedy = _nearest(request)
        raise ExportError(f"{error} {remedy}", error.difference) from error


def request_for(
    model: keras.Model,
    quantization: str | None,
    sparse: bool | str,
    representative_data: Any,
    check_with: Any,
    tolerance: float | None = None,
    flex: bool = False,
) -> Request:
    """Returns what is to be written; the arguments are those of `to_tflite`."""
    for name, value, allowed in (
        ("sparse", sparse, (True, False, "auto")),
        ("flex", flex, (True, False)),
    ):
        if value not in allowed:
            raise ValueError(
                f"Argument `{name}` must be {_either(allowed)}. "
                f"Received: {name}={value!r}."
            )
    check_tolerance(tolerance, quantization)
    _check_backend()
    signature.check_model(model)
    signature.check_names(model)
    check_quantization(model, quantization, representative_data)
    reference, calibration = _references(model, check_with, representative_data)
    return Request(
        reference=reference,
        calibration=calibration,
        tolerance=tolerance,
        quantization=quantization,
        sparse=(False, True) if sparse == "auto" else (bool(sparse),),
        flex=bool(flex),
    )


def check_path(path: str | os.PathLike[str]) -> Path:
    """Returns `path` if a TFLite file can lie there, or raises."""
    target = Path(path)
    if target.suffix != ".tflite":
        raise ValueError(
            "Argument `path` must end in '.tflite'. "
            f"Received: path={str(path)!r}."
        )
    if target.parent.is_dir() and not os.access(target.parent, os.W_OK):
        raise ValueError(
            "Argument `path` must lie in a folder that can be written to; "
            f"{str(target.parent)!r} cannot. Received: path={str(path)!r}."
        )
    return check_target(target)


class UnwritableError(ExportError):
    """The file works, and could not be written."""


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Tells in an `UnwritableError` what kept a file from being written."""
    try:
        yield
    except OSError as error:
        raise UnwritableError(
            f"No file was written: {error.strerror or error} in the folder "
            f"{str(target.parent)!r}. Choose another folder in `path`, or make "
            "room."
        ) from error


def _references(
    model: Any, check_with: Any, representative_data: Any
) -> tuple[Reference, list[np.ndarray] | None]:
    """Returns what files are compared with, and what shows the ranges."""
    if representative_data is None:
        return prepare(model, check_with), None
    data = gathered(representative_data)
    if check_with is not None:
        reference = prepare(model, check_with)
    else:
        reference = prepare(model, data, "representative_data")
    structure = reference.structure
    batch_size = signature.fixed_batch_size(model, structure)
    calibration = calibration_arrays(structure, data, batch_size)
    if check_with is None:
        limit = whole_batches(COMPARED, batch_size)
        arrays = [array[:limit] for array in reference.arrays]
        reference = dataclasses.replace(reference, arrays=arrays)
    return reference, calibration


def write_smallest(request: Request, target: Path) -> TFLiteReport:
    """Writes the smallest candidate that works; the first of equal ones."""
    candidates = convert(request)
    variants = {c.sparse: c.as_variant(c.refused) for c in candidates}
    check: TFLiteCheck | None = None
    difference = None
    files = [c for c in candidates if c.content is not None]
    for candidate in sorted(files, key=lambda c: len(c.content or b"")):
        if check is not None:
            variants[candidate.sparse] = candidate.as_variant("not smaller")
            continue
        try:
            check = _write_checked(candidate, request, target)
            chosen = candidate.sparse
        except (UnwritableError, UndefinedOutputError):
            raise
        except ExportError as error:
            difference = error.difference
            variants[candidate.sparse] = candidate.as_variant(str(error))
    if check is None:
        reasons: dict[str | None, list[str]] = {}
        for variant in variants.values():
            reasons.setdefault(variant.refused, []).append(variant.name)
        told = [f"{'/'.join(n)}: {reason}" for reason, n in reasons.items()]
        raise ExportError(f"No file was written. {' '.join(told)}", difference)
    return TFLiteReport(
        **vars(check), sparse=chosen, variants=tuple(variants.values())
    )


def _write_checked(
    candidate: Candidate, request: Request, target: Path
) -> TFLiteCheck:
    """Writes a file beside the target, and renames it if it works."""
    tolerance = check_tolerance(request.tolerance, request.quantization)
    place = target.resolve()  # a link to a file stays, and is followed
    with writing(target), beside(place) as temporary:
        write_new(temporary, candidate.content or b"")
        check = compare(
            temporary,
            request.reference,
            tolerance,
            request.quantization,
            request.flex,
        )
        put(temporary, place)
    return dataclasses.replace(check, path=str(target))


def _nearest(request: Request) -> str:
    """Names the nearest combination that works, having tried it."""
    for arguments, other in _alternatives(request):
        with contextlib.suppress(ExportError):
            with tempfile.TemporaryDirectory() as folder:
                report = write_smallest(other, Path(folder) / "other.tflite")
            return f"`{arguments}` works and gives {report.bytes:,} bytes."
    return "No other combination of arguments works."


def _alternatives(request: Request) -> Iterator[tuple[str, Request]]:
    """Lists what may work instead, the nearest first."""
    if request.sparse == (True,):
        dense = dataclasses.replace(request, sparse=(False,))
        yield "sparse=False", dense
    if request.tolerance is not None:
        yield "tolerance=None", dataclasses.replace(request, tolerance=None)
    modes = list(MODES)
    weaker = modes[modes.index(request.quantization) + 1 :]
    if is_quantization_aware(request.reference.model):
        weaker = []
    for mode in weaker:
        other = dataclasses.replace(
            request, quantization=mode, sparse=(False, True), tolerance=None
        )
        default = "" if request.tolerance is None else ", tolerance=None"
        yield f"quantization={mode!r}{default}", other


def _either(values: tuple[Any, ...]) -> str:
    *most, last = map(repr, values)
    return f"{', '.join(most)} or {last}"


def _check_backend() -> None:
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ExportError(
            "`to_tflite` needs Keras on the TensorFlow backend; this process "
            f"uses {backend!r}. Save the model with `model.save('m.keras')`, "
            "start Python with KERAS_BACKEND=tensorflow, load it with "
            "`keras.saving.load_model('m.keras')` and export it there."
        )
    for module, package in (
        ("tensorflow", "TensorFlow"),
        ("ai_edge_litert", "LiteRT"),
    ):
        try:
            __import__(module)
        except ImportError as error:
            raise ImportError(
                f"`to_tflite` needs {package}: pip install 'keras_swd[tflite]'."
            ) from error
