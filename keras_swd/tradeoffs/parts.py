"""The parts of a model whose sensitivity is measured one at a time."""

import dataclasses
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from keras_swd.allocation import LAMP
from keras_swd.models import all_layers
from keras_swd.prunable import Prunable
from keras_swd.rebuilding.excluding import excluded_layers
from keras_swd.regularizers.base import PruningRegularizer, pruning_regularizer
from keras_swd.selection import lowest_units
from keras_swd.units.channels import ChannelSet, ChannelWeight
from keras_swd.units.kernels import Choice, Kernel

#: What Keras' layers call their kernels.
KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel", "recurrent_kernel")


@dataclasses.dataclass(frozen=True)
class Part:
    """A kernel, or a set of coupled channels, and where its units lie.

    Args:
        path: String, the path of the kernel, or of the set's first weight.
        units: A `Kernel` or `ChannelSet`.
        weights: The weights that lose entries with its units.
        sizes: Integers, the units of all sets that lie on these; this one's
            stand at `place`.
        place: Integer.
    """

    path: str
    units: Kernel | ChannelSet
    weights: Sequence[Kernel | ChannelWeight]
    sizes: Sequence[int]
    place: int

    def masks(self, count: int) -> list[np.ndarray]:
        """Returns False for the entries of the `count` lowest units."""
        if isinstance(self.units, Kernel):
            return [self.units.mask(count)]
        lowest = lowest_units(self.units.unit_scores(), count)
        choices = [Choice(0, -1.0, np.zeros(n, bool)) for n in self.sizes]
        choices[self.place] = Choice(count, -1.0, lowest)
        return [weight.chosen(choices) for weight in self.weights]


def find_parts(
    model: keras.Model, exclude: Iterable[str | keras.layers.Layer] = ()
) -> list[Part]:
    """Returns what of a model can be set to zero, part by part.

    Args:
        model: A built model.
        exclude: Layers to leave out, as in `with_regularizer`.

    Returns:
        List of `Part`: what carries a pruning regularizer, or in a model
        without any all kernels, of which the smallest entries go first.

    Raises:
        ValueError: If there is nothing, or `exclude` names no layer.
    """
    left_out = {
        id(weight)
        for layer in excluded_layers(model, exclude)
        for weight in layer.weights
    }
    carriers = map(pruning_regularizer, model.trainable_variables)
    parts = _pruned(model) if any(carriers) else _all_kernels(model)
    parts = [p for p in parts if not left_out & _ids(p.units)]
    if not parts:
        raise ValueError(
            f"Model {model.name!r} has no kernels to remove weights from, but "
            "those that are excluded. "
            f"Received: exclude={exclude!r}."
        )
    return parts


def _pruned(model: keras.Model) -> list[Part]:
    """The parts that carry a pruning regularizer."""
    prunable = Prunable(model, 0.0, LAMP())
    sizes = [units.size for units in prunable.sets]
    return [
        Part(
            units.path,
            units,
            [units] if isinstance(units, Kernel) else prunable.weights,
            sizes,
            place,
        )
        for place, units in enumerate(prunable.sets)
    ]


def _all_kernels(model: keras.Model) -> list[Part]:
    """All kernels of a model, each entry a unit."""
    found: dict[int, Kernel] = {}
    for layer in all_layers(model):
        for name in KERNELS:
            variable = getattr(layer, name, None)
            if isinstance(variable, keras.Variable) and variable.ndim > 1:
                kernel = Kernel(variable, PruningRegularizer())
                found.setdefault(id(variable), kernel)
    return [Part(k.path, k, [k], [k.size], 0) for k in found.values()]


def _ids(units: Kernel | ChannelSet) -> set[int]:
    """The `id`s of the variables that say what units are worth."""
    if isinstance(units, Kernel):
        return {id(units.variable)}
    return {id(place.variable) for place in units.scored}
