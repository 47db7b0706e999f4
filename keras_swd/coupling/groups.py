"""Which channels must be cut together, as a record and a table."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import keras
import numpy as np

from keras_swd.coupling.following import Followed, follow
from keras_swd.coupling.liveness import Liveness, find_live
from keras_swd.record import WIDTH, Record, open_table, plain_lines


@dataclasses.dataclass(frozen=True)
class Member:
    """The axis of a weight on which the channels of a group lie.

    Args:
        layer: String, the path of the layer in its model.
        weight: String, the name of the weight, e.g. `"kernel"`.
        axis: Integer, the axis of the weight.
        rank: Integer, how many axes the weight has.
        indices: Integer array of shape `(channels, times)`: the places of each
            channel on the axis; several for a Dense layer after Flatten.
    """

    layer: str
    weight: str
    axis: int
    rank: int
    indices: np.ndarray = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that lie on the same axes of the same weights.

    Each of them can be cut, but only from all of these axes at once.

    Args:
        members: Tuple of `Member`.
        size: Integer, number of channels.
        dead: Integer, how many of them `shrink` cuts: whatever the model is
            given, they add nothing, or a constant, to its outputs.
        kept: Dictionary from reasons why a channel has to stay, besides what
            it adds to the outputs, to the number of channels.
    """

    members: tuple[Member, ...]
    size: int
    dead: int
    kept: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """The group as a dictionary, without `indices`."""
        return {
            "members": [
                {"layer": m.layer, "weight": m.weight, "axis": m.axis}
                for m in self.members
            ],
            "size": self.size,
            "dead": self.dead,
            "kept": self.kept,
        }

    def described(self) -> str:
        """The layers as text, each with the axis of its largest weight."""
        ranks: dict[str, int] = collections.defaultdict(int)
        for member in self.members:
            ranks[member.layer] = max(ranks[member.layer], member.rank)
        places = (
            f"{member.layer}[{member.axis}]"
            for member in self.members
            if member.rank == ranks[member.layer]
        )
        return ", ".join(dict.fromkeys(places))


@dataclasses.dataclass(frozen=True)
class Coupling(Record):
    """Which channels of a model must be cut together. Printed, a table.

    The table shows the axes of kernels alone; biases go with them.

    Args:
        name: String, the model's name.
        groups: Tuple of `ChannelGroup`, in the order of the layers.
    """

    name: str
    groups: tuple[ChannelGroup, ...]

    def to_dict(self) -> dict[str, Any]:
        """The coupling as a dictionary of plain Python values."""
        groups = [group.to_dict() for group in self.groups]
        return {"name": self.name, "groups": groups}

    def table(self, width: int = WIDTH) -> str:
        """Returns the groups as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        from rich.text import Text

        table = open_table(f"Channels of {self.name!r} that go together")
        table.add_column("layers and axes of their kernels", ratio=5)
        table.add_column("channels", justify="right")
        table.add_column("dead", justify="right")
        table.add_column("stay because", ratio=4)
        for group in self.groups:
            reasons = (f"{n}: {reason}" for reason, n in group.kept.items())
            table.add_row(
                Text(group.described()),
                str(group.size),
                str(group.dead),
                Text("\n".join(reasons)),
                end_section=True,
            )
        return "\n".join(plain_lines(table, width)).strip("\n")


def find_coupling(model: keras.Model) -> Coupling:
    """Tells which channels of which layers must be cut together.

    Channels are followed from layer to layer: a filter of a convolution is the
    same channel in the normalization behind it, in all that is added to it,
    and among the inputs of each layer that takes it; a depthwise convolution
    takes and makes the same channel. Channels that meet a layer that is not
    followed stay, and so do those of the model's inputs and outputs. Of a
    convolution in groups, only the filters are listed: the input axis of its
    kernel counts the channels of one group.

    Nothing is said of what a channel is worth, except whether it is dead:
    the zeros in the model's weights make it useless.

    Args:
        model: Built `keras.Model`, Sequential or functional. Models within are
            opened.

    Returns:
        `Coupling`; printed, it is a table.

    Raises:
        ValueError: If the model is not built, or subclassed.

    Example:

    >>> model = keras.Sequential([keras.Input((8, 8, 3))])
    >>> model.add(keras.layers.Conv2D(4, 3, name="conv"))
    >>> model.add(keras.layers.Flatten())
    >>> model.add(keras.layers.Dense(10, name="dense"))
    >>> group = find_coupling(model).groups[1]
    >>> group.size, [(m.layer, m.weight, m.axis) for m in group.members]
    (4, [('conv', 'kernel', 3), ('conv', 'bias', 0), ('dense', 'kernel', 0)])
    """
    followed = follow(model)
    return describe(model.name, followed, find_live(followed))


def describe(name: str, followed: Followed, live: Liveness) -> Coupling:
    """Groups the classes of a model's channels by where they occur."""
    places = list(followed.places())
    groups: dict[int, list[Member]] = collections.defaultdict(list)
    labels = _labels(followed.size, [classes for *_, classes in places])
    for layer, variable, axis, classes in places:
        path, rank = followed.ledger.paths[layer], len(variable.shape)
        for label in np.unique(labels[classes]).tolist():
            (at,) = np.nonzero(labels[classes] == label)
            # Places of one channel next to each other, channels in order.
            at = at[np.argsort(classes[at], kind="stable")]
            times = at.size // np.unique(classes[at]).size
            indices = at.reshape(-1, times)
            groups[label].append(
                Member(path, variable.name, axis, rank, indices)
            )
    return Coupling(
        name,
        tuple(
            _group(members, np.flatnonzero(labels == label), live)
            for label, members in groups.items()
        ),
    )


def _group(
    members: list[Member], classes: np.ndarray, live: Liveness
) -> ChannelGroup:
    reasons = [live.reasons.get(number) for number in classes.tolist()]
    kept = collections.Counter(r for r in reasons if r is not None)
    dead = int(np.count_nonzero(~live.kept[classes]))
    return ChannelGroup(tuple(members), classes.size, dead, dict(kept))


def _labels(size: int, places: list[np.ndarray]) -> np.ndarray:
    """Labels alike the classes that occur equally often at all places."""
    labels = np.zeros(size, int)
    last = 0
    for classes in places:
        present, times = np.unique(classes, return_counts=True)
        pairs = np.stack([labels[present], times], axis=1)
        _, new = np.unique(pairs, axis=0, return_inverse=True)
        labels[present] = last + 1 + new.ravel()
        last = int(labels[present].max())
    return labels
