"""Numbers that a compiled step asks of the host while it runs."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_swd.host import given


class HostCall:
    """A function of variables that compiled steps call, each of them once.

    What is computed before a step delays it. Called by the step, it runs
    beside the forward pass, which does not need it, and it sees the variables
    as they are in that very step, however many are executed together. Only
    TensorFlow has this, for steps of one replica that XLA does not compile;
    elsewhere the numbers are written between steps.

    Args:
        variables: List of `keras.Variable`, what the function reads.
        idle: Float32 array of shape `(n,)`, the numbers when there is no
            function.
    """

    def __init__(self, variables: Sequence[keras.Variable], idle: np.ndarray):
        self.variables = list(variables)
        self.idle = idle
        #: Returns the numbers, a float32 array of shape `(n,)`.
        self.function: Callable[[], np.ndarray] | None = None
        #: What it last returned to a step; None where steps do not ask.
        self.last: np.ndarray | None = None
        #: Whether something was compiled that cannot call.
        self.bypassed = False

    def tensor(self):
        """Returns the numbers in what is being built, or None if it cannot ask.

        Returns:
            Float32 tensor of shape `(n,)`, one for all that ask in a graph.
        """
        if keras.config.backend() != "tensorflow":
            return None
        import tensorflow as tf

        if tf.executing_eagerly():
            return None if self.last is None else tf.constant(self.last)
        graph = tf.compat.v1.get_default_graph()
        if tf.distribute.has_strategy() or _compiled_by_xla(graph):
            self.bypassed = True
            return None
        asked = graph.get_collection_ref(self)
        if not asked:
            values = [variable.value for variable in self.variables]
            numbers = tf.numpy_function(self._answer, values, tf.float32)
            numbers.set_shape(self.idle.shape)
            asked.append(numbers)
        return asked[0]

    def _answer(self, *values: np.ndarray) -> np.ndarray:
        """The numbers for these values of the variables."""
        if self.function is None:
            return self.idle
        with given(self.variables, values):
            self.last = self.function()
        return self.last


def _compiled_by_xla(graph) -> bool:
    """Whether a graph of TensorFlow is, or lies within, one that XLA compiles.

    XLA knows no Python. TensorFlow marks what it traces for it, and has no
    public function to ask.
    """
    while graph is not None:
        context = graph._get_control_flow_context()
        if context is not None and context.IsXLAContext():
            return True
        graph = getattr(graph, "outer_graph", None)
    return False
