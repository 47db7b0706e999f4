"""The record of a run: its settings, and what was measured in each epoch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_swd.files import write_whole
from keras_swd.report.magnitudes import count_magnitudes

#: The name of a record's file.
FILE = "pruning.json"
#: The parts of `RunRecord.settings`.
SETTINGS = (
    "model",
    "parameters",
    "epochs",
    "steps_per_epoch",
    "optimizer",
    "scheduler",
    "regularizers",
    "given",
    "versions",
)


@dataclasses.dataclass(frozen=True)
class KernelState:
    """One kernel at the end of an epoch.

    Args:
        path: String, the variable's path in its model.
        shape: Tuple of integers.
        sparsity: Float in [0, 1], the share of its entries that is removed,
            or would be now.
        zeros: Integer, how many of its entries are zero.
        first: Integer, the lowest bin of `count_magnitudes` that holds any.
        counts: Tuple of integers, what this bin and the next ones hold.
    """

    path: str
    shape: tuple[int, ...]
    sparsity: float
    zeros: int
    first: int
    counts: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


def kernel_state(path: str, values: np.ndarray, mask: np.ndarray):
    """Returns the `KernelState` of a kernel.

    Args:
        path: String, the variable's path.
        values: Float array.
        mask: Boolean array of its shape, False for what is removed.

    Example:

    >>> state = kernel_state("kernel", np.array([0.0, 1.0]), np.eye(2)[0] < 1)
    >>> state.sparsity, state.zeros, state.first, state.counts
    (0.5, 1, 96, (1,))
    """
    counts = np.array(count_magnitudes(values))
    used = np.flatnonzero(counts)
    first, end = (used[0], used[-1] + 1) if used.size else (0, 0)
    return KernelState(
        path=path,
        shape=tuple(values.shape),
        sparsity=1.0 - float(np.count_nonzero(mask)) / mask.size,
        zeros=int(np.count_nonzero(values == 0.0)),
        first=int(first),
        counts=tuple(counts[first:end].tolist()),
    )


@dataclasses.dataclass(frozen=True)
class Epoch:
    """What was measured at the end of an epoch.

    Args:
        epoch: Integer, from 0.
        logs: Dictionary of floats, what `fit` logged; `None` for NaN and
            infinity, which JSON does not have.
        kernels: Tuple of `KernelState`.
    """

    epoch: int
    logs: dict[str, float | None]
    kernels: tuple[KernelState, ...]


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The record of a run.

    Args:
        settings: Dictionary of plain values, what the run went by; see
            `run_settings`.
        epochs: Tuple of `Epoch`, in ascending order. Defaults to `()`.
        end: Dictionary, `SparsityReport.to_dict()` of the model when the run
            ended; `None` of one that did not. Defaults to `None`.
    """

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    end: dict[str, Any] | None = None

    def until(self, epoch: int) -> RunRecord:
        """Returns the record of the epochs before `epoch`."""
        kept = tuple(e for e in self.epochs if e.epoch < epoch)
        return RunRecord(self.settings, kept)

    def write(self, folder: Path) -> None:
        """Writes it into a folder, whole or not at all."""
        text = json.dumps(self, default=vars, allow_nan=False)
        write_whole(folder / FILE, f"{text}\n".encode())


def read_record(folder: str | os.PathLike[str]) -> RunRecord:
    """Returns the record of a run.

    Args:
        folder: String or path, the `log_dir` of a `PruningSummaries`.

    Returns:
        `RunRecord`.

    Raises:
        ValueError: If the folder holds none.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no {FILE}, the record of a run. Train with the "
            f"callback keras_swd.PruningSummaries({str(folder)!r}, scheduler)."
        )
    try:
        content = json.loads(path.read_text("utf-8"))
        settings = {name: content["settings"][name] for name in SETTINGS}
        epochs = tuple(map(_epoch, content["epochs"]))
        epochs[-1]  # a record is first written when an epoch has ended
        return RunRecord(settings, epochs, content["end"])
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no record of a run. Delete it, or use another folder. "
            f"Cause: {error!r}"
        ) from error


def _epoch(content: dict[str, Any]) -> Epoch:
    kernels = (
        KernelState(
            **kernel
            | {
                "shape": tuple(kernel["shape"]),
                "counts": tuple(kernel["counts"]),
            }
        )
        for kernel in content["kernels"]
    )
    return Epoch(content["epoch"], dict(content["logs"]), tuple(kernels))
