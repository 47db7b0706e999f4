"""A target of which a growing part is selected."""

import itertools
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import keras_swd
from keras_swd import (
    NM,
    AdaptiveSparsity,
    Constant,
    Exponential,
    GlobalRanking,
    GReg1,
    Linear,
    MagnitudePruning,
    Operations,
    Parameters,
    Polynomial,
    PruningScheduler,
    SelectiveWeightDecay,
)

RATE, DECAY, STRENGTH, SPARSITY = 0.1, 0.01, 500.0, 0.8
STEPS, EPOCHS = 8, 3
TOTAL = STEPS * EPOCHS
#: These runs are too short to drive selected weights to zero, and say so.
short_run = pytest.mark.filterwarnings("ignore:A weight selected when")
RAMP = {"start": 0.25, "end": 1.0, "finish": 0.5}


def network(regularizer):
    kwargs = {"use_bias": False, "kernel_regularizer": regularizer}
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, **kwargs),
            layers.Dense(4, **kwargs),
        ]
    )


class Kernels(keras.callbacks.Callback):
    """Notes the kernels before the first step and after each."""

    def on_train_begin(self, logs=None):
        self.seen = [self.flat()]

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.flat())

    def flat(self):
        return np.concatenate([w.ravel() for w in self.model.get_weights()])


def train(model, pruning, optimizer=None, **arguments):
    """Trains on nothing, so that the penalty alone moves weights."""
    model.compile(optimizer or keras.optimizers.SGD(RATE), "mse")
    kernels = Kernels()
    history = model.fit(
        np.zeros((STEPS * 2, 6)),
        np.zeros((STEPS * 2, 4)),
        batch_size=2,
        verbose=0,
        callbacks=[pruning, kernels],
        **{"epochs": EPOCHS, **arguments},
    )
    return history.history, kernels.seen


def scheduler(ramp=None, sparsity=SPARSITY, **arguments):
    arguments = {
        "schedule": Constant(STRENGTH),
        "allocation": GlobalRanking(),
        "reallocations": None,
        **arguments,
    }
    return PruningScheduler(sparsity, ramp=ramp, **arguments)


def part(progress, start, end, finish, power=3.0):
    """The equation of gradual pruning, as in its paper."""
    left = 1.0 - min(progress / finish, 1.0)
    return end + (start - end) * left**power


def test_the_part_of_the_ramp_is_decayed_and_no_more():
    history, seen = train(
        network(SelectiveWeightDecay(DECAY)), scheduler(Polynomial(**RAMP))
    )
    size, selected = seen[0].size, 0
    for step, (before, after) in enumerate(itertools.pairwise(seen)):
        selected = round(SPARSITY * part(step / TOTAL, **RAMP) * size)
        lowest = np.argsort(np.abs(before), kind="stable")[:selected]
        rate = np.full(size, RATE * DECAY)
        rate[lowest] *= 1.0 + STRENGTH
        if step < TOTAL - 1:  # the last is followed by removal
            expected = before * (1.0 - rate)
            np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-8)
        if step % STEPS == STEPS - 1:
            found = history["sparsity"][step // STEPS]
            assert found == pytest.approx(selected / size)
    assert selected == round(SPARSITY * size)


def test_a_ramp_from_zero_leaves_its_beginning_to_plain_decay():
    ramp = Polynomial(0.0, 1.0, begin=1 / EPOCHS, finish=2 / EPOCHS)
    model = network(SelectiveWeightDecay(DECAY))
    history, seen = train(model, scheduler(ramp))
    for before, after in itertools.pairwise(seen[: STEPS + 1]):
        np.testing.assert_allclose(
            after, before * (1.0 - RATE * DECAY), rtol=1e-5
        )
    assert history["sparsity"][0] == 0.0
    assert history["swd_residual"][0] == 0.0
    assert history["swd_threshold"][0] == -1.0
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    assert np.count_nonzero(weights == 0.0) == round(SPARSITY * weights.size)


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(
    start=st.floats(0.001, 1.0),
    finish=st.floats(0.05, 1.0),
    sparsity=st.floats(0.0, 0.99),
    kind=st.sampled_from([Linear, Polynomial, Exponential]),
)
def test_what_is_removed_is_all_of_the_target(start, finish, sparsity, kind):
    ramp = kind(start, 1.0, finish=finish)
    model = network(SelectiveWeightDecay(DECAY))
    model.compile("sgd", "mse")
    with warnings.catch_warnings():
        # Two steps drive nothing to zero, and a layer may lose all.
        warnings.simplefilter("ignore", UserWarning)
        model.fit(
            np.zeros((4, 6)),
            np.zeros((4, 4)),
            batch_size=2,
            verbose=0,
            callbacks=[scheduler(ramp, sparsity)],
        )
    weights = np.concatenate([w.ravel() for w in model.get_weights()])
    assert np.count_nonzero(weights == 0.0) == round(sparsity * weights.size)


@pytest.mark.slow
def test_a_run_in_two_parts_follows_one_ramp():
    whole, parts = (network(SelectiveWeightDecay(DECAY)) for _ in range(2))
    parts.set_weights(whole.get_weights())
    ramp = Polynomial(**RAMP)
    _, seen = train(whole, scheduler(ramp))
    with pytest.warns(UserWarning, match="ended at 33%"):
        train(parts, scheduler(ramp, total_steps=TOTAL), epochs=1)
    resumed = scheduler(ramp, total_steps=TOTAL)
    _, rest = train(parts, resumed, initial_epoch=1)
    np.testing.assert_allclose(rest[-2], seen[-2], rtol=1e-5)
    np.testing.assert_array_equal(rest[-1] == 0.0, seen[-1] == 0.0)


@short_run
def test_layers_with_their_own_target_follow_too():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(
                10,
                use_bias=False,
                kernel_regularizer=SelectiveWeightDecay(DECAY, sparsity=0.5),
            ),
            layers.Dense(
                4,
                use_bias=False,
                kernel_regularizer=SelectiveWeightDecay(DECAY),
            ),
        ]
    )
    model.compile(keras.optimizers.SGD(RATE), "mse")
    ramp = Linear(0.5, 1.0, begin=0.7, finish=0.8)
    history = model.fit(
        np.zeros((8, 10)),
        np.zeros((8, 4)),
        batch_size=2,
        epochs=2,
        verbose=0,
        callbacks=[scheduler(ramp)],
    )
    # Half of both targets, then all: 25 + 16 and 50 + 32 of 140 weights.
    assert history.history["sparsity"] == pytest.approx([41 / 140, 82 / 140])


@pytest.mark.slow
def test_the_forecast_begins_where_all_is_selected():
    late = Linear(0.1, 1.0, finish=0.99)
    with pytest.warns(UserWarning, match="A weight selected when"):
        train(
            network(SelectiveWeightDecay(DECAY)),
            scheduler(late),
        )
    early = Linear(0.1, 1.0, finish=0.1)
    train(
        network(SelectiveWeightDecay(DECAY)),
        scheduler(early),
    )


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, None], ids=str)
def test_a_ramp_that_ends_with_the_run_is_warned_of(optimizer):
    """What is selected last is not driven down at all."""
    optimizer = keras.optimizers.Adam if optimizer is None else optimizer
    with pytest.warns(UserWarning, match="`ramp`, `finish` earlier"):
        train(
            network(SelectiveWeightDecay(DECAY)),
            scheduler(Linear(0.1, 1.0)),
            optimizer(0.01),
        )


@short_run
@pytest.mark.parametrize("reallocations", [1, 2, 3])
def test_the_ramp_arrives_however_seldom_counts_are_renewed(reallocations):
    ramp = Polynomial(0.25, 1.0, finish=0.4)
    pruning = scheduler(ramp, reallocations=reallocations)
    history, seen = train(network(SelectiveWeightDecay(DECAY)), pruning)
    whole = round(SPARSITY * seen[0].size) / seen[0].size
    assert history["sparsity"][0] < whole
    assert history["sparsity"][1:] == pytest.approx([whole] * 2)


@short_run
def test_the_ramp_rises_however_seldom_counts_are_renewed():
    shares = []
    for reallocations in (1, None):
        ramp = Linear(0.0, 1.0, begin=0.1, finish=0.7)
        pruning = scheduler(ramp, reallocations=reallocations)
        history, _ = train(network(SelectiveWeightDecay(DECAY)), pruning)
        shares.append(history["sparsity"])
    assert shares[0] == shares[1]
    assert 0.0 < shares[0][0] < 0.5 * SPARSITY


def test_a_run_that_stops_early_speaks_of_all_that_was_to_go():
    pruning = scheduler(Linear(0.1, 1.0, begin=0.5, finish=0.6))
    pruning.total_steps = TOTAL
    model = network(SelectiveWeightDecay(DECAY))
    with pytest.warns(UserWarning, match="nothing was removed") as told:
        _, seen = train(model, pruning, epochs=1)
    squares = np.sort(seen[-1] ** 2)
    held = squares[: round(SPARSITY * squares.size)].sum() / squares.sum()
    assert f"still hold {held:.2g} of" in str(told[-1].message)


def test_the_run_tells_its_ramp():
    pruning = scheduler(Polynomial(**RAMP))
    train(network(SelectiveWeightDecay(DECAY)), pruning)
    told = pruning.settings()["ramp"]
    assert keras.saving.deserialize_keras_object(told)(0.5) == 1.0


@pytest.mark.parametrize(
    "ramp", [0.5, "cubic", Constant(0.5), Polynomial(0.1, 0.9)], ids=repr
)
def test_what_is_no_ramp_is_refused_at_once(ramp):
    with pytest.raises(ValueError, match=r"`ramp`.*reaches 1.*Received: ramp="):
        PruningScheduler(0.5, ramp=ramp)


def test_a_ramp_that_ends_after_removal_is_refused():
    pruning = scheduler(Linear(0.1, 1.0, finish=0.8), remove_at=0.5)
    with pytest.raises(ValueError, match=r"at progress 0\.5, when units are"):
        train(network(SelectiveWeightDecay(DECAY)), pruning)


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (lambda: GReg1(begin=0.5), "method GReg1"),
        (MagnitudePruning, "method MagnitudePruning"),
        (AdaptiveSparsity, "method AdaptiveSparsity"),
        (
            lambda: SelectiveWeightDecay(granularity=NM(1, 2)),
            r"granularity NM\(n=1, m=2",
        ),
    ],
)
def test_methods_with_a_plan_of_their_own_refuse_it(method, named):
    optimizer = keras_swd.with_pruning(keras.optimizers.SGD(RATE))
    target = None if "NM" in named else 0.5
    pruning = scheduler(Linear(0.1, 1.0, finish=0.5), sparsity=target)
    with pytest.raises(ValueError, match=rf"`ramp` cannot.*{named}"):
        train(network(method()), pruning, optimizer)


@short_run
@pytest.mark.parametrize("start", [0.0, 0.1])
@pytest.mark.parametrize("budget", [Parameters(0.5), Operations(0.5)], ids=repr)
def test_budgets_are_met_in_parts(budget, start):
    channels = keras_swd.CoupledChannels(kernels=True)
    swd = SelectiveWeightDecay(0.01, granularity=channels)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, kernel_regularizer=swd),
            layers.Dense(12, kernel_regularizer=swd),
            layers.Dense(3),
        ]
    )
    ramp = Linear(start, 1.0, begin=0.6, finish=0.7)
    model.compile(keras.optimizers.SGD(0.1 * RATE), "mse")
    history = model.fit(
        np.ones((8, 6)),
        np.ones((8, 3)),
        batch_size=2,
        epochs=2,
        verbose=0,
        callbacks=[scheduler(ramp, budget)],
    )
    first, last = history.history["sparsity"]
    assert (first > 0.0) == (start > 0.0)
    assert first < 0.3 < last
