"""Which layers of a model an argument `exclude` means."""

import difflib
from collections.abc import Iterable
from typing import Any

import keras

from keras_swd.models import walk


class Exclusion:
    """Layers that are to be left alone.

    Args:
        model: A built model.
        exclude: Layers, by name or the layer itself, or one of them.
    """

    def __init__(
        self,
        model: keras.Model,
        exclude: Iterable[str | keras.layers.Layer],
    ):
        given = _as_list(exclude)
        trails: dict[int, str] = {}
        for layer, trail in walk(model):
            trails.setdefault(id(layer), trail)
        self._model = model.name
        self._names = {e for e in given if isinstance(e, str)}
        self._trails = {
            e.strip("/") if isinstance(e, str) else trails.get(id(e), e.name)
            for e in given
        }

    def means(self, name: str, trail: str) -> bool:
        """Whether a layer of this name, at this path, is left alone.

        A bare name means every layer of that name; a layer itself, or the path
        of one in a nested model, that layer alone.
        """
        return trail in self._trails or name in self._names

    def check(self, seen: set[str]) -> None:
        """Raises a `ValueError` if one is not among these names and paths."""
        for name in sorted(self._trails - seen):
            close = difflib.get_close_matches(name, seen, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"Argument `exclude` names {name!r}, but model "
                f"{self._model!r} has no such layer.{hint} "
                f"Received: exclude={sorted(self._trails)}."
            )


def _as_list(exclude: Any) -> list[Any]:
    """Returns what is excluded as a list, or raises if it is something else."""
    one = str, keras.layers.Layer
    given = [exclude] if isinstance(exclude, one) else exclude
    if isinstance(given, Iterable):
        given = list(given)
        if all(isinstance(each, one) for each in given):
            return given
    raise ValueError(
        "Argument `exclude` must hold layers or their names, e.g. "
        f"['classifier']. Received: exclude={exclude!r}."
    )


def excluded_layers(
    model: keras.Model, exclude: Iterable[str | keras.layers.Layer]
) -> list[keras.layers.Layer]:
    """Returns the layers that an argument `exclude` means.

    Args:
        model: A built model.
        exclude: As in `with_regularizer`.

    Returns:
        List of layers, at any depth; one within another may be missing.

    Raises:
        ValueError: If `exclude` names no layer.
    """
    exclusion = Exclusion(model, exclude)
    walked = list(walk(model))
    exclusion.check({n for layer, trail in walked for n in (layer.name, trail)})
    return [
        layer for layer, trail in walked if exclusion.means(layer.name, trail)
    ]
