"""Which layers fit where XNNPACK computes sparse, and what is amiss if not.

The rules are those of `xnn_check_nchw_compatibility` in XNNPACK's
`src/subgraph.c`, for what LiteRT's converter makes of a layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_swd.coupling.weights import kind_of
from keras_swd.export.speed.graph import Step
from keras_swd.export.tflite.signature import to_numpy

RULES = "XNNPACK src/subgraph.c: xnn_check_nchw_compatibility"

START, INSIDE, END = "start", "inside", "end"

#: Activations that become operators on single entries, as XNNPACK takes them.
UNARY = (
    "elu",
    "gelu",
    "hard_silu",
    "leaky_relu",
    "linear",
    "relu",
    "relu6",
    "sigmoid",
    "silu",
    "tanh",
)

Padding = tuple[tuple[int, int], tuple[int, int]]
NO_PADDING: Padding = ((0, 0), (0, 0))

_layers = keras.layers
CONVOLUTIONS = (
    _layers.Conv2D,
    _layers.DepthwiseConv2D,
    _layers.SeparableConv2D,
)


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """What keeps a cluster dense.

    Args:
        path: String, the layer.
        reason: String, what about it does not fit.
        remedy: String, what would.
    """

    path: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Operator(Step):
    """A step, with what was merged into it, and its place in a cluster."""

    padding: Padding = NO_PADDING

    @property
    def role(self) -> str | Obstacle:
        """Where in a cluster it can stand, or why nowhere."""
        return CHECKS.get(kind_of(self.layer), _unknown)(self)

    @property
    def reads_image(self) -> bool:
        """Whether it is where a cluster would start."""
        return (
            type(self.layer) is _layers.Conv2D
            and self.layer.kernel_size != (1, 1)
            and self.shapes[0][-1] == 3
        )

    @property
    def pointwise_kernel(self) -> np.ndarray | None:
        """The kernel that meets one pixel at a time, if it has one.

        XNNPACK can skip the zeros of no other.
        """
        if type(self.layer) is _layers.SeparableConv2D:
            return to_numpy(self.layer.pointwise_kernel)
        if type(self.layer) is _layers.Dense and len(self.shapes[0]) == 4:
            return to_numpy(self.layer.kernel)
        if type(self.layer) is _layers.Conv2D:
            pointwise = self.layer.kernel_size == (1, 1)
            return to_numpy(self.layer.kernel) if pointwise else None
        return None

    @property
    def fits(self) -> bool:
        """Whether it can be part of a cluster."""
        return not isinstance(self.role, Obstacle)

    def refuse(self, reason: str, remedy: str) -> Obstacle:
        """Says that it fits nowhere."""
        return Obstacle(self.path, reason, remedy)


def _unknown(step: Operator) -> Obstacle:
    return step.refuse(
        f"{type(step.layer).__name__} is no operator of XNNPACK's sparse part",
        "Replace it by 1×1 or depthwise convolutions, sums or products of two "
        "tensors, or activations such as ReLU.",
    )


def _normalization(step: Operator) -> Obstacle:
    return step.refuse(
        "it does not directly follow a convolution, so it stays an operator",
        "Put it between a convolution without activation and what follows.",
    )


def _padding(step: Operator) -> Obstacle:
    return step.refuse(
        "its result is padded for something other than one convolution with "
        "`padding='valid'`",
        "Give each convolution its own ZeroPadding2D.",
    )


def _convolution(step: Operator) -> str | Obstacle:
    layer = step.layer
    unfit = _unfit(step)
    if unfit or layer.kernel_size == (1, 1):
        return unfit or _pointwise(step)
    if layer.kernel_size != (3, 3) or not step.reads_image:
        height, width = layer.kernel_size
        return step.refuse(
            f"a {height}×{width} convolution has no sparse kernel",
            "Replace it by a depthwise and a 1×1 convolution. At the start, "
            "use 3×3 with stride 2 on 3 channels.",
        )
    if layer.strides != (2, 2):
        return step.refuse(
            "the first convolution must have stride 2", "Use `strides=2`."
        )
    return _explicit(step, 1) or START


def _pointwise(step: Operator) -> str | Obstacle:
    if step.layer.strides != (1, 1):
        return step.refuse(
            "a 1×1 convolution with strides has no sparse kernel",
            "Put the stride into a depthwise convolution.",
        )
    if step.padding != NO_PADDING:
        return step.refuse(
            "a 1×1 convolution with padding has no sparse kernel",
            "Remove the ZeroPadding2D before it.",
        )
    return INSIDE


def _depthwise(step: Operator) -> str | Obstacle:
    layer = step.layer
    unfit = _unfit(step)
    if unfit:
        return unfit
    if layer.depth_multiplier != 1 or layer.strides not in ((1, 1), (2, 2)):
        return step.refuse(
            "a depthwise convolution must have `depth_multiplier=1` and "
            "stride 1 or 2",
            "Use these.",
        )
    if layer.kernel_size not in ((3, 3), (5, 5)):
        return step.refuse(
            "a depthwise convolution must be 3×3 or 5×5", "Use one of these."
        )
    return _explicit(step, layer.kernel_size[0] // 2) or INSIDE


def _unfit(step: Operator) -> Obstacle | None:
    """What no convolution in a cluster may be."""
    layer = step.layer
    if type(layer) is _layers.Conv2D and layer.groups != 1:
        return step.refuse("it has groups", "Use `groups=1`.")
    if max(layer.dilation_rate) > 1:
        return step.refuse("it is dilated", "Use `dilation_rate=1`.")
    if layer.data_format != "channels_last":
        return step.refuse(
            "it takes channels first", "Use `data_format='channels_last'`."
        )
    return _activation(step, layer.activation)


def _explicit(step: Operator, size: int) -> Obstacle | None:
    """Refuses padding that is not `size` zeros on each side."""
    same = step.layer.padding == "same"
    if same and step.layer.strides == (1, 1):
        # XNNPACK turns this into explicit padding itself.
        return None
    remedy = f"Put `ZeroPadding2D({size})` before it, and `padding='valid'`."
    if same:
        return step.refuse(
            "`padding='same'` with strides pads each image size in its own way",
            f"{remedy} That shifts the image, so train it so.",
        )
    if step.padding != ((size, size), (size, size)):
        return step.refuse(
            f"it needs {size} rows and columns of padding on each side, and "
            f"has {step.padding}",
            remedy,
        )
    return None


def _activation(step: Operator, function: Any) -> Obstacle | None:
    if isinstance(function, _layers.Layer):
        role = dataclasses.replace(step, layer=function).role
        return role if isinstance(role, Obstacle) else None
    name = getattr(function, "__name__", str(function))
    if name in UNARY:
        return None
    return step.refuse(
        f"activation {name} is no operator of XNNPACK's sparse part",
        f"Use one of {', '.join(UNARY)}.",
    )


def _elementwise(step: Operator) -> str | Obstacle:
    function = getattr(step.layer, "activation", keras.activations.linear)
    return _activation(step, function) or _on_images(step)


def _relu(step: Operator) -> str | Obstacle:
    layer = step.layer
    plain = not layer.negative_slope and not layer.threshold
    if not plain or layer.max_value not in (None, 6.0):
        return step.refuse(
            "a ReLU with these arguments becomes several operators",
            "Use `ReLU()` or `ReLU(6.0)`.",
        )
    return _on_images(step)


def _on_images(step: Operator) -> str | Obstacle:
    if any(len(shape) != 4 for shape in step.shapes):
        return step.refuse(
            "it takes something else than images",
            "Place it behind the mean.",
        )
    return INSIDE


def _of_two(step: Operator) -> str | Obstacle:
    if len(step.shapes) != 2:
        return step.refuse(
            "its constant is no image", "Put it into a weight of a layer."
        )
    return _on_images(step)


def _mean(step: Operator) -> str | Obstacle:
    return END


def _mean_over(step: Operator) -> str | Obstacle:
    axes, rank = step.layer.axis, len(step.shapes[0])
    if rank != 4 or {axis % rank for axis in axes or ()} != {1, 2}:
        return step.refuse(
            "it is no mean over the pixels of images",
            "Use GlobalAveragePooling2D.",
        )
    return END


def _resize(step: Operator) -> str | Obstacle:
    if step.layer.interpolation != "bilinear":
        return step.refuse(
            f"{step.layer.interpolation} resizing has no sparse kernel",
            "Use `interpolation='bilinear'`.",
        )
    return INSIDE


#: By the name of a layer's class, or that of an operation such as `x + y`.
CHECKS: dict[str, Callable[[Operator], str | Obstacle]] = {
    "Activation": _elementwise,
    "Add": _on_images,
    "BatchNormalization": _normalization,
    "Conv2D": _convolution,
    "Dense": _elementwise,
    "DepthwiseConv2D": _depthwise,
    "ELU": _elementwise,
    "GlobalAveragePooling2D": _mean,
    "LeakyReLU": _elementwise,
    "Multiply": _on_images,
    "ReLU": _relu,
    "SeparableConv2D": _depthwise,
    "UpSampling2D": _resize,
    "ZeroPadding2D": _padding,
    "ops.Add": _of_two,
    "ops.Mean": _mean_over,
    "ops.Multiply": _of_two,
    "ops.Resize": _resize,
    **dict.fromkeys(
        (
            "ops.Absolute",
            "ops.Elu",
            "ops.Exp",
            "ops.Gelu",
            "ops.HardSilu",
            "ops.LeakyRelu",
            "ops.Negative",
            "ops.Relu",
            "ops.Relu6",
            "ops.Sigmoid",
            "ops.Silu",
            "ops.Sqrt",
            "ops.Square",
            "ops.Tanh",
        ),
        _on_images,
    ),
}
