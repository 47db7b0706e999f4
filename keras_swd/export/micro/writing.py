"""Write a pruned Keras model as a file for TFLite Micro (experimental)."""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.export.micro.decode import MicroTensor, pack_weights
from keras_swd.export.micro.interpreter import MicroFile
from keras_swd.export.tflite import signature
from keras_swd.export.tflite.differences import compare_output
from keras_swd.export.tflite.quantization import is_quantization_aware
from keras_swd.export.tflite.records import ExportError, TFLiteReport, brief
from keras_swd.export.tflite.reference import Reference
from keras_swd.export.tflite.samples import gathered
from keras_swd.export.tflite.writing import (
    check_path,
    request_for,
    write_smallest,
    writing,
)
from keras_swd.files import write_whole
from keras_swd.record import WIDTH, Record


@dataclasses.dataclass(frozen=True)
class MicroReport(Record):
    """What `to_tflite_micro` wrote. Printed, it is a table.

    Args:
        path: String, the file.
        bytes: Integer, its size, which is what flash memory holds.
        plain_bytes: Integer, the size of the same file with nothing packed.
        arena_bytes: Integer or `None`, working memory that TFLite Micro took
            for it, on this machine; a microcontroller, whose pointers are
            shorter, takes somewhat less.
        plain_arena_bytes: Integer or `None`, the same with nothing packed.
        quantization: String or `None`, as given.
        samples: Integer, how many samples were compared.
        max_relative_difference: Float, the largest difference of TFLite Micro
            from Keras, relative to the largest magnitude of an output.
        tensors: Tuple of `MicroTensor`, all weights of the file.
    """

    path: str
    bytes: int
    plain_bytes: int
    arena_bytes: int | None
    plain_arena_bytes: int | None
    quantization: str | None
    samples: int
    max_relative_difference: float
    tensors: tuple[MicroTensor, ...]

    @property
    def ratio(self) -> float:
        """Size of the file over its size with nothing packed."""
        return self.bytes / self.plain_bytes

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary of plain Python values."""
        tensors = [tensor.to_dict() for tensor in self.tensors]
        return dataclasses.asdict(self) | {
            "ratio": self.ratio,
            "tensors": tensors,
        }

    def table(self, width: int = WIDTH) -> str:
        """Returns the report as lines of text, which are not cut."""
        del width
        rows = [
            ("file", self.path),
            ("size", _change(self.plain_bytes, self.bytes)),
            ("memory", _change(self.plain_arena_bytes, self.arena_bytes)),
            (
                "outputs",
                f"as those of the plain file, bit for bit, on {self.samples} "
                f"samples; {self.max_relative_difference:.1e} from Keras",
            ),
        ]
        rows += [("weights", _line(tensor)) for tensor in self.tensors]
        return "\n".join(f"{label:<8} {text}" for label, text in rows)


def to_tflite_micro(
    model: keras.Model,
    path: str | os.PathLike[str],
    quantization: str | None = None,
    representative_data: Any = None,
    check_with: Any = None,
) -> MicroReport:
    """Writes a file for TFLite Micro with pruned weights packed (experimental).

    Weights with enough zeros are stored as a mask of bits and the values that
    are not zero, which TFLite Micro's operator `TFLM_DECODE` expands each time
    the model runs. This saves flash memory and costs working memory: room for
    the weights of the largest layer, expanded, and some time. The firmware
    must register the operator (`AddDecode`), which TFLite Micro has since
    October 2025. LiteRT does not have it, so the file does not run on a phone,
    as the sparse files of `to_tflite` do not run in TFLite Micro.

    The plain file is written and compared with Keras as by `to_tflite`. Then
    the packed file must give the same outputs as the plain one in TFLite
    Micro, bit for bit, before it appears at `path`; whatever fails leaves no
    file, and a file that was there before stays as it was. Where packing
    makes nothing smaller the plain file is written. Files take one sample.

    Args:
        model: Built model, as for `to_tflite`, whose inputs have known
            shapes, the number of samples aside.
        path: String or path ending in `.tflite`, in an existing folder.
        quantization: `None` for float32, or `"int8"`. Defaults to `None`.
        representative_data: Inputs that show the ranges of activations, as
            for `to_tflite`. Defaults to `None`.
        check_with: Sample inputs, as for `to_tflite`. Defaults to `None`,
            which takes some of `representative_data` or a few random ones.

    Returns:
        `MicroReport`; printed, it is a table.

    Raises:
        ExportError: If TFLite Micro lacks an operator, or outputs differ.
        ImportError: If the package `tflite-micro` is missing.
        ValueError: If an argument does not fit, or the model is not built.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    >>> kernel = model.layers[0].kernel
    >>> _ = kernel.assign(kernel * (keras.random.uniform((64, 64)) > 0.9))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_tflite_micro(model, f"{folder}/model.tflite")
    >>> report.bytes < 0.3 * report.plain_bytes
    True
    """
    target = check_path(path)
    if quantization not in (None, "int8"):
        raise ValueError(
            "Argument `quantization` must be None or 'int8': TFLite Micro "
            "computes in float32 or in integers. "
            f"Received: quantization={quantization!r}."
        )
    _check_package()
    trained = is_quantization_aware(model)
    if quantization and representative_data is None and not trained:
        raise ValueError(
            "Argument `representative_data` must hold inputs as the model "
            "meets them in use, about 100 or more: they show the range of "
            "each activation, which quantization='int8' needs. Received: "
            "representative_data=None."
        )
    if representative_data is not None:
        representative_data = gathered(representative_data)
    samples = representative_data if check_with is None else check_with
    single = _for_one_sample(model, samples)
    with tempfile.TemporaryDirectory() as folder:
        plain_path = Path(folder) / "plain.tflite"
        request = request_for(
            single, quantization, False, representative_data, check_with
        )
        checked = write_smallest(request, plain_path)
        plain = plain_path.read_bytes()
    packed, tensors = pack_weights(plain)
    if len(packed) >= len(plain):
        packed, tensors = plain, tuple(map(_unpacked, tensors))
    files = MicroFile(plain), MicroFile(packed)
    difference = _difference(*files, request.reference, checked)
    plain_arena, arena = (file.arena_bytes() for file in files)
    with writing(target):
        write_whole(target, packed)
    return MicroReport(
        path=str(target),
        bytes=len(packed),
        plain_bytes=len(plain),
        arena_bytes=arena,
        plain_arena_bytes=plain_arena,
        quantization=quantization,
        samples=checked.samples,
        max_relative_difference=difference,
        tensors=tensors,
    )


def _for_one_sample(model: Any, samples: Any) -> Any:
    """The same layers behind inputs of one sample.

    In a file for any number of samples, shapes are computed when it runs,
    which TFLite Micro does not do.
    """
    signature.check_model(model)
    signature.check_names(model)
    structure = signature.input_structure(model, samples)
    several = signature.fixed_batch_size(model, structure) not in (None, 1)
    for spec in keras.tree.flatten(structure):
        if several or None in spec.shape[1:]:
            raise ValueError(
                "Argument `model` must take inputs of known shapes and any "
                "number of samples, or one: TFLite Micro runs one sample in "
                "memory planned ahead. Received: a model with an input "
                f"`{spec.key}` of shape {spec.shape}."
            )
    maker = sys.modules["tf_keras"] if signature.is_tf_keras(model) else keras
    inputs = keras.tree.map_structure(
        lambda spec: maker.Input(
            batch_shape=(1, *spec.shape[1:]), dtype=spec.dtype, name=spec.key
        ),
        structure,
    )
    try:
        return maker.Model(inputs, model(inputs))
    except Exception as error:
        raise ExportError(
            f"The model cannot be built for one sample: {brief(error)}"
        ) from error


def _difference(
    plain: MicroFile,
    packed: MicroFile,
    reference: Reference,
    checked: TFLiteReport,
) -> float:
    """Largest relative difference from Keras; refuses files that disagree."""
    names = [output.name for output in checked.outputs]
    outputs = _same_outputs(plain, packed, reference, names)
    checks = [
        compare_output(
            name, [ours], [theirs], checked.tolerance, checked.quantization
        )
        for name, ours, theirs in zip(
            names, _predict(reference), outputs, strict=True
        )
    ]
    return max(output.max_relative_difference for output in checks)


def _same_outputs(
    plain: MicroFile,
    packed: MicroFile,
    reference: Reference,
    names: list[str],
) -> list[np.ndarray]:
    """Runs two files in TFLite Micro; refuses them if one bit differs."""
    keys = [spec.name for spec in keras.tree.flatten(reference.structure)]
    inputs = dict(zip(keys, reference.arrays, strict=True))
    expected, received = (file.run(inputs, names) for file in (plain, packed))
    for name, ours, theirs in zip(names, expected, received, strict=True):
        if ours.tobytes() != theirs.tobytes():
            raise ExportError(
                f"Output `{name}` of the packed file differs from that of the "
                "plain file in TFLite Micro. No file was written; "
                "`to_tflite(..., sparse=False)` writes a plain one."
            )
    return received


def _predict(reference: Reference) -> list[np.ndarray]:
    """Outputs of a model that takes one sample at a time."""
    model, structure = reference.model, reference.structure
    outputs = [
        signature.predict(model, structure, [array[None] for array in sample])
        for sample in zip(*reference.arrays, strict=True)
    ]
    return [
        np.concatenate(samples)
        for samples in zip(*(found for _, found in outputs), strict=True)
    ]


def _unpacked(tensor: MicroTensor) -> MicroTensor:
    return dataclasses.replace(
        tensor,
        bytes=tensor.plain_bytes,
        skipped=tensor.skipped or "the file would not be smaller",
    )


def _check_package() -> None:
    try:
        import tflite_micro  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "`to_tflite_micro` needs TFLite Micro: "
            "pip install 'keras_swd[micro]'."
        ) from error


def _change(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return "not measured"
    return (
        f"{after / 1024:,.1f} KiB, {after / before:.2f} of the plain file's "
        f"{before / 1024:,.1f} KiB"
    )


def _line(tensor: MicroTensor) -> str:
    shape = "×".join(map(str, tensor.shape))
    stored = tensor.skipped or "packed"
    return (
        f"{shape} {tensor.dtype}, {tensor.percentage} zeros, "
        f"{tensor.plain_bytes:,} -> {tensor.bytes:,} bytes ({stored}): "
        f"{tensor.name}"
    )
