"""What a comparison found: a record, a table, JSON and a picture."""

from __future__ import annotations

import dataclasses
import itertools
import os
import statistics
from typing import Any

from keras_swd.comparison.cells import Cell, Failure
from keras_swd.comparison.picture import draw
from keras_swd.files import check_png, write_whole
from keras_swd.record import WIDTH, Record, open_table, plain_lines, wrapped


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """One method at one sparsity: the mean of its seeds.

    Args:
        method: String, its name.
        sparsity: Float in [0, 1), what was asked for; 0 without pruning.
        mean: Float, of the metric.
        deviation: Float, the sample standard deviation of the metric; `None`
            for a single seed.
        seeds: Integer, how many runs there are.
        reached: Float, the mean of the sparsities reached; `None` where a run
            did not tell.
        seconds: Float, the mean of a run's time.
        warned: Integer, in how many runs something was warned of.
    """

    method: str
    sparsity: float
    mean: float
    deviation: float | None
    seeds: int
    reached: float | None
    seconds: float
    warned: int


@dataclasses.dataclass(frozen=True)
class Comparison(Record):
    """What a comparison found. Printed, it is a table.

    Args:
        metric: String, the number that is compared.
        settings: Dictionary that tells the experiment.
        cells: Tuple of `Cell`, the finished runs.
        failures: Tuple of `Failure`, the runs that raised an exception.
    """

    metric: str
    settings: dict[str, Any]
    cells: tuple[Cell, ...]
    failures: tuple[Failure, ...] = ()

    @property
    def rows(self) -> tuple[ComparisonRow, ...]:
        """Means of the seeds, by sparsity, methods in their order.

        Example:

        >>> cells = [Cell("SWD", 0.9, i, {"a": i / 10}, 1.0) for i in (1, 3)]
        >>> (row,) = Comparison("a", {}, tuple(cells)).rows
        >>> round(row.mean, 3), round(row.deviation, 3), row.seeds
        (0.2, 0.141, 2)
        """
        groups: dict[tuple[float, str], list[Cell]] = {}
        for cell in self.cells:
            key = (cell.sparsity, cell.method)
            groups.setdefault(key, []).append(cell)
        order = {c.method: None for c in self.cells}
        places = {method: place for place, method in enumerate(order)}
        return tuple(
            self._row(groups[key])
            for key in sorted(groups, key=lambda k: (k[0], places[k[1]]))
        )

    def _row(self, cells: list[Cell]) -> ComparisonRow:
        values = [cell.numbers[self.metric] for cell in cells]
        reached = [cell.numbers.get("sparsity") for cell in cells]
        told = [share for share in reached if share is not None]
        return ComparisonRow(
            method=cells[0].method,
            sparsity=cells[0].sparsity,
            mean=statistics.fmean(values),
            deviation=statistics.stdev(values) if len(values) > 1 else None,
            seeds=len(values),
            reached=statistics.fmean(told) if told == reached else None,
            seconds=statistics.fmean(cell.seconds for cell in cells),
            warned=sum(bool(cell.warnings) for cell in cells),
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as a dictionary of plain Python values."""
        return {
            "metric": self.metric,
            "settings": self.settings,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "cells": [dataclasses.asdict(cell) for cell in self.cells],
            "failures": [dataclasses.asdict(f) for f in self.failures],
        }

    def table(self, width: int = WIDTH) -> str:
        """Returns means and standard deviations as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        from rich.text import Text

        table = open_table()
        table.add_column("sparsity", justify="right")
        table.add_column("method", overflow="fold")
        for title in (self.metric, "±", "seeds", "reached", "s", "warned"):
            table.add_column(Text(title), justify="right", no_wrap=True)
        for sparsity, group in itertools.groupby(
            self.rows, lambda row: row.sparsity
        ):
            rows = list(group)
            for row in rows:
                table.add_row(
                    f"{sparsity:g}" if row is rows[0] else "",
                    Text(row.method),
                    f"{row.mean:.4f}",
                    "" if row.deviation is None else f"{row.deviation:.4f}",
                    f"{row.seeds}",
                    "" if row.reached is None else f"{row.reached:.4f}",
                    f"{row.seconds:.1f}",
                    f"{row.warned}" if row.warned else "",
                    end_section=row is rows[-1],
                )
        lines = plain_lines(table, width)
        for failure in self.failures:
            lines += wrapped(f"Failed: {failure}", width)
        return "\n".join(lines).strip("\n")

    def plot(
        self, path: str | os.PathLike[str], lowest: float | None = None
    ) -> None:
        """Draws the metric over the sparsity, a line for each method.

        Bars show the standard deviation. The sparsity is drawn by the share
        of weights left, on a logarithmic axis. Methods that ran without
        pruning are level lines.

        Args:
            path: String or path ending in `.png`, written whole or not at
                all; its folder must exist.
            lowest: Float, where the metric's axis begins, if collapsed
                networks would hide the differences of others. Defaults to
                `None`, all is shown.

        Raises:
            ValueError: If `path` does not fit.
        """
        write_whole(check_png(path), draw(self.metric, self.rows, lowest))
