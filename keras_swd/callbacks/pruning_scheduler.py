"""The callback that says how hard, and which weights, at every step."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_swd.allocation import Allocation, check_allocation
from keras_swd.arguments import (
    check_optional_count,
    check_progress,
    check_repeatable,
)
from keras_swd.backend.host import read
from keras_swd.callbacks.choosing import check_ramp
from keras_swd.callbacks.run import Run
from keras_swd.configured import configuration, expression
from keras_swd.models import is_built
from keras_swd.optimizers import inner_optimizer
from keras_swd.removal import metrics_if_removed
from keras_swd.schedules import Schedule
from keras_swd.targets.counts import check_goal
from keras_swd.targets.limits import Goal


class PruningScheduler(keras.callbacks.Callback):
    """Prunes the kernels that carry a pruning regularizer, during `fit`.

    Every step gets the strength from its schedule and, for each kernel, the
    score of the last unit that would go now as threshold. At the end of the run
    the selected units are set to exactly zero. With `steps_per_execution` the
    steps of one execution share both on JAX, where XLA compiles the step, and
    on several replicas. Keep it small there: a kept weight that falls below an
    outdated threshold is decayed too. What was removed before the end is set to
    zero again after each execution, so it may move within one.

    Strength is a function of progress,
    `(epoch * steps_per_epoch + batch) / total_steps`, and the selection one of
    the weights, or saved with them, so a run resumed with `initial_epoch` or
    `BackupAndRestore` continues as if never stopped.

    At the end of each epoch it adds to `logs`:

    - `sparsity`: share of the prunable weights that removal would zero now,
      with a `ramp` that of the part that is selected. It differs from the
      target where units differ in size, as channels do.
    - `swd_strength`: strength of the selective decay.
    - `swd_threshold`: largest threshold of all kernels, -1 without any.
    - `swd_residual`: share of the squared norm of the prunable kernels that
      selected units still hold.
    - What the method adds, as `asl_sparsity` or `irrelevance`.
    - With `monitor_data`, each compiled metric with the selected units at
      zero, as `accuracy_if_removed`.

    `loss` and `val_loss` contain the penalty, which grows: let `EarlyStopping`,
    `ReduceLROnPlateau` and `ModelCheckpoint` watch a metric. What
    `ModelCheckpoint` saves is from before the removal: `keras_swd.remove` does
    it there, or use `ParetoCheckpoint`. Place this callback after those that
    restore weights: what they restore after it is not pruned.

    Keras tells no callback of a `fit` that was interrupted, by Ctrl-C or an
    error: selected weights are still decayed in what follows, until another
    `fit` has a scheduler, or you call `on_train_end()`.

    In a loop of your own, call `set_model(model)`, `set_params({"epochs": ...,
    "steps": ...})`, `on_train_begin()`, `on_epoch_begin(epoch)`,
    `on_train_batch_begin(batch)`, `on_train_batch_end(batch)`,
    `on_epoch_end(epoch, logs)` and `on_train_end()` as `fit` does, the first
    three before a compiled step is called for the first time, and add
    `sum(model.losses)` to your loss.

    Args:
        sparsity: Float in [0, 1), the fraction of the prunable units to
            remove: weights, or what the granularity makes of them. Or, for
            `CoupledChannels` and `AdaptiveSparsity`, a budget:
            `Parameters(left=0.5)` or `Operations(left=0.5)`. Or, for single
            weights and groups within a kernel, the size of the exported
            file: `TFLiteBytes(50_000)`. Kernels whose regularizer has a
            target of its own do not count. `None` if all have. Defaults to
            `None`.
        schedule: A `Schedule`, the strength as a function of progress. Defaults
            to that of the method: for `SelectiveWeightDecay`
            `Exponential(0.1, 5e3, finish=0.8)`. `GReg1`, `GReg2` and
            `MagnitudePruning` always follow their own.
        allocation: An `Allocation`, how kernels share the target. Methods that
            need each weight's gradient have their own. Defaults to `LAMP()`.
        total_steps: Integer, the number of steps of the whole run. Needed where
            Keras cannot know it (data of unknown length without
            `steps_per_epoch`), or if the run spans several `fit` calls.
            Defaults to epochs times steps per epoch.
        monitor_data: Data to evaluate on at the end of each epoch with the
            selected units at zero: a tuple `(x, y)` or `(x, y, sample_weight)`,
            or a data set. Defaults to `None`.
        reallocations: Integer, how often per run the allocation recomputes
            how many units each kernel gives up (and, for the size of a file,
            all of them together), and at least a hundred times while a `ramp`
            rises. A run that is resumed recomputes them at once. Thresholds
            are updated at every step. `None` recomputes at every step, too.
            Defaults to `100`.
        remove_at: Float in (0, 1], the progress at which selected units become
            zero. What is left of the run trains the others: zeros stay zero.
            Defaults to the method's own time, usually the end.
        ramp: A `Schedule`, the part of the target that is selected, as a
            function of progress; it must reach 1. With
            `Polynomial(0.0, 1.0, begin=0.2, finish=0.7)` that is nothing at
            first, and all from 70 % of the run on, which gives the last
            weights to go time to prove their worth; let the strength start
            high then. For methods that select anew at every step. Until then
            the logs tell of that part, `accuracy_if_removed` too. Defaults to
            `None`, all of the target at once, as in the paper.

    Raises:
        ValueError: If an argument is out of range; at the start of `fit`, if no
            kernel is prunable, a granularity does not fit, a target is missing,
            the number of steps is unknown, or a method needs more.

    Example:

    >>> swd = keras_swd.SelectiveWeightDecay()
    >>> layer = keras.layers.Dense(5, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss="mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 5))
    >>> history = model.fit(
    ...     x,
    ...     y,
    ...     batch_size=1,
    ...     epochs=40,
    ...     verbose=0,
    ...     callbacks=[PruningScheduler(sparsity=0.75)],
    ... )
    >>> int(np.count_nonzero(layer.get_weights()[0]))
    5

    Reference:
        Tessier et al. 2022, arXiv 2011.10520. Growth that ends before the run
        does, and allocations other than the global ranking, are ours.
    """

    def __init__(
        self,
        sparsity: Goal = None,
        schedule: Schedule | None = None,
        allocation: Allocation | None = None,
        total_steps: int | None = None,
        monitor_data=None,
        reallocations: int | None = 100,
        remove_at: float | None = None,
        ramp: Schedule | None = None,
    ):
        super().__init__()
        self.sparsity = check_goal(sparsity)
        self.schedule = schedule
        if not isinstance(self.schedule, Schedule | None):
            raise ValueError(
                "Argument `schedule` must be a keras_swd schedule, e.g. "
                "keras_swd.Exponential(0.1, 5e3, finish=0.8). "
                f"Received: schedule={schedule!r}."
            )
        self.allocation = check_allocation(allocation)
        self.total_steps = check_optional_count("total_steps", total_steps)
        self.monitor_data = monitor_data
        check_repeatable("monitor_data", monitor_data)
        self.reallocations = check_optional_count(
            "reallocations", reallocations
        )
        self.remove_at = remove_at
        if remove_at is not None:
            self.remove_at = check_progress("remove_at", remove_at)
        if self.remove_at == 0.0:
            raise ValueError(
                "Argument `remove_at` must be greater than 0. To prune before "
                f"training, use `remove`. Received: remove_at={remove_at}."
            )
        self.ramp = None if ramp is None else check_ramp(ramp, by=1.0)
        # The length of an epoch that Keras does not know, once one has ended.
        self._counted: int | None = None
        self._run: Run | None = None
        self._in_fit = False

    def on_train_begin(self, logs=None):
        """Finds the kernels, checks all that can be checked, and attaches."""
        self._find_steps()
        self._epoch = 0
        self._done = 0.0
        self._run = None
        self._in_fit = True
        if is_built(self.model):
            self._present_run()

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch, and warns of a step that would be unstable."""
        self._epoch = epoch
        self._before = self._iterations()
        if self._counted and epoch and self._steps is None:
            self._steps_per_epoch = self._counted
        if self._run is not None:
            self._run.begin_epoch(
                end=(epoch + 1) * self._steps_per_epoch / self._total
            )

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the strength and the thresholds of the coming step."""
        model = self._up_to_date_model()
        if self._run is not None or is_built(model):
            self._present_run().begin_step(self._progress(batch))

    def on_train_batch_end(self, batch, logs=None):
        """Notes what is done; keeps removed units at zero."""
        # Of steps that are executed together, Keras tells the last that would
        # fit, also where data end before.
        self._batches = min(batch + 1, self._steps or batch + 1)
        self._done = self._progress(self._batches)
        if self._run is None:
            return
        if self._run.has_removed:
            self._up_to_date_model()
        self._run.end_step()

    def on_test_begin(self, logs=None):
        """Keeps removed units at zero in what is evaluated."""
        if self._run is not None and self._in_fit:
            self._up_to_date_model()
            self._run.keep_zeros()

    def on_epoch_end(self, epoch, logs=None):
        """Adds the state of pruning to `logs`."""
        self._up_to_date_model()
        if self._steps is None:
            ran = self._iterations() - self._before
            together = getattr(self.model, "steps_per_execution", None) or 1
            if ran and together > 1:
                self._batches = min(self._batches, ran)
            self._done = self._progress(self._batches)
            self._steps_per_epoch = self._counted = self._batches
        run = self._present_run()
        # Averaged weights, e.g., may be in place.
        run.keep_zeros()
        masks = run.masks()
        logs = {} if logs is None else logs
        logs.update(run.end_epoch(masks))
        if self.monitor_data is not None:
            weights = run.prunable.weights
            metrics = metrics_if_removed(
                self.model, weights, masks, self.monitor_data
            )
            logs.update({f"{k}_if_removed": v for k, v in metrics.items()})

    def on_train_end(self, logs=None):
        """Removes the selected units, if the run was completed."""
        self._up_to_date_model()
        self._in_fit = False
        run = self._run
        if run is None:
            return
        # Averaged weights, e.g., are put in place when the run ends.
        run.end()
        if self._done >= 1.0 - 0.5 / self._total:
            run.complete()
        elif not run.is_complete:
            run.break_off()
            residual = run.residual()
            if not self._done:
                self._warn_of_no_step(residual)
                return
            removed = "not all" if run.has_removed else "nothing"
            warnings.warn(
                f"The run ended at {self._done:.0%} of its schedule, so "
                f"{removed} was removed; selected weights still hold "
                f"{residual:.2g} of the squared norm. Train on with "
                f"`initial_epoch`, or call `{self._removal()}` and check the "
                "accuracy.",
                stacklevel=2,
            )

    def _warn_of_no_step(self, residual: float) -> None:
        """Warns if a run was resumed after its end, but before removal."""
        if residual and self._iterations() >= self._total:
            warnings.warn(
                "No step was left to run, so nothing was removed; selected "
                f"weights hold {residual:.2g} of the squared norm. Call "
                f"`{self._removal()}`.",
                stacklevel=3,
            )

    def _removal(self) -> str:
        """The call that removes what this callback did not."""
        return (
            f"keras_swd.remove(model, sparsity={expression(self.sparsity)}, "
            f"allocation={expression(self.allocation)})"
        )

    def masks(self) -> list[tuple[keras.Variable, np.ndarray]]:
        """Returns the weights that are pruned and what removal leaves of them.

        For callbacks that come after this one, from the end of the first epoch
        on.

        Returns:
            List of pairs: a variable, and a boolean array of its shape, False
            for what is removed or would be now.
        """
        self._up_to_date_model()
        run = self._present_run()
        variables = [weight.variable for weight in run.prunable.weights]
        return list(zip(variables, run.masks(), strict=True))

    def settings(self) -> dict[str, Any]:
        """Returns what the present run goes by, as plain values.

        They are the arguments, without `monitor_data`, as they are in force:
        `schedule` is a list, usually of one, and empty where a method follows
        a curve of its own.
        """
        run = self._present_run()
        return {
            "sparsity": configuration(self.sparsity),
            "schedule": [
                configuration(schedule) for schedule in run.schedules()
            ],
            "allocation": configuration(self.allocation),
            "total_steps": int(self._total),
            "reallocations": self.reallocations,
            "remove_at": run.remove_at,
            "ramp": configuration(self.ramp),
        }

    def _iterations(self) -> int:
        """How many steps the optimizer has seen."""
        optimizer = getattr(self._up_to_date_model(), "optimizer", None)
        optimizer = inner_optimizer(optimizer)
        # `iterations` counts updates, which are fewer where gradients
        # accumulate.
        counters = getattr(optimizer, "variables", [])
        return next(
            (int(read(v)) for v in counters if v.name == "iteration"), 0
        )

    def _up_to_date_model(self) -> keras.Model:
        """The model, its variables up to date.

        On JAX it is reading the attribute that brings them up to date, and
        that makes the coming step read what is assigned to them.
        """
        return self.model

    def _present_run(self) -> Run:
        """The run, which begins as soon as the model is built."""
        if self._run is None:
            self._run = Run(
                self.model,
                self._total,
                sparsity=self.sparsity,
                schedule=self.schedule,
                allocation=self.allocation,
                reallocations=self.reallocations,
                remove_at=self.remove_at,
                ramp=self.ramp,
            )
        return self._run

    def _find_steps(self) -> None:
        """Finds the number of steps of an epoch and of the whole run."""
        params = self.params or {}
        steps: Any = params.get("steps")
        epochs: Any = params.get("epochs")
        total = self.total_steps or (steps or 0) * (epochs or 0)
        if epochs == 0:  # no step will run, and any numbers do
            steps, total = steps or 1, total or 1
        if not total or not (steps or epochs):
            raise ValueError(
                "The number of steps in an epoch is unknown, so progress "
                "cannot be measured. Pass `total_steps` to PruningScheduler, "
                "or `steps_per_epoch` to `fit`; in a loop of your own, call "
                "`set_params`, and to a `CallbackList` of your own, pass "
                f"`epochs` and `steps`. Received: steps={steps}, "
                f"epochs={epochs}."
            )
        self._steps, self._total = steps, total
        self._steps_per_epoch = steps or total / epochs

    def _progress(self, batch: int) -> float:
        """Share of the run that is done before the given batch."""
        step = self._epoch * self._steps_per_epoch + batch
        return min(step / self._total, 1.0)
