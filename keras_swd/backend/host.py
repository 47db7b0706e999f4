"""Reading and writing variables on the host, cheaply.

Between steps the interpreter's caches are cold, and what an eager TensorFlow
operation does in Python costs many times its arithmetic; so on TensorFlow
these call the operation itself.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import keras
import numpy as np
from keras import ops

#: Values that a step hands out, by the `id` of their variables.
_given: contextvars.ContextVar[dict[int, np.ndarray]]
_given = contextvars.ContextVar("given")


@contextlib.contextmanager
def given(
    variables: Sequence[keras.Variable], values: Sequence[np.ndarray]
) -> Iterator[None]:
    """Lets `read` return these values, in this thread, as long as it lasts.

    While a step runs its variables change; it hands out what they were when it
    began.

    Args:
        variables: List of `keras.Variable`.
        values: List of arrays, one for each.
    """
    ids = map(id, variables)
    token = _given.set(dict(zip(ids, values, strict=True)))
    try:
        yield
    finally:
        _given.reset(token)


def read(variable: keras.Variable) -> np.ndarray:
    """Returns the present values of a variable; do not keep them.

    On a CPU this is a view of the variable's memory, not a copy.

    Args:
        variable: A `keras.Variable`.

    Returns:
        Float array of the variable's shape, float32 where the variable's type
        is shorter: NumPy computes in half precision slowly, if at all.
    """
    values = _given.get({}).get(id(variable))
    if values is None:
        values = _present(variable)
    return values if values.itemsize >= 4 else values.astype("float32")


def _present(variable: keras.Variable) -> np.ndarray:
    """The present values, a view where there is one."""
    handle = _handle(variable)
    try:
        if handle is None:
            return np.asarray(ops.stop_gradient(variable.value))
        import tensorflow as tf

        dtype = variable.value.dtype
        return np.asarray(
            tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
        )
    except (TypeError, NotImplementedError, RuntimeError):
        # Values of several replicas, or on an accelerator.
        return ops.convert_to_numpy(variable)


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
