"""Import tf_keras and tfmot, and leave the process as it was."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from keras_swd.export.tflite.quiet import quiet

LEGACY = "TF_USE_LEGACY_KERAS"


def load_tf_keras() -> Any:
    """Imports Keras 2, which lives on as the package tf_keras."""
    return _load("tf_keras")


def load_tfmot() -> Any:
    """Imports the TensorFlow Model Optimization toolkit.

    Its own import sets `TF_USE_LEGACY_KERAS`, after which `tf.keras` is
    another package for all code of the process. Here both stay as they were.
    """
    load_tf_keras()
    with _keras_as_found():
        return _load("tensorflow_model_optimization")


def _load(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"This needs the package {name}: pip install 'keras_swd[tfmot]'."
        ) from error


@contextlib.contextmanager
def _keras_as_found() -> Iterator[None]:
    """Restores the variable, and what `tf.keras` and its like stand for."""
    import tensorflow as tf

    variable = os.environ.get(LEGACY)
    # A loader picks one of the two Keras when it is first used, and puts the
    # package that it loads in its own place.
    loaders = [
        (loader, dict(vars(loader)), name, vars(module))
        for module in (tf, tf.compat.v1, tf.compat.v2)
        for name, loader in list(vars(module).items())
        if type(loader).__name__ == "KerasLazyLoader"
    ]
    # tfmot asks for it, and must not be the first to do so.
    tf.keras.layers  # noqa: B018
    try:
        yield
    finally:
        for loader, state, name, names in loaders:
            vars(loader).clear()
            vars(loader).update(state)
            # Where a module is wrapped, there is a place within.
            loader._tfll_parent_module_globals[name] = loader
            names[name] = loader
        os.environ.pop(LEGACY, None)
        if variable is not None:
            os.environ[LEGACY] = variable
