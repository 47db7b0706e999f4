"""Following channels through a model, from its inputs to its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_swd.coupling.channels import Channels, Ledger, NotFollowed
from keras_swd.coupling.graph import (
    check_model,
    entering,
    graph_of,
    interpret,
)
from keras_swd.coupling.mixing import Mixer
from keras_swd.coupling.rules import rule_for
from keras_swd.coupling.uses import Use
from keras_swd.coupling.weights import OUT, weight_axes


@dataclasses.dataclass(frozen=True)
class Followed:
    """The channels of a whole model.

    Args:
        ledger: `Ledger`, which channels there are, and where.
        mixers: Tuple of `Mixer`, in the order in which they run.
        classes: Integer array, for each number of the ledger its class, from
            0 on. Channels of a class are cut together.
    """

    ledger: Ledger
    mixers: tuple[Mixer, ...]
    classes: np.ndarray

    @property
    def size(self) -> int:
        """Number of classes."""
        return int(self.classes.max(initial=-1)) + 1

    def places(self) -> Iterator[tuple[Any, keras.Variable, int, np.ndarray]]:
        """Yields each axis of each weight that counts channels.

        Yields:
            A layer, one of its weights, an axis of it, counted from 0, and the
            class of the channel at each place of that axis.
        """
        for layer, sites in self.ledger.sites.items():
            first = next(iter(sites.values())).axis
            for variable in getattr(layer, "weights", ()):
                axes = weight_axes(layer, variable.name, first)
                for axis, site in axes.items():
                    if site in sites:
                        classes = self.classes[sites[site].ids]
                        rank = len(variable.shape)
                        yield layer, variable, axis % rank, classes

    def pinned(self) -> dict[int, str]:
        """The classes that must stay, each with the last reason given."""
        reasons: dict[int, str] = {}
        for ids, reason in self.ledger.pins:
            reasons |= dict.fromkeys(self.classes[ids].tolist(), reason)
        return reasons

    def whole(self) -> dict[int, str]:
        """Returns why weights keep all their channels, by `id`."""
        reasons = {
            id(variable): reason
            for operation, reason in self.ledger.whole.items()
            for variable in getattr(operation, "weights", ())
        }
        pinned = self.pinned()
        found: dict[int, list[int]] = {}
        for _, variable, _, classes in self.places():
            found.setdefault(id(variable), []).extend(classes.tolist())
        for key, numbers in found.items():
            told = dict.fromkeys(pinned.get(n, "") for n in numbers)
            reasons[key] = "" if "" in told else ", ".join(told)
        return {key: reason for key, reason in reasons.items() if reason}


def follow(model: keras.Model) -> Followed:
    """Follows the channels of a model, through nested models too.

    Args:
        model: Built Keras model, Sequential or functional.

    Returns:
        `Followed`.

    Raises:
        ValueError: If the model has no graph that can be read.
    """
    check_model(model)
    ledger, mixers = Ledger(), dict[Any, Mixer]()
    function = graph_of(model)
    given = [_unknown(ledger, tensor) for tensor in function.inputs]
    made = _run(function, "", given, ledger, mixers)
    for operation, reason in ledger.whole.items():
        # Where it is used twice, the other use may have been followed.
        for channels in ledger.sites.get(operation, {}).values():
            ledger.pin(channels.ids, reason)
    for channels in given:
        ledger.pin(channels.ids, "input of the model")
    for channels in made:
        ledger.pin(channels.ids, "output of the model")
    return Followed(ledger, tuple(mixers.values()), ledger.settle())


def _unknown(ledger: Ledger, tensor: Any) -> Channels:
    """New channels for a tensor, on its last axis."""
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        return ledger.fresh(1, None)
    return ledger.fresh(len(shape) - 1, shape[-1])


def _run(
    function: Any,
    trail: str,
    given: list[Channels],
    ledger: Ledger,
    mixers: dict[Any, Mixer],
) -> list[Channels]:
    def enter(layer: Any, channels: Channels) -> Channels:
        ledger.site(layer, OUT, channels)
        return channels

    def call(node: Any, values: dict[int, Channels]) -> list[Channels]:
        path = f"{trail}/{node.operation.name}".strip("/")
        ledger.paths.setdefault(node.operation, path)
        inner = graph_of(node.operation)
        if inner is not None:
            given = [values[id(tensor)] for tensor in entering(node, inner)]
            return _run(inner, path, given, ledger, mixers)
        inputs = tuple(values[id(tensor)] for tensor in node.input_tensors)
        made = _use(Use(path, node, inputs, mixers), ledger)
        ledger.tensors += [channels.ids for channels in made]
        return made

    return interpret(function, given, enter, call)


def _use(use: Use, ledger: Ledger) -> list[Channels]:
    """Applies the operation's rule, or makes all channels stay."""
    try:
        return [rule_for(use.operation)(use, ledger)]
    except NotFollowed as obstacle:
        kind = type(use.operation).__name__
        reason = f"`{use.path}` ({kind}) {obstacle}"
    ledger.whole[use.operation] = reason
    for given in use.inputs:
        ledger.pin(given.ids, reason)
    made = [_unknown(ledger, t) for t in use.node.output_tensors]
    for channels in made:
        ledger.pin(channels.ids, reason)
    return made
