"""What a model that is built again has to know besides its weights."""

import dataclasses
import inspect
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_swd
from keras_swd import SelectiveWeightDecay
from keras_swd.models import walk
from keras_swd.rebuilding.excluding import Exclusion, excluded_layers

COPIES = {
    "strip": keras_swd.strip,
    "with_regularizer": lambda model: keras_swd.with_regularizer(
        model, SelectiveWeightDecay()
    ),
    "shrink": keras_swd.shrink,
}


@pytest.fixture(params=COPIES)
def copy(request):
    return COPIES[request.param]


# What `adapt` found ----------------------------------------------------------


def far_from_normal(*shape):
    return 5 + 3 * np.random.default_rng(0).normal(size=shape)


def adapted(layer, data, width):
    """A network on what a layer makes of its inputs."""
    layer.adapt(data)
    inputs = keras.Input(data.shape[1:], dtype=data.dtype)
    x = layers.Flatten()(layers.Embedding(20, 4)(layer(inputs)))
    return keras.Model(inputs, layers.Dense(width)(x))


def test_a_normalization_keeps_its_moments(copy):
    x = far_from_normal(64, 4)
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = keras.Sequential(
        [keras.Input((4,)), normalization, layers.Dense(3)]
    )
    np.testing.assert_array_equal(copy(model).predict(x), model.predict(x))


def test_a_normalization_within_a_model_keeps_its_moments():
    x = far_from_normal(64, 4)
    normalization = layers.Normalization()
    normalization.adapt(x)
    inner = keras.Sequential([keras.Input((4,)), normalization])
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(3)])
    twin = keras_swd.strip(model)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))


# Their boundaries are in the configuration, and `finalize_state` would lose
# them. On JAX, Keras' layer runs in no model.
@pytest.mark.tensorflow
def test_bins_keep_their_boundaries(copy):
    x = far_from_normal(64, 4)
    model = adapted(layers.Discretization(num_bins=5), x, 3)
    np.testing.assert_array_equal(copy(model).predict(x), model.predict(x))


@pytest.mark.tensorflow
def test_integers_keep_their_vocabulary(copy):
    x = np.array([[3], [5], [7], [9]])
    model = adapted(layers.IntegerLookup(), x, 3)
    np.testing.assert_array_equal(copy(model).predict(x), model.predict(x))


@pytest.mark.tensorflow
def test_strings_keep_their_vocabulary():
    import tensorflow as tf

    lookup = layers.StringLookup(output_mode="one_hot")
    lookup.adapt(["a", "b", "c"])
    model = keras.Sequential(
        [keras.Input((1,), dtype="string"), lookup, layers.Dense(3)]
    )
    x = tf.constant([["a"], ["c"], ["z"]])
    np.testing.assert_array_equal(keras_swd.strip(model)(x), model(x))


@pytest.mark.tensorflow
def test_a_vocabulary_that_keras_does_not_take_is_refused():
    lookup = layers.TextVectorization(output_mode="tf_idf")
    lookup.adapt(["a b", "b c"])
    model = keras.Sequential(
        [keras.Input((1,), dtype="string"), lookup, layers.Dense(3)]
    )
    with pytest.raises(ValueError, match="vocabulary of layer 'text_vector"):
        keras_swd.strip(model)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_mixed_precision_model_with_a_normalization_is_exported(tmp_path):
    x = far_from_normal(64, 4).astype("float32")
    normalization = layers.Normalization(dtype="mixed_float16")
    normalization.adapt(x)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            normalization,
            layers.Dense(3, dtype="mixed_float16"),
        ]
    )
    report = keras_swd.export.to_tflite(
        model, tmp_path / "model.tflite", check_with=x
    )
    assert report.max_absolute_difference < 1e-2


# What it was compiled with ---------------------------------------------------


def small():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, kernel_regularizer=SelectiveWeightDecay()),
        ]
    )


@pytest.mark.parametrize("by", ["var_names", "var_list"])
def test_weights_that_do_not_decay_stay_so(by, copy):
    model = small()
    optimizer = keras.optimizers.AdamW(1.0, weight_decay=0.1)
    bias = {"var_names": "bias", "var_list": model.layers[0].bias}[by]
    optimizer.exclude_from_weight_decay(**{by: [bias]})
    model.compile(optimizer, "mse")
    twin = copy(model)
    twin.optimizer.build(twin.trainable_variables)
    kernel, bias = twin.trainable_variables
    bias.assign(np.ones(3))
    before = keras.ops.convert_to_numpy(kernel)
    zeros = [np.zeros(v.shape, "float32") for v in (kernel, bias)]
    twin.optimizer.apply(list(map(keras.ops.convert_to_tensor, zeros)))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(bias), 1.0)
    after = keras.ops.convert_to_numpy(kernel)
    np.testing.assert_allclose(after, 0.9 * before, rtol=1e-6)


def test_the_scale_of_a_loss_is_kept(copy):
    model = small()
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.2), initial_scale=128.0, dynamic_growth_steps=7
    )
    model.compile(optimizer, "mse")
    config = copy(model).optimizer.get_config()
    assert config["initial_scale"] == 128.0
    assert config["dynamic_growth_steps"] == 7
    assert config["inner_optimizer"]["config"]["learning_rate"] == (
        pytest.approx(0.2)
    )


class WithoutConfig(keras.metrics.Metric):
    """As users write them: with an argument that no `get_config` tells."""

    def __init__(self, classes, name="mine"):
        super().__init__(name=name)
        self.classes = classes

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return keras.ops.zeros(())


class OptimizerWithoutConfig(keras.optimizers.SGD):
    def __init__(self, special, **arguments):
        super().__init__(**arguments)
        self.special = special


@pytest.mark.filterwarnings("ignore:The object being serialized includes a")
@pytest.mark.parametrize(
    "arguments",
    [
        {"metrics": [WithoutConfig(3)]},
        {"metrics": [keras.metrics.MeanMetricWrapper(lambda y, p: p, "mine")]},
        {"optimizer": OptimizerWithoutConfig(3)},
    ],
    ids=["metric", "lambda", "optimizer"],
)
def test_what_cannot_be_made_again_leaves_the_model_uncompiled(arguments, copy):
    model = small()
    model.compile(**{"loss": "mse"} | arguments)
    x = np.ones((5, 4))
    with pytest.warns(
        UserWarning, match="not compiled again: .* cannot be made"
    ):
        twin = copy(model)
    assert not twin.compiled
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))


# What no configuration tells -------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Lambda(lambda t: 2 * t),
        lambda: layers.Lambda(lambda t: ops.square(t)),
        lambda: layers.Lambda(lambda t: ops.square(t), output_shape=(4,)),
        lambda: layers.Activation(lambda t: ops.square(t)),
    ],
    ids=["alone", "of a module", "of a shape", "activation"],
)
def test_functions_without_a_name_are_kept(layer, copy):
    inner = keras.Sequential([keras.Input((4,)), layer()])
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    x = np.full((3, 4), 2.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The object being serialized")
        twin = copy(model)
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    (function,) = (
        f
        for f in vars(model.layers[0].layers[0]).values()
        if inspect.isfunction(f) and f.__module__ == __name__
    )
    assert function.__name__ == "<lambda>"


class Rows(keras_swd.Granularity):
    """Whole rows; a class that Keras does not know."""

    def unit_scores(self, scores):
        return ops.mean(scores, axis=-1)

    def expand(self, units, shape):
        return ops.broadcast_to(units[:, None], shape)


@dataclasses.dataclass(frozen=True)
class Power:
    """A criterion that has no configuration."""

    exponent: int

    def __call__(self, values):
        return ops.power(ops.abs(values), self.exponent)


PARTS = {
    "granularity": {"granularity": Rows()},
    "criterion": {"criterion": Power(2)},
    "function": {"criterion": np.abs},
    "lambda": {"criterion": lambda values: ops.abs(values)},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_that_no_file_could_hold_are_no_obstacle(parts, copy):
    swd = SelectiveWeightDecay(**parts)
    model = keras_swd.with_regularizer(small(), swd)
    assert model.layers[0].kernel_regularizer is not swd
    assert vars(model.layers[0].kernel_regularizer).items() >= parts.items()
    keras_swd.remove(model, 0.5)
    x = np.ones((3, 4))
    np.testing.assert_array_equal(copy(model).predict(x), model.predict(x))


def test_functions_of_one_factory_are_told_apart(copy):
    def times(factor):
        def scaled(t):
            return factor * t

        return layers.Lambda(scaled)

    model = keras.Sequential(
        [keras.Input((4,)), times(2.0), times(3.0), layers.Dense(2)]
    )
    x = np.ones((3, 4))
    np.testing.assert_array_equal(copy(model).predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("inner", "around"),
    [
        (layers.Dense(3, name="inner"), layers.TimeDistributed),
        (layers.SimpleRNNCell(3, name="inner"), layers.RNN),
    ],
    ids=["TimeDistributed", "RNN"],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_layer_within_a_wrapper_is_left_alone(inner, around, named):
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            around(type(inner).from_config(inner.get_config())),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    (inner,) = (la for la in model._flatten_layers() if la.name == "inner")
    twin = keras_swd.with_regularizer(
        model,
        SelectiveWeightDecay(),
        exclude=["inner" if named else inner],
    )
    carriers = [v.path for v in twin.variables if v.regularizer is not None]
    assert carriers == [twin.layers[-1].kernel.path]
    model.compile(loss="mse")
    x, y = np.ones((8, 5, 4)), np.ones((8, 2))
    report = keras_swd.sensitivity(
        model, (x, y), [0.5], exclude=["inner" if named else inner]
    )
    assert [k.path for k in report.kernels] == [model.layers[-1].kernel.path]


def test_what_is_frozen_within_a_layer_stays_frozen(copy):
    inputs = keras.Input((5, 4))
    attention = layers.MultiHeadAttention(2, 2)
    model = keras.Model(inputs, layers.Dense(2)(attention(inputs, inputs)))
    attention._query_dense.trainable = False
    frozen = [v.path for v in model.non_trainable_variables]
    twin = copy(model)
    assert len(frozen) == 2
    assert [v.path for v in twin.non_trainable_variables] == frozen


@pytest.mark.parametrize("copy", ["strip", "with_regularizer"], indirect=True)
def test_a_frozen_model_within_can_be_set_free(copy):
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])
    inner.trainable = False
    twin = copy(model)
    assert len(twin.trainable_variables) == 2
    twin.layers[0].trainable = True
    assert len(twin.trainable_variables) == 4


@pytest.mark.tensorflow
@pytest.mark.parametrize("copy", ["strip", "with_regularizer"], indirect=True)
def test_words_keep_their_places_after_layers_that_are_pruned(copy):
    """A regularizer is a layer too, for Keras."""
    numbers, words = keras.Input((4,)), keras.Input((1,), dtype="string")
    lookup = layers.StringLookup(output_mode="multi_hot")
    lookup.adapt(np.array(["a", "b", "b"]))
    x = layers.Dense(3)(layers.Dense(5)(numbers))
    x = layers.Concatenate()([x, layers.Dense(3)(lookup(words))])
    twin = copy(keras.Model([numbers, words], layers.Dense(2)(x)))
    (found,) = (la for la in twin.layers if isinstance(la, layers.StringLookup))
    assert found.get_vocabulary() == ["[UNK]", "b", "a"]


def test_a_model_saved_to_hdf5_is_still_compiled(copy, tmp_path):
    model = small()
    model.compile("adam", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "model.h5")
    twin = copy(model)
    assert type(twin.optimizer) is type(model.optimizer)


# Layers of nested models that share a path -----------------------------------


def encoders(units, width):
    """Two inner models whose layers have one name, and an output."""

    def encoder(name):
        inputs = keras.Input((width,))
        dense = layers.Dense(
            units, name="fc", kernel_regularizer=SelectiveWeightDecay()
        )
        return keras.Model(inputs, dense(inputs), name=name)

    inputs = keras.Input((width,))
    x = layers.Add()([encoder("a")(inputs), encoder("b")(inputs)])
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def test_removed_weights_of_one_path_are_counted_together():
    model = encoders(8, 4)
    assert keras_swd.remove(model, 0.5) == {"fc/kernel": 32}


def test_a_target_of_one_path_is_the_lowest_of_its_kernels():
    model = encoders(8, 4)
    first, second = (model.get_layer(n).get_layer("fc") for n in "ab")
    second.set_weights([np.zeros((4, 8)), np.zeros(8)])
    model.compile(loss="mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4))
    report = keras_swd.sensitivity(
        model, (x, model.predict(x)), [0.5, 0.9], within=1e-6, mode="min"
    )
    assert [kernel.path for kernel in report.kernels] == ["fc/kernel"] * 2
    assert report.targets == {"fc/kernel": 0.0}
    assert first.kernel.path == second.kernel.path


@pytest.mark.slow
@pytest.mark.tensorflow
def test_each_kernel_of_one_path_is_looked_for_in_a_file(tmp_path):
    from keras_swd.export.tflite.zeros import kernels_of

    model = encoders(8, 4)
    keras_swd.remove(model, 0.5)
    found = kernels_of(model)
    assert list(found) == ["fc/kernel", "fc/kernel (2)", "out/kernel"]
    report = keras_swd.export.to_tflite(model, tmp_path / "model.tflite")
    assert report.model_weights == 88
    assert report.model_zeros == 32


@pytest.mark.tensorflow
def test_vectors_of_one_path_are_all_planned_for():
    def planned(*names):
        inputs = x = keras.Input((500,))
        for place, name in zip("ab", names, strict=True):
            inner = keras.Input((500,))
            scaled = layers.LayerNormalization(name=name)(inner)
            x = keras.Model(inner, scaled, name=place)(x)
        model = keras.Model(inputs, layers.Dense(3)(x))
        for name in "ab":
            scale, shift = model.get_layer(name).trainable_variables
            scale.assign(np.random.default_rng(ord(name)).normal(size=500))
            shift.assign(np.random.default_rng(2 * ord(name)).normal(size=500))
        return keras_swd.export.plan_sizes(model, [0.0]).files[0].bytes

    assert abs(planned("one", "one") - planned("one", "two")) < 100


def thrice(t):
    return 3.0 * t


def relu(t):
    """Not that of Keras."""
    return 5.0 * t


class ByName(layers.Layer):
    """A layer that finds its function by its name."""

    def __init__(self, function, **options):
        super().__init__(**options)
        self.function = globals()[function]

    def call(self, inputs):
        return self.function(inputs)

    def get_config(self):
        return {**super().get_config(), "function": self.function.__name__}


def test_functions_keep_names_that_tell_what_they_are(copy):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            ByName("thrice"),
            layers.Activation(relu),
            layers.Dense(2),
        ]
    )
    x = -np.ones((3, 4))
    np.testing.assert_array_equal(copy(model).predict(x), model.predict(x))


class Curved(SelectiveWeightDecay):
    """A regularizer that reads its own configuration."""

    def __init__(self, curve, **options):
        super().__init__(**options)
        self.curve = curve

    def get_config(self):
        curve = keras.saving.serialize_keras_object(self.curve)
        return {**super().get_config(), "curve": curve}

    @classmethod
    def from_config(cls, config):
        read = keras.saving.deserialize_keras_object
        return cls(**{name: read(value) for name, value in config.items()})


def test_a_regularizer_may_read_its_own_configuration(copy):
    curved = Curved(keras_swd.Constant(2.0), criterion=Power(2))
    model = keras_swd.with_regularizer(small(), curved)
    regularizer = model.layers[0].kernel_regularizer
    assert regularizer.curve == curved.curve
    assert regularizer.criterion is curved.criterion
    assert type(copy(model)) is keras.Sequential


@pytest.mark.parametrize("copy", ["strip", "shrink"], indirect=True)
def test_a_model_without_an_optimizer_stays_compiled(copy):
    model = small()
    model.compile(optimizer=None, loss="mse")
    twin = copy(model)
    assert (twin.compiled, twin.optimizer) == (True, None)


def test_weights_that_no_configuration_tells_are_told_of():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

        def get_config(self):
            return {}

    model = Own()
    model(np.ones((1, 4)))
    model.dense.enable_lora(2)
    with pytest.raises(ValueError, match=r"has 4 weights, .* makes has 2"):
        keras_swd.strip(model)


def test_the_outer_place_of_a_layer_counts():
    class Around(layers.Layer):
        def __init__(self, inner):
            super().__init__(name="around")
            self.inner = inner

        def call(self, inputs):
            return self.inner(inputs)

    tied = layers.Dense(4, name="tied")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Around(tied)(tied(inputs)))
    trails = {id(layer): trail for layer, trail in walk(model)}
    assert trails[id(tied)] == "around/tied"
    (found,) = {id(x) for x in excluded_layers(model, [tied])}
    assert found == id(tied)
    assert Exclusion(model, [tied]).means("other", "tied")


def test_classes_of_one_name_are_told_apart(copy):
    def times(factor):
        class Scaled(layers.Layer):
            def call(self, inputs):
                return factor * inputs

        return Scaled()

    model = keras.Sequential(
        [keras.Input((4,)), times(2.0), times(3.0), layers.Dense(2)]
    )
    x = np.ones((3, 4))
    np.testing.assert_array_equal(copy(model).predict(x), model.predict(x))
    assert type(model.layers[1]).__name__ == "Scaled"


@pytest.mark.parametrize("copy", ["strip", "with_regularizer"], indirect=True)
def test_layers_that_models_within_share_are_told_of(copy):
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, name="hidden")(inputs)
    base = keras.Model(inputs, layers.Dense(5)(hidden), name="base")
    features = keras.Model(inputs, hidden, name="features")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Add()([base(x), features(x)]))
    with pytest.raises(ValueError, match="share layers with each other"):
        copy(model)


@pytest.mark.parametrize("form", [keras_swd.with_pruning, lambda o: o])
def test_a_smaller_model_has_an_optimizer_of_keras(form, tmp_path):
    falling = keras.optimizers.schedules.CosineDecay(0.1, 10)
    rate = keras_swd.LearningRateRewinding(falling, at=10)
    model = small()
    model.compile(form(keras.optimizers.SGD(rate)), "mse")
    keras_swd.shrink(model).save(tmp_path / "small.keras")
    assert b"keras_swd" not in (tmp_path / "small.keras").read_bytes()


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quant")
def test_a_model_quantized_to_float8_is_refused_by_name():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8, name="d")])
    model.quantize("float8")
    with pytest.raises(ValueError, match=r"d/kernel' of.*float8.*afterwards"):
        keras_swd.strip(model)


def test_a_type_is_no_layer_to_leave_out():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="d")])
    with pytest.raises(ValueError, match=r"exclude.*'float32'"):
        keras_swd.with_regularizer(
            model, SelectiveWeightDecay(), exclude=["float32"]
        )
