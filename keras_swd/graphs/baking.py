"""Graph networks for TensorFlow Lite: edges in place of a sparse adjacency."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_swd.arguments import check_count
from keras_swd.coupling.graph import interpret
from keras_swd.rebuilding.again import copy_state, copying

#: What a list of edges consists of, as inputs of a model.
ENTRIES = {"rows": "int32", "columns": "int32", "values": "float32"}


def bake(model: keras.Model, adjacency: Any) -> keras.Model:
    """Returns the same model with its graph built in.

    TensorFlow Lite has neither sparse tensors nor products with them, so a
    model that takes a sparse adjacency cannot become a file. The baked one
    takes the features of all nodes, gives the same outputs, and is exported
    like any other. It holds the graph as a list of edges, 12 bytes each, where
    a dense matrix takes 4 bytes for each pair of nodes.

    TensorFlow Lite stores very sparse kernels without their zeros only where
    their number of rows is a multiple of 4: fill the features up with columns
    of zeros before training.

    The adjacency may go to layers of Spektral that multiply by it (`GCNConv`,
    `GCSConv`, `ARMAConv`, ...) or send messages along its edges (`GATConv`,
    `GeneralConv`, ...), and to layers derived from these.

    Args:
        model: Functional `keras.Model` of two inputs in this order: features
            of shape `(nodes, features)` and adjacency of shape `(nodes,
            nodes)`. Call `keras_swd.strip` first on one that was pruned.
        adjacency: The matrix as the model takes it, e.g. normalized, of shape
            `(nodes, nodes)`: a SciPy sparse matrix, an array or a
            `tf.SparseTensor`.

    Returns:
        A new `keras.Model` of features of shape `(nodes, features)`, for this
        number of nodes, with a copy of the weights. It is not compiled.

    Raises:
        ValueError: If an argument does not fit, or a layer needs more of the
            adjacency than a list of edges.

    Example:

    ```python
    from keras_swd.graphs import bake

    baked = bake(keras_swd.strip(model), adjacency)
    keras_swd.export.to_tflite(baked, "gcn.tflite", check_with=x)
    ```
    """
    rows, columns, values, nodes = _entries(adjacency)
    features = _features(model, nodes)
    x = keras.Input(
        batch_shape=(nodes, *features.shape[1:]),
        dtype=features.dtype,
        name=features.name,
    )
    outputs = _call_on_edges(model, x, (rows, columns, values), nodes)
    return keras.Model(x, outputs, name=model.name)


def with_edges(model: keras.Model, nodes: int, edges: int) -> keras.Model:
    """Returns the same model with its graph as a list of edges.

    For files whose graph changes in use; `bake` is for one that stays. Here a
    graph is a sample, and each input and output has a first axis of one.

    A graph of fewer edges is filled up with edges of value zero. Layers that
    multiply by the adjacency ignore them; those that send messages along its
    edges count them like any other.

    Args:
        model: Functional `keras.Model`, as for `bake`.
        nodes: Positive integer, number of nodes.
        edges: Positive integer, number of entries of the adjacency.

    Returns:
        A new `keras.Model` with a copy of the weights, not compiled. It takes
        a list: features of shape `(1, nodes, features)`; then rows, columns
        and values of the adjacency's entries, each of shape `(1, edges)`, of
        types int32, int32 and float32.

    Raises:
        ValueError: As for `bake`.

    Example:

    ```python
    from keras_swd.graphs import with_edges

    a = scipy.sparse.coo_array(adjacency)
    graph = [array[None] for array in (x, a.row, a.col, a.data)]
    model = with_edges(keras_swd.strip(model), nodes=len(x), edges=a.nnz)
    keras_swd.export.to_tflite(model, "gcn.tflite", check_with=graph)
    ```
    """
    nodes, edges = check_count("nodes", nodes), check_count("edges", edges)
    features = _features(model, nodes)
    x = keras.Input(
        batch_shape=(1, nodes, *features.shape[1:]),
        dtype=features.dtype,
        name=features.name,
    )
    entries = [
        keras.Input(batch_shape=(1, edges), dtype=dtype, name=name)
        for name, dtype in ENTRIES.items()
    ]
    inputs = [x, *entries]
    x, *entries = [keras.ops.squeeze(tensor, 0) for tensor in inputs]
    outputs = _call_on_edges(model, x, entries, nodes)
    outputs = keras.tree.map_structure(
        lambda tensor: keras.ops.expand_dims(tensor, 0), outputs
    )
    return keras.Model(inputs, outputs, name=model.name)


@keras.saving.register_keras_serializable(package="keras_swd.graphs")
class OnEdges(keras.layers.Layer):
    """A graph layer that takes its adjacency as a list of edges.

    Args:
        layer: Layer derived from Spektral's `Conv` or `MessagePassing`.
        nodes: Integer, number of nodes.
    """

    def __init__(self, layer: keras.layers.Layer, nodes: int, **kwargs: Any):
        options = {"name": layer.name, "dtype": layer.dtype_policy}
        super().__init__(**{**options, **kwargs})
        self.layer = layer
        self.nodes = nodes
        self.supports_masking = True

    def build(self, x_shape, rows_shape, columns_shape, values_shape):
        """Builds the layer for features of a shape."""
        if not self.layer.built:
            self.layer.build([tuple(x_shape), (self.nodes, self.nodes)])

    def call(self, x, rows, columns, values, x_mask=None):
        """Calls the layer on features and an adjacency."""
        import tensorflow as tf
        from spektral.layers import GATConv, GINConvBatch, MessagePassing

        from keras_swd.graphs.edges import Edges

        # These want a sparse tensor, of which they read the indices alone.
        messages = isinstance(self.layer, (GATConv, MessagePassing))
        if messages and not isinstance(self.layer, GINConvBatch):
            indices = tf.cast(tf.stack([rows, columns], axis=1), "int64")
            a = tf.SparseTensor(indices, values, (self.nodes, self.nodes))
        else:
            a = Edges(rows, columns, values, self.nodes)
        # Called as a layer, it would take nothing but tensors.
        masked = x_mask is not None
        mask = {"mask": [x_mask, None]} if masked else {}
        return self.layer.call([x, a], **mask)

    def get_config(self):
        """The arguments; the layer as a configuration."""
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer, "nodes": self.nodes}

    @classmethod
    def from_config(cls, config):
        """Makes the layer again, and the one in it."""
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})


def _entries(adjacency: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Rows, columns and values of the entries of a matrix, and its size."""
    from scipy import sparse

    try:
        if hasattr(adjacency, "dense_shape"):
            places = np.asarray(adjacency.indices).T
            entries = (np.asarray(adjacency.values), places)
            matrix = sparse.coo_array(entries, adjacency.shape)
        else:
            matrix = sparse.coo_array(adjacency)
        nodes, width = matrix.shape
        kind = matrix.dtype.kind
    except (TypeError, ValueError):
        nodes, width, kind = 0, 0, ""
    if not 0 < nodes == width or kind not in "biuf":
        raise ValueError(
            "Argument `adjacency` must be a square matrix of numbers: a SciPy "
            "sparse matrix, an array or a `tf.SparseTensor`. Received: a value "
            f"of type {type(adjacency).__name__} and shape "
            f"{getattr(adjacency, 'shape', None)}."
        )
    if not np.isfinite(matrix.data).all():
        raise ValueError(
            "Argument `adjacency` must be finite. Received: NaN or infinity. "
            "Was a node without edges normalized?"
        )
    rows, columns = matrix.row.astype("int32"), matrix.col.astype("int32")
    return rows, columns, matrix.data.astype("float32"), nodes


def _features(model: keras.Model, nodes: int) -> keras.KerasTensor:
    """Returns the features among a model's inputs, which must fit a graph."""
    inputs = model.input if isinstance(model, keras.Function) else None
    if (
        not isinstance(inputs, (list, tuple))
        or len(inputs) != 2
        or any(not isinstance(tensor, keras.KerasTensor) for tensor in inputs)
    ):
        raise ValueError(
            "Argument `model` must be a functional model of two inputs, the "
            "features of all nodes and one adjacency, in this order. "
            f"Received: model={model}."
        )
    features, adjacency = inputs
    sizes = (features.shape[0], *adjacency.shape)
    if len(sizes) != 3 or not {None, nodes}.issuperset(sizes):
        raise ValueError(
            f"The model must take {nodes} nodes, as many as the adjacency has. "
            f"Received: a model that takes {features.name!r} of shape "
            f"{features.shape} and {adjacency.name!r} of shape "
            f"{adjacency.shape}."
        )
    return features


def _call_on_edges(model: keras.Model, x: Any, entries: Any, nodes: int) -> Any:
    """Calls copies of a model's layers on features and edges."""
    # Stands where the adjacency stood, and goes to no layer.
    absent = keras.KerasTensor((nodes, nodes))
    copies: dict[int, keras.Operation] = {}

    def copied(layer: keras.Operation) -> keras.Operation:
        if id(layer) not in copies:
            copies[id(layer)] = _copy(layer, nodes)
        return copies[id(layer)]

    def call(node: Any, tensors: dict[int, Any]) -> list[Any]:
        layer = copied(node.operation)
        args, kwargs = node.arguments.fill_in(tensors)
        taken = keras.tree.flatten((args, kwargs))
        if not any(value is absent for value in taken):
            return keras.tree.flatten(layer(*args, **kwargs))
        if not isinstance(layer, OnEdges) or not _is_pair(args, absent):
            raise _unsupported(layer)
        try:
            return keras.tree.flatten(layer(args[0][0], *entries))
        except Exception as error:
            raise _unsupported(layer.layer) from error

    with copying(model):
        flat = interpret(model, [x, absent], lambda layer, tensor: tensor, call)
    outputs = keras.tree.pack_sequence_as(model.output, flat)
    for layer in model.layers:
        if id(layer) in copies:
            copy_state(layer, copies[id(layer)])
    return outputs


def _is_pair(args: tuple[Any, ...], absent: Any) -> bool:
    """Whether a layer was called on features and the adjacency."""
    pair = args[0] if args else None
    if not isinstance(pair, (list, tuple)):
        return False
    return len(pair) == 2 and pair[1] is absent


def _copy(layer: keras.Operation, nodes: int) -> keras.Operation:
    """Makes a layer again, in `OnEdges` if it takes an adjacency."""
    from spektral.layers import MessagePassing
    from spektral.layers.convolutional.conv import Conv

    twin = type(layer).from_config(layer.get_config())
    if isinstance(twin, (Conv, MessagePassing)):
        return OnEdges(twin, nodes)
    return twin


def _unsupported(layer: keras.Operation) -> ValueError:
    return ValueError(
        "Argument `model` may give its adjacency only to convolutional layers "
        "derived from Spektral's, called on `[x, a]`, that multiply by it or "
        "send messages along its edges. Received: a model that gives it to "
        f"layer {layer.name!r} of class {type(layer).__name__}."
    )
