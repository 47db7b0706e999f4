"""Files for TFLite Micro: what is packed, and that nothing else changes."""

import json
import os
import sys

import hypothesis
import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from keras import layers

from keras_swd.export import ExportError, to_tflite
from keras_swd.export.micro import writing as micro_module
from keras_swd.export.micro.decode import OVERHEAD, encode, pack_weights
from keras_swd.export.micro.writing import to_tflite_micro
from keras_swd.export.tflite.flatbuffer import operator_counts

runtime = pytest.importorskip("tflite_micro").runtime
needs_tensorflow = pytest.mark.tensorflow


def decode(mask, entries, shape, dtype):
    """The oracle: what DECODE does, bit by bit."""
    values = iter(np.frombuffer(entries[16:], dtype))
    result = np.zeros(shape, dtype)
    for place in range(result.size):
        if mask[place // 8] >> (7 - place % 8) & 1:
            result.flat[place] = next(values)
    assert list(values) == []
    return result


@pytest.mark.parametrize("dtype", ["float32", "int8", "int16"])
@hypothesis.given(data=st.data())
def test_decoding_gives_back_what_was_encoded(dtype, data):
    values = data.draw(
        arrays.arrays(dtype, arrays.array_shapes(max_side=9), fill=st.just(0))
    )
    mask, entries = encode(values)
    assert len(mask) == -(-values.size // 8)
    assert len(entries) == 16 + np.count_nonzero(values) * values.itemsize
    decoded = decode(mask, entries, values.shape, dtype)
    np.testing.assert_array_equal(decoded, values)


def test_the_header_names_pruning_and_both_versions():
    _, entries = encode(np.zeros((3, 3), "float32"))
    assert entries == bytes([2, 1, 0, 0, 1]) + bytes(11)


def prune(model, sparsity, seed=0):
    """Sets random entries of each kernel to zero; returns the model."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.ndim >= 2:
            drawn = generator.permutation(values.size).reshape(values.shape)
            pruned = drawn < round(sparsity * values.size)
            weight.assign(np.where(pruned, np.float32(0), values))
    return model


def dense(units=64, **options):
    stack = [keras.Input((48,)), layers.Dense(units, **options)]
    return keras.Sequential([*stack, layers.Dense(10)])


def convolutions():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3, depth_multiplier=4),
            layers.SeparableConv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2DTranspose(8, 3, strides=2),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def sequence():
    return keras.Sequential(
        [
            keras.Input((20, 8)),
            layers.Conv1D(32, 5, activation="relu"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(4),
        ]
    )


def two_inputs():
    """One layer used twice, and inputs whose order matters."""
    left, right = keras.Input((64,), name="z"), keras.Input((64,), name="a")
    shared = layers.Dense(96, activation="relu")
    joined = layers.Concatenate()([shared(left), 2 * shared(right)])
    return keras.Model(
        {"z": left, "a": right},
        {"y": layers.Dense(5)(joined), "difference": left - right},
    )


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = layers.Dense(64), layers.Dense(3)

    def call(self, x):
        return self.head(keras.ops.relu(self.hidden(x)))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 40), "float32"))
    return model


MODELS = {
    "dense": dense,
    "convolutions": convolutions,
    "sequence": sequence,
    "two_inputs": two_inputs,
    "subclassed": subclassed,
}


def samples_for(model, count=12):
    generator = np.random.default_rng(3)

    def draw(shape):
        return generator.standard_normal((count, *shape[1:])).astype("float32")

    if isinstance(model, Subclassed):
        return draw((None, 40))
    if len(model.inputs) > 1:
        return {x.name: draw(x.shape) for x in model.inputs}
    return draw(model.inputs[0].shape)


def run(content, samples):
    """TFLite Micro itself, for files with one input and one output."""
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=2**22)
    outputs = []
    for sample in samples:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0))
    return np.concatenate(outputs)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned dense network, its packed file and its report."""
    keras.utils.set_random_seed(1)
    model = prune(dense(), 0.75)
    path = tmp_path_factory.mktemp("pruned") / "model.tflite"
    return model, path, to_tflite_micro(model, path)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "quantization"),
    [
        ("two_inputs", None),
        slow("convolutions", "int8"),
        slow("dense", None),
        slow("dense", "int8"),
        slow("convolutions", None),
        slow("sequence", None),
        slow("sequence", "int8"),
        slow("two_inputs", "int8"),
        slow("subclassed", None),
        slow("subclassed", "int8"),
    ],
)
def test_each_model_becomes_a_smaller_file(name, quantization, tmp_path):
    model = prune(MODELS[name](), 0.9)
    samples = samples_for(model)
    path = tmp_path / "model.tflite"
    report = to_tflite_micro(
        model,
        path,
        quantization=quantization,
        representative_data=samples if quantization else None,
        check_with=samples,
    )
    assert os.listdir(tmp_path) == ["model.tflite"]
    assert report.bytes == path.stat().st_size < report.plain_bytes
    assert report.samples == 12
    dtype = quantization or "float32"
    assert {tensor.dtype for tensor in report.tensors} == {dtype}
    assert all(tensor.sparsity >= 0.89 for tensor in report.tensors)
    counts = operator_counts(path.read_bytes())
    packed = sum(tensor.skipped is None for tensor in report.tensors)
    twice = name == "two_inputs"  # a layer that is used twice, is expanded so
    assert counts["TFLM_DECODE"] == packed + twice >= 1


@needs_tensorflow
def test_a_packed_file_gives_the_same_bits_as_the_plain_one(pruned, tmp_path):
    model, path, report = pruned
    samples = samples_for(model)
    to_tflite(model, tmp_path / "plain.tflite", sparse=False)
    plain = (tmp_path / "plain.tflite").read_bytes()
    before, after = run(plain, samples), run(path.read_bytes(), samples)
    assert before.tobytes() == after.tobytes()
    predicted = model.predict(samples, verbose=0)
    np.testing.assert_allclose(after, predicted, rtol=1e-4, atol=1e-5)
    assert report.bytes < 0.5 * len(plain)


@needs_tensorflow
def test_zeros_and_bytes_are_counted_per_tensor(pruned):
    _, _, report = pruned
    last, first = sorted(report.tensors, key=lambda tensor: tensor.size)
    assert first.shape == (64, 48)
    assert (first.size, first.zeros) == (64 * 48, 48 * 48)
    assert first.plain_bytes == 64 * 48 * 4
    assert first.bytes == 64 * 48 // 8 + 16 + 16 * 48 * 4
    assert (last.shape, last.zeros) == ((10, 64), 480)
    saved = sum(t.plain_bytes - t.bytes for t in report.tensors)
    overhead = report.bytes - (report.plain_bytes - saved)
    assert 0 < overhead <= 2 * OVERHEAD


@needs_tensorflow
def test_expanded_weights_take_working_memory(pruned):
    _, _, report = pruned
    largest = max(tensor.plain_bytes for tensor in report.tensors)
    more = report.arena_bytes - report.plain_arena_bytes
    assert 0.9 * largest < more < largest + 2048


@needs_tensorflow
def test_the_record_is_readable_as_json_and_as_a_table(pruned):
    _, path, report = pruned
    record = json.loads(report.to_json())
    assert record["bytes"] == report.bytes
    assert record["ratio"] == report.bytes / report.plain_bytes
    assert record["tensors"][0]["zeros"] == report.tensors[0].zeros
    table = str(report)
    assert str(path) in table
    assert "bit for bit, on 8 samples" in table
    assert "64×48 float32, 75.00% zeros, 12,288 -> 3,472 bytes" in table


@pytest.mark.slow
@needs_tensorflow
def test_what_does_not_pay_stays_plain(tmp_path):
    model = keras.Sequential(
        [keras.Input((48,)), layers.Dense(32), layers.Dense(1)]
    )
    kernel, small = (layer.kernel for layer in model.layers)
    small.assign(np.zeros((32, 1)))
    report = to_tflite_micro(model, tmp_path / "model.tflite")
    assert report.bytes == report.plain_bytes
    assert report.arena_bytes == report.plain_arena_bytes
    reasons = {tensor.shape: tensor.skipped for tensor in report.tensors}
    assert reasons == {(32, 48): "too few zeros", (1, 32): "too small"}
    # A few zeros with a minus sign, as a mask leaves them, change that.
    values = keras.ops.convert_to_numpy(kernel)
    kernel.assign(values * (np.arange(48)[:, None] % 3 > 0))
    report = to_tflite_micro(model, tmp_path / "model.tflite")
    reasons = {tensor.shape: tensor.skipped for tensor in report.tensors}
    assert reasons == {(32, 48): None, (1, 32): "too small"}
    assert report.ratio < 0.8


@needs_tensorflow
def test_kernels_of_zeros_alone_are_packed(tmp_path):
    report = to_tflite_micro(prune(dense(), 1.0), tmp_path / "model.tflite")
    assert [t.percentage for t in report.tensors] == ["100.00%"] * 2
    assert [t.skipped for t in report.tensors] == [None, None]


@pytest.mark.slow
@needs_tensorflow
def test_weights_inside_a_loop_are_packed_and_its_state_is_not(tmp_path):
    model = keras.Sequential(
        [keras.Input((6, 8)), layers.LSTM(16), layers.Dense(64)]
    )
    report = to_tflite_micro(prune(model, 0.9), tmp_path / "model.tflite")
    packed = {t.shape for t in report.tensors if t.skipped is None}
    assert packed == {(64, 8), (64, 16)}
    plain = {t.skipped for t in report.tensors} - {None}
    assert plain == {"read by WHILE"}


@needs_tensorflow
def test_a_mixed_precision_model_is_exported_in_float32(tmp_path):
    model = prune(dense(dtype="mixed_float16"), 0.9)
    report = to_tflite_micro(model, tmp_path / "model.tflite")
    assert {tensor.dtype for tensor in report.tensors} == {"float32"}
    assert report.ratio < 0.4


@needs_tensorflow
def test_an_operator_that_tflite_micro_lacks_is_named(tmp_path):
    inputs = keras.Input((8,))
    outputs = keras.ops.power(keras.ops.absolute(inputs), 2.5)
    with pytest.raises(ExportError, match="has no operator POW"):
        to_tflite_micro(keras.Model(inputs, outputs), tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


@needs_tensorflow
def test_a_packed_file_with_one_wrong_weight_is_never_written(
    tmp_path, monkeypatch
):
    model = keras.Sequential([keras.Input((48,)), layers.Dense(64)])
    model = prune(model, 0.9)

    def spoiled(content):
        packed, tensors = pack_weights(content)
        _, entries = encode(keras.ops.convert_to_numpy(model.weights[0]).T)
        wrong = bytearray(packed)
        wrong[packed.index(entries) + 16 + 2] ^= 0x40
        return bytes(wrong), tensors

    path = tmp_path / "model.tflite"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(micro_module, "pack_weights", spoiled)
    with pytest.raises(ExportError, match="differs from that of the plain"):
        to_tflite_micro(model, path)
    assert os.listdir(tmp_path) == ["model.tflite"]
    assert path.read_bytes() == b"earlier"


@needs_tensorflow
def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(micro_module, "write_whole", full)
    with pytest.raises(ExportError, match="No space left on device"):
        to_tflite_micro(prune(dense(), 0.9), tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


@needs_tensorflow
def test_batches_of_a_generator_show_the_ranges_and_are_compared(tmp_path):
    model = prune(dense(), 0.9)
    samples = samples_for(model, count=80)
    report = to_tflite_micro(
        model,
        tmp_path / "model.tflite",
        quantization="int8",
        representative_data=(samples[i : i + 8] for i in range(0, 80, 8)),
    )
    assert report.samples == 64
    assert report.max_relative_difference < 0.1
    assert report.ratio < 0.7


@pytest.mark.slow
@needs_tensorflow
def test_a_model_from_quantization_aware_training_is_packed(tmp_path):
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    tf_keras = pytest.importorskip("tf_keras")
    tf_keras.utils.set_random_seed(0)
    stack = tf_keras.layers
    model = tf_keras.Sequential(
        [
            tf_keras.Input((10, 10, 1)),
            stack.Conv2D(8, 3, activation="relu"),
            stack.Flatten(),
            stack.Dense(64),
        ]
    )
    kernel = model.layers[-1].kernel
    kernel.assign(kernel * (np.arange(64) % 8 == 0))
    samples = np.random.default_rng(0).random((32, 10, 10, 1), "float32")
    aware = tfmot.quantization.keras.quantize_model(model)
    for _ in range(3):  # ranges settle while it is trained
        aware(samples, training=True)
    report = to_tflite_micro(
        aware, tmp_path / "m.tflite", "int8", check_with=samples
    )
    dense = max(report.tensors, key=lambda tensor: tensor.size)
    assert (dense.dtype, dense.skipped) == ("int8", None)
    assert dense.sparsity >= 7 / 8
    assert report.ratio < 0.45


def test_bad_arguments_are_refused(tmp_path):
    model, path = dense(), tmp_path / "model.tflite"
    with pytest.raises(ValueError, match=r"must end in '\.tflite'"):
        to_tflite_micro(model, tmp_path / "model.bin")
    with pytest.raises(ValueError, match="existing folder"):
        to_tflite_micro(model, tmp_path / "none" / "model.tflite")
    with pytest.raises(ValueError, match="`quantization` must be None or"):
        to_tflite_micro(model, path, quantization="float16")
    with pytest.raises(ValueError, match="must be built"):
        to_tflite_micro(keras.Sequential([layers.Dense(2)]), path)
    unknown = keras.Sequential([keras.Input((None, 3)), layers.Dense(2)])
    with pytest.raises(ValueError, match="known shapes"):
        to_tflite_micro(unknown, path)
    inputs = keras.Input(batch_shape=(4, 3))
    several = keras.Model(inputs, layers.Dense(2)(inputs))
    with pytest.raises(ValueError, match=r"of shape \(4, 3\)"):
        to_tflite_micro(several, path)
    assert os.listdir(tmp_path) == []


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_swd\[micro\]'"):
        to_tflite_micro(dense(), tmp_path / "model.tflite")


@needs_tensorflow
def test_ranges_are_asked_for_and_no_mode_of_others_is_named(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="representative_data") as error:
        to_tflite_micro(model, tmp_path / "model.tflite", quantization="int8")
    assert "dynamic" not in str(error.value)


@needs_tensorflow
def test_a_sequential_model_built_by_training_takes_one_sample(tmp_path):
    model = keras.Sequential([layers.Dense(16), layers.Dense(2)])
    model.compile(loss="mse")
    x = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")
    model.fit(x, np.ones((32, 2)), batch_size=32, verbose=0)
    report = to_tflite_micro(model, tmp_path / "model.tflite", check_with=x)
    assert report.samples == 32
