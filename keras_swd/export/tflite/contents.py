"""What a .tflite file holds, as a record, a table and JSON."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from keras_swd.export.tflite.flatbuffer import (
    StoredTensor,
    operator_counts,
    stored_tensors,
)
from keras_swd.export.tflite.interpreter import litert
from keras_swd.export.tflite.quiet import quiet
from keras_swd.export.tflite.records import brief, gzip_size
from keras_swd.record import WIDTH, Record, open_table, plain_lines
from keras_swd.report.sparsity import Totals


@dataclasses.dataclass(frozen=True)
class TFLiteContents(Record):
    """What a .tflite file holds. Printed, it is a table of its constants.

    Args:
        name: String, the file's name.
        bytes: Integer, its size.
        gzip_bytes: Integer, its size after gzip.
        tensors: Tuple of `StoredTensor`, its constants.
        operators: Dictionary from the name of an operator to its count.
    """

    name: str
    bytes: int
    gzip_bytes: int
    tensors: tuple[StoredTensor, ...]
    operators: dict[str, int]

    @property
    def weights(self) -> Totals:
        """All float or quantized constants of two axes or more."""
        weights = [t for t in self.tensors if t.is_weight]
        return Totals(
            sum(t.size for t in weights), sum(t.zeros or 0 for t in weights)
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary of plain Python values."""
        return {
            "name": self.name,
            "bytes": self.bytes,
            "gzip_bytes": self.gzip_bytes,
            "weights": self.weights.to_dict(),
            "operators": self.operators,
            "tensors": [
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": list(tensor.shape),
                    "size": tensor.size,
                    "zeros": tensor.zeros,
                    "sparse": tensor.sparse,
                    "bytes": tensor.bytes,
                }
                for tensor in self.tensors
            ],
        }

    def table(self, width: int = WIDTH) -> str:
        """Returns the record as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        from rich.text import Text

        table = open_table()
        table.add_column("tensor", overflow="fold")
        table.add_column("type")
        for column in ("shape", "zeros", "bytes"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("stored")
        for tensor in self.tensors:
            zeros = "-"
            if tensor.zeros is not None:
                zeros = Totals(tensor.size, tensor.zeros).percentage
            row = (
                short_name(tensor.name),
                tensor.dtype,
                "×".join(map(str, tensor.shape)) or "scalar",
                zeros,
                f"{tensor.bytes:,}",
                "sparse" if tensor.sparse else "dense",
            )
            table.add_row(*map(Text, row))
        lines = plain_lines(table, width)
        weights = self.weights
        counts = (f"{name} {n}" for name, n in self.operators.items())
        return "\n".join(
            [
                f"{self.name!r}: {self.bytes:,} bytes, {self.gzip_bytes:,} "
                f"after gzip; {weights.percentage} of {weights.size:,} weights "
                "are zero.",
                *lines,
                f"Operators: {', '.join(counts)}.",
            ]
        )


def inspect_tflite(path: str | os.PathLike[str]) -> TFLiteContents:
    """Reads which tensors and operators a .tflite file holds.

    Nothing is run. In quantized tensors, entries equal to the zero point count
    as zeros.

    Args:
        path: String or path of a .tflite file.

    Returns:
        `TFLiteContents`; printed, it is a table.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no TFLite file, or is damaged.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/model.tflite"
    ...     report = keras_swd.export.to_tflite(model, path, sparse=False)
    ...     contents = inspect_tflite(path)
    >>> contents.weights.size, contents.operators
    (32, {'FULLY_CONNECTED': 1})
    """
    content = Path(path).read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path} is no TFLite file, whatever its name.")
    if _is_damaged(content):
        raise ValueError(f"{path} is damaged or cut short.")
    try:
        tensors, operators = stored_tensors(content), operator_counts(content)
    except ImportError:
        raise
    except Exception as error:  # of whatever kind, as the damage wants
        raise ValueError(f"{path} is damaged: {brief(error)}") from error
    return TFLiteContents(
        name=Path(path).name,
        bytes=len(content),
        gzip_bytes=gzip_size(content),
        tensors=tensors,
        operators=operators,
    )


def short_name(name: str) -> str:
    """The name of one operation, where a converter has joined several.

    Example:

    >>> short_name("cnn/conv/Relu;cnn/conv/BiasAdd;cnn/conv/convolution")
    'cnn/conv/convolution'
    """
    parts = name.split(";")
    products = ("convolution", "MatMul", "depthwise")
    return next((p for p in parts if p.endswith(products)), parts[0])


def _is_damaged(content: bytes) -> bool:
    """Whether LiteRT finds the structure of a file broken."""
    interpreter = litert()
    try:
        with quiet():
            interpreter.Interpreter(model_content=content)
    except (RuntimeError, ValueError) as error:
        # Operators that it does not know are no concern here.
        return "Flatbuffer" in str(error)
    return False
