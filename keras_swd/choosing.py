"""Which units are chosen in the course of a run: anew at each step, or once."""

import warnings

import numpy as np

from keras_swd.kernels import Choice
from keras_swd.prunable import Prunable


class Renewed:
    """The lowest units, found again at every step.

    Args:
        prunable: The `Prunable` of the model.
        periods: Integer, how often in the run each set's count is decided anew.
    """

    #: Whether what is chosen now stays so until the end.
    final = False

    def __init__(self, prunable: Prunable, periods: int):
        self.prunable = prunable
        self.periods = periods
        self.period: int | None = None
        self.share = 1.0
        self.counts: list[int] = []
        self.choices: list[Choice] = []

    @property
    def threshold(self) -> float:
        """The largest threshold of all sets, -1 before the first step."""
        return max((c.threshold for c in self.choices), default=-1.0)

    def update(self, progress: float) -> bool:
        """Chooses for the coming step; returns whether counts are new."""
        period = int(progress * self.periods)
        new = period != self.period
        if new:
            self.period = period
            self.counts = self.prunable.counts()
        self.choices = self.prunable.choose(self.counts, self.choices)
        return new

    def masks(self, share: float = 1.0) -> list[np.ndarray]:
        """Returns a mask for each weight, as the weights are now.

        Args:
            share: Float in (0, 1], the part of the target that goes. Defaults
                to `1.0`.
        """
        if not self.counts or share != self.share:
            self.counts = self.prunable.counts(share)
            self.share = share
        return self.prunable.masks(self.prunable.choose(self.counts))

    def forget(self) -> None:
        """There is nothing to forget."""


class Once:
    """All units until a moment; then those that were the lowest there.

    What is chosen then is kept by the regularizers, which save it with the
    model, so that a resumed run goes on with it.

    Args:
        prunable: The `Prunable` of the model.
        pick_at: Float, the progress of that moment.
    """

    #: No threshold holds these units.
    threshold = -1.0

    def __init__(self, prunable: Prunable, pick_at: float):
        self.prunable = prunable
        self.pick_at = pick_at
        self.final = False
        self.counts: list[int] = []
        self.choices: list[Choice] = []

    def update(self, progress: float) -> bool:
        """Chooses for the coming step; returns whether counts are new."""
        if self.final:
            return False
        first = not self.choices
        if progress < self.pick_at:
            if first:
                self.forget()
                self.choices = [_all(s.size) for s in self.prunable.sets]
            return False
        if not (first and progress > self.pick_at and self._restore()):
            self._pick(late=first and progress > self.pick_at)
        self.counts = [choice.count for choice in self.choices]
        self.final = True
        self._keep()
        return True

    def masks(self, share: float = 1.0) -> list[np.ndarray]:
        """Returns a mask for each weight; before the moment, as of now.

        Args:
            share: Float, 1: what is chosen once goes at once.
        """
        del share
        choices = self.choices
        if not self.final:
            choices = self.prunable.choose(self.prunable.counts())
        return self.prunable.masks(choices)

    def forget(self) -> None:
        """Takes from the regularizers what they keep."""
        for units in self.prunable.sets:
            units.regularizer.selection = {}

    def _pick(self, late: bool) -> None:
        """Chooses the lowest units, in a resumed run with a warning."""
        self.choices = self.prunable.choose(self.prunable.counts())
        masks = self.prunable.masks(self.choices)
        if late and any(
            weight.values()[~mask].any()
            for weight, mask in zip(self.prunable.weights, masks, strict=True)
        ):
            warnings.warn(
                "This run was resumed after its units were selected, but the "
                "model brings no such selection, or one of other shapes. The "
                "lowest units of now are selected instead. Resume with "
                "`BackupAndRestore`, or with a model or weights saved after "
                "the selection, from the model that was pruned.",
                stacklevel=2,
            )

    def _keep(self) -> None:
        """Gives each regularizer the chosen units of its sets."""
        self.forget()
        for place, units in enumerate(self.prunable.sets):
            bits = np.packbits(np.asarray(self.choices[place].lowest))
            units.regularizer.selection[place] = bits

    def _restore(self) -> bool:
        """Chooses what the regularizers keep; returns whether it fits."""
        # A file holds what one instance kept for many layers once, and
        # loading makes an instance for each layer.
        kept: dict[int, np.ndarray] = {}
        for units in self.prunable.sets:
            kept |= units.regularizer.selection
        choices = []
        for place, units in enumerate(self.prunable.sets):
            bits = kept.get(place)
            if bits is None or bits.size != -(-units.size // 8):
                return False
            lowest = np.unpackbits(bits, count=units.size).astype(bool)
            scores = units.unit_scores()
            top = float(scores[lowest].max(initial=-1.0))
            choices.append(Choice(int(lowest.sum()), top, lowest))
        self.choices = choices
        return True


def selection(
    prunable: Prunable, pick_at: float | None, periods: int
) -> Renewed | Once:
    """Returns how the units of a run are chosen.

    Args:
        prunable: The `Prunable` of the model.
        pick_at: Float, the progress at which they are chosen for good, or None.
        periods: Integer, how often counts are decided anew if they are not.
    """
    if pick_at is None:
        return Renewed(prunable, periods)
    return Once(prunable, pick_at)


def _all(size: int) -> Choice:
    return Choice(size, -1.0, np.ones(size, bool))
