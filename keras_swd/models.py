"""Whether a model has its weights, and which layers it consists of."""

from collections.abc import Iterator
from typing import Any

import keras


def check_built(model: Any, kind: Any = keras.Model) -> None:
    """Raises a `ValueError` if this is no model, or one without weights yet."""
    if not isinstance(model, kind):
        raise ValueError(
            "Argument `model` must be a Keras model. For a file, load it with "
            f"`keras.saving.load_model` first. Received: model={model!r}."
        )
    if not is_built(model):
        raise ValueError(
            f"Argument `model` must be built, {model.name!r} is not: it has no "
            "weights yet. Call it on data, or `model.build(input_shape)`, "
            f"first. Received: model={model!r}."
        )


def is_built(model: Any) -> bool:
    """Whether a model has its weights.

    One of several networks that has a `train_step` alone has no `call` to build
    it; then its layers decide.
    """
    layers = list(model._flatten_layers(include_self=False))
    if type(model).call is keras.Model.call:
        # Others may never be used.
        layers = [layer for layer in layers if _is_regularized(layer)] or layers
    return model.built or (
        bool(layers) and all(layer.built for layer in layers)
    )


def _is_regularized(layer: keras.layers.Layer) -> bool:
    """Whether a layer holds a pruning regularizer, which is a layer too."""
    parts = layer._flatten_layers(include_self=False, recursive=False)
    return any(isinstance(x, keras.regularizers.Regularizer) for x in parts)


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the model and its layers at any depth."""
    # Keras' public `layers` stops at the first level.
    return list(model._flatten_layers())


def walk(
    model: keras.layers.Layer, trail: str = ""
) -> Iterator[tuple[keras.layers.Layer, str]]:
    """Yields the layers of a model at any depth, each with its path."""
    if isinstance(model, keras.Model):
        within = model.layers
    else:  # a layer around another one
        within = model._flatten_layers(include_self=False, recursive=False)
    for layer in within:
        # A pruning regularizer is a layer too, for Keras.
        if not isinstance(layer, keras.regularizers.Regularizer):
            path = f"{trail}/{layer.name}".strip("/")
            yield layer, path
            yield from walk(layer, path)
