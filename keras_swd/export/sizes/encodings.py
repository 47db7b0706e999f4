"""How a kernel's values lie in a file: plain, sparse or under a bit mask."""

from __future__ import annotations

import dataclasses

import numpy as np

# The converter's own constants: it leaves kernels with fewer zeros dense, and
# takes blocks where they lose almost none of the zeros. After rounding to
# int8 it expects some zeros more.
LEAST_ZEROS = 0.3
BLOCKS = {"float32": (4, 0.9), "int8": (16, 0.8)}

# A bit mask comes with a header that names the method, two more tensors and
# an operator.
MASK_HEADER = 16
MASK_OVERHEAD = 200


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A kernel as a file holds it.

    Args:
        content: Bytes, the entries.
        places: Bytes that say where these belong.
        expanded: Boolean, whether an operator of its own expands it when the
            model runs. Defaults to `False`.
        lost: Boolean, whether entries are missing. Defaults to `False`.
    """

    content: bytes
    places: bytes = b""
    expanded: bool = False
    lost: bool = False


def sparse(values: np.ndarray) -> Encoded | None:
    """Encodes a kernel as TensorFlow Lite does without its zeros.

    All axes but the last are kept dense. For the last one there are the
    values, the place of each in its row, and where each row starts; places and
    starts take 1, 2 or 4 bytes each, as the largest of them needs. A matrix
    whose zeros come in blocks along the last axis is stored in blocks.

    Args:
        values: Array of float32 or int8, in the order of a file.

    Returns:
        `Encoded`, or `None` where TensorFlow Lite keeps the zeros: too few of
        them, or not two or four axes.

    Example:

    >>> kernel = np.zeros((4, 100), "float32")
    >>> kernel[:, ::10] = 1.0
    >>> encoded = sparse(kernel)  # 40 places, 5 starts, two lengths, fill
    >>> len(encoded.content), len(encoded.places)
    (160, 56)
    """
    zeros = 1.0 - np.count_nonzero(values) / max(values.size, 1)
    if values.ndim not in (2, 4) or zeros < LEAST_ZEROS:
        return None
    blocks = values.reshape(-1, values.shape[-1], 1)
    size, ratio = BLOCKS[values.dtype.name]
    lost = False
    if values.ndim == 2:
        # TensorFlow Lite loses what does not fill a block at the end of a row.
        columns = values.shape[1] // size * size
        wide = values[:, :columns].reshape(len(values), -1, size)
        kept = np.count_nonzero(wide.any(axis=-1)) * size
        if 1.0 - kept / values.size > ratio * zeros:
            blocks, lost = wide, columns < values.shape[1]
    used = blocks.any(axis=-1)
    starts = np.concatenate([[0], np.cumsum(np.sum(used, axis=1))])
    places = np.nonzero(used)[1]
    return Encoded(
        blocks[used].tobytes(),
        _vector(starts) + _vector(places),
        expanded=blocks.shape[-1] == 1,
        lost=lost,
    )


def bit_mask(values: np.ndarray) -> Encoded | None:
    """Encodes a kernel as one bit per entry and the entries not zero.

    Args:
        values: Array in the order of a file.

    Returns:
        `Encoded`, or `None` where that saves nothing.
    """
    flat = values.ravel()
    content = bytes(MASK_HEADER) + flat[flat != 0].tobytes()
    mask = np.packbits(flat != 0).tobytes()
    if len(content) + len(mask) + MASK_OVERHEAD >= values.nbytes:
        return None
    return Encoded(content, mask, expanded=True)


def to_int8(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Rounds a kernel to int8 with one scale per channel, zero staying zero.

    Args:
        values: Array of floats.
        axis: Integer, the axis of the channels.

    Returns:
        Tuple of the array of int8 and the scales as float32, 0 for a channel
        of zeros.
    """
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    largest = np.max(np.abs(values), axis=others, keepdims=True)
    scales = largest / 127.0
    rounded = np.round(values / np.where(scales > 0, scales, 1.0))
    return rounded.astype("int8"), scales.ravel().astype("float32")


def _vector(numbers: np.ndarray) -> bytes:
    """A flatbuffer's vector of integers: its length, entries, fill to 4."""
    largest = int(numbers.max(initial=0))
    kind = next(
        k for k in ("uint8", "uint16", "int32") if largest <= np.iinfo(k).max
    )
    entries = numbers.astype(kind).tobytes()
    return (
        len(numbers).to_bytes(4, "little") + entries + bytes(-len(entries) % 4)
    )
