"""Reading and writing variables between two steps, cheaply.

Between steps the interpreter's caches are cold, and what an eager TensorFlow
operation does in Python costs many times its arithmetic; so on TensorFlow
these call the operation itself.
"""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops


def read(variable: keras.Variable) -> np.ndarray:
    """Returns the present values of a variable; do not keep them.

    On a CPU this is a view of the variable's memory, not a copy.

    Args:
        variable: A `keras.Variable`.

    Returns:
        Float array of the variable's shape, float32 where the variable's type
        is shorter: NumPy computes in half precision slowly, if at all.
    """
    handle = _handle(variable)
    try:
        if handle is None:
            values = np.asarray(ops.stop_gradient(variable.value))
        else:
            import tensorflow as tf

            values = np.asarray(
                tf.raw_ops.ReadVariableOp(
                    resource=handle, dtype=variable.value.dtype
                )
            )
    except (TypeError, NotImplementedError, RuntimeError):
        # Values of several replicas, or on an accelerator.
        values = ops.convert_to_numpy(variable)
    return values if values.itemsize >= 4 else values.astype("float32")


def write(variable: keras.Variable, values: np.ndarray) -> None:
    """Assigns values to a variable; the next compiled step sees them.

    Args:
        variable: A `keras.Variable`.
        values: Array of the variable's shape and dtype.
    """
    handle = _handle(variable)
    if handle is None:
        variable.assign(values)
    else:
        import tensorflow as tf

        tf.raw_ops.AssignVariableOp(resource=handle, value=values)


def replicas() -> int:
    """Returns how many replicas of a model the present scope trains."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    return distribution.device_mesh.devices.size


def in_pieces(variable: keras.Variable) -> bool:
    """Returns whether no process of several holds all of a variable."""
    value = variable.value
    return not (
        getattr(value, "is_fully_addressable", True)
        or getattr(value, "is_fully_replicated", True)
    )


def agreed(counts: Sequence[int]) -> list[int]:
    """Returns the counts that the first of several processes found.

    Each finds its own from equal weights, but sums that processors of two
    kinds round differently may part them. Every process must call this.

    Args:
        counts: Integers, as many in every process.
    """
    together = keras.distribution.distribution() is not None
    if keras.config.backend() != "jax" or not together:
        return list(counts)
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return list(counts)
    first = multihost_utils.broadcast_one_to_all(np.asarray(counts, "int32"))
    return np.asarray(first).tolist()


def _handle(variable: keras.Variable):
    """TensorFlow's handle of a variable that lives in one place, or None."""
    if keras.config.backend() != "tensorflow":
        return None
    try:
        return variable.value.handle
    except (AttributeError, ValueError):  # one of several replicas
        return None
