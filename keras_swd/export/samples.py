"""Sample inputs of a model: those given, in its order, or random ones."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_swd.export.signature import ModelInput, to_numpy

RANDOM_SAMPLES = 8
# Any size will do that is large enough for a few strided convolutions.
UNKNOWN_SIZE = 32


def sample_arrays(structure: Any, check_with: Any = None) -> list[np.ndarray]:
    """Brings samples into the order of a model's inputs, or makes some.

    Random samples are normal for floats, 0 or 1 for integers (so that they
    are valid indices of any embedding), the same ones in each call.

    Args:
        structure: Nested structure of `ModelInput`.
        check_with: Array, or list, tuple or dictionary of arrays, or `None`.

    Returns:
        List of arrays, one per input, flat, with the types the model takes.

    Raises:
        ValueError: If `check_with` does not fit the inputs.
    """
    inputs = keras.tree.flatten(structure)
    for spec in inputs:
        if spec.dtype == "string":
            raise ValueError(
                "Argument `model` must take numbers. "
                f"Received: input `{spec.key}` of dtype string."
            )
    if check_with is None:
        generator = np.random.default_rng(0)
        return [_random_array(spec, generator) for spec in inputs]

    arrays = [to_numpy(x) for x in _in_order(structure, check_with)]
    for spec, array in zip(inputs, arrays, strict=True):
        expected = spec.shape[1:]
        fits = array.ndim == len(spec.shape) and all(
            size is None or size == given
            for size, given in zip(expected, array.shape[1:], strict=True)
        )
        if not fits or not len(array):
            raise ValueError(
                f"Argument `check_with` must hold at least one sample of shape "
                f"{expected} for input `{spec.key}`. Received: an array of "
                f"shape {array.shape}."
            )
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            "Argument `check_with` must hold as many samples for each input. "
            f"Received: {[len(array) for array in arrays]} samples."
        )
    return [
        array.astype(spec.dtype)
        for spec, array in zip(inputs, arrays, strict=True)
    ]


def _in_order(structure: Any, check_with: Any) -> list[Any]:
    inputs = keras.tree.flatten(structure)
    if isinstance(check_with, dict):
        by_key = {spec.key: spec for spec in inputs}
        if set(check_with) == set(by_key):
            return [check_with[spec.key] for spec in inputs]
    elif not isinstance(check_with, (list, tuple)):
        if len(inputs) == 1:
            return [check_with]
    elif not isinstance(structure, dict):
        # A list has no order that fits a dictionary, except by guessing.
        values = keras.tree.flatten(check_with)
        if len(values) == len(inputs):
            return values
    if _same_structure(structure, check_with):
        return keras.tree.flatten(check_with)
    described = [f"`{spec.key}` {spec.shape}" for spec in inputs]
    kind = "a dictionary of arrays" if len(inputs) > 1 else "an array"
    raise ValueError(
        f"Argument `check_with` must be {kind} for the inputs "
        f"{', '.join(described)}. Received: check_with of type "
        f"{type(check_with).__name__} with "
        f"{len(keras.tree.flatten(check_with))} values."
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
