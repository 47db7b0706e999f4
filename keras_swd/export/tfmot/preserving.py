"""Keep zeros at zero while tf_keras or tfmot train a model further."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_swd.export.tfmot.isolated import load_tf_keras, load_tfmot
from keras_swd.units.kernels import is_kernel

# No training comes to this step, so tfmot's masks stay as they were set.
NEVER = 2**62
# tfmot refuses 1, which this is for the purpose of a record.
ALMOST_ALL = 1 - 1e-9


def keep_zeros(model: Any) -> Any:
    """Returns a callback that keeps the zeros of a tf_keras model.

    What is zero in a kernel now is zero after each step of `fit`: in plain
    models, and under tfmot's wrappers for quantization and clustering. tfmot
    itself forgets zeros: those of depthwise convolutions in both, and those
    of all layers once a quantization-aware model was cloned or loaded, as its
    masks come from the weights that the model was built with.

    Kernels are weights with two axes or more that are no biases. One that has
    no value but zero yet stays so.

    Args:
        model: Built tf_keras model, wrapped by tfmot or not.

    Returns:
        `tf_keras.callbacks.Callback`, for this model.

    Raises:
        TypeError: If `model` is not a tf_keras model.

    Example:

    >>> from keras_swd.export.tfmot.equal_models import to_tf_keras
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> twin = to_tf_keras(model)
    >>> twin.compile("sgd", "mse")
    >>> callback = keep_zeros(twin)
    >>> x, y = np.ones((4, 8)), np.ones((4, 2))
    >>> _ = twin.fit(x, y, verbose=0, callbacks=[callback])
    """
    import tensorflow as tf

    tf_keras = load_tf_keras()
    if not isinstance(model, tf_keras.Model):
        raise TypeError(
            "Argument `model` must be a tf_keras model, as `to_tf_keras` "
            f"returns it. Received: model={model} (of type {type(model)})."
        )
    kept = [
        (kernel, tf.not_equal(kernel, 0))
        for kernel in _kernels(model)
        if _zeros(kernel)
    ]

    # One compiled call: one by one, assignments cost more than small steps.
    @tf.function
    def remove() -> None:
        for kernel, mask in kept:
            kernel.assign(tf.where(mask, kernel, 0))

    compiled = remove.get_concrete_function()
    return tf_keras.callbacks.LambdaCallback(
        on_batch_end=lambda batch, logs: compiled()
    )


def with_masks(model: Any) -> Any:
    """Wraps layers in tfmot's `PruneLowMagnitude`, masked where they are zero.

    Args:
        model: Plain tf_keras model. Its layers become those of the result.

    Returns:
        tf_keras model.
    """
    tf_keras = load_tf_keras()

    def wrap(layer: Any) -> Any:
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=wrap)
        sparse = [kernel for kernel in _kernels(layer) if _zeros(kernel)]
        return _pruned(layer, sparse) if sparse else layer

    twin = wrap(model)
    for layer in twin._flatten_layers():
        for kernel, mask, _ in getattr(layer, "pruning_vars", ()):
            mask.assign(np.not_equal(kernel.numpy(), 0))
    return twin


def _pruned(layer: Any, sparse: list[Any]) -> Any:
    pruning = load_tfmot().sparsity.keras
    size = sum(kernel.shape.num_elements() for kernel in sparse)
    share = sum(map(_zeros, sparse)) / size
    # tfmot knows no kernel of a depthwise convolution, and one of the two of
    # a separable one. It asks the layer first.
    layer.get_prunable_weights = lambda: sparse
    schedule = pruning.ConstantSparsity(min(share, ALMOST_ALL), NEVER)
    return pruning.prune_low_magnitude(layer, schedule)


def _kernels(layer: Any) -> list[Any]:
    return [weight for weight in layer.trainable_weights if is_kernel(weight)]


def _zeros(kernel: Any) -> int:
    return int(np.sum(kernel.numpy() == 0))
