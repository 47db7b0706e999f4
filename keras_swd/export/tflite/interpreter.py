"""Run a TFLite file in LiteRT, inputs and outputs matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_swd.export.tflite.quiet import quiet
from keras_swd.export.tflite.records import ExportError, brief


class TFLiteFile:
    """A TFLite file in an interpreter, with its inputs found by name.

    Args:
        content: Bytes of the file.
        structure: Nested structure of `ModelInput`, what the model takes.
        delegates: Boolean, run with LiteRT's default delegates?

    Raises:
        ExportError: If the file does not load, or takes other inputs.
    """

    def __init__(self, content: bytes, structure: Any, delegates: bool):
        package = litert()
        resolver = (
            package.OpResolverType.AUTO
            if delegates
            else package.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        label = "with" if delegates else "without"
        try:
            with quiet():
                self._interpreter = package.Interpreter(
                    model_content=content,
                    experimental_op_resolver_type=resolver,
                )
                if not has_open_sizes(self._interpreter):
                    # Others cannot be planned before they are run.
                    self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"The file does not load {label} default delegates: "
                f"{brief(error)}"
            ) from error
        signatures = self._interpreter.get_signature_list()
        if len(signatures) != 1:
            raise ExportError(
                "A file must have one signature, by whose names inputs and "
                f"outputs are found. This one has {len(signatures)}: "
                f"{sorted(signatures)}. Write it with `to_tflite`."
            )
        self._runner = self._interpreter.get_signature_runner()
        details = self._runner.get_input_details()
        inputs = keras.tree.flatten(structure)
        self.input_names = _match(
            list(details),
            [
                [spec.name for spec in inputs],
                [spec.key for spec in inputs],
                # The names that TensorFlow gives to arguments without one.
                ["args_0", *(f"args_0_{i}" for i in range(1, len(inputs)))],
            ],
            "inputs",
        )
        shapes = []
        for spec, name in zip(inputs, self.input_names, strict=True):
            shape = details[name]["shape_signature"].tolist()
            dtype = np.dtype(details[name]["dtype"]).name
            shapes.append(shape)
            if dtype != spec.dtype or not _fits(spec.shape, shape):
                raise ExportError(
                    f"Input `{name}` of the file takes {dtype} of shape "
                    f"{shape}, the model's takes {spec.dtype} of shape "
                    f"{spec.shape}."
                )
        fixed = {shape[0] for shape in shapes if shape and shape[0] != -1}
        self.batch_size = fixed.pop() if fixed else None

    def run(
        self, chunks: Sequence[list[np.ndarray]], names: list[str]
    ) -> list[list[np.ndarray]]:
        """Runs the file.

        Args:
            chunks: Sequence of lists of arrays, one array per input.
            names: List of strings, the outputs of the model.

        Returns:
            List of lists of arrays, one per output, in the order of `names`.

        Raises:
            ExportError: If the file has other outputs.
            RuntimeError, ValueError: If LiteRT cannot run it.
        """
        found = list(self._runner.get_output_details())
        counted = [f"output_{index}" for index in range(len(names))]
        order = _match(found, [names, counted], "outputs")
        results = []
        for chunk in chunks:
            feeds = dict(zip(self.input_names, chunk, strict=True))
            with quiet():
                outputs = self._runner(**feeds)
            results.append([outputs[name] for name in order])
        return results


def has_open_sizes(interpreter: Any) -> bool:
    """Whether inputs leave more open than the number of samples."""
    return any(
        (detail["shape_signature"][1:] == -1).any()
        for detail in interpreter.get_input_details()
    )


def litert() -> Any:
    """Returns the module of LiteRT's interpreter, or says how to get it."""
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise ImportError(
            "A TFLite file needs LiteRT to be read and run: "
            "pip install 'keras_swd[tflite]'."
        ) from error
    return interpreter


def _match(found: list[str], candidates: list[list[str]], what: str) -> list:
    for names in candidates:
        if sorted(names) == sorted(found):
            return names
    if len(found) == len(candidates[0]) == 1:
        return found
    raise ExportError(
        f"The {what} of the file cannot be told apart: its signature names "
        f"them {sorted(found)}, the model {candidates[0]}. Write it with "
        "`to_tflite`."
    )


def _fits(expected: tuple[int | None, ...], shape: list[int]) -> bool:
    # The batch axis may be fixed in the file, whatever it is in Keras.
    return len(expected) == len(shape) and all(
        given == -1 or size is None or size == given
        for size, given in zip(expected[1:], shape[1:], strict=True)
    )
