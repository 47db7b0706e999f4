"""Irrelevant weights: the decay, the removal under a floor."""

import keras
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

from keras_swd import (
    AdaptiveSparsity,
    FloorScheduler,
    IrrelevantWeights,
    Lobster,
    with_pruning,
)
from keras_swd.callbacks.floor_scheduler import faded, smallest_left

W = [0.5, -0.02, 1.5, 0.0, -0.3]
G = [0.1, -2.0, 0.0, 0.7, -0.05]


def tensor(values):
    return ops.convert_to_tensor(np.asarray(values, "float32"))


def irrelevance(regularizer, grads):
    present = np.ones(len(grads))
    f = regularizer.irrelevance(tensor(grads), tensor(present))
    return ops.convert_to_numpy(f)


def network(regularizer, sizes, optimizer=None, **compiled):
    stack = [
        layers.Dense(n, kernel_regularizer=regularizer, use_bias=False)
        for n in sizes[1:]
    ]
    model = keras.Sequential([keras.Input((sizes[0],)), *stack])
    plain = optimizer or keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(with_pruning(plain), **{"loss": "mse", **compiled})
    return model


def part_of(model):
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    (part,) = model.optimizer.parts
    return part


def data(samples=32):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 5)).astype("float32")
    y = rng.standard_normal((samples, 3)).astype("float32")
    return x, y


class Metric(keras.callbacks.Callback):
    """Puts given values into the logs, as a metric on validation data."""

    def __init__(self, *values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["val_accuracy"] = self.values[epoch]


# Formulas ----------------------------------------------------------------

FORMS = [
    (
        {"alpha": 1.0},
        [0.90483742, 0.13533528, 1, 0.49658530, 0.95122942],
        [9.04837418e-03, -5.41341133e-05, 0.03, 0, -5.70737655e-03],
    ),
    (
        {"alpha": 0.1},
        [0.36787944, 2.06115362e-09, 1, 9.11881966e-04, 0.60653066],
        [3.67879441e-03, -8.24461449e-13, 0.03, 0, -3.63918396e-03],
    ),
    (
        {},
        [0.83908892, 0.02993365, 1, 0.29285720, 0.91601797],
        [8.39088919e-03, -1.19734610e-05, 0.03, 0, -5.49610781e-03],
    ),
]


@pytest.mark.parametrize(("arguments", "f", "slope"), FORMS, ids=str)
def test_the_penalty_by_hand(arguments, f, slope):
    regularizer = IrrelevantWeights(**arguments)
    np.testing.assert_allclose(irrelevance(regularizer, G), f, rtol=1e-5)
    model = network(regularizer, (5, 1), keras.optimizers.SGD(1.0))
    (kernel,) = model.trainable_variables
    kernel.assign(np.reshape(W, (5, 1)))
    part = part_of(model)
    part.set(0.01)
    model.optimizer.apply([tensor(np.reshape(G, (5, 1)))], [kernel])
    step = np.array(W) - ops.convert_to_numpy(kernel).ravel() - np.array(G)
    np.testing.assert_allclose(step, slope, atol=3e-7)


def test_the_decay_after_the_step_by_hand():
    model = network(Lobster(), (5, 1), keras.optimizers.SGD(0.0))
    (kernel,) = model.trainable_variables
    kernel.assign(np.reshape(W, (5, 1)))
    part_of(model).set(0.1)
    model.optimizer.apply([tensor(np.reshape(G, (5, 1)))], [kernel])
    np.testing.assert_allclose(
        irrelevance(Lobster(), G), [0.9, 0, 1, 0.3, 0.95], rtol=1e-6
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(kernel).ravel(),
        [0.455, -0.02, 1.35, 0, -0.2715],
        rtol=1e-6,
    )


def test_where_no_gradient_is_felt_all_weights_are_irrelevant():
    assert irrelevance(IrrelevantWeights(), [0.0, 0.0]).tolist() == [1.0, 1.0]


def test_the_strength_fades_by_hand():
    fades = [faded(1e-3, t, 600) for t in (1, 250, 600, 601)]
    expected = [9.98333333e-04, 5.83333333e-04, 0.0, 0.0]
    assert fades == pytest.approx(expected, rel=1e-8, abs=1e-18)


def test_the_smallest_go_by_hand():
    w = [0.31, -0.02, 0.9, 0.11, -0.05, 0.44, -0.27, 0.08, 0.63, -0.19]
    scores, seen = np.abs(w), []
    for count in (3, 2, 2, 1):
        (mask,) = smallest_left([scores], count)
        scores = scores * mask
        seen.append("".join(str(int(m)) for m in mask))
    assert seen == ["1011011011", "1010011010", "0010010010", "0010000010"]


@given(
    st.lists(
        st.lists(st.integers(0, 4), min_size=1, max_size=8),
        min_size=1,
        max_size=3,
    ),
    st.data(),
)
def test_as_many_go_as_were_asked_for(scores, data):
    scores = [np.array(s, float) for s in scores]
    left = sum(int(np.count_nonzero(s)) for s in scores)
    count = data.draw(st.integers(0, left))
    masks = smallest_left(scores, count)
    kept = [s[m] for s, m in zip(scores, masks, strict=True)]
    gone = [s[~m] for s, m in zip(scores, masks, strict=True)]
    assert sum(k.size for k in kept) == left - count
    if left > count:
        assert max(np.concatenate(gone), default=0) <= min(np.concatenate(kept))


X = np.array([[1, 0, 2], [-1, 1, 0.5], [0.5, -2, 1], [2, 1, -1]], "float32")
Y = np.array([[1], [0], [1], [0]], "float32")


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (
            lambda: keras.optimizers.SGD(0.5, momentum=0.9),
            [
                [0.26215905, -0.40495109, 0.28394081],
                [0.20081296, -0.74593621, 0.58436479],
            ],
        ),
        (
            lambda: keras.optimizers.Adam(0.01),
            [[0.29000042, -0.20999992, 0.10999991]],
        ),
    ],
    ids=["sgd", "adam"],
)
def test_whole_steps_by_hand(optimizer, expected):
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model = network(IrrelevantWeights(0.2), (3, 1), optimizer(), loss=loss)
    (kernel,) = model.trainable_variables
    kernel.assign([[0.3], [-0.2], [0.1]])
    part_of(model).set(0.05)
    for after in expected:
        model.train_on_batch(X, Y)
        np.testing.assert_allclose(
            ops.convert_to_numpy(kernel).ravel(), after, atol=1e-6
        )


# Training ----------------------------------------------------------------


@pytest.mark.parametrize("alpha", [None, 0.05])
def test_training_is_that_of_the_reference(alpha):
    x, y = data()
    model = network(IrrelevantWeights(alpha), (5, 8, 3))
    expected = reference.train_irrelevant(
        model.get_weights(), x, y, alpha, 0.5, 0.3, 1, 5, 0.05, 0.9
    )
    history = model.fit(
        x,
        y,
        batch_size=32,
        epochs=5,
        verbose=0,
        callbacks=[
            Metric(1, 1, 1, 1, 1),
            FloorScheduler(0.5, share=0.3, strength=0.5),
        ],
    ).history
    left = 64
    for share in history["sparsity"][:-1]:
        left -= round(0.3 * left)
        assert share == pytest.approx(1.0 - left / 64)
    assert history["sparsity"][-1] == history["sparsity"][-2]
    for one, other in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)
        np.testing.assert_array_equal(one == 0.0, other == 0.0)


def run(*values, floor=0.5, model=None, steps=2, initial_epoch=0, **arguments):
    model = model or network(IrrelevantWeights(), (5, 8, 3))
    scheduler = FloorScheduler(floor, **{"share": 0.25, **arguments})
    history = model.fit(
        *data(),
        batch_size=32 // steps,
        epochs=len(values),
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=[Metric(*values), scheduler],
    ).history
    return model, history


def zeros(model):
    return sum(int(np.count_nonzero(w == 0.0)) for w in model.get_weights())


def test_nothing_goes_below_the_floor_and_the_decay_stays_off():
    model, history = run(0.9, 0.2, 0.3, 0.9, strength=1.0)
    assert history["sparsity"] == [0.25] * 4
    assert zeros(model) == 16
    # The last steps of the epochs: it fades within one, and starts anew.
    assert history["swd_strength"] == [0.0] * 4


def test_it_ends_with_the_last_weights_above_the_floor():
    model, history = run(0.9, 0.8, 0.1)
    assert history["sparsity"] == pytest.approx([0.25, 0.4375, 0.4375])
    # What was above the floor had lost one round, not two.
    assert zeros(model) == 16


class Restore(keras.callbacks.Callback):
    """Puts the weights of the beginning in place at the end."""

    def on_train_begin(self, logs=None):
        self.weights = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)


def test_it_ends_above_the_floor_whatever_another_callback_restores():
    model = network(IrrelevantWeights(), (5, 8, 3))
    with pytest.warns(UserWarning, match="before a removal.*put back"):
        history = model.fit(
            *data(),
            epochs=3,
            verbose=0,
            callbacks=[
                Restore(),
                Metric(1, 1, 1),
                FloorScheduler(0.5, share=0.5),
            ],
        ).history
    assert zeros(model) / 64 == history["sparsity"][-1] > 0.1


def test_a_metric_of_several_numbers_is_no_floor():
    with pytest.raises(ValueError, match=r"`monitor`.*several.*average"):
        run(np.array([0.9, 0.8]))


def test_a_model_that_diverges_ends_with_the_last_weights_above_the_floor():
    model, _ = run(0.9, float("nan"))
    assert zeros(model) == 0


def test_epochs_without_validation_remove_nothing():
    model = network(IrrelevantWeights(), (5, 8, 3), metrics=["mae"])
    scheduler = FloorScheduler(0.0, monitor="val_mae", share=0.25)
    with pytest.warns(UserWarning, match=r"val_mae.*`validation_freq`"):
        history = model.fit(
            *data(),
            epochs=5,
            verbose=0,
            validation_data=data(),
            validation_freq=2,
            callbacks=[scheduler],
        ).history
    assert history["sparsity"] == pytest.approx(
        [0.0, 0.25, 0.25, 0.4375, 0.4375]
    )
    # The last epoch is not known to be above the floor, the fourth is.
    assert zeros(model) == 16


def test_a_floor_never_reached_is_warned_of():
    with pytest.warns(UserWarning, match=r"never above.*0\.4.*floor=0\.5"):
        model, _ = run(0.3, 0.4)
    assert zeros(model) == 0


def test_removal_stops_at_a_sparsity_exactly():
    model, history = run(1, 1, 1, 1, sparsity=0.3)
    assert history["sparsity"] == pytest.approx([0.25] + [19 / 64] * 3)
    assert zeros(model) == round(0.3 * 64)


@pytest.mark.slow
def test_a_run_goes_on_after_it_was_saved(tmp_path):
    start = network(IrrelevantWeights(), (5, 8, 3))
    first = start.get_weights()
    whole, _ = run(1, 1, 1, 1, model=start, strength=0.5)
    half = network(IrrelevantWeights(), (5, 8, 3))
    half.set_weights(first)

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.save(tmp_path / "half.keras")
                self.model.stop_training = True

    half.fit(
        *data(),
        batch_size=16,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[
            Metric(1, 1, 1, 1),
            FloorScheduler(0.5, share=0.25, strength=0.5),
            Save(),
        ],
    )
    loaded = keras.saving.load_model(tmp_path / "half.keras")
    run(1, 1, 1, 1, model=loaded, strength=0.5, initial_epoch=2)
    for one, other in zip(
        whole.get_weights(), loaded.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


class Stop(keras.callbacks.Callback):
    """Ends the run after the second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


def fit_below_a_floor(model, *callbacks):
    scheduler = FloorScheduler(0.5, share=0.3, strength=0.5)
    return model.fit(
        *data(),
        batch_size=16,
        epochs=4,
        verbose=0,
        callbacks=[Metric(1, 1, 1, 1), scheduler, *callbacks],
    ).history


def test_averaged_weights_bring_no_removed_weight_back():
    plain = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9)
    model = network(IrrelevantWeights(), (5, 8, 3), plain)
    history = fit_below_a_floor(model)
    assert zeros(model) / 64 == history["sparsity"][-1] > 0.5


def test_averages_put_in_place_after_each_epoch_are_pruned_too():
    plain = keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9)
    model = network(IrrelevantWeights(), (5, 8, 3), plain)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    scheduler = FloorScheduler(0.5, share=0.3, strength=0.5)
    seen = []

    class Seen(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(zeros(self.model) / 64)

        def on_train_batch_end(self, batch, logs=None):
            assert zeros(self.model) / 64 == (seen or [0.0])[-1]

    history = model.fit(
        *data(),
        batch_size=16,
        epochs=4,
        verbose=0,
        callbacks=[swap, Metric(1, 1, 1, 1), scheduler, Seen()],
    ).history
    assert seen == history["sparsity"]
    assert seen[1] > seen[0] > 0


def test_evaluation_after_the_run_changes_nothing():
    model = network(IrrelevantWeights(), (5, 8, 3))
    scheduler = FloorScheduler(0.5, share=0.3, strength=0.5)
    values = Metric(1, 1, 1, 0)
    arguments = {"batch_size": 16, "epochs": 4, "verbose": 0}
    model.fit(*data(), **arguments, callbacks=[values, scheduler])
    before = zeros(model)
    model.evaluate(*data(), verbose=0, callbacks=[scheduler])
    assert zeros(model) == before


def test_a_second_run_trains_the_zeros_that_it_begins_with():
    model = network(IrrelevantWeights(), (5, 8, 3))
    fit_below_a_floor(model)
    before = zeros(model)
    never = FloorScheduler(0.5, share=0.3, strength=0.5)
    with pytest.warns(UserWarning, match="never above the floor"):
        model.fit(
            *data(),
            batch_size=16,
            epochs=2,
            verbose=0,
            callbacks=[Metric(0, 0), never],
        )
    assert zeros(model) < before


def test_a_run_that_is_stopped_ends_before_the_removal_that_nothing_followed():
    model = network(IrrelevantWeights(), (5, 8, 3))
    history = fit_below_a_floor(model, Stop())
    assert zeros(model) / 64 == history["sparsity"][0] < history["sparsity"][1]


def test_the_decay_begins_with_the_run_whatever_its_first_epoch():
    model = network(IrrelevantWeights(), (5, 3))
    seen = []

    class Strengths(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            part = part_of(self.model)
            seen.append(float(ops.convert_to_numpy(part.strength)))

    strengths = Strengths()
    model.fit(
        *data(),
        batch_size=16,
        initial_epoch=3,
        epochs=5,
        verbose=0,
        callbacks=[
            Metric(0, 0, 0, 0, 1),
            FloorScheduler(0.5, strength=0.5),
            strengths,
        ],
    )
    # It fades within an epoch of two steps.
    assert seen == [0.25, 0.0, 0.0, 0.0]


def test_half_precision_trains():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, history = run(1, 1, 1)
    finally:
        keras.config.set_dtype_policy("float32")
    assert np.isfinite(history["loss"]).all()
    assert zeros(model) == 28


# Errors ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"floor": "98"}, "`floor`.*floor='98'"),
        ({"floor": 0.9, "share": 1.0}, r"`share`.*share=1\.0"),
        ({"floor": 0.9, "strength": 0.0}, r"`strength`.*strength=0\.0"),
        ({"floor": 0.9, "sparsity": 2}, "`sparsity`.*sparsity=2"),
    ],
    ids=str,
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        FloorScheduler(**arguments)


@pytest.mark.parametrize("name", ["alpha", "scale"])
def test_settings_out_of_range(name):
    with pytest.raises(ValueError, match=rf"`{name}`.*{name}=-1\.0"):
        IrrelevantWeights(**{name: -1.0})


def test_a_metric_that_is_not_logged():
    model = network(IrrelevantWeights(), (5, 3))
    message = r"`monitor`.*val_accuracy.*\['loss'"
    with (
        pytest.warns(UserWarning, match=message),
        pytest.warns(UserWarning, match="missing.*Pass `validation_data`"),
    ):
        model.fit(*data(), verbose=0, callbacks=[FloorScheduler(0.5)])
    with pytest.raises(ValueError, match=message):
        model.fit(
            *data(),
            verbose=0,
            validation_data=data(),
            callbacks=[FloorScheduler(0.5)],
        )
    with pytest.raises(ValueError, match=r"`monitor`.*'acc'.*\['loss'"):
        model.fit(*data(), verbose=0, callbacks=[FloorScheduler(0.5, "acc")])


def test_a_model_with_a_plain_optimizer_is_refused():
    model = network(IrrelevantWeights(), (5, 3))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"IrrelevantWeights.*with_pruning"):
        model.fit(*data(), verbose=0, callbacks=[FloorScheduler(0.5)])


def test_a_model_without_the_method_is_refused():
    model = network(AdaptiveSparsity(), (5, 3))
    with pytest.raises(ValueError, match="carries `IrrelevantWeights`"):
        model.fit(*data(), verbose=0, callbacks=[FloorScheduler(0.5)])
