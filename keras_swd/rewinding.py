"""A learning rate that repeats a part of its schedule."""

import operator

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_swd")
class LearningRateRewinding(keras.optimizers.schedules.LearningRateSchedule):
    """Goes back in a learning rate schedule, and repeats it from there.

    At step `at` the rate becomes what it was at step `to`, and follows the
    schedule from there once more: the training that follows a removal is that
    which came before it. Weights are not rewound. Nest two for two rewinds,
    the later one outside.

    Args:
        schedule: A `keras.optimizers.schedules.LearningRateSchedule`.
        at: Integer, the step of the optimizer at which the rate goes back.
        to: Integer in [0, at], the step to which it goes back. Defaults to
            `0`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> falling = keras.optimizers.schedules.PolynomialDecay(0.4, 4, 0.0)
    >>> rate = LearningRateRewinding(falling, at=4, to=2)
    >>> [round(float(rate(step)), 1) for step in range(6)]
    [0.4, 0.3, 0.2, 0.1, 0.2, 0.1]

    Reference:
        Renda et al. 2020, arXiv 2003.02389, section 2.
    """

    def __init__(self, schedule, at: int, to: int = 0):
        super().__init__()
        if not isinstance(
            schedule, keras.optimizers.schedules.LearningRateSchedule
        ):
            raise ValueError(
                "Argument `schedule` must be a Keras learning rate schedule, "
                "e.g. keras.optimizers.schedules.CosineDecay(0.1, 1000). "
                f"Received: schedule={schedule!r}."
            )
        try:
            at, to = operator.index(at), operator.index(to)
        except TypeError:
            in_order = False
        else:
            in_order = 0 <= to <= at
        if not in_order:
            raise ValueError(
                "Argument `to` must be a step from 0 to `at`, both integers. "
                f"Received: at={at!r}, to={to!r}."
            )
        self.schedule = schedule
        self.at = at
        self.to = to

    def __call__(self, step):
        """Returns the rate at a step."""
        step = ops.convert_to_tensor(step)
        back = ops.cast(self.at - self.to, step.dtype)
        return self.schedule(ops.where(step < self.at, step, step - back))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        serialize = keras.saving.serialize_keras_object
        return {
            "schedule": serialize(self.schedule),
            "at": self.at,
            "to": self.to,
        }

    @classmethod
    def from_config(cls, config: dict):
        """Builds a schedule from what `get_config()` returned."""
        config = dict(config)
        config["schedule"] = keras.saving.deserialize_keras_object(
            config["schedule"]
        )
        return cls(**config)
