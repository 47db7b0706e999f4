"""The bytes of a TFLite file as a target."""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras
import numpy as np

from keras_swd.arguments import check_count
from keras_swd.export.sizes.kind import FileKind, Predictor
from keras_swd.export.sizes.trial import excess
from keras_swd.targets.limits import SizeLimit

#: Share of the bytes that is left free, since sizes are predicted to about 2
#: percent.
MARGIN = 0.02


@keras.saving.register_keras_serializable("keras_swd")
class TFLiteBytes(SizeLimit):
    """How large the exported TFLite file may be, in bytes.

    `PruningScheduler(sparsity=...)` takes it in place of a share: as many
    weights go as make the file that `export.to_tflite` will write small
    enough, and no more. The size is predicted as `export.plan_sizes` predicts
    it, at the start of `fit` and whenever the scheduler decides anew how many
    weights each kernel gives up. On TensorFlow the model is converted before,
    two times or a few more, which takes seconds, to learn by how much that is
    wrong; 2 percent are left free for what cannot be predicted. On other
    backends a model of layers that `plan_sizes` does not name may become
    larger.

    A float32 file is smaller by its zeros as `to_tflite` writes it. An int8
    file stores them, so it has such a target after gzip alone; pass
    `sparse=False` to `to_tflite` where gzip counts, as gzip leaves zeros out
    better by itself.

    Args:
        bytes: Integer, the most that the file may have.
        quantization: `None` for float32, or `"int8"`, as in `to_tflite`.
            Defaults to `None`.
        gzip: Boolean, whether the bytes after gzip count, as for a download,
            at gzip's usual level 6. Defaults to `False`.

    Raises:
        ValueError: If an argument does not fit, or zeros would not make such
            a file smaller; at the start of `fit`, if no share of zeros does,
            or the file has to store them.

    Example:

    >>> TFLiteBytes(20_000, quantization="int8", gzip=True)
    TFLiteBytes(bytes=20000, quantization='int8', gzip=True)
    """

    def __init__(
        self,
        bytes: int,
        quantization: str | None = None,
        gzip: bool = False,
    ):
        self.bytes = check_count("bytes", bytes)
        self.kind = FileKind(quantization, gzip)

    @property
    def limit(self) -> float:
        """The most bytes that may be predicted."""
        return (1.0 - MARGIN) * self.bytes

    def measure(self, model: keras.Model) -> Predictor:
        """Returns a function from the kernels' values to the bytes."""
        return self.kind.predictor(model)

    def excess(
        self, model: keras.Model, values: Mapping[int, np.ndarray]
    ) -> int:
        """Returns how many bytes more the file has than is predicted."""
        return excess(self.kind, model, values)

    def remedy(self, smallest: int) -> str:
        """Returns what to do if no file has less than `smallest` bytes."""
        ways = [f"Ask for {math.ceil(smallest / (1.0 - MARGIN)):,} or more"]
        if self.kind.quantization is None:
            ways.append("pass `quantization='int8', gzip=True`")
        ways.append(
            "give the regularizer to more layers, or take a model with fewer "
            "channels, as `keras_swd.shrink` makes them"
        )
        return (
            f"With nearly all prunable weights zero, the {self.kind.name} "
            f"would have {smallest:,} bytes. {'; '.join(ways)}."
        )

    def get_config(self) -> dict:
        """Returns the constructor's arguments."""
        return {
            "bytes": self.bytes,
            "quantization": self.kind.quantization,
            "gzip": self.kind.gzip,
        }
