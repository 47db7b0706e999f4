"""Rules for layers that move channels to another axis, or pool places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from keras_swd.coupling.channels import Channels, Ledger, NotFollowed
from keras_swd.coupling.uses import Use
from keras_swd.coupling.weights import OUT, kind_of


def _keep(use: Use, ledger: Ledger) -> Channels:
    """Pooling, cropping, repeating: nothing happens to a constant."""
    given = use.given
    if use.axis_of_data() != given.axis:
        raise NotFollowed("slides over them")
    return given


def _pad(use: Use, ledger: Ledger) -> Channels:
    given = _keep(use, ledger)
    use.hint_at_padding(ledger, given)
    zero = given.constant == 0.0
    return given.with_constant(np.where(zero, 0.0, np.nan))


def _pool_globally(use: Use, ledger: Ledger) -> Channels:
    given = _keep(use, ledger)
    return given if use.operation.keepdims else given.on(1)


def _permute(use: Use, ledger: Ledger) -> Channels:
    return _ordered(use.given, (0, *use.operation.dims))


def _transpose(use: Use, ledger: Ledger) -> Channels:
    rank = len(use.output_shape)
    axes = use.operation.axes or range(rank)[::-1]
    return _ordered(use.given, [axis % rank for axis in axes])


def _expand(use: Use, ledger: Ledger) -> Channels:
    rank = len(use.output_shape)
    new = _axes(use.operation.axis, rank)
    old = iter(range(rank))
    return _ordered(
        use.given, [None if a in new else next(old) for a in range(rank)]
    )


def _squeeze(use: Use, ledger: Ledger) -> Channels:
    if use.operation.axis is None:
        raise NotFollowed("takes away each axis of size 1")
    rank = len(use.input_shapes[0])
    gone = _axes(use.operation.axis, rank)
    return _ordered(use.given, [a for a in range(rank) if a not in gone])


def _reduce(use: Use, ledger: Ledger) -> Channels:
    """A mean, sum or extreme of each channel over some of its places."""
    given, operation, shape = use.given, use.operation, use.input_shapes[0]
    if getattr(operation, "initial", None) is not None:
        raise NotFollowed("begins with a value of its own")
    gone = _axes(operation.axis, len(shape))
    left = [axis for axis in range(len(shape)) if axis not in gone]
    reduced = _ordered(given, left)
    if kind_of(operation) == "ops.Sum":
        places = math.prod(shape[axis] or math.nan for axis in gone)
        zero = given.constant == 0.0
        values = np.where(zero, 0.0, given.constant * places)
        given, reduced = (c.with_constant(values) for c in (given, reduced))
    return given if operation.keepdims else reduced


def _axes(axis: int | Sequence[int] | None, rank: int) -> set[int]:
    """The axes that an operation names, counted from 0; None names all."""
    named = range(rank) if axis is None else np.atleast_1d(axis).tolist()
    return {a % rank for a in named}


def _ordered(given: Channels, axes: Sequence[int | None]) -> Channels:
    """The same channels, where a tensor is made of these of its axes."""
    if not axes or axes[0] != 0:
        raise NotFollowed("mixes samples")
    if given.axis not in axes:
        raise NotFollowed("computes with all of them at once")
    return given.on(axes.index(given.axis))


def _repeat(use: Use, ledger: Ledger) -> Channels:
    return use.given.on(2)


def _flatten(use: Use, ledger: Ledger) -> Channels:
    given = use.given
    ids, constant = _entries(given, use)
    if use.operation.data_format == "channels_first" and ids.ndim > 1:
        # Keras brings channels to the end first.
        ids, constant = np.moveaxis(ids, 0, -1), np.moveaxis(constant, 0, -1)
    return Channels(1, ids.ravel(), constant.ravel())


def _reshape(use: Use, ledger: Ledger) -> Channels:
    """Channels lie on the axis of the new shape that keeps them apart."""
    given = use.given
    old, new = use.input_shapes[0], use.output_shape
    if given.axis == len(old) - 1 and old[-1] == new[-1]:
        made = given.on(len(new) - 1)
    else:
        made = _rearranged(use, ledger)
    ledger.site(use.operation, OUT, made)
    return made


def _rearranged(use: Use, ledger: Ledger) -> Channels:
    sizes = _known(use.output_shape[1:])
    if not sizes:
        raise NotFollowed("leaves no axis for them")
    ids, constant = (
        entries.reshape(sizes) for entries in _entries(use.given, use)
    )
    last = len(sizes) - 1
    axis = next((a for a in range(last, -1, -1) if _apart(ids, a)), last)
    lines, values = _lines(ids, axis), _lines(constant, axis)
    # Where no axis keeps them apart, those of one place go together.
    ledger.join(np.broadcast_to(lines[0], lines.shape), lines)
    uniform = (values == values[0]).all(0)
    ledger.hint(
        lines[0][~uniform & ~np.isnan(values).any(0)],
        f"`{use.path}` brings different constants together",
    )
    return Channels(axis + 1, lines[0], np.where(uniform, values[0], np.nan))


def _apart(ids: np.ndarray, axis: int) -> bool:
    lines = _lines(ids, axis)
    return bool((lines == lines[0]).all())


def _lines(entries: np.ndarray, axis: int) -> np.ndarray:
    """All lines along an axis, as `(lines, places on the axis)`."""
    return np.moveaxis(entries, axis, -1).reshape(-1, entries.shape[axis])


def _entries(given: Channels, use: Use) -> tuple[np.ndarray, np.ndarray]:
    """Number and constant of the channel of each entry of one sample."""
    shape = _known(use.input_shapes[0][1:])
    if not shape:
        raise NotFollowed("adds an axis for them")
    along = [1] * len(shape)
    along[given.axis - 1] = -1
    ids, constant = given.ids.reshape(along), given.constant.reshape(along)
    return np.broadcast_to(ids, shape), np.broadcast_to(constant, shape)


def _known(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    sizes = tuple(size for size in shape if size is not None)
    if len(sizes) < len(shape):
        raise NotFollowed("has axes of unknown size")
    return sizes


#: By `kind_of`.
SHAPES: dict[str, Callable[[Use, Ledger], Channels]] = {
    **dict.fromkeys(
        """
        AveragePooling1D AveragePooling2D AveragePooling3D Cropping1D
        Cropping2D Cropping3D MaxPooling1D MaxPooling2D MaxPooling3D
        UpSampling1D UpSampling2D UpSampling3D
        """.split(),
        _keep,
    ),
    **dict.fromkeys(["ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"], _pad),
    **dict.fromkeys(
        """
        GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D
        GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
        """.split(),
        _pool_globally,
    ),
    **dict.fromkeys(
        "ops.Amax ops.Amin ops.Max ops.Mean ops.Min ops.Sum".split(), _reduce
    ),
    "Flatten": _flatten,
    "Permute": _permute,
    "RepeatVector": _repeat,
    "Reshape": _reshape,
    "ops.ExpandDims": _expand,
    "ops.Squeeze": _squeeze,
    "ops.Transpose": _transpose,
}
