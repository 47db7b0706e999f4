"""The same model in tf_keras, which tfmot's tools take, and back."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_swd.export.tflite import signature
from keras_swd.export.tflite.records import ExportError
from keras_swd.export.tflite.reference import prepare
from keras_swd.export.tflite.samples import sample_arrays
from keras_swd.export.tfmot.isolated import load_tf_keras
from keras_swd.export.tfmot.preserving import with_masks
from keras_swd.export.tfmot.twins import build_twin

# Both compute in float32, but sum in another order.
TOLERANCE = 1e-5


def to_tf_keras(
    model: keras.Model, keep_masks: bool = False, check_with: Any = None
) -> Any:
    """Returns an equal tf_keras model, for the tools of tfmot.

    The TensorFlow Model Optimization toolkit takes models of tf_keras alone.
    The model returned is a plain one: the same layers by the same names, the
    weights bit for bit, no pruning regularizers, not compiled. Its outputs are
    compared with those of `model` before it is returned. Models trained with
    another float type, e.g. `mixed_float16`, become float32. The process
    keeps its `tf.keras`, also when tfmot is loaded.

    Args:
        model: Built Keras model, Sequential or functional, also nested.
        keep_masks: Boolean, wrap each layer that has zeros as tfmot's
            `prune_low_magnitude` does, with masks that hold exactly these
            zeros and never change. To train it, pass the callback
            `tfmot.sparsity.keras.UpdatePruningStep()`; afterwards,
            `tfmot.sparsity.keras.strip_pruning` takes the wrappers off.
            Defaults to `False`.
        check_with: Sample inputs to compare with: an array, or for several
            inputs a list, tuple or dictionary of arrays. Defaults to `None`,
            which makes a few random ones.

    Returns:
        tf_keras model of the same kind.

    Raises:
        ExportError: If a layer has no equal (`register_translation` gives it
            one), outputs disagree or are NaN, or tfmot's wrappers cannot keep
            a zero.
        TypeError: If `model` is not a Keras 3 model.
        ValueError: If it is not built, or subclassed.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> twin = to_tf_keras(model)
    >>> type(twin).__module__.split(".")[0], twin.count_params()
    ('tf_keras', 18)
    """
    signature.check_is_keras(model)
    reference = prepare(model, check_with)
    twin = build_twin(reference.model, load_tf_keras())
    _check_equal(reference.model, twin, reference.structure, reference.arrays)
    return with_masks(twin) if keep_masks else twin


def from_tf_keras(model: Any, check_with: Any = None) -> keras.Model:
    """Returns an equal Keras 3 model, e.g. after fine-tuning with tfmot.

    Args:
        model: Built tf_keras model, Sequential or functional, also nested,
            without tfmot's wrappers: `strip_pruning` and `strip_clustering`
            of tfmot take them off. A quantization-aware model has no equal.
        check_with: Sample inputs to compare with, as for `to_tf_keras`.

    Returns:
        Keras model, not compiled, with the weights bit for bit.

    Raises:
        ExportError: If a layer has no equal, or outputs disagree or are NaN.
        TypeError: If `model` is not a tf_keras model.
        ValueError: If it is not built, or subclassed.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> from_tf_keras(to_tf_keras(model)).count_params()
    18
    """
    if not isinstance(model, load_tf_keras().Model):
        raise TypeError(
            "Argument `model` must be a tf_keras model. "
            f"Received: model={model} (of type {type(model)})."
        )
    signature.check_model(model)
    twin = build_twin(model, keras)
    structure = signature.input_structure(twin, check_with)
    arrays = sample_arrays(structure, check_with)
    _check_equal(twin, model, structure, arrays)
    return twin


def _check_equal(
    model: Any, twin: Any, structure: Any, arrays: list[np.ndarray]
) -> None:
    """Raises unless two models give the same outputs."""
    names, ours = signature.predict(model, structure, arrays)
    _, theirs = signature.predict(twin, structure, arrays)
    for name, one, two in zip(names, ours, theirs, strict=True):
        difference = _difference(one, two)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"Output `{name}` differs between Keras 3 and tf_keras by "
                f"{difference:.1e} of the largest; allowed are "
                f"{TOLERANCE:.0e}. If it is NaN, give `to_tf_keras` other "
                "samples in `check_with`; if a translation of your own is in "
                "use, check it.",
                difference,
            )


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    if one.shape != two.shape:
        return float("inf")
    one, two = one.astype("float64"), two.astype("float64")
    largest = np.max(np.abs(one), initial=0.0)
    difference = np.max(np.abs(one - two), initial=0.0)
    return float(difference / largest) if difference else 0.0
