"""Selective Weight Decay."""

import warnings

import keras
from keras import ops

from keras_swd.arguments import check_not_negative
from keras_swd.granularity import Granularity
from keras_swd.regularizers.base import PruningRegularizer
from keras_swd.regularizers.decay import plain_decay, selective_decay
from keras_swd.regularizers.plan import Plan


@keras.saving.register_keras_serializable("keras_swd")
class SelectiveWeightDecay(PruningRegularizer):
    """Weight decay, and much more of it on the weights that are to go.

    The penalty of a kernel `w` is

    `weight_decay / 2 * (sum(w ** 2) + a * sum(w[S] ** 2))`

    where `S` are the units that pruning would remove at this very step, the
    lowest in magnitude, and the strength `a` grows during training. Both are
    set by `PruningScheduler`; without one `a` is 0 and this is plain weight
    decay, equal to `keras.regularizers.L2(weight_decay / 2)`. `S` is constant
    under differentiation.

    The decay is part of the loss. Give the optimizer none, which would count
    twice: pass `weight_decay=0` to `AdamW`, whose default is 0.004.

    Args:
        weight_decay: Float >= 0, the coefficient of ordinary weight decay,
            `mu` in the paper. Defaults to `1e-3`.
        sparsity: Float in [0, 1), a target for the kernels that hold this
            instance alone. `None` leaves them to the scheduler's. Defaults to
            `None`.
        granularity: Which entries go together: `Unstructured()`, `Channel()`,
            `Block()`, `NM()` or `CoupledChannels()`. Defaults to
            `Unstructured()`.
        criterion: What a weight is worth, a function of a kernel's values made
            of `keras.ops`; for a model to be loaded again it must be
            registered with Keras. Defaults to `Magnitude()`.

    Raises:
        ValueError: If `weight_decay` is negative or `sparsity` out of range.

    Example:

    >>> swd = SelectiveWeightDecay(weight_decay=0.01)
    >>> float(swd(ops.array([3.0, 4.0])))
    0.125

    Reference:
        Tessier et al., "Rethinking Weight Decay for Efficient Neural Network
        Pruning", J. Imaging 8(3):64, 2022, arXiv 2011.10520.
    """

    def __init__(
        self,
        weight_decay: float = 1e-3,
        *,
        sparsity: float | None = None,
        granularity: Granularity | None = None,
        criterion=None,
    ):
        super().__init__(sparsity, granularity, criterion)
        self.weight_decay = check_not_negative("weight_decay", weight_decay)

    def __call__(self, values):
        """Returns `weight_decay / 2 * sum(w ** 2)`: there is no selection.

        Args:
            values: Float tensor of the kernel's shape.

        Returns:
            Float scalar tensor, in the type of `keras.config.floatx()`.
        """
        return plain_decay(values, self.weight_decay)

    def penalty(self, values, strength, select, controls):
        """Returns `weight_decay / 2 * (sum(w**2) + strength * sum(w[S]**2))`.

        Args:
            values: Float tensor of the kernel's shape.
            strength: Float scalar, `a`.
            select: A `Selector`; `select(values, controls)` is true on `S`.
            controls: Float tensor.

        Returns:
            Float scalar tensor, in the type of `keras.config.floatx()`.
        """
        low = self.weight_decay
        high = low * (1.0 + ops.cast(strength, "float32"))
        return selective_decay(values, low, high, select, controls)

    def plan(self, schedule, total_steps, remove_at) -> Plan:
        """Returns how the strength follows the run; see the base class."""
        plan = super().plan(schedule, total_steps, remove_at)
        if not self.weight_decay and plan.strength(plan.remove_at):
            warnings.warn(
                "SelectiveWeightDecay(weight_decay=0.0) drives no weight to "
                "zero, because the strength multiplies the weight decay. Set "
                "the weight decay of the model here, and none in the "
                "optimizer.",
                stacklevel=2,
            )
        return plan

    def decay(self, strength: float) -> float:
        """Returns `weight_decay * (1 + strength)`."""
        return self.weight_decay * (1.0 + strength)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"weight_decay": self.weight_decay, **super().get_config()}
