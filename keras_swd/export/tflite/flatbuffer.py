"""What a .tflite file holds: tensors, how they are stored, operators."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16")


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A constant of a file.

    Args:
        name: String.
        shape: Tuple of integers, the shape before anything was left out.
        dtype: String, as NumPy names it, e.g. `"float32"`.
        sparse: Boolean, whether zeros were left out of it.
        zeros: Integer, how many entries stand for zero, in a quantized tensor
            those that equal its zero point. `None` for a tensor that is
            neither float nor quantized.
        incomplete: Boolean, whether entries are missing. It is stored in
            blocks that do not fill an axis; the converter forgets the rest
            of that axis, and LiteRT reads past the end of the data.
        bytes: Integer, what its entries take, and their places if sparse.
        is_zero: Boolean array of the tensor's shape, where these zeros are.
            `None` as for `zeros`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sparse: bool
    zeros: int | None
    incomplete: bool = False
    bytes: int = 0
    is_zero: np.ndarray | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    @property
    def size(self) -> int:
        """Number of entries, with those that were left out."""
        return math.prod(self.shape)

    @property
    def is_weight(self) -> bool:
        """Whether it has two axes or more, and is float or quantized."""
        return self.zeros is not None and len(self.shape) >= 2


@dataclasses.dataclass(frozen=True)
class Node:
    """An operator in the graph of a file.

    Args:
        operator: String, its name, for a custom one the name it was given.
        output: String, the name of its first output.
        dtypes: Tuple of strings, the types of its outputs.
    """

    operator: str
    output: str
    dtypes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operator} {self.output}"


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
            dtype = types[tensor.Type()].lower()
            is_zero = _is_zero(tensor, dtype, data)
            shape = _shape(tensor)
            found.append(
                StoredTensor(
                    name=_text(tensor.Name()),
                    shape=shape,
                    dtype=dtype,
                    sparse=tensor.Sparsity() is not None,
                    bytes=data.size + _bytes_of_places(tensor.Sparsity()),
                    zeros=None if is_zero is None else int(np.sum(is_zero)),
                    incomplete=_is_incomplete(shape, tensor.Sparsity()),
                    is_zero=is_zero,
                )
            )
    return tuple(found)


def nodes(content: bytes) -> tuple[Node, ...]:
    """Reads the operators of a .tflite file.

    Args:
        content: Bytes of the file.

    Returns:
        Tuple of `Node`, those of all subgraphs, in the order they run in.
    """
    schema = _schema()
    model = schema.Model.GetRootAs(content, 0)
    names = _names(schema.BuiltinOperator)
    types = _names(schema.TensorType)
    found = []
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            # Old files know the one-byte code only.
            number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            name = names[number]
            if name == "CUSTOM":
                name = code.CustomCode().decode()
            outputs = [
                graph.Tensors(operator.Outputs(index))
                for index in range(operator.OutputsLength())
            ]
            found.append(
                Node(
                    operator=name,
                    output=_text(outputs[0].Name()) if outputs else "",
                    dtypes=tuple(types[t.Type()].lower() for t in outputs),
                )
            )
    return tuple(found)


def _text(name: bytes | None) -> str:
    """A name, which a file need not have."""
    return (name or b"").decode()


def operator_counts(content: bytes) -> dict[str, int]:
    """Counts the operators of a .tflite file.

    Args:
        content: Bytes of the file.

    Returns:
        Dictionary from operator name (for a custom one, the name it was given,
        e.g. `"FlexMatrixInverse"`) to its count, in alphabetical order.
    """
    counts: dict[str, int] = {}
    for node in nodes(content):
        counts[node.operator] = counts.get(node.operator, 0) + 1
    return dict(sorted(counts.items()))


def _is_zero(tensor: Any, dtype: str, data: np.ndarray) -> np.ndarray | None:
    """Where a constant stands for zero; None if it is no number of a model."""
    quantization = tensor.Quantization()
    scales = quantization.ScaleLength() if quantization else 0
    if dtype not in FLOATS and not (dtype in INTEGERS and scales):
        return None
    shape, sparsity = _shape(tensor), tensor.Sparsity()
    values = data.view(dtype)
    if sparsity is not None:
        values = _expand(values, shape, sparsity)
    values = values.reshape(shape)
    if dtype in FLOATS or not quantization.ZeroPointLength():
        return values == 0
    points = quantization.ZeroPointAsNumpy()
    if len(points) == 1:
        return values == points[0]
    along = [1] * len(shape)
    along[quantization.QuantizedDimension()] = len(points)
    return values == points.reshape(along)


def _expand(
    stored: np.ndarray, shape: tuple[int, ...], sparsity: Any
) -> np.ndarray:
    """Puts the entries of a sparse tensor where they belong, flat.

    Sparse tensors are trees: each level is an axis, or the part of an axis
    inside a block, and has either all its places or a list of them per parent.
    """
    rank = len(shape)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(rank)]
    blocks = [sparsity.BlockMap(i) for i in range(sparsity.BlockMapLength())]
    steps = [*strides, *(strides[axis] for axis in blocks)]
    for position, axis in enumerate(blocks):
        steps[axis] *= sparsity.DimMetadata(rank + position).DenseSize()
    places = np.zeros(1, "int64")
    for level in range(sparsity.DimMetadataLength()):
        metadata = sparsity.DimMetadata(level)
        if metadata.Format() == _schema().DimensionType.DENSE:
            counts: Any = metadata.DenseSize()
            index = np.tile(np.arange(counts), len(places))
        else:
            counts = np.diff(
                _vector(
                    metadata.ArraySegmentsType(), metadata.ArraySegments()
                ).astype("int64")
            )
            index = _vector(
                metadata.ArrayIndicesType(), metadata.ArrayIndices()
            ).astype("int64")
        step = steps[sparsity.TraversalOrder(level)]
        places = np.repeat(places, counts) + index * step
    dense = np.zeros(math.prod(shape), stored.dtype)
    dense[places] = stored
    return dense


def _bytes_of_places(sparsity: Any) -> int:
    """What the lists of places of a sparse tensor take."""
    if sparsity is None:
        return 0
    listed = (
        sparsity.DimMetadata(level)
        for level in range(sparsity.DimMetadataLength())
    )
    return sum(
        _vector(axis.ArraySegmentsType(), axis.ArraySegments()).nbytes
        + _vector(axis.ArrayIndicesType(), axis.ArrayIndices()).nbytes
        for axis in listed
        if axis.Format() != _schema().DimensionType.DENSE
    )


def _vector(kind: int, table: Any) -> np.ndarray:
    """Reads one of the three kinds of index vectors."""
    schema = _schema()
    name = _names(schema.SparseIndexVector)[kind]
    vector = getattr(schema, name)()
    vector.Init(table.Bytes, table.Pos)
    return vector.ValuesAsNumpy()


def _is_incomplete(shape: tuple[int, ...], sparsity: Any) -> bool:
    if sparsity is None:
        return False
    # The metadata of the axes comes first, then that of the blocks.
    return any(
        shape[sparsity.BlockMap(i)]
        % sparsity.DimMetadata(len(shape) + i).DenseSize()
        for i in range(sparsity.BlockMapLength())
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(map(tensor.Shape, range(tensor.ShapeLength())))


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
