"""Which metric is given up for zeros, and which way it is better."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swd.removal import metrics_if_removed, removed_for_a_moment
from keras_swd.units.masking import Weight

MODES = ("auto", "max", "min")


def check_compiled(model: keras.Model) -> None:
    """Raises a `ValueError` if a model has no metrics."""
    if not model.compiled:
        raise ValueError(
            f"Model {model.name!r} is not compiled, so it has no metrics. Call "
            "`model.compile(loss=..., metrics=[...])` first."
        )


def check_mode(mode: str) -> None:
    """Raises a `ValueError` if the argument `mode` is none."""
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
            first that was compiled, or else the loss.
        mode: `"max"`, `"min"`, or `"auto"` for what Keras says of the metric.

    Returns:
        Tuple of two strings, the latter `"max"` or `"min"`.

    Raises:
        ValueError: If there is no such metric, or Keras does not say.
    """
    losses = _losses(model)
    if metric is None:
        others = [name for name in known if name not in losses]
        metric = min(others, key=_order(model), default="loss")
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


def _losses(model: keras.Model) -> set[str]:
    """The names of the loss, and of what each of several outputs adds."""
    parts = {f"{name}_loss" for name in _outputs(model)}
    # Of a subclassed model, only what was compiled knows the outputs.
    parts |= {one.name for one in model.metrics if one.name.endswith("_loss")}
    return {"loss", *parts}


def _order(model: keras.Model) -> Callable[[str], tuple[int, int]]:
    """Returns a key that sorts names as their metrics were compiled.

    Evaluation returns them by the alphabet.
    """
    compiled = [one.name for one in _compiled(model)]
    outputs = [f"{name}_" for name in _outputs(model)]

    def place(name: str) -> tuple[int, int]:
        own = [_is_of(name, one) for one in compiled]
        prefixes = [name.startswith(output) for output in outputs]
        return [*own, True].index(True), [*prefixes, True].index(True)

    return place


def _is_of(name: str, metric: str) -> bool:
    """Whether a name is that of a metric, perhaps behind that of an output."""
    return name == metric or name.endswith(f"_{metric}")


def _compiled(model: keras.Model) -> list[Any]:
    """A model's metrics, those within others too."""
    members = [getattr(one, "metrics", [one]) for one in model.metrics]
    return [one for within in members for one in within]


def _outputs(model: keras.Model) -> list[str]:
    """What the losses and metrics of each output begin with."""
    names = list(getattr(model, "output_names", None) or [])
    structure = getattr(model, "output", None) if names else None
    # Keras goes by the keys of a dictionary, whatever its layers are called.
    return [*names, *structure] if isinstance(structure, dict) else names


def _direction(model: keras.Model, metric: str) -> str | None:
    """What Keras says of a metric, as its own callbacks ask it."""
    for one in _compiled(model):
        if _is_of(metric, one.name):
            return getattr(one, "_direction", None)
    return None


def measured(
    model: keras.Model,
    weights: Sequence[Weight],
    masks: Sequence[np.ndarray],
    data: Any,
) -> dict[str, float]:
    """Evaluates a model with the masked entries at zero for a moment.

    The loss comes without the penalties of regularizers: zeros lower them,
    whatever they do to the outputs. Metrics of several numbers are left out.

    Args:
        model: A compiled `keras.Model`.
        weights: The weights to prune.
        masks: Boolean arrays of the weights' shapes, False where to remove.
        data: The argument `data` of a public function.

    Returns:
        Dictionary from the names of the metrics to floats.
    """
    found = metrics_if_removed(model, weights, masks, data)
    metrics = {n: value for n, value in found.items() if np.ndim(value) == 0}
    if "loss" in metrics:
        with removed_for_a_moment(weights, masks):
            metrics["loss"] -= _penalty(model)
    return metrics


def _penalty(model: keras.Model) -> float:
    """What the regularizers of a model's weights add to its loss."""
    cls = type(model)
    base = keras.Model
    if (cls.test_step, cls.compute_loss) != (base.test_step, base.compute_loss):
        return 0.0  # its own code says what the loss is
    return sum(
        float(ops.convert_to_numpy(variable.regularizer(variable)))
        for variable in model.trainable_variables
        if variable.regularizer is not None
    )
