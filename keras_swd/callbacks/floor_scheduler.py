"""The callback that removes weights while a metric stays above a floor."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from keras_swd.arguments import check_positive, check_sparsity, is_number
from keras_swd.backend.host import read
from keras_swd.models import check_built
from keras_swd.optimizers import build_parts, inner_optimizer
from keras_swd.regularizers.irrelevance import IrrelevanceDecay
from keras_swd.selection import removed_count
from keras_swd.units.kernels import Kernel, KernelWithPart, find_kernels
from keras_swd.units.masking import HARMLESS, check_finite, share_of_norm


class FloorScheduler(keras.callbacks.Callback):
    """Removes weights again and again, as long as a metric allows it.

    For kernels that carry `IrrelevantWeights` or `Lobster`, in a model that
    was trained before. At the end of each epoch, if the metric is above the
    floor, it remembers the weights and then sets the share `share` of those
    that are left to zero, the smallest of all kernels together. The decay of
    irrelevant weights then starts again at `strength` and fades within an
    epoch. Zeros stay zero from then on; those that a model begins with are
    trained again. For shorter rounds pass `steps_per_epoch` to `fit`.

    If the last epoch ends below the floor or is not validated, or no step
    followed the last removal, the run ends with the weights that were last
    above it. These are remembered in memory alone: a run that was resumed
    knows those of the epochs since. Place this callback before those that save.

    At the end of each epoch it adds to `logs`: `sparsity`, the share of zeros
    after the epoch's removal; `swd_strength`, that of the last step; and
    `irrelevance`, the mean irrelevance of the last step.

    Args:
        floor: Float, what the metric must exceed.
        monitor: String, the name of a metric in `logs`, of which more is
            better. Defaults to `"val_accuracy"`.
        share: Float in (0, 1), the share of the weights left that is removed
            at a time. Defaults to `0.1`.
        strength: Float > 0, that of the decay. Defaults to `1e-3`.
        sparsity: Float in [0, 1), at which removal stops, exactly. `None`
            goes as far as the floor allows. Defaults to `None`.

    Raises:
        ValueError: If an argument is out of range; at the start of `fit`, if
            no kernel carries the method, or the number of steps is unknown;
            at the end of an epoch that validates, if `logs` lack the metric.

    Example:

    >>> FloorScheduler(floor=0.98, share=0.04).floor
    0.98

    Reference:
        Bonetta et al. 2022, arXiv 2204.04977.
    """

    def __init__(
        self,
        floor: float,
        monitor: str = "val_accuracy",
        share: float = 0.1,
        strength: float = 1e-3,
        sparsity: float | None = None,
    ):
        super().__init__()
        if not is_number(floor):
            raise ValueError(
                "Argument `floor` must be a number, in the unit of the "
                f"metric. Received: floor={floor!r}."
            )
        if not is_number(share) or not 0.0 < share < 1.0:
            raise ValueError(
                "Argument `share` must be in (0, 1), the share of the weights "
                f"left that is removed at a time. Received: share={share!r}."
            )
        if not isinstance(monitor, str):
            raise ValueError(
                "Argument `monitor` must be the name of a metric in the logs, "
                f"e.g. 'val_accuracy'. Received: monitor={monitor!r}."
            )
        self.floor = float(floor)
        self.monitor = monitor
        self.share = float(share)
        self.strength = check_positive("strength", strength)
        self.sparsity = None if sparsity is None else check_sparsity(sparsity)
        # Where weights were removed in the present run.
        self._zeros: list[np.ndarray] = []

    def on_train_begin(self, logs=None):
        """Finds the kernels and the number of steps of an epoch."""
        self._steps: Any = (self.params or {}).get("steps")
        if not self._steps:
            raise ValueError(
                "The number of steps in an epoch is unknown, so the decay "
                "cannot fade. Pass `steps_per_epoch` to `fit`. "
                f"Received: steps={self._steps}."
            )
        self._epoch: int | None = None
        self._remembered: list[np.ndarray] | None = None
        self._zeros = []
        self._trained = True
        self._values: list[float] = []
        model = self.model
        check_built(model)
        # An optimizer has one part for each method.
        parts = build_parts(model)
        found = [p for p in parts if isinstance(p, IrrelevanceDecay)]
        if not found:
            raise ValueError(
                f"No trainable kernel of model {model.name!r} carries "
                "`IrrelevantWeights`. Use `keras_swd.with_regularizer(model, "
                "keras_swd.IrrelevantWeights())`."
            )
        self._part = found[0]
        self._kernels: list[Kernel] = [
            kernel
            for kernel in find_kernels(model)
            if isinstance(kernel, KernelWithPart) and kernel.part is self._part
        ]

    def on_epoch_begin(self, epoch, logs=None):
        """Goes on from the last removal, in a run that is resumed."""
        first, self._epoch = self._epoch is None, epoch
        if not first:
            # Weights that were swapped for averages come back.
            _ = self.model
            self._keep_zeros()
            return
        _ = self.model  # on JAX this brings variables up to date
        steps, since = epoch * self._steps, int(read(self._part.since))
        if epoch == 0 or since == 0:
            self._restart(steps, holds=False)
        else:
            holds = self._count()[0] > 0
            self._restart(min(since - 1, steps), holds)

    def on_train_batch_begin(self, batch, logs=None):
        """Sets the strength of the coming step."""
        _ = self.model
        passed = self._epoch * self._steps + batch + 1 - self._since
        self._strength = faded(self.strength, passed, self._steps)
        self._part.set(self._strength)

    def on_train_batch_end(self, batch, logs=None):
        """Notes that a step followed the last removal."""
        self._trained = True

    def on_test_begin(self, logs=None):
        """Keeps removed weights at zero in what is evaluated."""
        if self._zeros:
            _ = self.model
            self._keep_zeros()

    def on_epoch_end(self, epoch, logs=None):
        """Removes weights if the metric is above the floor."""
        logs = {} if logs is None else logs
        # What is unknown is above no floor.
        value = math.nan if self._is_not_validated(logs) else logs[self.monitor]
        if np.ndim(value):
            raise ValueError(
                f"Argument `monitor` names {self.monitor!r}, which is several "
                "numbers. Give the metric an average, as in "
                "`keras.metrics.F1Score(average='macro')`. "
                f"Received: {self.monitor}={value}."
            )
        _ = self.model
        self._keep_zeros()
        self._values.append(float(value))
        if self._values[-1] > self.floor:
            check_finite(self._kernels)
            self._remembered = self.model.get_weights()
            # What is removed last would not be trained any more.
            if epoch + 1 < self.params["epochs"] and self._remove():
                self._restart((epoch + 1) * self._steps, holds=True)
                self._trained = False
        zeros, size = self._count()
        logs["sparsity"] = zeros / size
        logs["swd_strength"] = self._strength
        logs.update(self._part.logs())

    def on_train_end(self, logs=None):
        """Ends with weights that were above the floor, if any were."""
        model = self.model
        self._part.release()
        # Averaged weights, e.g., are put in place when the run ends.
        replaced = self._are_replaced()
        self._keep_zeros()
        self._zeros = []
        if not self._values:
            return
        if replaced and self._remembered is not None:
            warnings.warn(
                "Weights from before a removal were put in place at the end of "
                "the run, as by `EarlyStopping(restore_best_weights=True)`, so "
                "those of the last epoch above the floor were put back. Leave "
                "that callback out: this one ends with weights that are above "
                "the floor.",
                stacklevel=2,
            )
        # What diverged is NaN, and not above the floor.
        is_above = self._values[-1] > self.floor
        if replaced or not is_above or not self._trained:
            if self._remembered is None:
                warnings.warn(self._nothing_removed(), stacklevel=2)
            else:
                model.set_weights(self._remembered)

    def masks(self) -> list[tuple[keras.Variable, np.ndarray]]:
        """Returns the weights that are pruned and where they are not zero.

        Returns:
            List of pairs: a variable, and a boolean array of its shape.
        """
        _ = self.model
        return [(k.variable, k.values() != 0.0) for k in self._kernels]

    def settings(self) -> dict[str, Any]:
        """Returns the arguments, as plain values."""
        return {
            "floor": self.floor,
            "monitor": self.monitor,
            "share": self.share,
            "strength": self.strength,
            "sparsity": self.sparsity,
        }

    def _nothing_removed(self) -> str:
        """Says why nothing was removed in this run, and what to do."""
        known = [value for value in self._values if not math.isnan(value)]
        if not known:
            return (
                f"{self.monitor!r} was NaN or missing in all epochs of this "
                "run, so nothing was removed in it. Pass `validation_data` to "
                "`fit`, with a `validation_freq` below its number of epochs."
            )
        return (
            f"{self.monitor!r} was never above the floor in this run, so "
            f"nothing was removed in it; its best value was {max(known):.6g}. "
            "Lower the floor, or train the model longer before. "
            f"Received: floor={self.floor}."
        )

    def _is_not_validated(self, logs: dict[str, Any]) -> bool:
        """Whether this epoch was not validated, though others may be."""
        if self.monitor in logs:
            return False
        missing = (
            f"Argument `monitor` names {self.monitor!r}, which is not in the "
            f"logs {sorted(logs)}. Pass `validation_data` to `fit`, and the "
            "metric to `compile`."
        )
        validated = any(name.startswith("val_") for name in logs)
        if validated or not self.monitor.startswith("val_"):
            raise ValueError(missing)
        if not self._values:
            warnings.warn(
                f"{missing} With `validation_freq`, weights are removed at the "
                "end of epochs that validate.",
                stacklevel=2,
            )
        return True

    def _are_replaced(self) -> bool:
        """Whether the weights are those of before a removal.

        Averages keep some of what was removed; they are no others.
        """
        if not self._zeros or inner_optimizer(self.model.optimizer).use_ema:
            return False
        masks = [~zeros for zeros in self._zeros]
        return share_of_norm(self._kernels, masks) > HARMLESS

    def _keep_zeros(self) -> None:
        """Sets what was removed in this run to zero again."""
        for kernel, zeros in zip(self._kernels, self._zeros, strict=False):
            kernel.apply(~zeros)

    def _restart(self, steps: int, holds: bool) -> None:
        """Lets the decay begin anew after so many steps of the run."""
        self._part.restart(steps, holds)
        self._since = steps
        if holds:
            self._zeros = [kernel.values() == 0.0 for kernel in self._kernels]

    def _count(self) -> tuple[int, int]:
        """How many weights are zero, and how many there are."""
        values = [kernel.values() for kernel in self._kernels]
        zeros = sum(int(np.count_nonzero(v == 0.0)) for v in values)
        return zeros, sum(v.size for v in values)

    def _remove(self) -> bool:
        """Removes the smallest weights left; whether there were any."""
        zeros, size = self._count()
        count = removed_count(size - zeros, self.share)
        if self.sparsity is not None:
            count = min(count, removed_count(size, self.sparsity) - zeros)
        if count <= 0:
            return False
        scores = [kernel.unit_scores() for kernel in self._kernels]
        masks = smallest_left(scores, count)
        for kernel, mask in zip(self._kernels, masks, strict=True):
            kernel.apply(mask.reshape(kernel.shape))
        return True


def faded(strength: float, passed: float, steps: int) -> float:
    """Returns the strength in a step after a removal.

    Args:
        strength: Float, that before the first step.
        passed: Float, how many steps ago it was, the present one included.
        steps: Integer, in how many it fades.

    Example:

    >>> faded(1e-3, 250, 500)
    0.0005
    """
    return strength * max(0.0, 1.0 - passed / steps)


def smallest_left(scores, count: int) -> list[np.ndarray]:
    """Returns masks without the zeros and the `count` lowest scores.

    Args:
        scores: Float arrays of shape `(entries,)`, one for each kernel.
        count: Integer, how many of those above 0 go, earlier ones first among
            equals.

    Returns:
        Boolean arrays of the same shapes, False for what is gone.
    """
    everything = np.concatenate(scores)
    order = np.argsort(everything, kind="stable")
    zeros = int(np.count_nonzero(everything == 0.0))
    mask = np.ones(everything.size, bool)
    mask[order[: zeros + count]] = False
    return np.split(mask, np.cumsum([s.size for s in scores])[:-1])
