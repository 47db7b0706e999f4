"""Channels that go together as units: counts, budgets, penalty, removal."""

import functools

import keras
import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_swd import (
    LAMP,
    Constant,
    CoupledChannels,
    GlobalRanking,
    GReg1,
    GReg2,
    Operations,
    Parameters,
    PruningScheduler,
    SelectiveWeightDecay,
    Uniform,
    remove,
    shrink,
    sparsity_report,
    with_regularizer,
)
from keras_swd.kernel_uses import kernel_uses
from keras_swd.prunable import Prunable
from keras_swd.units.channels import find_channels

GAMMA_A, GAMMA_B = [0.9, -0.05, 0.4, 0.12], [0.3, 0.08, -0.7]
BETA_A, BETA_B = [0.1, 0.2, -0.3, 0.05], [-0.15, 0.25, 0.4]


def coupled(kernels=False, **arguments):
    return SelectiveWeightDecay(
        0.01, granularity=CoupledChannels(kernels=kernels), **arguments
    )


def network(kernels=False):
    """Two convolutions of 4 and 3 filters, each with a normalization."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(4, 3, padding="same", use_bias=False, name="a"),
            layers.BatchNormalization(name="norm_a"),
            layers.Conv2D(3, 3, padding="same", use_bias=False, name="b"),
            layers.BatchNormalization(name="norm_b"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="dense"),
        ]
    )
    model = with_regularizer(model, coupled(kernels))
    for name, gamma, beta in (
        ("norm_a", GAMMA_A, BETA_A),
        ("norm_b", GAMMA_B, BETA_B),
    ):
        model.get_layer(name).gamma.assign(gamma)
        model.get_layer(name).beta.assign(beta)
    return model


@functools.cache
def built(kernels):
    model = network(kernels)
    return model, model.get_weights()


def example(kernels=False):
    """The network as it was built; not to be trained, for others use it."""
    model, weights = built(kernels)
    model.set_weights(weights)
    return model


def size(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


def stays(prunable, removed):
    """Which units stay if so many of each set go."""
    choices = prunable.choose(removed)
    return ~np.concatenate([choice.lowest for choice in choices])


@pytest.mark.parametrize(
    ("removed", "left"),
    [
        ((0, 0), 202),
        ((1, 0), 155),
        ((1, 1), 124),
        ((2, 1), 86),
        ((2, 2), 64),
        ((3, 2), 35),
    ],
)
def test_parameters_left_by_hand(removed, left):
    model = example()
    assert size(model) == 202
    prunable = Prunable(model, Parameters(0.99), GlobalRanking())
    assert prunable.target.cost(stays(prunable, removed)) == left


@pytest.mark.parametrize(
    ("sparsity", "counts", "left"),
    [(0.3, [1, 1], 124), (0.5, [2, 1], 86), (0.7, [3, 2], 35)],
)
@pytest.mark.parametrize("kernels", [False, True])
def test_a_budget_of_parameters_by_hand(sparsity, counts, left, kernels):
    model = example(kernels)
    if kernels:
        assert model.get_layer("dense").kernel.regularizer is not None
    budget = Parameters(left=1.0 - sparsity)
    assert Prunable(model, budget, GlobalRanking()).counts() == counts
    remove(model, budget, GlobalRanking())
    assert size(shrink(model)) == left


@pytest.mark.parametrize(
    ("sparsity", "counts", "left"), [(0.3, [1, 1], 124), (0.7, [3, 2], 35)]
)
def test_what_may_be_emptied_counts_with_what_may_not(sparsity, counts, left):
    model = example()
    model = with_regularizer(model, coupled(), exclude=["norm_a"])
    swd = SelectiveWeightDecay(granularity=CoupledChannels(may_empty=True))
    model = with_regularizer(model, swd, exclude=["norm_b"])
    budget = Parameters(left=1.0 - sparsity)
    assert Prunable(model, budget, GlobalRanking()).counts() == counts
    remove(model, budget, GlobalRanking())
    assert size(shrink(model)) == left


def test_a_budget_out_of_reach_is_refused_before_training():
    with pytest.raises(ValueError, match="leaves 35; the budget allows 20"):
        remove(example(), Parameters(left=0.1), GlobalRanking())


def test_penalty_and_gradient_by_hand():
    """Scales and shifts of the channels below 0.12 decay 11 times as fast."""
    model = network()
    model.get_layer("dense").kernel.assign(np.zeros((3, 2)))
    variables = [
        getattr(model.get_layer(layer), name)
        for layer in ("norm_a", "norm_b")
        for name in ("gamma", "beta")
    ]
    model.compile(keras.optimizers.SGD(1.0), loss="mse", run_eagerly=True)
    prunable = Prunable(model, Parameters(left=0.5), GlobalRanking())
    attached, _ = prunable.attach(model)
    choices = prunable.choose(prunable.counts())
    for one in attached:
        one.set(10.0, choices)
    before = [ops.convert_to_numpy(v).copy() for v in variables]
    x, y = np.zeros((1, 8, 8, 2)), np.zeros((1, 2))
    assert float(model.train_on_batch(x, y)) == pytest.approx(0.016219)
    expected = [
        [0.009, -0.0055, 0.004, 0.0132],
        [0.001, 0.022, -0.003, 0.0055],
        [0.003, 0.0088, -0.007],
        [-0.0015, 0.0275, 0.004],
    ]
    for old, variable, gradient in zip(
        before, variables, expected, strict=True
    ):
        new = ops.convert_to_numpy(variable)
        np.testing.assert_allclose(old - new, gradient, atol=1e-7)


def test_kernels_before_and_behind_decay_where_they_carry_it():
    model = example(kernels=True)
    prunable = Prunable(model, Parameters(left=0.5), GlobalRanking())
    masks = prunable.masks(prunable.choose([2, 1]))
    paths = [weight.path for weight in prunable.weights]
    kernel = masks[paths.index("b/kernel")]
    # Channels 1 and 3 of what comes in, and 1 of what goes out.
    expected = np.ones((3, 3, 4, 3), bool)
    expected[:, :, [1, 3]] = False
    expected[..., 1] = False
    np.testing.assert_array_equal(kernel, expected)


def residual(widths, classes, seed):
    """A random residual network with normalizations."""
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(widths[0], 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    for width in widths[1:]:
        y = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(x.shape[-1], 1, use_bias=False)(y)
        x = layers.ReLU()(layers.Add()([x, layers.BatchNormalization()(y)]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(classes)(x))
    generator = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(generator.uniform(0.01, 1, layer.gamma.shape))
            layer.beta.assign(generator.normal(size=layer.beta.shape))
    return model


@settings(max_examples=12)
@given(
    budget=st.sampled_from([Parameters, Operations]),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    left=st.floats(0.3, 0.95),
    kernels=st.booleans(),
    allocation=st.sampled_from([GlobalRanking(), LAMP(), Uniform()]),
    seed=st.integers(0, 1000),
)
def test_what_is_left_meets_the_budget_to_one_channel(
    budget, widths, left, kernels, allocation, seed
):
    model = residual(widths, 4, seed)
    model = with_regularizer(model, coupled(kernels))
    full = reference.model_cost(model, budget is Operations)
    lowest = Prunable(model, 0.0, allocation)
    one_each = [units.size - 1 for units in lowest.sets]
    cost = budget(left).cost(model, find_channels(model).places)
    if cost(stays(lowest, one_each)) > left * full:
        with pytest.raises(ValueError, match="Raise `left`"):
            Prunable(model, budget(left), allocation)
        return
    prunable = Prunable(model, budget(left), allocation)
    counts = prunable.counts()
    cost = prunable.target.cost(stays(prunable, counts))
    assert cost <= left * full
    scores = [units.unit_scores() for units in prunable.sets]
    shapes = [units.shape for units in prunable.sets]
    total = sum(units.size for units in prunable.sets)
    fewer = allocation.counts(scores, shapes, max(sum(counts) - 1, 0) / total)
    if sum(fewer) == sum(counts) - 1 and all(
        n < s.size for n, s in zip(fewer, scores, strict=True)
    ):
        assert prunable.target.cost(stays(prunable, fewer)) > left * full
    remove(model, budget(left), allocation)
    small = shrink(model)
    assert reference.model_cost(small, budget is Operations) == cost


@pytest.mark.parametrize("budget", [Parameters, Operations])
def test_what_groups_of_one_size_keep_counts(budget):
    def convolution(x, kernel_size, groups=1):
        x = layers.Conv2D(
            16, kernel_size, padding="same", groups=groups, use_bias=False
        )(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((8, 8, 3))
    x = convolution(inputs, 3)
    y = convolution(convolution(convolution(x, 1), 3, groups=4), 1)
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(x + y))
    model = keras.Model(inputs, outputs)
    random = np.random.default_rng(0)
    for variable in model.trainable_weights:
        if "gamma" in variable.path or "beta" in variable.path:
            variable.assign(random.uniform(0.1, 1.0, variable.shape))
    model = with_regularizer(model, coupled(kernels=True))
    remove(model, budget(left=0.5))

    def cost(model):
        factors = budget(left=0.5).factors(model)
        return sum(
            factors.get(id(v), 0) * np.prod(v.shape) for v in model.weights
        )

    assert 0.3 < cost(shrink(model)) / cost(model) <= 0.5


def test_every_set_keeps_a_channel_unless_it_may_empty():
    model = example()
    remove(model, 5 / 7, GlobalRanking())
    gammas = [model.get_layer(n).gamma for n in ("norm_a", "norm_b")]
    left = [int(np.count_nonzero(ops.convert_to_numpy(g))) for g in gammas]
    assert left == [1, 1]
    with pytest.raises(ValueError, match=r"6 channels were to go, and 5 can"):
        remove(example(), 6 / 7, GlobalRanking())
    swd = SelectiveWeightDecay(granularity=CoupledChannels(may_empty=True))
    model = with_regularizer(example(), swd)
    remove(model, 6 / 7, GlobalRanking())
    assert not ops.convert_to_numpy(model.get_layer("norm_b").gamma).any()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A weight selected")
def test_a_run_ends_with_channels_that_shrink_cuts():
    keras.utils.set_random_seed(0)
    model = with_regularizer(residual([8, 6], 4, 0), coupled(kernels=True))
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 6, 6, 3)).astype("float32")
    y = generator.integers(0, 4, 64)
    history = model.fit(
        x,
        y,
        epochs=4,
        batch_size=16,
        verbose=0,
        callbacks=[PruningScheduler(Operations(left=0.5), Constant(5e3))],
    )
    assert history.history["swd_residual"][-1] < 0.01
    small = shrink(model)
    full = reference.model_cost(model, operations=True)
    assert reference.model_cost(small, operations=True) <= 0.5 * full
    np.testing.assert_allclose(
        ops.convert_to_numpy(small(x)),
        ops.convert_to_numpy(model(x)),
        atol=1e-4,
    )


def test_a_budget_of_a_kernel_that_stands_alone_is_refused():
    swd = SelectiveWeightDecay()
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, kernel_regularizer=swd)]
    )
    with pytest.raises(ValueError, match=r"cannot meet the budget.*Coupled"):
        remove(model, Parameters(left=0.5))


def test_a_model_without_normalizations_is_told_what_to_do():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5)])
    with pytest.raises(ValueError, match=r"`CoupledChannels\(kernels=True\)`"):
        with_regularizer(model, coupled())


@pytest.mark.parametrize("left", [0, 1.0, -1, "half", None])
def test_a_budget_out_of_range_is_refused(left):
    with pytest.raises(ValueError, match=r"`left`.*\(0, 1\)"):
        Parameters(left=left)


def test_operations_of_a_free_size_are_refused():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 3)]
    )
    with pytest.raises(ValueError, match="size of the inputs is fixed"):
        kernel_uses(model)


def test_a_budget_counts_a_model_within_at_the_size_it_is_given():
    """As it counts the same layers where no model is within."""

    def network(inputs, end):
        stem = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)
        x = layers.ReLU()(layers.BatchNormalization()(stem(inputs)))
        conv = layers.Conv2D(12, 3, padding="same", use_bias=False)
        x = layers.ReLU()(layers.BatchNormalization()(conv(x)))
        return end(layers.GlobalAveragePooling2D()(x))

    free, image = keras.Input((None, None, 3)), keras.Input((9, 6, 3))
    inner = keras.Model(free, network(free, lambda x: x))
    flat = keras.Model(image, network(image, layers.Dense(4)))
    nested = keras.Model(image, layers.Dense(4)(inner(image)))
    nested.set_weights(flat.get_weights())
    left = []
    for model in (flat, nested):
        model = with_regularizer(model, coupled(kernels=True))
        full = sparsity_report(model).operations
        remove(model, Operations(left=0.5))
        small = shrink(model)
        left.append(sparsity_report(small).operations)
        assert 0.4 * full < left[-1] <= 0.5 * full
    assert left[0] == left[1]


def test_a_budget_is_met_where_an_even_share_would_empty_a_set():
    """Rounded for each set by itself, more would go than can."""
    widths = (16, 32, 64, 512)
    stack = [keras.Input((8,)), *map(layers.Dense, widths), layers.Dense(2)]
    model = with_regularizer(keras.Sequential(stack), coupled(kernels=True))
    full = size(model)
    remove(model, Parameters(left=0.9), Uniform())
    assert 0.88 * full < size(shrink(model)) <= 0.9 * full


def test_what_was_removed_stays_removed_when_the_budget_is_met_without_it():
    model = example()
    remove(model, Parameters(left=0.5), GlobalRanking())
    zeros = [
        ops.convert_to_numpy(model.get_layer(n).gamma) == 0
        for n in ("norm_a", "norm_b")
    ]
    prunable = Prunable(model, Parameters(left=0.9), GlobalRanking())
    assert prunable.counts() == [int(z.sum()) for z in zeros]


def test_shifts_alone_do_not_tell_what_a_channel_is_worth():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3),
            layers.BatchNormalization(scale=False),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    with pytest.raises(ValueError, match=r"only shifts.*kernels=True"):
        remove(with_regularizer(model, coupled()), 0.5)
    pruned = with_regularizer(model, coupled(kernels=True))
    remove(pruned, 0.5)
    assert shrink(pruned).layers[0].filters == 4


def test_channels_that_something_else_keeps_alive_are_told():
    x = keras.Input((8, 8, 3))
    a = layers.Conv2D(8, 3, padding="same")(x)
    b = layers.Conv2D(8, 3, padding="same")(x)
    y = layers.Add()([a, layers.BatchNormalization(name="norm")(b)])
    y = layers.GlobalAveragePooling2D()(layers.ReLU()(y))
    model = keras.Model(x, layers.Dense(2)(y))
    with pytest.warns(UserWarning, match=r"'norm/gamma' still reach.*kernels"):
        remove(with_regularizer(model, coupled()), Parameters(left=0.5))
    whole = with_regularizer(model, coupled(kernels=True))
    full = size(whole)
    remove(whole, Parameters(left=0.5))
    assert size(shrink(whole)) <= 0.5 * full


@pytest.mark.filterwarnings("ignore:A weight selected")
@pytest.mark.filterwarnings("ignore:What is removed now")  # after four steps
def test_sets_of_channels_on_one_weight_are_warned_of_one_by_one():
    x = keras.Input((4,))
    a, b = layers.Dense(24)(x), layers.Dense(30)(x)
    both = layers.BatchNormalization(name="norm")(layers.Concatenate()([a, b]))
    y = layers.Concatenate()([both, layers.BatchNormalization()(a)])
    model = keras.Model(x, layers.Dense(2)(y))
    model = with_regularizer(model, coupled())
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    x, y = np.ones((4, 4)), np.ones((4, 2))
    pruning = PruningScheduler(51 / 54, Constant(5e3), GlobalRanking())
    with pytest.warns(UserWarning, match="about to keep") as caught:
        model.fit(x, y, batch_size=1, verbose=0, callbacks=[pruning])
    told = [m for w in caught if "about to keep" in (m := str(w.message))]
    assert [m.split(", which")[0] for m in told] == [
        "Kernel 'norm/gamma' is about to keep 1 of its 24 units",
        "Kernel 'norm/gamma' is about to keep 2 of its 30 units",
    ]


def test_other_normalizations_are_left_alone():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16), layers.LayerNormalization()]
    )
    with pytest.raises(ValueError, match="without normalizations"):
        with_regularizer(model, coupled())


def test_channels_that_must_all_stay_are_told():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(16), layers.LayerNormalization()]
    )
    model = with_regularizer(model, coupled(kernels=True))
    with pytest.raises(ValueError, match=r"have to stay.*find_coupling"):
        remove(model, 0.5)


@pytest.mark.parametrize(
    "method",
    [
        SelectiveWeightDecay,
        functools.partial(GReg1, interval=1),
        functools.partial(GReg2, interval=1),
    ],
    ids=["SelectiveWeightDecay", "GReg1", "GReg2"],
)
def test_a_target_out_of_reach_is_refused_before_the_first_step(method):
    """Also by methods that select later in the run."""
    swd = method(granularity=CoupledChannels(kernels=True))
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8), layers.Dense(8), layers.Dense(2)]
    )
    model = with_regularizer(model, swd)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x, y = np.ones((32, 8)), np.ones((32, 2))
    with pytest.raises(
        ValueError, match=r"keeps one.*16 channels.*14 can.*may_empty=True"
    ):
        model.fit(
            x, y, epochs=10, verbose=0, callbacks=[PruningScheduler(0.99)]
        )
    assert int(model.optimizer.iterations) == 0


def test_weights_of_one_channel_with_different_targets_are_refused():
    def normalized(x, **arguments):
        swd = coupled(**arguments)
        x = layers.Conv2D(8, 3, use_bias=False)(x)
        return layers.BatchNormalization(
            gamma_regularizer=swd, beta_regularizer=swd
        )(x)

    x = keras.Input((8, 8, 3))
    y = layers.Add()([normalized(x), normalized(x, sparsity=0.5)])
    model = keras.Model(x, layers.Conv2D(2, 1)(y))
    with pytest.raises(ValueError, match="must have the same `sparsity`"):
        remove(model, 0.5)


@pytest.mark.parametrize("target", [0.5, 0.51])
def test_sets_with_a_target_of_their_own_leave_the_shared_one(target):
    def normalization(sparsity=None):
        regularizer = SelectiveWeightDecay(
            granularity=CoupledChannels(), sparsity=sparsity
        )
        return layers.BatchNormalization(gamma_regularizer=regularizer)

    own, shared = normalization(0.5), normalization()
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(16, use_bias=False),
            own,
            layers.ReLU(),
            layers.Dense(16, use_bias=False),
            shared,
            layers.Dense(2),
        ]
    )
    own.gamma.assign(np.linspace(0.01, 0.1, 16))
    shared.gamma.assign(np.linspace(0.5, 1.5, 16))
    remove(model, target, GlobalRanking())
    for layer in (own, shared):
        gamma = keras.ops.convert_to_numpy(layer.gamma)
        assert np.count_nonzero(gamma == 0.0) == 8
