"""What of a model is pruned, to which target: counts, choices and masks."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.aims import Aim, find_aims
from keras_swd.allocation import Allocation
from keras_swd.budgets import Budget, fewest, lowest_until
from keras_swd.channels import ChannelSet, ChannelWeight, find_channels
from keras_swd.kernels import Choice, Kernel, KernelWithPart, find_kernels
from keras_swd.regularizers.base import Controls, PruningRegularizer, Use
from keras_swd.schedules import Schedule
from keras_swd.selection import check_sparsity, lowest_units

#: Units that are ranked among themselves; a weight that units lie on.
Set = Kernel | ChannelSet
Weight = Kernel | ChannelWeight


def check_target(sparsity) -> float | Budget | None:
    """Returns a target as it is meant, or raises if it is none."""
    if sparsity is None or isinstance(sparsity, Budget):
        return sparsity
    return check_sparsity(sparsity)


class Prunable:
    """The units of a model that are pruned, and the weights they lie on.

    Args:
        model: A built `keras.Model`.
        sparsity: Float in [0, 1), the share of units to remove of the sets
            that have no target of their own; or a `Budget`; or None.
        allocation: An `Allocation`, how sets share the target.

    Raises:
        ValueError: If nothing can be pruned as asked.
    """

    def __init__(
        self,
        model: keras.Model,
        sparsity: float | Budget | None,
        allocation: Allocation,
    ):
        _check_built(model)
        kernels = find_kernels(model)
        channels = find_channels(model, offset=len(kernels))
        self.sparsity = sparsity
        self.allocation = allocation
        self.sets: list[Set] = [*kernels, *channels.sets]
        self.weights: list[Weight] = [*kernels, *channels.weights]
        self._units = sum(s.size for s in channels.sets)
        self._check(model)
        if isinstance(sparsity, Budget):
            if channels.sets:
                self._cost = sparsity.cost(model, channels.places)
                self._allowed = sparsity.left * self._cost(
                    np.ones(self._units, bool)
                )
            else:
                alone = [k for k in kernels if k.regularizer.sparsity is None]
                self._entries = sparsity.entries(
                    model, [kernel.variable for kernel in alone]
                )
            self.counts()

    def counts(self) -> list[int]:
        """Returns how many units each set gives up now.

        A kernel with its own target meets it alone. The others share theirs
        by `allocation`, or as their method says, sets of one granularity
        among themselves: units of different kinds cannot be ranked together.

        Returns:
            List of integers, one per set.
        """
        pools: dict[tuple, list[int]] = {}
        for i, units in enumerate(self.sets):
            own = units.regularizer.sparsity
            granularity = units.regularizer.granularity
            alone = None if own is None or granularity.coupled else i
            target = self.sparsity if own is None else own
            allocation = units.regularizer.allocation or self.allocation
            key = (target, alone, granularity, allocation)
            pools.setdefault(key, []).append(i)
        counts = [0] * len(self.sets)
        for (target, _, granularity, allocation), members in pools.items():
            sets = [self.sets[i] for i in members]
            shared = self._shares(sets, target, granularity, allocation)
            for i, count in zip(members, shared, strict=True):
                counts[i] = count
        return counts

    def _shares(
        self, sets: list[Set], target, granularity, allocation
    ) -> list[int]:
        """How many units each set of a pool gives up."""
        scores = [units.unit_scores() for units in sets]
        shapes = [units.shape for units in sets]
        total = sum(s.size for s in scores)
        if isinstance(target, Budget) and not granularity.coupled:
            costs, allowed = self._entries
            own = float(costs @ np.array([s.size for s in scores]))
            return lowest_until(scores, costs, own - allowed)

        def share(sparsity: float) -> list[int]:
            shares = allocation.counts(scores, shapes, sparsity)
            for units, count, s in zip(sets, shares, scores, strict=True):
                if not 0 <= count <= s.size:
                    raise ValueError(
                        f"{allocation!r} wants to remove {count} of the "
                        f"{s.size} units of kernel {units.path!r}."
                    )
            if granularity.coupled and not granularity.may_empty:
                return _leave_one(shares, scores)
            return shares

        if not isinstance(target, Budget):
            return share(target)

        def removed(count: int) -> np.ndarray:
            marks = np.zeros(self._units, bool)
            shares = share(count / total)
            for units, s, n in zip(sets, scores, shares, strict=True):
                own = slice(units.first, units.first + units.size)
                marks[own] = lowest_units(s, n)
            return marks

        most = total if granularity.may_empty else total - len(sets)
        count = fewest(self._cost, self._allowed, removed, most)
        return share(count / total)

    def choose(
        self, counts: Sequence[int], before: Sequence[Choice] = ()
    ) -> list[Choice]:
        """Returns the lowest units of each set.

        Args:
            counts: Integers, how many of each set.
            before: What was chosen a step ago, with which it is found sooner.
                Defaults to `()`.

        Returns:
            List of `Choice`, one per set.
        """
        guesses = [c.threshold for c in before] or [None] * len(self.sets)
        sets = zip(self.sets, counts, guesses, strict=True)
        return [units.choose(count, guess) for units, count, guess in sets]

    def masks(self, choices: Sequence[Choice]) -> list[np.ndarray]:
        """Returns a mask for each weight, False for the chosen entries."""
        return [weight.chosen(choices) for weight in self.weights]

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
        members: dict[int, list[Weight]] = {}
        for weight in self.weights:
            if isinstance(weight, KernelWithPart):
                continue
            members.setdefault(id(weight.regularizer), []).append(weight)
        attached: list[Attached | Aim] = [*aims]
        new = False
        for weights in members.values():
            regularizer = weights[0].regularizer
            ends = np.cumsum([weight.width for weight in weights]).tolist()
            uses = [
                Use(weight.select, end - weight.width, end)
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
            raise ValueError(
                f"No trainable kernel of model {model.name!r} carries a "
                "pruning regularizer. Pass `kernel_regularizer="
                "keras_swd.SelectiveWeightDecay()` to the layers to prune, or "
                "use `keras_swd.with_regularizer(model, ...)` on an existing "
                "model."
            )
        for units in self.sets:
            units.check()
            own = units.regularizer.sparsity
            if self.sparsity is None and own is None:
                raise ValueError(
                    f"Kernel {units.path!r} has no target. Pass `sparsity`, "
                    "the target of all kernels without their own, or give its "
                    "regularizer one. Received: sparsity=None."
                )
            coupled = units.regularizer.granularity.coupled
            if (
                isinstance(self.sparsity, Budget)
                and own is None
                and not coupled
                and (self._units or units.regularizer.allocation is None)
            ):
                raise ValueError(
                    f"Kernel {units.path!r} cannot meet the budget "
                    f"{self.sparsity!r}: no zero in it makes the model "
                    "smaller. Give its regularizer a `sparsity` of its own, "
                    "or `granularity=keras_swd.CoupledChannels()`."
                )


@dataclasses.dataclass(frozen=True)
class Attached:
    """A regularizer, its controls, and the weights that read these."""

    regularizer: PruningRegularizer
    controls: Controls
    weights: Sequence[Weight]

    def set(self, strength: float, choices: Sequence[Choice]) -> None:
        """Sets what the coming step sees."""
        values = [weight.controls(choices) for weight in self.weights]
        self.controls.set(strength, np.concatenate(values))

    def release(self) -> None:
        """Leaves plain weight decay to what comes after this run."""
        self.controls.release()

    def logs(self) -> dict[str, float]:
        """Returns what to add to `logs` at the end of an epoch: nothing."""
        return {}


def _check_built(model: keras.Model) -> None:
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so it has no kernels to "
            "prune. Call it on data, or `model.build(input_shape)`, first."
        )


def _leave_one(
    counts: Sequence[int], scores: Sequence[np.ndarray]
) -> list[int]:
    """Spares the best unit of each set; others go in their place."""
    spared = [min(n, s.size - 1) for n, s in zip(counts, scores, strict=True)]
    for _ in range(sum(counts) - sum(spared)):
        coming = [
            np.sort(s)[n] if n < s.size - 1 else np.inf
            for n, s in zip(spared, scores, strict=True)
        ]
        lowest = int(np.argmin(coming))
        if np.isinf(coming[lowest]):
            raise ValueError(
                "Every set of coupled channels keeps one, so the target is "
                f"out of reach: {sum(counts)} channels were to go, and "
                f"{sum(spared)} can. Lower `sparsity`, or pass `may_empty="
                "True` to `CoupledChannels`."
            )
        spared[lowest] += 1
    return spared


def default_schedule(weights: Sequence[Weight]) -> Schedule:
    """Returns the schedule that the method of the weights is made for."""
    schedules = {weight.regularizer.schedule for weight in weights}
    if len(schedules) > 1:
        raise ValueError(
            "The model's kernels carry methods whose strengths differ: "
            f"{sorted(map(str, schedules))}. Pass `schedule` to "
            "PruningScheduler. Received: schedule=None."
        )
    return schedules.pop()


def all_finite(weights: Sequence[Weight]) -> bool:
    """Whether no weight holds NaN or infinity."""
    return all(np.isfinite(weight.values()).all() for weight in weights)


def check_finite(weights: Sequence[Weight]) -> None:
    """Raises a `ValueError` if a weight holds NaN or infinity."""
    for weight in weights:
        if not all_finite([weight]):
            raise ValueError(
                f"Kernel {weight.path!r} holds NaN or infinity, so its lowest "
                "weights are not defined. Nothing was removed. The training "
                "diverged: lower the learning rate, or the end of the "
                "schedule."
            )


def apply_masks(weights: Sequence[Weight], masks: Sequence[np.ndarray]) -> None:
    """Sets the entries of each weight to zero where its mask is False."""
    for weight, mask in zip(weights, masks, strict=True):
        weight.keep(mask)


def share_masked(masks: Sequence[np.ndarray]) -> float:
    """Returns the share of all entries at which the masks are False."""
    size = sum(mask.size for mask in masks)
    return 1.0 - sum(int(np.count_nonzero(mask)) for mask in masks) / size


def share_of_norm(
    weights: Sequence[Weight], masks: Sequence[np.ndarray]
) -> float:
    """Returns the share of the squared norm where the masks are False.

    It is 0 for kernels of zeros, and NaN where one holds NaN or infinity.
    """
    total, masked = 0.0, 0.0
    for weight, mask in zip(weights, masks, strict=True):
        squares = np.square(weight.values(), dtype="float64")
        total += squares.sum()
        masked += squares[~mask].sum()
    if not np.isfinite(total):
        return float("nan")
    return float(masked / total) if total else 0.0
