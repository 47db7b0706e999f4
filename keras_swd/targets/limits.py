"""Targets in the size of what the model becomes."""

from collections.abc import Callable, Mapping

import numpy as np

from keras_swd.configured import Configured
from keras_swd.targets.budgets import Budget

#: From the values of the pruned kernels, by the `id` of the variable, to a
#: size.
Measure = Callable[[Mapping[int, np.ndarray]], int]


class SizeLimit(Configured):
    """How large what the model becomes may be.

    `PruningScheduler(sparsity=...)` takes one in place of a share of units: it
    then removes about the least share that meets it. Subclasses implement
    `limit`, `measure(model)` and `remedy(smallest)`.
    """

    @property
    def limit(self) -> float:
        """The largest measured size that is accepted."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `limit`."
        )

    def measure(self, model) -> Measure:
        """Returns a function from the kernels' values to a size.

        Args:
            model: A built model, of which all other weights are taken as they
                are now.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `measure(model)`."
        )

    def excess(self, model, values: Mapping[int, np.ndarray]) -> int:
        """Returns how much larger the real thing is than what is measured.

        Asked at the start of a run alone, since to know it may take long. 0 by
        default.

        Args:
            model: A built model.
            values: The values of the pruned kernels, by the `id` of the
                variable.
        """
        del model, values
        return 0

    def remedy(self, smallest: int) -> str:
        """Returns what to do if nothing measures less than `smallest`."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `remedy(smallest)`."
        )


#: What a user may ask for; a float is the share of units to remove.
Goal = float | Budget | SizeLimit | None
