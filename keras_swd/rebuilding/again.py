"""A model built again from its configuration, with the same weights."""

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_swd.models import all_layers, check_built
from keras_swd.references import by_reference
from keras_swd.regularizers.base import PruningRegularizer


def build_again(
    model: keras.Model,
    edit: Callable[[dict], dict],
    *others: keras.layers.Layer,
) -> keras.Model:
    """Builds a model again from its edited configuration, weights kept.

    Args:
        model: A built `keras.Model`.
        edit: Function from the configuration to another one.
        *others: Layers whose configuration `edit` puts in.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: If the model is not built, or cannot be built again.
    """
    check_built(model)
    with copying(model, *others):
        try:
            twin = type(model).from_config(edit(model.get_config()))
            if not twin.built:
                twin.build_from_config(model.get_build_config())
                twin.built = True
        except (TypeError, ValueError, NotImplementedError) as error:
            raise cannot_build(model, error) from error
    if len(twin.weights) != len(model.weights):
        raise ValueError(
            f"Model {model.name!r} cannot be built again: it has "
            f"{len(model.weights)} weights, and what its configuration makes "
            f"has {len(twin.weights)}. Models within it share layers with each "
            "other, or layers have weights that `get_config()` does not tell. "
            "Let one model within it hold what is shared, and return all "
            "outputs that are needed."
        )
    copy_state(model, twin)
    return twin


def cannot_build(part: Any, error: Exception) -> ValueError:
    """Returns what says that a model or layer has no such configuration."""
    kind = "Model" if isinstance(part, keras.Model) else "Layer"
    return ValueError(
        f"{kind} {part.name!r} of class {type(part).__name__} cannot be built "
        "again from its configuration. Give the class `get_config()` and "
        "`from_config()`, and register classes and functions of your own with "
        f"`keras.saving.register_keras_serializable`. Cause: {error}"
    )


def copy_state(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives a layer that was built again all that the first one knows.

    That is its weights, and what `adapt` has found: neither weights nor
    configuration hold all of it.

    Args:
        layer: A layer or model.
        copy: The same, built again.

    Raises:
        ValueError: If a weight of the copy has another shape, or Keras shows a
            vocabulary, but does not take it.
    """
    for mine, other in zip(layer.weights, copy.weights, strict=False):
        if tuple(mine.shape) != tuple(other.shape):
            raise ValueError(
                f"Layer {layer.name!r} cannot be built again: its weight "
                f"{mine.path!r} of shape {tuple(mine.shape)} would have shape "
                f"{tuple(other.shape)}. Models quantized to float8 are built "
                "otherwise than they are: quantize afterwards."
            )
    copy.set_weights(layer.get_weights())
    pairs = list(zip(_own_layers(layer), _own_layers(copy), strict=False))
    if all(type(old) is type(new) for old, new in pairs):
        _copy_trainable(pairs)
    for old, new in pairs:
        if isinstance(new, keras.layers.Normalization):
            # It computes with constants, which are made from its weights.
            new.finalize_state()
        elif type(new) is type(old) and hasattr(new, "set_vocabulary"):
            _copy_vocabulary(old, new)


def _own_layers(layer) -> list[keras.layers.Layer]:
    """A layer and those within; a pruning regularizer is one for Keras too."""
    found = all_layers(layer)
    return [each for each in found if not isinstance(each, PruningRegularizer)]


def _copy_trainable(pairs) -> None:
    """Freezes the layers that are frozen, also what no configuration tells."""
    # Outer ones first: what is set on a layer is set on all that is within.
    for old, new in pairs:
        if old.trainable != new.trainable:
            new.trainable = old.trainable


def _copy_vocabulary(layer, copy) -> None:
    vocabulary = layer.get_vocabulary()
    if vocabulary == copy.get_vocabulary():
        return
    try:
        copy.set_vocabulary(vocabulary)
    except ValueError as error:
        raise ValueError(
            f"The vocabulary of layer {layer.name!r} cannot be kept. Pass "
            "`vocabulary` and `idf_weights` to the layer instead of adapting "
            f"it. Cause: {error}"
        ) from error


@contextlib.contextmanager
def copying(*layers: keras.layers.Layer) -> Iterator[None]:
    """Lets configurations that are made and read within stand for layers.

    Keras knows their own classes then, and functions that they were given, as
    activations are. It finds both by their names. So where these tell nothing,
    as of functions of one factory, each gets one of its own for the time being.
    """
    # Keras has it in no public place.
    from keras.src.saving.serialization_lib import SafeModeScope

    # A scope of Keras hides the one around it, so this one repeats that.
    outer = keras.saving.CustomObjectScope({})
    with outer:
        known = dict(outer.backup)
    own: dict[str, Any] = {}
    for layer in itertools.chain.from_iterable(map(all_layers, layers)):
        functions = filter(inspect.isfunction, vars(layer).values())
        parts: list[Any] = [type(layer), *functions]
        for part in parts:
            if not _is_own(part) or part in own.values():
                continue
            name = part.__name__
            if name in own or _needs_another_name(part):
                name = f"{name} {len(own)}"
            own[name] = part
    before = [(part, part.__name__) for part in own.values()]
    scope = keras.saving.CustomObjectScope({**known, **own})
    for name, part in own.items():
        part.__name__ = name
    try:
        # What is in memory already is no danger.
        with by_reference(), scope, SafeModeScope(safe_mode=False):
            yield
    finally:
        for part, name in before:
            part.__name__ = name


def _needs_another_name(part: Any) -> bool:
    """Whether Keras would take something else for a function.

    Of a lambda it copies the code, without what is around it.
    """
    if inspect.isclass(part):
        return False
    name = part.__name__
    return name == "<lambda>" or hasattr(keras.activations, name)


def _is_own(part: Any) -> bool:
    """Whether neither Keras nor this package brings a class or function."""
    return not part.__module__.startswith(("keras.", "keras_swd."))
