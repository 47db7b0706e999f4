"""Setting the lowest units to exactly zero."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.allocation import LAMP, Allocation
from keras_swd.kernels import (
    Kernel,
    apply_masks,
    check_finite,
    check_kernels,
    count_removals,
    find_kernels,
)
from keras_swd.selection import check_sparsity


def remove(
    model: keras.Model,
    sparsity: float | None = None,
    allocation: Allocation | None = None,
) -> dict[str, int]:
    """Sets the lowest units of the prunable kernels to exactly zero, in place.

    `PruningScheduler` does this at the end of training. Exactly
    `round(sparsity * n)` of the `n` units that share the target go, ties
    broken in a fixed order: score, kernel, index.

    Args:
        model: A built `keras.Model` whose kernels carry a pruning regularizer.
        sparsity: Float in [0, 1), the target of the kernels that have none of
            their own. May be `None` if all have. Defaults to `None`.
        allocation: How kernels share the target. Defaults to `LAMP()`, as in
            `PruningScheduler`.

    Returns:
        Dictionary from the path of each kernel to the number of its entries
        that were set to zero.

    Raises:
        ValueError: If no kernel is prunable, a target is missing, or a kernel
            holds NaN or infinity; then nothing is changed.

    Example:

    >>> swd = keras_swd.SelectiveWeightDecay()
    >>> layer = keras.layers.Dense(5, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> sum(remove(model, sparsity=0.75).values())
    15
    """
    if sparsity is not None:
        sparsity = check_sparsity(sparsity)
    kernels = find_kernels(model)
    check_kernels(kernels, sparsity, model)
    check_finite(kernels)
    counts = count_removals(kernels, sparsity, allocation or LAMP())
    masks = [k.mask(c) for k, c in zip(kernels, counts, strict=True)]
    apply_masks(kernels, masks)
    return {
        kernel.path: int(mask.size - np.count_nonzero(mask))
        for kernel, mask in zip(kernels, masks, strict=True)
    }


def metrics_if_removed(
    model: keras.Model,
    kernels: Sequence[Kernel],
    masks: Sequence[np.ndarray],
    data,
) -> dict[str, float]:
    """Evaluates a model with the masked entries at zero for a moment.

    Args:
        model: A compiled `keras.Model`.
        kernels: The prunable kernels.
        masks: Boolean arrays of the kernels' shapes, False where to remove.
        data: What `evaluate` takes: a tuple `(x, y)` or `(x, y,
            sample_weight)`, or a data set.

    Returns:
        Dictionary of the metrics, each name with the suffix `_if_removed`.
    """
    x, y, sample_weight = data, None, None
    if isinstance(data, tuple):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    kept = [kernel.values().copy() for kernel in kernels]
    apply_masks(kernels, masks)
    try:
        metrics = model.evaluate(
            x, y, sample_weight=sample_weight, verbose=0, return_dict=True
        )
    finally:
        for kernel, values in zip(kernels, kept, strict=True):
            kernel.variable.assign(values)
    return {f"{name}_if_removed": value for name, value in metrics.items()}
