"""What is the equal of a bare operation, such as `x + y`, in tf_keras?

Keras 3 puts operations into a model's graph; tfmot knows layers alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_swd.export.tflite.records import ExportError
from keras_swd.export.tfmot.activations import equal_activation
from keras_swd.export.tfmot.isolated import load_tf_keras

#: Operations on two tensors that are layers too.
MERGING = {"Add", "Subtract", "Multiply", "Maximum", "Minimum"}
#: Operations of a tensor and a number, as the scale and offset of one layer.
AFFINE: dict[str, Callable[[float], tuple[float, float]]] = {
    "Add": lambda number: (1.0, number),
    "Subtract": lambda number: (1.0, -number),
    "Multiply": lambda number: (number, 0.0),
    "Divide": lambda number: (1.0 / number, 0.0),
    "TrueDivide": lambda number: (1.0 / number, 0.0),
}
#: Arguments of Keras' functions that have one value in those of tf_keras.
FIXED = {"approximate": False, "axis": -1}


def equal_operation(operation: Any) -> Callable[..., Any]:
    """Returns a function that does in tf_keras what an operation did.

    Args:
        operation: Operation of a Keras 3 graph that is not a layer.

    Returns:
        Function of the same arguments, to be called on symbolic tensors.

    Raises:
        ExportError: If there is no equal.
    """
    layers = load_tf_keras().layers
    kind, name = type(operation).__name__, operation.name
    if kind == "Concatenate":
        return layers.Concatenate(axis=operation.axis, name=name)
    if kind == "Reshape":
        return layers.Reshape(operation.newshape[1:], name=name)
    if kind == "Elu":
        return layers.ELU(alpha=operation.alpha, name=name)
    if kind == "LeakyRelu":
        return layers.LeakyReLU(alpha=operation.negative_slope, name=name)
    if kind == "Softmax":
        return layers.Softmax(axis=operation.axis, name=name)
    if any(getattr(operation, n, v) != v for n, v in FIXED.items()):
        raise _no_equal(kind, name)
    if kind in MERGING | set(AFFINE):
        return lambda first, second: _arithmetic(kind, name, first, second)
    try:
        function = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
        activation = equal_activation(function, load_tf_keras())
    except ValueError:
        raise _no_equal(kind, name) from None
    return layers.Activation(activation, name=name)


def _arithmetic(kind: str, name: str, first: Any, second: Any) -> Any:
    layers = load_tf_keras().layers
    numbers = [np.isscalar(first), np.isscalar(second)]
    if numbers == [False, True] and kind in AFFINE:
        scale, offset = AFFINE[kind](second)
        return layers.Rescaling(scale, offset, name=name)(first)
    if numbers == [True, False] and kind in ("Add", "Multiply"):
        return _arithmetic(kind, name, second, first)
    if numbers == [True, False] and kind == "Subtract":
        return layers.Rescaling(-1.0, first, name=name)(second)
    # With another number of axes, layers and operations align them otherwise.
    if kind in MERGING and _rank(first) == _rank(second) != 0:
        return getattr(layers, kind)(name=name)([first, second])
    raise _no_equal(kind, name)


def _rank(x: Any) -> int:
    return len(getattr(x, "shape", ()))


def _no_equal(kind: str, name: str) -> ExportError:
    return ExportError(
        f"Operation {name!r} ({kind}) has no equal in tf_keras. Put it into a "
        "layer of your own, and decorate a function that takes this layer and "
        "returns one of tf_keras with "
        "`@keras_swd.export.register_translation(YourLayer)`."
    )
