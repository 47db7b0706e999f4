"""Which channels a model needs, and which add nothing that varies."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_swd.coupling.following import Followed
from keras_swd.coupling.mixing import Mixer


@dataclasses.dataclass(frozen=True)
class Liveness:
    """Which classes of channels stay.

    Args:
        kept: Boolean array of shape `(classes,)`.
        reasons: Dictionary from classes that stay for another reason than
            their part in the outputs to that reason.
        filled: Boolean array of shape `(classes,)`: those that stay only
            because shapes demand it.
    """

    kept: np.ndarray
    reasons: dict[int, str]
    filled: np.ndarray


def find_live(followed: Followed) -> Liveness:
    """Finds the channels that have to stay.

    A channel can go if it cannot be told from the outputs: what it adds to
    each output of a layer that mixes channels is a constant, which becomes a
    part of that layer's bias, or it adds only to channels that go too.

    Args:
        followed: `Followed`.

    Returns:
        `Liveness`.
    """
    reasons = followed.pinned()
    kept = np.zeros(followed.size, bool)
    kept[list(reasons)] = True
    while _keep_needed(followed, kept):
        pass
    for ids, reason in followed.ledger.hints:
        for number in followed.classes[ids].tolist():
            if kept[number]:
                reasons.setdefault(number, reason)
    # What these add is constant or goes unseen, so they need no others.
    whole = filled(followed, kept, reasons)
    return Liveness(whole, reasons, whole & ~kept)


def filled(
    followed: Followed, kept: np.ndarray, reasons: dict[int, str] | None = None
) -> np.ndarray:
    """Returns which channels stay, since shapes demand some beyond need.

    Args:
        followed: `Followed`.
        kept: Boolean array of shape `(classes,)`, those that are needed.
        reasons: Dictionary from classes to reasons, which gets those of the
            others. Defaults to `None`.

    Returns:
        Boolean array of shape `(classes,)`.
    """
    kept = kept.copy()
    while _fill(followed, kept, {} if reasons is None else reasons):
        pass
    return kept


def _keep_needed(followed: Followed, kept: np.ndarray) -> bool:
    """Keeps what kept channels are made of; tells whether any is new."""
    before = np.count_nonzero(kept)
    for mixer in reversed(followed.mixers):
        rows = followed.classes[mixer.inputs]
        columns = kept[followed.classes[mixer.outputs]]
        needed = mixer.blocked() & ~kept[rows]
        if not needed.any():
            continue
        needed &= mixer.needed(columns)
        kept[rows[needed]] = True
    return bool(np.count_nonzero(kept) > before)


def _fill(
    followed: Followed, kept: np.ndarray, reasons: dict[int, str]
) -> bool:
    """Keeps what shapes demand beyond need; tells whether any is new."""
    before = np.count_nonzero(kept)

    def keep(numbers: np.ndarray, reason: str) -> None:
        kept[numbers] = True
        for number in numbers.tolist():
            reasons.setdefault(number, reason)

    for ids in followed.ledger.tensors:
        numbers = followed.classes[ids]
        if numbers.size and not kept[numbers].any():
            keep(numbers[:1], "a layer needs at least one channel")
    for mixer in followed.mixers:
        if mixer.groups > 1:
            for numbers in _lacking(mixer, followed.classes, kept):
                keep(numbers, f"groups of `{mixer.path}` must be of one size")
    return bool(np.count_nonzero(kept) > before)


def _lacking(
    mixer: Mixer, classes: np.ndarray, kept: np.ndarray
) -> list[np.ndarray]:
    """Classes to keep so that all groups that stay have the same size."""
    inputs = classes[mixer.inputs].reshape(mixer.groups, -1)
    outputs = classes[mixer.outputs].reshape(mixer.groups, -1)
    stay = kept[inputs].any(1) | kept[outputs].any(1)
    lacking = []
    for side in (inputs[stay], outputs[stay]):
        counts = kept[side].sum(1)
        most = max(counts.max(initial=0), 1)
        for numbers, count in zip(side, counts, strict=True):
            lacking.append(numbers[~kept[numbers]][: most - count])
    return lacking
