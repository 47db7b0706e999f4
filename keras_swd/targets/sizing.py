"""Which share of the units is to go for a model to meet a limit?"""

import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_swd.targets.limits import SizeLimit
from keras_swd.units.kernels import Kernel
from keras_swd.units.masking import all_finite

#: The largest share of units that is tried, and the first.
MOST, FIRST = 0.999, 0.9
#: Parts of the limit between which a size need not come closer to it.
CLOSE, ENOUGH = 0.994, 0.998
#: Shares that lie closer together make no difference.
FINEST = 1e-5
#: How often what comes of a limit is tried at the start, at most.
TRIALS = 5


class SizeSearch:
    """The least share of units whose removal meets a limit, found by trial.

    Args:
        limit: A `SizeLimit`.
        model: A built `keras.Model`.
        kernels: List of `Kernel`, all that are pruned.
        counts: Function of a share of units that returns how many of them
            each kernel gives up.

    Raises:
        ValueError: If no share meets the limit.
    """

    def __init__(
        self,
        limit: SizeLimit,
        model: keras.Model,
        kernels: Sequence[Kernel],
        counts: Callable[[float], Sequence[int]],
    ):
        self._limit, self._model = limit, model
        self._kernels, self._counts = kernels, counts
        self._found: float | None = None
        self._excess = 0
        self._warned = False
        self._try_out()

    def share(self) -> float:
        """Returns the share that meets the limit with the weights of now."""
        # What diverged has no lowest units; removal will refuse it.
        if self._found is not None and not all_finite(self._kernels):
            return self._found
        measure = self._limit.measure(self._model)

        def size(share: float) -> int:
            return measure(self._values(share)) + self._excess

        try:
            self._found = least_share(size, self._limit, self._found)
        except ValueError as error:
            # Biases that were zero at first make the file larger, too.
            if self._found is None:
                raise
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{error} The run goes on with the share of weights found "
                    f"before, {self._found:.2%}.",
                    stacklevel=2,
                )
        return max(self._found, self._gone())

    def _try_out(self) -> None:
        """Learns how far measured sizes are off, close to the limit."""
        limit = self._limit
        tried: list[tuple[float, float]] = []
        share = FIRST
        for _ in range(TRIALS):
            values = self._values(share)
            self._excess = limit.excess(self._model, values)
            if not self._excess:
                break
            size = limit.measure(self._model)(values) + self._excess
            tried.append((share, size))
            close = size >= CLOSE * limit.limit or share == 0.0
            if size <= limit.limit and close:
                self._found = share
                return
            share = self._next(tried)
            if share in dict(tried):
                break
        self._found = None
        self.share()

    def _next(self, tried: Sequence[tuple[float, float]]) -> float:
        """The share to try next, where sizes of others are known."""
        if len(tried) > 1:
            (low, large), (high, small) = tried[-2:]
            part = (large - ENOUGH * self._limit.limit) / (large - small or 1.0)
            return min(max(low + part * (high - low), 0.0), MOST)
        try:
            self._found = None
            return self.share()
        except ValueError:  # so it seems, from here
            return MOST

    def _values(self, share: float) -> dict[int, np.ndarray]:
        """What kernels hold if a share of the units goes."""
        return {
            id(kernel.variable): kernel.masked(kernel.mask(count))
            for kernel, count in zip(
                self._kernels, self._counts(share), strict=True
            )
        }

    def _gone(self) -> float:
        """The share of units that were removed before, and stay removed."""
        shared = [k for k in self._kernels if k.regularizer.sparsity is None]
        scores = [kernel.unit_scores() for kernel in shared]
        zeros = sum(int(np.count_nonzero(s == 0.0)) for s in scores)
        return zeros / max(sum(s.size for s in scores), 1)


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
