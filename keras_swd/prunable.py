"""What of a model is pruned, to which target: counts, choices and masks."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.allocation import LAMP, Allocation
from keras_swd.backend.processes import in_pieces
from keras_swd.coupling.following import follow
from keras_swd.coupling.liveness import find_live
from keras_swd.models import check_built
from keras_swd.regularizers.base import (
    PruningRegularizer,
    pruning_regularizer,
)
from keras_swd.regularizers.controls import Controls
from keras_swd.regularizers.selectors import ControlSlice
from keras_swd.targets.aims import Aim, find_aims
from keras_swd.targets.budgets import Budget
from keras_swd.targets.counts import Target
from keras_swd.targets.limits import Goal, SizeLimit
from keras_swd.units.channels import PrunedWeight, UnitSet, find_channels
from keras_swd.units.kernels import Choice, KernelWithPart, find_kernels
from keras_swd.units.masking import all_finite

#: A set that keeps fewer units, and less than a tenth of them, is at risk.
FEW_UNITS = 10


class Prunable:
    """The units of a model that are pruned, and the weights they lie on.

    Args:
        model: A built `keras.Model`.
        sparsity: Float in [0, 1), the share of units to remove of the sets
            that have no target of their own; or a `Budget`, a `SizeLimit`
            or None.
        allocation: An `Allocation`, how sets share the target.

    Raises:
        ValueError: If nothing can be pruned as asked.
    """

    def __init__(
        self,
        model: keras.Model,
        sparsity: Goal,
        allocation: Allocation,
    ):
        check_built(model)
        kernels = find_kernels(model)
        channels = find_channels(model, offset=len(kernels))
        self.sparsity = sparsity
        self.sets: list[UnitSet] = [*kernels, *channels.sets]
        self.weights: list[PrunedWeight] = [*kernels, *channels.weights]
        self._channels = channels
        self._check(model)
        self.target = Target(model, kernels, channels, sparsity, allocation)

    @property
    def regularizers(self) -> list[PruningRegularizer]:
        """Each regularizer once."""
        return list(
            {id(w.regularizer): w.regularizer for w in self.weights}.values()
        )

    def counts(self, share: float = 1.0) -> list[int]:
        """Returns how many units each set gives up now; see `Target`."""
        return self.target.counts(share)

    def choose(self, counts: Sequence[int]) -> list[Choice]:
        """Returns the lowest units of each set.

        Args:
            counts: Integers, how many of each set.

        Returns:
            List of `Choice`, one per set.
        """
        sets = zip(self.sets, counts, strict=True)
        return [units.choose(count) for units, count in sets]

    def masks(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """Returns a mask for each weight, False for the chosen entries."""
        return [weight.chosen(choices) for weight in self.weights]

    def at_risk(self, counts: Sequence[int]) -> dict[int, str]:
        """Returns which sets are about to lose nearly all their units.

        Args:
            counts: Integers, how many units of each set are to go.

        Returns:
            Dictionary from the place of a set to a warning.
        """
        found = {}
        lamp = isinstance(self.target.allocation, LAMP)
        other = "" if lamp else "`allocation=keras_swd.LAMP()`, "
        for place, (units, count) in enumerate(
            zip(self.sets, counts, strict=True)
        ):
            kept = units.size - count
            # A method that allots units itself lets the loss decide.
            if units.regularizer.allocation is None and (
                kept < min(FEW_UNITS, units.size / 10)
            ):
                found[place] = (
                    f"Kernel {units.path!r} is about to keep {kept} of its "
                    f"{units.size} units, which may break the network. Use "
                    f"{other}a lower `sparsity`, or give its regularizer a "
                    "`sparsity` of its own."
                )
        # What diverged has no lowest units; removal will refuse it.
        return found if found and all_finite(self.weights) else {}

    def shortfalls(
        self, model: keras.Model, masks: Sequence[np.ndarray]
    ) -> list[str]:
        """Returns what falls short of a removal that was just made.

        Args:
            model: The model.
            masks: One mask for each weight, as they were applied.

        Returns:
            List of strings, each a warning.
        """
        found = [
            f"Kernel {weight.path!r} kept weights that were set to zero, so it "
            "misses its target. Something else assigns to it."
            for weight, mask in zip(self.weights, masks, strict=True)
            if weight.values()[~mask].any()
        ]
        alive = self._alive(model, masks) if self._channels.sets else []
        if alive:
            found.append(
                f"Channels that were set to zero in {', '.join(alive)} still "
                "reach the outputs, so `shrink` cannot cut them and the model "
                "stays larger than its target. Other weights add to them: "
                "give the regularizer to these too, as "
                "`CoupledChannels(kernels=True)` with `with_regularizer` "
                "does, or unfreeze them."
            )
        return found

    def _alive(
        self, model: keras.Model, masks: Sequence[np.ndarray]
    ) -> list[str]:
        """Paths, each once, of sets whose removed channels do not all go."""
        removed = np.zeros(len(self._channels.classes), bool)
        for weight, mask in zip(self.weights, masks, strict=True):
            for place in getattr(weight, "places", ()):
                others = tuple(a for a in range(mask.ndim) if a != place.axis)
                gone = place.units[~mask.any(axis=others)]
                removed[gone[gone >= 0]] = True
        live = find_live(follow(model))
        alive = live.kept & ~live.filled
        stays = alive[self._channels.classes] & removed
        paths = (
            repr(units.path)
            for units in self._channels.sets
            if stays[units.first : units.first + units.size].any()
        )
        return list(dict.fromkeys(paths))

    def attach(self, model: keras.Model) -> tuple[list["Attached | Aim"], bool]:
        """Connects the weights to the controls that compiled steps see.

        Args:
            model: The model that is about to train.

        Returns:
            List of `Attached`, one per regularizer, or `Aim`, one per part in
            the optimizer; and whether any is new to the model, so that steps
            it compiled before must be compiled again.
        """
        inside = [w for w in self.weights if isinstance(w, KernelWithPart)]
        aims = find_aims(model, inside, self.sparsity)
        members: dict[int, list[PrunedWeight]] = {}
        for weight in self.weights:
            if isinstance(weight, KernelWithPart):
                continue
            if pruning_regularizer(weight.variable) is None:
                continue  # removed, but not penalized
            members.setdefault(id(weight.regularizer), []).append(weight)
        attached: list[Attached | Aim] = [*aims]
        new = False
        for weights in members.values():
            regularizer = weights[0].regularizer
            ends = np.cumsum([weight.width for weight in weights]).tolist()
            uses = [
                ControlSlice(weight.select, end - weight.width, end)
                for weight, end in zip(weights, ends, strict=True)
            ]
            variables = [weight.variable for weight in weights]
            controls, is_new = regularizer.attach(variables, uses, model)
            attached.append(Attached(regularizer, controls, weights))
            new = new or is_new
        return attached, new

    def _check(self, model: keras.Model) -> None:
        """Raises a `ValueError` if the sets cannot be pruned as asked."""
        if not self.sets:
            raise _nothing_to_prune(model)
        for weight in self.weights:
            if in_pieces(weight.variable):
                raise ValueError(
                    f"Kernel {weight.path!r} lies in pieces on several "
                    "machines, so none can rank its weights. Use "
                    "`keras.distribution.DataParallel`, or a layout map that "
                    "leaves it whole."
                )
        for units in self.sets:
            units.check()
            if self.sparsity is None and units.regularizer.sparsity is None:
                raise ValueError(
                    f"Kernel {units.path!r} has no target. Pass `sparsity`, "
                    "the target of all kernels without their own, or give its "
                    "regularizer one. Received: sparsity=None."
                )
        if isinstance(self.sparsity, Budget):
            self._check_budget(self.sparsity)
        if isinstance(self.sparsity, SizeLimit):
            for units in self.sets:
                _check_limited(units, self.sparsity)

    def _check_budget(self, budget: Budget) -> None:
        """Raises a `ValueError` if kernels by themselves cannot meet it."""
        shared = [
            units
            for units in self.sets
            if units.regularizer.sparsity is None
            and not units.regularizer.granularity.coupled
        ]
        for units in shared:
            # Zeros shrink no model; a method may count them all the same.
            counts = units.regularizer.allocation is not None
            if self._channels.sets or not counts:
                raise ValueError(
                    f"Kernel {units.path!r} cannot meet the budget "
                    f"{budget!r}: no zero in it makes the model smaller. Give "
                    "its regularizer a `sparsity` of its own, or "
                    "`granularity=keras_swd.CoupledChannels()`."
                )
        methods = {
            id(units.regularizer.part): type(units.regularizer).__name__
            for units in shared
        }
        if len(methods) > 1:
            raise ValueError(
                f"Kernels cannot share the budget {budget!r}, since their "
                f"methods {sorted(methods.values())} rank weights in ways of "
                "their own. Use one method, or give the kernels of the other "
                "a `sparsity` of their own."
            )


def _nothing_to_prune(model: keras.Model) -> ValueError:
    if any(map(pruning_regularizer, model.trainable_variables)):
        return ValueError(
            f"No channel of model {model.name!r} can be pruned: all channels "
            "that carry a pruning regularizer have to stay. "
            "`keras_swd.find_coupling(model)` says why."
        )
    return ValueError(
        f"No trainable kernel of model {model.name!r} carries a pruning "
        "regularizer. Pass `kernel_regularizer="
        "keras_swd.SelectiveWeightDecay()` to the layers to prune, or use "
        "`keras_swd.with_regularizer(model, ...)` on an existing model."
    )


def _check_limited(units: UnitSet, limit: SizeLimit) -> None:
    """Raises a `ValueError` if these units cannot meet a size by trial."""
    if units.regularizer.granularity.coupled:
        raise ValueError(
            f"Kernel {units.path!r} cannot meet the target {limit!r}: its "
            "coupled channels are cut out after training, by `shrink`, which "
            "the size does not predict. Ask for a share of the model, as "
            "`keras_swd.Parameters(left=0.5)`, or use another granularity."
        )
    if units.regularizer.part is not None and (
        units.regularizer.sparsity is None
    ):
        raise ValueError(
            f"Kernel {units.path!r} cannot meet the target {limit!r}: its "
            "method pursues a share of the weights from the first step on. "
            "Pass `sparsity` as a number; `keras_swd.export.plan_sizes(model)` "
            "tells the size for each."
        )


@dataclasses.dataclass(frozen=True)
class Attached:
    """A regularizer, its controls, and the weights that read these."""

    regularizer: PruningRegularizer
    controls: Controls
    weights: Sequence[PrunedWeight]

    def set(self, strength: float, choices: Sequence[Choice] | None) -> None:
        """Sets what the coming step sees; None leaves the choice as it is."""
        if choices is None:
            self.controls.set(strength)
            return
        self.controls.set(strength, self.selection(choices))

    def selection(self, choices: Sequence[Choice]) -> np.ndarray:
        """Returns what selects these units in a compiled step."""
        return np.concatenate([w.controls(choices) for w in self.weights])

    def release(self) -> None:
        """Leaves plain weight decay to what comes after this run."""
        self.controls.release()

    def logs(self) -> dict[str, float]:
        """Returns what to add to `logs` at the end of an epoch: nothing."""
        return {}
