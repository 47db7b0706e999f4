"""From a model to the bytes of TFLite files, not yet known to work."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.export.speed.verdicts import explain_speed, hides_layers
from keras_swd.export.tflite import signature
from keras_swd.export.tflite.flatbuffer import operator_counts, stored_tensors
from keras_swd.export.tflite.modes import find_mode
from keras_swd.export.tflite.quantization import (
    configure,
    is_quantization_aware,
)
from keras_swd.export.tflite.quiet import quiet
from keras_swd.export.tflite.records import (
    ExportError,
    TFLiteVariant,
    brief,
    gzip_size,
)
from keras_swd.export.tflite.reference import Reference

# TensorFlow does not fail here: it ends the process.
LOOPS = (
    "The converter cannot measure the ranges of activations inside loops, "
    "which recurrent layers are. Build them with `unroll=True`."
)


# This processor may not show it.
MISREAD = (
    "On ARM processors LiteRT's default delegate runs the sparse convolutions "
    "of this network with their data in another order, and misreads the "
    "result of {}."
)
#: Where the model's graph does not tell whether it does.
MAY_BE_MISREAD = (
    "The file has sparse 1×1 convolutions and a mean over pixels. On ARM "
    "processors LiteRT may run these with their data in another order, and the "
    "graph of this model does not tell. Pass a functional model of Keras 3."
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user wants a model converted to.

    Args:
        reference: `Reference`, the model, and samples to check files with.
        calibration: List of arrays, one per input, whose ranges the converter
            measures, or `None`.
        tolerance: Float or `None`, the argument `tolerance`.
        quantization: String or `None`, the mode.
        sparse: Tuple of Booleans, which files to make.
        flex: Boolean, are TensorFlow's own operators allowed?
    """

    reference: Reference
    calibration: list[np.ndarray] | None
    tolerance: float | None
    quantization: str | None
    sparse: tuple[bool, ...]
    flex: bool


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A file that may be written, or why it could not be made.

    Args:
        sparse: Boolean, whether zeros were left out of the stored weights.
        content: Bytes, or `None` where the converter failed.
        refused: String or `None`, why it failed.
    """

    sparse: bool
    content: bytes | None
    refused: str | None = None

    def as_variant(self, refused: str | None) -> TFLiteVariant:
        """The record of this candidate."""
        return TFLiteVariant(
            sparse=self.sparse,
            bytes=None if self.content is None else len(self.content),
            gzip_bytes=None
            if self.content is None
            else gzip_size(self.content),
            refused=refused,
        )


def convert(request: Request) -> list[Candidate]:
    """Converts a model, for any batch size if that is possible.

    Args:
        request: `Request`.

    Returns:
        List of candidates; at least one has a content.

    Raises:
        ExportError: If none could be converted.
    """
    model = request.reference.model
    inputs = keras.tree.flatten(request.reference.structure)
    declared = {spec.shape[0] for spec in inputs if spec.shape} - {None}
    batch_sizes: list[int | None] = [None, 1, *declared]
    if declared and not isinstance(model, keras.Sequential):
        # A sequential model may have got it from its first call only.
        batch_sizes = [*declared]
    for batch_size in dict.fromkeys(batch_sizes):
        candidates = _convert_for(request, batch_size)
        if any(candidate.content for candidate in candidates):
            return candidates
    raise ExportError(f"No file was written. {candidates[0].refused}")


def _convert_for(request: Request, batch_size: int | None) -> list[Candidate]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            with quiet():
                _save(request.reference, batch_size, folder)
        except Exception as error:
            return [_failed(False, error)]
        return [
            _convert_saved(folder, request, batch_size, sparse)
            for sparse in request.sparse
        ]


def _save(reference: Reference, batch_size: int | None, folder: str) -> None:
    """Writes a SavedModel whose signature has names that we know."""
    import tensorflow as tf

    model = reference.model
    inputs = keras.tree.flatten(reference.structure)
    specs = {
        spec.name: tf.TensorSpec(
            (batch_size, *spec.shape[1:]), spec.dtype, name=spec.name
        )
        for spec in inputs
    }

    def serve(feeds: dict[str, Any]) -> dict[str, Any]:
        values = [feeds[spec.name] for spec in inputs]
        names, outputs = signature.call(model, reference.structure, values)
        return dict(zip(names, outputs, strict=True))

    if signature.is_tf_keras(model):
        module = tf.Module()
        module.model = model
        function = tf.function(serve).get_concrete_function(specs)
        tf.saved_model.save(module, folder, signatures=function)
        return
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [specs])
    archive.write_out(folder, verbose=False)


def _convert_saved(
    folder: str, request: Request, batch_size: int | None, sparse: bool
) -> Candidate:
    import tensorflow as tf

    misread = _misread_on_arm(request) if sparse else ()
    if misread:
        return Candidate(sparse, None, MISREAD.format(", ".join(misread)))
    feeds = _feeds(request, batch_size or 1)
    if feeds is not None and _has_loops(folder):
        return Candidate(sparse, None, LOOPS)
    try:
        with quiet():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            configure(
                converter, request.quantization, feeds, sparse, request.flex
            )
            content = converter.convert()
    except Exception as error:
        return _failed(sparse, error)
    if sparse and _may_be_misread(content, request):
        return Candidate(sparse, None, MAY_BE_MISREAD)
    return Candidate(sparse, content)


def _misread_on_arm(request: Request) -> tuple[str, ...]:
    """The layers whose results a sparse file gets wrong on ARM processors."""
    model = request.reference.model
    if signature.is_tf_keras(model):
        return ()
    return explain_speed(model, "arm", request.quantization).leaks


def _may_be_misread(content: bytes, request: Request) -> bool:
    """Whether a sparse file of a model without a graph may be wrong on ARM."""
    known = not hides_layers(request.reference.model)
    if known or find_mode(request.quantization).integers:
        return False
    pointwise = any(
        tensor.sparse and len(tensor.shape) == 4 and tensor.shape[1:3] == (1, 1)
        for tensor in stored_tensors(content)
    )
    return pointwise and "MEAN" in operator_counts(content)


def _has_loops(folder: str) -> bool:
    """Whether a SavedModel has loops, as recurrent layers are."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(Path(folder, "saved_model.pb").read_bytes())
    return any(
        node.op in ("While", "StatelessWhile")
        for graph in saved.meta_graphs
        for function in graph.graph_def.library.function
        for node in function.node_def
    )


def _feeds(request: Request, size: int) -> list[dict[str, np.ndarray]] | None:
    """The samples that the converter measures, in batches of one size."""
    arrays = request.calibration
    if arrays is None or not find_mode(request.quantization).ranges:
        return None
    # Fake quantization in the model has the ranges.
    if is_quantization_aware(request.reference.model):
        return None
    inputs = keras.tree.flatten(request.reference.structure)
    samples = len(arrays[0])
    return [
        {
            spec.name: array[np.arange(start, start + size) % samples]
            for spec, array in zip(inputs, arrays, strict=True)
        }
        for start in range(0, samples, size)
    ]


def _failed(sparse: bool, error: Exception) -> Candidate:
    """What a converter's page-long message comes to."""
    missing = set(re.findall(r"'tf\.(\w+)' op", str(error)))
    if missing:
        reason = (
            "TensorFlow Lite has no built-in operator for "
            f"{', '.join(sorted(missing))}. Replace the layers that use it."
        )
    else:
        reason = f"Conversion failed: {type(error).__name__}: {brief(error)}"
    return Candidate(sparse, None, reason)
