"""Targets in what is left of a model once its channels are cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_swd.arguments import is_number
from keras_swd.configured import Configured
from keras_swd.kernel_uses import kernel_uses
from keras_swd.units.channels import Place

#: From the units that stay, a boolean array, to what is left of the model.
Cost = Callable[[np.ndarray], int]


class Budget(Configured):
    """How much of a model may be left.

    `PruningScheduler(sparsity=...)` takes one in place of a share of units:
    it then removes the fewest channels, lowest first, such that what is left
    after `shrink` meets the budget. With a method that allots single weights
    itself, such as `AdaptiveSparsity`, what is left are those that are not
    zero. Kernels with a `sparsity` of their own count in full: what they give
    up comes on top.

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

    def entries(
        self, model: keras.Model, variables: Sequence[keras.Variable]
    ) -> tuple[np.ndarray, float]:
        """Returns what single entries cost, for methods that zero these.

        Args:
            model: A built model.
            variables: Those whose entries may become zero.

        Returns:
            Float array, what one entry of each variable costs; and what all
            their entries together may cost for the model to meet the budget.

        Raises:
            ValueError: If they cost nothing, or the others too much.
        """
        factors = self.factors(model)
        costs = np.array([factors.get(id(v), 0) for v in variables], float)
        for variable, cost in zip(variables, costs, strict=True):
            if cost == 0.0:
                raise ValueError(
                    f"Kernel {variable.path!r} is not counted in the budget "
                    f"{self!r}. Give its regularizer a `sparsity` of its own."
                )
        sizes = [math.prod(v.shape) for v in variables]
        own = float(costs @ sizes)
        total = sum(
            factors.get(id(v), 0) * math.prod(v.shape) for v in model.weights
        )
        allowed = self.left * total - (total - own)
        if allowed <= 0.0:
            raise ValueError(
                f"The budget {self!r} is out of reach: weights that are not "
                f"pruned to it make up {1.0 - own / total:.2%} of the model. "
                "Raise `left`, or let more kernels carry the regularizer."
            )
        return costs, allowed

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


def lowest_until(
    scores: Sequence[np.ndarray], costs: np.ndarray, least: float
) -> list[int]:
    """Returns how many entries each kernel gives up to save a cost.

    Args:
        scores: Float arrays of shape `(entries,)`, one for each kernel. The
            lowest of all go first, those of earlier kernels among equals.
        costs: Float array, what an entry of each kernel costs.
        least: Float, what must be saved.

    Returns:
        List of integers, one for each kernel: the fewest that save it.

    Example:

    >>> scores = [np.array([1.0, 3.0]), np.array([2.0, 4.0])]
    >>> lowest_until(scores, np.array([1.0, 5.0]), 6.0)
    [1, 1]
    """
    kernels = np.repeat(np.arange(len(scores)), [s.size for s in scores])
    order = kernels[np.argsort(np.concatenate(scores), kind="stable")]
    saved = np.cumsum(costs[order])
    count = int(np.searchsorted(saved, least * (1.0 - 1e-12)))
    gone = order[: count + 1] if least > 0.0 else order[:0]
    return np.bincount(gone, minlength=len(scores)).tolist()


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
            f"At most {most} channels can be removed, which leaves "
            f"{cost(~removed(most)):,}; the budget allows {allowed:,.0f}. "
            "Raise `left`, or let more weights carry the regularizer of "
            "`CoupledChannels`."
        )
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if cost(~removed(middle)) <= allowed:
            high = middle
        else:
            low = middle + 1
    return low
