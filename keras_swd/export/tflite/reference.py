"""A model in the form that files are compared with, and samples for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from keras_swd.export.tflite import signature
from keras_swd.export.tflite.float32 import in_float32
from keras_swd.export.tflite.samples import sample_arrays


@dataclasses.dataclass(frozen=True)
class Reference:
    """A model that files are compared with, and the samples for it.

    Args:
        model: Built Keras or tf_keras model that computes in float32.
        structure: Nested structure of `ModelInput`.
        arrays: List of sample arrays, one per input.
    """

    model: Any
    structure: Any
    arrays: list[np.ndarray]


def prepare(
    model: Any, samples: Any, argument: str = "check_with"
) -> Reference:
    """Brings a model and its samples into the form that is compared.

    Args:
        model: The argument `model` of a public function.
        samples: Sample inputs as the user gave them, or `None`.
        argument: String, the argument that they come from. Defaults to
            `"check_with"`.

    Returns:
        `Reference`.
    """
    signature.check_model(model)
    signature.check_dense(model)
    structure = signature.input_structure(model, samples)
    arrays = sample_arrays(structure, samples, argument)
    signature.check_call(model, structure, arrays, argument)
    twin = in_float32(model, structure, arrays)
    return Reference(twin, structure, arrays)
