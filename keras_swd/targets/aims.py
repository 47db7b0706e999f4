"""What methods that work in the optimizer aim at."""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_swd.regularizers.base import PruningRegularizer
from keras_swd.regularizers.part import OptimizerPart
from keras_swd.targets.budgets import Budget
from keras_swd.targets.limits import Goal
from keras_swd.units.kernels import Choice, KernelWithPart


@dataclasses.dataclass(frozen=True)
class Aim:
    """The part of a method in the optimizer, which pursues the target itself.

    Args:
        part: The `OptimizerPart`.
        regularizer: The `PruningRegularizer` of one of its kernels.
    """

    part: OptimizerPart
    regularizer: PruningRegularizer

    def set(self, strength: float, choices: Sequence[Choice] | None) -> None:
        """Sets what the coming step sees."""
        del choices
        self.part.set(strength)

    def release(self) -> None:
        """Leaves ordinary training to what comes after this run."""
        self.part.release()

    def logs(self) -> dict[str, float]:
        """Returns what to add to `logs` at the end of an epoch."""
        return self.part.logs()


def find_aims(
    model: keras.Model,
    kernels: Sequence[KernelWithPart],
    sparsity: Goal,
) -> list[Aim]:
    """Gives each part in the optimizer what it aims at.

    Args:
        model: The model that is about to train.
        kernels: All its kernels whose method has a part in the optimizer.
        sparsity: The target of those that have none of their own.

    Returns:
        List of `Aim`, one for each part.
    """
    members: dict[int, list[KernelWithPart]] = {}
    for kernel in kernels:
        members.setdefault(id(kernel.part), []).append(kernel)
    aims = []
    for own in members.values():
        costs, left = np.zeros(len(own)), np.zeros(len(own))
        shared = [k for k in own if k.regularizer.sparsity is None]
        for kernel in own:
            if kernel.regularizer.sparsity is not None:
                costs[kernel.place] = 1.0
                left[kernel.place] = 1.0 - kernel.regularizer.sparsity
        places = [kernel.place for kernel in shared]
        if shared:
            costs[places], left[places] = _shared(model, shared, sparsity)
        own[0].part.begin(costs, left)
        aims.append(Aim(own[0].part, own[0].regularizer))
    return aims


def _shared(model, kernels, sparsity) -> tuple[np.ndarray, float]:
    """Each kernel's share of their cost, and the share that may be left."""
    sizes = np.array([math.prod(kernel.shape) for kernel in kernels])
    if not isinstance(sparsity, Budget):
        return sizes / sizes.sum(), 1.0 - sparsity
    variables = [kernel.variable for kernel in kernels]
    entry, allowed = sparsity.entries(model, variables)
    total = float(entry @ sizes)
    return entry * sizes / total, min(allowed / total, 1.0)
