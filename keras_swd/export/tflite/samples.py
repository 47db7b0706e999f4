"""Sample inputs of a model: those given, in its order, or random ones."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_swd.export.tflite.records import brief
from keras_swd.export.tflite.signature import ModelInput, to_numpy

RANDOM_SAMPLES = 8
# More do not change the ranges of activations much, and each one takes time.
CALIBRATION_SAMPLES = 500
# Any size will do that is large enough for a few strided convolutions.
UNKNOWN_SIZE = 32


def gathered(representative_data: Any) -> Any:
    """Joins the batches of a data set; returns arrays as they are.

    Args:
        representative_data: The argument of this name: arrays as `check_with`
            takes them, or an iterable of batches of such.

    Returns:
        Array, or nested structure of arrays.

    Raises:
        ValueError: If it is neither, or holds no batch.
    """
    data = representative_data
    if hasattr(data, "shape") or isinstance(data, (list, tuple, dict)):
        return data
    if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise ValueError(
            "Argument `representative_data` must be arrays, or an iterable of "
            "batches such as a `tf.data.Dataset` or a generator. Received: "
            f"representative_data={data!r} (of type {type(data).__name__})."
        )
    batches: list[Any] = []
    samples = 0
    # A data set may repeat for ever.
    for batch in data:
        arrays = _batch(batch)
        batches.append(arrays)
        samples += len(keras.tree.flatten(arrays)[0])
        if samples >= CALIBRATION_SAMPLES:
            break
    if not batches:
        raise ValueError(
            "Argument `representative_data` must hold at least one batch. "
            "Received: an iterable that ends at once."
        )
    try:
        return keras.tree.map_structure(
            lambda *arrays: np.concatenate(arrays), *batches
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Argument `representative_data` must hold batches that are alike "
            f"but for their sizes. Received: {brief(error)}"
        ) from error


def _batch(batch: Any) -> Any:
    """Returns a batch of representative data as arrays."""
    try:
        arrays = keras.tree.map_structure(to_numpy, batch)
        leaves = keras.tree.flatten(arrays)
        if leaves and all(array.ndim for array in leaves):
            return arrays
        reason = "not arrays of several samples"
    except Exception as error:
        reason = brief(error)
    raise ValueError(
        "Argument `representative_data` must hold batches of arrays. "
        f"Received: a batch of type {type(batch).__name__}: {reason}"
    )


def calibration_arrays(
    structure: Any, data: Any, batch_size: int | None = None
) -> list[np.ndarray]:
    """Brings representative data into the order of a model's inputs.

    Args:
        structure: Nested structure of `ModelInput`.
        data: Array, or list, tuple or dictionary of arrays.
        batch_size: Integer, how many samples the model takes in each call, or
            `None` if any number. Defaults to `None`.

    Returns:
        List of arrays, one per input, of at most 500 samples or one batch.

    Raises:
        ValueError: If they do not fit the inputs, or are not finite.
    """
    arrays = sample_arrays(structure, data, "representative_data")
    for array in arrays:
        if not np.isfinite(array).all():
            raise ValueError(
                "Argument `representative_data` must be finite: it shows the "
                "ranges of activations. Received: NaN or infinity in an array "
                f"of shape {array.shape}."
            )
    limit = whole_batches(CALIBRATION_SAMPLES, batch_size)
    return [array[:limit] for array in arrays]


def whole_batches(limit: int, batch_size: int | None) -> int:
    """Lowers a number of samples to whole batches, of which one is left.

    The nodes of a graph are one batch, which means nothing if it is cut.

    Args:
        limit: Integer, the most samples wanted.
        batch_size: Integer, or `None` where batches may have any size.

    Returns:
        Integer.

    Example:

    >>> whole_batches(500, 200), whole_batches(500, 2708)
    (400, 2708)
    """
    size = batch_size or 1
    return max(limit // size, 1) * size


def sample_arrays(
    structure: Any, samples: Any = None, argument: str = "check_with"
) -> list[np.ndarray]:
    """Brings samples into the order of a model's inputs, or makes some.

    Random samples are normal for floats, 0 to 255 for `uint8`, as images are,
    and 0 or 1 for other integers, which are valid indices of any embedding; the
    same ones in each call.

    Args:
        structure: Nested structure of `ModelInput`.
        samples: Array, or list, tuple or dictionary of arrays, or `None`.
        argument: String, the argument of a public function that they come
            from. Defaults to `"check_with"`.

    Returns:
        List of arrays, one per input, flat, with the types the model takes.

    Raises:
        ValueError: If `samples` do not fit the inputs.
    """
    inputs = keras.tree.flatten(structure)
    for spec in inputs:
        if spec.dtype == "string":
            raise ValueError(
                "Argument `model` must take numbers. "
                f"Received: input `{spec.key}` of dtype string."
            )
    if samples is None:
        generator = np.random.default_rng(0)
        return [_random_array(spec, generator) for spec in inputs]

    given = _in_order(structure, samples, argument)
    arrays = [
        _numbers(spec, values, argument)
        for spec, values in zip(inputs, given, strict=True)
    ]
    for spec, array in zip(inputs, arrays, strict=True):
        _check_shape(spec, array, argument)
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            f"Argument `{argument}` must hold as many samples for each input. "
            f"Received: {[len(array) for array in arrays]} samples."
        )
    if argument == "representative_data":
        # Of a whole data set few are used; a copy of it may be large.
        size = max((spec.shape[0] or 1 for spec in inputs), default=1)
        limit = -(-CALIBRATION_SAMPLES // size) * size
        arrays = [array[:limit] for array in arrays]
    return [
        _converted(spec, array, argument)
        for spec, array in zip(inputs, arrays, strict=True)
    ]


def _check_shape(spec: ModelInput, array: np.ndarray, argument: str) -> None:
    """Raises a `ValueError` if these are no samples of an input."""
    expected = spec.shape[1:]
    fits = array.ndim == len(spec.shape) and all(
        size is None or size == given
        for size, given in zip(expected, array.shape[1:], strict=True)
    )
    if not fits or not len(array):
        raise ValueError(
            f"Argument `{argument}` must hold at least one sample of shape "
            f"{expected} for input `{spec.key}`. Received: an array of "
            f"shape {array.shape}."
        )


def _converted(
    spec: ModelInput, array: np.ndarray, argument: str
) -> np.ndarray:
    """Returns the samples of one input in its type."""
    converted = array.astype(spec.dtype)
    if "int" in spec.dtype and not np.array_equal(converted, array):
        raise ValueError(
            f"Argument `{argument}` must hold whole numbers for input "
            f"`{spec.key}`, whose type is {spec.dtype}. Received: an array of "
            f"type {array.dtype} with others."
        )
    return converted


def _numbers(spec: ModelInput, values: Any, argument: str) -> np.ndarray:
    try:
        array = to_numpy(values)
    except Exception as error:
        raise ValueError(
            f"Argument `{argument}` must hold an array for input "
            f"`{spec.key}`. Received: a value of type "
            f"{type(values).__name__}, which is none: {brief(error)}"
        ) from error
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(
            f"Argument `{argument}` must hold numbers for input `{spec.key}`. "
            f"Received: an array of type {array.dtype}."
        )
    return array


def _in_order(structure: Any, samples: Any, argument: str) -> list[Any]:
    inputs = keras.tree.flatten(structure)
    if isinstance(samples, dict):
        by_key = {spec.key: spec for spec in inputs}
        if set(samples) == set(by_key):
            return [samples[spec.key] for spec in inputs]
    elif not isinstance(samples, (list, tuple)):
        if len(inputs) == 1:
            return [samples]
    elif not isinstance(structure, dict):
        # A list has no order that fits a dictionary, except by guessing.
        values = keras.tree.flatten(samples)
        if len(values) == len(inputs):
            return values
    if _same_structure(structure, samples):
        return keras.tree.flatten(samples)
    described = [f"`{spec.key}` {spec.shape}" for spec in inputs]
    kind = "a dictionary of arrays" if len(inputs) > 1 else "an array"
    raise ValueError(
        f"Argument `{argument}` must be {kind} for the inputs "
        f"{', '.join(described)}, without labels. Received: {argument} of "
        f"type {type(samples).__name__} with "
        f"{len(keras.tree.flatten(samples))} values."
    )


def _same_structure(structure: Any, other: Any) -> bool:
    try:
        keras.tree.assert_same_structure(structure, other)
    except (ValueError, TypeError):
        return False
    return True


def _random_array(
    spec: ModelInput, generator: np.random.Generator
) -> np.ndarray:
    sizes = [UNKNOWN_SIZE if size is None else size for size in spec.shape[1:]]
    shape = (RANDOM_SAMPLES, *sizes)
    if "float" in spec.dtype:
        return generator.standard_normal(shape).astype(spec.dtype)
    high = 256 if spec.dtype == "uint8" else 2
    return generator.integers(0, high, shape).astype(spec.dtype)
