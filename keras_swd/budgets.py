"""Targets in what is left of a model once its channels are cut."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_swd.channels import Place
from keras_swd.configured import Configured
from keras_swd.operations import kernel_uses
from keras_swd.schedules import is_number

#: From the units that stay, a boolean array, to what is left of the model.
Cost = Callable[[np.ndarray], int]


class Budget(Configured):
    """How much of a model may be left after `shrink`.

    `PruningScheduler(sparsity=...)` takes one in place of a share of units:
    it then removes the fewest channels, lowest first, that meet the budget.

    Args:
        left: Float in (0, 1), the share that may be left.

    Raises:
        ValueError: If `left` is out of range.
    """

    def __init__(self, left: float):
        if not is_number(left) or not 0.0 < left < 1.0:
            raise ValueError(
                "Argument `left` is the share of the model that may be left, "
                f"in (0, 1). Received: left={left!r}."
            )
        self.left = float(left)

    def factors(self, model: keras.Model) -> dict[int, int]:
        """Returns what an entry costs, by the `id` of the variable."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `factors(model)`."
        )

    def cost(self, model: keras.Model, places: list[Place]) -> Cost:
        """Returns a function from the units that stay to what is left.

        Args:
            model: A built model.
            places: List of `Place`, all axes of all its weights that count
                channels; a unit of -1 stays.

        Returns:
            Function of a boolean array of shape `(units,)`.
        """
        factors = self.factors(model)
        axes: dict[int, dict[int, np.ndarray]] = {}
        for place in places:
            axes.setdefault(id(place.variable), {})[place.axis] = place.units
        terms, constant = [], 0
        for variable in model.weights:
            cut = axes.get(id(variable), {})
            others = (
                size
                for axis, size in enumerate(variable.shape)
                if axis not in cut
            )
            factor = factors.get(id(variable), 0) * math.prod(others)
            if cut:
                terms.append((factor, list(cut.values())))
            else:
                constant += factor

        def left(stays: np.ndarray) -> int:
            # A unit of -1 is the last entry.
            padded = np.append(stays, True)
            return constant + sum(
                factor * math.prod(int(padded[u].sum()) for u in units)
                for factor, units in terms
            )

        return left

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"left": self.left}


@keras.saving.register_keras_serializable("keras_swd")
class Parameters(Budget):
    """The share of the model's parameters that may be left.

    Its trainable weights count; moving averages do not.

    Args:
        left: Float in (0, 1).

    Raises:
        ValueError: If `left` is out of range.

    Example:

    >>> Parameters(left=0.5)
    Parameters(left=0.5)

    Reference:
        Tessier et al. 2022, arXiv 2011.10520, structured target.
    """

    def factors(self, model):
        """Returns 1 for every trainable weight."""
        return {id(variable): 1 for variable in model.trainable_weights}


@keras.saving.register_keras_serializable("keras_swd")
class Operations(Budget):
    """The share of the model's multiplications that may be left.

    Those of Dense layers and of convolutions count, for one sample.

    Args:
        left: Float in (0, 1).

    Raises:
        ValueError: If `left` is out of range.

    Example:

    >>> Operations(left=0.25)
    Operations(left=0.25)
    """

    def factors(self, model):
        """Returns at how many positions each kernel is applied."""
        uses = kernel_uses(model)
        return {key: use.positions for key, use in uses.items()}


def fewest(
    cost: Cost, allowed: float, removed: Callable[[int], np.ndarray], most: int
) -> int:
    """Returns how many units must go for the cost to be at most `allowed`.

    Args:
        cost: Function of the units that stay.
        allowed: Float, the largest cost.
        removed: Function of how many units go to which, a boolean array. More
            of them must include the fewer.
        most: Integer, how many may go.

    Returns:
        Integer in [0, most].

    Raises:
        ValueError: If all of them would not do.
    """
    if cost(~removed(most)) > allowed:
        raise ValueError(
            f"No more than {most} channels can go, and these leave "
            f"{cost(~removed(most)):,} of the at most {allowed:,.0f} that the "
            "budget allows. Raise `left`, or let more weights carry the "
            "regularizer of `CoupledChannels`."
        )
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if cost(~removed(middle)) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low
