"""Numbers and configurations as a reader likes them."""

from __future__ import annotations

import math
from typing import Any

from keras_swd.record import percentage


def number(value: Any, name: str = "") -> str:
    """Returns a value as text.

    Args:
        value: Number, string or `None`.
        name: String, what it is: accuracies and sparsities are given in
            percent. Defaults to `""`.

    Example:

    >>> number(1234), number(0.5, "val_accuracy"), number(1.23456e-7)
    ('1,234', '50.00%', '1.235e-07')
    """
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if is_share(name) and 0.0 <= value <= 1.0:
        return percentage(value)
    return f"{value:.4g}"


def is_share(name: str) -> bool:
    """Whether numbers of this name are shares."""
    return "accuracy" in name or "sparsity" in name


def signed(config: Any) -> str:
    """Returns an object that Keras serialized as one writes it in Python.

    Arguments that are `None` are left out.

    Example:

    >>> part = {"class_name": "Channel", "config": {"axis": -1}}
    >>> signed({"class_name": "SWD", "config": {"by": part, "sparsity": None}})
    'SWD(by=Channel(axis=-1))'
    """
    if isinstance(config, dict) and "class_name" in config:
        arguments = config.get("config")
        if not isinstance(arguments, dict):
            return str(config["class_name"])
        inner = ", ".join(
            f"{name}={signed(value)}"
            for name, value in arguments.items()
            if value is not None
        )
        return f"{config['class_name']}({inner})"
    if isinstance(config, dict):
        return ", ".join(f"{k}: {signed(v)}" for k, v in config.items())
    if isinstance(config, list):
        return ", ".join(map(signed, config))
    # Single precision: 0.1 is 0.10000000149.
    return f"{config:.7g}" if isinstance(config, float) else str(config)
