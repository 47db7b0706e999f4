"""Growing Regularization: GReg-1 and GReg-2."""

import keras
from keras import ops

from keras_swd.arguments import (
    check_count,
    check_not_negative,
    check_optional_count,
    check_positive,
    check_progress,
)
from keras_swd.granularity import Granularity
from keras_swd.regularizers.base import PruningRegularizer
from keras_swd.regularizers.decay import plain_decay, selective_decay
from keras_swd.regularizers.ladder import Ladder, flight
from keras_swd.regularizers.plan import Plan
from keras_swd.schedules import Schedule

#: Share of what a run has left after `begin` until units become zero.
UNTIL_REMOVAL = 0.5
#: Share of that for which the strength is held at the ceiling.
HOLDING = 0.2
#: Share of the growth in which GReg-2 picks.
PICKING = 0.25


@keras.saving.register_keras_serializable("keras_swd")
class GReg1(PruningRegularizer):
    """Weight decay that grows on units selected once: how to remove.

    The lowest units are selected before the first step, from a trained model,
    and no others later. The penalty of a kernel `w` is

    `(weight_decay * sum(w ** 2) + strength * sum(w[S] ** 2)) / 2`

    where `S` are the selected units. The strength climbs by `increment` every
    `interval` steps up to `ceiling` and is held there for `stabilizing` steps.
    Then the selected units become zero and stay so, while the rest of the run
    trains the others. All of this is one `fit` with `PruningScheduler`, whose
    own `schedule` is not used. Without a scheduler this is plain weight decay.

    What is not given is fitted to the run: units become zero at the
    scheduler's `remove_at`, or else when half of what follows `begin` is done;
    the strength is held for a fifth of the time until then, and growth takes
    the rest.

    The selection cannot be computed again in the middle of a run. It is
    therefore saved with the model, in `.keras` and weights files, until the
    run is complete, and a resumed run goes on with it.

    Args:
        weight_decay: Float >= 0, the coefficient of ordinary weight decay.
            Defaults to `5e-4`.
        sparsity: Float in [0, 1), a target for the kernels that hold this
            instance alone. `None` leaves them to the scheduler's. Defaults to
            `None`.
        interval: Positive integer, the steps from one increment to the next.
            Defaults to `10`.
        increment: Float > 0, by how much the strength grows each time. `None`
            fits the growth to the run. Defaults to `None`; the authors take
            `1e-4` in runs of 100,000 steps.
        ceiling: Float > 0, the strength at which growth ends. Defaults to
            `1.0`.
        stabilizing: Positive integer, for how many steps at least the strength
            is held there. `None` holds it until removal is due. Defaults to
            `None`.
        begin: Float in [0, 1), the progress at which growth begins. What comes
            before trains with plain weight decay: a fresh model needs it.
            Defaults to `0.0`, for a trained one.
        granularity: Which entries go together. Defaults to `Unstructured()`.
        criterion: What a weight is worth. Defaults to `Magnitude()`.

    Raises:
        ValueError: If an argument is out of range; at the start of `fit`, if
            the run is too short.

    Example:

    >>> greg = GReg1(weight_decay=0.01)
    >>> float(greg(ops.array([3.0, 4.0])))
    0.125

    Reference:
        Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021,
        arXiv 2012.09243. Fitting to the run, and `begin`, are ours.
    """

    selects_once = True

    def __init__(
        self,
        weight_decay: float = 5e-4,
        *,
        sparsity: float | None = None,
        interval: int = 10,
        increment: float | None = None,
        ceiling: float = 1.0,
        stabilizing: int | None = None,
        begin: float = 0.0,
        granularity: Granularity | None = None,
        criterion=None,
    ):
        super().__init__(sparsity, granularity, criterion)
        self.weight_decay = check_not_negative("weight_decay", weight_decay)
        self.interval = check_count("interval", interval)
        self.increment = _increment("increment", increment)
        self.ceiling = check_positive("ceiling", ceiling)
        self.stabilizing = check_optional_count("stabilizing", stabilizing)
        self.begin = check_progress("begin", begin)
        if self.begin == 1.0:
            raise ValueError(
                "Argument `begin` must be less than 1, the end of the run. "
                f"Received: begin={begin}."
            )

    def __call__(self, values):
        """Returns `weight_decay / 2 * sum(w ** 2)`: there is no selection."""
        return plain_decay(values, self.weight_decay)

    def penalty(self, values, strength, select, controls):
        """Returns half of `weight_decay * sum(w**2) + strength * sum(w[S]**2)`.

        Args:
            values: Float tensor of the kernel's shape.
            strength: Float scalar.
            select: A `Selector`; `select(values, controls)` is true on `S`.
            controls: Float tensor.

        Returns:
            Float scalar tensor, in the type of `keras.config.floatx()`.
        """
        strength = ops.cast(strength, "float32")
        low, high = self._kept_decay(strength), self.weight_decay + strength
        return selective_decay(values, low, high, select, controls)

    def decay(self, strength: float) -> float:
        """Returns `weight_decay + strength`."""
        return self.weight_decay + strength

    def plan(
        self,
        schedule: Schedule | None,
        total_steps: int,
        remove_at: float | None,
    ) -> Plan:
        """Returns the ladder, the step of the selection and that of removal.

        Args:
            schedule: Not used.
            total_steps: Integer, the number of steps of the whole run.
            remove_at: Float, the progress at which the user wants units to
                become zero, or None.

        Returns:
            A `Plan`.

        Raises:
            ValueError: If the run is too short.
        """
        del schedule
        begin = round(self.begin * total_steps)
        removal = begin + round(UNTIL_REMOVAL * (total_steps - begin))
        if remove_at is not None:
            removal = round(remove_at * total_steps)
        growth = removal - begin
        growth -= self.stabilizing or round(HOLDING * growth)
        ladder = self.ladder(begin, growth)
        end = ladder.top + (self.stabilizing or 0) + 1
        if remove_at is None and self.stabilizing is not None:
            removal = end
        if end > min(removal, total_steps):
            self._refuse(end, min(removal, total_steps), total_steps)
        return Plan(
            lambda progress: ladder(round(progress * total_steps)),
            removal / total_steps,
            ladder.pick_at / total_steps,
        )

    def ladder(self, begin: int, growth: int) -> Ladder:
        """Returns the ladder of a run.

        Args:
            begin: Integer, the step at which it begins.
            growth: Integer, the steps that it may take, if it is not given.

        Returns:
            A `Ladder`.
        """
        pushing = flight(self.ceiling, self.increment, self.interval, growth)
        return Ladder(begin, self.interval, *pushing, self.ceiling)

    def _kept_decay(self, strength):
        """The decay of what is not selected."""
        del strength
        return self.weight_decay

    def _refuse(self, end: int, removal: int, total: int) -> None:
        times = (f"{key}={value!r}" for key, value in self._times().items())
        raise ValueError(
            f"{type(self).__name__} needs at least {end} steps, but units "
            f"become zero after {removal} of {total}. Train for more epochs, "
            "remove later (`remove_at` of PruningScheduler), lower `interval`, "
            "`stabilizing` or `begin`, or raise increments. "
            f"Received: {', '.join(times)}."
        )

    def _times(self) -> dict:
        """The arguments that decide how long it takes."""
        return {
            "interval": self.interval,
            "increment": self.increment,
            "ceiling": self.ceiling,
            "stabilizing": self.stabilizing,
            "begin": self.begin,
        }

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "weight_decay": self.weight_decay,
            **self._times(),
            **super().get_config(),
        }


@keras.saving.register_keras_serializable("keras_swd")
class GReg2(GReg1):
    """Weight decay that grows on all units, then on the lowest: which to go.

    At first the strength climbs on every unit of the kernels, by
    `picking_increment` every `interval` steps up to `picking_ceiling`. Units
    that the loss does not hold shrink faster, and the lowest are then selected
    for good. From there the strength climbs on as in `GReg1`, on these units
    alone; the others have no weight decay at all until removal, to recover.

    What is not given is fitted to the run as in `GReg1`; picking takes a
    quarter of the growth. With the authors' `picking_ceiling` units change
    places only if their scores are close; a higher one lets the loss decide
    more.

    Args:
        weight_decay: Float >= 0, the coefficient of ordinary weight decay.
            Defaults to `5e-4`.
        sparsity: Float in [0, 1), a target for the kernels that hold this
            instance alone. `None` leaves them to the scheduler's. Defaults to
            `None`.
        interval: Positive integer, the steps from one increment to the next.
            Defaults to `10`.
        increment: Float > 0, the increment after the selection. `None` fits it
            to the run. Defaults to `None`.
        ceiling: Float > `picking_ceiling`. Defaults to `1.0`.
        stabilizing: Positive integer or None. Defaults to `None`.
        begin: Float in [0, 1). Defaults to `0.0`, for a trained model.
        picking_increment: Float > 0, the increment before the selection.
            `None` fits it to the run. Defaults to `None`; the authors take
            `1e-5`.
        picking_ceiling: Float > 0, the strength at which units are selected.
            Defaults to `0.01`.
        granularity: Which entries go together. Defaults to `Unstructured()`.
        criterion: What a weight is worth. Defaults to `Magnitude()`.

    Raises:
        ValueError: If an argument is out of range; at the start of `fit`, if
            the run is too short.

    Example:

    >>> GReg2(picking_ceiling=0.1, sparsity=0.5).ladder(0, 400).pick_at
    100

    Reference:
        Wang et al., "Neural Pruning via Growing Regularization", ICLR 2021,
        arXiv 2012.09243.
    """

    def __init__(
        self,
        weight_decay: float = 5e-4,
        *,
        sparsity: float | None = None,
        interval: int = 10,
        increment: float | None = None,
        ceiling: float = 1.0,
        stabilizing: int | None = None,
        begin: float = 0.0,
        picking_increment: float | None = None,
        picking_ceiling: float = 0.01,
        granularity: Granularity | None = None,
        criterion=None,
    ):
        super().__init__(
            weight_decay,
            sparsity=sparsity,
            interval=interval,
            increment=increment,
            ceiling=ceiling,
            stabilizing=stabilizing,
            begin=begin,
            granularity=granularity,
            criterion=criterion,
        )
        self.picking_increment = _increment(
            "picking_increment", picking_increment
        )
        self.picking_ceiling = check_positive(
            "picking_ceiling", picking_ceiling
        )
        if self.picking_ceiling >= self.ceiling:
            raise ValueError(
                "Argument `picking_ceiling` must be less than `ceiling`: the "
                "strength grows on from there. Received: picking_ceiling="
                f"{picking_ceiling}, ceiling={ceiling}."
            )

    def ladder(self, begin: int, growth: int) -> Ladder:
        """Returns the ladder of a run, as in `GReg1`."""
        picking = flight(
            self.picking_ceiling,
            self.picking_increment,
            self.interval,
            int(PICKING * growth),
        )
        pushing = flight(
            self.ceiling - self.picking_ceiling,
            self.increment,
            self.interval,
            growth - picking[0] * self.interval,
        )
        return Ladder(
            begin,
            self.interval,
            *pushing,
            self.ceiling,
            *picking,
            self.picking_ceiling,
        )

    def _kept_decay(self, strength):
        """No decay while the strength is positive: kept units recover."""
        return ops.where(strength > 0.0, 0.0, self.weight_decay)

    def _times(self) -> dict:
        """The arguments that decide how long it takes."""
        return {
            **super()._times(),
            "picking_increment": self.picking_increment,
            "picking_ceiling": self.picking_ceiling,
        }


def _increment(name: str, value) -> float | None:
    """Returns `value` as a positive float or None, or raises."""
    return None if value is None else check_positive(name, value)
