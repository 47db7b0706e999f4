"""Work on a kernel in one pass over its memory."""

import functools
import math
from collections.abc import Callable, Hashable, Sequence

import keras
from keras import ops

#: Values from which on one pass saves more than it costs to begin one.
LARGE = 10_000


@functools.lru_cache(maxsize=256)
def fused(
    function: Callable, shape: Sequence[int], *settings: Hashable
) -> Callable:
    """Returns `function(*settings, ...)` as one fused computation.

    On TensorFlow each elementwise operation writes a whole array of its own,
    which for a chain of them on a large kernel costs more than the layer's
    gradient. XLA computes the chain in one pass, which pays for all but small
    kernels. JAX compiles whole steps so anyway; on other backends the function
    runs as it is.

    Args:
        function: Function of the settings and then of tensors.
        shape: Tuple, the shape of the kernel that it will be called for: each
            shape is compiled for itself, and once.
        *settings: First arguments of `function`, none of them tensors.

    Returns:
        Function of the remaining arguments.
    """
    bound = functools.partial(function, *settings)
    if keras.config.backend() != "tensorflow" or math.prod(shape) < LARGE:
        return bound
    import tensorflow as tf

    # Its own wrapper: TensorFlow warns of one that sees many shapes.
    return tf.function(
        lambda *tensors: bound(*tensors), jit_compile=True, autograph=False
    )


def half_square_sum(values):
    """Returns half the sum of squares of a tensor, a scalar tensor.

    TensorFlow has one operation for it. Of the others, the square writes an
    array of its own, and XLA for CPUs adds slowly.
    """
    if keras.config.backend() != "tensorflow":
        return 0.5 * ops.sum(ops.square(values))
    import tensorflow as tf

    return tf.nn.l2_loss(values)
