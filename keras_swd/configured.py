"""Objects that are their constructor's arguments."""


class Configured:
    """An object that is its constructor's arguments, and nothing else.

    It goes through Keras' serialization, compares and prints by them.
    Subclasses that take arguments override `get_config()`.
    """

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict):
        """Builds the object from what `get_config()` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        config = self.get_config()
        arguments = ", ".join(f"{k}={v!r}" for k, v in config.items())
        return f"{type(self).__name__}({arguments})"

    def __eq__(self, other) -> bool:
        return (
            type(self) is type(other)
            and self.get_config() == other.get_config()
        )

    def __hash__(self) -> int:
        return hash(repr(self))
