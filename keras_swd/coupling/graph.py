"""Running a model's graph on values of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras

from keras_swd.models import check_built

Value = TypeVar("Value")


def graph_of(layer: Any) -> Any:
    """Returns the graph that a layer consists of.

    Args:
        layer: Keras operation, e.g. a layer or a model.

    Returns:
        `keras.Function`, or `None` if the layer is no model, or a model whose
        own code says what is called.
    """
    if isinstance(layer, keras.Sequential):
        if type(layer).call is not keras.Sequential.call:
            return None
        # None where the layers could not be called one after another.
        layer = layer._functional
    if not isinstance(layer, keras.Function):
        return None
    # A subclass may call its layers in a way of its own.
    return layer if type(layer).call.__module__.startswith("keras.") else None


def check_model(model: keras.Model) -> None:
    """Raises a `ValueError` if a model has no graph that can be read."""
    check_built(model)
    if graph_of(model) is None:
        raise ValueError(
            "Argument `model` must be Sequential or functional: the graph of "
            f"{model.name!r} is hidden in the code of its class. Build it as "
            "`keras.Model(inputs, outputs)`; layers and models within may be "
            f"of any class. Received: model={model!r}."
        )


def entering(node: Any, function: Any) -> list[Any]:
    """Returns the tensors that a call gives to the inputs of a model within.

    A call may give other tensors too, such as masks.

    Args:
        node: Keras node, the call.
        function: `keras.Function`, the graph of the model that is called.

    Returns:
        List of symbolic tensors, one per input of `function`, in order.
    """
    arguments = node.arguments
    given = arguments.args[0] if arguments.args else arguments.kwargs["inputs"]
    structure = function._inputs_struct
    if isinstance(given, dict):
        if isinstance(structure, dict):
            given = {name: given[name] for name in structure}
        else:
            given = [given[tensor.name] for tensor in function.inputs]
    return keras.tree.flatten(given)


def interpret(
    function: Any,
    given: Sequence[Value],
    enter: Callable[[Any, Value], Value],
    call: Callable[[Any, dict[int, Value]], Sequence[Value]],
) -> list[Value]:
    """Runs a graph on values of any kind, in the order of Keras itself.

    Args:
        function: `keras.Function`.
        given: Sequence of values, one per input.
        enter: Function of an input layer and the value given to it; what it
            returns is what the graph goes on with.
        call: Function of a node and the values of its tensors, a dictionary
            by `id`. Returns the values of the node's outputs.

    Returns:
        List of values, one per output.
    """
    values = dict(zip(map(id, function.inputs), given, strict=True))
    by_depth = function._nodes_by_depth
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if node.is_input:
                (tensor,) = node.output_tensors
                made = [enter(node.operation, values[id(tensor)])]
            else:
                made = list(call(node, values))
            values |= zip(map(id, node.output_tensors), made, strict=True)
    return [values[id(tensor)] for tensor in function.outputs]
