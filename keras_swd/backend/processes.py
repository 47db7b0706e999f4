"""What several replicas, devices or processes that train a model share."""

from collections.abc import Sequence

import keras
import numpy as np


def replicas() -> int:
    """Returns how many replicas of a model the present scope trains."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    return distribution.device_mesh.devices.size


def in_pieces(variable: keras.Variable) -> bool:
    """Returns whether no process of several holds all of a variable."""
    value = variable.value
    return not (
        getattr(value, "is_fully_addressable", True)
        or getattr(value, "is_fully_replicated", True)
    )


def agreed(counts: Sequence[int]) -> list[int]:
    """Returns the counts that the first of several processes found.

    Each finds its own from equal weights, but sums that processors of two
    kinds round differently may part them. Every process must call this.

    Args:
        counts: Integers, as many in every process.
    """
    together = keras.distribution.distribution() is not None
    if keras.config.backend() != "jax" or not together:
        return list(counts)
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return list(counts)
    first = multihost_utils.broadcast_one_to_all(np.asarray(counts, "int32"))
    return np.asarray(first).tolist()
