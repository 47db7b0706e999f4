"""How the magnitudes of weights are spread."""

import numpy as np

#: Decades, and bins in each, over which magnitudes are counted.
LOWEST, HIGHEST, PER_DECADE = -12, 4, 8


def count_magnitudes(values: np.ndarray) -> tuple[int, ...]:
    """Counts magnitudes in each eighth of a decade from 1e-12 to 1e4.

    Args:
        values: Float array of any shape. Zeros, NaN and infinity do not count.

    Returns:
        Tuple of 128 integers; what lies beyond is in the outermost.

    Example:

    >>> counts = count_magnitudes(np.array([0.0, 1.0, -1.1, 20.0]))
    >>> counts[96], counts[106], sum(counts)
    (2, 1, 3)
    """
    magnitudes = np.abs(values[(values != 0) & np.isfinite(values)])
    decades = np.log10(magnitudes.astype("float64")) - LOWEST
    last = PER_DECADE * (HIGHEST - LOWEST) - 1
    bins = np.clip(np.floor(PER_DECADE * decades).astype(int), 0, last)
    return tuple(np.bincount(bins, minlength=last + 1).tolist())
