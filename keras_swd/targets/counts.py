"""How many units each set of a model gives up to meet a target."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.allocation import Allocation
from keras_swd.arguments import check_sparsity
from keras_swd.backend.processes import agreed
from keras_swd.granularity import CoupledChannels
from keras_swd.selection import lowest_units
from keras_swd.targets.budgets import Budget, fewest, lowest_until
from keras_swd.targets.limits import Goal, SizeLimit
from keras_swd.targets.sizing import SizeSearch
from keras_swd.units.channels import ChannelSet, PrunedChannels, UnitSet
from keras_swd.units.kernels import Kernel


def check_goal(sparsity) -> Goal:
    """Returns a target, checked, or raises a `ValueError`."""
    if sparsity is None or isinstance(sparsity, Budget | SizeLimit):
        return sparsity
    try:
        return check_sparsity(sparsity)
    except ValueError as error:
        raise ValueError(
            f"{error} Or pass keras_swd.Parameters(left=0.5), "
            "keras_swd.Operations(left=0.5) or keras_swd.TFLiteBytes(50_000)."
        ) from None


class Target:
    """What is to be removed of a model, and how its sets share that.

    Args:
        model: A built `keras.Model`.
        kernels: List of `Kernel`, its units that are kernels' own.
        channels: `PrunedChannels`, its coupled channels.
        sparsity: Float in [0, 1), the share of units to remove of the sets
            that have no target of their own; or a `Budget`, a `SizeLimit`
            or None.
        allocation: An `Allocation`, how sets share it.

    Raises:
        ValueError: If the target cannot be met.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Sequence[Kernel],
        channels: PrunedChannels,
        sparsity: Goal,
        allocation: Allocation,
    ):
        self.sets: list[UnitSet] = [*kernels, *channels.sets]
        self._goal: float | Budget | None = None
        self.allocation = allocation
        self._channels = sum(s.size for s in channels.sets)
        self._search: SizeSearch | None = None
        if isinstance(sparsity, SizeLimit):
            self._search = SizeSearch(sparsity, model, kernels, self._counts)
            return
        self._goal = sparsity
        if isinstance(sparsity, Budget) and channels.sets:
            cost = sparsity.cost(model, channels.places)
            self.cost = lambda stays: cost(channels.left(stays))
            self._whole = self.cost(np.ones(self._channels, bool))
        elif isinstance(sparsity, Budget):
            alone = [k for k in kernels if k.regularizer.sparsity is None]
            self._entries = sparsity.entries(
                model, [kernel.variable for kernel in alone]
            )
        self.counts()  # some targets cannot be met

    def counts(self, share: float = 1.0) -> list[int]:
        """Returns how many units each set gives up now.

        A kernel with its own target meets it alone. The others share theirs
        by `allocation`, or as their method says, sets of one granularity
        and method in the optimizer among themselves: units of different kinds
        cannot be ranked together.
        Sets of coupled channels with the same target of their own share that.
        A limit is met by the least share of units that is found for it now.

        Args:
            share: Float in [0, 1], the part of each target that is meant.
                Defaults to `1.0`.

        Returns:
            List of integers, one per set.
        """
        goal = self._search.share() if self._search else self._goal
        return agreed(self._counts(goal, share))

    def _counts(
        self, sparsity: float | Budget | None, share: float = 1.0
    ) -> list[int]:
        """How many units each set gives up for a target, or a part of it."""
        pools: dict[tuple, list[int]] = {}
        for i, units in enumerate(self.sets):
            own = units.regularizer.sparsity
            granularity = units.regularizer.granularity
            target = sparsity if own is None else own
            if isinstance(granularity, CoupledChannels):
                # Where the regularizer is placed, and what may go, make no
                # other units.
                granularity = CoupledChannels()
                # Those with the same target of their own share that.
                alone = None if own is None else -1
            else:
                alone = None if own is None else i
            allocation = units.regularizer.allocation or self.allocation
            # What methods in the optimizer score is of another kind.
            part = units.regularizer.part
            key = (target, alone, granularity, allocation, part)
            pools.setdefault(key, []).append(i)
        counts = [0] * len(self.sets)
        for (target, _, granularity, allocation, _), members in pools.items():
            sets = [self.sets[i] for i in members]
            shared = self._shares(
                sets, _part(target, share), granularity, allocation
            )
            for i, count in zip(members, shared, strict=True):
                counts[i] = count
        return counts

    def _shares(
        self, sets: list[UnitSet], target, granularity, allocation
    ) -> list[int]:
        """How many units each set of a pool gives up."""
        scores = [units.unit_scores() for units in sets]
        shapes = [units.shape for units in sets]
        total = sum(s.size for s in scores)
        kept = [_kept_by(units) for units in sets]
        budgeted = isinstance(target, Budget)
        if budgeted and not granularity.coupled:
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
            return _spare(shares, scores, kept, exact=not budgeted)

        if not budgeted:
            return share(target)

        def removed(count: int) -> np.ndarray:
            marks = np.zeros(self._channels, bool)
            shares = share(count / total)
            channels = [s for s in sets if isinstance(s, ChannelSet)]
            for units, s, n in zip(channels, scores, shares, strict=True):
                own = slice(units.first, units.first + units.size)
                marks[own] = lowest_units(s, n)
            return marks

        most = total - sum(kept)
        allowed = target.left * self._whole
        count = fewest(self.cost, allowed, removed, most)
        # What was removed before stays removed, whatever it saves.
        gone = sum(int(np.count_nonzero(s == 0.0)) for s in scores)
        return share(min(max(count, gone), most) / total)


def _part(target: float | Budget, share: float) -> float | Budget:
    """A target of which a share is met."""
    if share == 1.0:
        return target
    if isinstance(target, Budget):
        left = 1.0 - (1.0 - target.left) * share
        return type(target)(left) if left < 1.0 else 0.0
    return target * share


def _kept_by(units: UnitSet) -> int:
    """How many of its units a set keeps, whatever the target."""
    granularity = units.regularizer.granularity
    if not isinstance(granularity, CoupledChannels):
        return 0
    return 0 if granularity.may_empty else 1


def _spare(
    counts: Sequence[int],
    scores: Sequence[np.ndarray],
    kept: Sequence[int],
    exact: bool,
) -> list[int]:
    """Spares the best units of each set; others go in their place.

    With `exact`, it is an error if there are not enough others.
    """
    most = [s.size - k for s, k in zip(scores, kept, strict=True)]
    spared = [min(n, m) for n, m in zip(counts, most, strict=True)]
    for _ in range(sum(counts) - sum(spared)):
        coming = [
            np.sort(s)[n] if n < m else np.inf
            for n, s, m in zip(spared, scores, most, strict=True)
        ]
        lowest = int(np.argmin(coming))
        if np.isinf(coming[lowest]):
            if not exact:
                break
            raise ValueError(
                "Every set of coupled channels keeps one, so the target is "
                f"out of reach: {sum(counts)} channels were to go, and "
                f"{sum(spared)} can. Lower `sparsity`, or pass `may_empty="
                "True` to `CoupledChannels`."
            )
        spared[lowest] += 1
    return spared
