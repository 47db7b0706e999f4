"""Objects that are their constructor's arguments."""

import json
from typing import Any

import keras


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


def expression(thing: Any) -> str:
    """Returns the code that makes an object anew, for a message.

    Example:

    >>> expression(keras_swd.Constant(2.0)), expression(0.5)
    ('keras_swd.Constant(value=2.0)', '0.5')
    """
    package, own = (
        kind.__module__.partition(".")[0] for kind in (type(thing), Configured)
    )
    return f"{own}.{thing!r}" if package == own else repr(thing)


def configuration(thing: Any) -> Any:
    """Returns an object as Keras serializes it, or no more than its class.

    A callback that only looks on must not end a run because an object of the
    user's cannot be serialized.

    Example:

    >>> configuration(keras.regularizers.L2(0.5))["config"]
    {'l2': 0.5}
    """
    try:
        found = keras.saving.serialize_keras_object(thing)
        return json.loads(json.dumps(found, default=str, allow_nan=False))
    except Exception:  # of whatever kind, it is the user's
        return {"class_name": type(thing).__name__, "config": None}
