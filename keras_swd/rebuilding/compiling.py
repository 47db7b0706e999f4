"""What a model was compiled with, for the same one built again."""

import warnings
from typing import Any

import keras

from keras_swd.optimizers import (
    exclude_alike,
    fresh_optimizer,
    plain_optimizer,
)


def compile_alike(
    twin: keras.Model,
    model: keras.Model,
    *,
    stacklevel: int,
    plain: bool = False,
) -> None:
    """Compiles a model as another one is, with an optimizer without state.

    Where that cannot be, it warns and leaves the model as it is.

    Args:
        twin: `keras.Model`, the same as `model` or smaller, built again.
        model: A compiled `keras.Model`.
        stacklevel: Integer, where a warning points to, as in `warnings.warn`.
        plain: Boolean, whether the optimizer is to be one of Keras' own.
            Defaults to `False`.
    """
    try:
        arguments = _compilation(twin, model)
        if plain:
            arguments["optimizer"] = plain_optimizer(arguments["optimizer"])
    except Exception as error:  # also of a class of the user's
        warnings.warn(
            f"Model {model.name!r} was not compiled again: {error}. Call "
            "`compile()` yourself.",
            stacklevel=stacklevel,
        )
        return
    twin.compile(**arguments)


def _compilation(twin, model) -> dict[str, Any]:
    """The arguments of `compile`, whatever has state made anew."""
    if type(model).compile is not keras.Model.compile:
        raise ValueError("its `compile()` method is custom")
    # Keras shows these serialized alone, which not every function survives;
    # and `compile_from_config` builds the optimizer, whose state would then
    # make saved files two or three times as large.
    # Saving to HDF5 takes the optimizer out of them.
    arguments = {"optimizer": model.optimizer, **model._compile_config.config}
    for name in ("optimizer", "metrics", "weighted_metrics"):
        arguments[name] = keras.tree.map_structure(_fresh, arguments[name])
    exclude_alike(arguments["optimizer"], _pairs(model, twin))
    return arguments


def _pairs(model, twin) -> list[tuple[keras.Variable, keras.Variable]]:
    """What is trained in a model, and the same in one built again."""
    old, new = model.trainable_variables, twin.trainable_variables
    if len(old) == len(new):
        return list(zip(old, new, strict=True))
    # A smaller model may have a bias more; other paths are as they were.
    paths = {variable.path: variable for variable in new}
    return [(v, paths[v.path]) for v in old if v.path in paths]


def _fresh(part):
    """An optimizer or a metric without its state; anything else as it is."""
    if not isinstance(part, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        return part
    try:
        if isinstance(part, keras.optimizers.Optimizer):
            return fresh_optimizer(part)
        return type(part).from_config(part.get_config())
    except Exception as error:
        raise ValueError(
            f"{type(part).__name__} cannot be made again from its "
            f"configuration ({error})"
        ) from error
