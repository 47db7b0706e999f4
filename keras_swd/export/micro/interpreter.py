"""Run a TFLite file in the interpreter of TFLite Micro."""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_swd.export.tflite.quiet import redirected
from keras_swd.export.tflite.records import ExportError

#: Working memory for small tensors, whose bookkeeping outweighs their entries.
LEAST_ARENA = 2**20


class MicroFile:
    """A TFLite file in TFLite Micro, one sample at a time.

    Args:
        content: Bytes of a file with one signature.

    Raises:
        ExportError: If TFLite Micro cannot run it; the message names the
            operator that is missing.
    """

    def __init__(self, content: bytes):
        from tflite_micro import runtime
        from tflite_micro.tensorflow.lite.micro.python import (
            schema_py_generated as schema,
        )

        model = schema.Model.GetRootAs(content, 0)
        graph, names = model.Subgraphs(0), model.SignatureDefs(0)
        inputs, outputs = graph.InputsAsNumpy(), graph.OutputsAsNumpy()
        self._inputs = {
            entry.Name().decode(): inputs.tolist().index(entry.TensorIndex())
            for entry in map(names.Inputs, range(names.InputsLength()))
        }
        self._outputs = {
            entry.Name().decode(): outputs.tolist().index(entry.TensorIndex())
            for entry in map(names.Outputs, range(names.OutputsLength()))
        }
        # The interpreter's own guess follows the size of the file, which says
        # little once its weights are packed. Memory not used costs nothing.
        arena = LEAST_ARENA + 16 * sum(
            math.prod(tensor.ShapeAsNumpy().tolist())
            for graph in map(model.Subgraphs, range(model.SubgraphsLength()))
            for tensor in map(graph.Tensors, range(graph.TensorsLength()))
            if tensor.ShapeLength()
        )
        with _explained():
            self._interpreter = runtime.Interpreter.from_bytes(
                content, arena_size=arena
            )

    def run(
        self, arrays: dict[str, np.ndarray], outputs: list[str]
    ) -> list[np.ndarray]:
        """Runs the file.

        Args:
            arrays: Dictionary from the name of an input to its samples.
            outputs: List of strings, the names of outputs.

        Returns:
            List of arrays, one per output, with all samples.

        Raises:
            ExportError: If it does not run.
        """
        samples = len(next(iter(arrays.values())))
        results: list[list[np.ndarray]] = [[] for _ in outputs]
        with _explained():
            for sample in range(samples):
                for name, array in arrays.items():
                    self._interpreter.set_input(
                        array[sample : sample + 1], self._inputs[name]
                    )
                self._interpreter.invoke()
                for result, name in zip(results, outputs, strict=True):
                    result.append(
                        self._interpreter.get_output(self._outputs[name])
                    )
        return [np.concatenate(result) for result in results]

    def arena_bytes(self) -> int | None:
        """Working memory that the file takes on this machine.

        Returns:
            Integer, or `None` where the process has no standard error, on
            which TFLite Micro writes it.
        """
        with tempfile.TemporaryFile() as sink:
            with redirected(2, sink):
                self._interpreter.print_allocations()
            found = re.search(r"Arena allocation total (\d+)", _text(sink))
        return int(found[1]) if found else None


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Raises `ExportError` with what TFLite Micro printed as its reason."""
    with tempfile.TemporaryFile() as sink:
        try:
            with redirected(2, sink):
                yield
        except (RuntimeError, ValueError) as error:
            raise ExportError(_reason(error, _text(sink))) from error


def _reason(error: Exception, printed: str) -> str:
    missing = re.search(r"Didn't find op for builtin opcode '(\w+)'", printed)
    if missing:
        return (
            f"TFLite Micro has no operator {missing[1]}. Replace the layers "
            "that use it, or write a file for phones with `to_tflite`."
        )
    words = " ".join(printed.split())
    return f"TFLite Micro does not run the file: {error}. {words}".strip()


def _text(sink: Any) -> str:
    sink.seek(0)
    return sink.read().decode(errors="replace")
