"""A model without any trace of this library."""

import keras

from keras_swd.models import all_layers
from keras_swd.rebuilding.again import build_again
from keras_swd.rebuilding.compiling import compile_alike
from keras_swd.regularizers.base import PruningRegularizer


def strip(model: keras.Model) -> keras.Model:
    """Returns the same model without any trace of this library.

    The weights are kept bit for bit, and so is the compilation (the
    optimizer's state is not). The result saves to files that load where
    keras_swd is not installed.

    Args:
        model: A built `keras.Model`: Sequential, functional, or subclassed
            with a working `get_config()`.

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: If the model is not built, or cannot be built again from
            its configuration, or has a layer that was adapted to tf-idf.

    Example:

    >>> swd = keras_swd.SelectiveWeightDecay()
    >>> layer = keras.layers.Dense(5, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> strip(model).layers[0].kernel_regularizer is None
    True
    """
    twin = plain_copy(model)
    if model.compiled:
        compile_alike(twin, model, stacklevel=3, plain=True)
    return twin


def plain_copy(model: keras.Model) -> keras.Model:
    """Returns the same model as `strip` does, but not compiled.

    What it saves holds its weights alone, and nothing of an optimizer.

    Args:
        model: A built `keras.Model`.

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: If the model cannot be built again from its configuration.
    """
    twin = build_again(model, without_pruning)
    detach(twin)
    return twin


def without_pruning(part):
    """Replaces the configuration of our regularizers by None, at any depth."""
    if isinstance(part, (list, tuple)):
        return type(part)(without_pruning(p) for p in part)
    if not isinstance(part, dict):
        return part
    if str(part.get("registered_name")).startswith("keras_swd>"):
        return None
    return {key: without_pruning(value) for key, value in part.items()}


def detach(model: keras.Model) -> None:
    """Takes our regularizers from layers that a layer's own code made."""
    for layer in all_layers(model):
        for name, value in list(vars(layer).items()):
            if isinstance(value, PruningRegularizer):
                setattr(layer, name, None)
    for variable in model.variables:
        if isinstance(variable.regularizer, PruningRegularizer):
            variable.regularizer = None
