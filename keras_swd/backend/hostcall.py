"""Numbers that a compiled step asks of the host while it runs."""

import functools
import os
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_swd.backend.host import given

#: Lets threads that wait for this processor go first.
give_way = getattr(os, "sched_yield", functools.partial(time.sleep, 0))


class HostCall:
    """A function of variables that compiled steps call while they run.

    What is computed before a step delays it. Called by the step, it runs
    beside the forward pass, which does not need it, and it sees the variables
    as they are in that very step, however many are executed together. Only
    TensorFlow has this, for steps of one replica that XLA does not compile;
    elsewhere the numbers are written between steps. A graph makes one call,
    which all that ask in it share.

    Args:
        variables: List of `keras.Variable`, what the function reads.
        members: List of the `Controls` that share the answer, in order.
        idle: Float32 array of shape `(n,)`, the numbers when there is no
            function.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        members: Sequence[Any],
        idle: np.ndarray,
    ):
        self.variables = list(variables)
        self.members = list(members)
        self.idle = idle
        #: Whether something was compiled that cannot call.
        self.bypassed = False
        self._method: weakref.WeakMethod | None = None
        self._last: np.ndarray | None = None

    def begin(self, method: Callable[[], np.ndarray]) -> None:
        """Lets a method answer, as long as its object is alive.

        Args:
            method: Bound method that returns the numbers, a float32 array of
                shape `(n,)`.
        """
        self._method = weakref.WeakMethod(method)

    def end(self) -> None:
        """Gives the idle numbers from now on."""
        self._method = None
        self.forget()

    def forget(self) -> None:
        """Lets what is run eagerly read what was written between steps."""
        self._last = None

    def tensor(self):
        """Returns the numbers in what is being built, or None if it cannot ask.

        Returns:
            Float32 tensor of shape `(n,)`. Run eagerly, those of the last
            answer; None if steps do not ask.
        """
        import tensorflow as tf

        if tf.executing_eagerly():
            return None if self._last is None else tf.constant(self._last)
        graph = tf.compat.v1.get_default_graph()
        if tf.distribute.has_strategy() or _compiled_by_xla(graph):
            self.bypassed = True
            return None
        # TensorFlow keeps functions, and graphs, for the life of the process.
        own, idle = weakref.ref(self), self.idle
        asked = graph.get_collection_ref(own)
        if not asked:

            def answer(*values):
                call = own()
                return idle if call is None else call._answer(values)

            values = [variable.value for variable in self.variables]
            answered = tf.numpy_function(answer, values, tf.float32)
            answered.set_shape(idle.shape)
            asked.append(answered)
        return asked[0]

    def _answer(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """The numbers for these values of the variables."""
        method = None if self._method is None else self._method()
        if method is None:
            return self.idle
        # A thread of the forward pass that is due on this processor would
        # wait for the whole answer otherwise, and the forward pass for it.
        give_way()
        with given(self.variables, values):
            self._last = method()
        return self._last


def can_call() -> bool:
    """Whether any step of the present backend can call the host."""
    return keras.config.backend() == "tensorflow"


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
