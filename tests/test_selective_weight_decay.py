import dataclasses
import gc

import keras
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from keras_swd import (
    Channel,
    Constant,
    Exponential,
    GlobalRanking,
    PruningScheduler,
    SelectiveWeightDecay,
    Uniform,
    remove,
    sparsity_report,
)
from keras_swd.backend.fused import LARGE, LARGE_SUM, PIECES
from keras_swd.regularizers.selectors import ControlSlice, Threshold
from keras_swd.selection import kth_smallest


def select(regularizer):
    return Threshold(regularizer.granularity, regularizer.criterion)


def value_and_gradient(regularizer, kernel, strength, threshold):
    """The penalty, and its gradient as one step of plain SGD shows it."""
    layer = keras.layers.Dense(
        kernel.shape[1], use_bias=False, kernel_regularizer=regularizer
    )
    model = keras.Sequential([keras.Input((kernel.shape[0],)), layer])
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    uses = [ControlSlice(select(regularizer), 0, 1)]
    controls, _ = regularizer.attach([layer.kernel], uses, model)
    controls.set(strength, [threshold])
    layer.kernel.assign(kernel)
    x = np.zeros((1, kernel.shape[0]))
    loss = model.train_on_batch(x, np.zeros((1, kernel.shape[1])))
    return float(loss), kernel - ops.convert_to_numpy(layer.kernel)


def test_value_and_gradient_by_hand():
    kernel = np.array([[0.5, -0.1, 0.3], [-0.8, 0.05, 0.2]], "float32")
    threshold = float(kth_smallest(kernel.ravel(), 3))
    assert threshold == np.float32(0.2)
    value, gradient = value_and_gradient(
        SelectiveWeightDecay(0.01), kernel, 10.0, threshold
    )
    assert value == pytest.approx(0.0077875, rel=1e-6)
    np.testing.assert_allclose(
        gradient,
        [[0.005, -0.011, 0.003], [-0.008, 0.0055, 0.022]],
        atol=1e-7,
    )


def test_units_that_tie_at_the_threshold_are_all_penalized():
    kernel = np.array([[0.2, -0.2, 0.5], [0.2, 0.1, -0.2]], "float32")
    regularizer = SelectiveWeightDecay(0.01)
    value, gradient = value_and_gradient(regularizer, kernel, 10.0, 0.2)
    assert value == pytest.approx(0.0106, rel=1e-6)
    np.testing.assert_allclose(
        gradient,
        [[0.022, -0.022, 0.005], [0.022, 0.011, -0.022]],
        atol=1e-7,
    )


@given(
    kernel=hnp.arrays(
        "float32",
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
        elements=st.floats(-4, 4, width=16),
    ),
    weight_decay=st.sampled_from([0.0, 5e-4, 0.125]),
    strength=st.sampled_from([0.0, 0.1, 1e4]),
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 2.0]),
)
def test_the_penalty_agrees_with_the_paper(
    kernel, weight_decay, strength, threshold
):
    regularizer = SelectiveWeightDecay(weight_decay)
    expected, _ = reference.swd_penalty(
        kernel, weight_decay, strength, threshold
    )
    penalty = regularizer.penalty(
        ops.convert_to_tensor(kernel),
        strength,
        select(regularizer),
        ops.convert_to_tensor([threshold]),
    )
    assert float(penalty) == pytest.approx(expected, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize("shape", [(211, 307), (331, 307)], ids=str)
@pytest.mark.parametrize("granularity", [None, Channel(-1)], ids=repr)
def test_the_penalty_of_a_large_kernel(granularity, shape):
    swd = SelectiveWeightDecay(0.01, granularity=granularity)
    kernel = np.random.default_rng(0).normal(size=shape).astype("float32")
    threshold = 0.7 if granularity is None else 0.8
    value, gradient = value_and_gradient(swd, kernel, 10.0, threshold)
    scores = np.abs(kernel)
    if granularity is not None:
        scores = np.broadcast_to(scores.mean(axis=0), kernel.shape)
    rates = np.where(scores <= threshold, 0.11, 0.01)
    assert 0.0 < np.mean(rates == 0.11) < 1.0
    double = kernel.astype("float64")
    assert value == pytest.approx(0.5 * np.sum(rates * double**2), rel=2e-6)
    # What a step has changed is known to the rounding of the kernel.
    np.testing.assert_allclose(gradient, rates * double, atol=5e-7)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "size",
    # The last does not divide into pieces.
    [0, LARGE - 1, LARGE, LARGE_SUM, LARGE_SUM + PIECES - 1],
)
def test_the_penalty_is_computed_in_float32(dtype, size):
    kernel = np.random.default_rng(0).normal(size=(1, size)).astype(dtype)
    swd = SelectiveWeightDecay()
    penalty = swd.penalty(
        ops.convert_to_tensor(kernel), 5e3, select(swd), [0.5]
    )
    rates = np.where(np.abs(kernel) <= 0.5, 5001.0, 1.0)
    expected = 0.5e-3 * np.sum(rates * kernel.astype("float64") ** 2)
    assert float(penalty) == pytest.approx(expected, rel=2e-6)


@dataclasses.dataclass(frozen=True)
class Power:
    """A criterion that knows of Keras' operations alone."""

    exponent: int

    def __call__(self, values):
        return ops.power(ops.abs(values), self.exponent)


@pytest.mark.parametrize("granularity", [None, Channel()], ids=str)
def test_a_criterion_of_ones_own(granularity):
    swd = SelectiveWeightDecay(granularity=granularity, criterion=Power(2))
    layer = keras.layers.Dense(8, kernel_regularizer=swd)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    pruning = PruningScheduler(0.5, Constant(100.0))
    x, y = np.ones((40, 6)), np.ones((40, 8))
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[pruning])
    assert np.count_nonzero(layer.get_weights()[0]) == 24


def test_a_criterion_that_cannot_be_hashed_is_refused():
    @dataclasses.dataclass
    class Changing:
        exponent: int

        def __call__(self, values):
            return abs(values) ** self.exponent

    for criterion in (Changing(2), "magnitude"):
        with pytest.raises(ValueError, match=r"`criterion`.*frozen=True"):
            SelectiveWeightDecay(criterion=criterion)


def test_without_a_scheduler_it_is_plain_weight_decay():
    kernel = np.random.default_rng(0).standard_normal((3, 4), "float32")
    tensor = ops.convert_to_tensor(kernel)
    plain = keras.regularizers.L2(0.5 * 0.02)(tensor)
    assert float(SelectiveWeightDecay(0.02)(tensor)) == pytest.approx(
        float(plain), rel=1e-6
    )


def test_half_precision_does_not_overflow():
    values = ops.cast(ops.full((100, 100), 2.0), "float16")
    swd = SelectiveWeightDecay(1.0)
    penalty = swd.penalty(
        values, 1e4, select(swd), ops.convert_to_tensor([3.0])
    )
    assert keras.backend.standardize_dtype(penalty.dtype) == "float32"
    assert float(penalty) == pytest.approx(0.5 * 10001 * 40000, rel=1e-6)


# These runs are short: what they check is the path, not the outcome.
pytestmark = pytest.mark.filterwarnings("ignore:A weight selected")

X = np.array([[1, 0.5], [-0.5, 1], [0.25, -1], [-1, -0.25]])
Y = np.array([[1], [-0.5], [0.75], [-1]])
W1 = np.array([[0.5, -0.28, 0.2], [0.3, 0.4, -0.25]])
W2 = np.array([[0.6], [-0.35], [0.15]])

#: Weights after the last of five steps, from a double precision calculation
#: that was checked twice, and the data loss before and after removal.
FIVE_STEPS = {
    0.0: (
        [0.68246743, -0.39228612, 0.15561255],
        [0.13526577, 0.43496160, -0.16168759],
        [0.73314675, -0.48002068, 0.14857789],
        0.10545581,
        0.11100520,
    ),
    0.9: (
        [0.93677951, -0.54498836, 0.14760020],
        [0.00200192, 0.48336125, -0.11054243],
        [0.90814753, -0.66098345, 0.18611082],
        0.06204676,
        0.05418376,
    ),
}


def linear_network(weight_decay):
    swd = SelectiveWeightDecay(weight_decay)
    model = keras.Sequential(
        [keras.Input((2,))]
        + [
            keras.layers.Dense(n, use_bias=False, kernel_regularizer=swd)
            for n in (3, 1)
        ]
    )
    model.set_weights([W1, W2])
    return model


class Record(keras.callbacks.Callback):
    """Keeps the weights after every step."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


def train(model, scheduler, steps, momentum):
    model.compile(keras.optimizers.SGD(0.1, momentum=momentum), loss="mse")
    record = Record()
    history = model.fit(
        X,
        Y,
        batch_size=4,
        epochs=steps,
        verbose=0,
        callbacks=[record, scheduler],
    )
    return record.weights, history.history


@pytest.mark.parametrize("momentum", FIVE_STEPS)
def test_five_steps_and_removal_by_hand(momentum):
    row1, row2, column, before, after = FIVE_STEPS[momentum]
    model = linear_network(weight_decay=0.02)
    scheduler = PruningScheduler(
        0.45, Exponential(1, 100, finish=0.6), GlobalRanking(), reallocations=5
    )
    weights, history = train(model, scheduler, 5, momentum)
    w1, w2 = weights[-1]
    np.testing.assert_allclose(w1, [row1, row2], atol=2e-7)
    np.testing.assert_allclose(w2[:, 0], column, atol=2e-7)
    assert history["swd_strength"] == pytest.approx(
        [1, 4.64158883, 21.54434690, 100, 100]
    )
    assert np.mean((X @ w1 @ w2 - Y) ** 2) == pytest.approx(before, rel=2e-6)
    p1, p2 = model.get_weights()
    assert np.flatnonzero(np.append(p1, p2) == 0).tolist() == [2, 3, 5, 8]
    assert np.mean((X @ p1 @ p2 - Y) ** 2) == pytest.approx(after, rel=2e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_twenty_steps_follow_a_double_precision_implementation(momentum):
    schedule = Exponential(0.1, 1e3, finish=0.7)
    expected, thresholds = reference.train_linear_network(
        (W1, W2),
        X,
        Y,
        sparsity=0.45,
        weight_decay=0.01,
        schedule=lambda p: reference.exponential(p, 0.1, 1e3, 0.7),
        steps=20,
        learning_rate=0.1,
        momentum=momentum,
    )
    model = linear_network(weight_decay=0.01)
    scheduler = PruningScheduler(
        0.45, schedule, GlobalRanking(), reallocations=None
    )
    weights, _ = train(model, scheduler, 20, momentum)
    assert len(weights) == len(thresholds) == 20
    for (w1, w2), (e1, e2) in zip(weights, expected, strict=True):
        np.testing.assert_allclose(w1, e1, atol=3e-6)
        np.testing.assert_allclose(w2, e2, atol=3e-6)


def test_selected_weights_shrink_and_the_others_stay():
    model = linear_network(weight_decay=0.01)
    scheduler = PruningScheduler(0.45, Constant(50.0), GlobalRanking())
    layers = model.layers
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    model.fit(
        0 * X, 0 * Y, batch_size=4, epochs=1, verbose=0, callbacks=[scheduler]
    )
    first = ops.convert_to_numpy(layers[0].kernel)
    kept = 1 - 0.1 * 0.01
    np.testing.assert_allclose(
        first, kept * W1 * (np.abs(W1) > 0.28), rtol=1e-6
    )


@given(
    targets=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.integers(1, 6),
            st.floats(0.0, 1.0, exclude_max=True),
        ),
        min_size=1,
        max_size=4,
    ),
    own=st.booleans(),
    constant=st.booleans(),
    seed=st.integers(0, 99),
)
def test_each_kernel_loses_exactly_its_share(targets, own, constant, seed):
    """Its own target, or that which `Uniform` gives to all."""
    rng = np.random.default_rng(seed)
    shared = None if own else targets[0][2]
    inputs = [keras.Input((rows,)) for rows, _, _ in targets]
    outputs = [
        keras.layers.Dense(
            n,
            use_bias=False,
            kernel_regularizer=SelectiveWeightDecay(
                sparsity=target if own else None
            ),
        )(x)
        for x, (_, n, target) in zip(inputs, targets, strict=True)
    ]
    model = keras.Model(inputs, outputs)
    model.set_weights(
        [
            np.full((rows, n), 0.5)
            if constant
            else rng.uniform(0.1, 1.0, (rows, n))
            for rows, n, _ in targets
        ]
    )
    removed = remove(model, shared, Uniform())
    zeros = [np.count_nonzero(w == 0.0) for w in model.get_weights()]
    assert zeros == [
        round((target if own else shared) * rows * n)
        for rows, n, target in targets
    ]
    assert list(removed.values()) == zeros


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4
    ),
    sparsity=st.floats(0.0, 1.0, exclude_max=True),
    kind=st.sampled_from(["normal", "constant", "zero", "tied"]),
    seed=st.integers(0, 99),
)
def test_removal_zeroes_exactly_the_lowest(shapes, sparsity, kind, seed):
    rng = np.random.default_rng(seed)
    draw = {
        "normal": lambda shape: rng.standard_normal(shape),
        "constant": lambda shape: np.full(shape, 0.5),
        "zero": np.zeros,
        "tied": lambda shape: rng.choice([-1.0, 0.5, 1.0], shape),
    }[kind]
    swd = SelectiveWeightDecay()
    inputs = [keras.Input((rows,)) for rows, _ in shapes]
    outputs = [
        keras.layers.Dense(n, use_bias=False, kernel_regularizer=swd)(x)
        for x, (_, n) in zip(inputs, shapes, strict=True)
    ]
    model = keras.Model(inputs, outputs)
    arrays = [draw(shape).astype("float32") for shape in shapes]
    model.set_weights(arrays)
    total = round(sparsity * sum(a.size for a in arrays))
    removed = remove(model, sparsity, GlobalRanking())
    assert sum(removed.values()) == total
    lowest = reference.lowest(arrays, total)
    for i, (old, new) in enumerate(
        zip(arrays, model.get_weights(), strict=True)
    ):
        expected = old.copy()
        for k, j in lowest:
            if k == i:
                expected.ravel()[j] = 0.0
        np.testing.assert_array_equal(new, expected)


def as_they_are(values):
    return values


def test_a_criterion_may_return_what_it_is_given():
    swd = SelectiveWeightDecay(criterion=as_they_are)
    layer = keras.layers.Dense(4, kernel_regularizer=swd)
    model = keras.Sequential([keras.Input((8,)), layer])
    before = np.random.default_rng(0).uniform(0.1, 1.0, (8, 4))
    layer.kernel.assign(before)
    remove(model, 0.5, Uniform())
    after = keras.ops.convert_to_numpy(layer.kernel)
    kept = before > np.median(before)
    np.testing.assert_allclose(after, np.where(kept, before, 0.0), rtol=1e-6)


def test_what_low_rank_adaptation_adds_is_not_pruned():
    adapted, other = (
        keras.layers.Dense(8, kernel_regularizer=SelectiveWeightDecay())
        for _ in range(2)
    )
    model = keras.Sequential([keras.Input((6,)), adapted, other])
    adapted.enable_lora(2)
    adapted.lora_kernel_b.assign(np.ones((2, 8)))
    assert remove(model, 0.5) == {other.kernel.path: 32}
    reasons = {k.path: k.skipped for k in sparsity_report(model).kernels}
    factor = "a factor of low-rank adaptation"
    assert reasons == {
        adapted._kernel.path: "frozen",
        adapted.lora_kernel_a.path: factor,
        adapted.lora_kernel_b.path: factor,
        other.kernel.path: None,
    }


def test_models_that_are_gone_leave_nothing_with_a_regularizer():
    swd = SelectiveWeightDecay()
    for _ in range(3):
        layer = keras.layers.Dense(5, kernel_regularizer=swd)
        model = keras.Sequential([keras.Input((4,)), layer])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        pruning = PruningScheduler(0.5, Constant(100.0))
        x, y = np.ones((8, 4)), np.ones((8, 5))
        model.fit(x, y, epochs=9, verbose=0, callbacks=[pruning])
        assert len(swd.held) == 2
        del layer, model, pruning
        keras.backend.clear_session()
        gc.collect()
