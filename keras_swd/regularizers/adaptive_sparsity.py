"""Adaptive Sparsity: a trained threshold per kernel, one budget for all."""

import keras

from keras_swd.allocation import GlobalRanking
from keras_swd.arguments import check_not_negative, check_positive
from keras_swd.regularizers.base import PruningRegularizer
from keras_swd.regularizers.decay import plain_decay
from keras_swd.regularizers.threshold_training import ThresholdTraining
from keras_swd.schedules import Exponential


@keras.saving.register_keras_serializable("keras_swd")
class AdaptiveSparsity(PruningRegularizer):
    """Trains, with each kernel, the threshold below which weights are zero.

    A kernel computes with `w * (|w| > r * std(w))`; where it is zero, `w` is
    kept by the optimizer, gets the same gradient, and may come back. The
    threshold `r` descends along the gradient of the loss plus
    `strength * (density - (1 - sparsity)) ** 2`, one budget for all kernels,
    so kernels that can do without more weights give up more.

    It needs `optimizer=keras_swd.with_pruning(...)`. The strength grows from
    100 to 3000 unless `PruningScheduler` is given a schedule. A budget such as
    `Operations(left=0.1)` or `Parameters(left=0.1)` may stand for the
    sparsity. Kernels are centered at 0 in every step; put a normalization or a
    bias behind them.

    Args:
        weight_decay: Float >= 0, the coefficient of ordinary weight decay: the
            penalty in the loss is `weight_decay / 2 * sum(w**2)`. Do not also
            pass it to the optimizer. Defaults to `5e-4`.
        rate: Float > 0, learning rate of the thresholds, in multiples of the
            optimizer's. Adam's is small: between 0.2 and 1 there. Defaults
            to `0.01`.
        sparsity: Float in [0, 1), a target for each kernel that holds this
            instance alone. Defaults to `None`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> asl = AdaptiveSparsity(weight_decay=0.01)
    >>> float(asl(ops.array([3.0, 4.0])))
    0.125

    Reference:
        Retsinas et al., "Weight Pruning via Adaptive Sparsity Loss", 2020,
        arXiv 2006.02768. The counted density, the growing strength, the
        exact removal and budgets in operations are ours.
    """

    part = ThresholdTraining
    allocation = GlobalRanking()
    schedule = Exponential(100.0, 3000.0, finish=0.6)

    def __init__(
        self,
        weight_decay: float = 5e-4,
        *,
        rate: float = 0.01,
        sparsity: float | None = None,
    ):
        super().__init__(sparsity)
        self.weight_decay = check_not_negative("weight_decay", weight_decay)
        self.rate = check_positive("rate", rate)

    def __call__(self, values):
        """Returns `weight_decay / 2 * sum(w ** 2)`.

        Args:
            values: Float tensor of the kernel's shape.

        Returns:
            Float scalar tensor, in the type of `keras.config.floatx()`.
        """
        return plain_decay(values, self.weight_decay)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "weight_decay": self.weight_decay,
            "rate": self.rate,
            "sparsity": self.sparsity,
        }
