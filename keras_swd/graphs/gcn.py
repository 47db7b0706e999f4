"""The graph convolutional network of Kipf and Welling."""

import keras

from keras_swd.arguments import check_count, is_number
from keras_swd.graphs import layers


def gcn(
    features: int,
    classes: int,
    units: int = 16,
    dropout: float = 0.5,
    kernel_regularizer=None,
) -> keras.Model:
    """Returns a two-layer graph convolutional network.

    For `n` nodes with features `X` and adjacency matrix `A`, it computes
    `softmax(Â relu(Â X W0) W1)`: the class of each node from the features of
    all nodes at most two edges away. `Â = D^(-1/2) (A + I) D^(-1/2)`, with `D`
    the diagonal matrix of the row sums of `A + I`, is what
    `GCNConv.preprocess(a)` gives. There are no biases; dropout stands before
    either layer; kernels start as Glorot uniform.

    The model takes a list `[X, Â]`, shapes `(n, features)` and `(n, n)`, for
    any `n`. `Â` may be a SciPy sparse matrix (in `fit`, `evaluate` and
    `predict`), a `tf.SparseTensor` or dense. A graph is one batch: pass
    `batch_size=n, shuffle=False`, and weight zero for nodes without a label.

    Args:
        features: Integer, features of a node.
        classes: Integer, number of classes, at least 2.
        units: Integer, columns of `W0`. Defaults to `16`.
        dropout: Float in [0, 1), share of the inputs of either layer that is
            zero in a training step. Defaults to `0.5`.
        kernel_regularizer: Regularizer of both kernels, or `None`. Defaults to
            `None`.

    Returns:
        A functional `keras.Model` with output shape `(n, classes)`.

    Raises:
        ValueError: If a size is no such integer, or `dropout` lies outside
            [0, 1).
        ImportError: If Spektral is not installed, or Keras does not run on
            TensorFlow.

    Reference:

    - [Kipf and Welling, 2017](https://arxiv.org/abs/1609.02907), equations 8
      and 9.

    Example:

    >>> from keras_swd.graphs.layers import GCNConv
    >>> x, a = np.eye(5, 4), np.eye(5)[::-1].copy()
    >>> swd = keras_swd.SelectiveWeightDecay()
    >>> model = gcn(features=4, classes=3, kernel_regularizer=swd)
    >>> inputs = [x, GCNConv.preprocess(a)]
    >>> model.predict(inputs, batch_size=5, verbose=0).shape
    (5, 3)
    """
    check_count("features", features)
    check_count("classes", classes, least=2)
    check_count("units", units)
    if not is_number(dropout) or not 0.0 <= dropout < 1.0:
        raise ValueError(
            "Argument `dropout` is a share of the inputs, in [0, 1). "
            f"Received: dropout={dropout!r}."
        )
    x = keras.Input((features,), name="features")
    a = keras.Input((None,), sparse=True, name="adjacency")
    options = {"use_bias": False, "kernel_regularizer": kernel_regularizer}
    hidden = layers.GCNConv(units, "relu", name="hidden", **options)
    output = layers.GCNConv(classes, "softmax", name="classes", **options)
    y = hidden([keras.layers.Dropout(dropout)(x), a])
    y = output([keras.layers.Dropout(dropout)(y), a])
    return keras.Model([x, a], y, name="gcn")
