"""Event files, as TensorBoard reads them.

TensorFlow writes them: its own `tf.summary` needs TensorBoard installed, but
the messages and the file format are in TensorFlow.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_swd.record import distinct
from keras_swd.report.magnitudes import LOWEST, PER_DECADE
from keras_swd.summaries.history import Epoch, KernelState

#: The folder of the event files, beside the record.
FOLDER = "tensorboard"


class EventFile:
    """A new event file, one for each time that a run begins or goes on.

    It tells TensorBoard to forget what other files hold of the epochs from
    `epoch` on.

    Args:
        folder: Path, the folder of a run.
        epoch: Integer, the first epoch that will be written.
    """

    def __init__(self, folder: Path, epoch: int):
        import tensorflow as tf

        self._messages = tf.compat.v1
        (folder / FOLDER).mkdir(exist_ok=True)
        # TensorBoard reads files in the order of their names.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        path = folder / FOLDER / f"{name}.{os.getpid()}"
        self._file = tf.io.TFRecordWriter(str(path))
        start = self._messages.SessionLog(
            status=self._messages.SessionLog.START
        )
        self._write(file_version="brain.Event:2")
        self._write(step=epoch, session_log=start)
        self._file.flush()

    def write(self, epoch: Epoch) -> None:
        """Writes the numbers and the histograms of an epoch.

        Args:
            epoch: `Epoch`. Each number of its logs has its own name;
                `sparsity/PATH` is that of a kernel, and
                `log10_magnitude/PATH` the histogram of its magnitudes that
                are not zero, as decimal logarithms.
        """
        paths = distinct(kernel.path for kernel in epoch.kernels)
        kernels = list(zip(paths, epoch.kernels, strict=True))
        numbers: Mapping[str, float | None] = epoch.logs | {
            f"sparsity/{path}": kernel.sparsity for path, kernel in kernels
        }
        value = self._messages.Summary.Value
        values = [
            value(tag=tag, simple_value=number)
            for tag, number in numbers.items()
            if number is not None
        ]
        values += [
            value(tag=f"log10_magnitude/{path}", histo=self._histogram(kernel))
            for path, kernel in kernels
            if kernel.counts
        ]
        summary = self._messages.Summary(value=values)
        self._write(step=epoch.epoch, summary=summary)
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _histogram(self, kernel: KernelState):
        """A kernel's bins as a message; its sums are those of their middles."""
        counts = np.array(kernel.counts)
        bins = kernel.first + np.arange(len(counts) + 1)
        edges = LOWEST + bins / PER_DECADE
        middles = (edges[1:] + edges[:-1]) / 2
        return self._messages.HistogramProto(
            min=edges[0],
            max=edges[-1],
            num=counts.sum(),
            sum=counts @ middles,
            sum_squares=counts @ middles**2,
            bucket_limit=[edges[0], *edges[1:]],
            bucket=[0, *counts],
        )

    def _write(self, **message) -> None:
        event = self._messages.Event(wall_time=time.time(), **message)
        self._file.write(event.SerializeToString())
