"""What the scheduler sets for the kernels of a model, for each step."""

import weakref
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_swd.backend.held import Held
from keras_swd.backend.hostcall import HostCall


class Controls:
    """The strength, and what selects the units of some kernels, for a step.

    The two are held apart: a selection that is made once may be as large as
    the kernels, and is written once. Steps that can ask for them do not read
    what is held.

    Args:
        size: Integer, how many numbers select.
        name: String, what the names of its variables begin with. A model's
            state, as Keras sees it, needs names that are its own.
    """

    def __init__(self, size: int, name: str):
        self.size = size
        self.name = name
        self.strength = Held(0.0, name=f"{name}_strength")
        self.selection = Held(nothing(size), name=f"{name}_selection")
        #: The models whose compiled steps read these.
        self.models: weakref.WeakSet[keras.Model] = weakref.WeakSet()
        #: The `HostCall` of steps built now; where these start in its answer.
        self.call: HostCall | None = None
        self.start = 0
        #: The `HostCall` of each model.
        self.calls: weakref.WeakKeyDictionary[keras.Model, HostCall] = (
            weakref.WeakKeyDictionary()
        )

    def tensors(self, start: int, end: int):
        """Returns the strength and a part of what selects, in what is built.

        Args:
            start: Integer, the place of the part's first number.
            end: Integer, the place after its last.
        """
        numbers = None if self.call is None else self.call.tensor()
        if numbers is None:
            strength, selection = (
                ops.convert_to_tensor(held.state)
                for held in (self.strength, self.selection)
            )
            return strength, selection[start:end]
        first = self.start + 1
        return numbers[self.start], numbers[first + start : first + end]

    def idle(self) -> np.ndarray:
        """Returns the strength and the selection with which nothing goes."""
        return np.append(np.float32(0.0), nothing(self.size))

    def set(
        self,
        strength: float,
        selection: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        """Sets what the coming step sees; None leaves the selection alone."""
        self.strength.assign(strength)
        if selection is not None:
            self.selection.assign(selection)

    def release(self) -> None:
        """Selects nothing: what follows is plain weight decay."""
        self.set(0.0, nothing(self.size))


def nothing(size: int) -> np.ndarray:
    """Returns controls with which nothing is selected."""
    return np.full(size, -1.0, "float32")
