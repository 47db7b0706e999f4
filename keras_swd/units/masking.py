"""Weights and the masks that tell which of their entries go."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.backend.host import read

#: Share of the squared norm that may go unnoticed.
HARMLESS = 0.02


class Weight:
    """A variable that loses entries."""

    variable: keras.Variable

    @property
    def path(self) -> str:
        """The variable's path in its model."""
        return self.variable.path

    def values(self) -> np.ndarray:
        """Returns the present values, float32 or float64; do not keep them.

        On a CPU this is a view of the variable's memory, not a copy.
        """
        return read(self.variable)

    def masked(self, mask: np.ndarray) -> np.ndarray:
        """Returns the values with zeros where the mask is False."""
        return np.where(mask, self.values(), 0.0)

    def apply(self, mask: np.ndarray) -> None:
        """Sets the entries to zero where the mask is False."""
        self.variable.assign(self.masked(mask))


def all_finite(weights: Sequence[Weight]) -> bool:
    """Whether no weight holds NaN or infinity."""
    return all(np.isfinite(weight.values()).all() for weight in weights)


def check_finite(weights: Sequence[Weight]) -> None:
    """Raises a `ValueError` if a weight holds NaN or infinity."""
    for weight in weights:
        if not all_finite([weight]):
            raise ValueError(
                f"Kernel {weight.path!r} holds NaN or infinity, so its lowest "
                "weights are not defined. Nothing was removed. The training "
                "diverged: lower the learning rate, or the end of the "
                "schedule."
            )


def apply_masks(weights: Sequence[Weight], masks: Sequence[np.ndarray]) -> None:
    """Sets the entries of each weight to zero where its mask is False."""
    for weight, mask in zip(weights, masks, strict=True):
        weight.apply(mask)


def share_masked(masks: Sequence[np.ndarray]) -> float:
    """Returns the share of all entries at which the masks are False."""
    size = sum(mask.size for mask in masks)
    return 1.0 - sum(int(np.count_nonzero(mask)) for mask in masks) / size


def largest_masked(
    weights: Sequence[Weight], masks: Sequence[np.ndarray]
) -> float:
    """Returns the largest magnitude at which the masks are False."""
    return max(
        float(np.abs(weight.values()[~mask]).max(initial=0.0))
        for weight, mask in zip(weights, masks, strict=True)
    )


def share_of_norm(
    weights: Sequence[Weight], masks: Sequence[np.ndarray]
) -> float:
    """Returns the share of the squared norm where the masks are False.

    It is 0 for kernels of zeros, and NaN where one holds NaN or infinity.
    """
    total, masked = 0.0, 0.0
    for weight, mask in zip(weights, masks, strict=True):
        squares = np.square(weight.values(), dtype="float64")
        total += squares.sum()
        masked += squares[~mask].sum()
    if not np.isfinite(total):
        return float("nan")
    return float(masked / total) if total else 0.0
