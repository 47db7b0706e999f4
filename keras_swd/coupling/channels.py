"""The channels of tensors, and which of them are one and the same."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


class NotFollowed(Exception):
    """A rule cannot tell what becomes of channels; the message says why."""


@dataclasses.dataclass(frozen=True)
class Channels:
    """What is known of the channels of one tensor.

    Args:
        axis: Integer, the tensor's axis that counts channels, at least 1.
        ids: Integer array of shape `(channels,)`: a number for each channel.
            Channels of one number can only be cut together; so can those
            whose numbers a `Ledger` has joined.
        constant: Float array of shape `(channels,)`: the value that a channel
            has at all positions, whatever the model is given; NaN where it
            varies.
    """

    axis: int
    ids: np.ndarray
    constant: np.ndarray

    def with_constant(self, constant: np.ndarray) -> Channels:
        """The same channels, but with these constants; infinity is none."""
        known = np.isfinite(constant)
        return dataclasses.replace(
            self, constant=np.where(known, constant, np.nan)
        )

    def on(self, axis: int) -> Channels:
        """The same channels on another axis."""
        return dataclasses.replace(self, axis=axis)


class Ledger:
    """Keeps which channels are one and the same, and which must stay.

    Example:

    >>> ledger = Ledger()
    >>> a, b = ledger.fresh(1, 3), ledger.fresh(1, 3)
    >>> ledger.join(a.ids, b.ids)
    >>> ledger.settle().tolist()
    [0, 1, 2, 0, 1, 2]
    """

    def __init__(self):
        self.sites: dict[Any, dict[str, Channels]] = {}
        self.paths: dict[Any, str] = {}
        self.whole: dict[Any, str] = {}
        self.tensors: list[np.ndarray] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.hints: list[tuple[np.ndarray, str]] = []
        self._pairs: list[np.ndarray] = []
        self._count = 0

    def fresh(self, axis: int, size: int | None) -> Channels:
        """Returns new channels that vary; of an unknown number, none."""
        size = size or 0
        ids = np.arange(self._count, self._count + size)
        self._count += size
        return Channels(axis, ids, np.full(size, np.nan))

    def join(self, some: np.ndarray, others: np.ndarray) -> None:
        """Makes channels at equal places of two arrays one and the same."""
        self._pairs.append(np.stack([some, others], axis=-1).reshape(-1, 2))

    def pin(self, ids: np.ndarray, reason: str) -> None:
        """Makes channels stay; of several reasons, the last is told."""
        self.pins.append((ids, reason))

    def hint(self, ids: np.ndarray, reason: str) -> None:
        """Tells why these channels stay, if they do."""
        self.hints.append((ids, reason))

    def site(self, operation: Any, name: str, channels: Channels) -> None:
        """Notes which channels an operation has at a place of that name.

        An operation that is used twice has the same channels each time.
        """
        places = self.sites.setdefault(operation, {})
        first = places.setdefault(name, channels)
        if first is channels:
            return
        if (first.axis, first.ids.size) == (channels.axis, channels.ids.size):
            self.join(first.ids, channels.ids)
            return
        for ids in (first.ids, channels.ids):
            self.pin(ids, f"`{operation.name}` is used in two ways")

    def settle(self) -> np.ndarray:
        """Returns a class, from 0 on, for each number that was given out."""
        roots = np.arange(self._count)
        if self._pairs:
            left, right = np.concatenate(self._pairs).T
            while True:
                before = roots.copy()
                lower = np.minimum(roots[left], roots[right])
                np.minimum.at(roots, before[left], lower)
                np.minimum.at(roots, before[right], lower)
                roots = roots[roots]
                if np.array_equal(roots, before):
                    break
        return np.unique(roots, return_inverse=True)[1]
