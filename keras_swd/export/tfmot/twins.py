"""Build a model again from the layers of the other Keras."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import keras

from keras_swd.export.tflite.records import ExportError, brief
from keras_swd.export.tfmot.operations import equal_operation
from keras_swd.export.tfmot.translations import equal_layer, other


def build_twin(model: Any, target: ModuleType) -> Any:
    """Builds a model's equal in the other Keras, weights included.

    Args:
        model: Built model of Keras 3 or tf_keras, Sequential or functional,
            also nested.
        target: The other one: module `tf_keras` or `keras`.

    Returns:
        Model of `target`.

    Raises:
        ExportError: If a part has no equal.
        ValueError: If the model is subclassed.
    """
    twins = _Twins(target)
    twin = twins.of(model)
    twins.copy_weights()
    return twin


class _Twins:
    """Layers and their equals; one that is used twice has one equal."""

    def __init__(self, target: ModuleType):
        self._target = target
        self._source = other(target)
        self._pairs: dict[int, tuple[Any, Any]] = {}

    def of(self, part: Any) -> Any:
        """The equal of a model, a layer or an operation."""
        if id(part) not in self._pairs:
            self._pairs[id(part)] = (part, self._make(part))
        return self._pairs[id(part)][1]

    def copy_weights(self) -> None:
        models = (self._source.Model, self._target.Model)
        for layer, twin in self._pairs.values():
            if isinstance(layer, models) or not getattr(layer, "weights", ()):
                continue
            values = layer.get_weights()
            shapes = [value.shape for value in values]
            if shapes != [tuple(weight.shape) for weight in twin.weights]:
                raise ExportError(
                    f"Layer {layer.name!r} has weights of shapes {shapes}, its "
                    f"equal of class {type(twin).__name__} in "
                    f"{self._target.__name__} has others: "
                    f"{[tuple(weight.shape) for weight in twin.weights]}."
                )
            twin.set_weights(values)
            finalize(twin)

    def _make(self, part: Any) -> Any:
        if isinstance(part, self._source.Sequential):
            return self._sequential(part)
        if hasattr(part, "_nodes_by_depth"):
            return self._functional(part)
        if isinstance(part, self._source.Model):
            raise ValueError(
                "Argument `model` must be Sequential or functional, and so "
                "must be the models in it: the code of a subclassed model is "
                f"written for one Keras. Received: model={part.name!r} of "
                f"class {type(part).__name__}."
            )
        if isinstance(part, self._source.layers.Layer):
            return equal_layer(part, self._target)
        return equal_operation(part)

    def _sequential(self, model: Any) -> Any:
        twin = self._target.Sequential(name=model.name)
        # The number of samples may come from the first call only.
        twin.add(self._input(model.inputs[0], batch_size=None))
        for layer in model.layers:
            with self._named(layer):
                twin.add(self.of(layer))
        return twin

    def _functional(self, model: Any) -> Any:
        """Calls the equal of each layer on what the layer was called on."""
        tensors = {id(x): self._input(x, x.shape[0]) for x in model.inputs}

        def translated(part: Any) -> Any:
            return tensors.get(id(part), part)

        for node in _needed(model):
            layer, *arguments = _called(node)
            outputs = self._call(
                layer, *keras.tree.map_structure(translated, arguments)
            )
            tensors.update(_paired(node.outputs, outputs))
        return self._target.Model(
            keras.tree.map_structure(translated, model.input),
            keras.tree.map_structure(translated, model.output),
            name=model.name,
        )

    def _call(self, layer: Any, args: Any, kwargs: Any) -> Any:
        with self._named(layer):
            return self.of(layer)(*args, **kwargs)

    @contextlib.contextmanager
    def _named(self, layer: Any) -> Iterator[None]:
        """Tells of which layer the equal cannot be called."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise ExportError(
                f"The equal of layer {layer.name!r} in {self._target.__name__} "
                f"cannot be called as it is: {brief(error)}"
            ) from error

    def _input(self, tensor: Any, batch_size: int | None) -> Any:
        """The symbolic input that is as `tensor`."""
        return self._target.Input(
            tuple(tensor.shape[1:]),
            batch_size=batch_size,
            dtype=keras.backend.standardize_dtype(tensor.dtype),
            name=tensor._keras_history[0].name,
        )


def _needed(model: Any) -> list[Any]:
    """The nodes of a graph in the order of calls, but those of masks alone."""
    found: list[Any] = []
    needed = {id(tensor) for tensor in keras.tree.flatten(model.output)}
    # Nodes are private in both, and the same ever since Keras has graphs.
    for depth in sorted(model._nodes_by_depth):
        nodes = [
            node
            for node in model._nodes_by_depth[depth]
            if not node.is_input
            and any(id(x) in needed for x in keras.tree.flatten(node.outputs))
        ]
        for node in nodes:
            _, *arguments = _called(node)
            needed.update(map(id, keras.tree.flatten(arguments)))
        found = nodes + found
    return found


def _called(node: Any) -> tuple[Any, Any, Any]:
    """The layer of a node, and the arguments it was called with.

    Without a mask that Keras 3 has handed on: tf_keras does that by itself.
    """
    if not hasattr(node, "operation"):
        return node.layer, node.call_args, node.call_kwargs
    args, kwargs = node.arguments.args, dict(node.arguments.kwargs)
    known = [getattr(x, "_keras_mask", None) for x in keras.tree.flatten(args)]
    masks = keras.tree.flatten(kwargs.get("mask"))
    if all(any(mask is other for other in known) for mask in masks):
        kwargs.pop("mask", None)
    return node.operation, args, kwargs


def _paired(outputs: Any, twins: Any) -> dict[int, Any]:
    return {
        id(output): twin
        for output, twin in zip(
            keras.tree.flatten(outputs), keras.tree.flatten(twins), strict=True
        )
    }


def finalize(layer: Any) -> None:
    """Lets a `Normalization` compute with the weights that it has now.

    Args:
        layer: A layer of Keras 3 or tf_keras, of any class.
    """
    if type(layer).__name__ == "Normalization":
        # It computes with constants made from its weights.
        layer.finalize_state()
