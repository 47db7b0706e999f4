"""The same model with float32 computations, for models trained in others."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_swd.export.tflite import signature
from keras_swd.export.tflite.records import ExportError, brief
from keras_swd.models import all_layers
from keras_swd.rebuilding.again import copy_state, copying

OTHER_FLOATS = ("float16", "bfloat16", "float64")
# Shortened mantissas change the outputs; a clone that lost an argument of its
# layers changes them more.
ROUNDING = 0.1
#: Samples on which both are compared.
COMPARED = 32


def in_float32(
    model: keras.Model, structure: Any, arrays: list[np.ndarray]
) -> keras.Model:
    """Returns a model that computes in float32, with the same weights.

    A model that does so already is returned as it is. Others (trained with
    `mixed_float16`, say) are rebuilt from their configuration with the dtype
    policies replaced; their outputs must stay the same within 10 percent of
    the largest.

    Args:
        model: Built Keras model.
        structure: Nested structure of `ModelInput`.
        arrays: List of sample arrays, one per input.

    Returns:
        Keras model.

    Raises:
        ExportError: If the model is quantized, or cannot be rebuilt.
    """
    policies = [layer.dtype_policy for layer in all_layers(model)]
    for policy in policies:
        if getattr(policy, "quantization_mode", None) is not None:
            raise ExportError(
                "Only float32 models can be exported, and this one is "
                f"quantized (dtype policy {policy.name!r}). Export the model "
                "as it was before `quantize`."
            )
    others = [
        policy.name
        for policy in policies
        if policy.compute_dtype in OTHER_FLOATS
        or policy.variable_dtype in OTHER_FLOATS
    ]
    if not others:
        return model
    remedy = (
        f" The model has layers of dtype policy {others[0]!r}; build it again "
        "under `keras.config.set_dtype_policy('float32')`, load its weights, "
        "and export that."
    )
    batch = signature.first_batch(structure, arrays)
    compared = batch
    if signature.fixed_batch_size(model, structure) is None:
        # All samples at once may be more than memory holds.
        compared = [array[:COMPARED] for array in arrays]
    try:
        twin = _rebuild(model)
        signature.predict(twin, structure, batch)
        copy_state(model, twin)
    except Exception as error:
        raise ExportError(
            f"The model could not be rebuilt in float32: {brief(error)}{remedy}"
        ) from error
    _, before = signature.predict(model, structure, compared)
    _, after = signature.predict(twin, structure, compared)
    difference = max(map(_difference, before, after))
    if not difference <= ROUNDING:
        raise ExportError(
            "Rebuilt in float32, the model gives other outputs (difference "
            f"{difference:.1e} of the largest).{remedy}",
            difference,
        )
    return twin


def _rebuild(model: keras.Model) -> keras.Model:
    # Layers that a subclassed model makes itself follow the global policy.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        with copying(model):
            config = keras.saving.serialize_keras_object(model)
            return keras.saving.deserialize_keras_object(_with_float32(config))
    finally:
        keras.config.set_dtype_policy(policy)


def _with_float32(config: Any) -> Any:
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            if _other(config["config"].get("name")):
                return "float32"
            return config
        return {
            key: "float32"
            if key == "dtype" and _other(value)
            else _with_float32(value)
            for key, value in config.items()
            if key != "compile_config"
        }
    if isinstance(config, (list, tuple)):
        return type(config)(map(_with_float32, config))
    return config


def _other(name: Any) -> bool:
    return isinstance(name, str) and name.removeprefix("mixed_") in OTHER_FLOATS


def _difference(before: np.ndarray, after: np.ndarray) -> float:
    before, after = before.astype("float64"), after.astype("float64")
    if before.shape != after.shape:
        return float("inf")
    # float16 overflows where float32 does not.
    known = np.isfinite(before) & np.isfinite(after)
    scale = np.max(np.abs(before), initial=0.0, where=known)
    difference = np.max(np.abs(after - before), initial=0.0, where=known)
    return float(difference / scale) if scale else float(difference)
