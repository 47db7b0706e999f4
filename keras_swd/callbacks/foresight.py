"""Warnings of what will go wrong in a run, each once, while there is time."""

import warnings
from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.callbacks import forecast
from keras_swd.callbacks.choosing import Once, Renewed
from keras_swd.callbacks.steering import Steering
from keras_swd.prunable import Prunable
from keras_swd.units.masking import HARMLESS, largest_masked, share_of_norm

#: Share of the final strength from which on the ranking is taken seriously.
SETTLING = 0.01


class Foresight:
    """Warns of a run that will break a layer, diverge, or not arrive.

    Args:
        model: The model that trains.
        prunable: Its `Prunable`.
        selection: How units are chosen.
        steering: The `Steering` of the run.
        remove_at: Float, the progress at which units become zero.
    """

    def __init__(
        self,
        model: keras.Model,
        prunable: Prunable,
        selection: Renewed | Once,
        steering: Steering,
        remove_at: float,
    ):
        self.model = model
        self.prunable = prunable
        self.selection = selection
        self.steering = steering
        self.remove_at = remove_at
        self._warned: set[str | int] = set()
        # Whether the ranking is taken seriously.
        self._settled = False
        # The share of a selected weight that was warned to be left at removal.
        self._foreseen = 0.0

    def warn(self, subject: str | int, message: str | None) -> None:
        """Warns, once of each subject; None says that all is well."""
        if message is not None and subject not in self._warned:
            self._warned.add(subject)
            warnings.warn(message, stacklevel=2)

    def of_collapse(self, progress: float, renewed: bool) -> None:
        """Warns if a set is about to lose nearly all its units.

        Args:
            progress: Float, that of the coming step.
            renewed: Boolean, whether it is new how many units go.
        """
        if not self.selection.counts or (self._settled and not renewed):
            return
        # While the decay is weak, the ranking still mirrors initial values.
        strongest = self.steering.strongest
        self._settled = strongest(progress) >= SETTLING * strongest(1.0)
        if self._settled or self.selection.final:
            at_risk = self.prunable.at_risk(self.selection.counts)
            for place, message in at_risk.items():
                self.warn(place, message)

    def of_instability(self, progress: float) -> None:
        """Warns if the decay of a step at `progress` is too strong."""
        decay = self.steering.decay(progress)
        message = forecast.instability(self._optimizer(), decay)
        self.warn("stability", message)

    def of_shortfall(self, progress: float, resumed: bool) -> None:
        """Warns at `progress` if weights will not be near zero at the end.

        Args:
            progress: Float, that of the coming step.
            resumed: Boolean, whether an earlier part of the run has driven
                weights down. Then they may be small enough already.
        """
        decays = self.steering.growing_decays(self.remove_at)
        if not decays:
            return  # nothing is driven down, as in magnitude pruning
        choices = self.selection.choices
        if self.selection.whole_at > progress:
            choices = self.prunable.choose(self.prunable.counts())
        masks = self.prunable.masks(choices)
        magnitude = largest_masked(self.prunable.weights, masks)
        if not magnitude:
            return  # nothing is selected that is not zero already
        held = share_of_norm(self.prunable.weights, masks)
        for decay in decays:
            left = forecast.share_left(
                self._optimizer(),
                decay,
                magnitude,
                total_steps=self.steering.total_steps,
                begin=progress,
                end=self.remove_at,
                selected=self.selection.whole_at,
            )
            message = forecast.shortfall(left)
            if left is None or message is None:
                continue
            if resumed and held * left**2 <= HARMLESS:
                continue  # what is left may go unnoticed
            self.warn("forecast", message)
            self._foreseen = max(self._foreseen, left)

    def of_residual(self, masks: Sequence[np.ndarray]) -> None:
        """Warns if units that are about to become zero still matter."""
        if not self.steering.growing_decays(self.remove_at):
            return  # nothing was driven down, as in magnitude pruning
        if self._foreseen**2 > HARMLESS:
            return
        residual = share_of_norm(self.prunable.weights, masks)
        if residual > HARMLESS:
            self.warn(
                "residual",
                f"What is removed now holds {residual:.1%} of the squared norm "
                "of the prunable weights, so the model changes with it; "
                "evaluate it. Selected weights were not driven down, or came "
                "back: gradients are clipped, a training step of your own "
                "leaves out `sum(model.losses)`, the learning rate fell early "
                "or is low for so few steps, or weights of another moment were "
                "put in place at the end, as by `EarlyStopping("
                "restore_best_weights=True)` or an optimizer with "
                "`use_ema=True`.",
            )

    def of_return(self, masks: Sequence[np.ndarray]) -> None:
        """Warns if units that were removed before have come back."""
        residual = share_of_norm(self.prunable.weights, masks)
        if residual > HARMLESS:
            self.warn(
                "return",
                "Weights from before the removal were put in place at the end "
                "of the run, as by `EarlyStopping(restore_best_weights=True)` "
                "or by an average that reaches so far back. In them, what had "
                f"been removed holds {residual:.1%} of the squared norm; it is "
                "removed again, so evaluate the model. Leave that out, or let "
                "removal come last, without `remove_at`.",
            )

    def _optimizer(self):
        return getattr(self.model, "optimizer", None)
