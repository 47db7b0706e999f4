"""Which entries of a kernel are selected, as a few numbers tell a step."""

import dataclasses
from collections.abc import Callable

from keras import ops

from keras_swd.granularity import Granularity, Unstructured


class Selector:
    """Which entries of a kernel are selected: equal ones select alike.

    Subclasses implement `__call__(values, controls)` and are frozen data
    classes, so that what is compiled for one serves its equals.
    """

    @property
    def entrywise(self) -> bool:
        """Whether an entry's value alone decides, in pieces of a kernel too."""
        return False

    def __call__(self, values, controls):
        """Returns a boolean tensor of the shape of `values`."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement "
            "`__call__(values, controls)`."
        )


@dataclasses.dataclass(frozen=True)
class Threshold(Selector):
    """Selects the units that score at or below the one control.

    Args:
        granularity: A `Granularity`, which entries go together.
        criterion: What an entry is worth.
    """

    granularity: Granularity
    criterion: Callable

    @property
    def entrywise(self) -> bool:
        """Whether an entry's value alone decides, in pieces of a kernel too."""
        return isinstance(self.granularity, Unstructured)

    def __call__(self, values, controls):
        """Returns a boolean tensor of the shape of `values`."""
        return self.granularity.selected(self.criterion(values), controls[0])


@dataclasses.dataclass(frozen=True)
class Marked(Selector):
    """Selects the units whose control is above 0.

    Args:
        granularity: A `Granularity`, which entries go together.
    """

    granularity: Granularity

    def __call__(self, values, controls):
        """Returns a boolean tensor of the shape of `values`."""
        return self.granularity.expand(controls > 0.0, tuple(values.shape))


@dataclasses.dataclass(frozen=True)
class AlongAxes(Selector):
    """Selects the slices of a weight whose control is above 0.

    Args:
        axes: Tuple of integers. The controls are one number for each index of
            the first axis, then of the second, and so on.
    """

    axes: tuple[int, ...]

    def __call__(self, values, controls):
        """Returns a boolean tensor of the shape of `values`."""
        selected, start = False, 0
        for axis in self.axes:
            shape = [1] * len(values.shape)
            shape[axis] = values.shape[axis]
            end = start + shape[axis]
            along = ops.reshape(controls[start:end] > 0.0, shape)
            selected = ops.logical_or(selected, along)
            start = end
        return ops.broadcast_to(selected, tuple(values.shape))


@dataclasses.dataclass(frozen=True)
class ControlSlice:
    """Which controls select a kernel's units, and how.

    Args:
        select: A `Selector`.
        start: Integer, the place of the first control.
        end: Integer, the place after the last.
    """

    select: Selector
    start: int
    end: int
