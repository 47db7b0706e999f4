"""Quantization-aware training with tfmot, zeros kept."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from keras_swd.export.tflite.quiet import quiet
from keras_swd.export.tflite.records import ExportError, brief
from keras_swd.export.tfmot.equal_models import to_tf_keras
from keras_swd.export.tfmot.isolated import load_tf_keras, load_tfmot
from keras_swd.export.tfmot.twins import finalize
from keras_swd.units.kernels import is_kernel

#: Layers that tfmot replaces by two, each of which it quantizes.
TAKEN_APART = {"SeparableConv1D", "SeparableConv2D"}
#: What it makes of them, each with its first arguments.
MADE: dict[str, tuple[Any, ...]] = {
    "Conv2D": (1, 1),
    "DepthwiseConv2D": (1,),
    "Lambda": (abs,),
    "SeparableConv2D": (1, 1),
}
#: Layers with which it joins a batch normalization that follows.
JOINING = {"Conv2D", "DepthwiseConv2D", "Dense", *TAKEN_APART}
ACTIVATIONS = {
    *("linear", "relu", "swish", "gelu", "softmax", "sigmoid", "tanh"),
}


def to_quantization_aware(model: Any) -> Any:
    """Returns a tf_keras model that trains as it will compute in 8 bits.

    tfmot's quantization-aware training with its scheme that preserves zeros,
    `Default8BitPrunePreserveQuantizeScheme`. That scheme alone does not keep
    them all, so train with the callback `keep_zeros(model)`, and export with
    `to_tflite(model, path, quantization="int8")`.

    Layers that tfmot cannot quantize (e.g. recurrent ones) stay in float32; a
    warning names those that have weights.

    Args:
        model: Built Keras 3 or tf_keras model, Sequential or functional, not
            nested. It is left as it is.

    Returns:
        tf_keras model, not compiled, with tfmot's wrappers.

    Raises:
        ExportError: If a layer has no equal in tf_keras, or tfmot fails.
        ValueError: If the model is nested, not built, or subclassed.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> aware = to_quantization_aware(model)
    >>> [type(layer).__name__ for layer in aware.layers]
    ['QuantizeLayer', 'QuantizeWrapperV2']
    """
    tf_keras = load_tf_keras()
    twin = model if isinstance(model, tf_keras.Model) else to_tf_keras(model)
    nested = [x.name for x in twin.layers if isinstance(x, tf_keras.Model)]
    if nested:
        raise ValueError(
            "Argument `model` must not be nested: tfmot quantizes no model in "
            "a model. Call its layers in one graph. Received: a model with "
            f"the models {nested} in it."
        )
    left = [layer.name for layer in twin.layers if _stays_in_float(layer)]
    if left:
        warnings.warn(
            f"tfmot cannot quantize the layers {left}, which stay in float32.",
            stacklevel=2,
        )
    try:
        with quiet():
            return _quantized(twin)
    except Exception as error:
        raise ExportError(
            f"tfmot could not quantize model {twin.name!r}: {brief(error)}"
        ) from error


def _quantized(model: Any) -> Any:
    tf_keras, tfmot = load_tf_keras(), load_tfmot()
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    quantization = tfmot.quantization.keras

    def annotated(layer: Any) -> Any:
        if not _quantizable(layer):
            return layer
        return quantization.quantize_annotate_layer(
            layer, _configuration(layer, scheme)
        )

    # Wrapping the layers of the model itself would change it.
    copy = tf_keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    kernels = [w.numpy() for w in copy.weights if is_kernel(w)]
    copy = tf_keras.models.clone_model(copy, clone_function=annotated)
    _use_up_names(copy)
    with quantization.quantize_scope():
        aware = quantization.quantize_apply(copy, scheme)
    for layer in aware._flatten_layers():
        finalize(layer)
    _check_kept(kernels, aware)
    return aware


def _use_up_names(model: Any) -> None:
    """Lets tf_keras give new layers no name that the model has.

    tfmot makes two layers of one, and puts a model together by names.
    """
    for kind, arguments in MADE.items():
        make = getattr(load_tf_keras().layers, kind)
        name = re.sub(r"_\d+$", "", make(*arguments).name)
        own = re.compile(rf"{name}_(\d+)")
        matches = (own.fullmatch(layer.name) for layer in model.layers)
        last = max((int(match[1]) for match in matches if match), default=0)
        while int(make(*arguments).name.rpartition("_")[2]) < last:
            pass


def _check_kept(kernels: list[np.ndarray], aware: Any) -> None:
    """Raises if tfmot has left out or changed a kernel."""
    held = [weight.numpy().ravel() for weight in aware.weights]
    for kernel in kernels:
        if not any(np.array_equal(kernel.ravel(), other) for other in held):
            raise ValueError(
                f"a kernel of shape {kernel.shape} is not what it was. Give "
                "the layers other names."
            )


def _quantizable(layer: Any) -> bool:
    if _left_to_tfmot(layer):
        return True
    # What is not trained may be seen as a function, whose output is rounded.
    return not layer.trainable_weights or _is_supported(layer)


def _stays_in_float(layer: Any) -> bool:
    """Whether the weights of a layer are not rounded."""
    if any(map(is_kernel, layer.weights)) and not _left_to_tfmot(layer):
        return not _is_supported(layer)
    return bool(layer.weights) and not _quantizable(layer)


def _is_supported(layer: Any) -> bool:
    """Whether tfmot rounds the weights of a layer as it is."""
    kind = type(layer).__name__
    return kind not in TAKEN_APART and _registry().supports(layer)


def _left_to_tfmot(layer: Any) -> bool:
    """Whether tfmot changes a layer before it looks how to quantize it."""
    if type(layer).__name__ == "BatchNormalization":
        return _joins(layer)
    return type(layer).__name__ in TAKEN_APART and _is_known(layer)


def _joins(normalization: Any) -> bool:
    """Whether tfmot joins a batch normalization with what comes before."""
    before = normalization.inbound_nodes[0].inbound_layers
    return (
        type(before).__name__ in JOINING
        and _activation(before) == "linear"
        and len(before.outbound_nodes) == 1
    )


def _is_known(layer: Any) -> bool:
    """Whether tfmot knows how to quantize the activation of a layer."""
    return _activation(layer) in ACTIVATIONS


def _activation(layer: Any) -> str:
    activation = getattr(layer, "activation", None)
    # One that is a layer itself has no such name.
    return getattr(activation, "__name__", "") if activation else "linear"


def _configuration(layer: Any, scheme: Any) -> Any:
    """How to quantize a layer for which the scheme itself would fail."""
    if _left_to_tfmot(layer):
        return None
    registry = _registry()
    known = _is_known(layer)
    if not registry.supports(layer) or not (known or layer.weights):
        # As for a layer that has nothing but an output.
        return registry.get_quantize_config(load_tf_keras().layers.ReLU())
    if known and scheme.get_quantize_registry().supports(layer):
        return None
    configuration = registry.get_quantize_config(layer)
    if not known:
        # Round what comes out of the activation, not what it is made of.
        configuration.activation_attrs = []
        configuration.quantize_output = True
    return configuration


def _registry() -> Any:
    default = load_tfmot().quantization.keras.default_8bit
    return default.Default8BitQuantizeRegistry()
