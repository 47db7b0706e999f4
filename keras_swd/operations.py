"""How many multiplications a model's kernels take part in."""

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


def kernel_positions(model: keras.Model) -> dict[int, int]:
    """Returns at how many positions each kernel is applied, for one sample.

    A kernel of `n` entries takes part in `n` times as many multiplications,
    each with an addition. Counted are the kernels of Dense layers and of
    convolutions of all kinds; a layer that is used twice counts twice.

    Args:
        model: A built `keras.Model`, Sequential or functional.

    Returns:
        Dictionary from the `id` of a variable to an integer.

    Raises:
        ValueError: If the model has no graph that can be read, or the size of
            an input is free.

    Example:

    >>> layer = keras.layers.Conv2D(5, 3, padding="same")
    >>> model = keras.Sequential([keras.Input((8, 8, 2)), layer])
    >>> kernel_positions(model)[id(layer.kernel)]
    64
    """
    check_model(model)
    positions: dict[int, int] = {}
    _count(graph_of(model), positions)
    return positions


def _count(function: Any, positions: dict[int, int]) -> None:
    def call(node: Any, _) -> list[None]:
        inner = graph_of(node.operation)
        if inner is not None:
            _count(inner, positions)
        for kernel in _kernels(node.operation):
            already = positions.get(id(kernel), 0)
            positions[id(kernel)] = already + _positions(node)
        return [None] * len(node.output_tensors)

    given = [None] * len(function.inputs)
    interpret(function, given, lambda layer, value: value, call)


def _kernels(layer: Any) -> list[keras.Variable]:
    """The kernels of a layer whose multiplications are counted."""
    if isinstance(layer, SEPARABLE):
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    if isinstance(layer, (*DENSE, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE)):
        return [layer.kernel]
    return []


def _positions(node: Any) -> int:
    """The product of the sizes of a tensor but for samples and channels."""
    layer = node.operation
    spreads = isinstance(layer, TRANSPOSED)  # from each place of its input
    tensors = node.input_tensors if spreads else node.output_tensors
    sizes = list(tensors[0].shape)
    first = getattr(layer, "data_format", None) == "channels_first"
    del sizes[1 if first else -1], sizes[0]
    if None in sizes:
        raise ValueError(
            "Operations can be counted where the size of the inputs is fixed. "
            f"Layer {layer.name!r} works on shape {tuple(tensors[0].shape)}. "
            "Build the model with a fixed `keras.Input`."
        )
    return math.prod(sizes)
