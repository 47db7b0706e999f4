"""Adaptive Sparsity: its formulas, its training, its budgets."""

import warnings

import keras
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_swd import (
    AdaptiveSparsity,
    Constant,
    GlobalRanking,
    IrrelevantWeights,
    Operations,
    Parameters,
    PruningScheduler,
    SelectiveWeightDecay,
    remove,
    with_pruning,
)
from keras_swd.prunable import Prunable
from keras_swd.regularizers.threshold_training import (
    ThresholdTraining,
    predicted_density,
    split,
)
from keras_swd.removal import removed_for_a_moment
from keras_swd.targets.budgets import lowest_until


class PredictedTraining(ThresholdTraining):
    """The published density, of normal weights."""

    def densities(self):
        return predicted_density(ops.convert_to_tensor(self.thresholds))


class Predicted(AdaptiveSparsity):
    part = PredictedTraining


def network(regularizers, sizes, optimizer=None):
    stack = [
        layers.Dense(n, kernel_regularizer=regularizer, use_bias=False)
        for n, regularizer in zip(sizes[1:], regularizers, strict=True)
    ]
    model = keras.Sequential([keras.Input((sizes[0],)), *stack])
    plain = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(with_pruning(plain), "mse")
    return model


def started(model, thresholds, costs, left, strength):
    """Lets the part in the optimizer begin, as a scheduler would."""
    model.optimizer.build(model.trainable_variables)
    (part,) = model.optimizer.parts
    part.thresholds.assign(thresholds)
    part.begin(np.array(costs), np.array(left))
    part.set(strength)
    return part


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def arrays(*variables):
    return [ops.convert_to_numpy(v) for v in variables]


def data(inputs=6, outputs=3, samples=128):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, inputs)).astype("float32")
    y = np.tanh(x @ rng.standard_normal((inputs, outputs)))
    return x, y.astype("float32")


def kept_and_all(model):
    kernels = arrays(*model.trainable_variables)
    return sum(np.count_nonzero(k) for k in kernels), sum(
        k.size for k in kernels
    )


# Formulas ----------------------------------------------------------------

W = np.array([0.9, -0.05, 0.3, -0.6, 0.1, -0.2], "float32")


def test_a_kernel_is_centred_and_cut_by_hand():
    kept, hidden = arrays(*split(tensor(W), tensor(0.8)))
    np.testing.assert_allclose(
        kept, [0.825, 0, 0, -0.675, 0, 0], rtol=1e-6, atol=1e-9
    )
    np.testing.assert_allclose(
        hidden, [0, -0.125, 0.225, 0, 0.025, -0.275], rtol=1e-5, atol=1e-9
    )
    sparsity = 1.0 - float(predicted_density(tensor(0.8)))
    assert sparsity == pytest.approx(0.57628920)


def test_what_is_cut_off_moves_the_threshold_by_hand():
    optimizer = keras.optimizers.SGD(1.0)
    model = network([AdaptiveSparsity(0.0)], (6, 1), optimizer)
    (kernel,) = model.trainable_variables
    kernel.assign(np.reshape(W, (6, 1)))
    part = started(model, [0.8], [1.0], [0.5], 0.0)
    g = np.reshape([0.1, -0.2, 0.3, 0.05, -0.4, 0.25], (6, 1))
    grad = ops.convert_to_tensor(g.astype("float32"))
    model.optimizer.apply([grad], [kernel])
    slope = -float(ops.convert_to_numpy(part.velocities)[0]) / 0.01
    assert slope == pytest.approx(-0.01718746, rel=1e-5)
    # All weights take the step, those that were cut off too.
    whole = np.reshape([0.825, -0.125, 0.225, -0.675, 0.025, -0.275], (6, 1))
    np.testing.assert_allclose(
        part.values(0), whole - g - np.mean(whole - g), atol=1e-6
    )


def test_scores_are_magnitudes_in_cuts_by_hand():
    model = network([AdaptiveSparsity()], (6, 1))
    model.trainable_variables[0].assign(np.reshape(W, (6, 1)))
    part = started(model, [0.8], [1.0], [0.5], 0.0)
    expected = [2.03918271, 0.30896708, 0.55614074]
    expected += [1.66842222, 0.06179342, 0.67972757]
    # The cut, published and here, is 1e-6 larger than `r * std`.
    np.testing.assert_allclose(part.scores(0), expected, rtol=3e-6)


def penalty(sparsity, costs):
    """The penalty and its slopes, of kernels of 500, 25000, 400000."""
    variables = []
    for shape in ((20, 25), (100, 250), (500, 800)):
        variable = keras.Variable(np.zeros(shape), dtype="float32")
        variable.regularizer = Predicted(0.0, sparsity=sparsity)
        variables.append(variable)
    optimizer = with_pruning(keras.optimizers.SGD(0.1))
    optimizer.build(variables)
    (part,) = optimizer.parts
    part.thresholds.assign([0.5, 1.2, 1.6])
    part.begin(np.array(costs), np.full(3, 0.1))
    part.set(10.0)
    slopes = 10.0 * ops.convert_to_numpy(part.penalty_slopes())
    return part.logs()["asl_penalty"], slopes


def test_the_penalty_of_a_shared_budget_by_hand():
    n = np.array([500, 25000, 400000])
    value, slopes = penalty(None, n / n.sum())
    assert value == pytest.approx(0.00298502, rel=1e-4)
    np.testing.assert_allclose(
        slopes, [-0.00028591, -0.00788483, -0.07206216], rtol=1e-4
    )


def test_the_penalty_of_own_targets_by_hand():
    value, slopes = penalty(0.9, np.ones(3))
    # The published one is a mean over kernels, ours the sum.
    assert value / 3 == pytest.approx(0.94798339, rel=1e-5)
    np.testing.assert_allclose(
        slopes / 3, [-2.42725608, -0.33694993, -0.01419577], rtol=1e-5
    )


def test_the_pressure_does_not_vanish_where_tails_are_long():
    # A twentieth is left, as beyond 1.96 deviations of normal weights; the
    # threshold itself, in deviations of these weights, lies at 4.
    values = np.zeros((10, 10))
    values[:5, 0] = 1.0
    model = network([AdaptiveSparsity()], (10, 10))
    model.trainable_variables[0].assign(values)
    part = started(model, [4.0], [1.0], [0.01], 1.0)
    density = 2.0 * np.exp(-(1.959964**2) / 2.0) / np.sqrt(2.0 * np.pi)
    (slope,) = ops.convert_to_numpy(part.penalty_slopes())
    assert slope == pytest.approx(-2.0 * (0.05 - 0.01) * density, rel=1e-4)


def test_an_empty_kernel_is_pulled_back():
    model = network([AdaptiveSparsity()], (10, 10))
    model.trainable_variables[0].assign(np.zeros((10, 10)))
    part = started(model, [4.0], [1.0], [0.1], 1.0)
    (slope,) = ops.convert_to_numpy(part.penalty_slopes())
    assert slope > 1e-3  # descending it lowers the threshold


def test_two_steps_by_hand():
    model = network([Predicted(0.01)], (3, 2))
    (kernel,) = model.trainable_variables
    kernel.assign([[0.4, -0.1], [0.8, 0.3], [-0.5, 0.2]])
    part = started(model, [0.6], [1.0], [0.5], 1.0)
    x = np.array([[1, 2, -1], [0.5, -1, 3]], "float32")
    y = np.array([[1, 0], [0, 2]], "float32")
    # Task loss and penalty before a step; after it r, K and Q.
    expected = [
        (None, None, 0.6),
        [0, -0.28333333, 0.61666667, 0, -0.68333333, 0],
        [0.21666667, 0, 0, 0.11666667, 0, 0.01666667],
        (3.15460069, 0.00235285, 0.60002862),
        [0, -0.29414653, 0.45904931, 0, -0.50488403, 0],
        [0.18216597, 0, 0, 0.03242431, 0, 0.12539097],
        (2.19271432, 0.00235100, 0.59974381),
        [0, -0.31139035, 0.20462139, 0, -0.22727614, 0.33500588],
        [0.12326986, 0, 0, -0.12423064, 0, 0],
    ]
    for step in range(3):
        (task, value, threshold), k, q = expected[3 * step : 3 * step + 3]
        if task is not None:
            assert part.logs()["asl_penalty"] == pytest.approx(value, rel=1e-4)
            decay = 0.005 * np.sum(np.square(arrays(kernel)[0]))
            loss = float(model.train_on_batch(x, y)) - decay
            assert loss == pytest.approx(task, rel=1e-6)
        assert part.threshold(0) == pytest.approx(threshold, rel=1e-6)
        values, hidden = arrays(kernel, part.residuals[0])
        np.testing.assert_allclose(values.ravel(), k, atol=1e-6)
        np.testing.assert_allclose(hidden.ravel(), q, atol=1e-6)


@settings(max_examples=10)
@given(
    st.lists(st.floats(-3, 3, width=32), min_size=2, max_size=40),
    st.floats(-1, 32),
)
def test_a_split_is_that_of_the_reference(values, threshold):
    kept, hidden = arrays(*split(tensor(values), tensor(threshold)))
    whole, used, cut = reference.cut_off(values, threshold)
    np.testing.assert_allclose(kept + hidden, whole, atol=1e-5)
    assert not (kept * hidden).any()
    # Rounding decides about those that lie on the cut.
    clear = np.abs(np.abs(whole) - cut) > 1e-5
    np.testing.assert_allclose(kept[clear], used[clear], atol=1e-5)


# Training ----------------------------------------------------------------


@pytest.mark.parametrize("own", [None, 0.6], ids=["budget", "own targets"])
def test_training_is_that_of_the_reference(own):
    asl = AdaptiveSparsity(5e-3, rate=0.05, sparsity=own)
    model = network([asl, asl], (6, 10, 3))
    kernels = arrays(*model.trainable_variables)
    x, y = data()
    first = [0.45, 0.45] if own else [0.6, 0.6]
    costs = [1.0, 1.0] if own else [60 / 90, 30 / 90]
    left = [0.4, 0.4] if own else [0.2, 0.2]
    part = started(model, first, costs, left, 10.0)
    steps = reference.train_adaptive_sparsity(
        kernels,
        first,
        x.astype("float64"),
        y,
        left,
        [[0], [1]] if own else [[0, 1]],
        strength=10.0,
        weight_decay=5e-3,
        rate=0.05,
        steps=15,
        learning_rate=0.05,
        momentum=0.9,
    )
    for thresholds, parts in steps:
        model.train_on_batch(x, y)
        np.testing.assert_allclose(
            arrays(part.thresholds)[0], thresholds, atol=1e-5
        )
        got = arrays(*model.trainable_variables, *part.residuals)
        expected = [used for used, _ in parts] + [gone for _, gone in parts]
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def budget_run(optimizer, learning_rate, rate, epochs=5):
    steps = epochs * 32
    decay = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    asl = AdaptiveSparsity(5e-4, rate=rate)
    model = network([asl] * 3, (20, 60, 60, 4), optimizer(decay))
    history = model.fit(
        *data(20, 4, 512),
        batch_size=16,
        epochs=epochs,
        verbose=0,
        callbacks=[PruningScheduler(0.8)],
    ).history
    assert history["asl_sparsity"][-1] == pytest.approx(0.8, abs=0.005)
    assert history["swd_strength"][-1] == pytest.approx(3000.0)
    left, size = kept_and_all(model)
    assert size - left == round(0.8 * size)
    return [np.mean(k == 0.0) for k in arrays(*model.trainable_variables)]


def test_the_budget_is_met_before_and_after_removal():
    shares = budget_run(
        lambda r: keras.optimizers.SGD(r, momentum=0.9), 0.05, 0.01
    )
    # Kernels give up what their loss allows.
    assert max(shares) - min(shares) > 0.02


@pytest.mark.slow
def test_the_budget_is_met_with_adamw():
    budget_run(keras.optimizers.AdamW, 0.01, 0.2, epochs=10)


def test_a_target_of_its_own_is_met_exactly():
    asl, own = AdaptiveSparsity(), AdaptiveSparsity(sparsity=0.5)
    model = network([asl, own], (6, 40, 3))
    model.fit(
        *data(),
        epochs=3,
        verbose=0,
        callbacks=[PruningScheduler(0.9, Constant(10.0))],
    )
    one, two = arrays(*model.trainable_variables)
    assert np.count_nonzero(one) == round(0.1 * one.size)
    assert np.count_nonzero(two) == round(0.5 * two.size)


def test_a_budget_in_operations_is_met():
    asl = AdaptiveSparsity()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(8, 3, padding="same", kernel_regularizer=asl),
            layers.GlobalAveragePooling2D(),
            layers.Dense(40, activation="relu", kernel_regularizer=asl),
            layers.Dense(3, kernel_regularizer=asl, name="head"),
        ]
    )
    model.compile(with_pruning(keras.optimizers.SGD(0.05, 0.9)), "mse")
    x = np.random.default_rng(0).standard_normal((64, 8, 8, 2))
    y = np.random.default_rng(1).standard_normal((64, 3))
    model.fit(
        x,
        y,
        epochs=2,
        verbose=0,
        callbacks=[PruningScheduler(Operations(left=0.3), Constant(10.0))],
    )
    cost, total = 0, 0
    for layer, positions in zip(model.layers[::1], (64, 0, 1, 1), strict=True):
        if positions:
            kernel = arrays(layer.kernel)[0]
            cost += positions * np.count_nonzero(kernel)
            total += positions * kernel.size
    assert 0.3 * total - 64 < cost <= 0.3 * total


def test_a_budget_in_parameters_counts_the_biases_too():
    asl = AdaptiveSparsity()
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(50, kernel_regularizer=asl)]
    )
    model.compile(with_pruning("sgd"), "mse")
    model.fit(
        *data(6, 50),
        verbose=0,
        callbacks=[PruningScheduler(Parameters(left=0.4), Constant(10.0))],
    )
    kernel = arrays(model.layers[0].kernel)[0]
    assert np.count_nonzero(kernel) + 50 == int(0.4 * 350)


@given(st.data())
def test_the_fewest_lowest_entries_save_a_cost(data):
    sizes = data.draw(st.lists(st.integers(1, 8), min_size=1, max_size=4))
    costs = [data.draw(st.integers(1, 9)) for _ in sizes]
    scores = [
        np.array([data.draw(st.integers(0, 5)) for _ in range(n)], float)
        for n in sizes
    ]
    total = sum(c * n for c, n in zip(costs, sizes, strict=True))
    least = data.draw(st.integers(0, total))
    counts = lowest_until(scores, np.array(costs, float), float(least))
    ranked = sorted((v, i) for i, values in enumerate(scores) for v in values)
    expected, saved = [0] * len(sizes), 0
    for _, i in ranked:
        if saved >= least:
            break
        expected[i] += 1
        saved += costs[i]
    assert counts == expected


# What is hidden ----------------------------------------------------------


def test_for_a_moment_a_full_mask_brings_back_what_is_hidden():
    model = network([AdaptiveSparsity()], (6, 20))
    part = started(model, [1.0], [1.0], [0.3], 1.0)
    (kernel,) = model.trainable_variables
    before, whole = arrays(kernel)[0].copy(), part.values(0)
    weights = Prunable(model, 0.0, GlobalRanking()).weights
    assert 0 < np.count_nonzero(before) < before.size
    with removed_for_a_moment(weights, [np.ones(before.shape, bool)]):
        np.testing.assert_array_equal(arrays(kernel)[0], whole)
    np.testing.assert_array_equal(arrays(kernel)[0], before)


def trained(epochs=2, **arguments):
    asl = AdaptiveSparsity()
    model = network([asl, asl], (6, 40, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The run ended at")
        model.fit(
            *data(),
            epochs=epochs,
            verbose=0,
            callbacks=[
                PruningScheduler(0.8, Constant(10.0), **arguments),
            ],
        )
    return model


def test_removal_brings_back_what_was_cut_off_beyond_the_target():
    model = trained(total_steps=1000)
    (part,) = model.optimizer.parts
    whole = [part.values(i).copy() for i in range(2)]
    assert sum(remove(model, 0.2).values()) == round(0.2 * 360)
    kernels = arrays(*model.trainable_variables)
    for kernel, values in zip(kernels, whole, strict=True):
        np.testing.assert_array_equal(kernel[kernel != 0], values[kernel != 0])


def test_what_was_removed_does_not_come_back():
    model = trained()
    before = arrays(*model.trainable_variables)
    assert remove(model, 0.5)
    for kernel, old in zip(
        arrays(*model.trainable_variables), before, strict=True
    ):
        np.testing.assert_array_equal(kernel, old)


def test_zeros_stay_after_an_early_removal():
    model = trained(epochs=4, remove_at=0.5)
    left, size = kept_and_all(model)
    assert size - left == round(0.8 * size)


@pytest.mark.parametrize("remove_at", [0.5, 1.0])
def test_a_run_that_goes_on_after_removal_changes_no_zero(remove_at, tmp_path):
    model = trained(epochs=4, remove_at=remove_at)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    before = arrays(*loaded.trainable_variables)
    (part,) = loaded.optimizer.parts
    part.begin(np.full(2, 0.5), np.full(2, 0.2))
    for kernel, old in zip(
        arrays(*loaded.trainable_variables), before, strict=True
    ):
        np.testing.assert_array_equal(kernel, old)
    zeros = np.concatenate([k.ravel() == 0.0 for k in before])
    scores = np.concatenate([part.scores(i) for i in range(2)])
    assert scores[zeros].max() < scores[~zeros].min()


def test_thresholds_stand_still_after_the_run():
    model = trained(epochs=4)
    (part,) = model.optimizer.parts
    before = [part.threshold(i) for i in range(2)]
    model.fit(*data(), epochs=2, verbose=0)
    assert [part.threshold(i) for i in range(2)] == before


def test_weights_restored_from_outside_are_not_overwritten():
    model = trained(total_steps=1000)
    (part,) = model.optimizer.parts
    kernel = model.trainable_variables[0]
    restored = np.full(kernel.shape, 0.25, "float32")
    kernel.assign(restored)
    np.testing.assert_array_equal(part.values(0), restored)


def test_metrics_after_removal_leave_the_kernels_as_they_are():
    x, y = data()
    asl = AdaptiveSparsity()
    model = network([asl, asl], (6, 40, 3), keras.optimizers.SGD(1e-9))
    scheduler = PruningScheduler(
        0.3, Constant(0.0), monitor_data=(x, y), total_steps=10**6
    )
    with pytest.warns(UserWarning, match="The run ended at"):
        history = model.fit(
            x, y, epochs=2, verbose=0, callbacks=[scheduler]
        ).history
    assert "loss_if_removed" in history
    zeros = history["asl_sparsity"]
    assert zeros[0] == zeros[1]


@pytest.mark.slow
def test_a_run_goes_on_after_it_was_saved(tmp_path):
    asl = AdaptiveSparsity(rate=0.05)
    x, y = data()

    def fit(model, epochs, initial_epoch=0):
        scheduler = PruningScheduler(0.8, Constant(10.0), total_steps=4 * 4)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The run ended at")
            model.fit(
                x,
                y,
                epochs=epochs,
                initial_epoch=initial_epoch,
                shuffle=False,
                verbose=0,
                callbacks=[scheduler],
            )

    whole = network([asl, asl], (6, 40, 3))
    start = whole.get_weights()
    fit(whole, 4)
    halves = network([asl, asl], (6, 40, 3))
    halves.set_weights(start)
    fit(halves, 2)
    halves.save(tmp_path / "half.keras")
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    fit(loaded, 4, initial_epoch=2)
    for one, other in zip(
        arrays(*whole.trainable_variables),
        arrays(*loaded.trainable_variables),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
def test_a_model_whose_optimizer_is_new_starts_from_its_zeros():
    model = trained()
    before = arrays(*model.trainable_variables)
    model.compile(with_pruning(keras.optimizers.SGD(1e-9)), "mse")
    model.fit(
        *data(),
        verbose=0,
        callbacks=[PruningScheduler(0.8, Constant(1.0))],
    )
    (part,) = model.optimizer.parts
    for i, old in enumerate(before):
        share = np.mean(old == 0.0)
        expected = max(0.6 * 0.8, share)
        got = 1.0 - float(predicted_density(tensor(part.threshold(i))))
        assert got == pytest.approx(expected, abs=1e-5)


# Errors ------------------------------------------------------------------


def test_a_model_with_a_plain_optimizer_is_refused():
    model = network([AdaptiveSparsity()], (6, 3))
    model.compile("sgd", "mse")
    with pytest.raises(
        ValueError, match=r"AdaptiveSparsity.*with_pruning.*optimizer=SGD"
    ):
        model.fit(*data(), verbose=0, callbacks=[PruningScheduler(0.5)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1.0}, r"`weight_decay`.*weight_decay=-1\.0"),
        ({"rate": 0.0}, r"`rate`.*greater than 0.*rate=0\.0"),
        ({"sparsity": 1.5}, r"`sparsity`.*sparsity=1\.5"),
    ],
    ids=str,
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveSparsity(**arguments)


@pytest.mark.filterwarnings("ignore:A weight selected")
@pytest.mark.parametrize("other", [SelectiveWeightDecay, IrrelevantWeights])
def test_beside_another_method_each_meets_the_target(other):
    model = network([AdaptiveSparsity(), other()], (6, 4, 3))
    pruning = PruningScheduler(0.5, allocation=GlobalRanking())
    history = model.fit(*data(), epochs=4, verbose=0, callbacks=[pruning])
    kernels = [layer.kernel for layer in model.layers if layer.weights]
    zeros = [int(np.sum(ops.convert_to_numpy(k) == 0.0)) for k in kernels]
    assert zeros == [12, 6]
    # The larger strength of the two, each on its own schedule.
    strength = AdaptiveSparsity.schedule(3 / 16)  # at the epoch's last step
    assert history.history["swd_strength"][0] == pytest.approx(strength)


def test_a_budget_that_is_out_of_reach():
    asl = AdaptiveSparsity()
    model = network([asl, SelectiveWeightDecay(sparsity=0.5)], (6, 4, 30))
    with pytest.raises(ValueError, match=r"out of reach.*Raise `left`"):
        remove(model, Parameters(left=0.1))


def test_a_budget_for_weights_that_cannot_meet_it():
    model = network([AdaptiveSparsity(), SelectiveWeightDecay()], (6, 4, 3))
    with pytest.raises(ValueError, match="cannot meet the budget"):
        remove(model, Parameters(left=0.5))


def test_two_methods_cannot_share_a_budget():
    model = network([AdaptiveSparsity(), IrrelevantWeights()], (6, 4, 3))
    message = r"cannot share the budget.*AdaptiveSparsity', 'Irrelevant"
    with pytest.raises(ValueError, match=message):
        model.fit(
            *data(),
            verbose=0,
            callbacks=[PruningScheduler(Parameters(left=0.5))],
        )


@pytest.mark.parametrize("sizes", [(6, 1, 1), (6, 4, 3)], ids=["one", "equal"])
def test_kernels_of_one_value_are_refused(sizes):
    model = network([AdaptiveSparsity(), AdaptiveSparsity()], sizes)
    last = model.layers[-1].kernel
    last.assign(np.ones(last.shape))
    x, y = data(outputs=sizes[-1])
    with pytest.raises(ValueError, match=r"holds a single value.*centering"):
        model.fit(x, y, verbose=0, callbacks=[PruningScheduler(0.5)])


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX has double precision off"
)
def test_double_precision_is_pruned_exactly():
    keras.config.set_dtype_policy("float64")
    try:
        model = network([AdaptiveSparsity(), AdaptiveSparsity()], (6, 4, 3))
    finally:
        keras.config.set_dtype_policy("float32")
    pruning = PruningScheduler(0.5)
    model.fit(*data(), epochs=2, verbose=0, callbacks=[pruning])
    assert sum(np.count_nonzero(w == 0.0) for w in model.get_weights()) == 18


@pytest.mark.parametrize("initializer", ["zeros", "ones"])
def test_a_run_that_is_refused_changes_nothing(initializer):
    model = network([AdaptiveSparsity(), AdaptiveSparsity()], (6, 8, 3))
    kernel = model.layers[1].kernel
    kernel.assign(keras.initializers.get(initializer)(kernel.shape))
    before = model.get_weights()
    with pytest.raises(ValueError, match="holds a single value"):
        model.fit(*data(), verbose=0, callbacks=[PruningScheduler(0.5)])
    (part,) = model.optimizer.parts
    assert not np.any(arrays(part.costs))
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
