"""Comparing a smaller model with the one that it came from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swd.coupling.graph import graph_of
from keras_swd.models import all_layers

#: Largest relative difference, by the type in which a model computes.
TOLERANCES = {"float32": 1e-5, "float64": 1e-5}
TOLERANCE_OF_HALVES = 2e-2
#: Layers from which on rounding adds up to more, as a sum of random signs does.
DEEP = 100
#: What one rounding of a float32 number changes, relative to it, and how many
#: times as much as one rounding of each weight a difference may be.
ULP, ROUNDINGS = 2.0**-23, 4.0
#: Of the values of a batch: models that take images from 0 to 255 scale them
#: down, and would see nothing but zeros in small ones.
SCALES = (1.0, 128.0)
#: Sizes of a batch, tried in turn: where the output of a single sample happens
#: to be near zero, rounding is large relative to it.
SAMPLES = (1, 8)
#: Sizes to try in turn for axes that a model leaves open.
OPEN_SIZES = (32, 96, 224)
#: What numbers of either sign become, in turn: a logarithm or a root takes none
#: below zero, and a power of e none that is large.
RANGES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda values: values,
    np.abs,
    lambda values: np.abs(values) / (1.0 + np.abs(values).max(initial=0.0)),
)


def verify(model: keras.Model, twin: keras.Model) -> float:
    """Runs both models on random input and compares what they return.

    Args:
        model: Built Keras model.
        twin: The model that is to return the same.

    Returns:
        Float: the largest difference, divided by the largest value that
        `model` returns at the same output for the same batch.

    Raises:
        ValueError: If it is too large, or the models cannot be run on random
            input.
    """
    with _state_kept(model), _state_kept(twin):
        return _verify(model, twin)


@contextlib.contextmanager
def _state_kept(model: keras.Model) -> Iterator[None]:
    """Lets random numbers and stateful layers go on from where they were."""
    # Keras does not count the states of recurrent layers as variables.
    states = [
        state
        for layer in all_layers(model)
        for state in keras.tree.flatten(getattr(layer, "states", None))
        if isinstance(state, keras.Variable)
    ]
    kept = [
        (variable, np.array(ops.convert_to_numpy(variable)))
        for variable in [*model.non_trainable_variables, *states]
    ]
    try:
        yield
    finally:
        for variable, values in kept:
            variable.assign(values)


def _verify(model: keras.Model, twin: keras.Model) -> float:
    tolerance = _tolerance(model)
    for samples in SAMPLES:
        runs = [_run_both(model, twin, scale, samples) for scale in SCALES]
        differences = [difference for difference, _ in runs]
        # Not `max`, which may pass over NaN.
        difference = float(np.max(differences))
        # NaN is not below any tolerance.
        if difference <= tolerance:
            return difference
    # Where large terms cancel, rounding is large relative to what is left.
    allowed = [max(tolerance, ROUNDINGS * _rounding(twin, x)) for _, x in runs]
    if np.all(np.less_equal(differences, allowed)):
        return difference
    raise ValueError(
        f"Model {model.name!r} cannot be shrunk: on random input, the smaller "
        f"model's outputs differ by up to {difference:.1e} of the largest "
        f"value, more than {tolerance:g}. Please report this with the model's "
        "configuration."
    )


def _run_both(
    model: keras.Model, twin: keras.Model, scale: float, samples: int
) -> tuple[float, Any]:
    """How far the twin's outputs are off on random inputs, and these."""
    inputs, expected = _run_on_random(model, scale, samples)
    pairs = zip(expected, _outputs(twin, inputs), strict=True)
    return float(np.max([_difference(*pair) for pair in pairs])), inputs


def _rounding(twin: keras.Model, inputs: Any) -> float:
    """How far outputs go if each weight is rounded to a neighbour."""
    random = np.random.default_rng(0)
    kept, outputs = twin.get_weights(), _outputs(twin, inputs)
    neighbours = [
        w * (1.0 + ULP * random.choice([-1.0, 1.0], w.shape)) for w in kept
    ]
    try:
        twin.set_weights(neighbours)
        pairs = zip(outputs, _outputs(twin, inputs), strict=True)
        return float(np.max([_difference(*pair) for pair in pairs]))
    finally:
        twin.set_weights(kept)


def _outputs(model: keras.Model, inputs: Any) -> list[np.ndarray]:
    outputs = keras.tree.flatten(model(inputs, training=False))
    return [_values(tensor) for tensor in outputs]


def _tolerance(model: keras.Model) -> float:
    dtypes = {layer.compute_dtype for layer in model.layers}
    dtypes |= {model.compute_dtype}
    tolerance = max(TOLERANCES.get(d, TOLERANCE_OF_HALVES) for d in dtypes)
    return tolerance * max(1.0, len(model.layers) / DEEP) ** 0.5


def _values(tensor: Any) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(tensor, "float32")).astype("float64")


def _difference(expected: np.ndarray, found: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    finite = np.isfinite(expected)
    if not finite.any():
        return float("nan")
    expected = np.where(finite, expected, 0.0)
    gaps = np.abs(np.where(finite, found, 0.0) - expected)
    largest = np.max(np.abs(expected))
    return float(gaps.max() / (largest if largest > 0.0 else 1.0))


def _run_on_random(
    model: keras.Model, scale: float, samples: int
) -> tuple[Any, list[np.ndarray]]:
    """Returns random inputs of a model, and its outputs for them."""
    cause: Exception | None = None
    for size in OPEN_SIZES:
        try:
            found = _first_finite(model, size, scale, samples)
        except Exception as error:
            cause = error
            continue
        if found is None:
            raise ValueError(
                f"Model {model.name!r} cannot be shrunk, since it gives NaN or "
                "infinity on all random input, so that the result cannot be "
                "verified. Check its weights."
            )
        return found
    raise ValueError(
        f"Model {model.name!r} cannot be shrunk, since it cannot be run on "
        f"random input to verify the result. Cause: {cause}"
    ) from cause


def _first_finite(
    model: keras.Model, size: int, scale: float, samples: int
) -> tuple[Any, list[np.ndarray]] | None:
    """Inputs from the first range in which all outputs are finite somewhere."""
    for within in RANGES:
        random = np.random.default_rng(0)

        def draw(tensor, within=within, random=random):
            values = _random_like(tensor, size, samples, random)
            if keras.backend.is_float_dtype(tensor.dtype):
                values = within(scale * values)
            return values.astype(tensor.dtype)

        inputs = keras.tree.map_structure(draw, graph_of(model).input)
        outputs = _outputs(model, inputs)
        if all(np.isfinite(output).any() for output in outputs):
            return inputs, outputs
    return None


def _random_like(
    tensor: Any, size: int, samples: int, random: np.random.Generator
) -> np.ndarray:
    shape = [size if n is None else n for n in tensor.shape]
    shape[0] = tensor.shape[0] or samples
    if keras.backend.is_float_dtype(tensor.dtype):
        return random.normal(size=shape)
    return random.integers(2, size=shape)
