"""Which metric is given up for zeros, and which way it is better."""

from collections.abc import Collection
from typing import Any

import keras

from keras_swd.arguments import check_repeatable

MODES = ("auto", "max", "min")


def check_compiled(model: keras.Model) -> None:
    """Raises a `ValueError` if a model has no metrics."""
    if not model.compiled:
        raise ValueError(
            f"Model {model.name!r} is not compiled, so it has no metrics. Call "
            "`model.compile(loss=..., metrics=[...])` first."
        )


def check_comparable(data: Any, mode: str) -> None:
    """Raises a `ValueError` if nothing can be compared on data, or so.

    Args:
        data: The argument `data` of a public function.
        mode: Its argument `mode`.
    """
    check_repeatable("data", data)
    if mode not in MODES:
        raise ValueError(
            "Argument `mode` must be 'auto', 'max' or 'min'. "
            f"Received: mode={mode!r}."
        )


def find_metric(
    model: keras.Model, known: Collection[str], metric: str | None, mode: str
) -> tuple[str, str]:
    """Returns the name of the metric that counts, and its mode.

    Args:
        model: A compiled model that was evaluated before.
        known: The names that its evaluation gives.
        metric: The argument `metric` of a public function. None means the
            first that is no loss, or else the loss.
        mode: `"max"`, `"min"`, or `"auto"` for what Keras says of the metric.

    Returns:
        Tuple of two strings, the latter `"max"` or `"min"`.

    Raises:
        ValueError: If there is no such metric, or Keras does not say.
    """
    # Of a model with several outputs, each has a loss of its own.
    losses = {"loss", *(f"{name}_loss" for name in _outputs(model))}
    if metric is None:
        metric = next((name for name in known if name not in losses), "loss")
    if metric not in known:
        raise ValueError(
            f"Argument `metric` must be one of {sorted(known)}, which the "
            f"model is compiled with. Received: metric={metric!r}."
        )
    if mode != "auto":
        return metric, mode
    direction = "down" if metric in losses else _direction(model, metric)
    if direction not in ("up", "down"):
        raise ValueError(
            f"Keras does not say whether more or less of {metric!r} is "
            "better. Pass `mode='max'` or `mode='min'`. "
            "Received: mode='auto'."
        )
    return metric, "max" if direction == "up" else "min"


def gain(mode: str, value: float) -> float:
    """Returns a value of a metric as a number of which more is better."""
    return value if mode == "max" else -value


def _outputs(model: keras.Model) -> list[str]:
    """What the losses and metrics of each output begin with."""
    names = list(getattr(model, "output_names", None) or [])
    structure = getattr(model, "output", None) if names else None
    # Keras goes by the keys of a dictionary, whatever its layers are called.
    return [*names, *structure] if isinstance(structure, dict) else names


def _direction(model: keras.Model, metric: str) -> str | None:
    """What Keras says of a metric, as its own callbacks ask it."""
    prefixes = [f"{name}_" for name in _outputs(model)]
    names = {metric, *(metric.removeprefix(prefix) for prefix in prefixes)}
    for member in model.metrics:
        for one in getattr(member, "metrics", [member]):
            if one.name in names:
                return getattr(one, "_direction", None)
    return None
