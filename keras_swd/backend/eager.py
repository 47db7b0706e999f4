"""Functions that the user compiled, run as Python."""

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Lets functions of TensorFlow run as the Python that they are made of.

    What Python counts in a layer's call counts its calls then, and not how
    often the call was compiled.
    """
    if keras.config.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)
