"""What a run goes by: its objects as configurations, and the versions."""

from __future__ import annotations

import importlib
import json
import math
import platform
from typing import Any

import keras

from keras_swd.regularizers.base import pruning_regularizer


def run_settings(
    model: keras.Model, scheduler, params: dict[str, Any], given: dict[str, Any]
) -> dict[str, Any]:
    """Returns what a run goes by, as values that JSON takes.

    Args:
        model: The model that is trained.
        scheduler: `PruningScheduler`, `FloorScheduler` or `None`.
        params: Dictionary, the `params` of a callback.
        given: Dictionary, what the user adds.

    Returns:
        Dictionary.
    """
    return {
        "model": model.name,
        "parameters": parameters(model),
        "epochs": _integer(params.get("epochs")),
        "steps_per_epoch": _integer(params.get("steps")),
        "optimizer": config(getattr(model, "optimizer", None)),
        "scheduler": None
        if scheduler is None
        else {
            "class_name": type(scheduler).__name__,
            "config": scheduler.settings(),
        },
        "regularizers": _regularizers(model),
        "given": given,
        "versions": _versions(),
    }


def parameters(model: keras.Model) -> int:
    """Returns how many values the weights of a model hold."""
    return sum(math.prod(variable.shape) for variable in model.weights)


def _regularizers(model: keras.Model) -> list[dict[str, Any]]:
    """The regularizers that prune, and who carries an equal one."""
    found: list[dict[str, Any]] = []
    for variable in model.weights:
        regularizer = pruning_regularizer(variable)
        if regularizer is None:
            continue
        own = config(regularizer)
        alike = [entry for entry in found if entry["regularizer"] == own]
        if not alike:
            found.append({"regularizer": own, "kernels": []})
        (alike or found)[-1]["kernels"].append(variable.path)
    return found


def config(thing: Any) -> Any:
    """Returns an object as Keras serializes it, or no more than its class.

    A callback that only looks on must not end a run because an object of the
    user's cannot be serialized.

    Example:

    >>> config(keras.regularizers.L2(0.5))["config"]
    {'l2': 0.5}
    """
    try:
        found = keras.saving.serialize_keras_object(thing)
        return json.loads(json.dumps(found, default=str, allow_nan=False))
    except (NotImplementedError, TypeError, ValueError):
        return {"class_name": type(thing).__name__, "config": None}


def _integer(number: Any) -> int | None:
    """Returns a number of NumPy, too, as one that JSON takes."""
    return None if number is None else int(number)


def _versions() -> dict[str, str]:
    # From the modules, whichever package brings them, `tensorflow-cpu` too.
    names = ("keras_swd", "keras", keras.config.backend(), "numpy")
    return {
        **{name: importlib.import_module(name).__version__ for name in names},
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
