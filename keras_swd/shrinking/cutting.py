"""Cutting channels out of one layer: its configuration and its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import initializers, layers

from keras_swd.backend.host import read
from keras_swd.coupling.following import Followed
from keras_swd.coupling.mixing import MIXING, Mixer
from keras_swd.coupling.weights import (
    CONVOLUTIONS,
    DENSE,
    IN,
    OUT,
    is_depthwise,
    kind_of,
    weight_axes,
)


class Cut:
    """What is cut out of each layer of a model.

    Args:
        followed: `Followed`, the channels of the model.
        kept: Boolean array of shape `(classes,)`: which classes stay.
    """

    def __init__(self, followed: Followed, kept: np.ndarray):
        ledger, classes = followed.ledger, followed.classes
        self._kept = {
            layer: {name: kept[classes[c.ids]] for name, c in sites.items()}
            for layer, sites in ledger.sites.items()
        }
        self._axis = {
            layer: next(iter(sites.values())).axis
            for layer, sites in ledger.sites.items()
        }
        self._added = {m.layer: self._fold(m) for m in followed.mixers}

    def touches(self, layer: Any) -> bool:
        """Whether the layer's channels are known."""
        return layer in self._kept

    def config(self, layer: Any) -> dict[str, Any]:
        """Returns a layer's configuration for the channels that stay."""
        config = layer.get_config()
        if layer not in self._kept:
            return config
        kept, axis = self._kept[layer], self._axis[layer]
        if isinstance(layer, DENSE):
            config["units"] = _count(kept[OUT])
        elif isinstance(layer, MIXING):
            config["filters"] = _count(kept[OUT])
        elif isinstance(layer, layers.InputLayer):
            config["batch_shape"] = _replaced(
                config["batch_shape"], axis, kept[OUT]
            )
        elif isinstance(layer, layers.Reshape):
            config["target_shape"] = _replaced(
                config["target_shape"], axis - 1, kept[OUT]
            )
        elif kind_of(layer) == "LayerScale":
            config["projection_dim"] = _count(kept[IN])
        if isinstance(layer, CONVOLUTIONS):
            config["groups"] = self._groups(layer)
        if self._added.get(layer, np.zeros(0)).any():
            config["use_bias"] = True
        return config | _initializers_of_any_shape(layer)

    def weights(self, layer: Any) -> list[np.ndarray]:
        """Returns a layer's weights for the channels that stay, in order."""
        kept = self._kept[layer]
        weights = []
        for variable in layer.weights:
            values = read(variable).copy()
            axes = weight_axes(layer, variable.name, self._axis[layer])
            if values.ndim > 1 and _mixes_in_groups(layer):
                values, axes = _cut_groups(values, layer.groups, kept), {}
            for axis, site in axes.items():
                values = np.compress(kept[site], values, axis)
            weights.append(values)
        added = self._added.get(layer, np.zeros(0))
        if added.any():
            # A bias is a layer's last weight.
            weights.append(weights.pop() + added if layer.use_bias else added)
        return weights

    def _groups(self, layer: Any) -> int:
        kept = self._kept[layer]
        if is_depthwise(layer):
            return _count(kept[IN])
        stay = kept[IN].reshape(layer.groups, -1).any(1)
        return int(np.count_nonzero(stay))

    def _fold(self, mixer: Mixer) -> np.ndarray:
        """What the inputs that go add to each output that stays."""
        kept = self._kept[mixer.layer]
        going = ~kept[IN] & ~np.isnan(mixer.constant)
        added = mixer.added(np.where(going, mixer.constant, 0.0))
        return added[kept[OUT]]


def _count(kept: np.ndarray) -> int:
    return int(np.count_nonzero(kept))


def _initializers_of_any_shape(layer: Any) -> dict[str, str]:
    """Zeros in place of initializers that may hold an array of all channels."""
    found = {
        name.removeprefix("_"): value
        for name, value in vars(layer).items()
        if name.endswith("_initializer")
    }
    return {
        name: "zeros"
        for name, value in found.items()
        if not isinstance(value, initializers.Initializer)
        or np.ndim(getattr(value, "value", 0.0))
    }


def _replaced(shape: Any, axis: int, kept: np.ndarray) -> tuple:
    """Returns a shape with the size of one axis changed, if it has one."""
    sizes = list(shape)
    if axis < len(sizes) and sizes[axis] not in (None, -1):
        sizes[axis] = _count(kept)
    return tuple(sizes)


def _mixes_in_groups(layer: Any) -> bool:
    return (
        isinstance(layer, CONVOLUTIONS)
        and layer.groups > 1
        and not is_depthwise(layer)
    )


def _cut_groups(
    kernel: np.ndarray, groups: int, kept: dict[str, np.ndarray]
) -> np.ndarray:
    """Cuts a kernel whose filters each see the channels of their group."""
    inputs = kept[IN].reshape(groups, -1)
    outputs = kept[OUT].reshape(groups, -1)
    parts = np.split(kernel, groups, axis=-1)
    return np.concatenate(
        [
            part[..., rows, :][..., columns]
            for part, rows, columns in zip(parts, inputs, outputs, strict=True)
            if rows.any()
        ],
        axis=-1,
    )
