"""Work on a kernel in one pass over its memory."""

import functools
import math
import operator
from collections.abc import Callable, Hashable, Sequence

import keras
from keras import ops

#: Values from which on one pass saves more than it costs to begin one.
LARGE = 50_000
#: Values from which on a sum in pieces saves more than it costs.
LARGE_SUM = 100_000
#: The pieces of such a sum.
PIECES = 16


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
    return _compiled(bound)


@functools.lru_cache(maxsize=256)
def fused_sum(
    function: Callable,
    shape: Sequence[int],
    *settings: Hashable,
    in_pieces: bool,
) -> Callable:
    """Returns the sum of the entries of `function(*settings, ...)`.

    XLA for CPUs adds the entries of an array one by one, where TensorFlow adds
    several at a time; but then the array must be written first. Pieces of a
    large kernel are therefore added to each other, entry by entry, in the
    pass that computes them, and TensorFlow adds up what that leaves.

    Args:
        function: Function of the settings, of a kernel's values and of other
            tensors.
        shape: Tuple, the shape of the kernel.
        *settings: First arguments of `function`, none of them tensors.
        in_pieces: Boolean, whether the function computes each entry from one
            value, so that it can be called with pieces of the flat kernel.

    Returns:
        Function of the values and of the other tensors, a scalar tensor.
    """
    size = math.prod(shape)
    in_pieces = in_pieces and size >= LARGE_SUM
    if keras.config.backend() != "tensorflow" or not in_pieces:
        terms = fused(function, shape, *settings)
        return lambda *tensors: ops.sum(terms(*tensors))
    length = size // PIECES
    end = PIECES * length

    def add(values, *tensors):
        flat = ops.reshape(values, (-1,))
        terms = [
            function(*settings, flat[start : start + length], *tensors)
            for start in range(0, end, length)
        ]
        added = functools.reduce(operator.add, terms)
        if end == size:
            return (added,)
        return added, function(*settings, flat[end:], *tensors)

    compiled = _compiled(add)
    return lambda *tensors: functools.reduce(
        operator.add, map(ops.sum, compiled(*tensors))
    )


def _compiled(function: Callable) -> Callable:
    """A function that XLA compiles, of its own for each shape."""
    import tensorflow as tf

    # Its own wrapper: TensorFlow warns of one that sees many shapes.
    return tf.function(
        lambda *tensors: function(*tensors), jit_compile=True, autograph=False
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
