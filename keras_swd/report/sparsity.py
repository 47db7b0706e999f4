"""How sparse a model is: a record, a table, JSON and a picture."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_swd.backend.host import read
from keras_swd.files import check_png, write_whole
from keras_swd.kernel_uses import kernel_uses
from keras_swd.models import check_built
from keras_swd.record import (
    WIDTH,
    Record,
    open_table,
    percentage,
    plain_lines,
    wrapped,
)
from keras_swd.regularizers.base import pruning_regularizer
from keras_swd.report.magnitudes import count_magnitudes
from keras_swd.report.picture import draw
from keras_swd.report.skipping import (
    LEFT_WHOLE,
    reason_to_skip,
    reasons_to_stay,
    shares_target,
)
from keras_swd.units.kernels import is_kernel

FLOAT_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Totals:
    """A number of parameters, and how many of them are zero.

    Args:
        size: Integer.
        zeros: Integer.
    """

    size: int
    zeros: int

    @property
    def nonzeros(self) -> int:
        """Number of parameters that are not zero."""
        return self.size - self.zeros

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]; 0 where there are no parameters."""
        return self.zeros / self.size if self.size else 0.0

    @property
    def percentage(self) -> str:
        """The sparsity in percent; 100.00% and 0.00% are exact.

        Example:

        >>> Totals(100_000, 99_999).percentage, Totals(8, 1).percentage
        ('99.99%', '12.50%')
        """
        return percentage(self.sparsity)

    def to_dict(self) -> dict[str, Any]:
        """The totals as a dictionary of plain Python values."""
        return {
            "size": self.size,
            "zeros": self.zeros,
            "nonzeros": self.nonzeros,
            "sparsity": self.sparsity,
        }


@dataclasses.dataclass(frozen=True)
class KernelSparsity(Totals):
    """One kernel of a model.

    Args:
        size: Integer, number of parameters.
        zeros: Integer, how many of them are zero.
        path: String, the variable's path in its model.
        shape: Tuple of integers.
        prunable: Boolean, whether `PruningScheduler` prunes it, because it
            carries a pruning regularizer and is trained, and not all its
            channels must stay. Defaults to `False`.
        skipped: String or `None`, why a kernel without zeros is not pruned.
            Defaults to `None`.
        operations: Integer or `None`, multiplications with the kernel for one
            sample, zeros included. Defaults to `None`, not known.
        activations: Integer or `None`, bytes in float32 of what its layer
            gives for one sample. Defaults to `None`, not known.
        magnitudes: Tuple of integers or `None`, how many of the other
            parameters lie in each eighth of a decade from 1e-12 to 1e4, those
            beyond in the outermost. Defaults to `None`, not counted.
    """

    path: str
    shape: tuple[int, ...]
    prunable: bool = False
    skipped: str | None = None
    operations: int | None = None
    activations: int | None = None
    magnitudes: tuple[int, ...] | None = dataclasses.field(
        default=None, repr=False
    )

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary, without `magnitudes`."""
        return {
            "path": self.path,
            "shape": list(self.shape),
            **super().to_dict(),
            "prunable": self.prunable,
            "skipped": self.skipped,
            "operations": self.operations,
            "activations": self.activations,
        }


@dataclasses.dataclass(frozen=True)
class SparsityReport(Record):
    """How sparse a model is, per kernel and in total. Printed, it is a table.

    Args:
        name: String, the model's name.
        kernels: Tuple of `KernelSparsity`.
        others: `Totals` of all other weights, biases, normalization.
    """

    name: str
    kernels: tuple[KernelSparsity, ...]
    others: Totals

    @property
    def prunable(self) -> Totals:
        """Totals of the prunable kernels; where there are none, of all."""
        prunable = [k for k in self.kernels if k.prunable]
        return _sum(prunable or self.kernels)

    @property
    def total(self) -> Totals:
        """Totals of the whole model."""
        return _sum([*self.kernels, self.others])

    @property
    def operations(self) -> int | None:
        """Multiplications for one sample, of the kernels that have theirs.

        They are not known of kernels within wrappers, recurrent layers and
        attention. None where no kernel's are.
        """
        known = [k.operations for k in self.kernels if k.operations is not None]
        return sum(known) if known else None

    @property
    def activations(self) -> int | None:
        """Bytes of what these layers give for one sample, in float32."""
        known = [
            k.activations for k in self.kernels if k.activations is not None
        ]
        return sum(known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary of plain Python values."""
        return {
            "name": self.name,
            "operations": self.operations,
            "activations": self.activations,
            "kernels": [kernel.to_dict() for kernel in self.kernels],
            "others": self.others.to_dict(),
            "prunable": self.prunable.to_dict(),
            "total": self.total.to_dict(),
        }

    def table(self, width: int = WIDTH) -> str:
        """Returns the report as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        from rich.text import Text

        table = open_table(f"Sparsity of {self.name!r}")
        table.add_column("kernel", overflow="fold")
        table.add_column("shape", overflow="fold")
        columns = ["parameters", "non-zero", "sparsity"]
        if self.operations is not None:
            columns.append("operations")
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True)

        def add(
            label: str, shape: str, counted: Totals, used: str = "", **options
        ) -> None:
            numbers = (f"{counted.size:,}", f"{counted.nonzeros:,}")
            row = (label, shape, *numbers, counted.percentage, used)
            table.add_row(*map(Text, row[: len(columns) + 2]), **options)

        for kernel in self.kernels:
            shape = "×".join(map(str, kernel.shape))
            last = kernel is self.kernels[-1]
            operations = kernel.operations
            used = "" if operations is None else f"{operations:,}"
            add(kernel.path, shape, kernel, used, end_section=last)
        part = any(k.prunable for k in self.kernels)
        add("prunable kernels" if part else "all kernels", "", self.prunable)
        if self.others.size:
            add("biases and others", "", self.others)
        operations = self.operations
        used = "" if operations is None else f"{operations:,}"
        if used and any(k.operations is None for k in self.kernels):
            used = f"≥ {used}"
        add("whole model", "", self.total, used)
        lines = plain_lines(table, width)
        return "\n".join([*lines, *self._notes(width)]).strip("\n")

    def _notes(self, width: int) -> list[str]:
        """Which kernels are not pruned and why, one paragraph per reason."""
        paths: dict[str, list[str]] = {}
        for kernel in self.kernels:
            if kernel.skipped is not None:
                paths.setdefault(kernel.skipped, []).append(kernel.path)
        lines = []
        for reason, skipped in paths.items():
            all_of_them = len(skipped) == len(self.kernels) > 1
            who = "all kernels" if all_of_them else ", ".join(skipped)
            lines += wrapped(f"Not pruned, {reason}: {who}", width)
        return lines

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the sparsity and the magnitudes of each kernel.

        On the left the share of zeros; on the right, where they were counted,
        how the magnitudes of the other parameters are spread.

        Args:
            path: String or path ending in `.png`, written whole or not at
                all; its folder must exist.

        Raises:
            ValueError: If `path` does not fit, or there are no kernels.
        """
        check_png(path)
        if not self.kernels:
            raise ValueError(
                f"{self.name!r} has no kernels, so there is nothing to plot. "
                f"Received: path={str(path)!r}."
            )
        write_whole(path, draw(self))


def sparsity_report(model: keras.Model) -> SparsityReport:
    """Counts the zeros of a model.

    A kernel is a weight of two axes or more that is no bias, slope, scale or
    statistic, or one that carries a pruning regularizer. A weight that several
    layers share counts once. Zeros are exact zeros: what selective weight decay
    has driven close to zero counts from its removal on. Where the model is
    Sequential or functional and its inputs are of a fixed size, the
    multiplications of Dense layers and convolutions are counted too, those with
    zeros included, and the memory of what these layers give.

    Args:
        model: A built `keras.Model`, also a stripped one or one that was never
            pruned.

    Returns:
        `SparsityReport`; printed, it is a table.

    Raises:
        ValueError: If `model` is no built Keras model.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.eye(3, 2), np.zeros(2)])
    >>> report = sparsity_report(model)
    >>> report.kernels[0].zeros, report.total.nonzeros, report.total.sparsity
    (4, 2, 0.75)
    """
    check_built(model, keras.layers.Layer)
    kernels, others, sharing = [], [], []
    uses, staying = _uses(model), reasons_to_stay(model)
    regularizers = [pruning_regularizer(v) for v in model.weights]
    # Where none carries any, zeros tell that a kernel was pruned.
    none_carries = all(regularizer is None for regularizer in regularizers)
    for variable, regularizer in zip(model.weights, regularizers, strict=True):
        values = read(variable)
        size, zeros = values.size, values.size - np.count_nonzero(values)
        if regularizer is None and not is_kernel(variable):
            others.append(Totals(size, int(zeros)))
            continue
        kernels.append(
            KernelSparsity(
                size=size,
                zeros=int(zeros),
                path=variable.path,
                shape=tuple(variable.shape),
                prunable=regularizer is not None
                and variable.trainable
                and id(variable) not in staying,
                skipped=None
                if zeros and (none_carries or regularizer is not None)
                else reason_to_skip(variable, staying),
                magnitudes=count_magnitudes(values),
                **uses.get(id(variable), {}),
            )
        )
        if regularizer is not None and shares_target(regularizer):
            sharing.append(kernels[-1])
    kernels = _with_those_left_whole(kernels, sharing)
    return SparsityReport(model.name, tuple(kernels), _sum(others))


def _with_those_left_whole(
    kernels: list[KernelSparsity], sharing: list[KernelSparsity]
) -> list[KernelSparsity]:
    """The kernels; those that lost nothing to a common target say so.

    What is zero throughout may never have been anything else, and tells of no
    removal.
    """
    if not any(0 < kernel.zeros < kernel.size for kernel in sharing):
        return kernels
    return [
        dataclasses.replace(kernel, skipped=LEFT_WHOLE)
        if kernel in sharing and not kernel.zeros and kernel.skipped is None
        else kernel
        for kernel in kernels
    ]


def _uses(model) -> dict[int, dict[str, int]]:
    """What is done with each kernel, where the model's graph tells."""
    try:
        uses = kernel_uses(model)
    except ValueError:
        return {}
    sizes = {id(v): math.prod(v.shape) for v in model.weights}
    return {
        key: {
            "operations": sizes[key] * use.positions,
            "activations": FLOAT_BYTES * use.outputs,
        }
        for key, use in uses.items()
    }


def _sum(parts: Iterable[Totals]) -> Totals:
    parts = list(parts)
    return Totals(sum(p.size for p in parts), sum(p.zeros for p in parts))
