"""What a method does in the optimizer, where each weight's gradient is."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_swd.backend.host import read


class OptimizerPart:
    """The part of a method that needs each weight's gradient.

    A regularizer sees values, never their gradients. A method that needs both
    names a subclass of this in its `part`; `PruningOptimizer` makes one for
    all kernels of a model that ask for it, and calls it in every step. What it
    keeps are variables of the optimizer: part of the state of compiled steps
    on every backend, saved and restored with the optimizer, and no weights of
    the model.

    It is idle until `PruningScheduler` gives it something to aim at. A file
    written in the middle of a run brings that with it.

    Args:
        optimizer: The optimizer, to which it adds its variables.
        kernels: The variables that it works on.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        kernels: Sequence[keras.Variable],
    ):
        self.optimizer = optimizer
        self.kernels = list(kernels)
        self.regularizers: list[Any] = [
            getattr(v.regularizer, "instance", v.regularizer) for v in kernels
        ]

    def step(self, grads: Sequence) -> tuple[list, Callable[[], None]]:
        """Prepares a step of the optimizer.

        Args:
            grads: Tensors, the gradients of the kernels.

        Returns:
            The gradients that the optimizer is to use, and a function that is
            called after its step.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `step(grads)`."
        )

    def begin(self, costs: np.ndarray, left: np.ndarray) -> None:
        """Prepares a run, or goes on with one whose state was restored.

        By default there is nothing to prepare.

        Args:
            costs: Float array of shape `(kernels,)`: what a kernel costs, as a
                share of the kernels that meet a target together.
            left: Float array of shape `(kernels,)`: the share of that cost
                which may be left.
        """
        del costs, left

    def set(self, strength: float) -> None:
        """Sets how hard the coming step aims."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `set(strength)`."
        )

    def release(self) -> None:
        """Is idle again: what follows is ordinary training."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `release()`."
        )

    def logs(self) -> dict[str, float]:
        """Returns what to add to `logs` at the end of an epoch."""
        return {}

    def threshold(self, index: int) -> float:
        """Returns the threshold of a kernel for the logs; -1 if it has none."""
        del index
        return -1.0

    def values(self, index: int) -> np.ndarray:
        """Returns a kernel's values, those that it does not compute with too.

        Args:
            index: Integer, the kernel's place among `kernels`.

        Returns:
            Float array of the kernel's shape.
        """
        return read(self.kernels[index])

    def scores(self, index: int) -> np.ndarray:
        """Returns what the entries are worth, comparable between kernels.

        Args:
            index: Integer, the kernel's place among `kernels`.

        Returns:
            Float array of shape `(entries,)`, magnitudes unless overridden.
        """
        return np.abs(self.values(index)).ravel()

    def forget(self, index: int) -> None:
        """Forgets what a kernel does not compute with: it was removed."""

    def add(self, name: str, shape: tuple[int, ...] = ()) -> keras.Variable:
        """Adds a variable of zeros to the optimizer."""
        return self.optimizer.add_variable(shape, dtype="float32", name=name)
