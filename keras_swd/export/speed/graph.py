"""Which layer of a model takes what which other layer made."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, TypeVar

import keras

from keras_swd.coupling.graph import entering, graph_of, interpret
from keras_swd.coupling.rules import PASSING
from keras_swd.coupling.weights import kind_of


@dataclasses.dataclass(frozen=True)
class Step:
    """One call of a layer.

    Args:
        path: String, the names of the models around the layer and its own.
        layer: `keras.Operation`, a layer or a function such as `ops.add`.
        inputs: Tuple, for each tensor that it takes the index of the step
            that makes it, or `None` for an input of the model.
        shapes: Tuple of tuples, the shapes of these tensors.
    """

    path: str
    layer: Any
    inputs: tuple[int | None, ...]
    shapes: tuple[tuple[int | None, ...], ...]


AnyStep = TypeVar("AnyStep", bound=Step)


@dataclasses.dataclass(frozen=True)
class Graph(Generic[AnyStep]):
    """The steps of a model in an order in which they can run.

    Args:
        steps: Tuple of `Step`.
        outputs: Frozen set of integers: steps whose result the model returns.
    """

    steps: tuple[AnyStep, ...]
    outputs: frozenset[int]

    def consumers(self, index: int) -> list[int]:
        """The steps that take what step `index` makes."""
        return [i for i, s in enumerate(self.steps) if index in s.inputs]

    def only_consumer(self, index: int) -> int | None:
        """The step that alone takes it; None if others, or nobody, do."""
        consumers = self.consumers(index)
        alone = len(consumers) == 1 and index not in self.outputs
        return consumers[0] if alone else None


def is_normalization(layer: Any) -> bool:
    """Whether a layer normalizes channels, and so can become part of a kernel.

    Over another axis than the last it stays an operator of its own.
    """
    if type(layer) is not keras.layers.BatchNormalization:
        return False
    rank = layer.input_spec.ndim
    return layer.axis % rank == rank - 1


def follow(model: keras.Model) -> Graph[Step] | None:
    """Reads the graph of a model, nested models opened.

    Layers that only act in training are left out.

    Args:
        model: Built Keras model.

    Returns:
        `Graph`, or `None` where a model's own code says what is called.

    Example:

    >>> inner = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    >>> inputs = keras.Input((4,))
    >>> outputs = inner(keras.layers.Dropout(0.5)(inputs))
    >>> graph = follow(keras.Model(inputs, outputs))
    >>> [type(step.layer).__name__ for step in graph.steps]
    ['ReLU']
    """
    function = graph_of(model)
    if function is None:
        return None
    steps: list[Step] = []
    outputs = _run(function, "", [None] * len(function.inputs), steps)
    return Graph(tuple(steps), frozenset(i for i in outputs if i is not None))


def _run(
    function: keras.Function,
    trail: str,
    given: list[int | None],
    steps: list[Step],
) -> list[int | None]:
    """Adds a function's steps; returns which of them make its outputs."""

    def call(node: Any, makers: dict[int, int | None]) -> list[int | None]:
        path = f"{trail}/{node.operation.name}".strip("/")
        nested = graph_of(node.operation)
        if nested is not None:
            entered = [makers[id(t)] for t in entering(node, nested)]
            return _run(nested, path, entered, steps)
        inputs = [makers[id(tensor)] for tensor in node.input_tensors]
        return _call(node, path, inputs, steps)

    return interpret(function, given, lambda layer, maker: maker, call)


def _call(
    node: Any, path: str, inputs: list[int | None], steps: list[Step]
) -> list[int | None]:
    layer = node.operation
    if kind_of(layer) in PASSING:
        return inputs[:1]
    shapes = tuple(tuple(tensor.shape) for tensor in node.input_tensors)
    steps.append(Step(path, layer, tuple(inputs), shapes))
    return [len(steps) - 1] * len(node.output_tensors)
