"""The baselines: removal in rounds, and a learning rate that goes back."""

import itertools

import keras
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

import keras_swd
from keras_swd import (
    NM,
    CoupledChannels,
    GlobalRanking,
    LearningRateRewinding,
    MagnitudePruning,
    Parameters,
    PruningScheduler,
    SelectiveWeightDecay,
)

STEPS, EPOCHS = 5, 4
TOTAL = STEPS * EPOCHS


def network(method, sizes=(6, 5, 3)):
    layers = [
        keras.layers.Dense(n, use_bias=False, kernel_regularizer=method)
        for n in sizes[1:]
    ]
    return keras.Sequential([keras.Input(sizes[:1]), *layers])


def data():
    x = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    return np.tile(x, (STEPS, 1)), np.tile(x[:, :3] - x[:, 3:], (STEPS, 1))


class Kernels(keras.callbacks.Callback):
    """Notes the kernels after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([v.copy() for v in self.model.get_weights()])

    def zeros(self):
        return [sum(int((k == 0).sum()) for k in step) for step in self.seen]


def train(model, scheduler, *callbacks, epochs=EPOCHS, **arguments):
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), "mse", jit_compile=False
    )
    return model.fit(
        *data(),
        batch_size=8,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[scheduler, *callbacks],
        **arguments,
    ).history


def test_training_is_that_of_the_reference():
    method = MagnitudePruning(0.01, begin=0.1, end=0.8, removals=4)
    model, kernels = network(method), Kernels()
    first = model.get_weights()
    train(model, PruningScheduler(0.8, allocation=GlobalRanking()), kernels)
    removals = method.plan(None, TOTAL, None).removals
    x, y = (part[:8] for part in data())
    expected = reference.train_magnitude(
        first, x, y, 0.8, 0.01, removals, TOTAL, 0.05, 0.9
    )
    for got, step in zip(kernels.seen, expected, strict=True):
        for kernel, k in zip(got, step, strict=True):
            np.testing.assert_array_equal(kernel == 0.0, k == 0.0)
            np.testing.assert_allclose(kernel, k, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"begin": 0.0, "end": 1.0, "removals": 4},
            [(0.25, 0.578125), (0.5, 0.875), (0.75, 0.984375), (1.0, 1.0)],
        ),
        (
            {"begin": 0.2, "end": 0.6, "removals": 2, "power": 1.0},
            [(0.4, 0.5), (0.6, 1.0)],
        ),
        ({"removals": 1, "end": 0.5}, [(0.5, 1.0)]),
    ],
    ids=["cubic", "linear", "one"],
)
def test_when_how_much_is_removed(arguments, expected):
    plan = MagnitudePruning(**arguments).plan(None, 100, None)
    np.testing.assert_allclose(plan.removals, expected, rtol=1e-12)


@given(
    begin=st.floats(0.0, 0.9),
    width=st.floats(0.01, 0.1),
    removals=st.integers(1, 50),
    power=st.floats(0.5, 5.0),
)
def test_shares_grow_to_all(begin, width, removals, power):
    method = MagnitudePruning(
        begin=begin, end=begin + width, removals=removals, power=power
    )
    times, shares = zip(*method.plan(None, 100, None).removals, strict=True)
    assert len(times) == removals
    assert list(times) == sorted(times)
    assert list(shares) == sorted(shares)
    assert begin < times[0]
    assert times[-1] == begin + width
    assert shares[0] > 0.0
    assert shares[-1] == 1.0


def test_the_count_of_zeros_follows_the_rounds():
    kernels = Kernels()
    method = MagnitudePruning(0.0, begin=0.0, end=0.5, removals=2, power=1.0)
    history = train(network(method), PruningScheduler(0.8), kernels)
    assert kernels.zeros() == [0] * 5 + [18] * 5 + [36] * 10
    assert history["sparsity"] == pytest.approx([0.8, 0.4, 0.8, 0.8])
    assert history["swd_strength"] == [0.0] * EPOCHS


@pytest.mark.slow
def test_what_went_stays_where_a_kernel_is_given_less():
    """Shares rounded to whole weights may fall as the target grows."""
    widths = [8, 8, 13, 12, 3]
    model = keras.Sequential([keras.Input((8,))])
    for units in widths[1:]:
        method = keras_swd.MagnitudePruning(removals=30, begin=0.0, end=0.9)
        model.add(keras.layers.Dense(units, kernel_regularizer=method))
    model.compile(keras.optimizers.SGD(0.05), "mse")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernels = self.model.trainable_variables[::2]
            values = map(ops.convert_to_numpy, kernels)
            seen.append([np.array(kernel == 0.0) for kernel in values])

    model.fit(
        np.ones((64, 8)),
        np.ones((64, 3)),
        batch_size=4,
        epochs=6,
        verbose=0,
        callbacks=[
            PruningScheduler(0.9, allocation=keras_swd.ErdosRenyi()),
            Look(),
        ],
    )
    for before, after in itertools.pairwise(seen):
        for one, other in zip(before, after, strict=True):
            assert not np.any(one & ~other)


def test_remove_at_moves_the_last_removal():
    kernels = Kernels()
    method = MagnitudePruning(0.0, begin=0.0, removals=2, power=1.0)
    train(network(method), PruningScheduler(0.8, remove_at=1.0), kernels)
    assert kernels.zeros() == [0] * 10 + [18] * 10
    model = network(MagnitudePruning(begin=0.5))
    with pytest.raises(ValueError, match=r"`begin`.*begin=0\.5, end=0\.5"):
        train(model, PruningScheduler(0.8, remove_at=0.5))


def test_the_last_removal_may_come_when_training_is_over():
    method = MagnitudePruning(0.0, begin=0.0, end=1.0, removals=2, power=1.0)
    model, kernels = network(method), Kernels()
    train(model, PruningScheduler(0.8), kernels)
    assert kernels.zeros() == [0] * 10 + [18] * 10
    assert sum(int((w == 0).sum()) for w in model.get_weights()) == 36


def test_a_run_that_ends_between_removals_says_so():
    method = MagnitudePruning(0.0, begin=0.0, end=0.9, removals=3, power=1.0)
    model = network(method)
    with pytest.warns(UserWarning, match=r"ended at 50%.*not all was removed"):
        train(model, PruningScheduler(0.8, total_steps=2 * TOTAL))
    assert sum(int((w == 0).sum()) for w in model.get_weights()) == 12


@pytest.mark.slow
def test_a_resumed_run_goes_on_between_removals():
    def method():
        return MagnitudePruning(begin=0.0, end=0.9, removals=3)

    whole = network(method())
    first = whole.get_weights()
    train(whole, PruningScheduler(0.8))
    half = network(method())
    half.set_weights(first)
    with pytest.warns(UserWarning, match="not all"):
        train(half, PruningScheduler(0.8, total_steps=TOTAL), epochs=2)
    optimizer = half.optimizer
    half.compile(optimizer, "mse")
    half.fit(
        *data(),
        batch_size=8,
        initial_epoch=2,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=[PruningScheduler(0.8, total_steps=TOTAL)],
    )
    for one, other in zip(whole.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_array_equal(one == 0.0, other == 0.0)
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_budget_is_met_in_rounds():
    channels = CoupledChannels(kernels=True)
    method = MagnitudePruning(
        0.0, begin=0.0, removals=2, power=1.0, granularity=channels
    )
    model, kernels = network(method, (6, 20, 3)), Kernels()
    scheduler = PruningScheduler(Parameters(left=0.5), remove_at=0.5)
    train(model, scheduler, kernels)
    gone = [int((step[0] == 0.0).all(axis=0).sum()) for step in kernels.seen]
    assert gone == [0] * 5 + [5] * 5 + [10] * 10


def test_methods_that_remove_at_other_times_do_not_mix():
    model = network(MagnitudePruning())
    model.layers[0].kernel.regularizer = SelectiveWeightDecay()
    with pytest.raises(ValueError, match="must select and remove at the same"):
        train(model, PruningScheduler(0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1.0}, r"`weight_decay`.*weight_decay=-1\.0"),
        ({"begin": -0.1}, r"`begin`.*begin=-0\.1"),
        ({"end": 1.5}, r"`end`.*end=1\.5"),
        ({"begin": 0.7}, r"`begin`.*less than.*begin=0\.7, end=0\.7"),
        ({"removals": 0}, r"`removals`.*removals=0"),
        ({"power": 0.0}, r"`power`.*power=0\.0"),
        ({"granularity": NM(2, 4)}, r"`removals` must be 1.*removals=100"),
    ],
    ids=str,
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        MagnitudePruning(**arguments)


def test_groups_that_meet_their_target_at_once_go_in_one_removal():
    method = MagnitudePruning(removals=1, granularity=NM(2, 4))
    model = network(method, (8, 4, 3))
    model.layers[1].kernel.regularizer = None
    model.compile("sgd", "mse")
    x = np.ones((8, 8))
    model.fit(x, x[:, :3], verbose=0, callbacks=[PruningScheduler()])
    groups = model.get_weights()[0].reshape(2, 4, 4)
    assert ((groups == 0.0).sum(axis=1) == 2).all()


SCHEDULE = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)


def test_the_rate_goes_back_twice():
    once = LearningRateRewinding(SCHEDULE, at=np.int64(8), to=5)
    twice = LearningRateRewinding(once, at=11, to=8)
    rates = [float(twice(step)) for step in range(14)]
    tenths = [10, 9, 8, 7, 6, 5, 4, 3, 5, 4, 3, 5, 4, 3]
    np.testing.assert_allclose(rates, np.array(tenths) / 10, atol=1e-6)


def test_an_optimizer_follows_the_rate_and_is_saved_with_it(tmp_path):
    model = network(None)
    rate = LearningRateRewinding(SCHEDULE, at=2)
    model.compile(keras.optimizers.SGD(rate), "mse")
    model.fit(*data(), batch_size=8, verbose=0, steps_per_epoch=3)
    assert float(ops.convert_to_numpy(model.optimizer.learning_rate)) == (
        pytest.approx(0.9)
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    copy = loaded.optimizer._learning_rate
    assert isinstance(copy, LearningRateRewinding)
    assert copy.get_config() == rate.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 0.1, "at": 3}, r"`schedule`.*schedule=0\.1"),
        ({"schedule": SCHEDULE, "at": 3, "to": 4}, r"`to`.*at=3, to=4"),
        ({"schedule": SCHEDULE, "at": 3, "to": -1}, r"`to`.*to=-1"),
    ],
    ids=["schedule", "to", "negative"],
)
def test_rewinding_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearningRateRewinding(**arguments)
