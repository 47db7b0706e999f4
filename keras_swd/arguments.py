"""What arguments of many functions and classes must be."""

import contextlib
import math
import operator
from collections.abc import Iterable, Iterator


def check_sparsity(sparsity) -> float:
    """Returns `sparsity` as a float, or raises if it is no such fraction."""
    try:
        if not isinstance(sparsity, (bool, str)) and 0.0 <= sparsity < 1.0:
            return float(sparsity)
        percent = 1.0 < sparsity < 100.0
    except (TypeError, ValueError):  # an array has no order
        percent = False
    hint = f" For {sparsity} percent, pass {sparsity / 100}." if percent else ""
    raise ValueError(
        "Argument `sparsity` is the fraction of weights to remove, a number "
        f"in [0, 1). Received: sparsity={sparsity!r}.{hint}"
    )


def check_sparsities(sparsities) -> tuple[float, ...]:
    """Returns sparsities, each once, in the order given, or raises."""
    if isinstance(sparsities, Iterable) and not isinstance(sparsities, str):
        given = dict.fromkeys(check_sparsity(each) for each in sparsities)
        if given:
            return tuple(given)
    raise ValueError(
        "Argument `sparsities` must hold fractions in [0, 1), e.g. [0.9, "
        f"0.95]. Received: sparsities={sparsities!r}."
    )


def check_progress(name: str, value) -> float:
    """Returns `value` as a float, or raises if it is no share of training."""
    if is_number(value) and 0.0 <= value <= 1.0:
        return float(value)
    raise ValueError(
        f"Argument `{name}` is a share of the training, in [0, 1]. "
        f"Received: {name}={value!r}."
    )


def check_positive(name: str, value) -> float:
    """Returns `value` as a float, or raises if it is not positive."""
    if is_number(value) and value > 0.0:
        return float(value)
    raise ValueError(
        f"Argument `{name}` must be a number greater than 0. "
        f"Received: {name}={value!r}."
    )


def check_not_negative(name: str, value) -> float:
    """Returns `value` as a float, or raises if it is below 0."""
    if is_number(value) and value >= 0.0:
        return float(value)
    raise ValueError(
        f"Argument `{name}` must be a number, 0 or greater. "
        f"Received: {name}={value!r}."
    )


def check_count(name: str, value, least: int = 1, otherwise: str = "") -> int:
    """Returns `value` as an integer, or raises if it is less than `least`.

    Args:
        name: String, that of the argument.
        value: What came for it.
        least: Integer, the lowest that is allowed. Defaults to `1`.
        otherwise: String, what the message says after "an integer, 1 or
            greater". Defaults to `""`.
    """
    with contextlib.suppress(TypeError):
        if not isinstance(value, bool) and operator.index(value) >= least:
            return operator.index(value)
    raise ValueError(
        f"Argument `{name}` must be an integer, {least} or greater{otherwise}. "
        f"Received: {name}={value!r}."
    )


def check_optional_count(name: str, value) -> int | None:
    """Returns `value` as a positive integer or None, or raises."""
    if value is None:
        return None
    return check_count(name, value, otherwise=", or None")


def check_repeatable(name: str, data) -> None:
    """Raises a `ValueError` if data cannot be gone through again and again.

    Args:
        name: String, that of the argument.
        data: What came for it.
    """
    if isinstance(data, Iterator):
        raise ValueError(
            f"Argument `{name}` is gone through many times, which an iterator "
            "cannot be. Pass arrays, as `(x, y)`, or a data set. "
            f"Received: {name}={data!r}."
        )


def is_number(value) -> bool:
    """Whether `value` is a real number; booleans and strings are not."""
    try:
        return not isinstance(value, (bool, str)) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
