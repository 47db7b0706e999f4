"""Does a TFLite file compute what a Keras model computes?"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.export import signature
from keras_swd.export.flatbuffer import (
    StoredTensor,
    operator_counts,
    stored_tensors,
)
from keras_swd.export.float32 import in_float32
from keras_swd.export.interpreter import TFLiteFile
from keras_swd.export.records import (
    ExportError,
    OutputCheck,
    TFLiteCheck,
    brief,
    gzip_size,
)
from keras_swd.export.samples import sample_arrays

# Rounding of float32 gives 1e-7 to 1e-5 of the largest output, depending on
# depth; weights stored in 16 bits, or read wrongly, 1e-3 and more.
TOLERANCE = 1e-4
BATCH = 32


def check_tflite(
    path: str | os.PathLike[str],
    model: keras.Model,
    check_with: Any = None,
    tolerance: float = TOLERANCE,
) -> TFLiteCheck:
    """Checks that a TFLite file computes what a Keras model computes.

    The file is run by LiteRT twice, with its default delegates and without
    any, since each may fail where the other works. Inputs and outputs are
    matched by the names in the file's signature, as their order may differ
    from that of Keras. Works with each Keras backend.

    Args:
        path: String or path of a `.tflite` file.
        model: Built Keras model.
        check_with: Sample inputs: an array, or for several inputs a list,
            tuple or dictionary of arrays, as the model takes them. Defaults
            to `None`, which makes a few random ones: normal for floats, 0 or
            1 for integers. Real samples say more.
        tolerance: Float, the largest difference allowed in an output, relative
            to the largest magnitude of this output in Keras. Defaults to
            `1e-4`.

    Returns:
        `TFLiteCheck`.

    Raises:
        ExportError: If the file does not load, does not run, gives NaN or
            disagrees; its `difference` is the largest seen.
        ValueError: If an argument does not fit.

    Example:

    >>> import tempfile
    >>> from keras_swd.export import to_tflite
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_tflite(model, f"{folder}/model.tflite", sparse=False)
    ...     check = check_tflite(f"{folder}/model.tflite", model)
    >>> check.operators
    {'FULLY_CONNECTED': 1}
    """
    check_tolerance(tolerance)
    if not Path(path).is_file():
        raise ValueError(
            "Argument `path` must be an existing TFLite file. "
            f"Received: path={str(path)!r}."
        )
    twin, structure, arrays = prepare(model, check_with)
    return compare(Path(path), twin, structure, arrays, tolerance)


def prepare(
    model: keras.Model, check_with: Any
) -> tuple[keras.Model, Any, list[np.ndarray]]:
    """Brings a model and its samples into the form that is compared.

    Args:
        model: The argument `model` of a public function.
        check_with: The argument `check_with` of a public function.

    Returns:
        Tuple of the model in float32, the nested structure of its inputs, and
        one array of samples per input.
    """
    signature.check_model(model)
    structure = signature.input_structure(model, check_with)
    arrays = sample_arrays(structure, check_with)
    signature.check_call(model, structure, arrays)
    return in_float32(model, structure, arrays), structure, arrays


def check_tolerance(tolerance: float) -> None:
    """Refuses a tolerance that is no number from zero on."""
    if isinstance(tolerance, (int, float)) and 0 <= tolerance < math.inf:
        return
    raise ValueError(
        "Argument `tolerance` must be a number, at least 0: a difference "
        "relative to the largest output. "
        f"Received: tolerance={tolerance}."
    )


def compare(
    path: Path,
    model: keras.Model,
    structure: Any,
    arrays: list[np.ndarray],
    tolerance: float,
) -> TFLiteCheck:
    """Runs a file and a float32 model on the same samples.

    Args:
        path: Path of a TFLite file.
        model: Built Keras model that computes in float32.
        structure: Nested structure of `ModelInput`.
        arrays: List of sample arrays, one per input.
        tolerance: Float.

    Returns:
        `TFLiteCheck`.

    Raises:
        ExportError: If the file does not work.
    """
    content = path.read_bytes()
    tensors = _complete_tensors(content)
    files = [TFLiteFile(content, structure, flag) for flag in (True, False)]
    batch_size = files[0].batch_size
    # A file for any batch size is run as it is allocated when nobody resizes
    # it, with one sample, and resized. One that cannot be resized counts.
    sizes = [BATCH, 1] if batch_size is None else [batch_size]
    for size in sizes:
        chunks = list(_chunks(arrays, size, padded=batch_size is not None))
        predicted = [signature.predict(model, structure, c) for c in chunks]
        names = predicted[0][0]
        expected = [outputs for _, outputs in predicted]
        try:
            received = [file.run(chunks, names) for file in files]
            break
        except (RuntimeError, ValueError) as error:
            if isinstance(error, ExportError):
                raise
            if size == sizes[-1]:
                raise ExportError(
                    f"The file does not run: {brief(error)}"
                ) from error
    outputs = tuple(
        _worst(
            [
                compare_output(
                    name,
                    [chunk[index] for chunk in expected],
                    [chunk[index] for chunk in outputs],
                    tolerance,
                )
                for outputs in received
            ]
        )
        for index, name in enumerate(names)
    )
    agreements = [
        output.top1_agreement
        for output in outputs
        if output.top1_agreement is not None
    ]
    weights = [tensor for tensor in tensors if tensor.is_weight]
    kernels = [_array(v) for v in model.weights if _is_weight(v)]
    return TFLiteCheck(
        path=str(path),
        bytes=len(content),
        gzip_bytes=gzip_size(content),
        samples=len(arrays[0]),
        tolerance=float(tolerance),
        max_absolute_difference=max(
            output.max_absolute_difference for output in outputs
        ),
        max_relative_difference=max(
            output.max_relative_difference for output in outputs
        ),
        top1_agreement=min(agreements) if agreements else None,
        outputs=outputs,
        inputs=tuple(files[0].input_names),
        batch_size=batch_size,
        batch_resizes=batch_size is None and size == BATCH,
        weights=sum(tensor.size for tensor in weights),
        zeros=sum(tensor.zeros or 0 for tensor in weights),
        model_weights=sum(kernel.size for kernel in kernels),
        model_zeros=sum(int(np.sum(kernel == 0)) for kernel in kernels),
        sparse_tensors=tuple(
            tensor.name for tensor in tensors if tensor.sparse
        ),
        operators=operator_counts(content),
    )


def _complete_tensors(content: bytes) -> tuple[StoredTensor, ...]:
    """Reads the constants of a file; refuses one that must not be run."""
    if content[4:8] != b"TFL3":
        raise ExportError("This is no TFLite file.")
    try:
        tensors = stored_tensors(content)
        operators = operator_counts(content)
    except ImportError:
        raise
    except Exception as error:
        raise ExportError(
            f"The file is damaged: {type(error).__name__}: {brief(error)}"
        ) from error
    for tensor in tensors:
        if tensor.incomplete:
            raise ExportError(
                f"Tensor {tensor.name!r} of shape {tensor.shape} lost entries "
                "when it was stored sparse, in blocks of 4: TensorFlow Lite "
                "does this to dense layers whose number of inputs is no "
                "multiple of 4, at high sparsity. Give the layer such a "
                "number of inputs, or store it dense."
            )
    flex = [name for name in operators if name.startswith("Flex")]
    if flex:
        raise ExportError(
            "The file needs TensorFlow's own operators, which LiteRT has not: "
            f"{', '.join(flex)}."
        )
    return tensors


def _chunks(
    arrays: list[np.ndarray], size: int, padded: bool
) -> Iterator[list[np.ndarray]]:
    samples = len(arrays[0])
    if padded:
        for start in range(0, samples, size):
            places = np.arange(start, start + size) % samples
            yield [array[places] for array in arrays]
        return
    if size > 1:
        yield [array[:1] for array in arrays]
    for start in range(0, samples, size):
        yield [array[start : start + size] for array in arrays]


def compare_output(
    name: str,
    expected: list[np.ndarray],
    received: list[np.ndarray],
    tolerance: float,
) -> OutputCheck:
    """Compares one output of a file with the same output of Keras.

    Args:
        name: String: what to call it.
        expected: List of arrays, one per chunk of samples, from Keras.
        received: List of arrays, from the file.
        tolerance: Float.

    Returns:
        `OutputCheck`.

    Raises:
        ExportError: If shapes differ, values differ by more than `tolerance`
            times the largest finite one of Keras, or one is NaN.

    Example:

    >>> keras_says, file_says = np.array([4.0, 0.0]), np.array([4.0, 1.0])
    >>> check = compare_output("y", [keras_says], [file_says], tolerance=0.3)
    >>> check.max_absolute_difference, check.max_relative_difference
    (1.0, 0.25)
    """
    for ours, theirs in zip(expected, received, strict=True):
        if ours.shape != theirs.shape:
            raise ExportError(
                f"Output `{name}` of the file has shape {theirs.shape}, the "
                f"model's has shape {ours.shape}."
            )
        for array, owner in ((ours, "Keras model"), (theirs, "file")):
            if np.isnan(array).any():
                raise ExportError(
                    f"Output `{name}` of the {owner} has NaN for these "
                    "samples. If other samples are fine, give them in "
                    "`check_with`."
                )
    rank, size = expected[0].ndim, expected[0].shape[-1:]
    agreement = None
    if rank >= 2 and size[0] > 1:
        same = [
            np.argmax(ours, -1) == np.argmax(theirs, -1)
            for ours, theirs in zip(expected, received, strict=True)
        ]
        agreement = float(np.mean(np.concatenate([s.ravel() for s in same])))
    ours = np.concatenate([x.ravel() for x in expected]).astype("float64")
    theirs = np.concatenate([x.ravel() for x in received]).astype("float64")
    with np.errstate(invalid="ignore"):
        # Equal infinities agree.
        distance = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    absolute = float(np.max(distance, initial=0.0))
    scale = float(np.max(np.abs(ours), initial=0.0, where=np.isfinite(ours)))
    relative = absolute
    if absolute:
        relative = absolute / scale if scale else math.inf
    if not relative <= tolerance:
        raise ExportError(
            f"Output `{name}` of the file differs from Keras by "
            f"{relative:.1e} of the largest output ({absolute:.1e} absolute); "
            f"allowed are {tolerance:.1e}.",
            relative,
        )
    return OutputCheck(name, absolute, relative, agreement)


def _worst(checks: list[OutputCheck]) -> OutputCheck:
    agreements = [
        check.top1_agreement
        for check in checks
        if check.top1_agreement is not None
    ]
    return OutputCheck(
        name=checks[0].name,
        max_absolute_difference=max(c.max_absolute_difference for c in checks),
        max_relative_difference=max(c.max_relative_difference for c in checks),
        top1_agreement=min(agreements) if agreements else None,
    )


def _is_weight(variable: Any) -> bool:
    return len(variable.shape) >= 2 and "float" in str(variable.dtype)


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))
