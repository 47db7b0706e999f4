"""What a run goes by: its objects as configurations, and the versions."""

from __future__ import annotations

import importlib
import math
import platform
from typing import Any

import keras

from keras_swd.configured import configuration
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
        "optimizer": configuration(getattr(model, "optimizer", None)),
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
        own = configuration(regularizer)
        alike = [entry for entry in found if entry["regularizer"] == own]
        if not alike:
            found.append({"regularizer": own, "kernels": []})
        (alike or found)[-1]["kernels"].append(variable.path)
    return found


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
