"""Layers whose kernels make new channels out of many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_swd.backend.host import read
from keras_swd.coupling.channels import Channels
from keras_swd.coupling.weights import (
    CONVOLUTIONS,
    DENSE,
    SEPARABLE,
    TRANSPOSED,
)

MIXING = (*DENSE, *CONVOLUTIONS, *TRANSPOSED, *SEPARABLE)


class Mixer:
    """The kernel of a layer, as a matrix from input to output channels.

    Args:
        layer: A built layer of one of the types `MIXING`.
        path: String, the layer's path in its model.
        inputs: `Channels` of the layer's input where it is first used.
        outputs: `Channels` of its output there.
    """

    def __init__(
        self, layer: Any, path: str, inputs: Channels, outputs: Channels
    ):
        self.layer, self.path = layer, path
        self.groups = getattr(layer, "groups", 1)
        self.inputs, self.outputs = inputs.ids, outputs.ids
        self.constant = inputs.constant
        self.unequal = np.zeros(inputs.ids.size, bool)
        self.padded = False
        self.reach = _grouped(_reach(layer), self.groups)

    def meet(self, constant: np.ndarray, padded: bool) -> None:
        """Notes a use: what the input's constants are there, and padding."""
        varies = np.isnan(self.constant) | np.isnan(constant)
        self.unequal |= ~varies & (self.constant != constant)
        varies |= self.unequal
        self.constant = np.where(varies, np.nan, constant)
        self.padded |= padded

    def blocked(self) -> np.ndarray:
        """Marks inputs whose part in the outputs is no constant."""
        return _blocked(self.constant, self.padded)

    def reached(self, rows: np.ndarray) -> np.ndarray:
        """Marks the outputs that any of these inputs has a part in."""
        parts = zip(self.reach, rows.reshape(self.groups, -1), strict=True)
        return np.concatenate([reach[some].any(0) for reach, some in parts])

    def needed(self, columns: np.ndarray) -> np.ndarray:
        """Marks the inputs that have a part in any of these outputs."""
        parts = zip(self.reach, columns.reshape(self.groups, -1), strict=True)
        return np.concatenate([reach[:, some].any(1) for reach, some in parts])

    def added(self, constant: np.ndarray) -> np.ndarray:
        """Returns what inputs of these values add to the outputs."""
        if not constant.any():
            return np.zeros(self.outputs.size)
        gain = _grouped(_gain(self.layer), self.groups)
        rows = constant.reshape(self.groups, -1)
        return np.einsum("gi,gio->go", rows, gain).ravel()

    def result(self, constant: np.ndarray, padded: bool) -> np.ndarray:
        """Returns the outputs' constants before the layer's activation."""
        blocked = _blocked(constant, padded)
        values = self.added(np.where(blocked, 0.0, constant))
        if self.layer.use_bias:
            values = values + read(self.layer.bias)
        return np.where(self.reached(blocked), np.nan, values)


def _blocked(constant: np.ndarray, padded: bool) -> np.ndarray:
    """Padding lets a constant other than zero vary at the borders."""
    return np.isnan(constant) | (padded & (constant != 0.0))


def is_padded(layer: Any, shape: Sequence[int | None]) -> bool:
    """Whether some outputs of a layer see fewer inputs than others.

    Args:
        layer: A layer with a kernel.
        shape: Shape of the input, with the axis of the samples.

    Returns:
        Boolean; True where unknown sizes leave it open.
    """
    if isinstance(layer, DENSE):
        return False
    if isinstance(layer, TRANSPOSED):
        return {*layer.kernel_size, *layer.strides} != {1}
    first = 1 if layer.data_format == "channels_last" else 2
    sizes = shape[first : first + len(layer.kernel_size)]
    steps = zip(
        sizes,
        layer.kernel_size,
        layer.strides,
        layer.dilation_rate,
        strict=True,
    )
    return layer.padding != "valid" and any(
        _reaches_over(layer.padding, *step) for step in steps
    )


def _reaches_over(
    padding: str, size: int | None, kernel: int, stride: int, dilation: int
) -> bool:
    """Whether windows reach over the border along one axis."""
    width = (kernel - 1) * dilation + 1
    if size is None or padding == "causal":
        return width > 1
    return (math.ceil(size / stride) - 1) * stride + width > size


def _grouped(matrix: np.ndarray, groups: int) -> np.ndarray:
    """From `(inputs, outputs)` to `(groups, inputs, outputs)`."""
    inputs = matrix.shape[0]
    return matrix.reshape(inputs, groups, -1).transpose(1, 0, 2)


def _reach(layer: Any) -> np.ndarray:
    """Marks which inputs have a part in which outputs."""
    if isinstance(layer, SEPARABLE):
        depthwise, pointwise = _separable(layer)
        apart = (depthwise != 0).any(0)[:, :, None] & (pointwise != 0)
        return apart.any(1)
    return np.asarray(_kernel(layer).any(0))


def _gain(layer: Any) -> np.ndarray:
    """Returns what an input of 1 everywhere adds to the outputs."""
    if isinstance(layer, SEPARABLE):
        depthwise, pointwise = _separable(layer)
        return np.einsum(
            "im,imo->io", depthwise.sum(0, dtype="float64"), pointwise
        )
    return _kernel(layer).sum(0, dtype="float64")


def _kernel(layer: Any) -> np.ndarray:
    """The kernel as `(positions, inputs, outputs)`."""
    kernel = read(layer.kernel)
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    return kernel.swapaxes(1, 2) if isinstance(layer, TRANSPOSED) else kernel


def _separable(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Kernels `(positions, inputs, times)`, `(inputs, times, outputs)`."""
    depthwise = read(layer.depthwise_kernel)
    depthwise = depthwise.reshape(-1, *depthwise.shape[-2:])
    pointwise = read(layer.pointwise_kernel)
    return depthwise, pointwise.reshape(*depthwise.shape[1:], -1)
