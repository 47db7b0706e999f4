"""A kernel whose units are penalized, and removed, by themselves."""

import dataclasses
import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_swd.granularity import Unstructured
from keras_swd.optimizers import pruning_optimizer
from keras_swd.regularizers.base import (
    PruningRegularizer,
    pruning_regularizer,
)
from keras_swd.regularizers.part import OptimizerPart
from keras_swd.regularizers.selectors import Marked, Selector, Threshold
from keras_swd.selection import (
    lowest_units,
    threshold_of_units,
    threshold_of_values,
)
from keras_swd.units.masking import Weight

#: What layers call slopes, scales and statistics, which may have several axes.
NOT_KERNELS = {
    "mask",
    "alpha",
    "beta",
    "gamma",
    "mean",
    "moving_mean",
    "moving_variance",
    "variance",
    "vector_u",
}


def is_kernel(variable) -> bool:
    """Whether a weight is a kernel, by its shape and name.

    Args:
        variable: A variable of Keras 3 or of tf_keras.

    Example:

    >>> layer = keras.layers.PReLU()
    >>> layer.build((None, 4, 4))
    >>> is_kernel(layer.alpha)
    False
    """
    name = variable.name.rpartition("/")[2].partition(":")[0]
    # Biases of attention and of some recurrent layers have two axes, and so
    # has what a quantized layer scales its kernel with.
    beside = name in NOT_KERNELS or name.endswith(("bias", "_scale", "_zero"))
    return len(variable.shape) > 1 and not beside


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which units of a set are the lowest now.

    Args:
        count: Integer, how many.
        threshold: Float, they score at or below it.
        lowest: Boolean array of shape `(units,)`, exactly `count` true; empty
            where the threshold serves.
    """

    count: int
    threshold: float
    lowest: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(0, bool)
    )

    @classmethod
    def of_lowest(cls, scores: np.ndarray, count: int) -> "Choice":
        """Returns the choice of the `count` lowest of these units."""
        threshold = threshold_of_units(scores, count)
        return cls(count, threshold, lowest_units(scores, count))


@dataclasses.dataclass(frozen=True)
class Kernel(Weight):
    """A variable whose units are its own, and its pruning regularizer.

    Args:
        variable: The `keras.Variable`.
        regularizer: The `PruningRegularizer` that it carries.
        index: Integer, its place among the sets of units of its model.
    """

    variable: keras.Variable
    regularizer: PruningRegularizer
    index: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The variable's shape."""
        return tuple(self.variable.shape)

    @functools.cached_property
    def size(self) -> int:
        """The number of units."""
        return self.unit_scores().size

    @property
    def select(self) -> Selector:
        """How its control selects entries in a compiled step."""
        regularizer = self.regularizer
        return Threshold(regularizer.granularity, regularizer.criterion)

    @property
    def width(self) -> int:
        """The number of its controls."""
        return 1

    def check(self) -> None:
        """Raises a `ValueError` if the granularity does not fit."""
        try:
            self.regularizer.granularity.check(self.shape)
        except ValueError as error:
            raise ValueError(
                f"Kernel {self.path!r} cannot be pruned: {error} Give its "
                "layer another granularity, or no pruning regularizer."
            ) from error

    def unit_scores(self) -> np.ndarray:
        """Returns the scores of the kernel's units, shape `(units,)`."""
        if isinstance(self.regularizer.granularity, Unstructured):
            return self.regularizer.scores(self.values()).ravel()
        scores = self.regularizer.scores(self.values())
        return ops.convert_to_numpy(
            self.regularizer.granularity.unit_scores(
                ops.convert_to_tensor(scores)
            )
        )

    def threshold(self, count: int) -> float:
        """Returns the threshold that selects the `count` lowest units."""
        if isinstance(self.regularizer.granularity, Unstructured):
            return threshold_of_values(
                self.values().ravel(), count, self.regularizer.scores
            )
        return threshold_of_units(self.unit_scores(), count)

    def choose(self, count: int) -> Choice:
        """Returns the `count` lowest units as a choice."""
        return Choice(count, self.threshold(count))

    def controls(
        self, choices: Sequence[Choice]
    ) -> Sequence[float] | np.ndarray:
        """Returns what selects these units in a compiled step."""
        return [choices[self.index].threshold]

    def chosen(self, choices: Sequence[Choice]) -> np.ndarray:
        """Returns a mask: False for the entries to remove."""
        return self.mask(choices[self.index].count)

    def mask(self, count: int) -> np.ndarray:
        """Returns a mask: False for the entries of the lowest units."""
        return self.keep(lowest_units(self.unit_scores(), count))

    def keep(self, removed: np.ndarray) -> np.ndarray:
        """Returns a mask: False for the entries of the marked units."""
        expand = self.regularizer.granularity.expand
        return ~ops.convert_to_numpy(
            expand(ops.convert_to_tensor(removed), self.shape)
        )


class MarkedKernel(Kernel):
    """A kernel whose units are selected once in a run.

    No threshold can hold them: a kept unit may fall below a selected one.
    """

    @property
    def select(self) -> Marked:
        """How its controls select entries in a compiled step."""
        return Marked(self.regularizer.granularity)

    @property
    def width(self) -> int:
        """The number of its controls."""
        return self.size

    def choose(self, count: int) -> Choice:
        """Returns the `count` lowest units as a choice."""
        return Choice.of_lowest(self.unit_scores(), count)

    def controls(self, choices: Sequence[Choice]) -> np.ndarray:
        """Returns what selects these units in a compiled step."""
        return np.asarray(choices[self.index].lowest, "float32")

    def chosen(self, choices: Sequence[Choice]) -> np.ndarray:
        """Returns a mask: False for the entries to remove."""
        return self.keep(np.asarray(choices[self.index].lowest))


@dataclasses.dataclass(frozen=True)
class KernelWithPart(Kernel):
    """A kernel whose method keeps a part of it in the optimizer.

    Args:
        variable: The `keras.Variable`.
        regularizer: The `PruningRegularizer` that it carries.
        index: Integer, its place among the sets of units of its model.
        part: The `OptimizerPart` of its method.
    """

    part: OptimizerPart = dataclasses.field(kw_only=True, repr=False)

    @functools.cached_property
    def place(self) -> int:
        """Its place among the kernels of the part."""
        ids = [id(variable) for variable in self.part.kernels]
        return ids.index(id(self.variable))

    def unit_scores(self) -> np.ndarray:
        """Returns the scores that the part gives."""
        return self.part.scores(self.place)

    def threshold(self, count: int) -> float:
        """Returns the part's own threshold, whatever the count."""
        del count
        return self.part.threshold(self.place)

    def masked(self, mask: np.ndarray) -> np.ndarray:
        """Returns the values that are left, hidden ones too."""
        return np.where(mask, self.part.values(self.place), 0.0)

    def apply(self, mask: np.ndarray) -> None:
        """Sets the entries to zero for good where the mask is False."""
        super().apply(mask)
        self.part.forget(self.place)


def find_kernels(model: keras.Model) -> list[Kernel]:
    """Returns the trained kernels whose regularizer cuts each by itself."""
    optimizer = pruning_optimizer(model)
    parts = {
        id(variable): part
        for part in (optimizer.parts if optimizer is not None else ())
        for variable in part.kernels
    }
    found: list[Kernel] = []
    for variable in model.trainable_variables:
        regularizer = pruning_regularizer(variable)
        if regularizer is None or regularizer.granularity.coupled:
            continue
        part = parts.get(id(variable))
        if part is not None:
            found.append(
                KernelWithPart(variable, regularizer, len(found), part=part)
            )
            continue
        kind = MarkedKernel if regularizer.selects_once else Kernel
        found.append(kind(variable, regularizer, len(found)))
    return found
