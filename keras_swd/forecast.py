"""How far selected weights will be driven down, before training starts."""

import math
from collections.abc import Callable

import keras
import numpy as np

#: Share of a weight's value that may be left when it is removed.
ENOUGH = 0.01
#: Points at which learning rate and decay are read off their schedules.
POINTS = 200


def stable_decay(optimizer) -> float | None:
    """Decay per step from which on the optimizer diverges.

    Decay per step is learning rate times the penalty's gradient over the
    weight. The bound is that of a quadratic penalty alone.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, or None.

    Returns:
        Float: 2 for SGD, `2 (1 + m)` with momentum `m`, `2 (1 + m) / (1 + 2 m)`
        with Nesterov momentum. None where no bound is known; Adam and its
        kin normalise the step and do not diverge.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not isinstance(optimizer, keras.optimizers.SGD):
        return None
    m = optimizer.momentum
    return 2.0 * (1.0 + m) / ((1.0 + 2.0 * m) if optimizer.nesterov else 1.0)


def share_left(
    optimizer,
    decay: Callable[[float], float],
    magnitude: float,
    total_steps: int,
    begin: float = 0.0,
    end: float = 1.0,
) -> float | None:
    """Forecasts what is left of a weight that is selected in mid-run.

    The weight is followed from the progress at which the decay has reached a
    tenth of its largest value, under the penalty alone, through the
    optimizer's own update. Gradients of the data and their noise come on top.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, or None.
        decay: Function of progress, the penalty's gradient over the weight.
        magnitude: Float, the weight's size when it is selected.
        total_steps: Integer, steps of the whole run.
        begin: Float, the progress at which the forecast is made. Defaults to
            `0.0`.
        end: Float, the progress at which weights are removed. Defaults to
            `1.0`.

    Returns:
        Float, the share of the weight's size that is left at `end`. None for
        optimizers that cannot be forecast.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    progress = np.linspace(begin, end, POINTS)
    decays = np.array([decay(p) for p in progress])
    rates = _learning_rates(optimizer, (progress - begin) * total_steps)
    late = np.argmax(decays >= 0.1 * decays.max())
    steps = (end - progress[late]) * total_steps / max(POINTS - late, 1)
    path = list(zip(rates[late:], decays[late:], strict=True))
    if isinstance(optimizer, keras.optimizers.SGD):
        return _sgd(path, steps, optimizer.momentum, optimizer.nesterov)
    if isinstance(optimizer, keras.optimizers.Adam):
        return _adam(path, steps, magnitude)
    return None


def _learning_rates(optimizer, steps: np.ndarray) -> np.ndarray:
    """The learning rate at each of `steps` from now, as far as it is known."""
    # Keras shows the present value alone; the schedule itself is private.
    schedule = getattr(optimizer, "_learning_rate", None)
    to_float = keras.ops.convert_to_numpy
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        now = int(to_float(optimizer.iterations))
        return np.array([float(to_float(schedule(now + int(s)))) for s in steps])
    present = getattr(optimizer, "learning_rate", 0.0)
    return np.full(steps.shape, float(to_float(present)))


def _sgd(path, steps: float, momentum: float, nesterov: bool) -> float:
    """Follows a weight and its velocity through `steps` steps per point."""
    m, state = momentum, np.array([1.0, 0.0])
    for rate, decay in path:
        q = rate * decay
        # velocity = m * velocity - q * weight, then the weight moves by it.
        step = np.array([[1.0 - q, m], [-q, m]])
        if nesterov:
            step[0] = [1.0 - q - m * q, m * m]
        state = np.linalg.matrix_power(step, max(round(steps), 1)) @ state
        if not np.isfinite(state).all():
            return math.inf
    return float(np.abs(state).max())


def _adam(path, steps: float, magnitude: float) -> float:
    """Follows a weight alone in Adam's update; its size in the last part."""
    beta1, beta2, epsilon = 0.9, 0.999, 1e-7
    weight, mean, square, end = magnitude, 0.0, 0.0, []
    for rate, decay in path:
        end = []
        for _ in range(min(max(round(steps), 1), 200)):
            gradient = decay * weight
            mean += (1.0 - beta1) * (gradient - mean)
            square += (1.0 - beta2) * (gradient * gradient - square)
            weight -= rate * mean / (math.sqrt(square) + epsilon)
            end.append(abs(weight))
    return max(end, default=0.0) / magnitude if magnitude > 0.0 else 0.0
