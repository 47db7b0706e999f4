import warnings

import keras
import numpy as np
import pytest

from keras_swd import NM, Exponential, PruningScheduler, SelectiveWeightDecay
from keras_swd.callbacks.forecast import share_left, stable_decay


def follow(optimizer, decay, start, steps):
    """One weight under the penalty alone, by Keras' own optimizer."""
    weight = keras.Variable([start], name="weight")
    optimizer.build([weight])
    seen = []
    for _ in range(steps):
        optimizer.apply([decay * weight])
        seen.append(float(keras.ops.convert_to_numpy(weight)[0]))
    return seen


@pytest.mark.parametrize(
    ("optimizer", "limit"),
    [
        (keras.optimizers.SGD(0.1), 2.0),
        (keras.optimizers.SGD(0.1, momentum=0.9), 3.8),
        pytest.param(
            keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
            3.8 / 2.8,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_sgd_diverges_just_beyond_the_limit(optimizer, limit):
    assert stable_decay(optimizer) == pytest.approx(limit)
    config = optimizer.get_config()
    below = type(optimizer).from_config(config)
    above = type(optimizer).from_config(config)
    assert abs(follow(below, 0.97 * limit / 0.1, 1.0, 400)[-1]) < 0.1
    assert abs(follow(above, 1.03 * limit / 0.1, 1.0, 100)[-1]) > 10.0


def test_no_limit_is_claimed_where_none_is_known():
    assert stable_decay(keras.optimizers.Adam()) is None
    assert stable_decay(None) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.01),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(0.002),
        lambda: keras.optimizers.AdamW(0.002, weight_decay=0.0),
    ],
)
def test_the_forecast_is_what_the_optimizer_does(make):
    got = share_left(make(), lambda p: 1.5, 0.1, total_steps=200)
    seen = np.abs(follow(make(), 1.5, 0.1, 200)) / 0.1
    # The forecast gives the largest of the last part of the path.
    assert seen[-1] <= got + 1e-3
    assert got <= 3.0 * seen[-10:].max() + 1e-3


def test_nothing_is_forecast_when_no_step_is_left():
    optimizer = keras.optimizers.SGD(0.1)
    assert share_left(optimizer, lambda p: 1.0, 0.1, 10, 0.52, 0.5) is None


def test_it_follows_the_learning_rate_schedule():
    falling = keras.optimizers.schedules.PiecewiseConstantDecay(
        [50], [0.1, 0.0]
    )
    got = share_left(
        keras.optimizers.SGD(falling), lambda p: 1.0, 1.0, total_steps=100
    )
    # The boundary itself still belongs to the first rate.
    assert got == pytest.approx(0.9**51)


def scheduled(finish, optimizer, end=1e4, epochs=10, sparsity=0.5):
    swd = SelectiveWeightDecay(5e-4)
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, kernel_regularizer=swd)]
    )
    model.compile(optimizer, loss="mse")
    model.fit(
        np.ones((320, 4)),
        np.ones((320, 4)),
        batch_size=4,
        epochs=epochs,
        verbose=0,
        callbacks=[
            PruningScheduler(sparsity, Exponential(0.1, end, finish=finish))
        ],
    )


def test_a_schedule_that_leaves_weights_is_warned_of():
    optimizer = keras.optimizers.SGD(1e-4)
    with pytest.warns(UserWarning, match="keep .*% of its value"):
        scheduled(1.0, optimizer, epochs=1)


def test_an_unstable_step_is_warned_of():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    with pytest.warns(UserWarning, match="Lower the end of the schedule"):
        scheduled(0.8, optimizer, end=7e4)


@pytest.mark.filterwarnings("error::UserWarning")
def test_nothing_is_forecast_of_weights_that_are_zero_already():
    scheduled(0.8, keras.optimizers.SGD(1e-4), epochs=1, sparsity=0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_the_default_warns_of_nothing():
    scheduled(0.8, keras.optimizers.SGD(0.05, momentum=0.9))


@pytest.mark.parametrize("falling", [False, True])
def test_accumulated_gradients_are_one_update(falling):
    rate = 0.01
    if falling:
        rate = keras.optimizers.schedules.CosineDecay(0.01, 200)

    def make():
        return keras.optimizers.SGD(rate, gradient_accumulation_steps=8)

    got = share_left(make(), lambda p: 1.5, 1.0, total_steps=200)
    assert got == pytest.approx(follow(make(), 1.5, 1.0, 200)[-1], rel=0.02)


def warned(regularizers, optimizer, target=0.5):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            *(
                keras.layers.Dense(4, kernel_regularizer=r)
                for r in regularizers
            ),
        ]
    )
    model.compile(optimizer, loss="mse")
    scheduler = PruningScheduler(target)
    scheduler.set_model(model)
    scheduler.set_params({"epochs": 10, "steps": 64})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        scheduler.on_train_begin()
        scheduler.on_epoch_begin(0)
        scheduler.on_train_batch_begin(0)
    return [str(w.message) for w in found if w.category is UserWarning]


@pytest.mark.parametrize(("scale", "tells"), [(1e-3, False), (1.0, True)])
def test_a_resumed_run_is_judged_by_what_selected_weights_still_hold(
    scale, tells
):
    # A rate of 1e-5 moves nothing in what is left of the run.
    optimizer = keras.optimizers.SGD(1e-5)
    layer = keras.layers.Dense(8, kernel_regularizer=SelectiveWeightDecay())
    model = keras.Sequential([keras.Input((8,)), layer])
    model.compile(optimizer, loss="mse")
    kernel = np.ones((8, 8), "float32")
    kernel[:4] = 0.9 * scale
    layer.set_weights([kernel, np.zeros(8)])
    scheduler = PruningScheduler(0.5)
    scheduler.set_model(model)
    scheduler.set_params({"epochs": 40, "steps": 8})
    scheduler.on_train_begin()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        scheduler.on_epoch_begin(37)
        scheduler.on_train_batch_begin(0)
    told = [str(w.message) for w in found if w.category is UserWarning]
    assert any("of its value" in message for message in told) == tells


def test_ranks_are_not_taken_for_weights():
    # Adam moves 0.3 in these steps, a rank of 1.5 it would not.
    swd = SelectiveWeightDecay(granularity=NM(2, 4))
    adam = keras.optimizers.Adam(3e-3)
    assert not any("of its value" in m for m in warned([swd], adam, None))


def test_the_weakest_decay_is_the_one_that_is_warned_of():
    def told(*decays):
        regularizers = [SelectiveWeightDecay(decay) for decay in decays]
        messages = warned(regularizers, keras.optimizers.SGD(0.05))
        return any("of its value" in message for message in messages)

    assert not told(1e-3, 1e-3)
    assert told(1e-3, 1e-7)


def test_a_decay_of_nothing_is_warned_of():
    swd = SelectiveWeightDecay(0.0)
    (message,) = warned([swd], keras.optimizers.SGD(0.05))
    assert "drives no weight to zero" in message
