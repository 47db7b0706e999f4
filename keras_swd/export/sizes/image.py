"""The bytes of a file as they will lie in it, so that gzip can be tried."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterable, Sequence

import numpy as np

# What tensors have in the word that holds their type; biases are of int32.
INT8, INT32, FLOAT32 = 9 << 24, 2 << 24, 0
TRUE = 1 << 24
# A distance backwards is a negative number of 32 bits.
MASK = 0xFFFFFFFF
NO_SCALES = np.zeros(0, "float32")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor as a file describes it.

    Args:
        name: String.
        shape: Tuple of integers.
        content: Bytes, the entries; none for a tensor that the file computes.
            Defaults to `b""`.
        places: Bytes, where the entries belong, if zeros are left out.
            Defaults to `b""`.
        scales: Array of float32, one per channel or for all, none for a
            tensor of floats. Defaults to none.
        zero_point: Integer that stands for 0. Defaults to `0`.
        any_batch: Boolean, whether the first axis takes any number of
            samples. Defaults to `False`.
    """

    name: str
    shape: tuple[int, ...]
    content: bytes = b""
    places: bytes = b""
    scales: np.ndarray = dataclasses.field(default_factory=NO_SCALES.copy)
    zero_point: int = 0
    any_batch: bool = False


def draw(tensors: Sequence[Tensor], operators: Iterable[int]) -> bytes:
    """Draws a file that holds these tensors, without its fixed parts.

    Contents come first, then operators, then what describes the tensors. gzip
    finds what repeats in the last 32 KiB, so the order counts, and so does
    what differs from record to record: a record refers to its parts, and to
    the table of its fields, by distances in bytes. These are drawn as numbers
    that differ where those of a file do.

    Args:
        tensors: Sequence of `Tensor`, in the order of the file.
        operators: Iterable of integers, the number of tensors that each
            operator takes.

    Returns:
        Bytes.

    Example:

    >>> kernel = Tensor("dense/MatMul", (10, 4), content=bytes(160))
    >>> picture = draw([kernel], operators=[3])
    >>> 160 < len(picture) < 400
    True
    """
    picture = _contents(tensors)
    picture += _operators(operators, len(tensors))
    records = bytearray()
    starts = []
    for index, tensor in enumerate(tensors):
        starts.append(len(records))
        records += _record(tensor, len(tensors) - index, len(records))
    picture += _words(*(len(records) - start for start in starts))
    return bytes(picture + records)


def _contents(tensors: Sequence[Tensor]) -> bytearray:
    """What constants hold, after the places of all buffers."""
    stored = bytearray()
    starts = []
    for content in filter(None, (tensor.content for tensor in tensors)):
        starts.append(len(stored))
        stored += _words(-len(stored), 4, len(content)) + _filled(content)
    others = len(tensors) - len(starts)
    picture = bytearray(_words(*(len(stored) - s for s in reversed(starts))))
    picture += _words(*(8 * i for i in reversed(range(others))))
    picture += _words(*(4 * i - len(stored) for i in range(others)))
    return picture + stored


def _operators(operators: Iterable[int], tensors: int) -> bytes:
    """Their places, then what each computes from which tensors."""
    records = bytearray()
    starts = []
    for index, inputs in enumerate(operators):
        starts.append(len(records))
        output = tensors - index
        records += _words(-len(records), 20, 24, index % 4)
        if inputs > 1:
            # An operator that only expands a kernel has no options.
            options = (-len(records), *[TRUE] * inputs)
            records += _words(TRUE, 28, *options)
        taken = (output - 1, *(2 * (tensors - index) - i for i in (1, 2)))
        records += _words(1, output, inputs, *taken[:inputs])
    return _words(*(len(records) - start for start in starts)) + records


def _record(tensor: Tensor, index: int, at: int) -> bytes:
    """What describes a tensor, `at` bytes after the first one."""
    rank, size = len(tensor.shape), len(tensor.places)
    kind = (INT8 if rank > 1 else INT32) if tensor.scales.size else FLOAT32
    # Distances to the parts follow from their sizes, which stand for these.
    words = [-at, TRUE, 20, size + 8 * tensor.scales.size]
    words += [index, kind, size + len(tensor.name)]
    if tensor.any_batch:
        words += [24, rank, -1, *tensor.shape[1:]]
    record = bytearray(_words(*words))
    if tensor.places:
        record += _sparsity(tensor, at + len(record))
    record += _quantization(tensor, at + len(record))
    record += _words(len(tensor.name))
    record += _filled(tensor.name.encode() + b"\0")
    return bytes(record + _words(rank, *tensor.shape))


def _sparsity(tensor: Tensor, at: int) -> bytes:
    """Which axes are dense, and the places along the one that is not."""
    size, rank = len(tensor.places), len(tensor.shape)
    head = _words(
        -at, 12, size, size, rank, *(size - 8 * i for i in range(rank))
    )
    places = _words(-at - 32, 16, 2 << 24, size // 2, TRUE, -at - 52, 4)
    dense = [word for side in tensor.shape[:-1] for word in (-16, side)]
    order = _words(-at - size, 4, *dense, rank, *range(rank))
    return head + places + tensor.places + order


def _quantization(tensor: Tensor, at: int) -> bytes:
    scales = tensor.scales
    if not scales.size:
        return _words(-at)
    zeros = np.full(scales.size, tensor.zero_point, "<i8").tobytes()
    head = _words(-at, 8, len(zeros) + 12, scales.size)
    return head + zeros + _words(0, scales.size) + scales.tobytes()


def _words(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *(n & MASK for n in numbers))


def _filled(content: bytes) -> bytes:
    """A content with the fill that lets a word follow."""
    return content + bytes(-len(content) % 4)
