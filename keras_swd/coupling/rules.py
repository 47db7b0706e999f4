"""What each kind of layer makes of the channels it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_swd.backend.host import read
from keras_swd.coupling.channels import Channels, Ledger, NotFollowed
from keras_swd.coupling.mixing import MIXING, Mixer, is_padded
from keras_swd.coupling.shapes import SHAPES
from keras_swd.coupling.uses import Use, exact_dtype
from keras_swd.coupling.weights import (
    IN,
    MIDDLE,
    OUT,
    SEPARABLE,
    is_depthwise,
    kind_of,
)

ACTIVATIONS = frozenset(
    getattr(keras.activations, name)
    for name in """
        celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh
        leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu
        soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus
        tanh tanh_shrink threshold
    """.split()
)
#: Layers that only act in training; `StochasticDepth` is of Keras' ConvNeXt.
PASSING = frozenset(
    """
    ActivityRegularization AlphaDropout Dropout GaussianDropout GaussianNoise
    Identity SpatialDropout1D SpatialDropout2D SpatialDropout3D StochasticDepth
    """.split()
)
#: Layers and operations that treat every entry alike.
ELEMENTWISE = frozenset(
    """
    Activation ELU LeakyReLU ReLU Rescaling
    ops.Abs ops.Absolute ops.Celu ops.Clip ops.Elu ops.Exp ops.Gelu
    ops.HardSigmoid ops.HardSilu ops.HardTanh ops.LeakyRelu ops.LogSigmoid
    ops.Mish ops.Negative ops.Relu ops.Relu6 ops.Selu ops.Sigmoid ops.Silu
    ops.Softplus ops.Softsign ops.Sqrt ops.Square ops.Tanh
    """.split()
)
#: Those of several inputs; `CustomScaleLayer` is of Keras' InceptionResNetV2.
MERGING = frozenset(
    """
    Add Average CustomScaleLayer Maximum Minimum Multiply Subtract
    ops.Add ops.Divide ops.Maximum ops.Minimum ops.Multiply ops.Subtract
    ops.TrueDivide
    """.split()
)
#: Layers whose outputs change when a channel of zeros is taken away.
NEEDING_ALL = frozenset(
    """
    Dot GroupNormalization LayerNormalization RMSNormalization Softmax
    UnitNormalization
    """.split()
)
Rule = Callable[[Use, Ledger], Channels]


def rule_for(operation: Any) -> Rule:
    """Returns the rule for an operation, by the name of its class.

    Raises:
        NotFollowed: If there is none.
    """
    kind = kind_of(operation)
    if kind in NEEDING_ALL:
        raise NotFollowed("computes with all of them at once")
    if getattr(operation, "quantization_mode", None):
        raise NotFollowed("has quantized weights")
    if getattr(operation, "lora_enabled", False):
        raise NotFollowed("has low-rank weights beside its kernel")
    if kind not in RULES:
        raise NotFollowed("is not followed")
    return RULES[kind]


def _mix(use: Use, ledger: Ledger) -> Channels:
    layer = use.operation
    if is_depthwise(layer):
        return _filter_each(use, ledger)
    given = use.expect(ledger, use.given, use.axis_of_data())
    size = use.output_shape[use.axis_of_data()]
    padded = is_padded(layer, use.input_shapes[0])
    mixer = use.mixers.get(layer)
    if mixer is None:
        made = ledger.fresh(given.axis, size)
        mixer = use.mixers[layer] = Mixer(layer, use.path, given, made)
    constant = mixer.result(given.constant, padded)
    made = Channels(given.axis, mixer.outputs, constant)
    mixer.meet(given.constant, padded)
    if padded:
        use.hint_at_padding(ledger, given)
    ledger.hint(
        given.ids[mixer.unequal],
        f"`{use.path}` is used twice and meets different constants",
    )
    ledger.site(layer, IN, given)
    ledger.site(layer, OUT, made)
    if isinstance(layer, SEPARABLE):
        middle = np.repeat(given.ids, layer.depth_multiplier)
        ledger.site(layer, MIDDLE, dataclasses.replace(given, ids=middle))
    return _activated(use, ledger, made)


def _filter_each(use: Use, ledger: Ledger) -> Channels:
    """A depthwise convolution: an output channel goes with its input."""
    layer = use.operation
    given = use.expect(ledger, use.given, use.axis_of_data())
    kernel = read(layer.kernel)
    kernel = kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1])
    times = kernel.shape[-1] // given.ids.size
    entering = np.repeat(given.constant, times)
    if is_padded(layer, use.input_shapes[0]):
        use.hint_at_padding(ledger, given)
        entering[entering != 0.0] = np.nan
    values = entering * kernel.sum(0, dtype="float64")
    values[~kernel.any(0)] = 0.0
    if layer.use_bias:
        values += read(layer.bias)
    made = dataclasses.replace(given, ids=np.repeat(given.ids, times))
    made = made.with_constant(values)
    ledger.site(layer, IN, given)
    ledger.site(layer, OUT, made)
    return _activated(use, ledger, made)


def _activated(use: Use, ledger: Ledger, made: Channels) -> Channels:
    """Applies the activation of a layer with a kernel."""
    function = use.operation.activation
    if not _is_elementwise(function):
        name = getattr(function, "__name__", type(function).__name__)
        ledger.pin(made.ids, f"`{use.path}` applies `{name}` to all of them")
        return made.with_constant(np.full(made.ids.size, np.nan))
    if function is None:
        return made

    def apply(values: np.ndarray) -> np.ndarray:
        dtype = exact_dtype(use.operation.compute_dtype)
        tensor = ops.convert_to_tensor(values.astype(dtype))
        return ops.convert_to_numpy(function(tensor)).astype("float64")

    return made.with_constant(_mapped(apply, made.constant))


def _is_elementwise(function: Any) -> bool:
    if isinstance(function, layers.Layer):
        return kind_of(function) in ELEMENTWISE
    return function is None or function in ACTIVATIONS


def _mapped(
    function: Callable[[np.ndarray], np.ndarray], constant: np.ndarray
) -> np.ndarray:
    """Returns what an elementwise function makes of constants."""
    varies = np.isnan(constant)
    if varies.all():
        return constant
    return np.where(varies, np.nan, function(np.nan_to_num(constant)))


def _normalize(use: Use, ledger: Ledger) -> Channels:
    given = use.given
    layer = use.operation
    if layer.axis % len(use.input_shapes[0]) != given.axis:
        raise NotFollowed("normalizes another axis")
    scale = 1.0 / np.sqrt(read(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * read(layer.gamma)
    centered = given.constant - read(layer.moving_mean)
    values = np.where(scale == 0.0, 0.0, scale * centered)
    if layer.center:
        values = values + read(layer.beta)
    ledger.site(layer, IN, given)
    return given.with_constant(values)


def _scale(use: Use, ledger: Ledger) -> Channels:
    given = use.given
    ledger.site(use.operation, IN, given)
    (gamma,) = map(read, use.operation.weights)
    return given.with_constant(
        np.where(gamma == 0.0, 0.0, given.constant * gamma)
    )


def _rectify(use: Use, ledger: Ledger) -> Channels:
    """`PReLU`, whose slope may differ at each position."""
    given = use.given
    ledger.site(use.operation, IN, given)
    positive = np.nan_to_num(given.constant, nan=-1.0) >= 0.0
    return given.with_constant(np.where(positive, given.constant, np.nan))


def _pass(use: Use, ledger: Ledger) -> Channels:
    return use.given


def _treat_alike(use: Use, ledger: Ledger) -> Channels:
    """An elementwise layer or operation with one input."""
    given = use.given
    function = getattr(use.operation, "activation", None)
    if function is not None and not _is_elementwise(function):
        raise NotFollowed("applies its function to all of them")
    use.check_scalars()
    return given.with_constant(_mapped(use.run, given.constant))


def _merge(use: Use, ledger: Ledger) -> Channels:
    """An elementwise layer or operation with several inputs."""
    use.check_scalars()
    widest = max(use.inputs, key=lambda given: given.ids.size)
    rank = len(use.output_shape)
    for given, shape in zip(use.inputs, use.input_shapes, strict=True):
        if (given.axis, len(shape)) != (widest.axis, rank):
            raise NotFollowed("combines tensors of different layouts")
        if given.ids.size == widest.ids.size:
            ledger.join(widest.ids, given.ids)
        elif given.ids.size == 1:
            ledger.pin(given.ids, f"`{use.path}` spreads it over others")
        else:
            raise NotFollowed("combines tensors of different sizes")
    constants = np.stack(
        [np.broadcast_to(g.constant, widest.ids.shape) for g in use.inputs]
    )
    varies = np.isnan(constants).any(0)
    values = np.full(widest.ids.size, np.nan)
    if not varies.all():
        values = np.where(varies, np.nan, use.run(*np.nan_to_num(constants)))
    if "Multiply" in kind_of(use.operation):
        # Zero times anything.
        values[(constants == 0.0).any(0)] = 0.0
    return widest.with_constant(values)


def _concatenate(use: Use, ledger: Ledger) -> Channels:
    first = use.inputs[0]
    rank = len(use.output_shape)
    if {given.axis for given in use.inputs} != {first.axis}:
        raise NotFollowed("combines tensors of different layouts")
    if use.operation.axis % rank == first.axis:
        return Channels(
            first.axis,
            np.concatenate([given.ids for given in use.inputs]),
            np.concatenate([given.constant for given in use.inputs]),
        )
    if {given.ids.size for given in use.inputs} != {first.ids.size}:
        raise NotFollowed("combines tensors of different sizes")
    same = np.ones(first.ids.size, bool)
    for given in use.inputs[1:]:
        ledger.join(first.ids, given.ids)
        same &= first.constant == given.constant
    return first.with_constant(np.where(same, first.constant, np.nan))


#: By `kind_of`.
RULES: dict[str, Rule] = {
    **dict.fromkeys(PASSING, _pass),
    **dict.fromkeys(ELEMENTWISE, _treat_alike),
    **dict.fromkeys(MERGING, _merge),
    **{kind.__name__: _mix for kind in MIXING},
    "DepthwiseConv1D": _filter_each,
    "DepthwiseConv2D": _filter_each,
    "BatchNormalization": _normalize,
    "LayerScale": _scale,
    "PReLU": _rectify,
    "Concatenate": _concatenate,
    "ops.Concatenate": _concatenate,
    **SHAPES,
}
