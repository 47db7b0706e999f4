"""What else lies in the folder of a run: exported files, tables."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from keras_swd.export.tflite.latency import latency
from keras_swd.export.tflite.records import ExportError, gzip_size

#: The files that hold a model.
SUFFIXES = (".keras", ".tflite")


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file that holds a model.

    Args:
        name: String.
        bytes: Integer.
        gzip_bytes: Integer, its size after gzip.
        seconds: Float, its latency, or `None`: not measured. Defaults to
            `None`.
        failure: String, why it was not measured, or `None`. Defaults to
            `None`.
    """

    name: str
    bytes: int
    gzip_bytes: int
    seconds: float | None = None
    failure: str | None = None


def exported_files(folder: Path, timed: bool) -> list[ExportedFile]:
    """Returns the models of a folder, by name.

    Args:
        folder: Path.
        timed: Boolean, run the TFLite files to see how long they take?

    Returns:
        List of `ExportedFile`.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in SUFFIXES or not path.is_file():
            continue
        content = path.read_bytes()
        file = ExportedFile(path.name, len(content), gzip_size(content))
        if timed and path.suffix == ".tflite":
            try:
                file = dataclasses.replace(file, seconds=latency(path))
            except ExportError as error:
                file = dataclasses.replace(file, failure=str(error))
        found.append(file)
    return found


def tables(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the tables of a folder.

    A table is a JSON file with a list `rows` of dictionaries, as the demo and
    `Comparison.to_json` write it.

    Args:
        folder: Path.

    Returns:
        Dictionary from a file's name to its rows, which are not empty.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        rows = content.get("rows") if isinstance(content, dict) else None
        if rows and isinstance(rows, list):
            if all(isinstance(row, dict) and row for row in rows):
                found[path.name] = rows
    return found
