"""How often a model's kernels are applied, and what they give."""

import dataclasses
import math
from typing import Any

import keras

from keras_swd.coupling.graph import check_model, graph_of, interpret
from keras_swd.coupling.weights import (
    CONVOLUTIONS,
    DENSE,
    DEPTHWISE,
    SEPARABLE,
    TRANSPOSED,
)


@dataclasses.dataclass(frozen=True)
class KernelUse:
    """What is done with a kernel, for one sample.

    A kernel of `n` entries takes part in `n * positions` multiplications, each
    with an addition.

    Args:
        positions: Integer, at how many positions it is applied.
        outputs: Integer, how many numbers its layer gives.
    """

    positions: int
    outputs: int


def kernel_uses(model: keras.Model) -> dict[int, KernelUse]:
    """Returns how each kernel is used, for one sample.

    Counted are the kernels of Dense layers and of convolutions of all kinds; a
    layer that is used twice counts twice.

    Args:
        model: A built `keras.Model`, Sequential or functional.

    Returns:
        Dictionary from the `id` of a variable to its `KernelUse`.

    Raises:
        ValueError: If the model has no graph that can be read, or the size of
            an input is free.

    Example:

    >>> layer = keras.layers.Conv2D(5, 3, padding="same")
    >>> model = keras.Sequential([keras.Input((8, 8, 2)), layer])
    >>> kernel_uses(model)[id(layer.kernel)]
    KernelUse(positions=64, outputs=320)
    """
    check_model(model)
    uses: dict[int, KernelUse] = {}
    _collect(graph_of(model), uses)
    return uses


def _collect(function: Any, uses: dict[int, KernelUse]) -> None:
    def call(node: Any, _) -> list[None]:
        inner = graph_of(node.operation)
        if inner is not None:
            _collect(inner, uses)
        for kernel in _kernels(node.operation):
            before = uses.get(id(kernel), KernelUse(0, 0))
            uses[id(kernel)] = KernelUse(
                before.positions + _positions(node),
                before.outputs + math.prod(node.output_tensors[0].shape[1:]),
            )
        return [None] * len(node.output_tensors)

    given = [None] * len(function.inputs)
    interpret(function, given, lambda layer, value: value, call)


def _kernels(layer: Any) -> list[keras.Variable]:
    """The kernels of a layer whose multiplications are counted."""
    kernels = []
    if isinstance(layer, SEPARABLE):
        kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
    elif isinstance(layer, (*DENSE, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE)):
        kernels = [layer.kernel]
    # A quantized layer, or one with LoRA, computes its kernel from others.
    return [k for k in kernels if isinstance(k, keras.Variable)]


def _positions(node: Any) -> int:
    """The product of the sizes of a tensor but for samples and channels."""
    layer = node.operation
    spreads = isinstance(layer, TRANSPOSED)  # from each place of its input
    tensors = node.input_tensors if spreads else node.output_tensors
    sizes = list(tensors[0].shape)[1:]
    if None in sizes:
        raise ValueError(
            "Operations can be counted where the size of the inputs is fixed. "
            f"Layer {layer.name!r} works on shape {tuple(tensors[0].shape)}. "
            "Build the model with a fixed `keras.Input`."
        )
    del sizes[
        0 if getattr(layer, "data_format", "") == "channels_first" else -1
    ]
    return math.prod(sizes)
