"""Magnitude pruning: a baseline that removes without driving anything down."""

import keras

from keras_swd.arguments import (
    check_count,
    check_not_negative,
    check_positive,
    check_progress,
)
from keras_swd.granularity import Granularity
from keras_swd.regularizers.base import PruningRegularizer
from keras_swd.regularizers.decay import plain_decay
from keras_swd.regularizers.plan import Plan
from keras_swd.schedules import Constant


@keras.saving.register_keras_serializable("keras_swd")
class MagnitudePruning(PruningRegularizer):
    """Removes the lowest units in the course of training, and trains on.

    The penalty is ordinary weight decay, the same for all weights. After the
    share `x = i / removals` of the way from `begin` to `end` the lowest units
    are set to zero until

    `1 - (1 - x) ** power`

    of the target is met. Zeros stay zero. What follows `end` trains the
    weights that are left. One class, four baselines:

    - `removals=100`: gradual pruning.
    - `removals=5`: iterative pruning, with training after each removal.
    - `removals=1`: all at `end`, then fine-tuning.
    - `removals=1, end=1.0`: all at once when training is over.

    With `LearningRateRewinding` as the optimizer's learning rate the training
    after a removal repeats that before it.

    Args:
        weight_decay: Float >= 0, the coefficient of ordinary weight decay: the
            penalty is `weight_decay / 2 * sum(w**2)`. Defaults to `5e-4`.
        begin: Float in [0, 1), the progress at which removal begins. Defaults
            to `0.2`.
        end: Float in (0, 1], the progress of the last removal, unless
            `PruningScheduler` has `remove_at`. Defaults to `0.7`.
        removals: Integer > 0, how often units are removed. Defaults to `100`.
        power: Float > 0. Removal is uniform at 1, and faster at first the
            higher it is. Defaults to `3.0`.
        sparsity: Float in [0, 1), a target for the kernels that hold this
            instance alone. Defaults to `None`.
        granularity: Which entries go together. Defaults to `Unstructured()`.
        criterion: What a weight is worth. Defaults to `Magnitude()`.

    Raises:
        ValueError: If an argument is out of range, or `removals` is not 1 with
            a granularity such as `NM`, whose groups meet their target at once.

    Example:

    >>> gradual = MagnitudePruning(begin=0.0, end=1.0, removals=2)
    >>> gradual.plan(None, total_steps=100, remove_at=None).removals
    ((0.5, 0.875), (1.0, 1.0))

    Reference:
        Han et al. 2015, arXiv 1506.02626, for one removal and several; Zhu and
        Gupta 2017, arXiv 1710.01878, equation 1, for gradual pruning.
    """

    schedule = Constant(0.0)

    def __init__(
        self,
        weight_decay: float = 5e-4,
        *,
        begin: float = 0.2,
        end: float = 0.7,
        removals: int = 100,
        power: float = 3.0,
        sparsity: float | None = None,
        granularity: Granularity | None = None,
        criterion=None,
    ):
        super().__init__(sparsity, granularity, criterion)
        self.weight_decay = check_not_negative("weight_decay", weight_decay)
        self.begin = check_progress("begin", begin)
        self.end = check_progress("end", end)
        self.removals = check_count("removals", removals)
        self.power = check_positive("power", power)
        self._check_order(self.end)
        if self.removals > 1 and self.granularity.fixed_sparsity is not None:
            raise ValueError(
                f"Argument `removals` must be 1 with {self.granularity!r}, "
                "whose groups meet their target at once. "
                f"Received: removals={removals}."
            )

    def __call__(self, values):
        """Returns `weight_decay / 2 * sum(w ** 2)`."""
        return plain_decay(values, self.weight_decay)

    def decay(self, strength: float) -> float:
        """Returns `weight_decay`."""
        del strength
        return self.weight_decay

    def plan(self, schedule, total_steps, remove_at) -> Plan:
        """Returns when units become zero, and how many; see the base class.

        Raises:
            ValueError: If the scheduler's `remove_at` is not after `begin`.
        """
        del schedule, total_steps
        end = self.end if remove_at is None else remove_at
        self._check_order(end)
        shares = [i / self.removals for i in range(1, self.removals + 1)]
        removals = [
            (self.begin + (end - self.begin) * x, 1.0 - (1.0 - x) ** self.power)
            for x in shares
        ]
        return Plan(self.schedule, end, before=tuple(removals[:-1]))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "weight_decay": self.weight_decay,
            "begin": self.begin,
            "end": self.end,
            "removals": self.removals,
            "power": self.power,
            **super().get_config(),
        }

    def _check_order(self, end: float) -> None:
        if self.begin >= end:
            raise ValueError(
                "Argument `begin` must be less than the progress of the last "
                "removal, `end` or `remove_at` of PruningScheduler. "
                f"Received: begin={self.begin}, end={end}."
            )
