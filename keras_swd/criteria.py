"""What each weight is worth: scores from values, high = keep."""

import keras


@keras.saving.register_keras_serializable("keras_swd")
class Magnitude:
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

    def get_config(self) -> dict:
        """Returns the constructor's arguments: there are none."""
        return {}

    @classmethod
    def from_config(cls, config: dict):
        """Builds a criterion from what `get_config()` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __eq__(self, other) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))
