"""Reading and writing variables between two steps, cheaply.

Between steps the interpreter's caches are cold, and what an eager TensorFlow
operation does in Python costs many times its arithmetic; so on TensorFlow
these call the operation itself.
"""

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


def _handle(variable: keras.Variable):
    """TensorFlow's handle of a variable that lives in one place, or None."""
    if keras.config.backend() != "tensorflow":
        return None
    try:
        return variable.value.handle
    except (AttributeError, ValueError):  # one of several replicas
        return None
