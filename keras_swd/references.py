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
def by_reference() -> Iterator[None]:
    """Lets configurations made and read within refer to their parts.

    Such a part may be what no file could hold, such as an object of a class
    that Keras does not know.
    """
    before = _parts.set([])
    try:
        yield
    finally:
        _parts.reset(before)


def serialize(part: Any) -> dict:
    """Returns a part's configuration, or one that refers to it."""
    parts = _parts.get()
    if parts is None:
        return keras.saving.serialize_keras_object(part)
    parts.append(part)
    return {"part": len(parts) - 1}


def deserialize(config: Any) -> Any:
    """Returns the part that `serialize` was given, or one equal to it."""
    if not isinstance(config, dict):
        return config
    parts = _parts.get()
    if parts is not None and "part" in config:
        return parts[config["part"]]
    return keras.saving.deserialize_keras_object(config)
