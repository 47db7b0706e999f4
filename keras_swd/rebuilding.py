"""The same model again, with or without pruning regularizers."""

import difflib
from collections.abc import Callable, Iterable

import keras

from keras_swd.compiling import compile_alike
from keras_swd.granularity import CoupledChannels
from keras_swd.regularizers.base import PruningRegularizer

#: Arguments of Keras' layers that regularise what scales and shifts channels.
SCALE_ARGUMENTS = ("gamma_regularizer", "beta_regularizer")
#: What the configuration of a batch normalization alone holds.
MOVING = {"moving_mean_initializer"}
#: Arguments of Keras' layers that regularise a kernel.
KERNEL_ARGUMENTS = (
    "kernel_regularizer",
    "depthwise_regularizer",
    "pointwise_regularizer",
    "recurrent_regularizer",
)


def strip(model: keras.Model) -> keras.Model:
    """Returns the same model without any trace of this library.

    The weights are kept bit for bit, and so is the compilation (the
    optimizer's state is not). The result saves to files that load where
    keras_swd is not installed.

    Args:
        model: A built `keras.Model`: Sequential, functional, or subclassed
            with a working `get_config()`.

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: If the model is not built, or cannot be built again from
            its configuration, or has a layer that was adapted to tf-idf.

    Example:

    >>> swd = keras_swd.SelectiveWeightDecay()
    >>> layer = keras.layers.Dense(5, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> strip(model).layers[0].kernel_regularizer is None
    True
    """
    return _rebuild(model, without_pruning, plain=True)


def plain_copy(model: keras.Model) -> keras.Model:
    """Returns the same model as `strip` does, but not compiled.

    What it saves holds its weights alone, and nothing of an optimizer.

    Args:
        model: A built `keras.Model`.

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: If the model cannot be built again from its configuration.
    """
    return _rebuild(model, without_pruning, plain=True, compiled=False)


def with_regularizer(
    model: keras.Model,
    regularizer: PruningRegularizer,
    exclude: Iterable[str | keras.layers.Layer] = (),
) -> keras.Model:
    """Returns the same model with its kernels regularised.

    For existing and pretrained models. The weights are kept bit for bit, and
    so is the compilation (the optimizer's state is not). Every layer gets an
    equal regularizer of its own, in place of one that it may have had; biases,
    normalizations and embeddings get none. With `granularity=
    CoupledChannels()` the normalizations get it, on scales and, unless the
    method penalises scales alone, on shifts; with `kernels=True` the kernels
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
        ValueError: If the model is not built, `exclude` names no layer, or no
            layer takes a regularizer.

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
    excluded, names = _read_excluded(model, exclude)
    arguments = _arguments_for(regularizer)
    config = keras.saving.serialize_keras_object(regularizer)
    seen: set[str] = set()
    changed = False

    def edit(part, trail=""):
        nonlocal changed
        if isinstance(part, (list, tuple)):
            return type(part)(edit(p, trail) for p in part)
        if not isinstance(part, dict):
            return part
        name = part.get("name")
        # What wraps the configuration of a layer may repeat its name.
        wraps = "class_name" in part
        if isinstance(name, str) and not wraps and part is not whole:
            trail = f"{trail}/{name}".strip("/")
            seen.update((name, trail))
            # A bare name means every layer of that name; a layer itself, or
            # the path of one in a nested model, that layer alone.
            if trail in excluded or name in names:
                return part
        edited = {key: edit(value, trail) for key, value in part.items()}
        for argument in arguments:
            # Other normalizations have scales too, but compute with all
            # channels at once, so that these cannot be cut.
            if argument in SCALE_ARGUMENTS and not MOVING & edited.keys():
                continue
            if argument in edited:
                edited[argument] = config
                changed = True
        return edited

    whole = model.get_config()
    twin = _rebuild(model, lambda _: edit(whole))
    _check_excluded(model, excluded, seen)
    if not changed:
        raise ValueError(
            f"No layer of model {model.name!r} takes `{arguments[0]}` through "
            f"its configuration. {_remedy(arguments)}"
        )
    return twin


def excluded_layers(
    model: keras.Model, exclude: Iterable[str | keras.layers.Layer]
) -> list[keras.layers.Layer]:
    """Returns the layers that an argument `exclude` means.

    Args:
        model: A built model.
        exclude: As in `with_regularizer`.

    Returns:
        List of layers, at any depth; one within another may be missing.

    Raises:
        ValueError: If `exclude` names no layer.
    """
    excluded, names = _read_excluded(model, exclude)
    walked = list(_walk(model))
    seen = {name for layer, trail in walked for name in (layer.name, trail)}
    _check_excluded(model, excluded, seen)
    return [
        layer
        for layer, trail in walked
        if trail in excluded or layer.name in names
    ]


def _read_excluded(model, exclude) -> tuple[set[str], set[str]]:
    """The paths of the layers to leave alone, and the names that were given."""
    alone = isinstance(exclude, (str, keras.layers.Layer))
    exclude = [exclude] if alone else list(exclude)
    trails = {id(layer): trail for layer, trail in _walk(model)}
    excluded = {
        e.strip("/") if isinstance(e, str) else trails.get(id(e), e.name)
        for e in exclude
    }
    return excluded, {e for e in exclude if isinstance(e, str)}


def _check_excluded(model, excluded: set[str], seen: set[str]) -> None:
    """Raises a `ValueError` if the model lacks one of these layers."""
    for name in sorted(excluded - seen):
        close = difflib.get_close_matches(name, seen, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"Argument `exclude` names {name!r}, but model {model.name!r} has "
            f"no such layer.{hint} Received: exclude={sorted(excluded)}."
        )


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


def _walk(model, trail: str = ""):
    """Yields the layers of a model at any depth, each with its path."""
    for layer in model.layers:
        path = f"{trail}/{layer.name}".strip("/")
        yield layer, path
        if hasattr(layer, "layers"):
            yield from _walk(layer, path)


def without_pruning(part):
    """Replaces the configuration of our regularizers by None, at any depth."""
    if isinstance(part, (list, tuple)):
        return type(part)(without_pruning(p) for p in part)
    if not isinstance(part, dict):
        return part
    if str(part.get("registered_name")).startswith("keras_swd>"):
        return None
    return {key: without_pruning(value) for key, value in part.items()}


def _detach(model: keras.Model) -> None:
    """Takes our regularizers from layers that a model's own code made."""
    for layer in all_layers(model):
        for name, value in list(vars(layer).items()):
            if isinstance(value, PruningRegularizer):
                setattr(layer, name, None)
    for variable in model.variables:
        if isinstance(variable.regularizer, PruningRegularizer):
            variable.regularizer = None


def all_layers(model: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the model and its layers at any depth."""
    # Keras' public `layers` stops at the first level.
    return list(model._flatten_layers())


def _rebuild(
    model: keras.Model,
    edit: Callable,
    plain: bool = False,
    compiled: bool = True,
) -> keras.Model:
    """Builds a model again from its edited configuration, weights kept.

    A plain one keeps nothing of ours that the configuration does not show.
    """
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so it has no weights to keep. "
            "Call it on data, or `model.build(input_shape)`, first."
        )
    with keras.saving.custom_object_scope(own_objects(model)):
        try:
            twin = type(model).from_config(edit(model.get_config()))
            if not twin.built:
                twin.build_from_config(model.get_build_config())
                twin.built = True
        except (TypeError, ValueError, NotImplementedError) as error:
            raise ValueError(
                f"Model {model.name!r} of class {type(model).__name__} cannot "
                "be built again from its configuration. Give the class "
                f"`get_config()` and `from_config()`. Cause: {error}"
            ) from error
        if plain:
            _detach(twin)
    if compiled and model.compiled:
        compile_alike(twin, model, stacklevel=4, plain=plain)
    copy_state(model, twin)
    return twin


def copy_state(layer: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives a layer that was built again all that the first one knows.

    That is its weights, and what `adapt` has found: neither weights nor
    configuration hold all of it.

    Args:
        layer: A layer or model.
        copy: The same, built again.

    Raises:
        ValueError: If Keras shows a vocabulary, but does not take it.
    """
    copy.set_weights(layer.get_weights())
    for old, new in zip(all_layers(layer), all_layers(copy), strict=False):
        if isinstance(new, keras.layers.Normalization):
            # It computes with constants, which are made from its weights.
            new.finalize_state()
        elif type(new) is type(old) and hasattr(new, "set_vocabulary"):
            _copy_vocabulary(old, new)


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


def own_objects(model: keras.Model) -> dict[str, type]:
    """The classes of a model's layers that Keras does not know."""
    classes = {type(layer) for layer in all_layers(model)}
    return {
        cls.__name__: cls
        for cls in classes
        if not cls.__module__.startswith(("keras.", "keras_swd."))
    }
