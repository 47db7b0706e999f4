"""How far a file is from what is predicted, known by converting it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import keras
import numpy as np

from keras_swd.export.sizes.kind import FileKind
from keras_swd.export.tflite.conversion import Request, convert
from keras_swd.export.tflite.flatbuffer import stored_tensors
from keras_swd.export.tflite.records import brief, gzip_size
from keras_swd.export.tflite.reference import prepare
from keras_swd.rebuilding.stripping import plain_copy


def excess(
    kind: FileKind, model: keras.Model, values: Mapping[int, np.ndarray]
) -> int:
    """Returns how many bytes a model's file has more than is predicted.

    Operators, names and small constants hardly depend on the weights, so what
    they are predicted wrongly by in one file, they are in all. A copy of the
    model is converted in memory, and compared.

    Args:
        kind: `FileKind`.
        model: Built Keras model.
        values: From the `id` of a variable to the values that the copy has;
            others are taken as they are.

    Returns:
        Integer, which may be negative. 0 on other backends than TensorFlow,
        and, with a warning, if the model cannot be converted.

    Raises:
        ValueError: If the file cannot leave zeros out.
    """
    if keras.backend.backend() != "tensorflow":
        return 0
    try:
        twin = _copy_with(model, values)
        reference = prepare(twin, None)
        quantized = kind.quantization is not None
        request = Request(
            reference=reference,
            calibration=reference.arrays if quantized else None,
            tolerance=None,
            quantization=kind.quantization,
            sparse=(False,) if kind.gzip else (False, True),
            flex=False,
        )
        files = convert(request)
        predicted = kind.predictor(twin)({})
    except Exception as error:
        warnings.warn(
            f"The {kind.name} of model {model.name!r} could not be tried, so "
            "its size is predicted from its layers alone, and may be a few "
            "percent larger. `export.to_tflite` will tell more. "
            f"Cause: {brief(error)}",
            stacklevel=2,
        )
        return 0
    contents = [
        file.content
        for file in files
        # A file that has lost entries is refused when it is written.
        if file.content is not None
        and not any(t.incomplete for t in stored_tensors(file.content))
    ]
    refused = [file.refused for file in files if file.content is None]
    if refused:
        raise ValueError(
            f"Zeros make no {kind.name} of model {model.name!r} smaller. "
            f"{refused[0]} Pass `gzip=True` for the size after gzip, or cut "
            "channels, with `keras_swd.Parameters(left=...)` and "
            "`keras_swd.shrink`."
        )
    measure = gzip_size if kind.gzip else len
    return min(map(measure, contents)) - predicted


def _copy_with(
    model: keras.Model, values: Mapping[int, np.ndarray]
) -> keras.Model:
    twin = plain_copy(model)
    for mine, other in zip(model.weights, twin.weights, strict=True):
        if id(mine) in values:
            other.assign(values[id(mine)])
    return twin
