"""Results that print as a table and are written as JSON."""

from __future__ import annotations

import collections
import dataclasses
import io
import json
import os
import textwrap
from collections.abc import Iterable
from typing import Any

from keras_swd.files import write_whole

#: Characters of a table's line.
WIDTH = 88


def distinct(names: Iterable[str]) -> list[str]:
    """Numbers names that come again, as the paths of nested models may.

    Args:
        names: Iterable of strings.

    Returns:
        List of as many strings.

    Example:

    >>> distinct(["a", "b", "a"])
    ['a', 'b', 'a (2)']
    """
    met: collections.Counter[str] = collections.Counter()
    found = []
    for name in names:
        met[name] += 1
        found.append(f"{name} ({met[name]})" if met[name] > 1 else name)
    return found


def percentage(share: float) -> str:
    """Returns a share in percent; only exact zeros and ones are 0 and 100.

    Example:

    >>> percentage(0.95), percentage(0.999999), percentage(1.0)
    ('95.00%', '99.99%', '100.00%')
    """
    hundredths = round(10_000 * share)
    if 0.0 < share < 1.0:
        hundredths = min(max(hundredths, 1), 9_999)
    return f"{hundredths / 100:.2f}%"


def wrapped(text: str, width: int) -> list[str]:
    """Returns a note below a table as lines, the first one outdented."""
    return textwrap.wrap(
        text,
        width - 1,
        initial_indent=" ",
        subsequent_indent="   ",
        break_on_hyphens=False,
    )


class Record:
    """A result: printed, it is a table, and it can be written as JSON.

    Subclasses are data classes that implement `table(width)`, and `to_dict()`
    where their fields alone do not tell everything.

    Example:

    >>> @dataclasses.dataclass
    ... class Size(Record):
    ...     bytes: int
    ...
    ...     def table(self, width=WIDTH):
    ...         return f"bytes  {self.bytes}"
    >>> print(Size(3))
    bytes  3
    >>> json.loads(Size(3).to_json())
    {'bytes': 3}
    """

    def to_dict(self) -> dict[str, Any]:
        """The result as a dictionary of plain Python values."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Returns the result as JSON, and writes it to a file if asked.

        Args:
            path: String or path of a file, written whole or not at all; its
                folder must exist. Defaults to `None`, no file.

        Returns:
            String.

        Raises:
            ValueError: If `path` does not lie in an existing folder.
        """
        text = json.dumps(self.to_dict(), indent=2) + "\n"
        if path is not None:
            write_whole(path, text.encode())
        return text

    def table(self, width: int = WIDTH) -> str:
        """Returns the result as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `table(width)`."
        )

    def __str__(self) -> str:
        return self.table()


def open_table(title: str | None = None) -> Any:
    """Returns an empty `rich` table in the style of all of ours."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        box=box.SIMPLE_HEAD,
        title=None if title is None else Text(title),
        title_justify="left",
        pad_edge=False,
    )


def plain_lines(table: Any, width: int) -> list[str]:
    """Returns the lines of a `rich` table as plain text."""
    from rich.console import Console

    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return [line.rstrip() for line in stream.getvalue().splitlines()]
