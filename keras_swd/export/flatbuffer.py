"""What a .tflite file holds: tensors, how they are stored, operators."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A constant of a file.

    Args:
        name: String.
        shape: Tuple of integers: the shape before anything was left out.
        dtype: String, as NumPy names it, e.g. `"float32"`.
        sparse: Boolean: whether zeros were left out of it.
        zeros: Integer, or `None` for a type other than floats.
        incomplete: Boolean: whether entries are missing. It is stored in
            blocks that do not fill an axis; the converter forgets the rest
            of that axis, and LiteRT reads past the end of the data.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sparse: bool
    zeros: int | None
    incomplete: bool = False

    @property
    def size(self) -> int:
        """Number of entries, with those that were left out."""
        return math.prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Whether it is a float tensor with two axes or more."""
        return self.zeros is not None and len(self.shape) >= 2


def stored_tensors(content: bytes) -> tuple[StoredTensor, ...]:
    """Reads the constants of a .tflite file.

    Args:
        content: Bytes of the file.

    Returns:
        Tuple of `StoredTensor`, those of all subgraphs.
    """
    schema = _schema()
    model = schema.Model.GetRootAs(content, 0)
    types = _names(schema.TensorType)
    found = []
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for tensor in map(graph.Tensors, range(graph.TensorsLength())):
            data = _data(content, model.Buffers(tensor.Buffer()))
            if not len(data) and tensor.Sparsity() is None:
                continue
            shape = tuple(map(tensor.Shape, range(tensor.ShapeLength())))
            dtype = types[tensor.Type()].lower()
            zeros = None
            if dtype in ("float16", "float32", "float64"):
                # A sparse tensor stores its nonzero entries, and zeros only
                # where they fill a block.
                entries = data.view(dtype)
                zeros = math.prod(shape) - int(np.count_nonzero(entries))
            found.append(
                StoredTensor(
                    name=tensor.Name().decode(),
                    shape=shape,
                    dtype=dtype,
                    sparse=tensor.Sparsity() is not None,
                    zeros=zeros,
                    incomplete=_is_incomplete(shape, tensor.Sparsity()),
                )
            )
    return tuple(found)


def operator_counts(content: bytes) -> dict[str, int]:
    """Counts the operators of a .tflite file.

    Args:
        content: Bytes of the file.

    Returns:
        Dictionary from operator name (for a custom one, the name it was given,
        e.g. `"FlexMatrixInverse"`) to its count, in alphabetical order.
    """
    schema = _schema()
    model = schema.Model.GetRootAs(content, 0)
    names = _names(schema.BuiltinOperator)
    counts: dict[str, int] = {}
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            # Old files know the one-byte code only.
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            name = names[number]
            if name == "CUSTOM":
                name = code.CustomCode().decode()
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def _is_incomplete(shape: tuple[int, ...], sparsity: Any) -> bool:
    if sparsity is None:
        return False
    # The metadata of the axes comes first, then that of the blocks.
    return any(
        shape[sparsity.BlockMap(i)]
        % sparsity.DimMetadata(len(shape) + i).DenseSize()
        for i in range(sparsity.BlockMapLength())
    )


def _data(content: bytes, buffer: Any) -> np.ndarray:
    # Files above 2 GB keep their data behind the flatbuffer.
    if buffer.Offset() > 1:
        return np.frombuffer(content, "uint8", buffer.Size(), buffer.Offset())
    if not buffer.DataLength():
        return np.zeros(0, "uint8")
    return buffer.DataAsNumpy()


def _names(enumeration: type) -> dict[int, str]:
    return {
        value: name
        for name, value in vars(enumeration).items()
        if isinstance(value, int)
    }


def _schema() -> Any:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise ImportError(
            "Reading a TFLite file needs LiteRT: "
            "pip install 'keras_swd[tflite]'."
        ) from error
    return schema_py_generated
