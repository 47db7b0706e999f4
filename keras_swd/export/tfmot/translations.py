"""What is the equal of a layer in the other Keras?

Keras 3 and tf_keras name most layers and arguments alike, so a layer is built
again from its configuration; what differs stands in the tables below.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import keras

from keras_swd.export.tflite.records import ExportError, brief
from keras_swd.export.tfmot.activations import equal_activation, equal_function
from keras_swd.export.tfmot.isolated import load_tf_keras

Translation = Callable[[Any], Any]
_Decorated = TypeVar("_Decorated", bound=Translation)

#: Arguments that have another name in tf_keras, by class.
RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
#: These hold code that was written for one of the two.
WITHOUT_EQUAL = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer"}
#: Arguments that classes of tf_keras take without naming them.
UNNAMED = {"activity_regularizer": None, "zero_output_for_mask": False}
#: Arguments that change no output: how to compute, or for what shapes.
IDLE = {
    "batch_input_shape",
    "implementation",
    "key_shape",
    "query_shape",
    "rng_type",
    "value_shape",
}

_registered: dict[type, Translation] = {}


def register_translation(
    layer_class: type,
) -> Callable[[_Decorated], _Decorated]:
    """Says what the equal of a layer is, for layers that have none by name.

    The decorated function takes a layer of this class and returns a new one
    for the other Keras, with as many weights in the same order; the weights
    themselves are copied afterwards. It holds for the class itself, not for
    its subclasses.

    Args:
        layer_class: Class of layers: of Keras 3 for `to_tf_keras`, of tf_keras
            for `from_tf_keras`.

    Returns:
        Decorator that returns the function as it is.

    Raises:
        TypeError: If `layer_class` is not a class.

    Example:

    >>> class Double(keras.layers.Layer):
    ...     def call(self, inputs):
    ...         return 2 * inputs
    >>> @register_translation(Double)
    ... def as_rescaling(layer):
    ...     import tf_keras
    ...
    ...     return tf_keras.layers.Rescaling(2.0, name=layer.name)
    """
    if not isinstance(layer_class, type):
        raise TypeError(
            "Argument `layer_class` must be a class, e.g. keras.layers.Dense. "
            f"Received: layer_class={layer_class!r}."
        )

    def register(function: _Decorated) -> _Decorated:
        _registered[layer_class] = function
        return function

    return register


def equal_layer(layer: Any, target: ModuleType) -> Any:
    """Builds a layer's equal, without its weights.

    Args:
        layer: Layer of Keras 3 or tf_keras.
        target: The other one: module `tf_keras` or `keras`.

    Returns:
        Layer of `target`, not built yet.

    Raises:
        ExportError: If there is no equal.
    """
    if type(layer) in _registered:
        return _registered[type(layer)](layer)
    found = _same_name(layer, target)
    if found is None:
        raise ExportError(_no_equal(layer, target))
    try:
        return found(**_arguments(layer, found, target))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ExportError(
            f"{_no_equal(layer, target)} Cause: {brief(error)}"
        ) from error


def _same_name(layer: Any, target: ModuleType) -> type | None:
    name = type(layer).__name__
    if name in WITHOUT_EQUAL:
        return None
    source = other(target)
    if getattr(source.layers, name, None) is type(layer):
        return getattr(target.layers, name, None)
    module = type(layer).__module__
    if module.startswith(f"{source.__name__}.src.applications."):
        # These models have a few layers of their own, in both.
        place = module.replace(source.__name__, target.__name__, 1)
        return getattr(importlib.import_module(place), name, None)
    return None


def other(target: ModuleType) -> ModuleType:
    """The one of the two Keras that `target` is not."""
    return load_tf_keras() if target is keras else keras


def _no_equal(layer: Any, target: ModuleType) -> str:
    name = type(layer).__name__
    return (
        f"Layer {layer.name!r} of class {name} has no equal in "
        f"{target.__name__}. Write a function that takes the layer and returns "
        "one for it, and decorate it with "
        f"`@keras_swd.export.register_translation({name})`."
    )


def _arguments(part: Any, found: type, target: ModuleType) -> dict[str, Any]:
    """The arguments of an object, as the class `found` takes them."""
    accepted = _constructor(found)
    defaults = _constructor(type(part))
    renamed = _renamed(type(part).__name__, target)
    arguments = {}
    for key, value in part.get_config().items():
        name = renamed.get(key, key)
        if name in accepted:
            arguments[name] = _equal_value(key, value, target)
        elif not _says_nothing(key, value, defaults.get(key, False)):
            raise ValueError(
                f"there is no argument `{key}`. Received: {key}={value!r}."
            )
    return arguments


def _renamed(class_name: str, target: ModuleType) -> dict[str, str]:
    names = RENAMED.get(class_name, {})
    if target is keras:
        return {old: new for new, old in names.items()}
    return names


def _constructor(layer_class: type) -> dict[str, Any]:
    """The arguments of a class and of those it hands the rest to."""
    arguments: dict[str, Any] = dict(UNNAMED)
    for cls in layer_class.__mro__:
        if "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters
        for name, parameter in parameters.items():
            arguments.setdefault(name, parameter.default)
        kinds = {parameter.kind for parameter in parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            break
    for name in ("self", "args", "kwargs"):
        arguments.pop(name, None)
    return arguments


def _says_nothing(key: str, value: Any, default: Any) -> bool:
    """Whether an argument may be left out."""
    # Initializers are idle too, as the weights are copied.
    if key in IDLE or key.endswith("initializer"):
        return True
    if value is None or value == default:
        return True
    return key == "data_format" and value == "channels_last"


def _equal_value(key: str, value: Any, target: ModuleType) -> Any:
    if key == "axis" and isinstance(value, (list, tuple)) and len(value) == 1:
        # tf_keras makes a list of a number.
        return value[0]
    if isinstance(value, (list, tuple)):
        parts = [_equal_value(key, part, target) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if key == "dtype" and isinstance(value, dict):
        return value["config"]["name"]
    if isinstance(value, dict) and "class_name" in value:
        return _equal_object(key, value, target)
    if key.endswith("activation"):
        return equal_activation(value, target)
    return value


def _equal_object(key: str, config: dict[str, Any], target: ModuleType) -> Any:
    """The equal of what a layer holds: layers, initializers and so on."""
    registered = str(config.get("registered_name"))
    if key.endswith("regularizer") and registered.startswith("keras_swd>"):
        # A pruning regularizer has done its work.
        return None
    source = other(target)
    held = source.saving.deserialize_keras_object(config)
    if inspect.isfunction(held):
        return equal_function(held, target)
    if isinstance(held, source.Model):
        raise ValueError(
            "a model within a layer that wraps it is not translated; give its "
            f"layers to the model itself. Received: {key}={held.name!r}."
        )
    if isinstance(held, source.layers.Layer):
        return equal_layer(held, target)
    for family in ("initializers", "regularizers", "constraints"):
        found = getattr(getattr(target, family), type(held).__name__, None)
        if found is not None:
            return found(**_arguments(held, found, target))
    if key.endswith("initializer"):
        # The weights are copied, so nobody calls it.
        return "zeros"
    raise ValueError(
        f"there is no equal of {type(held).__name__}. Received: {key}={held!r}."
    )
