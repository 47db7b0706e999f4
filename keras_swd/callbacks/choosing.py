"""Which units are chosen in the course of a run: anew at each step, or once."""

import math
import warnings

import numpy as np

from keras_swd.prunable import Prunable
from keras_swd.regularizers.plan import Removals
from keras_swd.schedules import Constant, Schedule
from keras_swd.units.channels import UnitSet
from keras_swd.units.kernels import Choice

#: Points of the run at which a ramp is looked at, to find its end.
POINTS = 1000
#: Steps in which a ramp rises at least, if it takes the whole run.
STAIRS = 100


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
        self.period: tuple[bool, int] | None = None
        #: The part of the target that is chosen, as a function of progress.
        self.ramp: Schedule = Constant(1.0)
        self.share = 1.0
        self.counts: list[int] = []
        self.choices: list[Choice] = []

    @property
    def threshold(self) -> float:
        """The largest threshold of all sets, -1 before the first step."""
        return max((c.threshold for c in self.choices), default=-1.0)

    @property
    def whole_at(self) -> float:
        """The progress from which all of the target is chosen."""
        grid = (i / POINTS for i in range(POINTS))
        return next((p for p in grid if math.isclose(self.ramp(p), 1.0)), 1.0)

    def follow(self, ramp: Schedule, removals: Removals) -> None:
        """Lets the part of the target that is chosen follow a ramp.

        Args:
            ramp: A `Schedule`.
            removals: When units become zero, and which share of the target.

        Raises:
            ValueError: If the ramp is not at its end by then, or what is
                removed does not allow for parts.
        """
        check_ramp(ramp, by=removals[-1][0])
        in_rounds = len(removals) > 1
        for units in self.prunable.sets:
            method = units.regularizer
            if in_rounds or method.part is not None:
                _refuse(ramp, units, f"method {type(method).__name__}")
            if method.granularity.fixed_sparsity is not None:
                _refuse(ramp, units, f"granularity {method.granularity!r}")
        self.ramp = ramp
        self.share = ramp(0.0)

    def update(self, progress: float) -> bool:
        """Finds how many go in the coming step; returns whether that is new."""
        share = self.ramp(progress)
        # All of the target is chosen as soon as the ramp allows.
        whole = math.isclose(share, 1.0)
        periods = self.periods if whole else max(self.periods, STAIRS)
        period = whole, int(progress * periods)
        if period == self.period:
            return False
        self.period = period
        self.share = 1.0 if whole else share
        self.counts = self.prunable.counts(self.share)
        return True

    def renew(self) -> None:
        """Chooses as many as `update` found, of the weights as they are now."""
        self.choices = self.prunable.choose(self.counts)

    def masks(self, share: float | None = None) -> list[np.ndarray]:
        """Returns a mask for each weight, as the weights are now.

        Args:
            share: Float in [0, 1], the part of the target that goes. Defaults
                to the part that is chosen now.
        """
        share = self.share if share is None else share
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
    #: All of them are chosen from the first step on.
    whole_at = 0.0

    def __init__(self, prunable: Prunable, pick_at: float):
        self.prunable = prunable
        self.pick_at = pick_at
        self.final = False
        self.counts: list[int] = []
        self.choices: list[Choice] = []

    def follow(self, ramp: Schedule, removals: Removals) -> None:
        """Raises a `ValueError`: what is chosen once is chosen whole."""
        del removals
        units = self.prunable.sets[0]
        _refuse(ramp, units, f"method {type(units.regularizer).__name__}")

    def update(self, progress: float) -> bool:
        """Chooses if the moment has come; returns whether it has just come."""
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

    def renew(self) -> None:
        """There is nothing to renew: what is chosen stays."""

    def masks(self, share: float | None = None) -> list[np.ndarray]:
        """Returns a mask for each weight; before the moment, as of now.

        Args:
            share: Float, 1, or None: what is chosen once goes at once.
        """
        del share
        choices = self.choices
        if not self.final:
            choices = self.prunable.choose(self.prunable.counts())
        return self.prunable.masks(choices)

    def forget(self) -> None:
        """Takes from the regularizers what they keep."""
        for units in self.prunable.sets:
            units.regularizer.chosen_for_good = {}

    def _pick(self, late: bool) -> None:
        """Chooses the lowest units, in a resumed run with a warning."""
        self.choices = self.prunable.choose(self.prunable.counts())
        masks = self.prunable.masks(self.choices)
        if late and any(
            weight.values()[~mask].any()
            for weight, mask in zip(self.prunable.weights, masks, strict=True)
        ):
            warnings.warn(
                "This run was resumed after its units had been selected, but "
                "the model contains no such selection, or one with other "
                "shapes. The units that are lowest now are selected instead. "
                "Resume with "
                "`BackupAndRestore`, or with a model or weights saved after "
                "the selection, from the model that was pruned.",
                stacklevel=2,
            )

    def _keep(self) -> None:
        """Gives each regularizer the chosen units of its sets."""
        self.forget()
        for place, units in enumerate(self.prunable.sets):
            bits = np.packbits(np.asarray(self.choices[place].lowest))
            units.regularizer.chosen_for_good[place] = bits

    def _restore(self) -> bool:
        """Chooses what the regularizers keep; returns whether it fits."""
        # A file holds what one instance kept for many layers once, and
        # loading makes an instance for each layer.
        kept: dict[int, np.ndarray] = {}
        for units in self.prunable.sets:
            kept |= units.regularizer.chosen_for_good
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
        kept_units = sum(choice.count for choice in choices)
        asked = sum(self.prunable.counts())
        if kept_units != asked:
            warnings.warn(
                f"This run was resumed after {kept_units:,} units had been "
                "selected; they stay selected, although the target now asks "
                f"for {asked:,}. For another target, start a new run.",
                stacklevel=2,
            )
        return True


def check_ramp(ramp, by: float) -> Schedule:
    """Returns `ramp`, or raises if it is no schedule that has reached 1.

    Args:
        ramp: The part of the target that is chosen, as a function of progress.
        by: Float, the progress at which it must be all of it.
    """
    if isinstance(ramp, Schedule) and math.isclose(ramp(by), 1.0):
        return ramp
    raise ValueError(
        "Argument `ramp` must be a keras_swd schedule that reaches 1, all of "
        f"the target, at progress {by:g}, when units are removed, e.g. "
        "keras_swd.Polynomial(0.0, 1.0, begin=0.2, finish=0.7). "
        f"Received: ramp={ramp!r}."
    )


def _refuse(ramp: Schedule, units: UnitSet, reason: str) -> None:
    raise ValueError(
        f"Argument `ramp` cannot be followed by kernel {units.path!r}: its "
        f"{reason} meets the target in its own way. Leave `ramp` out, or use "
        f"`SelectiveWeightDecay`. Received: ramp={ramp!r}."
    )


def _all(size: int) -> Choice:
    return Choice(size, -1.0, np.ones(size, bool))
