"""The prunable kernels of a model: their values, scores and shares."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_swd.allocation import Allocation
from keras_swd.granularity import Unstructured
from keras_swd.host import read
from keras_swd.regularizers.base import PruningRegularizer, pruning_regularizer
from keras_swd.selection import (
    lowest_units,
    threshold_of_units,
    threshold_of_values,
)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A variable and the pruning regularizer that it carries."""

    variable: keras.Variable
    regularizer: PruningRegularizer

    @property
    def path(self) -> str:
        """The variable's path in its model."""
        return self.variable.path

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's shape."""
        return tuple(self.variable.shape)

    def values(self) -> np.ndarray:
        """Returns the present values, float32 or float64; do not keep them.

        On a CPU this is a view of the variable's memory, not a copy.
        """
        return read(self.variable)

    def unit_scores(self) -> np.ndarray:
        """Returns the scores of the kernel's units, shape `(units,)`."""
        if isinstance(self.regularizer.granularity, Unstructured):
            return self.regularizer.criterion(self.values()).ravel()
        scores = self.regularizer.criterion(self.values())
        return ops.convert_to_numpy(
            self.regularizer.granularity.unit_scores(
                ops.convert_to_tensor(scores)
            )
        )

    def threshold(self, count: int, guess: float | None = None) -> float:
        """Returns the threshold that selects the `count` lowest units.

        It is found sooner with a good guess, such as that of a step ago.
        """
        if isinstance(self.regularizer.granularity, Unstructured):
            return threshold_of_values(
                self.values().ravel(),
                count,
                self.regularizer.criterion,
                guess,
            )
        return threshold_of_units(self.unit_scores(), count)

    def mask(self, count: int) -> np.ndarray:
        """Returns False for the entries of the `count` lowest units."""
        removed = lowest_units(self.unit_scores(), count)
        expand = self.regularizer.granularity.expand
        return ~ops.convert_to_numpy(
            expand(ops.convert_to_tensor(removed), self.shape)
        )


def find_kernels(model: keras.Model) -> list[Kernel]:
    """Returns the kernels that carry a pruning regularizer and are trained."""
    found = []
    for variable in model.trainable_variables:
        regularizer = pruning_regularizer(variable)
        if regularizer is not None:
            found.append(Kernel(variable, regularizer))
    return found


def check_kernels(
    kernels: Sequence[Kernel], sparsity: float | None, model: keras.Model
) -> None:
    """Raises a `ValueError` if these kernels cannot be pruned as asked."""
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so it has no kernels to "
            "prune. Call it on data, or `model.build(input_shape)`, first."
        )
    if not kernels:
        raise ValueError(
            f"No trainable kernel of model {model.name!r} carries a pruning "
            "regularizer. Pass `kernel_regularizer="
            "keras_swd.SelectiveWeightDecay()` to the layers to prune, or use "
            "`keras_swd.with_regularizer(model, ...)` on an existing model."
        )
    for kernel in kernels:
        try:
            kernel.regularizer.granularity.check(kernel.shape)
        except ValueError as error:
            raise ValueError(
                f"Kernel {kernel.path!r} cannot be pruned: {error} Give its "
                "layer another granularity, or no pruning regularizer."
            ) from error
        if sparsity is None and kernel.regularizer.sparsity is None:
            raise ValueError(
                f"Kernel {kernel.path!r} has no target. Pass `sparsity`, the "
                "target of all kernels without their own, or give its "
                "regularizer one. Received: sparsity=None."
            )


def count_removals(
    kernels: Sequence[Kernel],
    sparsity: float | None,
    allocation: Allocation,
) -> list[int]:
    """Returns how many units each kernel gives up now.

    A kernel with its own target meets it alone. The others share `sparsity`
    by `allocation`, kernels of one granularity among themselves: units of
    different kinds cannot be ranked together.

    Args:
        kernels: The prunable kernels.
        sparsity: Float in [0, 1), the shared target.
        allocation: How it is shared.

    Returns:
        List of integers, one per kernel.
    """
    pools: dict[tuple, list[int]] = {}
    for i, kernel in enumerate(kernels):
        own = kernel.regularizer.sparsity
        alone = None if own is None else i
        target = sparsity if own is None else own
        pool = (target, alone, kernel.regularizer.granularity)
        pools.setdefault(pool, []).append(i)
    counts = [0] * len(kernels)
    for (target, _, _), members in pools.items():
        scores = [kernels[i].unit_scores() for i in members]
        shapes = [kernels[i].shape for i in members]
        shares = allocation.counts(scores, shapes, target)
        for i, count, s in zip(members, shares, scores, strict=True):
            if not 0 <= count <= s.size:
                raise ValueError(
                    f"{allocation!r} wants to remove {count} of the {s.size} "
                    f"units of kernel {kernels[i].path!r}."
                )
            counts[i] = count
    return counts


def all_finite(kernels: Sequence[Kernel]) -> bool:
    """Whether no kernel holds NaN or infinity."""
    return all(np.isfinite(kernel.values()).all() for kernel in kernels)


def check_finite(kernels: Sequence[Kernel]) -> None:
    """Raises a `ValueError` if a kernel holds NaN or infinity."""
    for kernel in kernels:
        if not all_finite([kernel]):
            raise ValueError(
                f"Kernel {kernel.path!r} holds NaN or infinity, so its lowest "
                "weights are not defined. Nothing was removed. The training "
                "diverged: lower the learning rate, or the end of the "
                "schedule."
            )


def apply_masks(kernels: Sequence[Kernel], masks: Sequence[np.ndarray]) -> None:
    """Sets the entries of each kernel to zero where its mask is False."""
    for kernel, mask in zip(kernels, masks, strict=True):
        kernel.variable.assign(np.where(mask, kernel.values(), 0.0))


def share_masked(masks: Sequence[np.ndarray]) -> float:
    """Returns the share of all entries at which the masks are False."""
    size = sum(mask.size for mask in masks)
    return 1.0 - sum(int(np.count_nonzero(mask)) for mask in masks) / size


def share_of_norm(
    kernels: Sequence[Kernel], masks: Sequence[np.ndarray]
) -> float:
    """Returns the share of the squared norm where the masks are False.

    It is 0 for kernels of zeros, and NaN where one holds NaN or infinity.
    """
    total, masked = 0.0, 0.0
    for kernel, mask in zip(kernels, masks, strict=True):
        squares = np.square(kernel.values(), dtype="float64")
        total += squares.sum()
        masked += squares[~mask].sum()
    if not np.isfinite(total):
        return float("nan")
    return float(masked / total) if total else 0.0
