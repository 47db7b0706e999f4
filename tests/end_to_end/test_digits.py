"""Removal is free with the default settings, whatever the optimizer."""

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_swd import PruningScheduler, SelectiveWeightDecay

pytestmark = pytest.mark.slow

OPTIMIZERS = {
    "sgd": (keras.optimizers.SGD, 0.3, {}),
    "momentum": (keras.optimizers.SGD, 0.1, {"momentum": 0.9}),
    "adam": (keras.optimizers.Adam, 0.005, {}),
    "adamw": (keras.optimizers.AdamW, 0.005, {"weight_decay": 0.0}),
    "adamw, twice decayed": (keras.optimizers.AdamW, 0.005, {}),
}


@pytest.fixture(scope="module")
def digits():
    loaded = load_digits()
    order = np.random.default_rng(0).permutation(len(loaded.target))
    x = (loaded.images[order, :, :, None] / 16.0).astype("float32")
    y = loaded.target[order]
    return (x[449:], y[449:]), (x[:449], y[:449])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removal_costs_less_than_half_a_point(name, digits):
    train, test = digits
    swd = SelectiveWeightDecay()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", kernel_regularizer=swd),
            layers.Conv2D(32, 3, activation="relu", kernel_regularizer=swd),
            layers.Flatten(),
            layers.Dense(10, kernel_regularizer=swd),
        ]
    )
    epochs, batch = 30, 64
    steps = epochs * -(-len(train[1]) // batch)
    hold = int(0.7 * steps)
    optimizer, rate, arguments = OPTIMIZERS[name]
    falling = keras.optimizers.schedules.CosineDecay(
        rate, steps - hold, warmup_target=rate, warmup_steps=hold
    )
    model.compile(
        optimizer(falling, **arguments),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        *train,
        batch_size=batch,
        epochs=epochs,
        verbose=0,
        validation_data=test,
        callbacks=[PruningScheduler(sparsity=0.9)],
    ).history
    before = history["val_accuracy"][-1]
    after = model.evaluate(*test, verbose=0)[1]
    assert before > 0.95
    assert abs(before - after) < 0.005
    kernels = model.get_weights()[::2]
    size = sum(w.size for w in kernels)
    assert sum(np.count_nonzero(w == 0) for w in kernels) == round(0.9 * size)
