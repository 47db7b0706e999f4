"""What the demo found: models measured as they lie in files."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.record import WIDTH, Record, open_table, plain_lines
from keras_swd.report.sparsity import SparsityReport, sparsity_report


@dataclasses.dataclass(frozen=True)
class DemoRow:
    """One model of the demo, as it is stored in a file.

    Args:
        name: String.
        accuracy: Float in [0, 1], on images that training did not see.
        parameters: Integer.
        nonzeros: Integer, how many of them are not zero.
        bytes: Integer, size of the file.
        gzip_bytes: Integer, its size after gzip.
    """

    name: str
    accuracy: float
    parameters: int
    nonzeros: int
    bytes: int
    gzip_bytes: int


@dataclasses.dataclass(frozen=True)
class DemoResult(Record):
    """What the demo found.

    Args:
        rows: Tuple of `DemoRow`.
        sparsity: `SparsityReport` of the pruned model.
        tflite: `TFLiteReport` of the file that was written.
        settings: Dictionary, epochs, seed, versions and the like.
        notes: Tuple of strings, warnings of the run; none in a usual one.
        folder: Path of the folder that was written.
    """

    rows: tuple[DemoRow, ...]
    sparsity: SparsityReport
    tflite: Any
    settings: dict[str, Any]
    notes: tuple[str, ...]
    folder: Path

    def to_dict(self) -> dict[str, Any]:
        """The result as a dictionary of plain Python values."""
        return {
            "settings": self.settings,
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "sparsity": self.sparsity.to_dict(),
            "tflite": self.tflite.to_dict(),
        }

    def table(self, width: int = WIDTH) -> str:
        """Returns the models as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        table = open_table()
        table.add_column("model", no_wrap=True)
        for title in ("accuracy", "parameters", "non-zero", "bytes", "gzip"):
            table.add_column(title, justify="right", no_wrap=True)
        for row in self.rows:
            counts = (row.parameters, row.nonzeros, row.bytes, row.gzip_bytes)
            table.add_row(
                row.name, f"{row.accuracy:.2%}", *(f"{n:,}" for n in counts)
            )
        return "\n".join(plain_lines(table, width))


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, axis=-1) == labels))


def keras_row(
    name: str, model: keras.Model, work: Path, images, labels
) -> DemoRow:
    """Saves the model to see how large its file is, and evaluates it."""
    from keras_swd.export.tflite.records import gzip_size

    model.save(work / "measured.keras")
    content = (work / "measured.keras").read_bytes()
    (work / "measured.keras").unlink()
    total = sparsity_report(model).total
    return DemoRow(
        name=name,
        accuracy=_accuracy(model.predict(images, verbose=0), labels),
        parameters=total.size,
        nonzeros=total.nonzeros,
        bytes=len(content),
        gzip_bytes=gzip_size(content),
    )


def tflite_row(name: str, content: bytes, images, labels) -> DemoRow:
    """Runs the file as an application would."""
    from ai_edge_litert.interpreter import Interpreter

    from keras_swd.export.tflite.flatbuffer import stored_tensors
    from keras_swd.export.tflite.quiet import quiet
    from keras_swd.export.tflite.records import gzip_size

    with quiet():
        run = Interpreter(model_content=content).get_signature_runner()
        (feed,) = run.get_input_details()
        (logits,) = run(**{feed: images}).values()
    counted = [t for t in stored_tensors(content) if t.zeros is not None]
    return DemoRow(
        name=name,
        accuracy=_accuracy(logits, labels),
        parameters=sum(t.size for t in counted),
        nonzeros=sum(t.size - (t.zeros or 0) for t in counted),
        bytes=len(content),
        gzip_bytes=gzip_size(content),
    )
