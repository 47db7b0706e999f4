"""What is the equal of an activation function in the other Keras?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import keras

from keras_swd.export.tfmot.isolated import load_tf_keras

#: Functions of the same name and the same values.
SHARED = {
    "elu",
    "exponential",
    "gelu",
    "leaky_relu",
    "linear",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
}
#: What Keras 3 calls `silu` is `swish` in tf_keras, and known to tfmot so.
SWISH = "swish"
PACKAGE = "keras_swd"


def equal_activation(name: Any, target: ModuleType) -> Any:
    """Names, or makes, the equal of an activation function.

    Args:
        name: What a layer's configuration holds: a name, or anything else.
        target: Module `tf_keras` or `keras`.

    Returns:
        What a layer of `target` takes as its activation.

    Raises:
        ValueError: If there is no equal.

    Example:

    >>> equal_activation("swish", keras)
    'silu'
    """
    if name in SHARED:
        return name
    if name in ("silu", SWISH):
        return "silu" if target is keras else SWISH
    if target is not keras and name in FORMULAS:
        return _registered(name)
    raise ValueError(
        f"there is no equal of the activation {name!r} in {target.__name__}."
    )


def equal_function(function: Callable[..., Any], target: ModuleType) -> Any:
    """The same for a function that its Keras does not know by name."""
    for name, ours in FORMULAS.items():
        if function is ours and target is keras:
            return name
    raise ValueError(f"the activation {function.__name__!r} is a custom one.")


def _hard_sigmoid(x: Any) -> Any:
    # tf_keras has a function of this name with another slope.
    import tensorflow as tf

    return tf.nn.relu6(x + 3.0) / 6.0


def _hard_silu(x: Any) -> Any:
    return x * _hard_sigmoid(x)


FORMULAS: dict[str, Callable[[Any], Any]] = {
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _hard_silu,
}


@functools.cache
def _registered(name: str) -> Callable[[Any], Any]:
    """A function that tf_keras can save, load and clone by its name."""
    register = load_tf_keras().utils.register_keras_serializable
    return register(package=PACKAGE, name=name)(FORMULAS[name])
