"""A model again, with its kernels regularized."""

from collections.abc import Iterable
from typing import Any

import keras

from keras_swd.granularity import CoupledChannels
from keras_swd.models import check_built
from keras_swd.rebuilding.again import build_again
from keras_swd.rebuilding.compiling import compile_alike
from keras_swd.rebuilding.excluding import Exclusion
from keras_swd.regularizers.base import PruningRegularizer, pruning_regularizer

#: Arguments of Keras' layers that regularize what scales and shifts channels.
SCALE_ARGUMENTS = ("gamma_regularizer", "beta_regularizer")
#: What the configuration of a batch normalization alone holds.
MOVING = "moving_mean_initializer"
#: Arguments of Keras' layers that regularize a kernel.
KERNEL_ARGUMENTS = (
    "kernel_regularizer",
    "depthwise_regularizer",
    "pointwise_regularizer",
    "recurrent_regularizer",
)


def with_regularizer(
    model: keras.Model,
    regularizer: PruningRegularizer,
    exclude: Iterable[str | keras.layers.Layer] = (),
) -> keras.Model:
    """Returns the same model with its kernels regularized.

    For existing and pretrained models. The weights are kept bit for bit, and
    so is the compilation (the optimizer's state is not). Every layer gets an
    equal regularizer of its own, in place of one that it may have had; biases,
    normalizations and embeddings get none. With `granularity=
    CoupledChannels()` the normalizations get it, on scales and, unless the
    method penalizes scales alone, on shifts; with `kernels=True` the kernels
    too.

    Args:
        model: A built `keras.Model`, Sequential or functional, also nested. In
            a subclassed model, pass the regularizer to its layers yourself.
        regularizer: A pruning regularizer, e.g. `SelectiveWeightDecay()`.
        exclude: Layers to leave alone, by name or the layer itself. A nested
            model stands for all its layers. Defaults to `()`.

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: If the model is not built or cannot be built again from
            its configuration, `exclude` names no layer, or no layer takes a
            regularizer.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    >>> model = with_regularizer(model, keras_swd.SelectiveWeightDecay())
    >>> model.layers[0].kernel_regularizer.weight_decay
    0.001
    """
    if not isinstance(regularizer, PruningRegularizer):
        raise ValueError(
            "Argument `regularizer` must be a pruning regularizer, e.g. "
            "keras_swd.SelectiveWeightDecay(). "
            f"Received: regularizer={regularizer!r}."
        )
    check_built(model)
    placement = _Placement(regularizer, Exclusion(model, exclude))
    twin = build_again(model, placement.edit_model, regularizer)
    placement.check(model, twin)
    if model.compiled:
        compile_alike(twin, model, stacklevel=3)
    return twin


class _Placement:
    """Puts a regularizer into the configuration of a model's layers."""

    def __init__(self, regularizer: PruningRegularizer, exclusion: Exclusion):
        self._regularizer = regularizer
        self._config: dict = {}
        self._arguments = _arguments_for(regularizer)
        self._exclusion = exclusion
        self._seen: set[str] = set()

    def edit_model(self, config: dict) -> dict:
        """Returns the model's configuration with the regularizer in place."""
        self._config = keras.saving.serialize_keras_object(self._regularizer)
        return self._place(config, "")

    def check(self, model: keras.Model, twin: keras.Model) -> None:
        """Raises a `ValueError` if no weight has it, or a name was wrong."""
        self._exclusion.check(self._seen)
        # A layer may take it for a weight that it was told not to have.
        if not any(map(pruning_regularizer, twin.variables)):
            raise ValueError(
                f"No layer of model {model.name!r} takes "
                f"`{self._arguments[0]}` through its configuration. "
                f"{_remedy(self._arguments)}"
            )

    def _edit(self, part: Any, trail: str) -> Any:
        if isinstance(part, (list, tuple)):
            return type(part)(self._edit(p, trail) for p in part)
        if not isinstance(part, dict):
            return part
        name = part.get("name")
        # What wraps the configuration of a layer may repeat its name.
        if isinstance(name, str) and "class_name" not in part:
            trail = f"{trail}/{name}".strip("/")
            self._seen.update((name, trail))
            if self._exclusion.means(name, trail):
                return part
        return self._place(part, trail)

    def _place(self, part: dict, trail: str) -> dict:
        edited = {
            # A policy of types has a name too, but is no layer.
            key: value if key == "dtype" else self._edit(value, trail)
            for key, value in part.items()
        }
        for argument in self._arguments:
            if _takes(edited, argument):
                edited[argument] = self._config
        return edited


def _takes(config: dict, argument: str) -> bool:
    """Whether the layer of this configuration takes the regularizer there."""
    # Other normalizations have scales too, but compute with all channels at
    # once, so that these cannot be cut.
    if argument in SCALE_ARGUMENTS and MOVING not in config:
        return False
    return argument in config


def _arguments_for(regularizer: PruningRegularizer) -> tuple[str, ...]:
    """The arguments of layers that this regularizer is meant for."""
    granularity = regularizer.granularity
    if not isinstance(granularity, CoupledChannels):
        return KERNEL_ARGUMENTS
    scales = SCALE_ARGUMENTS if regularizer.shifts else SCALE_ARGUMENTS[:1]
    return scales + KERNEL_ARGUMENTS if granularity.kernels else scales


def _remedy(arguments: tuple[str, ...]) -> str:
    """What to do if no layer takes any of these arguments."""
    if arguments[-1] in SCALE_ARGUMENTS:
        return (
            "Coupled channels of a model without normalizations need "
            "`CoupledChannels(kernels=True)`."
        )
    return f"Pass `{arguments[0]}=` to the layers in the model's code."
