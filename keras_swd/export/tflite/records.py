"""What an export tells its user: a record when it worked, an error when not."""

from __future__ import annotations

import dataclasses
import gzip
import math
import re

from keras_swd.export.tflite.modes import find_mode
from keras_swd.record import WIDTH, Record


class ExportError(RuntimeError):
    """A file could not be made, or does not compute what the model computes.

    Args:
        message: String, the reason, and the nearest thing that works.
        difference: Float or `None`, the largest difference seen between file
            and model, relative to the largest output. Defaults to `None`,
            which means that no outputs could be compared.
    """

    def __init__(self, message: str, difference: float | None = None):
        super().__init__(message)
        self.difference = difference


@dataclasses.dataclass(frozen=True)
class OutputCheck:
    """How far one output of a file is from the same output of Keras.

    Of the two interpreters that ran the file, the worse one counts.

    Args:
        name: String, the output's name in the file's signature.
        max_absolute_difference: Float.
        max_relative_difference: Float, the same, divided by the largest
            magnitude of this output in Keras.
        rms_relative_difference: Float, the root mean square of the
            differences, divided by that of this output in Keras.
        top1_agreement: Float in [0, 1], or `None` for an output that has less
            than two axes or a last axis of one: the share of positions whose
            largest entry along the last axis is the same one.
    """

    name: str
    max_absolute_difference: float
    max_relative_difference: float
    rms_relative_difference: float
    top1_agreement: float | None


@dataclasses.dataclass(frozen=True)
class StoredKernel:
    """A kernel of the model, and the tensor of the file that holds it.

    Args:
        path: String, the kernel's path in the model.
        shape: Tuple of integers, its shape there.
        model_zeros: Integer, how many of its entries are zero there.
        tensor: String or `None`, the name of the tensor. It is `None` for a
            kernel that is not in the file as one tensor: it was cut into
            several, or computed away.
        dtype: String or `None`, how the tensor is stored, e.g. `"int8"`.
        sparse: Boolean or `None`, whether zeros were left out of it.
        zeros: Integer or `None`, how many of its entries are zero. That may
            be more than in the model, as small values are rounded to zero.
    """

    path: str
    shape: tuple[int, ...]
    model_zeros: int
    tensor: str | None
    dtype: str | None
    sparse: bool | None
    zeros: int | None

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class TFLiteVariant:
    """One of the files that were tried.

    Args:
        sparse: Boolean, whether zeros were left out of the stored weights.
        bytes: Integer or `None`, the file's size, if it could be converted.
        gzip_bytes: Integer or `None`, its size after gzip.
        refused: String or `None`, why this variant was not written.
    """

    sparse: bool
    bytes: int | None
    gzip_bytes: int | None
    refused: str | None = None

    @property
    def name(self) -> str:
        """`"sparse"` or `"dense"`."""
        return "sparse" if self.sparse else "dense"


@dataclasses.dataclass(frozen=True)
class TFLiteCheck(Record):
    """A TFLite file that agreed with a Keras model, and what it holds.

    "Weights" are, in the file and in the model alike, tensors with two axes
    or more, float or quantized: kernels and embeddings, no biases. An entry of
    a quantized tensor is zero where it equals the zero point. The two counts
    of weights can differ: a kernel that the model uses in two ways may stand
    twice in the file, and constants (the first state of a recurrent layer)
    count there.

    Of the two runs, with LiteRT's default delegates and without any, the worse
    one counts.

    Args:
        path: String, the file.
        quantization: String or `None`, the mode it was written in.
        bytes: Integer, its size.
        gzip_bytes: Integer, its size after gzip, as for a download.
        samples: Integer, how many samples were compared.
        tolerance: Float, the relative difference that was allowed.
        max_absolute_difference: Float, over all outputs.
        max_relative_difference: Float, over all outputs, each relative to
            its largest magnitude.
        rms_relative_difference: Float, the largest over all outputs of the
            root mean square of the differences, relative to that of the
            output.
        delegate_difference: Float, the difference between the two runs,
            measured as `difference` is.
        top1_agreement: Float in [0, 1] or `None`: the lowest of the outputs.
        outputs: Tuple of `OutputCheck`, in the order of the Keras outputs.
        inputs: Tuple of strings, the names of the file's inputs, in the
            order of the Keras inputs.
        batch_size: Integer, or `None` for a file that takes any.
        batch_resizes: Boolean, whether the file also ran with more samples
            at once than it allocates by itself.
        weights: Integer, number of weights in the file.
        zeros: Integer, how many of them are zero.
        model_weights: Integer, number of weights in the Keras model.
        model_zeros: Integer, how many of them are zero.
        kernels: Tuple of `StoredKernel`, each weight of the model.
        sparse_tensors: Tuple of strings, the tensors stored without their
            zeros.
        operators: Dictionary from the name of an operator to its count.
        densify: Tuple of strings, the nodes that expand a sparse tensor when
            the file is loaded, each by operator and output.
        flex: Tuple of strings, the nodes that need TensorFlow itself.
        fallback: Tuple of strings, the nodes that compute in float although
            the file computes with integers.
    """

    path: str
    quantization: str | None
    bytes: int
    gzip_bytes: int
    samples: int
    tolerance: float
    max_absolute_difference: float
    max_relative_difference: float
    rms_relative_difference: float
    delegate_difference: float
    top1_agreement: float | None
    outputs: tuple[OutputCheck, ...]
    inputs: tuple[str, ...]
    batch_size: int | None
    batch_resizes: bool
    weights: int
    zeros: int
    model_weights: int
    model_zeros: int
    kernels: tuple[StoredKernel, ...]
    sparse_tensors: tuple[str, ...]
    operators: dict[str, int]
    densify: tuple[str, ...]
    flex: tuple[str, ...]
    fallback: tuple[str, ...]

    @property
    def difference(self) -> float:
        """The difference that the tolerance bounds.

        The root mean square for a file that computes with integers, else the
        largest one.
        """
        return find_mode(self.quantization).difference(self)

    @property
    def densify_operators(self) -> int:
        """Number of operators that expand a sparse tensor when loaded."""
        return len(self.densify)

    def table(self, width: int = WIDTH) -> str:
        """Returns the record as lines of text, which are not cut."""
        del width
        rows = [("file", f"{self.path}"), *self._rows()]
        longest = max(len(label) for label, _ in rows)
        return "\n".join(f"{label:<{longest}}  {text}" for label, text in rows)

    def _rows(self) -> list[tuple[str, str]]:
        agreement = (
            f"{self.difference:.1e} of the {find_mode(self.quantization).scale}"
            f" (tolerance {self.tolerance:.1e}), {self.samples} samples"
        )
        rows = [
            ("size", _size(self.bytes, self.gzip_bytes)),
            ("quantization", self.quantization or "none"),
            ("difference", agreement),
        ]
        if self.top1_agreement is not None:
            rows.append(("same top-1", f"{self.top1_agreement:.2%}"))
        if self.batch_size is not None:
            rows.append(("batch size", f"{self.batch_size}, fixed"))
        elif not self.batch_resizes:
            rows.append(("batch size", "runs one sample at a time only"))
        rows.append(
            (
                "zeros",
                f"{self.zeros:,} of {self.weights:,} weights "
                f"(Keras: {self.model_zeros:,} of {self.model_weights:,})",
            )
        )
        rows.append(
            (
                "stored sparse",
                f"{_counted(len(self.sparse_tensors), 'tensor')}, "
                f"{_counted(self.densify_operators, 'DENSIFY operator')}",
            )
        )
        operators = (f"{n} {name}" for name, n in self.operators.items())
        rows.append(("operators", ", ".join(operators)))
        if self.flex:
            rows.append(("need TensorFlow", ", ".join(self.flex)))
        if self.fallback:
            rows.append(("computed in float", ", ".join(self.fallback)))
        return rows


@dataclasses.dataclass(frozen=True)
class TFLiteReport(TFLiteCheck):
    """What `to_tflite` wrote: the checks of the file and the other variants.

    Args:
        sparse: Boolean, whether the sparse variant was written.
        variants: Tuple of `TFLiteVariant`, all that were tried, with sizes
            and, for those not written, the reason.
    """

    sparse: bool
    variants: tuple[TFLiteVariant, ...]

    def _rows(self) -> list[tuple[str, str]]:
        rows = super()._rows()
        for variant in self.variants:
            size = _size(variant.bytes, variant.gzip_bytes)
            verdict = variant.refused or "written"
            rows.append((variant.name, f"{size}: {verdict}"))
        return rows


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def brief(error: Exception) -> str:
    """The first words of an exception whose text may fill pages."""
    plain = re.sub(r"\x1b\[\d*m", "", str(error))
    # Keras tells the cause after all that it was about.
    plain = plain.rpartition("Exception encountered:")[2] or plain
    words = " ".join(plain.split())
    return words if len(words) <= 300 else f"{words[:300]} ..."


def gzip_size(content: bytes) -> int:
    """Number of bytes after gzip at its usual level."""
    return len(gzip.compress(content, compresslevel=6, mtime=0))


def _size(size: int | None, gzip_size: int | None) -> str:
    if size is None or gzip_size is None:
        return "no file"
    return f"{size / 1024:,.1f} KiB ({gzip_size / 1024:,.1f} KiB after gzip)"
