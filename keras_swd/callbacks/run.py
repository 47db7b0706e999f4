"""A run of pruning: it selects units, steers the steps, and removes."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.allocation import Allocation
from keras_swd.callbacks.choosing import Once, Renewed
from keras_swd.callbacks.foresight import Foresight
from keras_swd.callbacks.steering import Steering
from keras_swd.optimizers import build_parts
from keras_swd.prunable import Prunable
from keras_swd.regularizers.plan import agreed_times
from keras_swd.schedules import Schedule
from keras_swd.targets.limits import Goal
from keras_swd.units.masking import (
    apply_masks,
    check_finite,
    share_masked,
    share_of_norm,
)


class Run:
    """One run of a `PruningScheduler`, whose arguments these are.

    Args:
        model: A built `keras.Model`, about to train.
        total_steps: Number, the steps of the whole run.
        sparsity: The target.
        schedule: A `Schedule`, or None for that of the method.
        allocation: An `Allocation`.
        reallocations: Integer, or None for one at every step.
        remove_at: Float, a progress, or None for that of the method.
        ramp: A `Schedule`, or None.

    Raises:
        ValueError: If the model cannot be pruned as asked.
    """

    def __init__(
        self,
        model: keras.Model,
        total_steps: int,
        *,
        sparsity: Goal,
        schedule: Schedule | None,
        allocation: Allocation,
        reallocations: int | None,
        remove_at: float | None,
        ramp: Schedule | None,
    ):
        build_parts(model)
        self.model = model
        self.prunable = Prunable(model, sparsity, allocation)
        plans = {
            id(regularizer): regularizer.plan(schedule, total_steps, remove_at)
            for regularizer in self.prunable.regularizers
        }
        self._removals, pick_at = agreed_times(list(plans.values()))
        #: The progress at which the last units become zero.
        self.remove_at = self._removals[-1][0]
        periods = reallocations or total_steps
        self._selection: Renewed | Once
        if pick_at is None:
            self._selection = Renewed(self.prunable, periods)
        else:
            self._selection = Once(self.prunable, pick_at)
        if ramp is not None:
            self._selection.follow(ramp, self._removals)
        attached, new = self.prunable.attach(model)
        own = [plans[id(each.regularizer)] for each in attached]
        self._steering = Steering(
            model, attached, own, self._selection, total_steps
        )
        self._foresight = Foresight(
            model,
            self.prunable,
            self._selection,
            self._steering,
            self.remove_at,
        )
        #: What was removed so far, as a mask for each weight.
        self._removed: list[np.ndarray] = []
        self._removals_made = 0
        self._strength = 0.0
        self._begun = False
        if new or self._steering.must_compile:
            _compile_anew(model)

    @property
    def has_removed(self) -> bool:
        """Whether units were set to zero for good."""
        return bool(self._removed)

    @property
    def is_complete(self) -> bool:
        """Whether all that is to go was set to zero."""
        return self._removals_made == len(self._removals)

    def masks(self) -> list[np.ndarray]:
        """Returns a mask for each weight, as removed, or as it would be now."""
        return self._removed or self._selection.masks()

    def residual(self) -> float:
        """Returns the share of the squared norm in what is to be removed."""
        masks = self._selection.masks(1.0)
        return share_of_norm(self.prunable.weights, masks)

    def schedules(self) -> list[Schedule]:
        """Returns each schedule in force once, without a method's own curve."""
        strengths = (plan.strength for plan in self._steering.plans)
        found = [each for each in strengths if isinstance(each, Schedule)]
        return list(dict.fromkeys(found))

    def begin_epoch(self, end: float) -> None:
        """Warns if a step of the epoch would be unstable.

        Args:
            end: Float, the progress at its end.
        """
        if not self._removed:
            self._foresight.of_instability(end)

    def begin_step(self, progress: float) -> None:
        """Sets what the step at `progress` sees, and removes what is due."""
        first = not self._selection.counts
        resumed = progress > 0.0 and not self._begun
        self._begun = True
        if not self._removed:
            renewed = self._selection.update(progress)
            self._foresight.of_collapse(progress, renewed)
        # What goes at the end goes after the last step.
        times = ((at, share) for at, share in self._removals if at < 1.0)
        self._remove([share for at, share in times if at <= progress])
        if self._removed:
            return
        self._steering.begin_step(progress)
        if first and self._selection.counts:
            self._foresight.of_shortfall(progress, resumed)

    def end_step(self) -> None:
        """Notes that the step is done, and keeps removed units at zero."""
        self._steering.end_step()
        self.keep_zeros()
        if not self._removed and self._selection.choices:
            # Not in `begin_step`: where data end unforeseen, Keras begins a
            # step that never runs.
            self._strength = self._steering.strength

    def end_epoch(self, masks: Sequence[np.ndarray]) -> dict[str, float]:
        """Returns the state of pruning, for `logs`.

        Args:
            masks: Those of `masks()`, as they are now.
        """
        # Where data end unforeseen, a step has begun that never runs.
        self._steering.end_step()
        removed = self.has_removed
        return {
            "sparsity": share_masked(masks),
            "swd_strength": 0.0 if removed else self._strength,
            "swd_threshold": -1.0 if removed else self._selection.threshold,
            "swd_residual": share_of_norm(self.prunable.weights, masks),
            **self._steering.logs(),
        }

    def keep_zeros(self) -> None:
        """Sets what was removed to zero again."""
        if self._removed:
            apply_masks(self.prunable.weights, self._removed)

    def end(self) -> None:
        """Sets what was removed to zero again, and warns if it matters."""
        if self._removed:
            self._foresight.of_return(self._removed)
        self.keep_zeros()

    def complete(self) -> None:
        """Removes all that is left to remove: the run has ended."""
        self._remove([share for _, share in self._removals])
        self._selection.forget()

    def break_off(self) -> None:
        """Leaves plain weight decay to what comes after this part of a run."""
        self._steering.release()

    def _remove(self, due: Sequence[float]) -> None:
        """Zeroes units for good.

        Args:
            due: Floats, the shares of the target that are to be gone by now,
                each greater than the one before.
        """
        if len(due) == self._removals_made:
            return
        check_finite(self.prunable.weights)
        masks = self._selection.masks(due[-1])
        self._foresight.of_residual(masks)
        if self._removed:
            # As targets grow, an allocation may give a kernel one unit less.
            both = zip(masks, self._removed, strict=True)
            masks = [now & before for now, before in both]
        self._removed = masks
        self._removals_made = len(due)
        self._steering.release()
        apply_masks(self.prunable.weights, self._removed)
        if due[-1] < 1.0:
            return
        for message in self.prunable.shortfalls(self.model, self._removed):
            self._foresight.warn(message, message)


def _compile_anew(model: keras.Model) -> None:
    """Lets steps that were compiled before see values created after."""
    if getattr(model, "train_function", None):
        model.train_function = None
        model.make_train_function()
    if getattr(model, "test_function", None):
        model.test_function = None
        model.make_test_function()
