"""Store the zeros of a TFLite file as TFLite Micro's DECODE reads them.

The operator `TFLM_DECODE` stands before an operator that reads a packed
tensor, and expands it in working memory each time the model runs. Packed by
pruning, a tensor is two constants of bytes:

- a mask, one bit per entry from the highest bit of the first byte on, 1 where
  the entry is not zero;
- a header of 16 bytes, then the entries that are not zero, in their order and
  their own type, little-endian.
"""

from __future__ import annotations

import collections
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from keras_swd.report.sparsity import Totals

#: The operators that multiply by packed weights and add up. Others may read
#: their weights before DECODE has run, e.g. recurrent ones when they load.
READERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
#: Bytes that each reader of a packed tensor costs beyond its two constants: an
#: operator, a tensor that it fills, padding.
OVERHEAD = 240


@dataclasses.dataclass(frozen=True)
class MicroTensor(Totals):
    """Weights of a file, and how they are stored.

    Args:
        size: Integer, number of entries.
        zeros: Integer, how many of them are zero.
        name: String, the tensor's name in the file.
        shape: Tuple of integers.
        dtype: String, as NumPy names it, e.g. `"int8"`.
        plain_bytes: Integer, what the entries need one by one.
        bytes: Integer, what they need in this file.
        skipped: String or `None`, why they are not packed.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    plain_bytes: int
    bytes: int
    skipped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as a dictionary of plain Python values."""
        return dataclasses.asdict(self) | {"sparsity": self.sparsity}


def encode(values: np.ndarray) -> tuple[bytes, bytes]:
    """Packs an array by pruning.

    Args:
        values: Array of any shape; of its type, only 0 means zero.

    Returns:
        Tuple of the mask and of the header with the other entries.

    Example:

    >>> mask, entries = encode(np.array([0, 0, 7, 0, 0, 0, 0, 9, 0], "int8"))
    >>> f"{mask[0]:08b} {mask[1]:08b}", list(entries[16:])
    ('00100001 00000000', [7, 9])
    """
    from tflite_micro.tensorflow.lite.micro.compression import decode

    header = decode.DecodeCommonMetadata(
        decode.DecodeType.PRUNING,
        # The pruning format has a version of its own, after that of DECODE.
        user_data=b"\x01",
    )
    kept = values != 0
    little = values[kept].astype(values.dtype.newbyteorder("<"))
    mask = np.packbits(kept, axis=None, bitorder="big")
    return mask.tobytes(), header.to_bytes() + little.tobytes()


def pack_weights(content: bytes) -> tuple[bytes, tuple[MicroTensor, ...]]:
    """Packs the weights of a file where that makes it smaller.

    Weights are float or integer constants of two axes or more. A zero with a
    minus sign becomes one without, which no sum of products shows.

    Args:
        content: Bytes of a .tflite file without sparse tensors.

    Returns:
        Tuple of the bytes of the packed file, which are `content` itself
        where nothing is packed, and one `MicroTensor` for each weight tensor.
    """
    from tflite_micro.tensorflow.lite.micro.compression import model_editor

    model = model_editor.read(content)
    readers = _readers(model)
    shared: dict[int, tuple[Any, Any]] = {}
    parts, records = {}, []
    for tensor in model_editor.iter_tensors(model):
        if not _is_weight(tensor):
            continue
        encoded = encode(tensor.array)
        record = _record(tensor, encoded, readers[id(tensor.buffer)])
        records.append(record)
        if record.skipped is None:
            mask, entries = map(model_editor.Buffer, encoded)
            parts[tensor] = shared.setdefault(
                id(tensor.buffer), (mask, entries)
            )
    if not parts:
        return content, tuple(records)
    for graph in model.subgraphs:
        _insert_decode(graph, parts)
    model_editor.prune_buffers(model)
    return _aligned(bytes(model.build())), tuple(records)


def _insert_decode(graph: Any, parts: dict[Any, tuple[Any, Any]]) -> None:
    """Puts DECODE before each operator that reads a packed tensor.

    Args:
        graph: Subgraph of a file, which is changed.
        parts: Dictionary from tensors to the buffers with their mask and
            their entries.
    """
    from tflite_micro.tensorflow.lite.micro.compression import model_editor
    from tflite_micro.tensorflow.lite.micro.python import (
        schema_py_generated as schema,
    )

    # Names take room in flash memory, so those that nobody asks for are short.
    def constant(buffer: Any, name: str) -> Any:
        return model_editor.Tensor(
            shape=(len(buffer),),
            dtype=schema.TensorType.UINT8,
            buffer=buffer,
            name=name,
        )

    expanded = set()
    operators = []
    for reader in graph.operators:
        packed = [tensor for tensor in reader.inputs if tensor in parts]
        if packed:
            decode = model_editor.Operator(
                opcode=schema.BuiltinOperator.CUSTOM,
                custom_code="TFLM_DECODE",
            )
            operators.append(decode)
        operators.append(reader)
        for tensor in packed:
            decode.inputs += map(constant, parts[tensor], ("mask", "values"))
            # What DECODE fills lives until the next operator has run, so
            # each further reader needs a tensor of its own.
            copy = tensor.copy("copy") if tensor in expanded else tensor
            copy.buffer = None
            expanded.add(tensor)
            decode.outputs.append(copy)
            place = reader.inputs.index(tensor)
            reader.inputs[place] = copy
    graph.operators = operators


def _is_weight(tensor: Any) -> bool:
    from tflite_micro.tensorflow.lite.micro.compression import tensor_type

    types = ("FLOAT32", "INT8", "INT16")
    return (
        tensor.buffer is not None
        and len(tensor.buffer) > 0
        and len(tensor.shape) >= 2
        and tensor_type.name(tensor.dtype) in types
    )


def _readers(model: Any) -> dict[int, list[str]]:
    """Operators that read each buffer, which several tensors may share."""
    readers: dict[int, list[str]] = collections.defaultdict(list)
    for graph in model.subgraphs:
        for operator in graph.operators:
            for tensor in filter(None, operator.inputs):
                readers[id(tensor.buffer)].append(operator.opcode_name)
    return readers


def _record(
    tensor: Any, encoded: tuple[bytes, bytes], readers: list[str]
) -> MicroTensor:
    values = tensor.array
    plain, packed = values.nbytes, sum(map(len, encoded))
    skipped = None
    if not readers or set(readers) - set(READERS):
        others = sorted(set(readers) - set(READERS)) or ["nothing"]
        skipped = f"read by {', '.join(others)}"
    elif _has_zero_points(tensor):
        skipped = "its zero is not stored as 0"
    elif packed + _overhead(tensor, len(readers)) >= plain:
        skipped = "too few zeros" if plain > 2 * OVERHEAD else "too small"
    return MicroTensor(
        size=values.size,
        zeros=values.size - int(np.count_nonzero(values)),
        name=tensor.name or "",
        shape=tuple(map(int, tensor.shape)),
        dtype=values.dtype.name,
        plain_bytes=plain,
        bytes=packed if skipped is None else plain,
        skipped=skipped,
    )


def _overhead(tensor: Any, readers: int) -> int:
    """Bytes that packing adds around the constants of a tensor.

    Each further reader gets a copy of the scales and zero points, 12 bytes
    for each channel.
    """
    channels = len(tensor.quantization.scales) if tensor.quantization else 0
    return readers * OVERHEAD + (readers - 1) * 12 * channels


def _has_zero_points(tensor: Any) -> bool:
    quantization = tensor.quantization
    return quantization is not None and bool(np.any(quantization.zero_points))


def _aligned(content: bytes) -> bytes:
    """The same file with its constants where kernels expect them."""
    from tflite_micro.tensorflow.lite.micro.tools import (
        tflite_flatbuffer_align_wrapper,
    )

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        before.write_bytes(content)
        tflite_flatbuffer_align_wrapper.align_tflite_model(
            str(before), str(after)
        )
        return after.read_bytes()
