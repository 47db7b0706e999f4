"""Irrelevant weights: decay of those that the loss does not feel."""

import keras
import numpy as np
from keras import ops

from keras_swd.allocation import GlobalRanking
from keras_swd.arguments import check_positive
from keras_swd.backend.host import write
from keras_swd.regularizers.base import PruningRegularizer
from keras_swd.regularizers.part import OptimizerPart
from keras_swd.schedules import Constant


class IrrelevanceDecay(OptimizerPart):
    """Decays weights by how little the loss feels them, and holds zeros.

    Args:
        optimizer: The optimizer, to which it adds its variables.
        kernels: The variables that carry an `IrrelevantWeights`.
    """

    def __init__(self, optimizer, kernels):
        super().__init__(optimizer, kernels)
        #: What the callback sets: how hard; whether zeros stay zero.
        self.strength = self.add("strength")
        self.holds = self.add("holds_zeros")
        #: The number, from 1 on, of the first step since weights were removed
        #: last, or since the run began; 0 before any run.
        self.since = self.add("since")
        #: The mean irrelevance of each kernel in the last step.
        self.means = self.add("irrelevance", (len(kernels),))

    def step(self, grads):
        """Prepares a step of the optimizer; see `OptimizerPart`."""
        optimizer = self.optimizer
        strength = ops.convert_to_tensor(self.strength)
        holds = ops.convert_to_tensor(self.holds)
        count = optimizer.iterations + 0
        new, decays, left, means = [], [], [], []
        for regularizer, kernel, grad in zip(
            self.regularizers, self.kernels, grads, strict=True
        ):
            values = ops.cast(ops.convert_to_tensor(kernel), "float32")
            present = ops.cast(values != 0.0, "float32")
            present = 1.0 - holds * (1.0 - present)
            g = ops.cast(grad, "float32")
            f = regularizer.irrelevance(g, present)
            decay = strength * f
            means.append(_mean_of(f, present))
            left.append(present)
            decays.append(decay)
            if not regularizer.decoupled:
                g = g + 2.0 * decay * values
            new.append(ops.cast(g, grad.dtype))

        def after():
            moves = ops.cast(optimizer.iterations > count, "float32")
            for regularizer, kernel, decay, present in zip(
                self.regularizers, self.kernels, decays, left, strict=True
            ):
                values = ops.cast(ops.convert_to_tensor(kernel), "float32")
                if regularizer.decoupled:
                    values = values * (1.0 - moves * decay)
                kernel.assign(ops.cast(values * present, kernel.dtype))
            self.means.assign(ops.stack(means))

        return new, after

    def set(self, strength):
        """Sets the strength of the decay."""
        write(self.strength, np.asarray(strength, "float32"))

    def restart(self, steps: int, holds: bool) -> None:
        """Notes a removal, or the beginning of a run.

        Args:
            steps: Integer, how many steps came before.
            holds: Boolean, whether zeros are to stay zero.
        """
        write(self.holds, np.asarray(holds, "float32"))
        write(self.since, np.asarray(steps + 1, "float32"))

    def release(self):
        """Neither decays nor holds."""
        self.set(0.0)
        write(self.holds, np.asarray(0.0, "float32"))

    def logs(self):
        """Returns the mean irrelevance: near 1 the decay is that of all."""
        return {"irrelevance": float(np.mean(ops.convert_to_numpy(self.means)))}


@keras.saving.register_keras_serializable("keras_swd")
class IrrelevantWeights(PruningRegularizer):
    """Decays weights by how little the loss feels them.

    To the gradient `g` of a weight `w` it adds `2 * strength * f * w`, where
    `f = exp(-|g| / alpha)` is 1 where the loss does not feel the weight. This
    is the gradient of `strength * sum(f * w**2)` with `f` held constant, from
    the one backward pass that there is. Nothing is added to the loss.

    It needs `optimizer=keras_swd.with_pruning(...)`. `FloorScheduler` removes
    weights as long as a metric stays above a floor; `PruningScheduler(0.9)`
    removes a given share at the end.

    Args:
        alpha: Float > 0, the size of a gradient that is felt. `None` takes
            `scale` times the mean size of the gradients of the weights that
            are left in the kernel, at every step. Defaults to `None`.
        scale: Float > 0. Defaults to `1.0`.
        sparsity: Float in [0, 1), a target for each kernel that holds this
            instance alone, with `PruningScheduler`. Defaults to `None`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> irrelevant = IrrelevantWeights(alpha=1.0)
    >>> f = irrelevant.irrelevance(ops.array([0.0, 2.0]), ops.ones(2))
    >>> [round(float(x), 4) for x in f]
    [1.0, 0.1353]

    Reference:
        Bonetta et al., "Regularization-based Pruning of Irrelevant Weights in
        Deep Neural Architectures", 2022, arXiv 2204.04977. The relative
        `alpha` is ours.
    """

    part = IrrelevanceDecay
    allocation = GlobalRanking()
    schedule = Constant(1e-3)
    #: Whether the decay is applied to the weight, after the optimizer's step.
    decoupled = False

    def __init__(
        self,
        alpha: float | None = None,
        *,
        scale: float = 1.0,
        sparsity: float | None = None,
    ):
        super().__init__(sparsity)
        self.alpha = None if alpha is None else check_positive("alpha", alpha)
        self.scale = check_positive("scale", scale)

    def __call__(self, values):
        """Returns 0: the decay is in the optimizer."""
        del values
        return ops.zeros((), keras.config.floatx())

    def irrelevance(self, grads, present):
        """Returns how little the loss feels each weight, in [0, 1].

        Args:
            grads: Float tensor, the gradient of the loss.
            present: Float tensor of that shape, 0 where a weight was removed.

        Returns:
            Float tensor of that shape.
        """
        return ops.exp(-self.felt(grads, present))

    def felt(self, grads, present):
        """Returns the sizes of the gradients, in multiples of `alpha`."""
        sizes = ops.abs(grads)
        if self.alpha is not None:
            return sizes / self.alpha
        alpha = self.scale * _mean_of(sizes, present)
        # Where all gradients are 0, none is felt.
        return sizes / ops.where(alpha > 0.0, alpha, 1.0)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "alpha": self.alpha,
            "scale": self.scale,
            "sparsity": self.sparsity,
        }


@keras.saving.register_keras_serializable("keras_swd")
class Lobster(IrrelevantWeights):
    """Decays weights by how little the loss feels them, after the step.

    As `IrrelevantWeights`, but `f = max(0, 1 - |g| / alpha)`, and the decay
    `w - strength * f * w` follows the optimizer's own step.

    Args:
        alpha: Float > 0, or `None`, as there. Defaults to `1.0`.
        scale: Float > 0, as there. Defaults to `1.0`.
        sparsity: Float in [0, 1), as there. Defaults to `None`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> f = Lobster().irrelevance(ops.array([0.1, 2.0]), ops.ones(2))
    >>> [round(float(x), 4) for x in f]
    [0.9, 0.0]

    Reference:
        Tartaglione et al., "LOss-Based SensiTivity rEgulaRization: towards
        deep sparse neural networks", 2020, arXiv 2011.09905.
    """

    decoupled = True

    def __init__(
        self,
        alpha: float | None = 1.0,
        *,
        scale: float = 1.0,
        sparsity: float | None = None,
    ):
        super().__init__(alpha, scale=scale, sparsity=sparsity)

    def irrelevance(self, grads, present):
        """Returns how little the loss feels each weight, in [0, 1]."""
        return ops.maximum(1.0 - self.felt(grads, present), 0.0)


def _mean_of(values, present):
    """The mean of values whose weight was not removed; 0 if all were."""
    return ops.sum(values * present) / ops.maximum(ops.sum(present), 1.0)
