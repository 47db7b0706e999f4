"""Which file a model becomes, and how many bytes that will have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import keras
import numpy as np

from keras_swd.export.sizes.prediction import lay_out
from keras_swd.export.sizes.skeleton import Skeleton, read_skeleton


@dataclasses.dataclass(frozen=True)
class FileKind:
    """A kind of TFLite file that zeros make smaller.

    Where the bytes after gzip count, it is the file that `to_tflite` writes
    with `sparse=False`: gzip leaves zeros out better than a sparse format, and
    TensorFlow Lite runs it in either type. Else it is the float32 file that
    `sparse="auto"` writes.

    Args:
        quantization: `None` or `"int8"`, as in `to_tflite`.
        gzip: Boolean, whether the size after gzip counts.

    Raises:
        ValueError: If an argument does not fit, or zeros would not count.

    Example:

    >>> FileKind("int8", gzip=True).name
    'int8 file after gzip'
    """

    quantization: str | None
    gzip: bool

    def __post_init__(self):
        if self.quantization not in (None, "int8"):
            raise ValueError(
                "Argument `quantization` must be None or 'int8', the files "
                "whose size is predicted. "
                f"Received: quantization={self.quantization!r}."
            )
        if not isinstance(self.gzip, bool):
            raise ValueError(
                "Argument `gzip` must be True or False. "
                f"Received: gzip={self.gzip!r}."
            )
        if self.quantization == "int8" and not self.gzip:
            raise ValueError(
                "An int8 file stores every zero, so pruning single weights "
                "does not make it smaller. Pass `gzip=True` for its size "
                "after gzip, or `quantization=None` for a float32 file, which "
                "leaves zeros out; or cut channels, with "
                "`keras_swd.Parameters(left=...)` and `keras_swd.shrink`. "
                "Received: quantization='int8', gzip=False."
            )

    @property
    def dtype(self) -> str:
        """The type in which kernels are stored."""
        return self.quantization or "float32"

    @property
    def name(self) -> str:
        """The kind in words."""
        return f"{self.dtype} file" + (" after gzip" if self.gzip else "")

    def predictor(self, model: keras.Model) -> Predictor:
        """Returns what predicts the bytes of a model's file.

        Args:
            model: Built Keras model, on any backend.

        Returns:
            `Predictor`.

        Raises:
            ValueError: If a layer with weights is none of Keras' own.
        """
        return Predictor(self, read_skeleton(model))


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Predicts the bytes of one model's file.

    Args:
        kind: `FileKind`.
        skeleton: `Skeleton` of the model.
    """

    kind: FileKind
    skeleton: Skeleton

    def __call__(self, values: Mapping[int, np.ndarray]) -> int:
        """Returns the bytes of the file if kernels had other values.

        Args:
            values: From the `id` of a variable to the values of the kernel;
                others are taken as they are.

        Returns:
            Integer, after gzip where that counts.
        """
        dtype = self.kind.dtype
        plain = lay_out(self.skeleton, values, dtype, "plain")
        if self.kind.gzip:
            return plain.gzip_bytes
        sparse = lay_out(self.skeleton, values, dtype, "sparse")
        return min(plain.bytes, sparse.bytes)
