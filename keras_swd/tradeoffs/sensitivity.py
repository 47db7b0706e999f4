"""What the zeros of each kernel cost by themselves."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_swd.arguments import check_repeatable, check_sparsities, is_number
from keras_swd.files import check_png, write_whole
from keras_swd.models import check_built
from keras_swd.record import WIDTH, Record, open_table, plain_lines
from keras_swd.selection import removed_count
from keras_swd.tradeoffs.metric import (
    check_compiled,
    check_mode,
    find_metric,
    gain,
    measured,
)
from keras_swd.tradeoffs.parts import Part, find_parts
from keras_swd.tradeoffs.pictures import draw_sensitivity
from keras_swd.units.masking import check_finite

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
# Metrics are computed in float32: 0.98 less 0.97 is more than 0.01 there.
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class KernelSensitivity:
    """What the zeros of one kernel cost.

    Args:
        path: String, the kernel's path in its model, or that of the first
            weight of a set of coupled channels.
        units: Integer, how many can go.
        metrics: Dictionary from the name of a metric to its values, a tuple
            with one for each sparsity.
    """

    path: str
    units: int
    metrics: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Sensitivity(Record):
    """What the zeros of each kernel cost by themselves. Printed, a table.

    Args:
        name: String, the model's name.
        metric: String, the metric that counts.
        mode: String, `"max"` if more of it is better, else `"min"`.
        within: Float, how much of it may be lost for a target.
        sparsities: Tuple of floats, rising.
        before: Dictionary of the metrics with all weights.
        kernels: Tuple of `KernelSensitivity`.
    """

    name: str
    metric: str
    mode: str
    within: float
    sparsities: tuple[float, ...]
    before: dict[str, float]
    kernels: tuple[KernelSensitivity, ...]

    @property
    def targets(self) -> dict[str, float]:
        """For each kernel's path, the sparsity that loses at most `within`.

        It is the highest of `sparsities` up to which none loses more, or 0;
        of kernels that share a path, the lowest of theirs.

        Example:

        >>> curve = KernelSensitivity("k", 9, {"a": (0.9, 0.85, 0.9)})
        >>> whole = {"a": 0.9}
        >>> Sensitivity(
        ...     "m", "a", "max", 0.01, (0.5, 0.8, 0.9), whole, (curve,)
        ... ).targets
        {'k': 0.5}
        """
        targets: dict[str, float] = {}
        for kernel in self.kernels:
            target = self._target(kernel)
            targets[kernel.path] = min(target, targets.get(kernel.path, 1.0))
        return targets

    def lost(self, kernel: KernelSensitivity) -> tuple[float, ...]:
        """Returns how much worse the metric is at each sparsity."""
        best = gain(self.mode, self.before[self.metric])
        values = kernel.metrics[self.metric]
        return tuple(best - gain(self.mode, value) for value in values)

    def _target(self, kernel: KernelSensitivity) -> float:
        target = 0.0
        curve = zip(self.sparsities, self.lost(kernel), strict=True)
        for sparsity, lost in curve:
            # What diverged is NaN, and within nothing.
            if not lost <= self.within + ROUNDING:
                break
            target = sparsity
        return target

    def to_dict(self) -> dict[str, Any]:
        """The result as a dictionary of plain values; what diverged is None."""
        return {**_finite(super().to_dict()), "targets": self.targets}

    def table(self, width: int = WIDTH) -> str:
        """Returns the metric over the sparsity as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        from rich.text import Text

        before = self.before[self.metric]
        table = open_table(
            f"{self.metric} of {self.name!r} with zeros in one kernel; "
            f"{before:.4f} with all weights"
        )
        table.add_column("kernel", overflow="fold")
        for sparsity in self.sparsities:
            share = f"{100 * sparsity:g}%"
            table.add_column(share, justify="right", no_wrap=True)
        table.add_column("target", justify="right", no_wrap=True)
        targets = self.targets
        for kernel in self.kernels:
            values = kernel.metrics[self.metric]
            table.add_row(
                Text(kernel.path),
                *(f"{value:.4f}" for value in values),
                f"{100 * targets[kernel.path]:g}%",
            )
        lines = plain_lines(table, width)
        lines.append(f" target: up to which at most {self.within:g} is lost")
        return "\n".join(lines).strip("\n")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws a map: a row for each kernel, a column for each sparsity.

        The darker a field, the more is lost; a frame marks the target.

        Args:
            path: String or path ending in `.png`, written whole or not at
                all; its folder must exist.

        Raises:
            ValueError: If `path` does not fit.
        """
        write_whole(check_png(path), draw_sensitivity(self))


def sensitivity(
    model: keras.Model,
    data: Any,
    sparsities: Iterable[float] = SPARSITIES,
    metric: str | None = None,
    mode: str = "auto",
    within: float = 0.01,
    exclude: Iterable[str | keras.layers.Layer] = (),
) -> Sensitivity:
    """Measures what the zeros of each kernel cost by themselves.

    The lowest units of one kernel are set to zero, the model is evaluated,
    and the kernel gets its values back; so for each kernel and sparsity. Which
    are lowest its pruning regularizer says, by granularity and criterion, and
    in a model without any the magnitude of each weight: a pretrained model
    needs no preparation. Weights, optimizer and metrics are left as they were,
    also where an evaluation raises an exception.

    Nothing is trained, so a kernel bears more zeros in a run that prunes than
    this tells; and what several kernels lose adds up, so `within` is best
    small. It takes one evaluation for each kernel and sparsity.

    Args:
        model: A built and compiled `keras.Model`.
        data: What to evaluate on: a tuple `(x, y)` or `(x, y,
            sample_weight)`, or a data set.
        sparsities: Iterable of floats in [0, 1). Defaults to `(0.5, 0.7, 0.8,
            0.9, 0.95, 0.98)`.
        metric: String, the metric that the table shows and that may lose no
            more than `within`; all are measured. Defaults to `None`, the
            first that the model is compiled with, or else the loss, which
            counts without the penalties of regularizers.
        mode: `"max"` if more of it is better, `"min"` if less, `"auto"` for
            what Keras knows of it. Defaults to `"auto"`.
        within: Float, at least 0: how much of it a kernel may lose at its
            target, in the metric's unit. Defaults to `0.01`.
        exclude: Layers to leave alone, by name or the layer itself, as in
            `with_regularizer`. Defaults to `()`.

    Returns:
        `Sensitivity`; printed, it is a table, and `targets` holds the
        sparsities to prune to.

    Raises:
        ValueError: If an argument does not fit, the model is not built or not
            compiled, has no kernels, or one that holds NaN or infinity.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.set_weights([np.array([[1.0], [0.1]]), np.zeros(1)])
    >>> model.compile(loss="mse", metrics=["mae"])
    >>> data = np.eye(2), np.array([[1.0], [0.1]])
    >>> report = sensitivity(model, data, [0.5], within=0.06)
    >>> list(report.targets.values())
    [0.5]

    Reference:
        Han et al., "Learning both Weights and Connections for Efficient Neural
        Networks", NeurIPS 2015, arXiv 1506.02626, section 4, figure 6.
    """
    check_built(model)
    check_compiled(model)
    check_repeatable("data", data)
    check_mode(mode)
    tried = tuple(sorted(check_sparsities(sparsities)))
    if not is_number(within) or within < 0.0:
        raise ValueError(
            "Argument `within` is how much of the metric a kernel may lose, "
            f"at least 0. Received: within={within!r}."
        )
    parts = find_parts(model, exclude)
    for part in parts:
        check_finite(part.weights)
    before = measured(model, [], [], data)
    name, mode = find_metric(model, before, metric, mode)
    return Sensitivity(
        name=model.name,
        metric=name,
        mode=mode,
        within=float(within),
        sparsities=tried,
        before=before,
        kernels=tuple(_curves(model, parts, tried, data)),
    )


def _curves(
    model: keras.Model, parts: list[Part], sparsities, data
) -> Iterator[KernelSensitivity]:
    """Evaluates each part at each sparsity."""
    for part in parts:
        size = part.units.size
        points = [
            measured(
                model, part.weights, part.masks(removed_count(size, s)), data
            )
            for s in sparsities
        ]
        metrics = {name: tuple(p[name] for p in points) for name in points[0]}
        yield KernelSensitivity(part.path, size, metrics)


def _finite(content: Any) -> Any:
    """The same with None for NaN and infinity, which JSON does not have."""
    if isinstance(content, dict):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
