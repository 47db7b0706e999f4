"""Write a Keras model as a TFLite file that is known to work."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.export import signature
from keras_swd.export.agreement import (
    TOLERANCE,
    check_tolerance,
    compare,
    prepare,
)
from keras_swd.export.quiet import quiet
from keras_swd.export.records import (
    ExportError,
    TFLiteCheck,
    TFLiteReport,
    TFLiteVariant,
    brief,
    gzip_size,
)
from keras_swd.files import check_target


def to_tflite(
    model: keras.Model,
    path: str | os.PathLike[str],
    sparse: bool | str = "auto",
    check_with: Any = None,
    tolerance: float = TOLERANCE,
) -> TFLiteReport:
    """Writes a float32 TFLite file and proves that it works.

    The file is written beside `path`, run by LiteRT with its default
    delegates and without any, compared with Keras, and only then renamed to
    `path`. Whatever fails leaves no file, and a file that was there before
    stays as it was.

    A sparse file stores kernels without their zeros. That makes it smaller
    from about one third of zeros on, and larger below; it needs as much
    memory and time as a dense one, since the zeros come back when it is
    loaded. Only TensorFlow Lite's built-in operators are used.

    Models whose inputs take any number of samples become files that do too,
    where possible. Recurrent layers need a fixed number: then the file takes
    one sample, and the report's `batch_size` is 1. Models trained with
    another float type, e.g. `mixed_float16`, are exported and compared in
    float32.

    Args:
        model: Built Keras model on the TensorFlow backend.
        path: String or path ending in `.tflite`, in an existing folder.
        sparse: `True`, `False` or `"auto"`: store kernels without their zeros,
            with them, or take the smallest file that works. Defaults to
            `"auto"`.
        check_with: Sample inputs: an array, or for several inputs a list,
            tuple or dictionary of arrays, as the model takes them. Defaults
            to `None`, which makes a few random ones: normal for floats, 0 or
            1 for integers. Real samples say more.
        tolerance: Float, the largest difference allowed in an output, relative
            to the largest magnitude of this output in Keras. Defaults to
            `1e-4`.

    Returns:
        `TFLiteReport`; printed, it is a table.

    Raises:
        ExportError: If no file works: an operator is missing in TensorFlow
            Lite, outputs disagree or are NaN, the backend is another one.
        ValueError: If an argument does not fit, or the model is not built.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64)])
    >>> kernel = model.layers[0].kernel
    >>> _ = kernel.assign(kernel * (keras.random.uniform((64, 64)) > 0.9))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = to_tflite(model, f"{folder}/model.tflite")
    >>> report.sparse, report.zeros == report.model_zeros
    (True, True)
    """
    target = _check_path(path)
    if sparse not in (True, False, "auto"):
        raise ValueError(
            "Argument `sparse` must be True, False or 'auto'. "
            f"Received: sparse={sparse!r}."
        )
    check_tolerance(tolerance)
    _check_backend()
    twin, structure, arrays = prepare(model, check_with)

    wanted = [False, True] if sparse == "auto" else [bool(sparse)]
    try:
        files = _convert(twin, structure, wanted)
        return _write_smallest(
            files, target, twin, structure, arrays, tolerance
        )
    except ExportError as error:
        if wanted != [True]:
            raise
        remedy = _dense_works(twin, structure, arrays, tolerance)
        raise ExportError(f"{error} {remedy}", error.difference) from error


@dataclasses.dataclass(frozen=True)
class _Candidate:
    sparse: bool
    content: bytes | None
    refused: str | None = None

    def as_variant(self, refused: str | None) -> TFLiteVariant:
        return TFLiteVariant(
            sparse=self.sparse,
            bytes=None if self.content is None else len(self.content),
            gzip_bytes=None
            if self.content is None
            else gzip_size(self.content),
            refused=refused,
        )


def _write_smallest(
    candidates: list[_Candidate],
    target: Path,
    model: keras.Model,
    structure: Any,
    arrays: list[np.ndarray],
    tolerance: float,
) -> TFLiteReport:
    """Writes the smallest candidate that works; the first of equal ones."""
    variants = {c.sparse: c.as_variant(c.refused) for c in candidates}
    check: TFLiteCheck | None = None
    difference = None
    files = [c for c in candidates if c.content is not None]
    for candidate in sorted(files, key=lambda c: len(c.content or b"")):
        if check is not None:
            variants[candidate.sparse] = candidate.as_variant("not smaller")
            continue
        with _beside(target) as temporary:
            _write(temporary, candidate.content or b"")
            try:
                check = compare(temporary, model, structure, arrays, tolerance)
            except ExportError as error:
                difference = error.difference
                variants[candidate.sparse] = candidate.as_variant(str(error))
                continue
            os.replace(temporary, target)
            chosen = candidate.sparse
    if check is None:
        reasons: dict[str | None, list[str]] = {}
        for variant in variants.values():
            reasons.setdefault(variant.refused, []).append(variant.name)
        told = [f"{'/'.join(n)}: {reason}" for reason, n in reasons.items()]
        raise ExportError(f"No file was written. {' '.join(told)}", difference)
    known = {
        field.name: getattr(check, field.name)
        for field in dataclasses.fields(check)
    }
    known["path"] = str(target)
    return TFLiteReport(
        **known, sparse=chosen, variants=tuple(variants.values())
    )


def _dense_works(
    model: keras.Model,
    structure: Any,
    arrays: list[np.ndarray],
    tolerance: float,
) -> str:
    """Says whether `sparse=False` helps, having tried it."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = _write_smallest(
                _convert(model, structure, [False]),
                Path(folder) / "dense.tflite",
                model,
                structure,
                arrays,
                tolerance,
            )
    except ExportError:
        return "`sparse=False` does not work either."
    return f"`sparse=False` works and gives {report.bytes:,} bytes."


def _convert(
    model: keras.Model, structure: Any, wanted: list[bool]
) -> list[_Candidate]:
    """Converts a model, for any batch size if that is possible.

    Args:
        model: Keras model that computes in float32.
        structure: Nested structure of `ModelInput`.
        wanted: List of Booleans: convert to a sparse file?

    Returns:
        List of candidates; at least one has a content.

    Raises:
        ExportError: If none could be converted.
    """
    inputs = keras.tree.flatten(structure)
    declared = {spec.shape[0] for spec in inputs if spec.shape} - {None}
    batch_sizes: list[int | None] = [None, 1, *declared]
    if declared and not isinstance(model, keras.Sequential):
        # A sequential model may have got it from its first call only.
        batch_sizes = [*declared]
    for batch_size in dict.fromkeys(batch_sizes):
        with tempfile.TemporaryDirectory() as folder:
            try:
                with quiet():
                    _save(model, structure, batch_size, folder)
            except Exception as error:
                candidates = [_Candidate(False, None, _reason(error))]
                continue
            candidates = [_convert_saved(folder, sparse) for sparse in wanted]
        if any(candidate.content for candidate in candidates):
            return candidates
    raise ExportError(f"No file was written. {candidates[0].refused}")


def _save(
    model: keras.Model, structure: Any, batch_size: int | None, folder: str
) -> None:
    """Writes a SavedModel whose signature has names that we know."""
    import tensorflow as tf

    inputs = keras.tree.flatten(structure)
    specs = {
        spec.name: tf.TensorSpec(
            (batch_size, *spec.shape[1:]), spec.dtype, name=spec.name
        )
        for spec in inputs
    }

    def serve(feeds: dict[str, Any]) -> dict[str, Any]:
        values = [feeds[spec.name] for spec in inputs]
        names, outputs = signature.call(model, structure, values)
        return dict(zip(names, outputs, strict=True))

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", serve, [specs])
    archive.write_out(folder, verbose=False)


def _convert_saved(folder: str, sparse: bool) -> _Candidate:
    import tensorflow as tf

    try:
        with quiet():
            converter = tf.lite.TFLiteConverter.from_saved_model(folder)
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.TFLITE_BUILTINS
            ]
            if sparse:
                converter.optimizations = [
                    tf.lite.Optimize.EXPERIMENTAL_SPARSITY
                ]
            return _Candidate(sparse, converter.convert())
    except Exception as error:
        return _Candidate(sparse, None, _reason(error))


def _reason(error: Exception) -> str:
    """What a converter's page-long message comes to."""
    text = str(error)
    missing = set(re.findall(r"'tf\.(\w+)' op", text))
    if missing:
        return (
            "TensorFlow Lite has no built-in operator for "
            f"{', '.join(sorted(missing))}. Replace the layers that use it."
        )
    return f"Conversion failed: {type(error).__name__}: {brief(error)}"


def _check_path(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix != ".tflite":
        raise ValueError(
            "Argument `path` must end in '.tflite'. "
            f"Received: path={str(path)!r}."
        )
    return check_target(target)


def _check_backend() -> None:
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ExportError(
            "`to_tflite` needs Keras on the TensorFlow backend; this process "
            f"uses {backend!r}. Save the model with `model.save('m.keras')`, "
            "start Python with KERAS_BACKEND=tensorflow, load it with "
            "`keras.saving.load_model('m.keras')` and export it there."
        )
    for module, package in (
        ("tensorflow", "TensorFlow"),
        ("ai_edge_litert", "LiteRT"),
    ):
        try:
            __import__(module)
        except ImportError as error:
            raise ImportError(
                f"`to_tflite` needs {package}: pip install 'keras_swd[tflite]'."
            ) from error


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Names a new file in the target's folder; removes it if it stays."""
    # Not `tempfile`: its files are readable by their owner alone, and a
    # renamed file keeps that.
    name = f".{target.stem}.{secrets.token_hex(8)}.tflite"
    temporary = target.with_name(name)
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
