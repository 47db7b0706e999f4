"""Moving statistics that are renewed on data."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_swd import (
    CoupledChannels,
    SelectiveWeightDecay,
    find_coupling,
    remove,
    renew_statistics,
    shrink,
    with_regularizer,
)

EPSILON = 1e-3
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(1.0, 2.0, (22, 4)).astype("float32")
Y = np.zeros((22, 3), "float32")


def stack(rate=0.0):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, name="a"),
            layers.BatchNormalization(momentum=0.7, name="norm_a"),
            layers.ReLU(),
            layers.Dropout(rate),
            layers.Dense(3, name="b"),
            layers.BatchNormalization(name="norm_b"),
        ]
    )
    for name in ("norm_a", "norm_b"):
        for weight in model.get_layer(name).weights:
            weight.assign(RANDOM.uniform(0.5, 2.0, weight.shape))
    return model


def values(variable):
    return ops.convert_to_numpy(variable).astype("float64")


def expected(model, batches):
    """Means and variances by NumPy, each batch by its share of the samples."""
    sums, total = [0.0] * 4, sum(len(x) for x in batches)
    for x in batches:
        for i, (dense, norm) in enumerate((("a", "norm_a"), ("b", "norm_b"))):
            layer, norm = model.get_layer(dense), model.get_layer(norm)
            x = x @ values(layer.kernel) + values(layer.bias)
            moments = x.mean(0), x.var(0)
            for j, moment in enumerate(moments):
                sums[2 * i + j] += moment * len(x) / total
            x = (x - moments[0]) / np.sqrt(moments[1] + EPSILON)
            x = np.maximum(x * values(norm.gamma) + values(norm.beta), 0.0)
    return sums


def found(model):
    return [
        values(getattr(model.get_layer(norm), name))
        for norm in ("norm_a", "norm_b")
        for name in ("moving_mean", "moving_variance")
    ]


def check_close(model, batches):
    for mine, its in zip(found(model), expected(model, batches), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=1e-6)


def test_they_become_the_averages_of_all_batches_and_nothing_else_changes():
    """Dropout does nothing, so inference sees what was measured."""
    model = stack(rate=0.5)
    moving = {id(w) for w in model.weights if "moving" in w.path}
    model.get_layer("norm_a").moving_variance.assign([np.nan] * 5)
    variables = [v for v in model.variables if id(v) not in moving]
    before = [values(variable) for variable in variables]
    renew_statistics(model, X, batch_size=8)
    check_close(model, [X[:8], X[8:16], X[16:]])
    for variable, old in zip(variables, before, strict=True):
        np.testing.assert_array_equal(values(variable), old)
    norm = model.get_layer("norm_a")
    assert norm.momentum == 0.7
    assert "call" not in vars(norm)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def endless(make):
    while True:
        for start in (0, 8):
            yield make(X[start : start + 8], Y[start : start + 8])


def data_set():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((X[:16], Y[:16])).batch(8)


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda: X[:16], None),
        (lambda: X, 2),
        (lambda: (X[:16],), None),
        (lambda: (X[:16], Y[:16]), None),
        (lambda: (X[:16], Y[:16], Y[:16, 0]), None),
        (lambda: endless(lambda x, y: (x, y)), 2),
        (lambda: endless(lambda x, y: [x, y]), 4),
        (lambda: endless(lambda x, y: x), 2),
        (lambda: [(X[:8], Y[:8]), (X[8:16], Y[8:16])], None),
        (lambda: Batches(), None),
        (data_set, None),
        (lambda: data_set().repeat(), 2),
    ],
)
def test_data_of_all_kinds_give_the_same(make, steps):
    model = stack()
    renew_statistics(model, make(), steps, batch_size=8)
    check_close(model, [X[:8], X[8:16]])


def test_a_layer_that_is_used_twice_averages_over_both_uses():
    """Also within a model that is called in inference mode."""
    inner = stack()
    frozen = layers.BatchNormalization(trainable=False)
    pair = {name: keras.Input((4,), name=name) for name in ("left", "right")}
    ends = [frozen(inner(x, training=False)) for x in pair.values()]
    model = keras.Model(pair, layers.Add()(ends))
    renew_statistics(model, {"left": X[:11], "right": X[11:]}, batch_size=6)
    check_close(inner, [X[:6], X[11:17], X[6:11], X[17:]])
    np.testing.assert_array_equal(values(frozen.moving_mean), np.zeros(3))


def test_batches_of_several_inputs_may_be_lists():
    pair = [keras.Input((4,)), keras.Input((4,))]
    norm = layers.BatchNormalization()
    model = keras.Model(pair, norm(layers.Subtract()(pair)))
    batches = ([X[k : k + 8], X[::-1][k : k + 8]] for k in (0, 8))
    renew_statistics(model, batches)
    together = values(norm.moving_mean)
    renew_statistics(model, [X[:16], X[::-1][:16]], batch_size=8)
    np.testing.assert_allclose(values(norm.moving_mean), together, rtol=1e-5)
    assert np.abs(together).max() > 0.0


def test_what_is_removed_and_cut_is_renewed_alike():
    swd = SelectiveWeightDecay(granularity=CoupledChannels())
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(6, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    model = with_regularizer(model, swd)
    for layer in (model.layers[1], model.layers[4]):
        layer.gamma.assign(RANDOM.uniform(0.1, 1.0, layer.gamma.shape))
    remove(model, 0.5)
    small = shrink(model)
    x = RANDOM.normal(size=(16, 4, 4, 2)).astype("float32")
    before = values(model(x))
    renew_statistics(model, x)
    renew_statistics(small, x)
    assert np.abs(values(model(x)) - before).max() > 0.1
    np.testing.assert_allclose(
        values(small(x)), values(model(x)), rtol=1e-4, atol=1e-5
    )
    assert sum(group.dead for group in find_coupling(model).groups) == 7


def test_models_without_statistics_to_renew_are_refused():
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(2)], name="net")
    with pytest.raises(ValueError, match=r"is not frozen; 'net' has none"):
        renew_statistics(plain, X)
    frozen = stack()
    frozen.trainable = False
    with pytest.raises(ValueError, match=r"trainable = True"):
        renew_statistics(frozen, X)
    with pytest.raises(ValueError, match="must be built"):
        renew_statistics(keras.Sequential([layers.BatchNormalization()]), X)
    norm = layers.BatchNormalization(renorm=True, name="norm")
    again = keras.Sequential([keras.Input((4,)), norm])
    with pytest.raises(ValueError, match="'norm' has `renorm=True`"):
        renew_statistics(again, X)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (np.full((9, 4), np.nan), {}, r"norm_a/moving_mean' NaN or infinity"),
        (X[:0], {}, "gave no batch"),
        (iter([]), {}, "gave no batch"),
        (3.0, {}, r"`data` must be arrays.*data=3\.0"),
        ([X[:8], X[8:16]], {}, "has 1 inputs, and the list 2 arrays"),
        (X, {"steps": 0}, "`steps` must be an integer, 1 or greater"),
        (
            X,
            {"batch_size": -1},
            "`batch_size` must be an integer, 1 or greater",
        ),
    ],
)
def test_data_that_do_not_serve_change_nothing(data, arguments, message):
    model = stack()
    before = found(model)
    with pytest.raises(ValueError, match=message):
        renew_statistics(model, data, **arguments)
    for mine, old in zip(found(model), before, strict=True):
        np.testing.assert_array_equal(mine, old)
    assert model.get_layer("norm_a").momentum == 0.7


@pytest.mark.tensorflow
def test_a_call_that_was_compiled_is_counted_each_time():
    import tensorflow as tf

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.normalization = keras.layers.BatchNormalization()

        @tf.function
        def call(self, inputs, training=False):
            return self.normalization(inputs, training=training)

    model = Own()
    batches = [np.full((4, 2), value, "float32") for value in (0, 1, 5)]
    model(batches[0])
    renew_statistics(model, iter(batches))
    mean = keras.ops.convert_to_numpy(model.normalization.moving_mean)
    np.testing.assert_allclose(mean, [2.0, 2.0], rtol=1e-6)
    assert not tf.config.functions_run_eagerly()
