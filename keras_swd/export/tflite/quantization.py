"""What a mode of quantization needs from the user, and of the converter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_swd.export.tflite import signature
from keras_swd.export.tflite.modes import find_mode
from keras_swd.models import all_layers


def check_quantization(
    model: Any, quantization: str | None, representative_data: Any
) -> None:
    """Refuses a mode that does not exist, or lacks what it needs.

    Args:
        model: Keras or tf_keras model.
        quantization: The argument `quantization` of a public function.
        representative_data: The argument of this name.

    Raises:
        ValueError: If an argument does not fit.
    """
    mode = find_mode(quantization)
    if is_quantization_aware(model):
        if quantization != "int8":
            raise ValueError(
                "Argument `quantization` must be 'int8' for a model that "
                "was trained for 8 bits by tfmot's wrappers. Received: "
                f"quantization={quantization!r}."
            )
    elif mode.ranges and representative_data is None:
        raise ValueError(
            "Argument `representative_data` must hold inputs as the model "
            "meets them in use, about 100 or more: they show the range of "
            f"each activation, which quantization={quantization!r} needs. "
            "Without any, 'dynamic' stores weights in 8 bits. Received: "
            "representative_data=None."
        )


def is_quantization_aware(model: Any) -> bool:
    """Whether a model carries tfmot's layers for training with rounding."""
    return signature.is_tf_keras(model) and any(
        type(layer).__module__.startswith(
            "tensorflow_model_optimization.python.core.quantization"
        )
        for layer in all_layers(model)
    )


def configure(
    converter: Any,
    quantization: str | None,
    feeds: list[dict[str, np.ndarray]] | None,
    sparse: bool,
    flex: bool,
) -> None:
    """Sets the options of TensorFlow's converter.

    Args:
        converter: `tf.lite.TFLiteConverter`.
        quantization: String or `None`, the mode.
        feeds: List of dictionaries from the name of an input to an array, the
            samples that show the ranges of activations, or `None` where the
            mode needs none or the model has them.
        sparse: Boolean, leave zeros out of kernels?
        flex: Boolean, are TensorFlow's own operators allowed?
    """
    import tensorflow as tf

    sets = tf.lite.OpsSet
    operators = [sets.TFLITE_BUILTINS]
    # What has no operator for integers is computed in float.
    if quantization == "int8" and feeds is not None:
        operators.append(sets.TFLITE_BUILTINS_INT8)
    if quantization == "int16x8":
        operators.append(
            sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        )
    if flex:
        operators.append(sets.SELECT_TF_OPS)
    converter.target_spec.supported_ops = operators
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    optimizations = []
    if quantization is not None:
        optimizations.append(tf.lite.Optimize.DEFAULT)
    if sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    converter.optimizations = optimizations
    if feeds is not None:

        def representative() -> Iterator[dict[str, np.ndarray]]:
            yield from feeds

        converter.representative_dataset = representative
