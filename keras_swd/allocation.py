"""How many units each kernel gives up to reach one target together."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.configured import Configured
from keras_swd.selection import kth_smallest, removed_count


class Allocation(Configured):
    """Shares a target among kernels.

    Subclasses implement `counts(scores, shapes, sparsity)`, and `get_config()`
    if they take arguments.

    Example:

    >>> class Halves(keras_swd.Allocation):
    ...     def counts(self, scores, shapes, sparsity):
    ...         return [len(units) // 2 for units in scores]
    >>> Halves().counts([np.ones(4), np.ones(10)], [(4,), (10,)], 0.9)
    [2, 5]
    """

    def counts(
        self,
        scores: Sequence[np.ndarray],
        shapes: Sequence[tuple[int, ...]],
        sparsity: float,
    ) -> list[int]:
        """Returns how many units each kernel gives up.

        Args:
            scores: Float arrays of shape `(units,)`, none negative, one for
                each kernel.
            shapes: Tuples, the shapes of the kernels.
            sparsity: Float in [0, 1), the share of all units that goes.

        Returns:
            List of integers, one for each kernel, each from 0 to its units.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement "
            "`counts(scores, shapes, sparsity)`."
        )


@keras.saving.register_keras_serializable("keras_swd")
class GlobalRanking(Allocation):
    """The lowest units of all kernels go, wherever they are: the paper's rule.

    Kernels whose weights are small by nature may lose nearly everything.
    `round(sparsity * n)` of all `n` units go; among equal scores earlier
    kernels come first.

    Example:

    >>> scores = [np.array([1.0, 4.0]), np.array([2.0, 3.0, 5.0, 6.0])]
    >>> GlobalRanking().counts(scores, [(2,), (4,)], 0.5)
    [1, 2]

    Reference:
        Tessier et al. 2022, arXiv 2011.10520.
    """

    def counts(self, scores, shapes, sparsity):
        """Returns how many units each kernel gives up."""
        del shapes
        total = removed_count(sum(s.size for s in scores), sparsity)
        if total == 0:
            return [0] * len(scores)
        everything = np.concatenate(scores)
        threshold = kth_smallest(everything, total, key=np.array)
        below = [int(np.count_nonzero(s < threshold)) for s in scores]
        ties = [int(np.count_nonzero(s == threshold)) for s in scores]
        return _add_in_order(below, ties, total)


@keras.saving.register_keras_serializable("keras_swd")
class Uniform(Allocation):
    """Every kernel gives up the same share: `round(sparsity * n)` of its `n`.

    Example:

    >>> scores = [np.array([1.0, 4.0]), np.array([2.0, 3.0, 5.0, 6.0])]
    >>> Uniform().counts(scores, [(2,), (4,)], 0.5)
    [1, 2]
    """

    def counts(self, scores, shapes, sparsity):
        """Returns how many units each kernel gives up."""
        del shapes
        return [removed_count(s.size, sparsity) for s in scores]


@keras.saving.register_keras_serializable("keras_swd")
class LAMP(Allocation):
    """Ranks all units together by their share of what is left of their kernel.

    Unit `u` of a kernel scores `s_u ** 2 / sum(s_v ** 2)`, the sum over the
    units `v` of that kernel which are not lower. The best unit of each kernel
    scores 1 (0 in a kernel of zeros), so no kernel empties while another has
    two units left, unless it was all zeros.
    `round(sparsity * n)` of all `n` units go; among equal scores earlier
    kernels come first.

    Example:

    >>> scores = [np.array([0.01, 0.02]), np.array([2.0, 3.0, 5.0, 6.0])]
    >>> LAMP().counts(scores, [(2,), (4,)], 0.5)
    [1, 2]

    Reference:
        Lee et al., "Layer-adaptive sparsity for the Magnitude-based Pruning",
        ICLR 2021, arXiv 2010.07611, equation 3.
    """

    def counts(self, scores, shapes, sparsity):
        """Returns how many units each kernel gives up."""
        del shapes
        total = removed_count(sum(s.size for s in scores), sparsity)
        return _lowest_of_sorted([self.rising_scores(s) for s in scores], total)

    @staticmethod
    def rising_scores(scores: np.ndarray) -> np.ndarray:
        """Returns the LAMP scores of one kernel's units, lowest first."""
        squares = np.square(np.sort(scores), dtype="float64")
        remaining = np.cumsum(squares[::-1])[::-1]
        shares = np.zeros_like(squares)
        # What diverged has no shares: infinity is no part of infinity.
        shared = (squares > 0) & np.isfinite(remaining)
        return np.divide(squares, remaining, out=shares, where=shared)


@keras.saving.register_keras_serializable("keras_swd")
class ErdosRenyi(Allocation):
    """Keeps more of small kernels, from their shapes alone.

    A kernel of shape `(n_1, ..., n_d)` keeps a share proportional to
    `(n_1 + ... + n_d) / (n_1 * ... * n_d)`, at most all. The factor is such
    that `round(sparsity * n)` of all `n` units go.

    Example:

    >>> scores = [np.ones(20), np.ones(400)]
    >>> ErdosRenyi().counts(scores, [(4, 5), (20, 20)], 0.8)
    [5, 331]

    Reference:
        Evci et al., "Rigging the Lottery", ICML 2020, arXiv 1911.11134,
        section 3 (Erdős-Rényi-Kernel).
    """

    def counts(self, scores, shapes, sparsity):
        """Returns how many units each kernel gives up."""
        sizes = np.array([s.size for s in scores])
        kept = int(sizes.sum()) - removed_count(int(sizes.sum()), sparsity)
        wanted = np.array(
            [
                size * sum(shape or (1,)) / math.prod(shape)
                for size, shape in zip(sizes, shapes, strict=True)
            ]
        )
        whole = np.zeros(len(sizes), bool)
        while True:
            factor = (kept - sizes[whole].sum()) / max(
                wanted[~whole].sum(), 1e-30
            )
            shares = np.where(whole, sizes, factor * wanted)
            overfull = (shares > sizes) & ~whole
            if not overfull.any():
                break
            whole |= overfull
        keep = _round_to_sum(shares, wanted, kept, sizes)
        return [int(n) for n in sizes - keep]


def _add_in_order(counts, extra, total) -> list[int]:
    """Adds up to `extra` to each count, first come, until `total` is met."""
    for i, most in enumerate(extra):
        counts[i] += min(most, total - sum(counts))
    return counts


def _lowest_of_sorted(rising: Sequence[np.ndarray], total: int) -> list[int]:
    """How many of the `total` lowest values each sorted array holds."""
    if total == 0:
        return [0] * len(rising)
    # Scores are non-negative floats, whose bits order like integers: bisect.
    first = np.int64(0)
    last = np.float64(max(r[-1] for r in rising)).view("int64")
    while first < last:
        middle = (first + last) // 2
        threshold = np.int64(middle).view("float64")
        if sum(np.searchsorted(r, threshold, "right") for r in rising) >= total:
            last = middle
        else:
            first = middle + 1
    threshold = np.int64(last).view("float64")
    below = [int(np.searchsorted(r, threshold, "left")) for r in rising]
    upto = [int(np.searchsorted(r, threshold, "right")) for r in rising]
    ties = [u - b for u, b in zip(upto, below, strict=True)]
    return _add_in_order(below, ties, total)


def _round_to_sum(shares, wanted, total: int, sizes) -> np.ndarray:
    """Rounds shares to integers of the given sum, none of which ever falls.

    By the method of Webster: each further unit goes to the kernel that wants
    it most for what it has, so with a larger sum no kernel gets fewer. Largest
    fractions first would not do that.
    """
    kept = np.minimum(np.floor(shares + 0.5), sizes).astype(int)
    while kept.sum() < total:
        more = np.where(kept < sizes, wanted / (2 * kept + 1), -1.0)
        kept[np.argmax(more)] += 1
    while kept.sum() > total:
        less = np.where(kept > 0, wanted / np.maximum(2 * kept - 1, 1), np.inf)
        kept[kept.size - 1 - np.argmin(less[::-1])] -= 1
    return kept


def check_allocation(allocation) -> Allocation:
    """Returns an allocation, `LAMP()` for None, or raises if it is none."""
    if allocation is None:
        return LAMP()
    if not isinstance(allocation, Allocation):
        raise ValueError(
            "Argument `allocation` must be a keras_swd allocation, e.g. "
            f"keras_swd.LAMP(). Received: allocation={allocation!r}."
        )
    return allocation
