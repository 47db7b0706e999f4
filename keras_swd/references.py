"""Configurations whose parts are in memory, and never written."""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras

_parts: contextvars.ContextVar[list[Any] | None] = contextvars.ContextVar(
    "parts", default=None
)


@contextlib.contextmanager
def by_reference(parts: list[Any] | None = None) -> Iterator[list[Any]]:
    """Lets configurations made and read within refer to their parts.

    Such a part may be what no file could hold, such as an object of a class
    that Keras does not know.

    Args:
        parts: List that was yielded before, for configurations that were made
            then. Defaults to `None`, a new one.

    Yields:
        The list of the parts.
    """
    parts = [] if parts is None else parts
    before = _parts.set(parts)
    try:
        yield parts
    finally:
        _parts.reset(before)


def serialize(part: Any) -> dict:
    """Returns a part's configuration, or one by which Keras finds it again."""
    parts = _parts.get()
    if parts is None:
        return keras.saving.serialize_keras_object(part)
    parts.append(part)
    return keras.saving.serialize_keras_object(Reference(len(parts) - 1))


@keras.saving.register_keras_serializable("keras_swd.references")
class Reference:
    """Stands for a part in a configuration; read, it is the part itself."""

    def __init__(self, index: int):
        self.index = index

    def get_config(self) -> dict:
        """Returns where the part is."""
        return {"index": self.index}

    @classmethod
    def from_config(cls, config: dict) -> Any:
        """Returns the part."""
        return (_parts.get() or [])[config["index"]]
