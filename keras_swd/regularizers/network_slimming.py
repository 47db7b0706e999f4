"""Network slimming: a baseline that pulls all scales to zero alike."""

import keras
from keras import ops

from keras_swd.arguments import check_not_negative
from keras_swd.granularity import CoupledChannels, Granularity
from keras_swd.regularizers.base import PruningRegularizer
from keras_swd.regularizers.decay import as_loss
from keras_swd.schedules import Constant


@keras.saving.register_keras_serializable("keras_swd")
class NetworkSlimming(PruningRegularizer):
    """An L1 penalty on what scales the channels, the same for all.

    The penalty of a scale `g` is `rate * sum(|g|)`, whatever is selected: many
    scales become small, and the channels of the lowest are removed. Use it
    with `PruningScheduler(..., remove_at=0.5)`, which removes them halfway
    through the run and trains on. `with_regularizer` places it on the scales
    of normalizations alone, as the paper does; shifts are removed with them.
    Kernels keep the regularizers that they have.

    Args:
        rate: Float >= 0, the factor of the penalty. Defaults to `1e-4`.
        sparsity: Float in [0, 1), a target for the channels that hold this
            instance alone. Defaults to `None`.
        granularity: Which entries go together. Defaults to
            `CoupledChannels()`.
        criterion: What a scale is worth. Defaults to `Magnitude()`.

    Raises:
        ValueError: If `rate` is negative or `sparsity` out of range.

    Example:

    >>> slimming = NetworkSlimming(rate=0.1)
    >>> round(float(slimming(ops.array([3.0, -4.0]))), 6)
    0.7

    Reference:
        Liu et al., "Learning Efficient Convolutional Networks through Network
        Slimming", ICCV 2017, arXiv 1708.06519.
    """

    shifts = False
    schedule = Constant(0.0)

    def __init__(
        self,
        rate: float = 1e-4,
        *,
        sparsity: float | None = None,
        granularity: Granularity | None = None,
        criterion=None,
    ):
        super().__init__(sparsity, granularity or CoupledChannels(), criterion)
        self.rate = check_not_negative("rate", rate)

    def __call__(self, values):
        """Returns `rate * sum(|values|)`."""
        w = ops.cast(values, "float32")
        return as_loss(self.rate * ops.sum(ops.abs(w)))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"rate": self.rate, **super().get_config()}
