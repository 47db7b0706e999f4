"""A value that callbacks change and compiled steps see."""

import keras
import numpy as np

from keras_swd.backend.host import write


class Held(keras.random.SeedGenerator):
    """A value that travels with a model's state but is not one of its weights.

    Keras carries the state of seed generators through compiled steps on every
    backend, and leaves it out of `model.weights` and of saved files. A Python
    float would be frozen into the compiled step; a plain `keras.Variable`
    would be frozen on JAX, or become a weight of the model.

    Args:
        value: Number or array-like of floats, the first value. Its shape is
            the shape for good.
        name: String, the name of the variable. Defaults to `"held"`.

    Example:

    >>> held = Held([0.0, 1.0])
    >>> held.assign([2.0, 3.0])
    >>> keras.ops.convert_to_numpy(held.state).tolist()
    [2.0, 3.0]
    """

    def __init__(self, value, name="held"):
        super().__init__(seed=0, name=name)
        self.state = keras.Variable(
            value, trainable=False, dtype="float32", name=name
        )

    def is_seen_by(self, model: keras.Model) -> bool:
        """Whether compiled steps of a model see what it is assigned.

        JAX compiles steps of what the layers of the model hold.
        """
        eager = getattr(model, "run_eagerly", False)
        if eager or keras.config.backend() != "jax":
            return True
        return any(v is self.state for v in model.non_trainable_variables)

    def assign(self, value) -> None:
        """Replaces the value; the next compiled step sees it."""
        write(self.state, np.asarray(value, "float32"))
