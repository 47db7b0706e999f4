"""Does a TFLite file compute what a Keras model computes?"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_swd.export.tflite.differences import compare_output, worse
from keras_swd.export.tflite.flatbuffer import (
    Node,
    StoredTensor,
    nodes,
    operator_counts,
    stored_tensors,
)
from keras_swd.export.tflite.interpreter import TFLiteFile
from keras_swd.export.tflite.modes import check_tolerance, find_mode
from keras_swd.export.tflite.records import (
    ExportError,
    OutputCheck,
    TFLiteCheck,
    brief,
    gzip_size,
)
from keras_swd.export.tflite.reference import Reference, prepare
from keras_swd.export.tflite.runs import BATCH, Runs, output_of, run
from keras_swd.export.tflite.zeros import find_kernels, kernels_of


def check_tflite(
    path: str | os.PathLike[str],
    model: keras.Model,
    check_with: Any = None,
    tolerance: float | None = None,
    quantization: str | None = None,
    flex: bool = False,
) -> TFLiteCheck:
    """Checks that a TFLite file computes what a Keras model computes.

    The file is run by LiteRT twice, with its default delegates and without
    any, since each may fail where the other works; both runs must agree with
    Keras, and with each other. Inputs and outputs are matched by the names in
    the file's signature, as their order may differ from that of Keras. Each
    kernel of the model is looked for in the file, where its zeros must be
    zeros too. Works with each Keras backend.

    Args:
        path: String or path of a `.tflite` file.
        model: Built Keras model, or a tf_keras one.
        check_with: Sample inputs: an array, or for several inputs a list,
            tuple or dictionary of arrays, as the model takes them. Defaults
            to `None`, which makes a few random ones: normal for floats, 0 to
            255 for `uint8`, 0 or 1 for other integers. Real samples say more.
        tolerance: Float, the largest difference allowed in an output, relative
            to the largest magnitude of this output in Keras; for files that
            compute with integers the root mean square of the differences,
            relative to that of the output. Defaults to `None`: `1e-4`, for
            `"float16"` `0.01`, for the modes with integers `0.25`.
        quantization: `None`, `"float16"`, `"dynamic"`, `"int8"` or
            `"int16x8"`: how the file was written. Defaults to `None`.
        flex: Boolean, may the file need TensorFlow's own operators? Defaults
            to `False`.

    Returns:
        `TFLiteCheck`.

    Raises:
        ExportError: If the file does not load, does not run, gives NaN,
            disagrees or lost zeros; its `difference` is the largest seen.
        ValueError: If an argument does not fit.

    Example:

    >>> import tempfile
    >>> from keras_swd.export import to_tflite
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_tflite(model, f"{folder}/model.tflite", sparse=False)
    ...     check = check_tflite(f"{folder}/model.tflite", model)
    >>> check.operators
    {'FULLY_CONNECTED': 1}
    """
    tolerance = check_tolerance(tolerance, quantization)
    if not Path(path).is_file():
        raise ValueError(
            "Argument `path` must be an existing TFLite file. "
            f"Received: path={str(path)!r}."
        )
    reference = prepare(model, check_with)
    try:
        return compare(Path(path), reference, tolerance, quantization, flex)
    except ExportError as error:
        if error.difference is None or quantization is not None:
            raise
        raise ExportError(
            f"{error} If the file is quantized, say how in `quantization`.",
            error.difference,
        ) from error


def compare(
    path: Path,
    reference: Reference,
    tolerance: float,
    quantization: str | None = None,
    flex: bool = False,
) -> TFLiteCheck:
    """Runs a file and its model on the same samples.

    Args:
        path: Path of a TFLite file.
        reference: `Reference`.
        tolerance: Float.
        quantization: String or `None`, the mode of the file. Defaults to
            `None`.
        flex: Boolean, may the file need TensorFlow's own operators? Defaults
            to `False`.

    Returns:
        `TFLiteCheck`.

    Raises:
        ExportError: If the file does not work.
    """
    content = path.read_bytes()
    tensors, graph = _read(content, flex)
    files = [
        TFLiteFile(content, reference.structure, delegates)
        for delegates in (True, False)
    ]
    runs = run(files, reference)
    outputs = _compare_outputs(runs, tolerance, quantization)
    overall = functools.reduce(worse, outputs)
    weights = [tensor for tensor in tensors if tensor.is_weight]
    kernels = find_kernels(kernels_of(reference.model), weights)
    return TFLiteCheck(
        path=str(path),
        quantization=quantization,
        bytes=len(content),
        gzip_bytes=gzip_size(content),
        samples=len(reference.arrays[0]),
        tolerance=tolerance,
        max_absolute_difference=overall.max_absolute_difference,
        max_relative_difference=overall.max_relative_difference,
        rms_relative_difference=overall.rms_relative_difference,
        delegate_difference=_delegate_difference(runs, tolerance, quantization),
        top1_agreement=overall.top1_agreement,
        outputs=outputs,
        inputs=tuple(files[0].input_names),
        batch_size=files[0].batch_size,
        batch_resizes=files[0].batch_size is None
        and runs.batch == BATCH
        and len(reference.arrays[0]) > 1,
        weights=sum(tensor.size for tensor in weights),
        zeros=sum(tensor.zeros or 0 for tensor in weights),
        model_weights=sum(kernel.size for kernel in kernels),
        model_zeros=sum(kernel.model_zeros for kernel in kernels),
        kernels=kernels,
        sparse_tensors=tuple(
            tensor.name for tensor in tensors if tensor.sparse
        ),
        operators=operator_counts(content),
        densify=_names(graph, lambda node: node.operator == "DENSIFY"),
        flex=_names(graph, lambda node: node.operator.startswith("Flex")),
        fallback=_names(graph, _in_float)
        if find_mode(quantization).ranges
        else (),
    )


def _read(
    content: bytes, flex: bool
) -> tuple[tuple[StoredTensor, ...], tuple[Node, ...]]:
    """Reads a file's constants and nodes; refuses what must not be run."""
    if content[4:8] != b"TFL3":
        raise ExportError("This is no TFLite file.")
    try:
        tensors, graph = stored_tensors(content), nodes(content)
    except ImportError:
        raise
    except Exception as error:
        raise ExportError(
            f"The file is damaged: {type(error).__name__}: {brief(error)}"
        ) from error
    for tensor in tensors:
        if tensor.incomplete:
            raise ExportError(
                f"Tensor {tensor.name!r} of shape {tensor.shape} lost entries "
                "when it was stored sparse, in blocks that do not fill it: "
                "TensorFlow Lite does this to dense layers whose number of "
                "inputs is no multiple of 4 (of 16 in integers), at high "
                "sparsity. Give the layer such a number of inputs, or store "
                "it dense."
            )
    names = {node.operator for node in graph}
    needed = sorted(name for name in names if name.startswith("Flex"))
    if needed and not flex:
        raise ExportError(
            "The file needs TensorFlow's own operators, which LiteRT lacks: "
            f"{', '.join(needed)}."
        )
    return tensors, graph


def _compare_outputs(
    runs: Runs, tolerance: float, quantization: str | None
) -> tuple[OutputCheck, ...]:
    """Compares each output of the file with Keras; the worse run counts."""
    return tuple(
        functools.reduce(
            worse,
            [
                compare_output(
                    name,
                    output_of(runs.expected, index),
                    output_of(received, index),
                    tolerance,
                    quantization,
                )
                for received in runs.received
            ],
        )
        for index, name in enumerate(runs.names)
    )


def _delegate_difference(
    runs: Runs, tolerance: float, quantization: str | None
) -> float:
    """Compares the runs with and without delegates."""
    delegated, plain = runs.received
    try:
        checks = [
            compare_output(
                name,
                output_of(plain, index),
                output_of(delegated, index),
                tolerance,
                quantization,
            )
            for index, name in enumerate(runs.names)
        ]
    except ExportError as error:
        raise ExportError(
            "LiteRT computes something else with its default delegates than "
            f"without: by {error.difference:.1e} of the "
            f"{find_mode(quantization).scale}; allowed are {tolerance:.1e}.",
            error.difference,
        ) from error
    return max(map(find_mode(quantization).difference, checks))


def _in_float(node: Node) -> bool:
    converts = node.operator in ("DEQUANTIZE", "DENSIFY")
    return not converts and "float32" in node.dtypes


def _names(
    graph: tuple[Node, ...], wanted: Callable[[Node], bool]
) -> tuple[str, ...]:
    return tuple(str(node) for node in graph if wanted(node))
