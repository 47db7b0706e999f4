"""Spektral's convolutional layers, as Keras 3 can use them.

`from keras_swd.graphs.layers import GCNConv`: every convolutional layer of
Spektral is here under its own name, with the arguments it has there, and so is
`GraphMasking`, from which they get their masks. Spektral and TensorFlow are
imported when the first one is asked for.
"""

import functools
import inspect
from typing import Any

import keras

#: Files name the layers in this package. Our regularizers are in another: what
#: is registered there, `strip` takes out of a model.
PACKAGE = "keras_swd.graphs"
NAMES = (
    "AGNNConv",
    "APPNPConv",
    "ARMAConv",
    "CensNetConv",
    "ChebConv",
    "CrystalConv",
    "DiffusionConv",
    "ECCConv",
    "EdgeConv",
    "GATConv",
    "GCNConv",
    "GCSConv",
    "GINConv",
    "GINConvBatch",
    "GTVConv",
    "GatedGraphConv",
    "GeneralConv",
    "GraphMasking",
    "GraphSageConv",
    "TAGConv",
    "XENetConv",
    "XENetConvBatch",
)
#: Arguments that a layer leaves out of its configuration, so that its copy
#: would get the default, each with the attribute that holds the value.
FORGOTTEN = {
    "GATConv": {"add_self_loops": "add_self_loops"},
    "GeneralConv": {"batch_norm": "use_batch_norm", "dropout": "dropout_rate"},
    "TAGConv": {"K": "K"},
}


class _Repaired(keras.layers.Layer):
    """A layer whose configuration is complete, and which XLA leaves alone."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # Keras compiles with XLA on GPUs, and XLA has no sparse product.
        self.supports_jit = False

    def get_config(self):
        config = super().get_config()
        for base in type(self).__mro__:
            for argument, attribute in FORGOTTEN.get(base.__name__, {}).items():
                config[argument] = getattr(self, attribute)
        return config


class _Masked(_Repaired):
    """A layer that multiplies by the mask of its nodes, if there is one."""

    def call(self, inputs, mask=None):
        # Keras 3 passes a mask for each input, None where an input has none.
        # Spektral takes that of the first, and whatever it is, multiplies.
        if mask is not None and mask[0] is None:
            mask = None
        return super().call(inputs, mask=mask)


class _Masking(_Repaired):
    """A layer that takes the mask of the nodes from their last feature."""

    def call(self, inputs):
        # Spektral takes the feature out of the list that it was given. Keras 3
        # looks for the mask after that, in the same list: in the next feature.
        return super().call(inputs[:] if isinstance(inputs, list) else inputs)


class _PassingMessages(_Repaired):
    """A layer that passes messages along the entries of a sparse matrix."""

    def get_inputs(self, inputs):
        import tensorflow as tf

        x, a, *rest = inputs
        # Spektral refuses a dense one. But `keras.models.clone_model` gives
        # its copy dense inputs, whatever they were.
        if isinstance(a, tf.Tensor):
            a = tf.sparse.from_dense(a)
        return super().get_inputs([x, a, *rest])


def adapted(layer_class: Any) -> Any:
    """Returns a subclass of a Spektral layer that Keras 3 can use.

    For layers of your own, derived from Spektral's `Conv` or `MessagePassing`;
    Spektral's are in this module under their names. Arguments, weights and
    outputs are those of the class. A functional model may hold the layer, and
    is saved, loaded and cloned with it.

    Args:
        layer_class: Class derived from a layer of Spektral.

    Returns:
        The subclass, of the same name. It is not registered: decorate it with
        `keras.saving.register_keras_serializable()` for files to load.

    Example:

    >>> from spektral.layers import MessagePassing
    >>> @adapted
    ... class Sum(MessagePassing):
    ...     "Adds up the features of a node's neighbours."
    >>> x, a = keras.Input((4,)), keras.Input((None,), sparse=True)
    >>> keras.Model([x, a], Sum()([x, a])).output_shape
    (None, 4)
    """
    return type(
        layer_class.__name__,
        (_repair(layer_class), layer_class),
        {
            "__doc__": layer_class.__doc__,
            "__module__": layer_class.__module__,
            "__signature__": inspect.signature(layer_class),
        },
    )


def _repair(layer_class: Any) -> type:
    """What stands before a class of Spektral in the order of methods."""
    if "mask" in inspect.signature(layer_class.call).parameters:
        return _Masked
    if "compute_mask" in vars(layer_class):
        return _Masking
    if hasattr(layer_class, "get_inputs"):
        return _PassingMessages
    return _Repaired


class _OnNeed:
    """Stands for a layer among Keras' registered classes.

    A file that names the layer is loaded without it having been imported.

    Args:
        name: String, one of `NAMES`.
    """

    def __init__(self, name: str):
        self.name = name

    def from_config(self, config: dict[str, Any]) -> keras.layers.Layer:
        """Imports the layer's class, and builds the layer from its config."""
        return _layer_class(self.name).from_config(config)


for _name in NAMES:
    keras.saving.get_custom_objects()[f"{PACKAGE}>{_name}"] = _OnNeed(_name)


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _layer_class(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *NAMES})


@functools.cache
def _layer_class(name: str) -> Any:
    """The adapted class, which takes its placeholder's place."""
    layer_class = adapted(getattr(_spektral_layers(), name))
    layer_class.__module__ = __name__
    return keras.saving.register_keras_serializable(PACKAGE)(layer_class)


def _spektral_layers():
    """Spektral's module of layers, on Keras 3 with TensorFlow."""
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise ImportError(
            "Spektral's layers compute with TensorFlow. Set the environment "
            "variable KERAS_BACKEND=tensorflow before Keras is imported. "
            f"Received: keras.config.backend()={backend!r}."
        )
    try:
        from spektral import layers
    except ImportError as error:
        raise ImportError(
            "`keras_swd.graphs` needs Spektral: pip install "
            "'keras_swd[graphs]'."
        ) from error
    if not issubclass(layers.GCNConv, keras.layers.Layer):
        raise ImportError(
            "Spektral was imported on tf_keras, not on Keras 3. Unset the "
            "environment variable TF_USE_LEGACY_KERAS, which importing "
            "tensorflow_model_optimization sets, before TensorFlow is "
            "imported."
        )
    return layers
