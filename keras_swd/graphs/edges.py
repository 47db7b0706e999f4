"""A product with a sparse matrix, in operators that TensorFlow Lite has.

This module imports TensorFlow, and is itself imported on demand.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf


class Edges(tf.experimental.ExtensionType):
    """A square matrix as a list of its entries.

    TensorFlow Lite has no sparse tensors, and no operator for the product of
    one with a dense matrix. `tf.matmul(edges, x)` gathers the row of `x` that
    each entry meets, multiplies it by the entry, and sums for each row of the
    result. A layer that multiplies by a dense adjacency matrix takes this one
    in its place.

    Args:
        rows: Integer tensor of shape `(edges,)`: the row of each entry, in any
            order. Entries at the same place add up.
        columns: Integer tensor of shape `(edges,)`: its column.
        values: Float tensor of shape `(edges,)`: the entry itself.
        nodes: Integer, number of rows, and of columns.

    Example:

    >>> edges = Edges([0, 2], [1, 1], [3.0, 5.0], nodes=3)
    >>> tf.matmul(edges, [[1.0], [2.0], [4.0]]).numpy().ravel().tolist()
    [6.0, 0.0, 10.0]
    """

    rows: tf.Tensor
    columns: tf.Tensor
    values: tf.Tensor
    nodes: int

    @property
    def shape(self) -> Any:
        """Shape of the matrix, a `tf.TensorShape`."""
        return tf.TensorShape((self.nodes, self.nodes))

    @property
    def dtype(self) -> Any:
        """Type of the entries, a `tf.DType`."""
        return self.values.dtype


@tf.experimental.dispatch_for_api(tf.matmul, {"a": Edges})
def _dispatched(*args, **kwargs):
    # TensorFlow takes the whole signature of `tf.matmul` here, or none. With
    # an argument that has no meaning for edges, `_multiply` fails.
    return _multiply(*args, **kwargs)


def _multiply(a, b):
    b = tf.convert_to_tensor(b)
    terms = tf.gather(b, a.columns) * tf.cast(a.values, b.dtype)[:, tf.newaxis]
    # A sum over sorted segments ends with the last row that has an entry.
    return tf.math.unsorted_segment_sum(terms, a.rows, a.nodes)
