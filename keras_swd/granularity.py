"""Which entries of a kernel go together: unit scores, and back to entries."""

import operator
from collections.abc import Sequence

import keras
from keras import ops

from keras_swd.configured import Configured


class Granularity(Configured):
    """Cuts a kernel into units, the sets of entries that go together.

    Subclasses implement `check(shape)`, `unit_scores(scores)` and
    `expand(units, shape)`, and `get_config()` if they take arguments. They
    work on the tensors of any backend, inside and outside compiled steps, so
    use `keras.ops`.

    Example:

    >>> class Rows(keras_swd.Granularity):
    ...     def unit_scores(self, scores):
    ...         rows = ops.reshape(scores, (-1, scores.shape[-1]))
    ...         return ops.mean(rows, axis=-1)
    ...
    ...     def expand(self, units, shape):
    ...         units = ops.reshape(units, (*shape[:-1], 1))
    ...         return ops.broadcast_to(units, shape)
    >>> swd = keras_swd.SelectiveWeightDecay(granularity=Rows())
    >>> layer = keras.layers.Dense(3, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> _ = keras_swd.remove(model, 0.75)
    >>> int(np.count_nonzero(layer.get_weights()[0]))
    3
    """

    #: Whether a unit spans several weights of a model, so that only the
    #: model's graph tells the units.
    coupled = False

    @property
    def fixed_sparsity(self) -> float | None:
        """Share of units that this granularity always removes, or None."""
        return None

    def check(self, shape: Sequence[int]) -> None:
        """Raises a `ValueError` if kernels of this shape cannot be cut."""

    def unit_scores(self, scores):
        """Returns one score per unit, a float tensor of shape `(units,)`."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `unit_scores(scores)`."
        )

    def expand(self, units, shape: Sequence[int]):
        """Returns one value per unit as one per entry of the kernel."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement `expand(units, shape)`."
        )

    def selected(self, scores, threshold):
        """Marks the entries of units that score at or below `threshold`.

        Args:
            scores: Float tensor of the kernel's shape.
            threshold: Float scalar.

        Returns:
            Boolean tensor of the kernel's shape.
        """
        return self.expand(self.unit_scores(scores) <= threshold, scores.shape)


@keras.saving.register_keras_serializable("keras_swd")
class Unstructured(Granularity):
    """Each entry of a kernel is a unit of its own.

    Example:

    >>> Unstructured().unit_scores(ops.ones((3, 3, 2, 5))).shape[0]
    90
    """

    def unit_scores(self, scores):
        """Flattens the scores.

        Args:
            scores: Float tensor of the kernel's shape.

        Returns:
            Float tensor of shape `(entries,)`, in C order.
        """
        return ops.reshape(scores, (-1,))

    def expand(self, units, shape: Sequence[int]):
        """Gives the units the kernel's shape back."""
        return ops.reshape(units, tuple(shape))

    def selected(self, scores, threshold):
        """Marks the entries that score at or below `threshold`.

        Args:
            scores: Float tensor or array of any shape.
            threshold: Float scalar.

        Returns:
            Boolean tensor or array of the shape of `scores`.
        """
        return scores <= threshold


@keras.saving.register_keras_serializable("keras_swd")
class Channel(Granularity):
    """A unit is a slice of the kernel at one index of `axis`.

    The score of a channel is the mean of its entries' scores, so that channels
    of different sizes can be ranked together.

    Args:
        axis: Integer, the axis of the kernel that counts channels. The last
            axis of a `Dense` or `Conv2D` kernel holds its filters. Defaults to
            `-1`.

    Raises:
        ValueError: If `axis` is not an integer.

    Example:

    >>> Channel(axis=-1).unit_scores(ops.ones((3, 3, 2, 5))).shape[0]
    5
    """

    def __init__(self, axis: int = -1):
        try:
            self.axis = operator.index(axis)
        except TypeError:
            raise ValueError(
                "Argument `axis` must be an integer, the axis of the kernel "
                f"that counts channels. Received: axis={axis!r}."
            ) from None

    def check(self, shape: Sequence[int]) -> None:
        """Raises a `ValueError` if the kernel has no such axis."""
        if not -len(shape) <= self.axis < len(shape):
            raise ValueError(
                f"{self!r} needs a kernel that has axis {self.axis}. "
                f"Received: a kernel of shape {tuple(shape)}."
            )

    def unit_scores(self, scores):
        """Averages the scores of each channel.

        Args:
            scores: Float tensor of the kernel's shape.

        Returns:
            Float tensor of shape `(channels,)`.
        """
        axis = self.axis % len(scores.shape)
        others = [a for a in range(len(scores.shape)) if a != axis]
        return ops.mean(scores, axis=others) if others else scores

    def expand(self, units, shape: Sequence[int]):
        """Repeats each channel's value over its entries."""
        along = [1] * len(shape)
        along[self.axis] = shape[self.axis]
        return ops.broadcast_to(ops.reshape(units, along), tuple(shape))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"axis": self.axis}


@keras.saving.register_keras_serializable("keras_swd")
class CoupledChannels(Granularity):
    """A unit is a channel of the model, on all the weights that share it.

    A filter of a convolution, its place in the normalization behind it, its
    place in what is added to it and the inputs that take it can only be cut
    together; `keras_swd.find_coupling` tells which. What `PruningScheduler`
    then removes, `shrink` cuts out.

    The penalty falls on the weights that carry the regularizer, and these
    become zero: give it to `gamma` and `beta` of `BatchNormalization`, and the
    score of a channel is `|gamma|`; or also to the kernels before and behind
    it. Where `gamma` alone carries it, `beta` becomes zero too. Without a
    normalization that carries it, the score is the mean magnitude of the
    channel's entries. `keras_swd.with_regularizer` places it on every
    normalization, or with `kernels=True` on every kernel too.

    Every set of coupled channels keeps one, unless `may_empty`.

    Args:
        kernels: Boolean, whether `with_regularizer` places the regularizer on
            kernels too. Defaults to `False`.
        may_empty: Boolean, whether a layer may lose all its channels. Defaults
            to `False`.

    Example:

    >>> swd = keras_swd.SelectiveWeightDecay(
    ...     granularity=CoupledChannels(kernels=True)
    ... )
    >>> model = keras.Sequential([keras.Input((4,))])
    >>> model.add(keras.layers.Dense(8))
    >>> model.add(keras.layers.Dense(2))
    >>> model = keras_swd.with_regularizer(model, swd)
    >>> _ = keras_swd.remove(model, 0.5)
    >>> [layer.units for layer in keras_swd.shrink(model).layers]
    [4, 2]

    Reference:
        Tessier et al. 2022, arXiv 2011.10520: structured pruning, of which
        `kernels=True` is the form that also decays filters. One ranking over
        coupled channels is ours.
    """

    coupled = True

    def __init__(self, *, kernels: bool = False, may_empty: bool = False):
        self.kernels = bool(kernels)
        self.may_empty = bool(may_empty)

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"kernels": self.kernels, "may_empty": self.may_empty}


@keras.saving.register_keras_serializable("keras_swd")
class Block(Granularity):
    """A unit is a rectangle of the kernel's last two axes.

    In a `Dense` kernel these are the input and the output axis; a block of
    `(4, 1)` is what sparse float kernels of LiteRT can use. The score of a
    block is the mean of its entries' scores.

    Args:
        shape: Tuple of two positive integers, the block's extent along the
            input and the output axis. Defaults to `(4, 1)`.

    Raises:
        ValueError: If `shape` is not a pair of positive integers.

    Example:

    >>> Block((4, 1)).unit_scores(ops.ones((8, 3))).shape[0]
    6
    """

    def __init__(self, shape: Sequence[int] = (4, 1)):
        try:
            rows, columns = (operator.index(n) for n in shape)
        except (TypeError, ValueError):
            rows, columns = 0, 0
        if rows < 1 or columns < 1:
            raise ValueError(
                "Argument `shape` must be a pair of positive integers, e.g. "
                f"(4, 1). Received: shape={shape!r}."
            )
        self.shape = (rows, columns)

    def check(self, shape: Sequence[int]) -> None:
        """Raises a `ValueError` if blocks do not tile the kernel."""
        rows, columns = self.shape
        if len(shape) < 2 or shape[-2] % rows or shape[-1] % columns:
            raise ValueError(
                f"{self!r} needs a kernel whose last two axes are multiples "
                f"of {self.shape}. Received: a kernel of shape {tuple(shape)}."
            )

    def _tiled(self, shape: Sequence[int]) -> tuple[int, ...]:
        rows, columns = self.shape
        return (
            *shape[:-2],
            shape[-2] // rows,
            rows,
            shape[-1] // columns,
            columns,
        )

    def unit_scores(self, scores):
        """Averages the scores of each block.

        Args:
            scores: Float tensor of the kernel's shape.

        Returns:
            Float tensor of shape `(blocks,)`, in C order of the blocks.
        """
        tiled = ops.reshape(scores, self._tiled(scores.shape))
        return ops.reshape(ops.mean(tiled, axis=(-3, -1)), (-1,))

    def expand(self, units, shape: Sequence[int]):
        """Repeats each block's value over its entries."""
        tiled = self._tiled(shape)
        corners = (*tiled[:-3], 1, tiled[-2], 1)
        spread = ops.broadcast_to(ops.reshape(units, corners), tiled)
        return ops.reshape(spread, tuple(shape))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"shape": self.shape}


@keras.saving.register_keras_serializable("keras_swd")
class NM(Granularity):
    """Of each `m` neighbours along an axis, `n` are kept: N:M sparsity.

    A unit is an entry; its score is its rank among its `m` neighbours (0 for
    the lowest, earlier entries first among equals), so the `m - n` lowest of
    every group go, exactly. The sparsity is `1 - n / m`, whatever the
    scheduler's target: a kernel cut so has a target of its own.

    Args:
        n: Positive integer, how many of each group are kept. Defaults to `2`.
        m: Integer > `n`, the size of a group. Defaults to `4`.
        axis: Integer, the axis of the kernel along which groups lie. Defaults
            to `-2`, the input axis.

    Raises:
        ValueError: If not `0 < n < m`, or an argument is no integer.

    Example:

    >>> ranks = NM(2, 4, axis=0).unit_scores(ops.array([4.0, 1.0, 3.0, 2.0]))
    >>> ops.convert_to_numpy(ranks).tolist()
    [3.0, 0.0, 2.0, 1.0]

    Reference:
        Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021,
        arXiv 2104.08378 (2:4).
    """

    def __init__(self, n: int = 2, m: int = 4, axis: int = -2):
        try:
            self.n, self.m, self.axis = map(operator.index, (n, m, axis))
        except TypeError:
            raise ValueError(
                "Arguments `n`, `m` and `axis` must be integers. "
                f"Received: n={n!r}, m={m!r}, axis={axis!r}."
            ) from None
        if not 0 < self.n < self.m:
            raise ValueError(
                "Argument `n`, how many of each `m` are kept, must lie "
                f"between 0 and `m`. Received: n={n}, m={m}."
            )

    @property
    def fixed_sparsity(self) -> float:
        """Share of the entries that go."""
        return (self.m - self.n) / self.m

    def check(self, shape: Sequence[int]) -> None:
        """Raises a `ValueError` if groups do not tile the axis."""
        exists = -len(shape) <= self.axis < len(shape)
        if not exists or shape[self.axis] % self.m:
            raise ValueError(
                f"{self!r} needs a kernel whose axis {self.axis} is a "
                f"multiple of {self.m}. Received: a kernel of shape "
                f"{tuple(shape)}."
            )

    def unit_scores(self, scores):
        """Ranks each entry among its neighbours.

        Args:
            scores: Float tensor of the kernel's shape.

        Returns:
            Float tensor of shape `(entries,)`: 0 to `m - 1`, in C order.
        """
        axis = self.axis % len(scores.shape)
        moved = ops.moveaxis(scores, axis, -1)
        groups = ops.reshape(moved, (-1, self.m))
        mine, other = ops.expand_dims(groups, 2), ops.expand_dims(groups, 1)
        place = ops.arange(self.m)
        earlier = ops.expand_dims(place, 1) > ops.expand_dims(place, 0)
        lower = ops.logical_or(
            other < mine, ops.logical_and(other == mine, earlier)
        )
        ranks = ops.sum(ops.cast(lower, scores.dtype), axis=2)
        ranks = ops.moveaxis(ops.reshape(ranks, moved.shape), -1, axis)
        return ops.reshape(ranks, (-1,))

    def expand(self, units, shape: Sequence[int]):
        """Gives the units the kernel's shape back."""
        return ops.reshape(units, tuple(shape))

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {"n": self.n, "m": self.m, "axis": self.axis}
