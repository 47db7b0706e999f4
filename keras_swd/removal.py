"""Setting the lowest units to exactly zero."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_swd.allocation import Allocation, check_allocation
from keras_swd.backend.host import read
from keras_swd.prunable import Prunable
from keras_swd.targets.counts import check_goal
from keras_swd.targets.limits import Goal
from keras_swd.units.masking import Weight, apply_masks, check_finite


def remove(
    model: keras.Model,
    sparsity: Goal = None,
    allocation: Allocation | None = None,
) -> dict[str, int]:
    """Sets the lowest units of the prunable kernels to exactly zero, in place.

    `PruningScheduler` does this at the end of training. Exactly
    `round(sparsity * n)` of the `n` units that share the target go, ties
    broken in a fixed order: score, kernel, index. `Uniform()` rounds for each
    kernel instead.

    Args:
        model: A built `keras.Model` whose kernels carry a pruning regularizer.
        sparsity: Float in [0, 1), the target of the kernels that have none of
            their own, or a budget for coupled channels, as
            `Parameters(left=0.5)`, or the size of the file, as
            `TFLiteBytes(50_000)`. May be `None` if all have their own.
            Defaults to `None`.
        allocation: How kernels share the target. Defaults to `LAMP()`, as in
            `PruningScheduler`.

    Returns:
        Dictionary from the path of each kernel to the number of its entries
        that were set to zero; kernels that share a path are counted together.

    Raises:
        ValueError: If no kernel is prunable, a target is missing or out of
            reach, or a kernel holds NaN or infinity; then nothing is changed.

    Example:

    >>> swd = keras_swd.SelectiveWeightDecay()
    >>> layer = keras.layers.Dense(5, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> sum(remove(model, sparsity=0.75).values())
    15
    """
    prunable = Prunable(
        model, check_goal(sparsity), check_allocation(allocation)
    )
    check_finite(prunable.weights)
    masks = prunable.masks(prunable.choose(prunable.counts()))
    apply_masks(prunable.weights, masks)
    for message in prunable.shortfalls(model, masks):
        warnings.warn(message, stacklevel=2)
    removed: dict[str, int] = {}
    for weight, mask in zip(prunable.weights, masks, strict=True):
        zeros = int(mask.size - np.count_nonzero(mask))
        removed[weight.path] = removed.get(weight.path, 0) + zeros
    return removed


@contextlib.contextmanager
def removed_for_a_moment(
    weights: Sequence[Weight], masks: Sequence[np.ndarray]
) -> Iterator[None]:
    """Sets the masked entries to zero, and back whatever happens meanwhile.

    Args:
        weights: The weights to prune.
        masks: Boolean arrays of the weights' shapes, False where to remove.

    Yields:
        None.
    """
    kept: list[tuple[keras.Variable, np.ndarray]] = []
    try:
        for weight, mask in zip(weights, masks, strict=True):
            values, masked = weight.values(), weight.masked(mask)
            # A full mask, too, may bring back what an optimizer has hidden.
            if not np.array_equal(values, masked):
                kept.append((weight.variable, values.copy()))
                weight.variable.assign(masked)
        yield
    finally:
        for variable, values in kept:
            variable.assign(values)


def metrics_if_removed(
    model: keras.Model,
    weights: Sequence[Weight],
    masks: Sequence[np.ndarray],
    data,
) -> dict[str, Any]:
    """Evaluates a model with the masked entries at zero for a moment.

    Weights and the state of metrics are as before then, also where the
    evaluation raises an exception.

    Args:
        model: A compiled `keras.Model`.
        weights: The weights to prune.
        masks: Boolean arrays of the weights' shapes, False where to remove.
        data: What `validation_data` of `fit` takes: a tuple `(x, y)` or `(x,
            y, sample_weight)`, or a data set.

    Returns:
        Dictionary from the names of the metrics to floats, or arrays.
    """
    x, y, sample_weight = data, None, None
    if isinstance(data, (tuple, list)):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    with _metrics_kept(model), removed_for_a_moment(weights, masks):
        metrics = model.evaluate(
            x, y, sample_weight=sample_weight, verbose=0, return_dict=True
        )
    return {
        # Of several numbers, as `F1Score`, they stay an array.
        name: float(value) if np.ndim(value) == 0 else value
        for name, value in metrics.items()
    }


@contextlib.contextmanager
def _metrics_kept(model: keras.Model) -> Iterator[None]:
    """Lets metrics go on counting from where they were."""
    kept = [(v, read(v).copy()) for v in model.metrics_variables]
    try:
        yield
    finally:
        # Those that the first evaluation makes start from nothing.
        model.reset_metrics()
        for variable, values in kept:
            variable.assign(values)
