"""Building a model again from layers with fewer channels."""

from __future__ import annotations

from typing import Any

import keras

from keras_swd.coupling.graph import graph_of, interpret
from keras_swd.rebuilding.again import cannot_build, copy_state, copying
from keras_swd.rebuilding.stripping import detach, without_pruning
from keras_swd.shrinking.cutting import Cut


def build(model: keras.Model, cut: Cut) -> keras.Model:
    """Builds a model again without the channels that are cut.

    Args:
        model: Built Keras model, Sequential or functional.
        cut: `Cut`, the layers' configurations and weights.

    Returns:
        A new `keras.Model` with layers of its own, also within.

    Raises:
        ValueError: If a layer cannot be built from its configuration.
    """
    twins: dict[Any, Any] = {}
    with copying(model):
        twin = _twin(model, cut, twins)
    for operation, copy in twins.items():
        if isinstance(operation, keras.layers.Layer) and copy is not operation:
            _copy_state(operation, copy, cut)
    detach(twin)
    return twin


def _twin(operation: Any, cut: Cut, twins: dict[Any, Any]) -> Any:
    """Returns what stands for an operation in the new model."""
    if operation not in twins:
        function = graph_of(operation)
        if isinstance(operation, keras.Sequential) and function is not None:
            twins[operation] = _sequential(operation, function, cut, twins)
        elif function is not None:
            twins[operation] = _functional(operation, function, cut, twins)
        elif isinstance(operation, keras.layers.Lambda):
            # It has no state, and its function may have no configuration.
            twins[operation] = operation
        else:
            twins[operation] = _alone(operation, cut)
    return twins[operation]


def _alone(operation: Any, cut: Cut) -> Any:
    try:
        config = without_pruning(cut.config(operation))
        return type(operation).from_config(config)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise cannot_build(operation, error) from error


def _sequential(
    model: keras.Sequential, function: Any, cut: Cut, twins: dict[Any, Any]
) -> keras.Sequential:
    inputs = [tensor._keras_history.operation for tensor in function.inputs]
    parts = [_twin(layer, cut, twins) for layer in (*inputs, *model.layers)]
    return _of_class(model, keras.Sequential, layers=parts)


def _functional(
    model: keras.Model, function: Any, cut: Cut, twins: dict[Any, Any]
) -> keras.Model:
    entered = {}

    def enter(layer: Any, tensor: Any) -> Any:
        entered[id(tensor)] = _twin(layer, cut, twins).output
        return entered[id(tensor)]

    def call(node: Any, tensors: dict[int, Any]) -> list[Any]:
        args, kwargs = node.arguments.fill_in(tensors)
        made = _twin(node.operation, cut, twins)(*args, **kwargs)
        return keras.tree.flatten(made)

    outputs = interpret(function, function.inputs, enter, call)
    inputs = [entered[id(tensor)] for tensor in function.inputs]
    return _of_class(
        model,
        keras.Model,
        inputs=keras.tree.pack_sequence_as(function.input, inputs),
        outputs=keras.tree.pack_sequence_as(function.output, outputs),
    )


def _of_class(model: keras.Model, plain: type, **arguments: Any) -> Any:
    """A model of the same class, unless that has a constructor of its own.

    What such a constructor does with inputs and outputs is not known.
    """
    cls = type(model)
    keras_own = cls.__init__.__module__.startswith("keras.")
    return (cls if keras_own else plain)(**arguments, name=model.name)


def _copy_state(layer: Any, copy: Any, cut: Cut) -> None:
    if graph_of(layer) is not None:
        return
    if not cut.touches(layer):
        copy_state(layer, copy)
        return
    copy.set_weights(cut.weights(layer))
