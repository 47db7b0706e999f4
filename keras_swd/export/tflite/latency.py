"""How long a TFLite file takes."""

from __future__ import annotations

import os
import statistics
import time

import numpy as np

from keras_swd.export.tflite.interpreter import has_open_sizes, litert
from keras_swd.export.tflite.quiet import quiet
from keras_swd.export.tflite.records import ExportError, brief

#: A file is run for so many seconds, and so often at least.
SECONDS, RUNS = 0.5, 5


def latency(path: str | os.PathLike[str]) -> float:
    """Returns the seconds that a file takes, on this machine.

    It is run in LiteRT with its default delegates, on one thread, on zeros in
    batches of the size that the file has, or of one.

    Args:
        path: String or path of a `.tflite` file.

    Returns:
        Float, the median of the runs.

    Raises:
        ExportError: If the file cannot be run, or takes inputs of any size.
        ImportError: If LiteRT is missing.
    """
    package = litert()
    try:
        with quiet():
            interpreter = package.Interpreter(
                model_path=str(path), num_threads=1
            )
            if has_open_sizes(interpreter):
                raise ExportError(
                    f"{path} cannot be timed: its inputs may be of any size."
                )
            interpreter.allocate_tensors()
            for detail in interpreter.get_input_details():
                zeros = np.zeros(detail["shape"], detail["dtype"])
                interpreter.set_tensor(detail["index"], zeros)
            interpreter.invoke()  # the first run is slower
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"{path} cannot be run: {brief(error)}") from error
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
