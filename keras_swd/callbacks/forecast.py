"""How far selected weights will be driven down, before training starts."""

import math
from collections.abc import Callable

import keras
import numpy as np

from keras_swd.optimizers import inner_optimizer

#: Share of a weight's value that may be left when it is removed.
ENOUGH = 0.01
#: Share of the stable decay that the penalty may use; the data need the rest.
SAFE = 0.8
#: Points at which learning rate and decay are read off their schedules.
POINTS = 200
#: Steps between two points that are followed one by one.
LONGEST = 200


def stable_decay(optimizer) -> float | None:
    """Decay per step from which on the optimizer diverges.

    Decay per step is learning rate times the penalty's gradient over the
    weight. The bound is that of a quadratic penalty alone.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, or None.

    Returns:
        Float: 2 for SGD, `2 (1 + m)` with momentum `m`, `2 (1 + m) / (1 + 2 m)`
        with Nesterov momentum. None where no bound is known; Adam and its
        kin normalize the step and do not diverge.
    """
    optimizer = inner_optimizer(optimizer)
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
    selected: float = 0.0,
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
        selected: Float, the progress before which the weight may not be
            selected yet. Defaults to `0.0`.

    Returns:
        Float, the share of the weight's size that is left at `end`. None for
        optimizers that cannot be forecast, and if no step is left until then.
    """
    optimizer = inner_optimizer(optimizer)
    first, last = round(begin * total_steps), round(end * total_steps)
    if last <= first:
        return None
    points = min(POINTS, last - first)
    edges = np.linspace(first, last, points + 1).astype(int)
    decays = np.array([decay(step / total_steps) for step in edges[:-1]])
    strong = int(np.argmax(decays >= 0.1 * decays.max(initial=0.0)))
    late = max(strong, int(np.searchsorted(edges, selected * total_steps)))
    rates = _learning_rates(optimizer, edges[late:-1] - first)
    updates = np.diff(edges // _batches_of_an_update(optimizer))
    path = list(zip(rates, decays[late:], updates[late:], strict=True))
    if isinstance(optimizer, keras.optimizers.SGD):
        return _sgd(path, optimizer.momentum, optimizer.nesterov)
    if isinstance(optimizer, keras.optimizers.Adam):
        return _adam(path, magnitude, optimizer)
    return None


def shortfall(left: float | None) -> str | None:
    """Returns a warning if too much of a selected weight will be left.

    Args:
        left: Float or None, what `share_left` returned.

    Returns:
        String, or None.
    """
    # What grows is unstable, which `instability` tells.
    if left is None or not ENOUGH < left <= 1.0:
        return None
    return (
        f"A weight selected when the strength has grown will keep {left:.0%} "
        "of its value until removal, so removing it may cost accuracy. Train "
        "for more steps, let growth, and a `ramp`, `finish` earlier, or let "
        "the learning rate fall later. With SGD, raising the strength that it "
        "ends at helps too; Adam's steps do not grow with it."
    )


def instability(optimizer, decay: float) -> str | None:
    """Returns a warning if a step of this decay is not safely stable.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, or None.
        decay: Float, the penalty's gradient over the weight.

    Returns:
        String, or None.
    """
    limit = stable_decay(optimizer)
    if limit is None:
        return None
    rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    if rate * decay <= SAFE * limit:
        return None
    return (
        f"Selected weights will decay by {rate * decay:.2g} a step, the "
        f"learning rate times their decay; from {limit:.2g} on this optimizer "
        "diverges. Lower the end of the schedule (of GReg1 and GReg2, their "
        "`ceiling`) or the learning rate."
    )


def _learning_rates(optimizer, steps: np.ndarray) -> np.ndarray:
    """The learning rate at each of `steps` from now, as far as it is known."""
    # Keras shows the present value alone; the schedule itself is private.
    schedule = getattr(optimizer, "_learning_rate", None)
    to_float = keras.ops.convert_to_numpy
    if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        # Gradients that are accumulated count as steps of a schedule.
        updates = int(to_float(optimizer.iterations))
        now = updates * _batches_of_an_update(optimizer)
        return np.array(
            [float(to_float(schedule(now + int(s)))) for s in steps]
        )
    present = getattr(optimizer, "learning_rate", 0.0)
    return np.full(steps.shape, float(to_float(present)))


def _batches_of_an_update(optimizer) -> int:
    """How many batches go by from one change of the weights to the next."""
    return getattr(optimizer, "gradient_accumulation_steps", None) or 1


def _sgd(path, momentum: float, nesterov: bool) -> float:
    """Follows a weight and its velocity along the path."""
    m, state = momentum, np.array([1.0, 0.0])
    for rate, decay, steps in path:
        q = rate * decay
        # velocity = m * velocity - q * weight, then the weight moves by it.
        step = np.array([[1.0 - q, m], [-q, m]])
        if nesterov:
            step[0] = [1.0 - q - m * q, m * m]
        state = np.linalg.matrix_power(step, steps) @ state
        if not np.isfinite(state).all():
            return math.inf
    return float(np.abs(state).max())


def _adam(path, magnitude: float, optimizer) -> float:
    """Follows a weight alone in Adam's update; its size in the last part."""
    weight, mean, square = magnitude, 0.0, 0.0
    end: list[float] = []
    for rate, decay, steps in path:
        end = []
        for _ in range(min(steps, LONGEST)):
            gradient = decay * weight
            mean += (1.0 - optimizer.beta_1) * (gradient - mean)
            change = gradient * gradient - square
            square += (1.0 - optimizer.beta_2) * change
            weight -= rate * mean / (math.sqrt(square) + optimizer.epsilon)
            end.append(abs(weight))
    left = max(end, default=abs(weight))
    return left / magnitude
