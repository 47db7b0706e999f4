"""Whole networks shrink, and what is left goes wherever models go."""

import importlib.util
import pathlib

import keras
import numpy as np
import pytest
from masks import mask_channels, randomize, settle

from keras_swd import Channel, PruningScheduler, SelectiveWeightDecay
from keras_swd.coupling import find_coupling
from keras_swd.shrinking import shrink

pytestmark = pytest.mark.slow

layers = keras.layers
PROGRAM = (
    pathlib.Path(__file__).parents[2] / "benchmarks" / "shrink_applications.py"
)
FAMILIES = """
    ConvNeXtTiny DenseNet121 EfficientNetB0 EfficientNetV2B0 InceptionResNetV2
    InceptionV3 MobileNet MobileNetV2 MobileNetV3Small NASNetMobile ResNet50
    ResNet50V2 VGG16 Xception
""".split()


@pytest.fixture(scope="module")
def benchmark():
    """The program `benchmarks/shrink_applications.py` as a module."""
    if not PROGRAM.is_file():
        pytest.skip("the benchmarks are not part of this checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PROGRAM.parent)
        spec = importlib.util.spec_from_file_location("bench_shrink", PROGRAM)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_applications_shrinks(name, benchmark):
    if keras.config.backend() == "torch" and name.startswith("NASNet"):
        pytest.skip("Keras has no NASNet on PyTorch")
    cell = benchmark.measure(name)
    assert cell["cut"] == cell["masked"] > 0
    assert cell["left"] < 0.75 * cell["parameters"]
    # Rounding adds up in the deepest of them, of 780 layers; see `verify`.
    assert cell["difference"] <= 3e-5
    # What the network is given must show in its outputs, or nothing would.
    assert cell["depends"] > 1e-3
    keras.backend.clear_session()


def residual_network():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for _ in range(2):
        y = layers.Conv2D(24, 1, use_bias=False)(x)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(y)
        y = layers.ReLU(6.0)(layers.BatchNormalization()(y))
        y = layers.Conv2D(16, 1, use_bias=False)(y)
        x = layers.Add()([x, layers.BatchNormalization()(y)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(5, activation="softmax")(x))


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return random.normal(size=(64, 16, 16, 3)).astype("float32")


@pytest.fixture
def small(images):
    model, random = residual_network(), np.random.default_rng(1)
    randomize(model, random)
    settle(model, images)
    mask_channels(model, 0.5, random)
    small = shrink(model)
    assert small.count_params() < 0.4 * model.count_params()
    return small


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "mode", [None, "float16", "dynamic", "int8", "int16x8"]
)
def test_a_shrunk_model_becomes_a_file_in_each_type(
    mode, small, images, tmp_path
):
    from keras_swd.export import to_tflite

    ranges = {"representative_data": images} if mode else {}
    path = tmp_path / "small.tflite"
    to_tflite(small, path, quantization=mode, **ranges)
    assert path.stat().st_size > 0


@pytest.mark.tensorflow
def test_a_shrunk_model_goes_through_tfmot(small, images, tmp_path):
    pytest.importorskip("tf_keras")
    if not importlib.util.find_spec("tensorflow_model_optimization"):
        pytest.skip("needs tfmot")
    from keras_swd.export import (
        to_quantization_aware,
        to_tf_keras,
        to_tflite,
    )

    twin = to_tf_keras(small)
    assert twin.count_params() == small.count_params()
    aware = to_quantization_aware(twin)
    aware.compile("sgd", "sparse_categorical_crossentropy")
    aware.fit(images, np.arange(64) % 5, epochs=1, verbose=0)
    path = tmp_path / "aware.tflite"
    to_tflite(aware, path, quantization="int8")
    assert path.stat().st_size > 0


def test_filters_that_training_removed_go(tmp_path):
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    x = (digits.images[order, :, :, None] / 16.0).astype("float32")
    y = digits.target[order]
    train, test = (x[449:], y[449:]), (x[:449], y[:449])

    def pruned():
        return SelectiveWeightDecay(granularity=Channel())

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(
                32, 3, activation="relu", kernel_regularizer=pruned()
            ),
            layers.Conv2D(
                64, 3, activation="relu", kernel_regularizer=pruned()
            ),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        *train,
        batch_size=64,
        epochs=12,
        verbose=0,
        callbacks=[PruningScheduler(sparsity=0.6)],
    )
    removed = sum(
        int((np.abs(layer.get_weights()[0]).sum(axis=(0, 1, 2)) == 0).sum())
        for layer in model.layers[:2]
    )
    small = shrink(model)
    assert sum(g.dead for g in find_coupling(model).groups) >= removed
    assert sum(layer.filters for layer in small.layers[:2]) <= 96 - removed
    assert removed == round(0.6 * 96)
    before = model.evaluate(*test, verbose=0, return_dict=True)
    after = small.evaluate(*test, verbose=0, return_dict=True)
    assert after["accuracy"] == pytest.approx(before["accuracy"], abs=0.003)
    small.fit(*train, batch_size=64, epochs=3, verbose=0)
    tuned = small.evaluate(*test, verbose=0, return_dict=True)
    assert tuned["accuracy"] > 0.95
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert loaded.evaluate(*test, verbose=0) == pytest.approx(
        small.evaluate(*test, verbose=0)
    )
