"""How far are the outputs of a file from those of its model?"""

from __future__ import annotations

import math

import numpy as np

from keras_swd.export.tflite.modes import find_mode
from keras_swd.export.tflite.records import ExportError, OutputCheck


class UndefinedOutputError(ExportError):
    """The model itself gives NaN, whatever the file does."""


def compare_output(
    name: str,
    expected: list[np.ndarray],
    received: list[np.ndarray],
    tolerance: float,
    quantization: str | None = None,
) -> OutputCheck:
    """Compares one output of a file with the same output of Keras.

    Args:
        name: String, what to call it.
        expected: List of arrays, one per chunk of samples, from Keras.
        received: List of arrays, from the file.
        tolerance: Float.
        quantization: String or `None`, the mode of the file. Defaults to
            `None`, a file that computes in float32.

    Returns:
        `OutputCheck`.

    Raises:
        ExportError: If shapes differ, or a value is NaN, or values differ by
            more than `tolerance`: the largest difference, relative to the
            largest finite value of Keras; for modes that compute with
            integers, the root mean square, relative to that of Keras.

    Example:

    >>> keras_says, file_says = np.array([4.0, 0.0]), np.array([4.0, 1.0])
    >>> check = compare_output("y", [keras_says], [file_says], tolerance=0.3)
    >>> check.max_absolute_difference, check.max_relative_difference
    (1.0, 0.25)
    """
    _check_comparable(name, expected, received)
    ours = np.concatenate([x.ravel() for x in expected]).astype("float64")
    theirs = np.concatenate([x.ravel() for x in received]).astype("float64")
    with np.errstate(invalid="ignore"):
        # Equal infinities agree.
        distance = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    finite = np.abs(ours[np.isfinite(ours)])
    absolute = float(np.max(distance, initial=0.0))
    check = OutputCheck(
        name=name,
        max_absolute_difference=absolute,
        max_relative_difference=_relative(
            absolute, float(np.max(finite, initial=0.0))
        ),
        rms_relative_difference=_relative(_rms(distance), _rms(finite)),
        top1_agreement=_top1_agreement(expected, received),
    )
    mode = find_mode(quantization)
    difference = mode.difference(check)
    if not difference <= tolerance:
        raise ExportError(
            f"Output `{name}` of the file differs from Keras by "
            f"{difference:.1e} of the {mode.scale} ({absolute:.1e} absolute "
            f"at most); allowed are {tolerance:.1e}.",
            difference,
        )
    return check


def worse(first: OutputCheck, second: OutputCheck) -> OutputCheck:
    """Joins the checks of one output in two runs of a file."""
    agreements = [
        check.top1_agreement
        for check in (first, second)
        if check.top1_agreement is not None
    ]
    return OutputCheck(
        name=first.name,
        max_absolute_difference=max(
            first.max_absolute_difference, second.max_absolute_difference
        ),
        max_relative_difference=max(
            first.max_relative_difference, second.max_relative_difference
        ),
        rms_relative_difference=max(
            first.rms_relative_difference, second.rms_relative_difference
        ),
        top1_agreement=min(agreements) if agreements else None,
    )


def _check_comparable(
    name: str, expected: list[np.ndarray], received: list[np.ndarray]
) -> None:
    for ours, theirs in zip(expected, received, strict=True):
        if ours.shape != theirs.shape:
            raise ExportError(
                f"Output `{name}` of the file has shape {theirs.shape}, the "
                f"model's has shape {ours.shape}."
            )
        for array, owner, kind in (
            (ours, "Keras model", UndefinedOutputError),
            (theirs, "file", ExportError),
        ):
            if np.isnan(array).any():
                raise kind(
                    f"Output `{name}` of the {owner} has NaN for these "
                    "samples. If other samples are fine, give them in "
                    "`check_with`."
                )


def _top1_agreement(
    expected: list[np.ndarray], received: list[np.ndarray]
) -> float | None:
    if expected[0].ndim < 2 or expected[0].shape[-1] < 2:
        return None
    same = [
        np.argmax(ours, -1) == np.argmax(theirs, -1)
        for ours, theirs in zip(expected, received, strict=True)
    ]
    return float(np.mean(np.concatenate([s.ravel() for s in same])))


def _rms(values: np.ndarray) -> float:
    return math.sqrt(np.mean(np.square(values))) if len(values) else 0.0


def _relative(difference: float, scale: float) -> float:
    if not difference:
        return 0.0
    return difference / scale if scale else math.inf
