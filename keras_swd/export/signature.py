"""What a model takes and gives: names, shapes, types, and sample inputs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

RANDOM_SAMPLES = 8
# Any size will do that is large enough for a few strided convolutions.
UNKNOWN_SIZE = 32


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """One tensor that a model takes.

    Args:
        key: String: what Keras calls it, a tensor's name or a dictionary's key.
        name: String: its name in a file's signature, a Python identifier.
        shape: Tuple of integers and `None`, the batch axis included.
        dtype: String.
    """

    key: str
    name: str
    shape: tuple[int | None, ...]
    dtype: str


def check_built(model: Any) -> None:
    """Refuses what is not a built Keras 3 model.

    Args:
        model: The argument `model` of a public function.

    Raises:
        TypeError: If it is not a `keras.Model`.
        ValueError: If it is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a Keras 3 model, an instance of "
            f"`keras.Model`. Received: model={model} (of type {type(model)})."
        )
    if not model.built:
        raise ValueError(
            "Argument `model` must be built: its weights and the shape of its "
            "input are not known yet. Call it once on data, or call "
            f"`model.build(input_shape)`. Received: model={model}."
        )


def input_structure(model: keras.Model, check_with: Any = None) -> Any:
    """Describes the inputs of a model, nested as the model takes them.

    A functional or sequential model knows them. A subclassed one keeps the
    shapes it was built with, not the types; samples tell both.

    Args:
        model: Built Keras model.
        check_with: Sample inputs, as for `to_tflite`, or `None`.

    Returns:
        Nested structure of `ModelInput`; a single one for most models.

    Raises:
        ValueError: If nothing tells the shapes.
    """
    symbolic = getattr(model, "inputs", None)
    if symbolic and all(isinstance(x, keras.KerasTensor) for x in symbolic):
        structure = (
            symbolic[0] if isinstance(model, keras.Sequential) else model.input
        )
        drafts = [
            (_path_name(path) or tensor.name, tuple(tensor.shape), tensor.dtype)
            for path, tensor in keras.tree.flatten_with_path(structure)
        ]
    elif check_with is not None:
        structure = keras.tree.map_structure(_to_numpy, check_with)
        drafts = [
            (_path_name(path), (None, *array.shape[1:]), _plain_type(array))
            for path, array in keras.tree.flatten_with_path(structure)
        ]
    else:
        config = model.get_build_config() or {}
        structure = _shape_leaves(config.get("input_shape"))
        if structure is None:
            raise ValueError(
                "Argument `check_with` must hold sample inputs: this model "
                "does not know the shapes of its inputs. Received: "
                f"check_with=None, model={model}."
            )
        drafts = [
            (_path_name(path), (None, *leaf.shape[1:]), "float32")
            for path, leaf in keras.tree.flatten_with_path(structure)
        ]
    names = signature_names([key for key, _, _ in drafts], "input")
    leaves = [
        ModelInput(
            key or name, name, shape, keras.backend.standardize_dtype(dtype)
        )
        for name, (key, shape, dtype) in zip(names, drafts, strict=True)
    ]
    return keras.tree.pack_sequence_as(structure, leaves)


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

    arrays = [_to_numpy(x) for x in _in_order(structure, check_with)]
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


def predict(
    model: keras.Model, structure: Any, arrays: Iterable[Any]
) -> tuple[list[str], list[np.ndarray]]:
    """Runs a Keras model in inference mode.

    Args:
        model: Built Keras model.
        structure: Nested structure of `ModelInput`.
        arrays: One array per input, flat.

    Returns:
        Tuple of the names of the outputs, and the outputs as arrays.
    """
    # A GPU may compute float32 with shortened mantissas (TF32); a file runs
    # on the CPU, and so must what it is compared with.
    if keras.config.backend() == "tensorflow":
        with keras.device("cpu:0"):
            names, outputs = call(model, structure, arrays)
    else:
        names, outputs = call(model, structure, arrays)
    return names, [_to_numpy(output) for output in outputs]


def call(
    model: keras.Model, structure: Any, values: Iterable[Any]
) -> tuple[list[str], list[Any]]:
    """Calls a model on flat inputs.

    Args:
        model: Built Keras model.
        structure: Nested structure of `ModelInput`.
        values: One array or tensor per input, flat.

    Returns:
        Tuple of the names of the outputs (the keys where the model returns a
        dictionary, else `output_0`, `output_1` and so on) and the outputs.
    """
    packed = keras.tree.pack_sequence_as(structure, list(values))
    outputs = model(packed, training=False)
    named = [
        (_path_name(path), output)
        for path, output in keras.tree.flatten_with_path(outputs)
        if output is not None
    ]
    keys = [key if isinstance(outputs, dict) else "" for key, _ in named]
    return signature_names(keys, "output"), [output for _, output in named]


def signature_names(keys: Iterable[str], prefix: str) -> list[str]:
    """Makes names for a file's signature.

    Args:
        keys: Iterable of strings: what Keras calls the tensors.
        prefix: String: what to call those without a name of their own.

    Returns:
        List of identifiers, different also when case is ignored, as
        TensorFlow wants them.
    """
    names: list[str] = []
    taken: set[str] = set()
    for index, key in enumerate(keys):
        # Names that Keras counts up depend on what the process did before.
        counted = re.fullmatch(r"(keras_tensor|input_layer)(_\d+)?", key)
        name = "" if counted else re.sub(r"\W", "_", key, flags=re.ASCII)
        if not re.match(r"[A-Za-z]", name):
            name = f"{prefix}_{name.strip('_') or index}"
        while name.lower() in taken:
            name = f"{name}_{index}"
        taken.add(name.lower())
        names.append(name)
    return names


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


def _to_numpy(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value))


def _plain_type(array: np.ndarray) -> str:
    # Python's numbers are 64 bits wide, a phone's are not.
    narrow = {"float64": "float32", "float16": "float32", "int64": "int32"}
    return narrow.get(array.dtype.name, array.dtype.name)


def _path_name(path: tuple[Any, ...]) -> str:
    # A position alone says no more than the order does.
    named = any(isinstance(part, str) for part in path)
    return "_".join(map(str, path)) if named else ""


def _shape_leaves(shapes: Any) -> Any:
    """Puts each shape into one leaf; a bare tuple would be flattened."""
    if isinstance(shapes, dict):
        return {key: _shape_leaves(value) for key, value in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        if all(size is None or isinstance(size, int) for size in shapes):
            return ModelInput("", "", tuple(shapes), "float32")
        return [_shape_leaves(value) for value in shapes]
    return None
