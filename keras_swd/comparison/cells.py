"""One run of a comparison: what it is, how it runs, and its file."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keras_swd.arguments import is_number
from keras_swd.comparison.methods import Method
from keras_swd.files import write_whole
from keras_swd.report.sparsity import sparsity_report


class Key(NamedTuple):
    """What tells a cell from the others of its grid."""

    method: str
    sparsity: float
    seed: int

    def __str__(self) -> str:
        return f"{self.method}, {self.sparsity:g}, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run that has ended, one way or the other."""

    method: str
    sparsity: float
    seed: int

    @property
    def key(self) -> Key:
        """What tells it from the others of its grid."""
        return Key(self.method, self.sparsity, self.seed)


@dataclasses.dataclass(frozen=True)
class Cell(_Run):
    """A run that is finished.

    Args:
        method: String, its name.
        sparsity: Float in [0, 1), what was asked for; 0 without pruning.
        seed: Integer.
        numbers: Dictionary of floats, what the run returned; `"sparsity"` is
            the one reached, where the method did not say otherwise.
        seconds: Float.
        warnings: Tuple of strings, what was warned of.
    """

    numbers: dict[str, float]
    seconds: float
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Failure(_Run):
    """A run that raised an exception.

    Args:
        method: String, its name.
        sparsity: Float in [0, 1), what was asked for; 0 without pruning.
        seed: Integer.
        reason: String, the exception.
        traceback: String, where it was raised.
    """

    reason: str
    traceback: str

    def __str__(self) -> str:
        # A message may begin with an empty line.
        kind, _, message = self.reason.partition(": ")
        first = message.strip().partition("\n")[0]
        return f"{self.key}: {kind}: {first}"


@dataclasses.dataclass(frozen=True)
class Task:
    """A cell of the grid that may have to be run.

    Args:
        key: A `Key`.
        method: Function of `build_model`, `fit` and the sparsity.
        experiment: Dictionary of plain values, by which its file is told from
            one of another experiment.
    """

    key: Key
    method: Method
    experiment: dict[str, Any]

    def write(self, folder: Path, cell: Cell) -> None:
        """Writes its cell, whole or not at all."""
        content = dataclasses.asdict(cell) | {"experiment": self.experiment}
        text = json.dumps(content, indent=2) + "\n"
        write_whole(self._path(folder), text.encode())

    def read(self, folder: Path, metric: str) -> Cell | None:
        """Returns its cell, or None where there is none.

        Raises:
            ValueError: If the file is no cell, one of another experiment, or
                lacks the number `metric`.
        """
        path = self._path(folder)
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            there = content.pop("experiment")
            content["warnings"] = tuple(content["warnings"])
            cell = Cell(**content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"File {str(path)!r} is no cell of a comparison. Delete it, or "
                f"pass another `folder`. Cause: {error!r}"
            ) from error
        told = difference(
            cell.key._asdict() | there, self.key._asdict() | self.experiment
        )
        if told is not None:
            raise ValueError(
                f"File {str(path)!r} is a cell of another experiment: {told}. "
                "Pass another `folder`, or delete the cells that are to run "
                "again."
            )
        if metric not in cell.numbers:
            raise ValueError(
                "Argument `metric` must name a number of every cell; file "
                f"{str(path)!r} has {sorted(cell.numbers)}. "
                f"Received: metric={metric!r}."
            )
        return cell

    def _path(self, folder: Path) -> Path:
        return folder / "{}-{}-{}.json".format(*self.key)


def difference(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """Tells the first thing that differs, or returns None.

    Example:

    >>> difference({"a": {"b": 1}}, {"a": {"b": 2}})
    '`a.b` is 1 there and 2 here'
    """
    for name in [*here, *there]:
        one, other = there.get(name), here.get(name)
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            deeper = difference(one, other)
            return (
                None if deeper is None else deeper.replace("`", f"`{name}.", 1)
            )
        return f"`{name}` is {one!r} there and {other!r} here"
    return None


def run(
    build_model: Callable, fit: Callable, metric: str, task: Task
) -> Cell | Failure:
    """Runs a cell in a session of Keras of its own.

    Args:
        build_model: Function without arguments.
        fit: Function of a model and a list of callbacks.
        metric: String, a number that the run must return.
        task: A `Task`.

    Returns:
        A `Cell`, or a `Failure` if an exception was raised.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(task.key.seed)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            numbers = task.method(build_model, measured(fit), task.key.sparsity)
        numbers = _check_numbers(numbers, metric)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Failure(*task.key, reason, traceback.format_exc())
    seconds = round(time.perf_counter() - start, 3)
    told = tuple(dict.fromkeys(str(w.message) for w in caught))
    return Cell(*task.key, numbers, seconds, told)


def measured(fit: Callable) -> Callable:
    """Returns `fit` with the reached sparsity added to what it returns.

    It is the share of zeros in the prunable kernels, or in all kernels where
    there are none. What `fit` itself calls `"sparsity"` comes first.
    """

    def fit_and_measure(model, callbacks, *args, **kwargs):
        numbers = fit(model, callbacks, *args, **kwargs)
        if isinstance(model, keras.Model) and isinstance(numbers, Mapping):
            reached = sparsity_report(model).prunable.sparsity
            return {"sparsity": reached, **numbers}
        return numbers

    return fit_and_measure


def _check_numbers(numbers, metric: str) -> dict[str, float]:
    """Returns what a run returned as floats, or raises a `ValueError`."""
    if not isinstance(numbers, Mapping) or metric not in numbers:
        raise ValueError(
            f"A run must return a dictionary of numbers with {metric!r}, that "
            "of the argument `metric`; usually `fit` makes it. "
            f"Received: {numbers!r}."
        )
    for name, value in numbers.items():
        if not is_number(value):
            raise ValueError(
                "A run must return a dictionary of finite numbers. "
                f"Received: {name}={value!r}."
            )
    return {str(name): float(value) for name, value in numbers.items()}
