"""One use of an operation in a graph, as its rule sees it."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swd.coupling.channels import Channels, Ledger, NotFollowed
from keras_swd.coupling.mixing import Mixer

Shape = tuple[int | None, ...]
#: Attributes of elementwise operations that may hold a value per channel.
OWN_VALUES = ("scale", "offset", "x_min", "x_max")


@dataclasses.dataclass(frozen=True)
class Use:
    """One use of an operation.

    Args:
        path: String, the names of the models around it and its own.
        node: The graph's node.
        inputs: Tuple of `Channels`, one per tensor that it takes.
        mixers: Dictionary from layers to `Mixer`, of the whole graph.
    """

    path: str
    node: Any
    inputs: tuple[Channels, ...]
    mixers: dict[Any, Mixer]

    @property
    def operation(self) -> Any:
        """The Keras operation, e.g. a layer."""
        return self.node.operation

    @property
    def given(self) -> Channels:
        """The channels of the only tensor that it takes."""
        if len(self.inputs) != 1:
            raise NotFollowed("takes another tensor beside them")
        return self.inputs[0]

    @property
    def input_shapes(self) -> list[Shape]:
        """The shapes of the tensors that it takes, with the samples' axis."""
        return [tuple(tensor.shape) for tensor in self.node.input_tensors]

    @property
    def output_shape(self) -> Shape:
        """The shape of the first tensor that it makes."""
        return tuple(self.node.output_tensors[0].shape)

    def axis_of_data(self) -> int:
        """The axis that holds channels by the layer's own `data_format`."""
        first = getattr(self.operation, "data_format", "") == "channels_first"
        return 1 if first else len(self.input_shapes[0]) - 1

    def expect(self, ledger: Ledger, given: Channels, axis: int) -> Channels:
        """Returns the channels if they lie on this axis, or others if not."""
        if given.axis == axis:
            return given
        ledger.pin(given.ids, f"`{self.path}` takes another axis for channels")
        other = ledger.fresh(axis, self.input_shapes[0][axis])
        ledger.pin(other.ids, f"`{self.path}` takes this axis for channels")
        return other

    def hint_at_padding(self, ledger: Ledger, given: Channels) -> None:
        """Notes that padding makes constants other than zero vary."""
        uneven = np.nan_to_num(given.constant) != 0.0
        reason = f"`{self.path}` pads a constant that is not zero"
        ledger.hint(given.ids[uneven], reason)

    def check_scalars(self) -> None:
        """Raises `NotFollowed` if an argument holds values per channel."""
        arguments = self.node.arguments
        own = [getattr(self.operation, name, None) for name in OWN_VALUES]
        for value in (*arguments.args, *arguments.kwargs.values(), *own):
            parts = keras.tree.flatten(value)
            tensors = any(isinstance(p, keras.KerasTensor) for p in parts)
            if not tensors and np.size(value) > 1:
                raise NotFollowed("combines them with values of its own")

    def run(self, *values: np.ndarray) -> np.ndarray:
        """Runs the operation on the channels of one sample, for each input."""
        tensors = {
            id(tensor): ops.convert_to_tensor(
                np.reshape(value, (1, -1)).astype(exact_dtype(tensor.dtype))
            )
            for tensor, value in zip(
                self.node.input_tensors, values, strict=True
            )
        }
        args, kwargs = self.node.arguments.fill_in(tensors)
        made = ops.convert_to_numpy(self.operation(*args, **kwargs))
        return np.array(made, "float64")[0]


def exact_dtype(dtype: str) -> str:
    """The type in which a constant is computed that a model has in this one."""
    return "float64" if dtype == "float64" else "float32"
