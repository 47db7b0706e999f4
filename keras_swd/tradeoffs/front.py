"""The models of a run that no other beats in both metric and size."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path

from keras_swd.files import check_png, write_whole
from keras_swd.record import WIDTH, Record, open_table, plain_lines
from keras_swd.tradeoffs.metric import gain
from keras_swd.tradeoffs.pictures import draw_front

#: Sizes are predicted to about 2 percent, and told apart no finer.
STEP = 1.02


@dataclasses.dataclass(frozen=True)
class ParetoPoint:
    """A model that a run passed through, with its lowest weights at zero.

    Args:
        epoch: Integer, after how many epochs.
        sparsity: Float in [0, 1), the share that was asked for.
        value: Float, the metric with these weights at zero.
        bytes: Integer, the predicted size of the exported file.
        file: String, the name of the file that holds the model.
    """

    epoch: int
    sparsity: float
    value: float
    bytes: int
    file: str

    @property
    def size_class(self) -> int:
        """Sizes of the same class count as equal.

        Example:

        >>> sizes = (20_000, 20_010, 30_000)
        >>> [ParetoPoint(1, 0.5, 1.0, n, "").size_class for n in sizes]
        [500, 500, 520]
        """
        return math.floor(math.log(self.bytes) / math.log(STEP))


@dataclasses.dataclass(frozen=True)
class ParetoFront(Record):
    """The models that no other beats in metric and size. Printed, a table.

    Args:
        metric: String, the metric that counts.
        mode: String, `"max"` if more of it is better, else `"min"`.
        file: String, the kind of file whose size is predicted.
        points: Tuple of `ParetoPoint`, the smallest file first. Defaults to
            `()`.
    """

    metric: str
    mode: str
    file: str
    points: tuple[ParetoPoint, ...] = ()

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ParetoFront:
        """Reads what `to_json` wrote.

        Args:
            path: String or path of the file.

        Returns:
            `ParetoFront`.

        Raises:
            ValueError: If the file holds anything else.
        """
        try:
            fields = json.loads(Path(path).read_text())
            points = [ParetoPoint(**point) for point in fields.pop("points")]
            return cls(**fields, points=tuple(points))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "Argument `path` must name a file that a front was written "
                f"to. Received: path={str(path)!r}."
            ) from error

    def beaten(self, point: ParetoPoint, by: ParetoPoint) -> bool:
        """Whether a point is no better than another in metric and size.

        Of equal ones neither is beaten; sizes of one class count as equal.
        """
        mine = gain(self.mode, point.value), -point.size_class
        others = gain(self.mode, by.value), -by.size_class
        no_worse = others[0] >= mine[0] and others[1] >= mine[1]
        return no_worse and others != mine

    def takes(self, point: ParetoPoint) -> bool:
        """Whether a point belongs to the front: it beats or adds to it.

        Of equal points the earlier stays. What diverged has no place.
        """
        return math.isfinite(point.value) and not any(
            self.beaten(point, by=other)
            or (other.value, other.size_class)
            == (point.value, point.size_class)
            for other in self.points
        )

    def with_points(self, points: Iterable[ParetoPoint]) -> ParetoFront:
        """Returns the front of these points and its own.

        Args:
            points: Iterable of `ParetoPoint`, the earlier first.

        Returns:
            `ParetoFront`.

        Example:

        >>> front = ParetoFront("accuracy", "max", "float32 file")
        >>> front = front.with_points(
        ...     [
        ...         ParetoPoint(1, 0.5, 0.90, 40_000, "a.keras"),
        ...         ParetoPoint(1, 0.9, 0.80, 10_000, "b.keras"),
        ...         ParetoPoint(2, 0.5, 0.95, 40_000, "c.keras"),
        ...     ]
        ... )
        >>> [point.file for point in front.points]
        ['b.keras', 'c.keras']
        """
        front = self
        for point in points:
            if front.takes(point):
                kept = [p for p in front.points if not front.beaten(p, point)]
                kept = sorted([*kept, point], key=lambda p: p.bytes)
                front = dataclasses.replace(front, points=tuple(kept))
        return front

    def table(self, width: int = WIDTH) -> str:
        """Returns the front as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        from rich.text import Text

        table = open_table(f"Predicted sizes of the {self.file}")
        for title in ("KiB", self.metric, "zeros", "epoch"):
            table.add_column(Text(title), justify="right", no_wrap=True)
        table.add_column("model", overflow="fold")
        for point in self.points:
            table.add_row(
                f"{point.bytes / 1024:,.1f}",
                f"{point.value:.4f}",
                f"{100 * point.sparsity:g}%",
                f"{point.epoch}",
                Text(point.file),
            )
        return "\n".join(plain_lines(table, width)).strip("\n")

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the metric over the size.

        Args:
            path: String or path ending in `.png`, written whole or not at
                all; its folder must exist.

        Raises:
            ValueError: If `path` does not fit, or the front has no points.
        """
        check_png(path)
        if not self.points:
            raise ValueError(
                "The front has no points, so there is nothing to plot. "
                f"Received: path={str(path)!r}."
            )
        write_whole(path, draw_front(self))
