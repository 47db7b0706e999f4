"""How large one file will be, found by laying out what it will hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_swd.export.sizes.encodings import Encoded, bit_mask, sparse, to_int8
from keras_swd.export.sizes.skeleton import (
    ANY_BATCH_OPERATORS,
    Skeleton,
    StoredKernel,
)
from keras_swd.export.tflite.records import gzip_size

#: Encodings of a kernel; one that gives `None` leaves it as it is.
ENCODINGS: dict[str, Callable[[np.ndarray], Encoded | None]] = {
    "plain": lambda values: None,
    "sparse": sparse,
    "bit mask": bit_mask,
}
# Bytes that files take beside names, shapes and data. They were fitted to 50
# files of 1 KB to 14 MB, whose sizes they give within half a percent.
FILE, TENSOR, OPERATOR, SPARSE = 500, 75, 12, 106
# The scales of an int8 tensor: a record, and for each a float and an 8-byte
# zero point.
SCALES = 20
# A guess: the scale of a layer's input is known when its range is.
INPUT_SCALE = np.float32(0.003)
SMALLEST = 1.8e-8
# The same after gzip, where most of a record repeats the one before.
GZIP_FILE, GZIP_SPARSE = 225, 42
GZIP_TENSOR = {"float32": 53, "int8": 60}


@dataclasses.dataclass
class Layout:
    """What a file holds, piece by piece.

    Args:
        dtype: String: `"float32"` or `"int8"`.
        names: List of strings, one per tensor.
        shapes: Integer: bytes of the shapes.
        operators: Integer: their number.
        records: Integer: bytes of records that not every tensor has.
        sparse: Integer: number of kernels whose places are stored.
        kernels: List of bytes: the entries of the kernels.
        places: Integer: bytes that say where these belong.
        vectors: List of bytes: biases, scales, and the places of kernels'
            entries.
    """

    dtype: str
    names: list[str]
    shapes: int
    operators: int
    records: int = 0
    sparse: int = 0
    places: int = 0
    kernels: list[bytes] = dataclasses.field(default_factory=list)
    vectors: list[bytes] = dataclasses.field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Bytes of the file."""
        return (
            FILE
            + TENSOR * len(self.names)
            + OPERATOR * self.operators
            + self.records
            + self.shapes
            + sum(_filled(len(name) + 5, 4) for name in self.names)
            + sum(_filled(len(x), 16) for x in self.vectors + self.kernels)
        )

    @property
    def graph_bytes(self) -> int:
        """Bytes of all that is no kernel."""
        kernels = sum(_filled(len(kernel), 16) for kernel in self.kernels)
        return self.bytes - self.places - kernels

    @property
    def gzip_bytes(self) -> int:
        """Bytes of the file after gzip."""
        names = "\0\0\0\0".join(self.names).encode()
        content = b"".join([*self.kernels, *self.vectors, names])
        return (
            GZIP_FILE
            + GZIP_TENSOR[self.dtype] * len(self.names)
            + GZIP_SPARSE * self.sparse
            + gzip_size(content)
        )


def lay_out(
    skeleton: Skeleton,
    values: Sequence[np.ndarray],
    dtype: str,
    encoding: str,
) -> Layout:
    """Lays out a file.

    Args:
        skeleton: `Skeleton` of a model.
        values: Sequence of float arrays, one per kernel of the skeleton, each
            of its variable's shape.
        dtype: String: `"float32"` or `"int8"`.
        encoding: String, a key of `ENCODINGS`.

    Returns:
        `Layout`.
    """
    tensors, operators = list(skeleton.tensors), skeleton.operators
    axes = sum(4 + 4 * rank for _, rank in tensors)
    names = [name for name, _ in tensors]
    if encoding != "bit mask":
        # Such files are for TFLite Micro and take one sample; others take any
        # number, which the tensors say in a second shape.
        axes *= 2
        names += skeleton.any_batch
        operators += ANY_BATCH_OPERATORS * bool(skeleton.any_batch)
    layout = Layout(dtype, names, axes, operators)
    layout.vectors += [
        vector.astype("float32").tobytes() for vector in skeleton.vectors
    ]
    if dtype == "int8":
        layout.operators += 2
        layout.names += ["tfl.quantize", "StatefulPartitionedCall_1:01"]
        layout.records += (SCALES + 12) * len(tensors)
    for kernel, array in zip(skeleton.kernels, values, strict=True):
        _add(layout, kernel, kernel.in_order(array), encoding)
    return layout


def _add(
    layout: Layout,
    kernel: StoredKernel,
    values: np.ndarray,
    encoding: str,
) -> None:
    """Adds a kernel, its bias and their scales."""
    bias = kernel.bias.astype("float32")
    scales = np.zeros(0, "float32")
    if layout.dtype == "int8":
        values, scales = to_int8(values, kernel.axis)
        # An empty channel gets a scale by which its bias just fits into 31
        # bits, and at least the smallest one.
        fitting = np.maximum(np.abs(bias) / INPUT_SCALE / 2**30, SMALLEST)
        scales = np.where(scales > 0, scales, fitting if bias.size else 1.0)
        scales = scales.astype("float32")
        if bias.size:
            bias = (bias / (scales * INPUT_SCALE)).astype("int32")
    encoded = ENCODINGS[encoding](values)
    name = kernel.names[0]
    if encoded is None:
        encoded = Encoded(values.tobytes())
    elif encoding == "sparse":
        name = kernel.names[1]
        layout.records += SPARSE
    tensors = [name]
    if encoded.expanded:
        layout.operators += 1
        # TFLite Micro's operator takes two tensors; what belongs to a kernel
        # has no name there.
        tensors += [name] if encoding == "sparse" else ["", ""]
    layout.names += tensors
    layout.shapes += (4 + 4 * values.ndim) * len(tensors)
    layout.kernels.append(encoded.content)
    layout.sparse += bool(encoded.places)
    layout.places += _filled(len(encoded.places), 16)
    layout.vectors.append(bias.tobytes())
    if bias.size:
        _add_scales(layout, scales * INPUT_SCALE)
    _add_scales(layout, scales)
    # What lies between two copies of the scales decides whether gzip finds
    # the second one.
    layout.vectors.append(encoded.places)
    if encoded.expanded and encoding == "sparse":
        _add_scales(layout, scales)


def _add_scales(layout: Layout, scales: np.ndarray) -> None:
    if scales.size:
        layout.records += SCALES
        layout.vectors += [scales.tobytes(), bytes(8 * scales.size)]


def _filled(size: int, unit: int) -> int:
    """A size with the fill that puts what follows at a multiple of `unit`."""
    return -(-size // unit) * unit
