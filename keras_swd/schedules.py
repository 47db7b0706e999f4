"""A number as a pure function of training progress in [0, 1]."""

import keras

from keras_swd.arguments import (
    check_not_negative,
    check_positive,
    check_progress,
)
from keras_swd.configured import Configured


class Schedule(Configured):
    """A number as a pure function of training progress.

    Progress is the share of the training that is done: 0 before the first
    step, 1 after the last. A schedule keeps no counter, so a run that resumes
    at epoch 7 goes on with the value of epoch 7.

    Subclasses implement `__call__(progress)` and `get_config()`, and must be
    registered with Keras if a file is to hold them.

    Example:

    >>> class Steps(keras_swd.Schedule):
    ...     def __init__(self, value, steps):
    ...         self.value, self.steps = value, steps
    ...
    ...     def __call__(self, progress):
    ...         return self.value * int(self.steps * progress) / self.steps
    ...
    ...     def get_config(self):
    ...         return {"value": self.value, "steps": self.steps}
    >>> [Steps(100.0, 2)(progress) for progress in (0.0, 0.5, 0.9, 1.0)]
    [0.0, 50.0, 50.0, 100.0]
    """

    def __call__(self, progress: float) -> float:
        """Returns the value at `progress`, a float in [0, 1]."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `__call__(progress)`."
        )


@keras.saving.register_keras_serializable("keras_swd")
class Constant(Schedule):
    """The same value from beginning to end.

    `Constant(0.0)` leaves plain weight decay. With
    `PruningScheduler(remove_at=0.5)` that is magnitude pruning halfway through
    the run, fine-tuned in what is left of it.

    Args:
        value: Float >= 0.

    Raises:
        ValueError: If `value` is negative or no finite number.

    Example:

    >>> Constant(100.0)(0.5)
    100.0
    """

    def __init__(self, value: float):
        self.value = check_not_negative("value", value)

    def __call__(self, progress: float) -> float:
        """Returns `value`."""
        return self.value

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"value": self.value}


class _Growth(Schedule):
    """From `start` to `end` between the progress `begin` and `finish`."""

    _check_start = staticmethod(check_not_negative)

    def __init__(
        self,
        start: float,
        end: float,
        *,
        begin: float = 0.0,
        finish: float = 1.0,
    ):
        self.start = self._check_start("start", start)
        self.end = check_positive("end", end)
        if self.start > self.end:
            raise ValueError(
                "Argument `start` must not exceed `end`: schedules grow. "
                f"Received: start={start}, end={end}."
            )
        self.begin = check_progress("begin", begin)
        self.finish = check_progress("finish", finish)
        if self.begin >= self.finish:
            raise ValueError(
                "Argument `begin` must be less than `finish`. "
                f"Received: begin={begin}, finish={finish}."
            )

    def elapsed(self, progress: float) -> float:
        """Share of the growth that is done, in [0, 1]."""
        share = (progress - self.begin) / (self.finish - self.begin)
        return min(max(share, 0.0), 1.0)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "start": self.start,
            "end": self.end,
            "begin": self.begin,
            "finish": self.finish,
        }


@keras.saving.register_keras_serializable("keras_swd")
class Linear(_Growth):
    """Grows by equal amounts, then holds.

    `start + (end - start) * s`, where `s` is the share of the growth done,
    `(progress - begin) / (finish - begin)` within [0, 1].

    Args:
        start: Float >= 0, the value until `begin`.
        end: Float > 0, at least `start`, the value from `finish` on.
        begin: Float in [0, 1), the progress at which growth begins.
            Defaults to `0.0`.
        finish: Float in (0, 1], the progress at which growth ends.
            Defaults to `1.0`.

    Raises:
        ValueError: If an argument is out of range or the pair reversed.

    Example:

    >>> Linear(start=1.0, end=3.0, finish=0.5)(0.25)
    2.0
    """

    def __call__(self, progress: float) -> float:
        """Returns the value at `progress`."""
        return self.start + (self.end - self.start) * self.elapsed(progress)


@keras.saving.register_keras_serializable("keras_swd")
class Exponential(_Growth):
    """Grows by equal factors, then holds: the paper's schedule for `a`.

    `start * (end / start) ** s`, where `s` is the share of the growth done,
    `(progress - begin) / (finish - begin)` within [0, 1].

    Args:
        start: Float > 0, the value until `begin` (`a_min` in the paper).
        end: Float >= `start`, the value from `finish` on (`a_max`).
        begin: Float in [0, 1), the progress at which growth begins.
            Defaults to `0.0`.
        finish: Float in (0, 1], the progress at which growth ends.
            Defaults to `1.0`.

    Raises:
        ValueError: If an argument is out of range or the pair reversed.

    Example:

    >>> Exponential(start=0.1, end=1000.0, finish=0.5)(0.25)
    10.0

    Reference:
        Tessier et al., "Rethinking Weight Decay for Efficient Neural Network
        Pruning", J. Imaging 8(3):64, 2022, arXiv 2011.10520; `finish` below 1
        is ours.
    """

    # By factors, nothing grows from 0.
    _check_start = staticmethod(check_positive)

    def __call__(self, progress: float) -> float:
        """Returns the value at `progress`."""
        factor = self.end / self.start
        return self.start * factor ** self.elapsed(progress)


@keras.saving.register_keras_serializable("keras_swd")
class Polynomial(_Growth):
    """Grows fast at first and slowly later (or the reverse), then holds.

    `end + (start - end) * (1 - s) ** power`, where `s` is the share of the
    growth done, `(progress - begin) / (finish - begin)` within [0, 1]. With
    `power=3` this is the ramp of gradual magnitude pruning.

    Args:
        start: Float >= 0, the value until `begin`.
        end: Float > 0, at least `start`, the value from `finish` on.
        power: Float > 0. Defaults to `3.0`.
        begin: Float in [0, 1), the progress at which growth begins.
            Defaults to `0.0`.
        finish: Float in (0, 1], the progress at which growth ends.
            Defaults to `1.0`.

    Raises:
        ValueError: If an argument is out of range or a pair reversed.

    Example:

    >>> Polynomial(start=1.0, end=9.0, power=2.0)(0.5)
    7.0

    Reference:
        Zhu and Gupta, "To prune, or not to prune", 2017, arXiv 1710.01878,
        equation 1.
    """

    def __init__(
        self,
        start: float,
        end: float,
        *,
        power: float = 3.0,
        begin: float = 0.0,
        finish: float = 1.0,
    ):
        super().__init__(start, end, begin=begin, finish=finish)
        self.power = check_positive("power", power)

    def __call__(self, progress: float) -> float:
        """Returns the value at `progress`."""
        left = (1.0 - self.elapsed(progress)) ** self.power
        return self.end + (self.start - self.end) * left

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "power": self.power}
