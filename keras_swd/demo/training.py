"""The demo's data and network, and how it is trained."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np

from keras_swd.rebuilding.stripping import plain_copy

LEARNING_RATE = 0.05
BATCH_SIZE = 64


def digits(seed: int) -> list[np.ndarray]:
    """Images and labels to train on, then those to test on."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = (digits.images[order, :, :, None] / 16.0).astype("float32")
    labels = digits.target[order].astype("int32")
    test = len(labels) // 4
    return [images[test:], labels[test:], images[:test], labels[:test]]


def network(regularizer: Callable, seed: int) -> keras.Model:
    """A compiled network; `regularizer` makes one for each layer."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers

    def pruned(kind, name: str, *sizes: int, **options):
        return kind(
            *sizes, kernel_regularizer=regularizer(), name=name, **options
        )

    convolution = {"padding": "same", "activation": "relu"}
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            pruned(layers.Conv2D, "conv_1", 24, 3, **convolution),
            pruned(layers.Conv2D, "conv_2", 48, 3, **convolution),
            layers.MaxPooling2D(name="pool"),
            layers.Flatten(name="flatten"),
            pruned(layers.Dense, "dense", 48, activation="relu"),
            pruned(layers.Dense, "logits", 10),
        ],
        name="digits",
    )
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def fit(model, images, labels, epochs: int, callbacks: list) -> None:
    """Trains with a learning rate that is held, and then falls."""

    def rate(epoch: int) -> float:
        """Held for 70 percent of the run, then a cosine to zero."""
        falling = max(epoch / epochs - 0.7, 0.0) / 0.3
        return LEARNING_RATE * (1.0 + math.cos(math.pi * falling)) / 2.0

    model.fit(
        images,
        labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[keras.callbacks.LearningRateScheduler(rate), *callbacks],
    )


class BeforeRemoval(keras.callbacks.Callback):
    """Keeps a copy of the model as it is just before weights are removed.

    Callbacks run in their order: this one stands before the scheduler.
    """

    model_before: keras.Model

    def on_train_end(self, logs=None):
        """Copies the model."""
        self.model_before = plain_copy(self.model)


class _Track(keras.callbacks.Callback):
    """Moves a bar of a `rich.progress.Progress`, one step per epoch."""

    def __init__(self, progress, title: str, epochs: int):
        super().__init__()
        self.progress = progress
        self.task = progress.add_task(title, total=epochs, logs="")

    def on_epoch_end(self, epoch, logs=None):
        text = f"training accuracy {logs['accuracy']:.1%}"
        if "sparsity" in logs:
            text = f"sparsity {logs['sparsity']:.1%}"
            text += f"  residual {logs['swd_residual']:.1e}"
        self.progress.update(self.task, advance=1, logs=text)


@contextlib.contextmanager
def progress(console) -> Iterator[Callable]:
    """Yields a function that makes a callback with a bar of its own."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=14),
        MofNCompleteColumn(),
        TextColumn("{task.fields[logs]}"),
        console=console,
    )
    with progress:
        yield lambda title, epochs: _Track(progress, title, epochs)
