"""How often a model's kernels are applied, and what they give."""

import dataclasses
import math
from typing import Any

import keras

from keras_swd.coupling.graph import (
    check_model,
    entering,
    graph_of,
    interpret,
)
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
        outputs: Integer, how many numbers its layer gives; 0 for the first of
            two kernels of a layer.
    """

    positions: int
    outputs: int


def kernel_uses(model: keras.Model) -> dict[int, KernelUse]:
    """Returns how each kernel is used, for one sample.

    Counted are the kernels of Dense layers and of convolutions of all kinds; a
    layer that is used twice counts twice. A model within counts at the size
    that it is given, whatever size its own inputs leave open.

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
    function = graph_of(model)
    _collect(function, function.inputs, uses)
    return uses


def _collect(
    function: Any, given: list[Any], uses: dict[int, KernelUse]
) -> list[Any]:
    """Adds the uses in a graph; returns its outputs for these inputs.

    Both are symbolic tensors, of which the shapes count.
    """

    def enter(layer: Any, tensor: Any) -> Any:
        own = layer.output.shape
        sizes = [
            mine if its is None else its
            for its, mine in zip(tensor.shape, own, strict=True)
        ]
        return keras.KerasTensor(sizes, tensor.dtype)

    def call(node: Any, tensors: dict[int, Any]) -> list[Any]:
        layer = node.operation
        inner = graph_of(layer)
        if inner is not None:
            given = [tensors[id(tensor)] for tensor in entering(node, inner)]
            return _collect(inner, given, uses)
        taken = [tensors[id(tensor)] for tensor in node.input_tensors]
        made = _made(node, tensors)
        kernels = _kernels(layer)
        for kernel in kernels:
            before = uses.get(id(kernel), KernelUse(0, 0))
            positions = _positions(layer, taken[0], made[0])
            # What lies between the two of a separable convolution is not
            # counted.
            last = kernel is kernels[-1]
            outputs = math.prod(made[0].shape[1:]) if last else 0
            uses[id(kernel)] = KernelUse(
                before.positions + positions, before.outputs + outputs
            )
        return made

    return interpret(function, given, enter, call)


def _made(node: Any, tensors: dict[int, Any]) -> list[Any]:
    """What a node makes of these tensors."""
    known = node.input_tensors
    if all(tensors[id(tensor)].shape == tensor.shape for tensor in known):
        return node.output_tensors
    args, kwargs = node.arguments.fill_in(tensors)
    return keras.tree.flatten(
        node.operation.compute_output_spec(*args, **kwargs)
    )


def _kernels(layer: Any) -> list[keras.Variable]:
    """The kernels of a layer whose multiplications are counted."""
    kernels = []
    if isinstance(layer, SEPARABLE):
        kernels = [layer.depthwise_kernel, layer.pointwise_kernel]
    elif isinstance(layer, (*DENSE, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE)):
        kernels = [layer.kernel]
    # A quantized layer, or one with LoRA, computes its kernel from others.
    return [k for k in kernels if isinstance(k, keras.Variable)]


def _positions(layer: Any, taken: Any, made: Any) -> int:
    """The product of the sizes of a tensor but for samples and channels."""
    # A transposed convolution spreads from each place of its input.
    tensor = taken if isinstance(layer, TRANSPOSED) else made
    sizes = list(tensor.shape)[1:]
    if None in sizes:
        raise ValueError(
            "Operations can be counted where the size of the inputs is fixed. "
            f"Layer {layer.name!r} works on shape {tuple(tensor.shape)}. "
            "Build the model with a fixed `keras.Input`."
        )
    del sizes[
        0 if getattr(layer, "data_format", "") == "channels_first" else -1
    ]
    return math.prod(sizes)
