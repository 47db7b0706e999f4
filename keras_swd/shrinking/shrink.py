"""A smaller model that returns the same."""

from __future__ import annotations

import warnings

import keras

from keras_swd.coupling.following import follow
from keras_swd.coupling.liveness import find_live
from keras_swd.rebuilding.compiling import compile_alike
from keras_swd.shrinking.building import build
from keras_swd.shrinking.cutting import Cut
from keras_swd.shrinking.verifying import verify


def shrink(model: keras.Model) -> keras.Model:
    """Returns a smaller model without the channels that add nothing.

    Channels go whose weights are zero, or whose consumers have zeros for them,
    with all that served them alone. A channel that adds a constant, such as a
    bias behind a filter of zeros, goes too: the constant becomes part of the
    next layer's bias. `keras_swd.find_coupling` tells beforehand how many
    channels go, and why others stay.

    Inputs and outputs stay as they are. The result is compared with `model` on
    random input: outputs may differ by 1e-5 of the largest value in float32,
    by 2e-2 in half precision, times `sqrt(n / 100)` for `n > 100` layers; by
    more only where rounding the weights makes as much of a difference.
    It is a plain model: it carries no pruning regularizer, and its files load
    where keras_swd is not installed. It is compiled as `model` is (the
    optimizer's state is not kept), and can be trained further.

    Args:
        model: Built `keras.Model`, Sequential or functional. Models within
            are shrunk too.

    Returns:
        A new `keras.Model`, of the class of `model` if that has Keras'
        constructor.

    Raises:
        ValueError: If the model is not built or is subclassed, a layer cannot
            be built again, or the result would differ.

    Example:

    >>> model = keras.Sequential([keras.Input((4,))])
    >>> model.add(keras.layers.Dense(8, activation="relu"))
    >>> model.add(keras.layers.Dense(2))
    >>> kernel = np.ones((4, 8))
    >>> kernel[:, :5] = 0.0
    >>> model.layers[0].set_weights([kernel, np.zeros(8)])
    >>> [layer.units for layer in shrink(model).layers]
    [3, 2]
    """
    followed = follow(model)
    live = find_live(followed)
    twin = build(model, Cut(followed, live.kept))
    verify(model, twin)
    if type(twin) is not type(model):
        warnings.warn(
            f"Model {model.name!r} of class {type(model).__name__} becomes one "
            f"of keras.{type(twin).__name__} and loses methods of its own, "
            "since its class has a constructor of its own.",
            stacklevel=2,
        )
    if model.compiled:
        compile_alike(twin, model, stacklevel=3, plain=True)
    return twin
