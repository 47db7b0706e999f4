"""What a model takes and gives: names, shapes, types."""

from __future__ import annotations

import dataclasses
import keyword
import re
import sys
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_swd.export.tflite.records import brief
from keras_swd.models import all_layers

#: What TensorFlow takes as the name of a scope.
SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]*")


@dataclasses.dataclass(frozen=True)
class ModelInput:
    """One tensor that a model takes.

    Args:
        key: String, what Keras calls it, a tensor's name or a dictionary's key.
        name: String, its name in a file's signature, a Python identifier.
        shape: Tuple of integers and `None`, the batch axis included.
        dtype: String.
    """

    key: str
    name: str
    shape: tuple[int | None, ...]
    dtype: str


def is_tf_keras(model: Any) -> bool:
    """Whether this is a model of tf_keras, Keras 2, as tfmot makes them."""
    # Who has one has imported the package; we need not.
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def check_model(model: Any) -> None:
    """Refuses what is not a built Keras model, or keeps state.

    Args:
        model: The argument `model` of a public function.

    Raises:
        TypeError: If it is neither a `keras.Model` nor a `tf_keras.Model`.
        ValueError: If it is not built, has a stateful recurrent layer, or
            weights that are NaN or infinite.
    """
    if not isinstance(model, keras.Model) and not is_tf_keras(model):
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
    for layer in all_layers(model):
        if getattr(layer, "stateful", False):
            raise ValueError(
                "Argument `model` must give the same outputs in each call: "
                "build it with `stateful=False`. Received: a model with the "
                f"stateful layer {layer.name!r}."
            )
    for weight in model.weights:
        values = to_numpy(weight)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                "Argument `model` must have finite weights. Received: NaN or "
                f"infinity in `{weight_path(weight)}`. Did its training "
                "diverge?"
            )


def check_names(model: Any) -> None:
    """Refuses names that TensorFlow does not take where layers are called.

    Args:
        model: Keras or tf_keras model.

    Raises:
        ValueError: If the model or one of its layers has such a name.
    """
    # Keras would enter the scope before TensorFlow refuses it, and not leave.
    for layer in all_layers(model):
        # Inputs are not called.
        is_input = type(layer).__name__ == "InputLayer"
        if not is_input and not SCOPE.fullmatch(layer.name):
            raise ValueError(
                "Argument `model` must have layers whose names TensorFlow "
                "takes: of letters without accents, digits, and `_`, `.`, `-` "
                f"or `/`. Received: the name {layer.name!r}. Build the model "
                "with other names, and copy its weights by `set_weights`."
            )


def check_is_keras(model: Any) -> None:
    """Raises a `TypeError` if the argument `model` is of another library."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            "Argument `model` must be a Keras 3 model, an instance of "
            "`keras.Model`. One of tf_keras is converted by `keras_swd.export."
            f"from_tf_keras`. Received: model={model} (of type {type(model)})."
        )


def check_dense(model: Any) -> None:
    """Refuses sparse inputs, of which a file would make dense ones.

    Args:
        model: Keras or tf_keras model.

    Raises:
        ValueError: If an input is sparse.
    """
    for tensor in getattr(model, "inputs", None) or ():
        if getattr(tensor, "sparse", False):
            raise ValueError(
                "Argument `model` must take dense tensors; TensorFlow Lite has "
                "no sparse ones. For a graph network, "
                "`keras_swd.graphs.bake(model, adjacency)` builds the graph "
                "in, and `keras_swd.graphs.with_edges(model, nodes, edges)` "
                "takes it as a list of edges. Received: a model with the "
                f"sparse input {tensor.name!r}."
            )


def weight_path(weight: Any) -> str:
    """The path of a weight in its model; tf_keras calls it the name."""
    return getattr(weight, "path", weight.name)


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
    known = is_tf_keras(model) or all(
        isinstance(x, keras.KerasTensor) for x in symbolic or ()
    )
    if symbolic and known:
        structure = (
            symbolic[0] if isinstance(model, keras.Sequential) else model.input
        )
        drafts = [
            (_path_name(path) or tensor.name, tuple(tensor.shape), tensor.dtype)
            for path, tensor in keras.tree.flatten_with_path(structure)
        ]
    elif check_with is not None:
        structure = keras.tree.map_structure(to_numpy, check_with)
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


def fixed_batch_size(model: keras.Model, structure: Any) -> int | None:
    """How many samples a model takes in each call, if that is fixed.

    Args:
        model: Keras model.
        structure: Nested structure of `ModelInput`.

    Returns:
        Integer, or `None` where it is not known to be fixed: a sequential
        model may have got it from its first call only.
    """
    if isinstance(model, keras.Sequential):
        return None
    inputs = keras.tree.flatten(structure)
    sizes = [spec.shape[0] for spec in inputs if spec.shape]
    return next(filter(None, sizes), None)


def first_batch(structure: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The fewest samples that a model can be called on.

    Args:
        structure: Nested structure of `ModelInput`.
        arrays: List of sample arrays, one per input.

    Returns:
        List of arrays: of one sample, or of as many as the shapes say, those
        there are again and again.
    """
    batch = next(spec.shape[0] for spec in keras.tree.flatten(structure)) or 1
    places = np.arange(batch) % len(arrays[0])
    return [array[places] for array in arrays]


def check_call(
    model: keras.Model,
    structure: Any,
    arrays: list[np.ndarray],
    argument: str = "check_with",
) -> None:
    """Refuses a model that cannot be called, or is built by the call.

    Args:
        model: Keras model whose `built` is true.
        structure: Nested structure of `ModelInput`.
        arrays: List of sample arrays, one per input.
        argument: String, the argument of a public function that they come
            from. Defaults to `"check_with"`.

    Raises:
        ValueError: If the model does not take the samples, or if layers in it
            had no weights yet (Keras calls a subclassed model built that has
            no `build` of its own).
    """
    weights = len(model.weights)
    try:
        predict(model, structure, first_batch(structure, arrays))
    except Exception as error:
        raise ValueError(
            f"Argument `{argument}` must hold inputs that the model takes. "
            "Received: inputs of shapes "
            f"{[array.shape for array in arrays]} (random ones, if "
            f"`{argument}` is None), on which the model fails: {brief(error)}"
        ) from error
    if len(model.weights) != weights:
        raise ValueError(
            "Argument `model` must be built: layers in it had no weights yet, "
            "and have random ones now. Call the model once on data before "
            f"its weights are loaded or trained. Received: model={model}."
        )


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
    return names, [to_numpy(output) for output in outputs]


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
        keys: Iterable of strings, what Keras calls the tensors.
        prefix: String, what to call those without a name of their own.

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
        # They become names of Python's arguments on the way.
        reserved = keyword.iskeyword(name) or name == "self"
        if reserved or not re.match(r"[A-Za-z]", name):
            name = f"{prefix}_{name.strip('_') or index}"
        while name.lower() in taken:
            name = f"{name}_{index}"
        taken.add(name.lower())
        names.append(name)
    return names


def to_numpy(value: Any) -> np.ndarray:
    """Copies a tensor of any backend, or array-like, to NumPy."""
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
