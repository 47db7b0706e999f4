"""Zeros survive what tfmot does with the real package."""

import importlib.util

import keras
import numpy as np
import pytest
from keras import layers

from keras_swd.export import ExportError
from keras_swd.export.tflite.writing import to_tflite
from keras_swd.export.tfmot.equal_models import from_tf_keras, to_tf_keras
from keras_swd.export.tfmot.preserving import keep_zeros
from keras_swd.export.tfmot.quantization_aware import to_quantization_aware

pytestmark = pytest.mark.tensorflow

tf_keras = pytest.importorskip("tf_keras")
if not importlib.util.find_spec("tensorflow_model_optimization"):
    pytest.skip("needs tfmot", allow_module_level=True)


@pytest.fixture(scope="module")
def tfmot():
    from keras_swd.export.tfmot.isolated import load_tfmot

    return load_tfmot()


def sparse(*parts, shape=(8, 8, 3), sparsity=0.7):
    """A model of which a share of each kernel is zero."""
    model = keras.Sequential([keras.Input(shape), *parts])
    generator = np.random.default_rng(3)
    for weight in model.trainable_weights:
        if len(weight.shape) >= 2 and "bias" not in weight.name:
            keep = generator.uniform(size=weight.shape) >= sparsity
            weight.assign(np.asarray(weight) * keep)
    return model


def convolutional():
    return sparse(
        layers.Conv2D(8, 3, padding="same", name="first"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(8, 1, activation="relu", name="pointwise"),
        layers.SeparableConv2D(6, 3, name="separable"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(16, activation="relu", name="dense"),
        layers.Dense(4, activation="softmax", name="last"),
    )


def recurrent():
    return sparse(
        layers.LSTM(5, return_sequences=True, name="lstm"),
        layers.Bidirectional(layers.GRU(3), name="gru"),
        layers.Dense(4, activation="softmax", name="last"),
        shape=(6, 4),
    )


def kernels(model):
    """Kernels by place; wrappers rename them and keep their order."""
    found = [
        np.array(w)
        for w in model.trainable_weights
        if len(w.shape) >= 2 and "bias" not in w.name.rpartition("/")[2]
    ]
    return sorted(found, key=lambda k: k.shape)


def train(model, callbacks=(), epochs=2, **options):
    """A few steps that move every weight they can, momentum included."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(32, *model.input_shape[1:])).astype("float32")
    y = generator.integers(0, 4, 32)
    model.compile(
        tf_keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy"
    )
    model.fit(x, y, 8, epochs, verbose=0, callbacks=list(callbacks), **options)
    return model


def assert_zeros_kept(before, after, moved=True):
    for old, new in zip(before, after, strict=True):
        assert old.shape == new.shape
        assert np.any(old == 0)
        assert np.all(new[old == 0] == 0)
        assert not moved or np.any(new != old)


def test_tfmot_finds_our_zeros_and_strips_nothing(tfmot):
    model = convolutional()
    twin = to_tf_keras(model)
    stripped = tfmot.sparsity.keras.strip_pruning(twin)
    for a, b in zip(model.get_weights(), stripped.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Its own pruning to the sparsity that is there already changes nothing.
    dense = kernels(model)[0]
    zeros = np.mean(model.get_layer("dense").kernel == 0)
    layer = twin.get_layer("dense")
    wrapper = tfmot.sparsity.keras.prune_low_magnitude(
        layer, tfmot.sparsity.keras.ConstantSparsity(float(zeros), 0)
    )
    wrapper.build(layer.input_shape)
    wrapper.pruning_step.assign(0)
    wrapper.pruning_obj.conditional_mask_update()
    ((_, mask, _),) = wrapper.pruning_vars
    np.testing.assert_array_equal(mask.numpy() == 0, layer.kernel.numpy() == 0)
    assert dense is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [convolutional, pytest.param(recurrent, marks=pytest.mark.slow)],
)
def test_masked_wrappers_keep_every_zero(tfmot, build):
    model = build()
    before = kernels(model)
    wrapped = to_tf_keras(model, keep_masks=True)
    masks = [
        (kernel.numpy(), mask.numpy())
        for layer in wrapped.layers
        for kernel, mask, _ in getattr(layer, "pruning_vars", ())
    ]
    assert len(masks) == len(before)
    for kernel, mask in masks:
        np.testing.assert_array_equal(kernel != 0, mask)

    update = tfmot.sparsity.keras.UpdatePruningStep()
    train(wrapped, [update])
    plain = tfmot.sparsity.keras.strip_pruning(wrapped)
    assert_zeros_kept(before, kernels(plain))
    back = from_tf_keras(plain)
    assert [x.name for x in back.layers] == [x.name for x in model.layers]
    assert_zeros_kept(before, kernels(back))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_masked_wrappers_are_saved_with_their_masks(tfmot, tmp_path):
    model = sparse(
        layers.Flatten(), layers.Dense(6), layers.Dense(4, "softmax")
    )
    wrapped = to_tf_keras(model, keep_masks=True)
    path = tmp_path / "wrapped.h5"
    tf_keras.models.save_model(wrapped, path)
    with tfmot.sparsity.keras.prune_scope():
        loaded = tf_keras.models.load_model(path)
    train(loaded, [tfmot.sparsity.keras.UpdatePruningStep()])
    assert_zeros_kept(kernels(model), kernels(loaded))


def test_layers_without_zeros_are_not_wrapped(tfmot):
    model = sparse(layers.Flatten(), layers.Dense(6), sparsity=0.0)
    wrapped = to_tf_keras(model, keep_masks=True)
    assert [type(x).__name__ for x in wrapped.layers] == ["Flatten", "Dense"]


def test_keep_zeros_keeps_those_of_a_plain_model():
    model = sparse(
        layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(4, "softmax")
    )
    twin = to_tf_keras(model)
    train(twin, [keep_zeros(twin)])
    assert_zeros_kept(kernels(model), kernels(twin))
    with pytest.raises(TypeError, match="must be a tf_keras model"):
        keep_zeros(model)


@pytest.mark.slow
def test_quantization_aware_training_keeps_every_zero():
    model = convolutional()
    aware = to_quantization_aware(model)
    before = kernels(aware)
    counts = [np.sum(kernel == 0) for kernel in kernels(model)]
    assert [np.sum(kernel == 0) for kernel in before] == counts
    train(aware, [keep_zeros(aware)])
    assert_zeros_kept(before, kernels(aware))


@pytest.mark.slow
def test_every_zero_arrives_in_a_file_of_8_bits(tmp_path):
    aware = to_quantization_aware(convolutional())
    train(aware, [keep_zeros(aware)])
    report = to_tflite(aware, tmp_path / "aware.tflite", quantization="int8")
    assert report.model_zeros == sum(np.sum(k == 0) for k in kernels(aware))
    assert len(report.kernels) == len(kernels(aware))
    for kernel in report.kernels:
        assert kernel.dtype == "int8"
        assert kernel.zeros >= kernel.model_zeros > 0


@pytest.mark.slow
def test_tfmot_alone_forgets_zeros():
    """This is why `keep_zeros` exists: depthwise kernels fill up."""
    aware = to_quantization_aware(convolutional())
    before = kernels(aware)
    after = kernels(train(aware))
    lost = [
        int(np.sum(new[old == 0] != 0))
        for old, new in zip(before, after, strict=True)
    ]
    assert sum(lost) > 0


@pytest.mark.slow
def test_zeros_survive_when_a_quantization_aware_model_was_loaded(
    tfmot, tmp_path
):
    aware = to_quantization_aware(
        sparse(layers.Flatten(), layers.Dense(6), layers.Dense(4, "softmax"))
    )
    before = kernels(aware)
    aware.save_weights(tmp_path / "aware.h5")
    with tfmot.quantization.keras.quantize_scope():
        loaded = tf_keras.models.clone_model(aware)
    loaded.load_weights(tmp_path / "aware.h5")
    train(loaded, [keep_zeros(loaded)])
    assert_zeros_kept(before, kernels(loaded))


@pytest.mark.slow
def test_a_normalization_keeps_its_moments():
    x = 5.0 + 3.0 * np.random.default_rng(0).normal(size=(64, 4))
    normalization = layers.Normalization(name="scaled")
    normalization.adapt(x)
    model = sparse(
        normalization,
        layers.Dense(6, activation="relu"),
        layers.Dense(3),
        shape=(4,),
    )
    aware = to_quantization_aware(model)
    wrapped = aware.get_layer("quant_scaled").layer
    np.testing.assert_allclose(wrapped.mean, normalization.mean, rtol=1e-6)
    np.testing.assert_allclose(
        wrapped.variance, normalization.variance, rtol=1e-6
    )


@pytest.mark.slow
def test_what_tfmot_cannot_quantize_stays_in_float():
    model = sparse(
        layers.Rescaling(0.5),
        layers.Normalization(name="untrained"),
        layers.BatchNormalization(name="frozen", trainable=False),
        layers.BatchNormalization(name="alone"),
        layers.Conv2D(4, 3, activation="elu", name="elu"),
        layers.Activation("elu"),
        layers.Conv2DTranspose(4, 3, activation="relu", name="transposed"),
        layers.LeakyReLU(),
        layers.Rescaling(2.0),
        layers.LayerNormalization(name="other"),
        layers.Flatten(),
        layers.Dense(4, activation="softmax", name="last"),
    )
    with pytest.warns(UserWarning, match=r"\['alone', 'other'\].*float32"):
        aware = to_quantization_aware(model)
    names = [layer.name for layer in aware.layers]
    assert {"alone", "other", "quant_elu", "quant_transposed"} <= set(names)
    assert {"quant_untrained", "quant_frozen"} <= set(names)
    before = kernels(aware)
    train(aware, [keep_zeros(aware)])
    assert_zeros_kept(before, kernels(aware))


def test_a_model_in_a_model_is_refused_for_quantization():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    model = keras.Sequential([keras.Input((3,)), inner])
    with pytest.raises(ValueError, match="must not be nested"):
        to_quantization_aware(model)


@pytest.mark.slow
def test_a_quantization_aware_model_has_no_way_back():
    aware = to_quantization_aware(sparse(layers.Flatten(), layers.Dense(2)))
    with pytest.raises(ExportError, match="has no equal in keras"):
        from_tf_keras(aware)


@pytest.mark.slow
def test_quantization_leaves_the_given_model_alone():
    twin = to_tf_keras(convolutional())
    before = twin.get_weights()
    train(to_quantization_aware(twin))
    for old, new in zip(before, twin.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert all(len(layer.inbound_nodes) == 1 for layer in twin.layers)


@pytest.mark.slow
def test_clustering_keeps_every_zero(tfmot):
    # Preserving zeros is in no public module of tfmot.
    cluster = importlib.import_module(
        f"{tfmot.__name__}.python.core.clustering.keras.experimental.cluster"
    )
    model = convolutional()
    clustering = tfmot.clustering.keras
    clustered = cluster.cluster_weights(
        to_tf_keras(model),
        number_of_clusters=8,
        cluster_centroids_init=clustering.CentroidInitialization.LINEAR,
        preserve_sparsity=True,
    )
    train(clustered, [keep_zeros(clustered)])
    plain = clustering.strip_clustering(clustered)
    assert_zeros_kept(kernels(model), kernels(plain))
    for layer in plain.layers:
        if type(layer).__name__ in ("Dense", "Conv2D"):
            assert len(np.unique(layer.kernel.numpy())) <= 8


ORDERS = {
    "before": lambda: [layers.SeparableConv2D(8, 3), layers.Conv2D(8, 1)],
    "behind": lambda: [layers.Conv2D(8, 1), layers.SeparableConv2D(8, 3)],
    "depthwise": lambda: [
        layers.SeparableConv2D(8, 3),
        layers.DepthwiseConv2D(3),
    ],
}


@pytest.mark.parametrize("order", ORDERS)
def test_layers_that_tfmot_takes_apart_get_names_of_their_own(order):
    """Keras and tf_keras count the layers of a kind, each for itself."""
    keras.utils.clear_session()
    parts = ORDERS[order]()
    model = sparse(*parts, layers.Flatten(), layers.Dense(3))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8, 8, 3)).astype("float32")
    for weight in model.trainable_weights:
        # Ranges begin wide, and small signals would be rounded to nothing.
        values = np.array(weight)
        weight.assign(values / max(values.std(), 1e-9) / 3)
    expected = model.predict(x, verbose=0)
    for _ in range(2):
        aware = to_quantization_aware(model)
        aware(x, training=True)
        got = aware.predict(x, verbose=0)
        difference = np.sqrt(np.mean((got - expected) ** 2))
        assert difference < 0.1 * np.sqrt(np.mean(expected**2))
        ours = [np.array(w) for w in model.weights if len(w.shape) > 1]
        theirs = [w.numpy().ravel() for w in aware.weights]
        for kernel in ours:
            assert any(np.array_equal(kernel.ravel(), w) for w in theirs)


def test_a_normalization_beside_another_use_stays_in_float():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="before")(inputs)
    y = layers.ReLU()(layers.BatchNormalization(name="alone")(x))
    y = layers.Conv2D(4, 3, padding="same", name="after")(y)
    outputs = layers.GlobalAveragePooling2D()(layers.Add()([x, y]))
    with pytest.warns(UserWarning, match=r"\['alone'\].*float32"):
        aware = to_quantization_aware(keras.Model(inputs, outputs))
    names = {layer.name for layer in aware.layers}
    assert {"alone", "quant_before", "quant_after"} <= names


def test_frozen_kernels_that_stay_in_float_are_named():
    model = sparse(layers.LSTM(4, name="lstm"), layers.Dense(2), shape=(6, 4))
    model.get_layer("lstm").trainable = False
    with pytest.warns(UserWarning, match=r"\['lstm'\].*float32"):
        to_quantization_aware(model)


def test_masks_of_wrappers_are_no_kernels(tfmot, tmp_path):
    model = sparse(layers.Dense(8), layers.Dense(4), shape=(16,))
    wrapped = to_tf_keras(model, keep_masks=True)
    report = to_tflite(wrapped, tmp_path / "model.tflite")
    size = 16 * 8 + 8 * 4
    assert report.model_weights == size
    assert len(report.kernels) == 2
