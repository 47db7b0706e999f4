"""What each weight is worth: scores from values, high = keep."""

import keras

from keras_swd.configured import Configured


@keras.saving.register_keras_serializable("keras_swd")
class Magnitude(Configured):
    """Scores each weight by its absolute value.

    Example:

    >>> Magnitude()(np.array([-2.0, 0.5])).tolist()
    [2.0, 0.5]
    """

    def __call__(self, values):
        """Returns the scores of `values`.

        Args:
            values: Float array or tensor of any shape.

        Returns:
            Float array or tensor, as `values`, of the same shape.
        """
        return abs(values)
