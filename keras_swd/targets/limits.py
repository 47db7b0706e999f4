"""Targets in the size of what the model becomes, met by trial."""

from collections.abc import Callable, Mapping

import numpy as np

from keras_swd.configured import Configured
from keras_swd.targets.budgets import Budget

#: From the values of the pruned kernels, by the `id` of the variable, to a
#: size.
Measure = Callable[[Mapping[int, np.ndarray]], int]
#: The largest share of units that is tried, and the first.
MOST, FIRST = 0.999, 0.9
#: Parts of the limit between which a size need not come closer to it.
CLOSE, ENOUGH = 0.994, 0.998
#: Shares that lie closer together make no difference.
FINEST = 1e-5


class SizeLimit(Configured):
    """How large what the model becomes may be.

    `PruningScheduler(sparsity=...)` takes one in place of a share of units: it
    then removes about the least share that meets it. Subclasses implement
    `limit`, `measure(model)` and `remedy(smallest)`.
    """

    @property
    def limit(self) -> float:
        """The largest measured size that is accepted."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `limit`."
        )

    def measure(self, model) -> Measure:
        """Returns a function from the kernels' values to a size.

        Args:
            model: A built model, of which all other weights are taken as they
                are now.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `measure(model)`."
        )

    def excess(self, model, values: Mapping[int, np.ndarray]) -> int:
        """Returns how much larger the real thing is than what is measured.

        Asked at the start of a run alone, since to know it may take long. 0 by
        default.

        Args:
            model: A built model.
            values: The values of the pruned kernels, by the `id` of the
                variable.
        """
        del model, values
        return 0

    def remedy(self, smallest: int) -> str:
        """Returns what to do if nothing measures less than `smallest`."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `remedy(smallest)`."
        )


#: What a user may ask for; a float is the share of units to remove.
Goal = float | Budget | SizeLimit | None


def least_share(
    size: Callable[[float], int], limit: SizeLimit, guess: float | None = None
) -> float:
    """Finds about the least share of units whose removal meets a limit.

    Sizes fall nearly in proportion to the share, so a few trials do: the
    next share is where a straight line between two known sizes meets the
    limit. A guess that still fits is returned after one trial.

    Args:
        size: Function of a share in [0, 1).
        limit: A `SizeLimit`.
        guess: Float, the share that was found before. Defaults to `None`.

    Returns:
        Float in [0, 1).

    Raises:
        ValueError: If no share meets the limit.
    """
    most = limit.limit
    low, high = 0.0, MOST
    above = below = None
    if guess is not None:
        found = size(guess)
        if found > most:
            low, above = guess, found
        elif guess == 0.0 or found >= CLOSE * most:
            return guess
        else:
            high, below = guess, found
    if above is None:
        above = size(low)
        if above <= most:
            return low
    if below is None:
        below = size(high)
        if below > most:
            raise ValueError(
                f"The target {limit!r} is out of reach. {limit.remedy(below)}"
            )
    halve = False
    while below < CLOSE * most and high - low > FINEST:
        part = (above - ENOUGH * most) / (above - below)
        # Where sizes fall in a curve, a line may creep.
        part = 0.5 if halve else min(max(part, 0.02), 0.98)
        halve = not halve
        share = low + part * (high - low)
        found = size(share)
        if found <= most:
            high, below = share, found
        else:
            low, above = share, found
    return high
