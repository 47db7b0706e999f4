"""The values of the argument `quantization`, and how exact each one is."""

from __future__ import annotations

import dataclasses
import math
import numbers
from typing import Any


@dataclasses.dataclass(frozen=True)
class Mode:
    """What one value of the argument `quantization` means.

    Args:
        tolerance: Float, the difference between file and model allowed where
            the user names none.
        integers: Boolean, does the file compute with integers?
        ranges: Boolean, must the converter know the ranges of activations?
    """

    tolerance: float
    integers: bool = False
    ranges: bool = False

    @property
    def scale(self) -> str:
        """What a difference is relative to, in words."""
        return "root mean square" if self.integers else "largest output"

    def difference(self, check: Any) -> float:
        """The difference in a check that the tolerance bounds.

        Rounding to integers moves single outputs far where the model itself
        is undecided, so there all outputs count, by root mean square; else
        the largest difference does.
        """
        if self.integers:
            return check.rms_relative_difference
        return check.max_relative_difference


# In the order in which a refused one is replaced: each is computed by more
# operators than the one before it.
#
# Rounding of float32 gives 1e-7 to 1e-5 of the largest output, depending on
# depth; weights stored in 16 bits 1e-4 to 3e-3. Integers give 0.001 to 0.03 of
# the root mean square in small networks and up to 0.15 in a deep one that is
# not trained; kernels that are read wrongly 3 and more.
MODES: dict[str | None, Mode] = {
    "int16x8": Mode(tolerance=0.25, integers=True, ranges=True),
    "int8": Mode(tolerance=0.25, integers=True, ranges=True),
    "dynamic": Mode(tolerance=0.25, integers=True),
    "float16": Mode(tolerance=1e-2),
    None: Mode(tolerance=1e-4),
}


def find_mode(quantization: str | None) -> Mode:
    """Returns the mode of a name.

    Args:
        quantization: The argument `quantization` of a public function.

    Returns:
        `Mode`.

    Raises:
        ValueError: If there is none of this name.

    Example:

    >>> find_mode("float16").tolerance
    0.01
    """
    if isinstance(quantization, (str, type(None))) and quantization in MODES:
        return MODES[quantization]
    raise ValueError(
        "Argument `quantization` must be None, 'float16', 'dynamic', 'int8' "
        f"or 'int16x8'. Received: quantization={quantization!r}."
    )


def check_tolerance(tolerance: Any, quantization: str | None) -> float:
    """Returns the tolerance that a user asks for, or that of the mode.

    Args:
        tolerance: The argument `tolerance` of a public function.
        quantization: The argument `quantization` of a public function.

    Returns:
        Float.

    Raises:
        ValueError: If an argument does not fit.
    """
    mode = find_mode(quantization)
    if tolerance is None:
        return mode.tolerance
    if isinstance(tolerance, numbers.Real) and 0 <= float(tolerance) < math.inf:
        return float(tolerance)
    raise ValueError(
        "Argument `tolerance` must be a number, at least 0: a difference "
        "relative to the outputs; or None. "
        f"Received: tolerance={tolerance!r}."
    )
