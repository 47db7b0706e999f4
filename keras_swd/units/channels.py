"""Coupled channels as units: which there are, what each is worth."""

import collections
import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.backend.host import read
from keras_swd.coupling.following import Followed, follow
from keras_swd.coupling.liveness import filled
from keras_swd.regularizers.base import (
    PruningRegularizer,
    pruning_regularizer,
)
from keras_swd.regularizers.selectors import AlongAxes
from keras_swd.units.kernels import Choice, Kernel
from keras_swd.units.masking import Weight

#: The unit of what is not cut.
NONE = -1


@dataclasses.dataclass(frozen=True)
class Place:
    """An axis of a weight that counts channels.

    Args:
        variable: The `keras.Variable`.
        axis: Integer, one of its axes, from 0.
        units: Integer array, the unit at each index of the axis, or -1.
    """

    variable: keras.Variable
    axis: int
    units: np.ndarray


@dataclasses.dataclass(frozen=True)
class ChannelSet:
    """Channels that lie on the same axes of the same weights.

    Args:
        path: String, the path of the first of these weights.
        regularizer: A `PruningRegularizer` with their granularity and target.
        first: Integer, the first unit of the set.
        size: Integer, the number of units, which follow one another.
        scored: Tuple of `Place`, the weights that say what a unit is worth.
    """

    path: str
    regularizer: PruningRegularizer
    first: int
    size: int
    scored: tuple[Place, ...] = dataclasses.field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(units,)`."""
        return (self.size,)

    def check(self) -> None:
        """Every channel can be cut."""

    def unit_scores(self) -> np.ndarray:
        """Returns the mean score of each channel's entries, `(units,)`."""
        total, count = np.zeros(self.size), np.zeros(self.size)
        for place in self.scored:
            scores = self.regularizer.scores(read(place.variable))
            others = tuple(a for a in range(scores.ndim) if a != place.axis)
            units = place.units - self.first
            own = (units >= 0) & (units < self.size)
            entries = scores.size // scores.shape[place.axis]
            sums = scores.sum(axis=others, dtype="float64")
            np.add.at(total, units[own], sums[own])
            np.add.at(count, units[own], entries)
        return total / count

    def choose(self, count: int) -> Choice:
        """Returns the `count` lowest units as a choice."""
        return Choice.of_lowest(self.unit_scores(), count)


@dataclasses.dataclass(frozen=True)
class ChannelWeight(Weight):
    """A weight that is removed with coupled channels.

    Args:
        variable: The `keras.Variable`.
        regularizer: The `PruningRegularizer` that it carries, or that its scale
            carries if it shifts channels and has none.
        places: Tuple of `Place`, its axes that count channels.
        sets: List of the `ChannelSet` of the model, and where they start among
            all sets of units.
    """

    variable: keras.Variable
    regularizer: PruningRegularizer
    places: tuple[Place, ...]
    sets: Sequence[ChannelSet] = dataclasses.field(repr=False)
    offset: int

    @property
    def select(self) -> AlongAxes:
        """How its controls select entries in a compiled step."""
        return AlongAxes(tuple(place.axis for place in self.places))

    @property
    def width(self) -> int:
        """The number of its controls."""
        return sum(place.units.size for place in self.places)

    def controls(self, choices: Sequence[Choice]) -> np.ndarray:
        """Returns what selects these units in a compiled step."""
        lowest = self._lowest(choices)
        return np.concatenate([lowest[p.units] for p in self.places]) * 1.0

    def chosen(self, choices: Sequence[Choice]) -> np.ndarray:
        """Returns a mask: False for the entries to remove."""
        lowest = self._lowest(choices)
        mask = np.ones(tuple(self.variable.shape), bool)
        for place in self.places:
            np.moveaxis(mask, place.axis, 0)[lowest[place.units]] = False
        return mask

    def _lowest(self, choices: Sequence[Choice]) -> np.ndarray:
        """For each unit whether it is chosen; False at the end, for none."""
        own = choices[self.offset : self.offset + len(self.sets)]
        return np.concatenate([c.lowest for c in own] + [[False]])


#: Units that are ranked among themselves.
UnitSet = Kernel | ChannelSet
#: A weight on which units lie.
PrunedWeight = Kernel | ChannelWeight


@dataclasses.dataclass(frozen=True)
class PrunedChannels:
    """The coupled channels of a model that are pruned.

    Args:
        sets: List of `ChannelSet`.
        weights: List of `ChannelWeight`, those that carry a pruning
            regularizer for coupled channels and are trained, and the shifts
            of such scales.
        places: List of `Place`, all axes that count channels, those of other
            weights too.
        classes: Integer array of shape `(units,)`: the class of each unit in
            what `follow` returns for the model.
        followed: `Followed`, or None where nothing is pruned.
    """

    sets: list[ChannelSet]
    weights: list[ChannelWeight]
    places: list[Place]
    classes: np.ndarray
    followed: Followed | None = dataclasses.field(default=None, repr=False)

    def left(self, stays: np.ndarray) -> np.ndarray:
        """Returns which units `shrink` leaves where these stay.

        Args:
            stays: Boolean array of shape `(units,)`.

        Returns:
            Boolean array of the same shape: shapes may demand more.
        """
        if self.followed is None:
            return stays
        kept = np.ones(self.followed.size, bool)
        kept[self.classes[~stays]] = False
        return filled(self.followed, kept)[self.classes]


def find_channels(model: keras.Model, offset: int = 0) -> PrunedChannels:
    """Finds the coupled channels of a model that are pruned.

    Args:
        model: A built model.
        offset: Integer, how many sets of units of other kinds stand before
            these. Defaults to `0`.

    Returns:
        `PrunedChannels`, empty if no weight carries a regularizer for them.

    Raises:
        ValueError: If weights do, and the model has no graph that can be read,
            or weights of the same channels carry regularizers that differ.
    """
    carriers = {
        id(v): r
        for v in model.trainable_variables
        if (r := pruning_regularizer(v)) is not None and r.granularity.coupled
    }
    if not carriers:
        return PrunedChannels([], [], [], np.zeros(0, int))
    followed = follow(model)
    carriers |= _shifts(followed, carriers)
    places = _places(followed)
    groups = _group([p for p in places if id(p.variable) in carriers])
    places = _renumber(places, groups)
    carrying = [p for p in places if id(p.variable) in carriers]
    sets: list[ChannelSet] = []
    for numbers, units in groups.items():
        own = [carrying[number] for number in numbers]
        _check_alike([(p.variable, carriers[id(p.variable)]) for p in own])
        first = sum(others.size for others in sets)
        sets.append(
            ChannelSet(
                own[0].variable.path,
                carriers[id(own[0].variable)],
                first,
                len(units),
                tuple(_scored(own)),
            )
        )
    weights = collections.defaultdict(list)
    for place in carrying:
        weights[id(place.variable)].append(place)
    return PrunedChannels(
        sets,
        [
            ChannelWeight(p[0].variable, carriers[key], tuple(p), sets, offset)
            for key, p in weights.items()
        ],
        places,
        np.array([c for units in groups.values() for c in units], int),
        followed,
    )


def _places(followed: Followed) -> list[Place]:
    """Each axis of each weight that counts channels.

    The units are classes of coupled channels, -1 for those that must stay.
    """
    pinned = list(followed.pinned())
    return [
        Place(variable, axis, np.where(np.isin(classes, pinned), NONE, classes))
        for _, variable, axis, classes in followed.places()
    ]


def _shifts(
    followed: Followed, carriers: dict[int, PruningRegularizer]
) -> dict[int, PruningRegularizer]:
    """Shifts without a regularizer, with those that their scales carry.

    A channel without its scale would go on as its shift.
    """
    layers = {layer for layer, *_ in followed.places()}
    pairs = [
        (getattr(x, "gamma", None), getattr(x, "beta", None)) for x in layers
    ]
    return {
        id(shift): carriers[id(scale)]
        for scale, shift in pairs
        if id(scale) in carriers
        and shift is not None
        and pruning_regularizer(shift) is None
    }


def _group(places: list[Place]) -> dict[tuple[int, ...], list[int]]:
    """The units by the numbers of the places that they lie on."""
    numbers = collections.defaultdict(list)
    for number, place in enumerate(places):
        for unit in np.unique(place.units[place.units != NONE]).tolist():
            numbers[unit].append(number)
    groups = collections.defaultdict(list)
    for unit in sorted(numbers):
        groups[tuple(numbers[unit])].append(unit)
    return dict(groups)


def _renumber(
    places: list[Place], groups: dict[tuple[int, ...], list[int]]
) -> list[Place]:
    """The same places; units are counted from 0, group after group."""
    units = [unit for group in groups.values() for unit in group]
    largest = max((place.units.max(initial=0) for place in places), default=0)
    renumbered = np.full(largest + 2, NONE)  # the last is that of -1
    renumbered[units] = np.arange(len(units))
    return [
        dataclasses.replace(place, units=renumbered[place.units])
        for place in places
    ]


def _check_alike(
    carriers: list[tuple[keras.Variable, PruningRegularizer]],
) -> None:
    """Raises if weights of the same channels are to be pruned differently."""
    first, regularizer = carriers[0]
    for variable, other in carriers[1:]:
        mine, its = (
            (r.sparsity, r.granularity, r.criterion)
            for r in (regularizer, other)
        )
        if mine != its:
            raise ValueError(
                f"Weights {first.path!r} and {variable.path!r} hold the same "
                "channels, so their regularizers must have the same "
                "`sparsity`, `granularity` and `criterion`. Received: "
                f"{mine} and {its}."
            )


def _scored(places: list[Place]) -> list[Place]:
    """Those of the normalizations' scales, or else those of matrices."""
    scales = [p for p in places if p.variable.name == "gamma"]
    matrices = [p for p in places if len(p.variable.shape) > 1]
    if not scales and not matrices:
        raise ValueError(
            f"Weight {places[0].variable.path!r} only shifts its channels, "
            "which says nothing of their worth. Give the regularizer to the "
            "kernels too: `CoupledChannels(kernels=True)` with "
            "`with_regularizer`."
        )
    return scales or matrices
