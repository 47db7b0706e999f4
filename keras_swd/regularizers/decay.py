"""Weight decay of two rates: one for selected units, one for the others."""

import keras
import numpy as np
from keras import ops

from keras_swd.backend.fused import fused
from keras_swd.regularizers.base import take_sums
from keras_swd.selection import CHUNK


def plain_decay(values, weight_decay):
    """Returns `weight_decay / 2 * sum(w ** 2)`, a scalar tensor."""
    w = ops.cast(values, "float32")
    return as_loss(0.5 * weight_decay * ops.sum(ops.square(w)))


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
        low: Float scalar.
        high: Float scalar.
        select: A `Selector`; `select(values, controls)` is true where entries
            are selected.
        controls: Float tensor. With the kernel itself as `values`, what the
            scheduler set for it.

    Returns:
        Float scalar tensor, in the type of Keras' losses.
    """
    sums = take_sums(values)
    values, low, high, controls = (
        ops.cast(x, "float32") for x in (values, low, high, controls)
    )
    rule = (tuple(values.shape), select)
    slope = fused(_slope, *rule)

    @ops.custom_gradient
    def decay(values, low, high, controls):
        def backward(*arguments, upstream=None):
            # PyTorch gives the upstream gradient by name, others alone.
            upstream = arguments[0] if upstream is None else upstream
            return (
                slope(values, upstream * low, upstream * high, controls),
                ops.zeros_like(low),
                ops.zeros_like(high),
                ops.zeros_like(controls),
            )

        if sums is None:
            half_norm = fused(_half_norm, *rule)
            return half_norm(values, low, high, controls), backward
        whole, selected = sums
        return 0.5 * (low * whole + (high - low) * selected), backward

    return as_loss(decay(values, low, high, controls))


def sums_of_squares(select, values, controls) -> tuple[float, float]:
    """Returns the sum of squares of an array, and that of selected entries.

    In pieces that fit the processor's cache: XLA for CPUs writes all squares
    before it adds them up, and adds slowly.

    Args:
        select: A `Selector` that looks at each entry alone.
        values: Float array.
        controls: Float array.
    """
    flat = values.ravel()
    whole = selected = 0.0
    # A run that diverges does so without a word, as in a compiled step.
    with np.errstate(all="ignore"):
        for start in range(0, flat.size, CHUNK):
            piece = flat[start : start + CHUNK].astype("float32", copy=False)
            # A criterion may know of Keras' operations alone.
            lowest = piece * np.asarray(select(piece, controls))
            whole += float(piece @ piece)
            selected += float(lowest @ lowest)
    return whole, selected


def _half_norm(select, values, low, high, controls):
    """Half the sum of squares, weighted `low`, or `high` where selected."""
    slope = _slope(select, values, low, high, controls)
    return 0.5 * ops.sum(values * slope)


def _slope(select, values, low, high, controls):
    """The values times `low`, or times `high` where selected."""
    return values * ops.where(select(values, controls), high, low)
