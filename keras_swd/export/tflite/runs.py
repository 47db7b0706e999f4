"""Run a model and its file on the same samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from keras_swd.export.tflite import signature
from keras_swd.export.tflite.interpreter import TFLiteFile
from keras_swd.export.tflite.records import ExportError, brief
from keras_swd.export.tflite.reference import Reference

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Runs:
    """What the model and the interpreters made of the same samples.

    Args:
        names: List of strings, the outputs of the model.
        batch: Integer, the number of samples in a chunk.
        expected: List over chunks of lists of arrays, one per output: what
            the model gave.
        received: List over interpreters of the same.
    """

    names: list[str]
    batch: int
    expected: list[list[np.ndarray]]
    received: list[list[list[np.ndarray]]]


def output_of(chunks: list[list[np.ndarray]], index: int) -> list[np.ndarray]:
    """One output of all chunks."""
    return [outputs[index] for outputs in chunks]


def run(files: list[TFLiteFile], reference: Reference) -> Runs:
    """Runs the model and the interpreters on the same chunks of samples.

    Args:
        files: List of `TFLiteFile`, one file in several interpreters.
        reference: `Reference`.

    Returns:
        `Runs`.

    Raises:
        ExportError: If an interpreter fails.
    """
    batch_size = files[0].batch_size
    # A file for any batch size is run as it is allocated when nobody resizes
    # it, with one sample, and resized. One that cannot be resized counts.
    sizes = [BATCH, 1] if batch_size is None else [batch_size]
    failures: list[Exception] = []
    for size in sizes:
        chunks = list(_chunks(reference.arrays, size, batch_size is not None))
        predicted = [
            signature.predict(reference.model, reference.structure, chunk)
            for chunk in chunks
        ]
        names = predicted[0][0]
        try:
            received = [file.run(chunks, names) for file in files]
        except ExportError:
            raise
        except (RuntimeError, ValueError) as error:
            failures.append(error)
            continue
        return Runs(names, size, [values for _, values in predicted], received)
    raise ExportError(
        f"The file does not run: {brief(failures[-1])}"
    ) from failures[-1]


def _chunks(
    arrays: list[np.ndarray], size: int, padded: bool
) -> Iterator[list[np.ndarray]]:
    samples = len(arrays[0])
    if padded:
        for start in range(0, samples, size):
            places = np.arange(start, start + size) % samples
            yield [array[places] for array in arrays]
        return
    # One sample first: a file may work for one number of samples alone.
    yield [array[:1] for array in arrays]
    for start in range(1, samples, size):
        yield [array[start : start + size] for array in arrays]
