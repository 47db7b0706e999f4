"""The callback that writes down what happens in a run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_swd.backend.host import read
from keras_swd.callbacks.floor_scheduler import FloorScheduler
from keras_swd.callbacks.pruning_scheduler import PruningScheduler
from keras_swd.models import is_built
from keras_swd.regularizers.base import pruning_regularizer
from keras_swd.report.sparsity import sparsity_report
from keras_swd.summaries.events import EventFile
from keras_swd.summaries.history import (
    FILE,
    Epoch,
    KernelState,
    RunRecord,
    kernel_state,
    read_record,
)
from keras_swd.summaries.settings import parameters, run_settings


class PruningSummaries(keras.callbacks.Callback):
    """Writes down a run: for TensorBoard, and for `keras-swd report`.

    At the end of each epoch it writes all numbers of `logs` (with a
    `PruningScheduler` these are `sparsity`, `swd_strength`, `swd_threshold`,
    `swd_residual` and, with `monitor_data`, `accuracy_if_removed`), and of
    each regularized kernel the share of its entries that is removed, or would
    be now, and how its magnitudes are spread. The folder then holds:

    - `pruning.json`: all of it, and the settings of the run, written whole or
      not at all. `keras-swd report` makes a page of it.
    - `tensorboard`: event files. `tensorboard --logdir DIR` shows them.

    A run that is resumed with `initial_epoch` or `BackupAndRestore` goes on
    with the record; epochs that are trained again replace those of before. A
    run that begins with the first epoch begins a new record.

    Place this callback after the scheduler, and after those that add to
    `logs`.

    Args:
        log_dir: String or path, the folder of this run. It is made if need be.
        scheduler: The `PruningScheduler` or `FloorScheduler` of the run.
            `None` for a run without pruning. Defaults to `None`.
        settings: Dictionary of plain values that belong to the record, as the
            seed. Defaults to `None`, nothing.

    Raises:
        ValueError: If an argument does not fit; at the start of `fit`, if the
            scheduler is none of its callbacks, or a run to be resumed was of
            another model.

    Example:

    >>> pruning = keras_swd.PruningScheduler(sparsity=0.95)
    >>> summaries = PruningSummaries("runs/1", pruning, settings={"seed": 1})
    >>> callbacks = [pruning, summaries]
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        scheduler: PruningScheduler | FloorScheduler | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.log_dir = Path(log_dir)
        self.scheduler = scheduler
        if not isinstance(scheduler, PruningScheduler | FloorScheduler | None):
            raise ValueError(
                "Argument `scheduler` must be the keras_swd.PruningScheduler "
                "or keras_swd.FloorScheduler of the run, or None. "
                f"Received: scheduler={scheduler!r}."
            )
        try:
            self.settings = dict(settings or {})
            json.dumps(self.settings, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "Argument `settings` must be a dictionary of plain values "
                "that JSON takes: finite numbers, strings, lists and "
                f"dictionaries. Received: settings={settings!r}."
            ) from error

    def on_train_begin(self, logs=None):
        """Makes the folder."""
        self._begun = False
        self._record: RunRecord
        self._events: EventFile
        self._run_settings: dict[str, Any] = {}
        self._warned = False
        if self.log_dir.exists() and not self.log_dir.is_dir():
            raise ValueError(
                "Argument `log_dir` must name a folder, not a file. "
                f"Received: log_dir={str(self.log_dir)!r}."
            )
        if (
            self.scheduler is not None
            and self.scheduler.params is not self.params
        ):
            raise ValueError(
                "Argument `scheduler` must be one of the callbacks of this "
                "`fit`: callbacks=[scheduler, keras_swd.PruningSummaries("
                "log_dir, scheduler)]. Received: "
                f"scheduler={type(self.scheduler).__name__}, not one of them. "
                "A loop of your own passes the same dictionary to `set_params` "
                "of both."
            )
        self.log_dir.mkdir(parents=True, exist_ok=True)

    def on_epoch_begin(self, epoch, logs=None):
        """Begins a record with the first epoch, or goes on with one."""
        if self._begun:
            return
        self._record = RunRecord()
        if epoch > 0 and (self.log_dir / FILE).exists():
            self._record = read_record(self.log_dir).until(epoch)
            self._check_same_model()
        self._events = EventFile(self.log_dir, epoch)
        self._begun = True

    def on_epoch_end(self, epoch, logs=None):
        """Adds the epoch to the record and to the event file."""
        logs = logs or {}
        self._warn_of_order(logs)
        added = Epoch(epoch, _numbers(logs), self._kernels())
        self._run_settings = self._run_settings or run_settings(
            self.model, self.scheduler, self.params, self.settings
        )
        self._record = RunRecord(
            self._run_settings, (*self._record.epochs, added)
        )
        self._record.write(self.log_dir)
        self._events.write(added)

    def on_train_end(self, logs=None):
        """Adds what became of the model."""
        if not self._begun:
            return
        self._events.close()
        end = sparsity_report(self.model).to_dict()
        self._record = dataclasses.replace(self._record, end=end)
        self._record.write(self.log_dir)

    def _kernels(self) -> tuple[KernelState, ...]:
        """The kernels that carry a regularizer, as they are now."""
        if self.scheduler is None:
            return ()
        _ = self.model  # on JAX this brings variables up to date
        return tuple(
            kernel_state(variable.path, read(variable), mask)
            for variable, mask in self.scheduler.masks()
            if pruning_regularizer(variable) is not None
        )

    def _check_same_model(self) -> None:
        """Raises if the record that goes on is that of another model."""
        before = self._record.settings.get("parameters")
        now = parameters(self.model)
        if not is_built(self.model) or before in (None, now):
            return
        raise ValueError(
            f"Argument `log_dir` holds the record of a model of {before:,} "
            f"parameters, this one has {now:,}. Pass the folder of the run "
            "that is resumed, or a new one. "
            f"Received: log_dir={str(self.log_dir)!r}."
        )

    def _warn_of_order(self, logs: Mapping[str, Any]) -> None:
        if self.scheduler is None or "sparsity" in logs or self._warned:
            return
        self._warned = True
        warnings.warn(
            "`PruningSummaries` comes before its scheduler, so the record "
            "lacks what the scheduler logs, and shows the model before the "
            "last removal. Pass callbacks=[scheduler, summaries].",
            stacklevel=2,
        )


def _numbers(logs: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of `logs`, those that are not finite as None."""
    numbers = {}
    for name, value in logs.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue  # a metric of several numbers
        numbers[name] = number if math.isfinite(number) else None
    return numbers
