"""Are the zeros of a model's kernels zeros in its file too?"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from keras_swd.export.tflite import signature
from keras_swd.export.tflite.flatbuffer import StoredTensor
from keras_swd.export.tflite.records import ExportError, StoredKernel
from keras_swd.models import all_layers
from keras_swd.record import distinct
from keras_swd.regularizers.base import is_adaptation
from keras_swd.units.kernels import is_kernel

#: How many parts Keras cuts the kernels of recurrent layers into.
GATES = (4, 3, 2)


def kernels_of(model: Any) -> dict[str, np.ndarray]:
    """Finds the kernels of a model that are of floating point.

    Args:
        model: Keras or tf_keras model.

    Returns:
        Dictionary from a kernel's path to a Boolean array: where it is zero.
        Paths that several kernels share are numbered.
    """
    kernels = [
        weight
        for weight in model.weights
        if is_kernel(weight)
        and not is_adaptation(weight)
        and "float" in str(weight.dtype)
    ]
    adapted = _adapted(model)
    paths = distinct(map(signature.weight_path, kernels))
    return {
        path: signature.to_numpy(adapted.get(id(kernel), kernel)) == 0
        for path, kernel in zip(paths, kernels, strict=True)
    }


def _adapted(model: Any) -> dict[int, Any]:
    """What layers compute with instead of a kernel that LoRA adapts.

    Args:
        model: Keras or tf_keras model.

    Returns:
        Dictionary from the `id` of the kernel to a tensor, the kernel with
        what was learned on top of it.
    """
    return {
        id(getattr(layer, f"_{name}")): getattr(layer, name)
        for layer in all_layers(model)
        if getattr(layer, "lora_enabled", False)
        for name in ("kernel", "embeddings")
        if hasattr(layer, f"_{name}")
    }


def find_kernels(
    kernels: dict[str, np.ndarray], tensors: Iterable[StoredTensor]
) -> tuple[StoredKernel, ...]:
    """Finds the kernels of a model among the tensors of its file.

    The file has no names that would tell, transposes kernels, and scales them
    by what follows. What stays is where the zeros are.

    Args:
        kernels: Dictionary from a kernel's path to where it is zero.
        tensors: Iterable of `StoredTensor`.

    Returns:
        Tuple of `StoredKernel`, in the order of `kernels`.

    Raises:
        ExportError: If a kernel has lost zeros.

    Example:

    >>> zero = np.array([[True, True], [False, True]])
    >>> tensor = StoredTensor("w", (2, 2), "int8", False, 3, is_zero=zero.T)
    >>> find_kernels({"dense/kernel": zero}, [tensor])[0].tensor
    'w'
    """
    free = [tensor for tensor in tensors if tensor.is_weight]
    used: list[StoredTensor] = []
    found: dict[str, StoredTensor | None] = {}
    # The more zeros, the less likely it is that another tensor has them too.
    for path in sorted(kernels, key=lambda path: -int(kernels[path].sum())):
        zero = kernels[path]
        # Equal kernels are stored once.
        found[path] = tensor = _holding(zero, free) or _holding(zero, used)
        if tensor is not None:
            free = [other for other in free if other is not tensor]
            used.append(tensor)
    # What other kernels are stored in is not what one of these became.
    for path, tensor in found.items():
        if tensor is None:
            _check_not_lost(path, kernels[path], free)
    return tuple(
        _stored_kernel(path, zero, found[path])
        for path, zero in kernels.items()
    )


def _holding(
    zero: np.ndarray, tensors: list[StoredTensor]
) -> StoredTensor | None:
    """The first tensor that is zero at least where the kernel is."""
    for tensor in tensors:
        if tensor.size == zero.size and not _lost(zero, tensor):
            return tensor
    return None


def _check_not_lost(
    path: str, zero: np.ndarray, tensors: list[StoredTensor]
) -> None:
    """Refuses a file that has a kernel, but not all of its zeros."""
    lost = {
        _lost(zero, tensor): tensor
        for tensor in reversed(tensors)
        if tensor.size == zero.size
    }
    # A kernel of nothing but zeros may have been computed away, and one that
    # was cut into several tensors is none of these.
    if not lost or zero.all() or _is_cut_up(zero, tensors):
        return
    fewest = min(lost)
    raise ExportError(
        f"Kernel `{path}` has {int(zero.sum()):,} zeros, and {fewest:,} of "
        f"them are others in the file (tensor {lost[fewest].name!r})."
    )


def _is_cut_up(zero: np.ndarray, tensors: list[StoredTensor]) -> bool:
    """Whether some tensors hold parts of a kernel, as of a recurrent one."""
    columns = zero.shape[-1]
    cuts: list[Any] = [n for n in GATES if columns % n == 0]
    if columns % 3 == 0:
        cuts.append([columns // 3 * 2])  # a GRU's, with `reset_after=False`
    for cut in cuts:
        free = list(tensors)
        for part in np.split(zero, cut, axis=-1):
            tensor = _holding(part, free)
            if tensor is None:
                break
            free = [other for other in free if other is not tensor]
        else:
            return True
    return False


def _lost(zero: np.ndarray, tensor: StoredTensor) -> int:
    """How many zeros of a kernel a tensor of its size has not, at least."""
    if not zero.any():
        return 0
    held = np.asarray(tensor.is_zero).ravel()
    fewest = zero.size
    for layout in _layouts(zero):
        fewest = min(fewest, int(np.count_nonzero(layout & ~held)))
        if not fewest:
            break
    return fewest


def _layouts(zero: np.ndarray) -> Iterator[np.ndarray]:
    """A kernel in each order of axes, flat; the usual ones first."""
    axes = tuple(range(zero.ndim))
    # Dense and convolutions have the last axis first, depthwise ones and
    # embeddings none; attention has one axis or two behind. Transposed
    # convolutions and sums of products are stored in other orders.
    rolled = [axes[start:] + axes[:start] for start in reversed(axes)]
    every = itertools.permutations(axes)
    others = (order for order in every if order not in rolled)
    for order in itertools.chain(rolled, others):
        yield zero.transpose(order).ravel()


def _stored_kernel(
    path: str, zero: np.ndarray, tensor: StoredTensor | None
) -> StoredKernel:
    return StoredKernel(
        path=path,
        shape=tuple(zero.shape),
        model_zeros=int(zero.sum()),
        tensor=tensor.name if tensor else None,
        dtype=tensor.dtype if tensor else None,
        sparse=tensor.sparse if tensor else None,
        zeros=tensor.zeros if tensor else None,
    )
