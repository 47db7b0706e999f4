"""What a method asks of a run: how hard, selected when, removed when."""

import dataclasses
from collections.abc import Callable, Sequence

#: When units become zero, and which share of the target by then.
Removals = tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one regularizer goes through one run; all times are progress.

    Args:
        strength: Function of progress, how hard selected units are penalized.
        remove_at: Float in (0, 1], when all selected units are zero.
        pick_at: Float in [0, 1), when the selection is made for good; until
            then every unit is selected. None selects anew at every step.
            Defaults to `None`.
        before: Pairs of floats: when a part of the target is removed, in
            ascending order and sooner than `remove_at`, and how large a part,
            in (0, 1). Defaults to `()`.
    """

    strength: Callable[[float], float]
    remove_at: float
    pick_at: float | None = None
    before: tuple[tuple[float, float], ...] = ()

    @property
    def removals(self) -> Removals:
        """When units become zero, and which share of the target by then."""
        return (*self.before, (self.remove_at, 1.0))


def agreed_times(
    plans: Sequence[Plan],
) -> tuple[Removals, float | None]:
    """Returns `removals` and `pick_at` of plans for one run.

    Raises:
        ValueError: If the plans differ in them.
    """
    times = {(plan.removals, plan.pick_at) for plan in plans}
    if len(times) > 1:
        raise ValueError(
            "The regularizers of a model must select and remove at the same "
            "steps. Give all its kernels the same method with the same "
            "intervals; targets may differ. Received: "
            f"{' and '.join(sorted(map(_told, times)))}."
        )
    return times.pop()


def _told(times: tuple[Removals, float | None]) -> str:
    removals, pick_at = times
    selects = "at every step" if pick_at is None else f"once, at {pick_at:.0%}"
    first, last = removals[0][0], removals[-1][0]
    removes = f"at {last:.0%}"
    if len(removals) > 1:
        removes = f"{len(removals)} times, from {first:.0%} to {last:.0%}"
    return f"one that selects {selects} and removes {removes} of the run"
