"""How large will a file be? Known before training and conversion."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator

import keras
import numpy as np

from keras_swd.export.sizes.prediction import ENCODINGS, lay_out
from keras_swd.export.sizes.skeleton import Skeleton, read_skeleton
from keras_swd.record import WIDTH, Record, open_table, plain_lines
from keras_swd.regularizers.base import PruningRegularizer, pruning_regularizer
from keras_swd.report.sparsity import SparsityReport, sparsity_report
from keras_swd.selection import removed_count
from keras_swd.units.kernels import Kernel, is_kernel

DTYPES = ("float32", "int8")
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
# A model pruned to 0.9 may have, counted exactly, 0.90003.
CLOSE = 1e-3


@dataclasses.dataclass(frozen=True)
class FileSize:
    """The predicted size of one file.

    Args:
        sparsity: Float, fraction of zeros in the kernels.
        dtype: String, `"float32"` or `"int8"`.
        encoding: String, how kernels are stored: `"plain"`, `"sparse"` (as
            `to_tflite` does, where TensorFlow Lite takes it) or `"bit mask"`
            (as `to_tflite_micro` does).
        bytes: Integer, the file's size.
        gzip_bytes: Integer, its size after gzip, as for a download.
        graph_bytes: Integer, how many of `bytes` hold no kernel: operators,
            names, biases, scales.
    """

    sparsity: float
    dtype: str
    encoding: str
    bytes: int
    gzip_bytes: int
    graph_bytes: int


@dataclasses.dataclass(frozen=True)
class BreakEven:
    """The sparsity from which on an encoding makes a file smaller.

    Args:
        dtype: String, `"float32"` or `"int8"`.
        encoding: String, `"sparse"` or `"bit mask"`.
        sparsity: Float, or `None` if the plain file is always smaller.
    """

    dtype: str
    encoding: str
    sparsity: float | None


@dataclasses.dataclass(frozen=True)
class SizePlan(Record):
    """The sizes of a model's files at several sparsities. Printed, a table.

    Args:
        name: String, the model's name.
        files: Tuple of `FileSize`, by sparsity, type and encoding.
        break_even: Tuple of `BreakEven`, for zeros at random places.
    """

    name: str
    files: tuple[FileSize, ...]
    break_even: tuple[BreakEven, ...]

    def table(self, width: int = WIDTH) -> str:
        """Returns the plan as a table of plain text, sizes in KiB.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        table = open_table(f"Predicted sizes of {self.name!r} in KiB")
        table.add_column("zeros", justify="right")
        table.add_column("type")
        for heading in (*ENCODINGS, *(f"{e}, gzip" for e in ENCODINGS)):
            table.add_column(heading, justify="right")
        rows: dict[tuple[float, str], list[FileSize]] = {}
        for file in self.files:
            rows.setdefault((file.sparsity, file.dtype), []).append(file)
        for (sparsity, dtype), files in rows.items():
            sizes = [f.bytes for f in files] + [f.gzip_bytes for f in files]
            table.add_row(
                f"{sparsity:.1%}",
                dtype,
                *(f"{size / 1024:,.1f}" for size in sizes),
                end_section=dtype == DTYPES[-1],
            )
        lines = plain_lines(table, width)
        return "\n".join([*lines, *map(_told, self.break_even)]).strip("\n")


def plan_sizes(
    model: keras.Model, sparsities: Iterable[float] | None = None
) -> SizePlan:
    """Predicts how large a model's files will be, without converting it.

    At each sparsity, the entries of the smallest magnitude of each kernel are
    taken for zero, the same share of each, and the kernels are encoded as a
    file stores them: in float32 or rounded to int8, with all entries, sparse
    or under a bit mask. The graph around them is drawn from the layers, as
    the file will describe it, and gzip compresses that drawing. Models of
    dense layers on vectors, two-dimensional convolutions, normalizations that
    follow these, activations, pooling and merging layers are predicted within
    3 percent; others, as `Conv1D`, `UpSampling2D` and dense layers on
    sequences, less well, where their graph is large against their kernels:
    some hundred bytes a layer, and some thousand of recurrent ones and
    attention. Kernels of these two are taken to keep their zeros in every
    encoding; after gzip these count for next to nothing. In int8 the biases
    depend on the ranges of activations, which are taken as those of normalized
    signals; for much smaller signals, and with almost all weights zero, the
    size after gzip may be up to 4 percent too small.

    A size says nothing of whether a runtime takes the file; `to_tflite`
    tries. Its modes `"float16"` and `"dynamic"` are not predicted.

    Args:
        model: Built Keras model, trained or not, on any backend.
        sparsities: Iterable of floats in [0, 1), none below the sparsity that
            the model has: fractions of zeros in the kernels that are pruned,
            which are those that carry a pruning regularizer, or else all.
            Defaults to `None`: that of the model, and above it 0.5, 0.8, 0.9,
            0.95 and 0.98.

    Returns:
        `SizePlan`; printed, it is a table.

    Raises:
        ValueError: If an argument does not fit, the model is not built, or a
            layer with weights is none of Keras' own.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((256,)), keras.layers.Dense(128)]
    ... )
    >>> plan = plan_sizes(model, sparsities=[0.9])
    >>> plain, sparse, masked = plan.files[:3]
    >>> sparse.bytes < 0.3 * plain.bytes
    True
    """
    present = _present(sparsity_report(model))
    wanted = _check_sparsities(sparsities, present)
    skeleton = read_skeleton(model)
    return SizePlan(
        name=model.name,
        files=tuple(_files(skeleton, wanted, present)),
        break_even=tuple(_break_even(skeleton)),
    )


def information_limit(model: keras.Model, bits: int = 32) -> int:
    """The bytes that a model's kernels need, however they are stored.

    These are the entries that are not zero, `bits` each, and the places of
    the zeros: for a kernel of n entries with a share s of zeros n·H(s) bits,
    where H(s) = −s·log2(s) − (1−s)·log2(1−s). No file without loss is smaller
    unless the values or the places follow a pattern; biases and the graph
    come on top.

    Args:
        model: Built Keras model.
        bits: Integer, bits of an entry that is not zero. Defaults to `32`.

    Returns:
        Integer, in bytes.

    Raises:
        ValueError: If `model` is no built Keras model, or `bits` is not
            positive.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    >>> model.set_weights([np.eye(8), np.zeros(8)])
    >>> information_limit(model, bits=8)  # 8 values, 64 places of 0.54 bits
    13
    """
    if not bits > 0:
        raise ValueError(
            "Argument `bits` must be a positive number: the bits of an entry "
            f"that is not zero. Received: bits={bits}."
        )
    kernels = sparsity_report(model).kernels
    return math.ceil(
        sum(k.nonzeros * bits + k.size * _entropy(k.sparsity) for k in kernels)
        / 8
    )


def _present(report: SparsityReport) -> float:
    """Share of zeros in the kernels that are pruned, or else in all."""
    kernels = [k for k in report.kernels if len(k.shape) > 1]
    pruned = [k for k in kernels if k.prunable] or kernels
    size = sum(k.size for k in pruned)
    return sum(k.zeros for k in pruned) / size if size else 0.0


def _entropy(share: float) -> float:
    """Bits that one of many yes-or-no choices takes."""
    return -sum(p * math.log2(p) for p in (share, 1.0 - share) if p > 0.0)


def _check_sparsities(
    sparsities: Iterable[float] | None, present: float
) -> list[float]:
    if sparsities is None:
        return [present, *(s for s in SPARSITIES if s > present + CLOSE)]
    try:
        wanted = [float(s) for s in sparsities]
    except (TypeError, ValueError):  # a number alone, or no number
        wanted = []
    if wanted and all(present - CLOSE <= s < 1.0 for s in wanted):
        return wanted
    raise ValueError(
        "Argument `sparsities` must hold fractions of zeros in [0, 1), none "
        f"below that of the model, which is {present:.4f}: zeros do not come "
        f"back. Received: sparsities={sparsities!r}."
    )


def _files(
    skeleton: Skeleton, sparsities: Iterable[float], present: float
) -> Iterator[FileSize]:
    for sparsity in sparsities:
        # Zeros that are there may be shared out in another way.
        more = sparsity > present + CLOSE
        values = _pruned(skeleton, sparsity) if more else {}
        for dtype, encoding in itertools.product(DTYPES, ENCODINGS):
            layout = lay_out(skeleton, values, dtype, encoding)
            yield FileSize(
                sparsity=sparsity,
                dtype=dtype,
                encoding=encoding,
                bytes=layout.bytes,
                gzip_bytes=layout.gzip_bytes,
                graph_bytes=layout.graph_bytes,
            )


def _pruned(skeleton: Skeleton, sparsity: float) -> dict[int, np.ndarray]:
    """Values by the `id` of the variable, those of the lowest units zero."""
    variables = [kernel.variable for kernel in skeleton.kernels]
    variables += skeleton.vectors
    found = [(v, pruning_regularizer(v)) for v in variables if v.trainable]
    # Coupled channels are not zeros of one kernel; `shrink` cuts them out.
    pruned = [(v, r) for v, r in found if r and not r.granularity.coupled]
    if not pruned:
        every = PruningRegularizer()
        pruned = [(v, every) for v in variables if is_kernel(v)]
    values = {}
    for variable, regularizer in pruned:
        kernel = Kernel(variable, regularizer)
        kernel.check()
        own = regularizer.sparsity
        count = removed_count(kernel.size, sparsity if own is None else own)
        left = kernel.masked(kernel.mask(count))
        values[id(variable)] = left.astype("float32")
    return values


def _break_even(skeleton: Skeleton) -> Iterator[BreakEven]:
    """Halves the interval in which an encoding becomes the smaller one."""
    for dtype, encoding in itertools.product(DTYPES, list(ENCODINGS)[1:]):
        # Without zeros no kernel is encoded.
        plain = _random_bytes(skeleton, 0.0, dtype, encoding)
        low, high = 0.0, 0.99
        if _random_bytes(skeleton, high, dtype, encoding) >= plain:
            yield BreakEven(dtype, encoding, None)
            continue
        while high - low > 0.005:
            middle = (low + high) / 2
            if _random_bytes(skeleton, middle, dtype, encoding) < plain:
                high = middle
            else:
                low = middle
        yield BreakEven(dtype, encoding, round(high, 2))


def _random_bytes(
    skeleton: Skeleton, sparsity: float, dtype: str, encoding: str
) -> int:
    """Bytes of a file whose kernels are zero at random places."""
    random = np.random.default_rng(0)
    variables = {id(k.variable): k.variable for k in skeleton.kernels}
    values = {
        key: (random.random(variable.shape) >= sparsity).astype("float32")
        for key, variable in variables.items()
    }
    return lay_out(skeleton, values, dtype, encoding).bytes


def _told(point: BreakEven) -> str:
    what = f" {point.dtype}, {point.encoding}:"
    if point.sparsity is None:
        return f"{what} never smaller than plain"
    return f"{what} smaller than plain from {point.sparsity:.0%} of zeros on"
