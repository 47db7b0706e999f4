"""The callback that keeps the front of metric and size over a run."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swd.allocation import Allocation, check_allocation
from keras_swd.arguments import check_repeatable, check_sparsities
from keras_swd.export.sizes.kind import FileKind
from keras_swd.files import beside, put
from keras_swd.prunable import Prunable
from keras_swd.rebuilding.stripping import plain_copy
from keras_swd.removal import removed_for_a_moment
from keras_swd.tradeoffs.front import ParetoFront, ParetoPoint
from keras_swd.tradeoffs.metric import (
    check_compiled,
    check_mode,
    find_metric,
    measured,
)
from keras_swd.units.masking import Weight, all_finite

SPARSITIES = (0.5, 0.8, 0.9, 0.95)
#: The name of the file that tells the front.
FRONT = "front.json"


class ParetoCheckpoint(keras.callbacks.Callback):
    """Keeps each model of a run that no other beats in metric and size.

    At the end of each epoch, and for each of a few sparsities, it sets the
    lowest weights of the kernels that carry a pruning regularizer to zero,
    evaluates the model, predicts the bytes of the file that `export.to_tflite`
    would write, and gives the weights their values back. A model that is
    better than each one kept of its size or below is saved, and those that it
    beats are deleted. Sizes within 2 percent count as equal, for they are
    predicted no finer. So the folder holds the choice between small and good,
    whatever target the run itself pursues.

    Models are saved without any trace of this library or of the optimizer,
    zeros in place, ready to export; `compile` them to evaluate. `front.json`
    in the folder lists them; a run that finds it there goes on with it, so
    that a resumed run, or another one, adds to the same front. Weights that
    were removed before count as zeros.

    Args:
        folder: String or path; made if it does not exist.
        data: What to evaluate on: a tuple `(x, y)` or `(x, y,
            sample_weight)`, or a data set.
        sparsities: Iterable of floats in [0, 1), the shares of units to
            remove, each of which takes an evaluation at each epoch's end.
            Kernels whose regularizer has a target of its own keep to that.
            Defaults to `(0.5, 0.8, 0.9, 0.95)`.
        metric: String, the metric that counts. Defaults to `None`, the first
            that the model is compiled with, or else the loss, which counts
            without the penalties of regularizers.
        mode: `"max"` if more of it is better, `"min"` if less, `"auto"` for
            what Keras knows of it. Defaults to `"auto"`.
        quantization: `None` for a float32 file, or `"int8"`. Defaults to
            `None`.
        gzip: Boolean, whether the bytes after gzip count, as they must for
            int8. Defaults to `False`.
        allocation: An `Allocation`, how kernels share a sparsity. Defaults to
            `LAMP()`, as in `PruningScheduler`.

    Raises:
        ValueError: If an argument does not fit; at the start of `fit`, if no
            kernel is prunable, units are coupled channels, or the folder holds
            a front of another kind (of another metric that the model chooses:
            at the end of the first epoch).

    Example:

    >>> import tempfile
    >>> swd = keras_swd.SelectiveWeightDecay()
    >>> layer = keras.layers.Dense(50, kernel_regularizer=swd)
    >>> model = keras.Sequential([keras.Input((40,)), layer])
    >>> model.compile(loss="mse", metrics=["mae"])
    >>> x, y = np.ones((8, 40)), np.ones((8, 50))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoint = ParetoCheckpoint(folder, (x, y), [0.5, 0.9])
    ...     _ = model.fit(x, y, verbose=0, callbacks=[checkpoint])
    ...     smallest = checkpoint.load(checkpoint.front.points[0])
    >>> checkpoint.front.points[0].sparsity
    0.9
    >>> int(np.count_nonzero(smallest.get_weights()[0]))
    200
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        data: Any,
        sparsities: Iterable[float] = SPARSITIES,
        metric: str | None = None,
        mode: str = "auto",
        quantization: str | None = None,
        gzip: bool = False,
        allocation: Allocation | None = None,
    ):
        super().__init__()
        self.folder = Path(folder)
        if not self.folder.parent.is_dir() or self.folder.is_file():
            raise ValueError(
                "Argument `folder` must name a folder within an existing one. "
                f"Received: folder={str(folder)!r}."
            )
        check_repeatable("data", data)
        check_mode(mode)
        self.data = data
        self.sparsities = tuple(sorted(check_sparsities(sparsities)))
        self.metric = metric
        self.mode = mode
        self.kind = FileKind(quantization, gzip)
        self.allocation = check_allocation(allocation)
        #: The `ParetoFront` so far; None before the first epoch has ended.
        self.front: ParetoFront | None = None

    def load(self, point: ParetoPoint) -> keras.Model:
        """Returns the model of a point of the front.

        Args:
            point: `ParetoPoint`, one of `front.points`.

        Returns:
            A `keras.Model`.
        """
        return keras.saving.load_model(self.folder / point.file)

    def on_train_begin(self, logs=None):
        """Checks all that can be checked, and reads an earlier front."""
        model = self.model
        check_compiled(model)
        self.front = None
        self._plain: keras.Model | None = None
        if model.built:
            self._prunable(model, self.sparsities[0])
            self.kind.predictor(model)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / FRONT
        if path.exists():
            self.front = self._read(path)
            there = [
                point
                for point in self.front.points
                if (self.folder / point.file).exists()
            ]
            self.front = dataclasses.replace(self.front, points=tuple(there))
            # What Keras knows after an epoch is taken to be the same till then.
            mode = self.front.mode if self.mode == "auto" else self.mode
            self._check_same(self.metric or self.front.metric, mode)

    def _read(self, path: Path) -> ParetoFront:
        try:
            return ParetoFront.read(path)
        except ValueError as error:
            raise ValueError(
                f"Argument `folder` holds {FRONT!r}, which no front was "
                "written to, or which is damaged. Remove it, or name another "
                f"folder. Received: folder={str(self.folder)!r}."
            ) from error

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates at each sparsity, and keeps what is not beaten."""
        model = self.model
        before = front = self.front
        files = {p.file for p in before.points} if before is not None else set()
        tried = set()
        for sparsity in self.sparsities:
            prunable = self._prunable(model, sparsity)
            weights = prunable.weights
            if not all_finite(weights):
                break
            # What was removed before is zero, whatever is asked for.
            sparsity = max(sparsity, round(_share_of_zeros(weights), 4))
            if sparsity in tried:
                continue
            tried.add(sparsity)
            masks = prunable.masks(prunable.choose(prunable.counts()))
            values = measured(model, weights, masks, self.data)
            front = self._front_of(values)
            point = ParetoPoint(
                epoch=epoch + 1,
                sparsity=sparsity,
                value=float(values[front.metric]),
                bytes=self._predicted(weights, masks),
                file=self._free_name(
                    f"epoch-{epoch + 1:04d}-zeros-{sparsity:g}"
                ),
            )
            if front.takes(point):
                with removed_for_a_moment(weights, masks):
                    self._save(point)
                files.add(point.file)
                self.front = front = front.with_points([point])
        if front is None or front == before:
            return
        front.to_json(self.folder / FRONT)
        for file in files - {point.file for point in front.points}:
            (self.folder / file).unlink(missing_ok=True)

    def _predicted(
        self, weights: Sequence[Weight], masks: Sequence[np.ndarray]
    ) -> int:
        """The bytes of the file with these entries at zero."""
        masked = {
            id(weight.variable): weight.masked(mask)
            for weight, mask in zip(weights, masks, strict=True)
        }
        return self.kind.predictor(self.model)(masked)

    def _front_of(self, values: dict[str, float]) -> ParetoFront:
        """The front so far, of the metric that counts."""
        metric, mode = find_metric(self.model, values, self.metric, self.mode)
        if self.front is None:
            return ParetoFront(metric, mode, self.kind.name)
        self._check_same(metric, mode)
        return self.front

    def _check_same(self, metric: str, mode: str) -> None:
        """Raises a `ValueError` if the folder holds another kind of front."""
        new = ParetoFront(metric, mode, self.kind.name)
        front = self.front
        if front and dataclasses.replace(front, points=()) != new:
            raise ValueError(
                f"Argument `folder` holds a front of {front.metric!r} "
                f"({front.mode}) and the {front.file}, and this run makes one "
                f"of {metric!r} ({mode}) and the {new.file}. Name another "
                f"folder. Received: folder={str(self.folder)!r}."
            )

    def _prunable(self, model: keras.Model, sparsity: float) -> Prunable:
        """What is pruned, if its size can be predicted."""
        prunable = Prunable(model, sparsity, self.allocation)
        for units in prunable.sets:
            if units.regularizer.granularity.coupled:
                raise ValueError(
                    f"Kernel {units.path!r} has coupled channels, which are "
                    "cut out after training, by `shrink`; the size does not "
                    "predict that. Use another granularity, or no "
                    "`ParetoCheckpoint`."
                )
        return prunable

    def _save(self, point: ParetoPoint) -> None:
        """Writes a plain copy of the model, whole or not at all."""
        if self._plain is None:
            self._plain = plain_copy(self.model)
        self._plain.set_weights(self.model.get_weights())
        target = self.folder / point.file
        with beside(target) as temporary:
            self._plain.save(temporary)
            put(temporary, target)

    def _free_name(self, stem: str) -> str:
        """The name of a file that no model of another run has."""
        for number in itertools.count(1):
            name = f"{stem}.keras" if number == 1 else f"{stem}-{number}.keras"
            if not (self.folder / name).exists():
                break
        return name


def _share_of_zeros(weights: Sequence[Weight]) -> float:
    """The share of zeros if nothing goes; a method may hide what is left."""
    values = [weight.masked(np.ones((), bool)) for weight in weights]
    left = sum(np.count_nonzero(each) for each in values)
    return 1.0 - left / sum(each.size for each in values)
