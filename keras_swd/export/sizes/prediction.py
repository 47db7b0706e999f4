"""How large one file will be, found by laying out what it will hold."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from keras_swd.export.sizes.encodings import Encoded, bit_mask, sparse, to_int8
from keras_swd.export.sizes.image import NO_SCALES, Tensor, draw
from keras_swd.export.sizes.skeleton import (
    ANY_BATCH_OPERATORS,
    UNNAMED,
    Skeleton,
    StoredKernel,
)
from keras_swd.export.tflite.records import gzip_size
from keras_swd.export.tflite.signature import to_numpy

#: Encodings of a kernel; one that gives `None` leaves it as it is.
ENCODINGS: dict[str, Callable[[np.ndarray], Encoded | None]] = {
    "plain": lambda values: None,
    "sparse": sparse,
    "bit mask": bit_mask,
}
# What is the same in every file: its signature, versions, layouts of tables.
# Then what each kind of operator adds to these. Before and after gzip.
FILE, KIND = 560, 20
GZIP_FILE, GZIP_KIND = 400, 30
# Guesses: what is known when the ranges of tensors are. Of one that comes from
# a ReLU the zero is the lowest of the 256 values.
INPUT_SCALE = np.float32(0.02)
LOWEST = -128
# The scale that the converter gives an empty channel at least.
SMALLEST = 5e-7 / 127


@dataclasses.dataclass
class Layout:
    """What a file holds, piece by piece.

    Args:
        tensors: List of `Tensor`, in the order of the file.
        operators: List of tuples, the kind of each operator and how many
            tensors it takes.
        kernel_bytes: Integer, bytes of the kernels, and of what says where
            their entries belong.
    """

    tensors: list[Tensor]
    operators: list[tuple[str, int]]
    kernel_bytes: int = 0

    def __post_init__(self):
        self._image = draw(self.tensors, [n for _, n in self.operators])
        self._kinds = len({kind for kind, _ in self.operators})

    @property
    def bytes(self) -> int:
        """Bytes of the file."""
        return FILE + KIND * self._kinds + len(self._image)

    @property
    def graph_bytes(self) -> int:
        """Bytes of all that is no kernel."""
        return self.bytes - self.kernel_bytes

    @property
    def gzip_bytes(self) -> int:
        """Bytes of the file after gzip."""
        fixed = GZIP_FILE + GZIP_KIND * self._kinds
        return fixed + gzip_size(self._image)


def lay_out(
    skeleton: Skeleton,
    values: Mapping[int, np.ndarray],
    dtype: str,
    encoding: str,
) -> Layout:
    """Lays out a file.

    Args:
        skeleton: `Skeleton` of a model.
        values: Dictionary from the `id` of a variable to values in place of
            its own.
        dtype: String, `"float32"` or `"int8"`.
        encoding: String, a key of `ENCODINGS`.

    Returns:
        `Layout`.
    """
    operators = list(_other_operators(skeleton, dtype, encoding))
    constants: dict[str, list[Tensor]] = {}
    for variable in {id(v): v for v in skeleton.vectors}.values():
        array, scales = _values(variable, values), NO_SCALES
        if dtype == "int8" and array.ndim > 1:
            array, scales = to_int8(array, -1)
        tensor = Tensor("", array.shape, array.tobytes(), scales=scales)
        constants.setdefault(variable.path, []).append(tensor)
    kernel_bytes = 0
    stored_once: set[tuple[object, ...]] = set()
    zeros: set[bytes] = set()
    for kernel in skeleton.kernels:
        operators.append((kernel.operation, 3))
        # A layer that is called twice is stored once.
        key = (
            id(kernel.variable),
            kernel.factor.tobytes(),
            kernel.bias.tobytes(),
        )
        if key in stored_once:
            continue
        stored_once.add(key)
        array = _values(kernel.variable, values)
        bias, rounded, scales = _rounded(kernel, array, dtype)
        encoded = ENCODINGS[encoding](rounded)
        if dtype == "float32" and encoded is not None and encoded.lost:
            # Such a file is refused, and one written that stores all zeros.
            # Sparse files of int8 are all refused, whatever they lose.
            return lay_out(skeleton, values, dtype, "plain")
        stored = _stored(kernel, rounded, scales, encoded, encoding)
        kernel_bytes += sum(len(s.content) + len(s.places) for s in stored)
        if len(stored) > 1:
            operators.append(("expand", 1))
        # Zeros that stand for a bias are stored once for all that need them;
        # with scales of their own they are other tensors that share them.
        repeated = bias.name == UNNAMED and bias.content in zeros
        if repeated:
            bias = dataclasses.replace(bias, content=b"")
        elif bias.name == UNNAMED:
            zeros.add(bias.content)
        if kernel.bias.size and (bias.scales.size or not repeated):
            stored.append(bias)
        constants.setdefault(kernel.names[1], []).extend(stored)
    computed = _computed(skeleton, dtype, encoding)
    tensors = _in_order(computed, constants, encoding)
    if encoding == "bit mask":
        tensors = _inside_another(tensors, skeleton.scope)
    return Layout(tensors, operators, kernel_bytes)


def _inside_another(tensors: list[Tensor], scope: str) -> list[Tensor]:
    """Names them as in a model for one sample, which holds the user's."""
    names = [t.name.replace(scope, f"functional_1/{scope}") for t in tensors]
    return [
        dataclasses.replace(tensor, name=name)
        for tensor, name in zip(tensors, names, strict=True)
    ]


def _in_order(
    computed: Iterable[Tensor],
    constants: dict[str, list[Tensor]],
    encoding: str,
) -> list[Tensor]:
    """Tensors as they lie in a file: those of the last operator first.

    Only where zeros are left out do constants stand beside what is computed
    with them; elsewhere they follow, those of the first operator first.
    """
    tensors = []
    for tensor in computed:
        tensors.append(tensor)
        if encoding == "sparse":
            tensors += constants.pop(tensor.name, [])
    return tensors + list(itertools.chain.from_iterable(constants.values()))


def _other_operators(
    skeleton: Skeleton, dtype: str, encoding: str
) -> Iterator[tuple[str, int]]:
    """The operators that take no kernel."""
    kinds = list(skeleton.operators)
    if skeleton.any_batch and encoding != "bit mask":
        kinds += ANY_BATCH_OPERATORS
    if dtype == "int8":
        kinds += ["quantize", "dequantize"]
    return ((kind, 2) for kind in kinds)


def _computed(
    skeleton: Skeleton, dtype: str, encoding: str
) -> Iterator[Tensor]:
    """The tensors that are no constants of a kernel, the last one first."""
    # Files for TFLite Micro take one sample, others any number.
    any_batch = encoding != "bit mask"
    shapes = list(skeleton.tensors)
    if dtype == "int8":
        shapes.insert(1, ("tfl.quantize", shapes[0][1]))
        shapes.append(("StatefulPartitionedCall_1:01", shapes[-1][1]))
    random = np.random.default_rng(0)
    for name, shape in reversed(shapes):
        scale = random.uniform(0.001, 0.1, int(dtype == "int8"))
        drawn = random.integers(LOWEST, 0)
        yield Tensor(
            name,
            shape,
            scales=scale.astype("float32"),
            zero_point=LOWEST if "Relu" in name else int(drawn),
            any_batch=any_batch,
        )
    if any_batch:
        yield from (Tensor(name, (1,)) for name in skeleton.any_batch)


def _rounded(
    kernel: StoredKernel, array: np.ndarray, dtype: str
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """A kernel's bias, and its values and scales in the order of a file."""
    bias = kernel.bias.astype("float32")
    values = kernel.in_order(array)
    if dtype == "float32":
        return _bias(kernel, bias, NO_SCALES), values, NO_SCALES
    values, scales = to_int8(values, kernel.axis)
    if not bias.size:
        scales = np.where(scales > 0, scales, np.float32(1.0))
        return _bias(kernel, bias, NO_SCALES), values, scales
    # The scale of an empty channel makes the bias just fit into 31 bits.
    fitting = np.abs(bias) / INPUT_SCALE / 2**30
    scales = np.maximum(scales, np.maximum(fitting, SMALLEST)).astype("float32")
    bias = (bias / (scales * INPUT_SCALE)).astype("int32")
    return _bias(kernel, bias, scales * INPUT_SCALE), values, scales


def _bias(
    kernel: StoredKernel, values: np.ndarray, scales: np.ndarray
) -> Tensor:
    return Tensor(
        kernel.bias_name, values.shape, values.tobytes(), scales=scales
    )


def _stored(
    kernel: StoredKernel,
    values: np.ndarray,
    scales: np.ndarray,
    encoded: Encoded | None,
    encoding: str,
) -> list[Tensor]:
    """The tensors that hold a kernel, and the one that it is expanded to."""
    name, whole = kernel.names
    shape = values.shape
    if encoded is None:
        return [Tensor(name, shape, values.tobytes(), scales=scales)]
    content, places = encoded.content, encoded.places
    if encoding == "bit mask":
        return [
            Tensor("values", (len(content),), content),
            Tensor("mask", (len(places),), places),
            Tensor(name, shape, scales=scales),
        ]
    stored = Tensor(f"{whole}1", shape, content, places, scales)
    if not encoded.expanded:
        return [stored]
    return [Tensor(f"{whole}2", shape, scales=scales), stored]


def _values(variable: Any, given: Mapping[int, np.ndarray]) -> np.ndarray:
    """The values given for a variable by its `id`, or its own."""
    values = given.get(id(variable))
    values = to_numpy(variable) if values is None else values
    return values.astype("float32", copy=False)
