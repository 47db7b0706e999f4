"""Does a TFLite file compute what a Keras model computes?"""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.export import signature
from keras_swd.export.flatbuffer import operator_counts, stored_tensors
from keras_swd.export.float32 import in_float32
from keras_swd.export.quiet import quiet
from keras_swd.export.records import ExportError, OutputCheck, TFLiteCheck

# Rounding of float32 gives 1e-7 to 1e-5 of the largest output, depending on
# depth; weights stored in 16 bits, or read wrongly, 1e-3 and more.
TOLERANCE = 1e-4
BATCH = 32


def check_tflite(
    path: str | os.PathLike[str],
    model: keras.Model,
    check_with: Any = None,
    tolerance: float = TOLERANCE,
) -> TFLiteCheck:
    """Checks that a TFLite file computes what a Keras model computes.

    The file is run by LiteRT twice, with its default delegates and without
    any, since each may fail where the other works. Inputs and outputs are
    matched by the names in the file's signature, as their order may differ
    from that of Keras. Works with each Keras backend.

    Args:
        path: String or path of a `.tflite` file.
        model: Built Keras model.
        check_with: Sample inputs: an array, or for several inputs a list,
            tuple or dictionary of arrays, as the model takes them. Defaults
            to `None`, which makes a few random ones: normal for floats, 0 or
            1 for integers. Real samples say more.
        tolerance: Float, the largest difference allowed in an output, relative
            to the largest magnitude of this output in Keras. Defaults to
            `1e-4`.

    Returns:
        `TFLiteCheck`.

    Raises:
        ExportError: If the file does not load, does not run, gives NaN or
            disagrees; its `difference` is the largest seen.
        ValueError: If an argument does not fit.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_tflite(model, f"{folder}/model.tflite")
    ...     check = check_tflite(f"{folder}/model.tflite", model)
    >>> check.operators
    {'FULLY_CONNECTED': 1}
    """
    signature.check_built(model)
    check_tolerance(tolerance)
    if not Path(path).is_file():
        raise ValueError(
            "Argument `path` must be an existing TFLite file. "
            f"Received: path={str(path)!r}."
        )
    structure = signature.input_structure(model, check_with)
    arrays = signature.sample_arrays(structure, check_with)
    twin = in_float32(model, structure, arrays)
    return compare(Path(path), twin, structure, arrays, tolerance)


def check_tolerance(tolerance: float) -> None:
    """Refuses a tolerance that is no number from zero on."""
    if isinstance(tolerance, (int, float)) and 0 <= tolerance < math.inf:
        return
    raise ValueError(
        "Argument `tolerance` must be a number, at least 0: a difference "
        "relative to the largest output. "
        f"Received: tolerance={tolerance}."
    )


def compare(
    path: Path,
    model: keras.Model,
    structure: Any,
    arrays: list[np.ndarray],
    tolerance: float,
) -> TFLiteCheck:
    """Runs a file and a float32 model on the same samples.

    Args:
        path: Path of a TFLite file.
        model: Built Keras model that computes in float32.
        structure: Nested structure of `ModelInput`.
        arrays: List of sample arrays, one per input.
        tolerance: Float.

    Returns:
        `TFLiteCheck`.

    Raises:
        ExportError: If the file does not work.
    """
    runs = [_Run(path, structure, delegates) for delegates in (True, False)]
    batch_size = runs[0].batch_size
    # A file for any batch size is run as it is allocated when nobody resizes
    # it, with one sample, and resized. One that cannot be resized counts.
    sizes = [BATCH, 1] if batch_size is None else [batch_size]
    for size in sizes:
        chunks = list(_chunks(arrays, size, padded=batch_size is not None))
        predicted = [signature.predict(model, structure, c) for c in chunks]
        names = predicted[0][0]
        expected = [outputs for _, outputs in predicted]
        try:
            received = [run(chunks, names) for run in runs]
            break
        except (RuntimeError, ValueError) as error:
            if isinstance(error, ExportError) or size == sizes[-1]:
                raise ExportError(f"The file does not run: {error}") from error
    outputs = tuple(
        _worst(
            [
                _compare_output(
                    name,
                    [chunk[index] for chunk in expected],
                    [chunk[index] for chunk in outputs],
                    tolerance,
                )
                for outputs in received
            ]
        )
        for index, name in enumerate(names)
    )
    agreements = [
        output.top1_agreement
        for output in outputs
        if output.top1_agreement is not None
    ]
    content = path.read_bytes()
    weights = [t for t in stored_tensors(content) if t.is_weight]
    kernels = [_array(v) for v in model.weights if _is_weight(v)]
    return TFLiteCheck(
        path=str(path),
        bytes=len(content),
        gzip_bytes=gzip_size(content),
        samples=len(arrays[0]),
        tolerance=float(tolerance),
        max_absolute_difference=max(
            output.max_absolute_difference for output in outputs
        ),
        max_relative_difference=max(
            output.max_relative_difference for output in outputs
        ),
        top1_agreement=min(agreements) if agreements else None,
        outputs=outputs,
        inputs=tuple(runs[0].input_names),
        batch_size=batch_size,
        batch_resizes=batch_size is None and size == BATCH,
        weights=sum(tensor.size for tensor in weights),
        zeros=sum(tensor.zeros or 0 for tensor in weights),
        model_weights=sum(kernel.size for kernel in kernels),
        model_zeros=sum(int(np.sum(kernel == 0)) for kernel in kernels),
        sparse_tensors=tuple(
            tensor.name for tensor in stored_tensors(content) if tensor.sparse
        ),
        operators=operator_counts(content),
    )


def gzip_size(content: bytes) -> int:
    """Number of bytes after gzip at its usual level."""
    return len(gzip.compress(content, compresslevel=6, mtime=0))


class _Run:
    """A file in an interpreter, ready to be run on chunks of samples."""

    def __init__(self, path: Path, structure: Any, delegates: bool):
        try:
            from ai_edge_litert import interpreter as litert
        except ImportError as error:
            raise ImportError(
                "Checking a TFLite file needs LiteRT: "
                "pip install 'keras_swd[tflite]'."
            ) from error
        resolver = (
            litert.OpResolverType.AUTO
            if delegates
            else litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        self._label = "with" if delegates else "without"
        # The bytes, not the path: a file that is mapped into memory cannot be
        # renamed on every system.
        try:
            with quiet():
                self._interpreter = litert.Interpreter(
                    model_content=path.read_bytes(),
                    experimental_op_resolver_type=resolver,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ExportError(
                f"The file does not load {self._label} default delegates: "
                f"{error}"
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

    def __call__(
        self, chunks: Sequence[list[np.ndarray]], names: list[str]
    ) -> list[list[np.ndarray]]:
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


def _chunks(
    arrays: list[np.ndarray], size: int, padded: bool
) -> Iterator[list[np.ndarray]]:
    samples = len(arrays[0])
    if padded:
        for start in range(0, samples, size):
            places = np.arange(start, start + size) % samples
            yield [array[places] for array in arrays]
        return
    if size > 1:
        yield [array[:1] for array in arrays]
    for start in range(0, samples, size):
        yield [array[start : start + size] for array in arrays]


def _compare_output(
    name: str,
    expected: list[np.ndarray],
    received: list[np.ndarray],
    tolerance: float,
) -> OutputCheck:
    for ours, theirs in zip(expected, received, strict=True):
        if ours.shape != theirs.shape:
            raise ExportError(
                f"Output `{name}` of the file has shape {theirs.shape}, the "
                f"model's has shape {ours.shape}."
            )
        for array, owner in ((ours, "Keras model"), (theirs, "file")):
            if np.isnan(array).any():
                raise ExportError(
                    f"Output `{name}` of the {owner} has NaN for these "
                    "samples. If other samples are fine, give them in "
                    "`check_with`."
                )
    rank, size = expected[0].ndim, expected[0].shape[-1:]
    agreement = None
    if rank >= 2 and size[0] > 1:
        same = [
            np.argmax(ours, -1) == np.argmax(theirs, -1)
            for ours, theirs in zip(expected, received, strict=True)
        ]
        agreement = float(np.mean(np.concatenate([s.ravel() for s in same])))
    ours = np.concatenate([x.ravel() for x in expected]).astype("float64")
    theirs = np.concatenate([x.ravel() for x in received]).astype("float64")
    with np.errstate(invalid="ignore"):
        # Equal infinities agree.
        distance = np.where(ours == theirs, 0.0, np.abs(ours - theirs))
    absolute = float(np.max(distance, initial=0.0))
    scale = np.max(np.abs(ours), initial=0.0, where=np.isfinite(ours))
    relative = float(absolute / scale) if scale else math.inf * (absolute > 0)
    if not relative <= tolerance:
        raise ExportError(
            f"Output `{name}` of the file differs from Keras by "
            f"{relative:.1e} of the largest output ({absolute:.1e} absolute); "
            f"allowed are {tolerance:.1e}.",
            relative,
        )
    return OutputCheck(name, absolute, relative, agreement)


def _worst(checks: list[OutputCheck]) -> OutputCheck:
    agreements = [
        check.top1_agreement
        for check in checks
        if check.top1_agreement is not None
    ]
    return OutputCheck(
        name=checks[0].name,
        max_absolute_difference=max(c.max_absolute_difference for c in checks),
        max_relative_difference=max(c.max_relative_difference for c in checks),
        top1_agreement=min(agreements) if agreements else None,
    )


def _is_weight(variable: Any) -> bool:
    return len(variable.shape) >= 2 and "float" in str(variable.dtype)


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable))
