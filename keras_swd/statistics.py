"""Renewing the moving statistics of batch normalizations."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swd.arguments import check_count, check_optional_count
from keras_swd.backend.eager import eagerly
from keras_swd.backend.host import read
from keras_swd.models import all_layers, check_built


def renew_statistics(
    model: keras.Model,
    data,
    steps: int | None = None,
    batch_size: int = 32,
) -> None:
    """Sets the statistics of batch normalizations to those of data, in place.

    What they have learnt as moving averages belongs to the model as it was in
    training. Call it after `remove` or `shrink`, with some hundred samples of
    the training data at least. The moving mean and the moving variance of each
    `BatchNormalization` become the average, over all samples, of the mean and
    the variance of their batch; no other weight changes. While the data pass,
    batch normalizations work as in training, whatever a model around them
    asks for, and all other layers as in inference. Frozen layers keep their
    statistics.

    Args:
        model: A built `keras.Model`.
        data: Inputs as an array, or arrays in a list or a dictionary; a tuple
            `(x, y)` or `(x, y, sample_weight)`, of which `x` is taken; or
            batches of any of these: a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a loader or a generator.
        steps: Integer, the number of batches to take. Needed for batches that
            never end. Defaults to `None`, all.
        batch_size: Integer, the samples of a batch where `data` are arrays.
            Take that of training. Defaults to `32`.

    Raises:
        ValueError: If the model is not built or has no statistics to renew,
            an argument is out of range, or the data give no batch or
            statistics that are not finite. Then nothing is changed.

    Example:

    >>> model = keras.Sequential([keras.Input((1,))])
    >>> model.add(keras.layers.BatchNormalization())
    >>> renew_statistics(model, np.array([[1.0], [2.0], [3.0]]))
    >>> round(float(model.layers[0].moving_mean[0]), 6)
    2.0

    Reference:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
        Generalization", 2018, arXiv 1803.05407, section 3.2, which does it
        for averaged weights.
    """
    check_built(model)
    steps = check_optional_count("steps", steps)
    batch_size = check_count("batch_size", batch_size)
    batches = _batches(data, batch_size, _number_of_inputs(model))
    found = [
        layer
        for layer in all_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
    ]
    _check_found(model, found)
    with contextlib.ExitStack() as stack:
        stack.enter_context(eagerly())
        for layer in found:
            stack.enter_context(_averaging(layer))
        empty = True
        for batch in itertools.islice(batches, steps):
            model(
                keras.tree.map_structure(ops.convert_to_tensor, batch),
                training=False,
            )
            empty = False
        if empty:
            raise ValueError(
                "Argument `data` gave no batch. A generator can be used once "
                f"only: pass a new one. Received: data={data!r}."
            )
        for layer in found:
            _check_finite(layer)


@contextlib.contextmanager
def _averaging(layer: Any) -> Iterator[None]:
    """Lets a layer average the statistics of all that it is given.

    If that fails, it has its old ones.
    """
    momentum, call = layer.momentum, layer.call
    statistics = (layer.moving_mean, layer.moving_variance)
    before = [read(variable).copy() for variable in statistics]
    seen = 0

    def renew(inputs, *args, **kwargs):
        nonlocal seen
        if not seen:
            for variable in statistics:
                variable.assign(np.zeros(variable.shape))
        size = int(inputs.shape[0])
        if not size:
            return call(inputs, *args, **kwargs)
        layer.momentum = seen / (seen + size)
        seen += size
        return call(inputs, *args, **{**kwargs, "training": True})

    # On this object alone: a model may call it in inference mode.
    layer.call = renew
    try:
        yield
    except BaseException:
        for variable, values in zip(statistics, before, strict=True):
            variable.assign(values)
        raise
    finally:
        del layer.call
        layer.momentum = momentum


def _number_of_inputs(model: keras.Model) -> int | None:
    """How many inputs a model has, where its graph tells."""
    inputs = getattr(model, "inputs", None)
    return None if inputs is None else len(keras.tree.flatten(inputs))


def _batches(
    data: Any, batch_size: int, number_of_inputs: int | None
) -> Iterable[Any]:
    """The inputs of a model, batch after batch."""
    x = _inputs(data) if isinstance(data, tuple) else data
    leaves = keras.tree.flatten(x)
    # Of pairs in a list, each is a batch with its targets.
    pairs = isinstance(data, list) and isinstance(next(iter(data), 0), tuple)
    if leaves and not pairs and all(hasattr(leaf, "shape") for leaf in leaves):
        _check_one_for_each_input(data, number_of_inputs)
        return (
            keras.tree.map_structure(
                lambda array, start=start: array[start : start + batch_size], x
            )
            for start in range(0, int(leaves[0].shape[0]), batch_size)
        )
    if not isinstance(data, Iterable):
        raise ValueError(
            "Argument `data` must be arrays, or batches as a tf.data.Dataset "
            f"or a generator gives them. Received: data={data!r}."
        )
    return (_inputs(batch, number_of_inputs) for batch in data)


def _check_one_for_each_input(data: Any, number_of_inputs: int | None) -> None:
    """Refuses a list of batches, which would be taken for several inputs."""
    if number_of_inputs is None or not isinstance(data, list):
        return
    if len(keras.tree.flatten(data)) != number_of_inputs:
        raise ValueError(
            "Argument `data` is a list of arrays, one for each input; the "
            f"model has {number_of_inputs} inputs, and the list {len(data)} "
            "arrays. Pass batches as a generator, `(batch for batch in data)`, "
            "or in one array, `np.concatenate(data)`; inputs with targets as a "
            "tuple."
        )


def _inputs(batch: Any, number_of_inputs: int | None = None) -> Any:
    """The inputs of `(x, y)` and the like, which some loaders give as a list.

    A list of as many arrays as the model has inputs holds these.
    """
    arrays = isinstance(batch, list) and all(hasattr(x, "shape") for x in batch)
    if arrays and number_of_inputs == len(batch):
        return batch if number_of_inputs > 1 else batch[0]
    return keras.utils.unpack_x_y_sample_weight(batch)[0]


def _check_found(model: keras.Model, found: list[Any]) -> None:
    if not found:
        raise ValueError(
            "Argument `model` must have a `BatchNormalization` that is not "
            f"frozen; {model.name!r} has none, so it has no statistics to "
            "renew. Set `trainable = True` on a frozen layer, if it has one. "
            f"Received: model={model!r}."
        )
    for layer in found:
        if getattr(layer, "renorm", False):
            raise ValueError(
                f"Layer {layer.name!r} has `renorm=True`: it works in "
                "training with statistics that follow the moving ones, so "
                "that these cannot be renewed alone. Train on for a few "
                "steps instead."
            )


def _check_finite(layer: Any) -> None:
    for variable in (layer.moving_mean, layer.moving_variance):
        if not np.isfinite(read(variable)).all():
            raise ValueError(
                f"The data give {variable.path!r} NaN or infinity, so nothing "
                "was changed. Check the data, and the weights of the model."
            )
