"""The strength of growing regularization, as a function of the step."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Ladder:
    """A strength that climbs by one rung every `interval` steps.

    Nothing is added up from step to step: the strength is computed from the
    integer step, so it is the same in a run that was resumed, and no rounding
    gathers. The step at which a flight begins already stands on its first
    rung.

    Args:
        begin: Integer, the step at which the first rung is taken; the strength
            is 0 before.
        interval: Positive integer, steps from rung to rung.
        pushing: Positive integer, rungs of the last flight.
        increment: Float, the height of each.
        ceiling: Float, where the last flight ends.
        picking: Integer, rungs of a flight before that. Defaults to `0`.
        picking_increment: Float, the height of each. Defaults to `0.0`.
        picking_ceiling: Float, where that flight ends, at its last rung.
            Defaults to `0.0`.

    Example:

    >>> ladder = Ladder(0, 3, 4, 0.25, 1.0)
    >>> [ladder(step) for step in (0, 2, 3, 8, 9, 100)]
    [0.25, 0.25, 0.5, 0.75, 1.0, 1.0]
    >>> ladder.top
    9
    """

    begin: int
    interval: int
    pushing: int
    increment: float
    ceiling: float
    picking: int = 0
    picking_increment: float = 0.0
    picking_ceiling: float = 0.0

    @property
    def pick_at(self) -> int:
        """The step at which the last flight begins."""
        return self.begin + self.picking * self.interval

    @property
    def top(self) -> int:
        """The first step at the ceiling."""
        return self.pick_at + (self.pushing - 1) * self.interval

    def __call__(self, step: int) -> float:
        """Returns the strength at a step."""
        if step < self.begin:
            return 0.0
        rung = (step - self.begin) // self.interval + 1
        if rung < self.picking:
            return self.picking_increment * rung
        if rung == self.picking:
            return self.picking_ceiling
        rung -= self.picking
        if rung < self.pushing:
            return self.picking_ceiling + self.increment * rung
        return self.ceiling


def flight(
    height: float, increment: float | None, interval: int, steps: int
) -> tuple[int, float]:
    """Returns how many rungs reach a height, and the height of each.

    Args:
        height: Float > 0.
        increment: Float > 0; or None, for as many rungs as fit the steps.
        interval: Positive integer, steps from rung to rung.
        steps: Integer, how many there are.

    Returns:
        Tuple of a positive integer and a float.
    """
    if increment is not None:
        return rungs(height, increment), increment
    number = max(steps // interval, 1)
    return number, height / number


def rungs(height: float, increment: float) -> int:
    """How many increments reach a height, the last one cut short.

    Example:

    >>> rungs(1.0, 0.3), rungs(1.0, 1e-4), rungs(0.3, 0.1)
    (4, 10000, 3)
    """
    exact = height / increment
    nearest = round(exact)
    if nearest and abs(exact - nearest) <= 1e-9 * exact:
        return nearest  # 0.3 / 0.1 is 2.9999999999999996
    return math.ceil(exact)
