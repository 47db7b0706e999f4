"""Weight decay of two rates: one for selected units, one for the others."""

import keras
from keras import ops

from keras_swd.backend.fused import fused, fused_sum, half_square_sum


def plain_decay(values, weight_decay):
    """Returns `weight_decay / 2 * sum(w ** 2)`, a scalar tensor."""
    return as_loss(weight_decay * half_square_sum(ops.cast(values, "float32")))


def as_loss(penalty):
    """Returns a penalty in the type in which Keras adds up losses."""
    return ops.cast(penalty, keras.config.floatx())


def selective_decay(values, low, high, select, controls):
    """Returns half the sum of squares, weighted by two rates.

    `sum(rate * w ** 2) / 2`, where the rate of an entry is `high` where it is
    selected and `low` elsewhere. The selection is constant under
    differentiation. All is computed in float32, whatever the policy: a large
    rate times a square overflows float16.

    Args:
        values: Float tensor of the kernel's shape.
        low: Float scalar >= 0.
        high: Float scalar >= 0.
        select: A `Selector`; `select(values, controls)` is true where entries
            are selected.
        controls: Float tensor.

    Returns:
        Float scalar tensor, in the type of Keras' losses.
    """
    values, low, high, controls = (
        ops.cast(x, "float32") for x in (values, low, high, controls)
    )
    rule = (tuple(values.shape), select)
    weigh = fused(_weigh, *rule)
    total = fused_sum(_weighted_squares, *rule, in_pieces=select.entrywise)

    @ops.custom_gradient
    def decay(values, low, high, controls):
        def backward(*arguments, upstream=None):
            # PyTorch gives the upstream gradient by name, others alone.
            upstream = arguments[0] if upstream is None else upstream
            return (
                weigh(values, upstream * low, upstream * high, controls),
                ops.zeros_like(low),
                ops.zeros_like(high),
                ops.zeros_like(controls),
            )

        return total(values, 0.5 * low, 0.5 * high, controls), backward

    return as_loss(decay(values, low, high, controls))


def _weighted_squares(select, values, low, high, controls):
    """The squares of the values, each times its rate."""
    return values * _weigh(select, values, low, high, controls)


def _weigh(select, values, low, high, controls):
    """The values times `low`, or times `high` where selected."""
    return values * ops.where(select(values, controls), high, low)
