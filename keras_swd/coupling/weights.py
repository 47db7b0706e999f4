"""Which axis of which weight counts which channels of a layer."""

from __future__ import annotations

from typing import Any

from keras import layers

#: Places of a layer at which channels are counted. `MIDDLE` lies between the
#: two kernels of a separable convolution.
IN, MIDDLE, OUT = "in", "middle", "out"

DENSE = (layers.Dense,)
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)

Axes = dict[str, dict[int, str]]

_CONVOLUTION: Axes = {"kernel": {-2: IN, -1: OUT}, "bias": {0: OUT}}
_NORMALIZATION: Axes = {
    name: {0: IN}
    for name in (
        "gamma",
        "beta",
        "moving_mean",
        "moving_variance",
        "moving_stddev",
        "renorm_mean",
        "renorm_stddev",
    )
}
#: By the name of the layer's class: for each weight, by its name, what the
#: axes count.
AXES: dict[str, Axes] = {
    "Dense": _CONVOLUTION,
    **{kind.__name__: _CONVOLUTION for kind in CONVOLUTIONS},
    **{
        kind.__name__: {"kernel": {-2: OUT, -1: IN}, "bias": {0: OUT}}
        for kind in TRANSPOSED
    },
    **{
        kind.__name__: {
            "depthwise_kernel": {-2: IN},
            "pointwise_kernel": {-2: MIDDLE, -1: OUT},
            "bias": {0: OUT},
        }
        for kind in SEPARABLE
    },
    **{
        kind.__name__: {"kernel": {-2: IN}, "bias": {0: OUT}}
        for kind in DEPTHWISE
    },
    "BatchNormalization": _NORMALIZATION,
}


def kind_of(operation: Any) -> str:
    """Returns the name of an operation's class if it is one of Keras' own.

    Operations such as that of `x + y` are told from layers of the same name by
    `ops.`; a class of the user's own has the name "".
    """
    kind = type(operation)
    if not kind.__module__.startswith("keras."):
        return ""
    is_layer = isinstance(operation, layers.Layer)
    return kind.__name__ if is_layer else f"ops.{kind.__name__}"


def is_depthwise(layer: Any) -> bool:
    """Whether each output channel comes from one input channel alone."""
    if isinstance(layer, CONVOLUTIONS):
        # Convolutions of one group and one channel mix nothing either, but
        # are no different from others.
        return layer.groups > 1 and layer.kernel.shape[-2] == 1
    return isinstance(layer, DEPTHWISE)


def weight_axes(layer: Any, name: str, channels_axis: int) -> dict[int, str]:
    """Returns what the axes of a layer's weight count.

    Args:
        layer: Keras layer.
        name: String, the weight's name.
        channels_axis: Integer, the axis of the layer's input that counts
            channels.

    Returns:
        Dictionary from axes to `"in"`, `"middle"` or `"out"`.
    """
    if isinstance(layer, layers.PReLU):
        # Of the input's shape without the samples; shared axes have size 1.
        shared = layer.alpha.shape[channels_axis - 1] == 1
        return {} if shared else {channels_axis - 1: IN}
    if kind_of(layer) == "LayerScale":
        # Of Keras' ConvNeXt; its one weight has no fixed name.
        return {0: IN}
    axes = AXES.get(kind_of(layer), {}).get(name, {})
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and name[0] == "k":
        # The kernel's input axis counts the channels of one group.
        return {-1: OUT}
    return axes
