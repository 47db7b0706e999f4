"""Equal models in tf_keras: weights, outputs, refusals, and the way back."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_swd
from keras_swd.export import ExportError
from keras_swd.export.tfmot.equal_models import from_tf_keras, to_tf_keras
from keras_swd.export.tfmot.translations import register_translation

pytest.importorskip("tf_keras")
if not importlib.util.find_spec("tensorflow_model_optimization"):
    pytest.skip("needs tfmot", allow_module_level=True)

IMAGE = (8, 8, 3)
SERIES = (6, 4)


def sequential(*parts, shape=IMAGE, dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def normalized(*arguments, **options):
    """A normalization that was adapted to data."""
    layer = layers.Normalization(*arguments, **options)
    layer.adapt(np.random.default_rng(1).normal(3, 2, (50, *IMAGE)))
    return layer


def merged():
    first, second = keras.Input((5,)), keras.Input((5,))
    parts = [
        layer()([first, second])
        for layer in (
            layers.Add,
            layers.Subtract,
            layers.Multiply,
            layers.Average,
            layers.Maximum,
            layers.Minimum,
            layers.Concatenate,
        )
    ]
    dot = layers.Dot(axes=1)([first, second])
    return keras.Model([first, second], [*parts, dot])


def attention():
    query, value = keras.Input((5, 4)), keras.Input((7, 4))
    attend = layers.MultiHeadAttention(2, 3, name="attend")
    crossed = attend(query, value)
    causal = layers.MultiHeadAttention(1, 2)(
        crossed, crossed, use_causal_mask=True
    )
    return keras.Model([query, value], causal)


def nested_and_shared():
    block = sequential(
        layers.Conv2D(3, 3, padding="same", activation="relu"),
        layers.BatchNormalization(),
    )
    entry = keras.Input(IMAGE)
    inner = keras.Model(entry, layers.Add()([entry, block(entry)]))
    shared = layers.Dense(4)
    start = keras.Input(IMAGE)
    x = inner(block(inner(start)))
    return keras.Model(start, shared(x) + shared(2.0 * start - 1.0))


def dictionaries():
    inputs = {
        "b": keras.Input((3,), name="b"),
        "a": keras.Input((2,), name="a"),
    }
    joined = layers.Concatenate()([inputs["b"], inputs["a"]])
    outputs = {"z": layers.Dense(2)(joined), "y": layers.Dense(1)(joined)}
    return keras.Model(inputs, outputs)


def operations():
    a, b = keras.Input((4, 6)), keras.Input((4, 6))
    x = keras.ops.relu((a + b) * 0.5 - a / 4.0) + (1.0 - b)
    x = keras.ops.concatenate([x, 3.0 * a], axis=-1)
    x = keras.ops.maximum(x, keras.ops.sigmoid(x))
    return keras.Model([a, b], keras.ops.reshape(x, (-1, 48)))


def masks():
    """Keras computes masks with operations, and hands them on as arguments."""
    words = keras.Input((7,), dtype="int32")
    series = layers.Embedding(9, 4, mask_zero=True)(words)
    numbers = keras.Input((7, 4))
    masked = layers.Masking()(numbers)
    merged = layers.Concatenate()(
        [layers.GRU(3)(series), layers.GRU(2)(masked)]
    )
    return keras.Model([words, numbers], layers.Dense(2)(merged))


MODELS = {
    "dense": lambda: sequential(
        layers.Flatten(), layers.Dense(5, activation="softmax")
    ),
    "conv1d": lambda: sequential(
        layers.Conv1D(4, 3, padding="causal", activation="gelu"),
        layers.MaxPooling1D(),
        layers.UpSampling1D(),
        layers.ZeroPadding1D(),
        layers.Cropping1D(),
        layers.AveragePooling1D(2),
        layers.GlobalMaxPooling1D(),
        shape=SERIES,
    ),
    "conv2d": lambda: sequential(
        layers.ZeroPadding2D(),
        layers.Conv2D(6, 3, strides=2, use_bias=False),
        layers.BatchNormalization(epsilon=0.01),
        layers.ReLU(6.0),
        layers.Conv2D(4, 3, dilation_rate=2, padding="same", groups=2),
        layers.LeakyReLU(0.1),
        layers.MaxPooling2D(),
        layers.GlobalAveragePooling2D(keepdims=True),
    ),
    "conv3d": lambda: sequential(
        layers.Conv3D(3, 2),
        layers.MaxPooling3D(),
        layers.Flatten(),
        shape=(5, 5, 5, 2),
    ),
    "depthwise": lambda: sequential(
        layers.DepthwiseConv2D(3, depth_multiplier=2, activation="silu")
    ),
    "separable": lambda: sequential(
        layers.SeparableConv2D(5, 3, padding="same", activation="elu"),
        layers.AveragePooling2D(2, padding="same"),
    ),
    "transposed": lambda: sequential(
        layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.Cropping2D(3),
    ),
    "normalizations": lambda: sequential(
        layers.LayerNormalization(axis=(2, 3)),
        layers.BatchNormalization(scale=False),
        layers.GroupNormalization(3),
        layers.UnitNormalization(),
    ),
    "scaling": lambda: sequential(
        layers.Rescaling(1 / 127.5, offset=-1.0), normalized()
    ),
    "constants": lambda: sequential(
        layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])
    ),
    "regularizing": lambda: sequential(
        layers.Dropout(0.3, seed=1),
        layers.SpatialDropout2D(0.2),
        layers.GaussianNoise(0.1),
    ),
    "shapes": lambda: sequential(
        layers.Permute((2, 1, 3)),
        layers.Reshape((16, -1)),
        layers.GlobalAveragePooling1D(),
        layers.RepeatVector(2),
        layers.Activation("hard_silu"),
        layers.Softmax(axis=1),
    ),
    "activations": lambda: sequential(
        *(
            layers.Dense(4, activation=name)
            for name in (
                *("linear", "relu6", "selu", "softplus", "softsign", "tanh"),
                *("mish", "leaky_relu", "hard_sigmoid", "log_softmax"),
            )
        ),
        layers.ELU(0.5),
        layers.PReLU(),
        layers.Dense(2, activation=layers.ReLU(1.0)),
        shape=(4,),
    ),
    "lstm": lambda: sequential(
        layers.Embedding(9, 4, mask_zero=True),
        layers.LSTM(3, return_sequences=True),
        layers.Bidirectional(layers.GRU(2, return_sequences=True)),
        layers.TimeDistributed(layers.Dense(3)),
        layers.SimpleRNN(2, go_backwards=True),
        shape=(7,),
        dtype="int32",
    ),
    "cells": lambda: sequential(
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(2, reset_after=False)]),
        shape=SERIES,
    ),
    "merging": merged,
    "attention": attention,
    "nested": nested_and_shared,
    "dictionaries": dictionaries,
    "operations": operations,
    "masks": masks,
}


def randomize(model):
    """Every weight at random, as after training; a fifth of them zero."""
    generator = np.random.default_rng(7)
    for weight in model.weights:
        if "int" in weight.dtype:
            continue
        values = generator.uniform(0.1, 0.9, weight.shape)
        if weight.name != "variance" and "moving" not in weight.name:
            values *= generator.choice(
                [-1, 0, 1], weight.shape, p=[0.4, 0.2, 0.4]
            )
        weight.assign(values)
    for layer in model.layers:
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


def samples(model):
    """One batch, flat, and what a model says to it."""
    generator = np.random.default_rng(11)
    drafts = [
        generator.integers(0, 9, (4, *x.shape[1:]))
        if "int" in x.dtype
        else generator.normal(size=(4, *x.shape[1:])).astype("float32")
        for x in model.inputs
    ]
    if isinstance(model, keras.Sequential):
        return drafts[0]
    return keras.tree.pack_sequence_as(model.input, drafts)


def outputs(model, x):
    found = keras.tree.flatten(model(x, training=False))
    return [keras.ops.convert_to_numpy(output) for output in found]


def assert_equal_models(one, two, x):
    assert one.name == two.name
    # Bare operations have become layers.
    assert {a.name for a in one.layers} <= {b.name for b in two.layers}
    ours, theirs = one.get_weights(), two.get_weights()
    for a, b in zip(
        sorted_by_shape(ours), sorted_by_shape(theirs), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(outputs(one, x), outputs(two, x), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-5 * np.abs(a).max())


def sorted_by_shape(arrays):
    """tf_keras lists what is not trained last, also in nested models."""
    return sorted(arrays, key=lambda a: (a.shape, a.tobytes()))


SLOW = ("cells", "lstm", "masks")


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(b, id=n, marks=pytest.mark.slow if n in SLOW else ())
        for n, b in MODELS.items()
    ],
)
def test_the_twin_is_equal_and_so_is_the_way_back(build):
    import tf_keras

    model = randomize(build())
    x = samples(model)
    twin = to_tf_keras(model)
    assert isinstance(twin, tf_keras.Model)
    assert isinstance(twin, tf_keras.Sequential) == isinstance(
        model, keras.Sequential
    )
    assert_equal_models(model, twin, x)
    if build is not nested_and_shared:  # tf_keras clones a shared model twice
        # Plain: it survives what tfmot does first.
        clone = tf_keras.models.clone_model(twin)
        clone.set_weights(twin.get_weights())
        assert_equal_models(model, clone, x)
    assert_equal_models(model, from_tf_keras(twin), x)


@pytest.mark.slow
def test_the_process_is_left_as_it_was_found():
    """Whatever tfmot does when it is imported."""
    program = """
import os
import keras
import tensorflow as tf

from keras_swd.export.tfmot.isolated import load_tf_keras, load_tfmot

assert load_tf_keras().layers.Dense is not keras.layers.Dense
names = [vars(m) for m in (tf, tf.compat.v1, tf.compat.v2)]
loaders = [n["keras"] for n in names]
states = [dict(vars(loader)) for loader in loaders]
assert {type(x).__name__ for x in loaders} == {"KerasLazyLoader"}

load_tfmot().sparsity.keras.prune_low_magnitude
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert all(n["keras"] is x for n, x in zip(names, loaders))
assert states == [dict(vars(loader)) for loader in loaders]
assert tf.compat.v1.keras is loaders[1]
assert tf.keras.layers.Dense is keras.layers.Dense

import tensorflow_model_optimization  # a second import is none

assert "TF_USE_LEGACY_KERAS" not in os.environ
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_this_process_too():
    import tensorflow as tf

    to_tf_keras(sequential(layers.Flatten(), layers.Dense(2)), keep_masks=True)
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.layers.Dense is keras.layers.Dense


def test_pruning_regularizers_are_gone_others_stay():
    regularizers = keras.regularizers
    twin = to_tf_keras(
        sequential(
            layers.Conv2D(
                4,
                3,
                kernel_regularizer=keras_swd.SelectiveWeightDecay(),
                bias_regularizer=regularizers.L2(0.25),
            ),
            layers.Flatten(),
            layers.Dense(2, trainable=False, kernel_constraint="non_neg"),
        )
    )
    convolution, _, dense = twin.layers
    assert convolution.kernel_regularizer is None
    assert convolution.bias_regularizer.l2 == 0.25
    assert type(dense.kernel_constraint).__name__ == "NonNeg"
    assert not dense.trainable
    assert len(twin.trainable_weights) == 2


def test_a_model_in_mixed_precision_becomes_float32():
    policy = "mixed_bfloat16"
    model = randomize(
        sequential(layers.Flatten(), layers.Dense(3, dtype=policy))
    )
    twin = to_tf_keras(model)
    assert {layer.compute_dtype for layer in twin.layers} == {"float32"}
    np.testing.assert_array_equal(twin.get_weights()[0], model.get_weights()[0])


class Doubled(layers.Layer):
    def __init__(self, factor=2.0, **options):
        super().__init__(**options)
        self.factor = factor

    def build(self, input_shape):
        self.shift = self.add_weight(shape=input_shape[1:], name="shift")

    def call(self, inputs):
        return self.factor * (inputs + self.shift)


def test_a_layer_without_an_equal_names_itself_and_the_remedy():
    model = sequential(layers.Flatten(), Doubled(name="twice"))
    with pytest.raises(
        ExportError,
        match=r"'twice' of class Doubled has no equal in tf_keras.*"
        r"register_translation\(Doubled\)",
    ):
        to_tf_keras(model)


def test_a_registered_translation_is_used_and_checked(monkeypatch):
    import tf_keras

    from keras_swd.export.tfmot import translations

    monkeypatch.setattr(translations, "_registered", {})

    class Legacy(tf_keras.layers.Layer):
        def __init__(self, factor, **options):
            super().__init__(**options)
            self.factor = factor

        def build(self, input_shape):
            self.shift = self.add_weight("shift", input_shape[1:])

        def call(self, inputs):
            return self.factor * (inputs + self.shift)

    @register_translation(Doubled)
    def translated(layer):
        return Legacy(layer.factor, name=layer.name)

    model = randomize(sequential(layers.Flatten(), Doubled()))
    assert_equal_models(model, to_tf_keras(model), samples(model))

    register_translation(Doubled)(lambda layer: Legacy(3.0, name=layer.name))
    with pytest.raises(ExportError, match="differs between Keras 3") as error:
        to_tf_keras(model)
    assert 0.1 < error.value.difference < 1

    register_translation(Doubled)(
        lambda layer: tf_keras.layers.Dense(2, name=layer.name)
    )
    with pytest.raises(ExportError, match="has weights of shapes"):
        to_tf_keras(model)


def squared(x):
    return x * x


REFUSED = {
    "lambda": (layers.Lambda(lambda x: x), "of class Lambda has no equal"),
    "activation": (
        layers.Dense(2, activation="squareplus"),
        "no equal of the activation 'squareplus'",
    ),
    "custom activation": (
        layers.Dense(2, activation=squared),
        "has no equal in tf_keras.*squared",
    ),
}


@pytest.mark.parametrize(
    ("layer", "told"), REFUSED.values(), ids=REFUSED.keys()
)
def test_what_would_not_be_equal_is_refused(layer, told):
    with pytest.raises(ExportError, match=told):
        to_tf_keras(sequential(layer))


def test_an_argument_without_an_equal_is_refused_unless_it_says_nothing():
    dense = layers.Dense(2)
    model = sequential(layers.Flatten(), dense)
    assert to_tf_keras(model).count_params() == model.count_params()
    dense.enable_lora(2)
    with pytest.raises(ExportError, match="no argument `lora_rank`"):
        to_tf_keras(model)


def test_layers_that_draw_at_random_have_an_equal():
    model = sequential(layers.Flatten(), layers.Dense(2))
    flipped = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.RandomFlip(), model]
    )
    back = from_tf_keras(to_tf_keras(flipped))
    assert type(back.layers[0]) is layers.RandomFlip
    assert back.count_params() == model.count_params()


def test_an_operation_without_an_equal_is_refused():
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, keras.ops.cumsum(inputs, axis=1))
    with pytest.raises(ExportError, match=r"\(Cumsum\) has no equal"):
        to_tf_keras(model)
    # These align their axes in another way than the layer `Add` does.
    vector = keras.Input((6,))
    model = keras.Model([inputs, vector], inputs + vector)
    with pytest.raises((ExportError, ValueError)):
        to_tf_keras(model)


def test_models_that_cannot_be_read_are_refused():
    import tf_keras

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def build(self, input_shape):
            self.dense.build(input_shape)

        def call(self, inputs):
            return self.dense(inputs)

    model = Subclassed()
    model.build((None, 3))
    with pytest.raises(ValueError, match="must be Sequential or functional"):
        to_tf_keras(model, check_with=np.ones((2, 3), "float32"))
    with pytest.raises(ValueError, match="must be built"):
        to_tf_keras(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match="must be a Keras 3 model"):
        to_tf_keras(tf_keras.Sequential([tf_keras.layers.Dense(2)]))
    with pytest.raises(TypeError, match="must be a tf_keras model"):
        from_tf_keras(sequential(layers.Flatten()))
    with pytest.raises(TypeError, match="`layer_class` must be a class"):
        register_translation("Dense")


def test_the_hard_sigmoid_of_tf_keras_is_another_one():
    import tf_keras

    x = np.array([[-2.0, 0.5, 2.0]], "float32")
    model = sequential(layers.Activation("hard_sigmoid"), shape=(3,))
    expected = np.clip(x + 3, 0, 6) / 6
    np.testing.assert_allclose(to_tf_keras(model)(x), expected, rtol=1e-6)
    theirs = tf_keras.Sequential(
        [tf_keras.Input((3,)), tf_keras.layers.Activation("hard_sigmoid")]
    )
    with pytest.raises(ExportError, match="activation 'hard_sigmoid' in keras"):
        from_tf_keras(theirs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV2",
        "MobileNetV3Small",
        "ResNet50",
        "EfficientNetB0",
        "DenseNet121",
        "ConvNeXtTiny",
    ],
)
def test_large_models_agree(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(64, 64, 3), classes=10)
    twin = to_tf_keras(model)
    x = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3))
    ours, theirs = model.predict(x, verbose=0), twin.predict(x, verbose=0)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(ours).max()
    assert model.count_params() == twin.count_params()
    for ours in model.layers:
        theirs = twin.get_layer(ours.name)
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_model_within_a_wrapper_is_named():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    wrapper = keras.layers.TimeDistributed(inner)
    model = keras.Sequential([keras.Input((5, 4)), wrapper])
    with pytest.raises(ExportError, match="a model within a layer"):
        to_tf_keras(model)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: keras.ops.elu(x, 0.5),
        lambda x: keras.ops.leaky_relu(x, 0.01),
        lambda x: keras.ops.gelu(x, approximate=False),
        lambda x: keras.ops.softmax(x, axis=1),
        keras.ops.softmax,
    ],
    ids=["elu", "leaky_relu", "gelu", "softmax of rows", "softmax"],
)
def test_a_function_keeps_its_arguments(operation):
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, operation(inputs))
    x = np.random.default_rng(0).normal(size=(3, 4, 6)).astype("float32")
    twin = to_tf_keras(model, check_with=x)
    np.testing.assert_allclose(
        twin.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


@pytest.mark.parametrize(
    "operation",
    [keras.ops.gelu, lambda x: keras.ops.log_softmax(x, axis=1)],
    ids=["gelu", "log_softmax"],
)
def test_a_function_with_other_arguments_is_refused(operation):
    inputs = keras.Input((4, 6))
    model = keras.Model(inputs, operation(inputs))
    with pytest.raises(ExportError, match="has no equal in tf_keras"):
        to_tf_keras(model)
