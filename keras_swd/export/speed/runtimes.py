"""What a runtime does with the zeros of one layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_swd.backend.host import read
from keras_swd.export.speed.clusters import Cluster
from keras_swd.export.speed.sparse_operators import CONVOLUTIONS, RULES
from keras_swd.export.tflite.modes import find_mode
from keras_swd.export.tflite.signature import to_numpy
from keras_swd.units.kernels import is_kernel

TARGETS = ("x86", "arm", "wasm", "microcontroller")

#: Time of a Dense layer stored in blocks of (4, 1) over its time stored dense,
#: by the share of zeros: the smallest and the largest of the shapes that
#: benchmarks/blocks.py measures on x86.
MEASURED = {
    0.7: (1.20, 1.50),
    0.8: (0.81, 1.14),
    0.9: (0.36, 0.94),
    0.95: (0.18, 0.52),
}
#: Entries of the smallest of these. Smaller ones gain less.
LEAST = 256 * 256

SHRINK = "Shrink the model: fewer channels are faster everywhere."
BLOCKS = "Prune it with `granularity=Block((4, 1))` to 90 % or more."

_GRAPH = "XNNPACK src/subgraph.c"
_PROCESSOR = "XNNPACK src/xnnpack/hardware-config.h"
_SPARSE_DENSE = "LiteRT tflite/kernels/fully_connected.cc"
_CONVERTER = "LiteRT tflite/converter/transforms/dense_to_sparse_pass.cc"
_DELEGATE = "LiteRT tflite/delegates/xnnpack/README.md"
_MICRO = "TFLite Micro tensorflow/lite/micro/micro_mutable_op_resolver.h"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What the zeros of a layer do to its time, and why.

    Args:
        verdict: String, `"faster"`, `"same"` or `"slower"`.
        reason: String, a sentence.
        source: String, where the runtime says so.
        remedy: String or `None`, a sentence. Defaults to `None`.
        measured: Tuple of two floats or `None`. Defaults to `None`.
    """

    verdict: str
    reason: str
    source: str
    remedy: str | None = None
    measured: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a model is to run, and how it is stored.

    Args:
        target: String, one of `TARGETS`.
        quantization: String or `None`, as in `to_tflite`.
        clusters: List of `Cluster`, or `None` for a model whose graph cannot
            be followed.
    """

    target: str
    quantization: str | None
    clusters: list[Cluster] | None

    @property
    def in_floats(self) -> bool:
        """Whether the runtime computes with floats."""
        return not find_mode(self.quantization).integers

    @property
    def takes_clusters(self) -> bool:
        """Whether XNNPACK runs clusters sparse here."""
        return self.target in ("arm", "wasm") and self.in_floats

    def clusters_that_count(self) -> list[Cluster]:
        """Those that could run sparse here, if nothing were in the way."""
        found = self.clusters if self.takes_clusters else None
        return [cluster for cluster in found or () if cluster.pointwise]

    def runs_sparse(self, layer: Any) -> bool:
        """Whether XNNPACK skips the zeros of a layer here."""
        return any(
            part is layer
            for cluster in self.clusters_that_count()
            for part in cluster.pointwise
            if not cluster.obstacles
        )


def find_out(layer: Any, placement: Placement) -> Finding:
    """Finds what the zeros of a layer do to its time.

    Args:
        layer: Built Keras layer with kernels.
        placement: `Placement`.

    Returns:
        `Finding`.

    Example:

    >>> layer = keras.layers.Dense(8)
    >>> layer.build((None, 8))
    >>> print(find_out(layer, Placement("x86", None, [])).reason)
    It has no zeros.
    """
    if all(np.all(kernel) for kernel in kernels(layer)):
        return Finding("same", "It has no zeros.", _CONVERTER, None)
    if placement.target == "microcontroller":
        return Finding(
            "same",
            "TFLite Micro has no DENSIFY operator and no sparse kernel, so "
            "only a dense file runs.",
            _MICRO,
            SHRINK,
        )
    if placement.runs_sparse(layer):
        return Finding(
            "faster",
            "XNNPACK has a sparse kernel for it, in a graph that fits (not "
            f"measured on {placement.target}).",
            f"{_GRAPH}: xnn_subgraph_rewrite_for_nchw",
        )
    if type(layer) is keras.layers.Dense:
        return _dense(to_numpy(layer.kernel), placement)
    if _is_pointwise(layer):
        return _pointwise(layer, placement)
    reason = f"LiteRT has no sparse kernel for {type(layer).__name__}."
    if type(layer) in CONVOLUTIONS:
        reason = "Of convolutions, only those of 1×1 have a sparse kernel."
    return Finding("same", reason, _DELEGATE, SHRINK)


def kernels(layer: Any) -> list[np.ndarray]:
    """The values of a layer's kernels."""
    return [read(weight) for weight in layer.weights if is_kernel(weight)]


def _is_pointwise(layer: Any) -> bool:
    separable = type(layer) is keras.layers.SeparableConv2D
    plain = type(layer) is keras.layers.Conv2D
    return separable or (plain and layer.kernel_size == (1, 1))


def _dense(kernel: np.ndarray, placement: Placement) -> Finding:
    if placement.quantization is not None:
        return _quantized_dense(placement.quantization)
    zeros = float(np.mean(kernel == 0))
    if zeros < 0.3:
        return Finding(
            "same",
            "Less than 30 % of it are zero, so the converter stores it dense.",
            _CONVERTER,
            BLOCKS,
        )
    tiled = len(kernel) % 4 == 0
    stored = share_in_blocks(kernel) if tiled else 0.0
    if stored <= 0.9 * zeros:
        return Finding(
            "same",
            "Its zeros do not come in blocks of 4 along the input axis, so "
            "LiteRT puts them back when it loads the file.",
            _CONVERTER,
            BLOCKS if tiled else SHRINK,
        )
    return _blocks(stored, kernel.size, placement.target)


def share_in_blocks(kernel: np.ndarray, size: int = 4) -> float:
    """The share of a kernel's entries in blocks that are zero throughout.

    Args:
        kernel: Array of shape `(inputs, units)`; `inputs` is a multiple of
            `size`.
        size: Integer, the length of a block, along the input axis. Defaults
            to `4`.

    Returns:
        Float in [0, 1].
    """
    blocks = kernel.reshape(-1, size, kernel.shape[1])
    return 1.0 - float(np.mean(np.any(blocks, axis=1)))


def _blocks(zeros: float, size: int, target: str) -> Finding:
    """What the sparse kernel for blocks makes of this share of zeros."""
    nearest = min(MEASURED, key=lambda share: abs(share - zeros))
    least, most = MEASURED[nearest]
    verdict = "faster" if most < 1 else "slower" if least > 1 else "same"
    reason = "LiteRT has a sparse kernel for blocks of (4, 1)"
    reason += {
        "faster": ", and this many zeros are worth it",
        "same": "; with this many zeros it depends on the shape what is faster",
        "slower": "; with this few zeros it is slower than the dense one",
    }[verdict]
    if target != "x86":
        reason += f" (measured on x86, not on {target})"
    elif size < LEAST:
        reason += " (measured in layers of 256×256 and more)"
    return Finding(
        verdict,
        f"{reason}.",
        _SPARSE_DENSE,
        None
        if verdict == "faster"
        else "Prune to 90 % or more, or write the file with `sparse=False`.",
        MEASURED[nearest] if target == "x86" and size >= LEAST else None,
    )


def _quantized_dense(mode: str) -> Finding:
    reasons = {
        "float16": "LiteRT's sparse kernel takes float32 only.",
        "dynamic": "Sparse files with dynamic range quantization do not load, "
        "or compute something else.",
        "int8": "LiteRT's sparse int8 kernel, for blocks of (16, 1), is "
        "slower than the dense one.",
        "int16x8": "LiteRT has no sparse kernel for 16-bit activations.",
    }
    return Finding("same", reasons[mode], _SPARSE_DENSE, SHRINK)


def _pointwise(layer: Any, placement: Placement) -> Finding:
    if not placement.in_floats:
        return Finding(
            "same",
            "XNNPACK's sparse kernels compute in floating point, not in "
            f"{placement.quantization}.",
            f"{_GRAPH}: all_values_fp",
            SHRINK,
        )
    if placement.target == "x86":
        return Finding(
            "same",
            "XNNPACK uses no sparse kernel on a processor with AVX, where it "
            "expects the dense one to be faster.",
            f"{_PROCESSOR}: xnn_is_chw_compatible_config",
            SHRINK,
        )
    if placement.clusters is None:
        return Finding(
            "same",
            "The graph of a model with code of its own cannot be followed.",
            f"{_GRAPH}: xnn_subgraph_rewrite_for_nchw",
            "Build it with `keras.Model(inputs, outputs)` to know more.",
        )
    own = [c for c in placement.clusters if any(x is layer for x in c.layers)]
    if own:
        return Finding(
            "same",
            "A layer that does not fit stands between the image and the mean.",
            RULES,
            "See what is in the way.",
        )
    return Finding(
        "same",
        "XNNPACK computes sparse only what leads to a mean over an image.",
        _DELEGATE,
        "End the convolutions with GlobalAveragePooling2D.",
    )
