"""Which units go: exact counts, exact thresholds, ties in a fixed order.

Everything here works on NumPy arrays on the host, where selection is fastest:
a threshold is found once per kernel and step, before the compiled step or
beside its forward pass.
"""

from collections.abc import Callable

import numpy as np

#: Arrays up to this many values are partitioned as a whole.
SMALL = 1 << 20
#: Values looked at together: they fit the processor's cache, and what is made
#: of them is too small for the allocator to fetch from the system each time.
CHUNK = 60_000
#: Values sampled to bracket the threshold of a large array.
SAMPLE = 1 << 16
#: Half the width of a bracket, in standard deviations of a sample's rank.
DEVIATIONS = 3.0


def removed_count(size: int, sparsity: float) -> int:
    """Number of units out of `size` that `sparsity` removes, to the nearest.

    Halves go to the even neighbour, as Python rounds.

    Example:

    >>> removed_count(100, 0.29)
    29
    """
    return round(sparsity * size)


def kth_smallest(
    values: np.ndarray, k: int, key: Callable = abs
) -> np.floating:
    """Finds the `k`-th smallest of `key(values)`, counting from 1.

    Exact. A large array is not partitioned as a whole: a sample brackets the
    answer, one pass in pieces that fit the cache counts what lies below the
    bracket and gathers what lies in it, and only that is partitioned. A
    bracket that misses leads to a plain partition. The answer of a step ago
    would not do as a bracket: late in a run, when selected weights shrink
    fast, thresholds move far in a step.

    Args:
        values: Float array of shape `(n,)`.
        k: Integer in [1, n].
        key: Elementwise function that returns a new array. Defaults to `abs`.

    Returns:
        The value, of the dtype of `key(values)`.

    Reference:
        Floyd and Rivest, "Expected time bounds for selection",
        Communications of the ACM 18(3), 1975.

    Example:

    >>> float(kth_smallest(np.array([3.0, -1.0, 2.0]), 2))
    2.0
    """
    if values.size > SMALL:
        below, inside = _count_and_gather(
            values, *_bracket(values, k, key), key
        )
        if below < k <= below + inside.size:
            inside.partition(k - below - 1)
            return inside[k - below - 1]
    keys = key(values)
    keys.partition(k - 1)
    return keys[k - 1]


def _bracket(values, k, key) -> tuple[float, float]:
    """Values between which the `k`-th smallest key lies, almost surely."""
    # An odd distance meets all columns of a kernel, whose width is often even.
    sample = np.sort(key(values[:: (values.size // SAMPLE) | 1]))
    share = k / values.size
    deviation = np.sqrt(sample.size * share * (1.0 - share))
    first = int(share * sample.size - DEVIATIONS * deviation - 1.0)
    last = int(share * sample.size + DEVIATIONS * deviation + 1.0)
    return (
        sample[first] if first >= 0 else -np.inf,
        sample[last] if last < sample.size else np.inf,
    )


def _count_and_gather(values, low, high, key) -> tuple[int, np.ndarray]:
    """How many keys are under `low`, and all those from `low` to `high`."""
    below, inside = 0, []
    for start in range(0, values.size, CHUNK):
        keys = key(values[start : start + CHUNK])
        under = keys < low
        below += int(np.count_nonzero(under))
        under ^= keys <= high
        inside.append(keys.compress(under))
    return below, np.concatenate(inside)


def threshold_of_values(values: np.ndarray, count: int, key: Callable) -> float:
    """Threshold at or below which the `count` lowest `key(values)` lie."""
    if count == 0:
        return -1.0
    return float(kth_smallest(values, count, key))


def threshold_of_units(scores: np.ndarray, count: int) -> float:
    """Threshold between the `count` lowest unit scores and the others.

    It lies halfway between two scores, so that scores which a compiled step
    computes in another order of summation fall on the same side.

    Args:
        scores: Float array of shape `(units,)`, none negative.
        count: Integer in [0, units].

    Returns:
        Float; -1 for `count=0`, so that nothing is selected.
    """
    if count == 0:
        return -1.0
    if count == scores.size:
        return float("inf")
    pair = np.partition(scores, (count - 1, count))[count - 1 : count + 1]
    return float(np.mean(pair, dtype="float64"))


def lowest_units(scores: np.ndarray, count: int) -> np.ndarray:
    """Marks the `count` lowest scores, earlier units first among equals.

    Args:
        scores: Float array of shape `(units,)`.
        count: Integer in [0, units].

    Returns:
        Boolean array of shape `(units,)` with exactly `count` true entries.

    Example:

    >>> lowest_units(np.array([2.0, 1.0, 2.0]), 2).tolist()
    [True, True, False]
    """
    if count == 0:
        return np.zeros(scores.shape, bool)
    threshold = kth_smallest(scores, count, key=np.array)
    selected = scores < threshold
    ties = np.flatnonzero(scores == threshold)
    selected[ties[: count - np.count_nonzero(selected)]] = True
    return selected
