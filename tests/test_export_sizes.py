"""Predicted sizes against the files themselves, and encodings decoded."""

import json
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import keras_swd
from keras_swd.export import information_limit, plan_sizes
from keras_swd.export.sizes.encodings import bit_mask, sparse, to_int8
from keras_swd.export.sizes.image import Tensor, draw
from keras_swd.export.tflite.records import gzip_size

layers = keras.layers
SLOW = pytest.mark.slow

BLOCK = {"float32": 4, "int8": 16}

# Zeros for most entries, so that some kernels are sparse enough.
KERNELS = arrays(
    st.sampled_from(["float32", "int8"]),
    array_shapes(min_dims=2, max_dims=4, max_side=9),
    elements=st.sampled_from([0, 0, 0, 0, 1, -3]),
)


@pytest.mark.tensorflow
def test_a_double_precision_model_is_planned_as_its_file_is():
    def planned(dtype):
        dense = layers.Dense(60, dtype=dtype, name="dense")
        model = keras.Sequential([keras.Input((40,)), dense], name="net")
        kernel = np.random.default_rng(0).normal(size=(40, 60))
        kernel[:, ::2] = 0.0
        model.set_weights([kernel, np.zeros(60)])
        return [file.bytes for file in plan_sizes(model, [0.5]).files]

    assert planned("float64") == planned("float32")


@pytest.mark.tensorflow
def test_a_file_that_would_lose_entries_is_planned_with_all_zeros(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3000)])
    kernel, bias = model.get_weights()
    kernel[:, ::2] = 0.0
    model.set_weights([kernel, bias])
    plain, sparse = (
        find(plan_sizes(model, [0.5]), 0.5, "float32", encoding)
        for encoding in ("plain", "sparse")
    )
    assert sparse.bytes == plain.bytes
    report = keras_swd.export.to_tflite(model, tmp_path / "model.tflite")
    assert plain.bytes == pytest.approx(report.bytes, rel=0.03)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "activation", [layers.LeakyReLU(), layers.ReLU()], ids=["leaky", "relu"]
)
@pytest.mark.parametrize("alone", [False, True])
def test_activations_may_be_layers(activation, alone, tmp_path):
    inner = [layers.Dense(60), layers.Activation(activation)]
    stack = inner if alone else [layers.Dense(60, activation=activation)]
    model = keras.Sequential([keras.Input((80,)), *stack, layers.Dense(3)])
    planned = find(plan_sizes(model, [0.0]), 0.0, "float32", "plain")
    report = keras_swd.export.to_tflite(
        model, tmp_path / "model.tflite", sparse=False
    )
    assert planned.bytes == pytest.approx(report.bytes, rel=0.03)


def decode_sparse(encoded, values):
    """The oracle: entries put back, for rows of at most 256 entries."""

    def numbers(data, kind):
        count = int.from_bytes(data[:4], "little")
        size = 4 + count * np.dtype(kind).itemsize
        rest = data[-(-size // 4) * 4 :]
        return np.frombuffer(data[4:size], kind).astype(int), rest

    entries = np.frombuffer(encoded.content, values.dtype)
    width = BLOCK[values.dtype.name] if not encoded.expanded else 1
    entries = entries.reshape(-1, width)
    kind = "uint8" if len(entries) <= 255 else "uint16"
    starts, rest = numbers(encoded.places, kind)
    columns, rest = numbers(rest, "uint8")
    assert not rest
    found = np.zeros_like(values).reshape(-1, values.shape[-1])
    assert len(starts) == len(found) + 1
    for row in range(len(found)):
        for place in range(starts[row], starts[row + 1]):
            first = columns[place] * width
            found[row, first : first + width] = entries[place]
    return found.reshape(values.shape)


def remove_smallest(model, sparsity):
    """Prunes each kernel; gives the other weights values as after training."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        values = np.array(keras.ops.convert_to_numpy(weight))
        if values.ndim > 1:
            order = np.argsort(np.abs(values), axis=None, kind="stable")
            values.flat[order[: round(sparsity * values.size)]] = 0.0
        else:
            values += random.uniform(0.01, 0.1, values.shape)
        weight.assign(values)
    return model


def convolutional():
    return keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(24, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(48, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ],
        name="convolutional",
    )


def residual():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(32, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.Conv2D(32, 3, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization()(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.SeparableConv2D(64, 3)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(20)(x), name="residual")


def mlp():
    return keras.Sequential(
        [
            keras.Input((300,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10),
        ],
        name="mlp",
    )


def normalized(widths):
    """Residual blocks of two convolutions, each one normalized."""

    def convolution(x, filters, size=3):
        x = layers.Conv2D(filters, size, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((16, 16, 3))
    x = layers.ReLU()(convolution(inputs, widths[0]))
    for width in widths:
        y = convolution(layers.ReLU()(convolution(x, width)), width)
        if x.shape[-1] != width:
            x = convolution(x, width, size=1)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="normalized")


def find(plan, sparsity, dtype, encoding):
    (file,) = [
        f
        for f in plan.files
        if (f.sparsity, f.dtype, f.encoding) == (sparsity, dtype, encoding)
    ]
    return file


@given(KERNELS)
def test_a_sparse_kernel_holds_every_entry(values):
    encoded = sparse(values)
    zeros = np.mean(values == 0)
    assert (encoded is None) == (values.ndim == 3 or zeros < 0.3)
    if encoded is not None and encoded.expanded:
        np.testing.assert_array_equal(decode_sparse(encoded, values), values)


def test_zeros_in_blocks_of_the_inputs_are_stored_as_blocks():
    values = np.zeros((16, 64), "float32")
    values[:, 8:12] = values[:, 40:44] = 1.0
    encoded = sparse(values)
    assert not encoded.expanded
    assert len(encoded.content) == 16 * 2 * 4 * 4
    np.testing.assert_array_equal(decode_sparse(encoded, values), values)
    # As many zeros at random places fill no blocks.
    random = np.random.default_rng(0)
    assert sparse(random.permutation(values.ravel()).reshape(16, 64)).expanded


@given(KERNELS)
def test_a_bit_mask_holds_every_entry(values):
    wide = np.tile(values.ravel(), 64)
    encoded = bit_mask(wide)
    saved = wide.nbytes - wide.itemsize * np.count_nonzero(wide)
    assert (encoded is None) == (saved <= -(-wide.size // 8) + 216)
    if encoded is not None:
        bits = np.unpackbits(np.frombuffer(encoded.places, "uint8"))
        found = np.zeros_like(wide)
        entries = np.frombuffer(encoded.content[16:], wide.dtype)
        found[bits[: wide.size] == 1] = entries
        np.testing.assert_array_equal(found, wide)


def test_int8_keeps_zeros_and_has_a_scale_per_channel():
    values = np.array([[0.0, 2.0], [-0.5, 0.0], [0.0, 0.0]], "float32")
    rounded, scales = to_int8(values, axis=0)
    assert rounded.tolist() == [[0, 127], [-127, 0], [0, 0]]
    np.testing.assert_allclose(scales, [2 / 127, 0.5 / 127, 0.0])


@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=6),
    st.lists(st.integers(1, 3), max_size=5),
)
def test_a_drawn_file_holds_contents_in_order_then_names(contents, operators):
    tensors = [
        Tensor(f"tensor {index}", (len(content),), content)
        for index, content in enumerate(contents)
    ]
    picture = draw(tensors, operators)
    assert len(picture) % 4 == 0
    at = 0
    for content in contents:
        at = picture.index(content, at) + len(content)
    for tensor in tensors:
        at = picture.index(tensor.name.encode() + b"\0", at)


def test_a_drawn_tensor_takes_what_it_has():
    def size(**parts):
        return len(draw([Tensor("kernel", (8, 4), **parts)], []))

    plain = size()
    scales = np.ones(8, "float32")
    # For each scale a float and a zero of 8 bytes; five words before these.
    assert size(scales=scales) - plain == 8 * 12 + 20
    assert size(any_batch=True) - plain == 4 * 4
    # Three words before the entries and one elsewhere, for two without them.
    assert size(content=bytes(30)) - plain == 32 + 16 - 8
    assert size(places=bytes(100)) - plain > 100


def test_references_in_a_drawn_file_differ_but_equal_tensors_compress():
    scales = np.ones(64, "float32")
    tensors = [Tensor("a kernel", (64, 3, 3, 64), scales=scales)] * 20
    added = gzip_size(draw(tensors, [])) - gzip_size(draw(tensors[:10], []))
    # Of some 850 bytes each, what differs from record to record.
    assert 10 * 8 < added < 10 * 40


def test_the_information_limit_is_values_and_places():
    model = remove_smallest(mlp(), 0.95)
    zeros = [round(0.95 * n) for n in (300 * 128, 128 * 10)]
    bits = 0.0
    for n, z in zip((300 * 128, 128 * 10), zeros, strict=True):
        s = z / n
        places = -s * math.log2(s) - (1 - s) * math.log2(1 - s)
        bits += 8 * (n - z) + n * places
    assert information_limit(model, bits=8) == math.ceil(bits / 8)
    # A dense model needs its values, one of zeros nothing.
    assert information_limit(mlp()) == 4 * (300 * 128 + 128 * 10)
    assert information_limit(remove_smallest(mlp(), 1.0)) == 0


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("build", "sparsity"),
    [
        pytest.param(convolutional, 0.95, marks=SLOW),
        pytest.param(residual, 0.5, marks=SLOW),
        (mlp, 0.95),
        pytest.param(convolutional, 0.5, marks=SLOW),
        pytest.param(residual, 0.95, marks=SLOW),
    ],
)
def test_predictions_are_within_3_percent_of_the_files(
    build, sparsity, tmp_path
):
    check_predictions(build(), sparsity, tmp_path, 0.03)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("widths", "sparsity"),
    [
        ((16, 32), 0.98),
        # Those of ResNet-20.
        *(
            pytest.param((16,) * 3 + (32,) * 3 + (64,) * 3, s, marks=SLOW)
            for s in (0.8, 0.95, 0.98)
        ),
    ],
)
def test_almost_empty_kernels_in_normalized_networks_are_predicted(
    widths, sparsity, tmp_path
):
    model = remove_smallest(normalized(widths), sparsity)
    fit_statistics(model)
    plan = plan_sizes(model)
    found = plan.files[0].sparsity
    check_files(model, plan, found, tmp_path, 0.03)


def fit_statistics(model):
    """Lets normalization learn what comes, as training does."""
    samples = np.random.default_rng(0).normal(size=(32, 16, 16, 3))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    model(samples.astype("float32"), training=True)


def check_predictions(model, sparsity, folder, tolerance):
    """Compares a plan made of the dense model with files of the pruned one."""
    remove_smallest(model, 0.0)
    plan = plan_sizes(model, [sparsity])
    # The other weights stay as they are.
    for weight in model.weights:
        values = np.array(keras.ops.convert_to_numpy(weight))
        if values.ndim > 1:
            order = np.argsort(np.abs(values), axis=None, kind="stable")
            values.flat[order[: round(sparsity * values.size)]] = 0.0
            weight.assign(values)
    check_files(model, plan, sparsity, folder, tolerance)


def check_files(model, plan, sparsity, folder, tolerance):
    """Compares a plan with the files of the model."""
    from keras_swd.export import to_tflite

    random = np.random.default_rng(0)
    samples = random.normal(size=(16, *model.input_shape[1:]))
    for dtype, quantization in (("float32", None), ("int8", "int8")):
        report = to_tflite(
            model,
            folder / "model.tflite",
            quantization=quantization,
            representative_data=samples.astype("float32"),
            # Random weights may not survive rounding; sizes are the matter.
            tolerance=100.0,
        )
        # A file that LiteRT refuses has a size too.
        for variant in report.variants:
            encoding = "sparse" if variant.sparse else "plain"
            file = find(plan, sparsity, dtype, encoding)
            assert file.bytes == pytest.approx(variant.bytes, rel=tolerance)
            assert file.gzip_bytes == pytest.approx(
                variant.gzip_bytes, rel=tolerance
            )


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_bit_masks_are_predicted_within_3_percent(quantization, tmp_path):
    pytest.importorskip("tflite_micro")
    from keras_swd.export.micro.writing import to_tflite_micro

    model = remove_smallest(convolutional(), 0.9)
    random = np.random.default_rng(0)
    samples = random.normal(size=(16, 12, 12, 3)).astype("float32")
    path = tmp_path / "model.tflite"
    report = to_tflite_micro(model, path, quantization, samples, samples)
    file = find(
        plan_sizes(model, [0.9]), 0.9, quantization or "float32", "bit mask"
    )
    assert file.bytes == pytest.approx(report.bytes, rel=0.03)
    gzip_bytes = gzip_size(path.read_bytes())
    assert file.gzip_bytes == pytest.approx(gzip_bytes, rel=0.03)


def test_a_plan_lists_each_type_and_encoding_at_each_sparsity():
    plan = plan_sizes(mlp(), sparsities=[0.0, 0.9])
    assert [(f.sparsity, f.dtype, f.encoding) for f in plan.files] == [
        (sparsity, dtype, encoding)
        for sparsity in (0.0, 0.9)
        for dtype in ("float32", "int8")
        for encoding in ("plain", "sparse", "bit mask")
    ]
    dense = find(plan, 0.0, "float32", "plain")
    assert dense.bytes == find(plan, 0.9, "float32", "plain").bytes
    assert dense.bytes - dense.graph_bytes == 4 * (300 * 128 + 128 * 10)
    assert json.loads(plan.to_json()) == json.loads(json.dumps(plan.to_dict()))


def test_a_plan_can_be_read_and_saved(tmp_path):
    plan = plan_sizes(mlp(), sparsities=[0.9])
    text = str(plan)
    assert "Predicted sizes of 'mlp' in KiB" in text
    assert "90.0%" in text
    assert "float32, sparse: smaller than plain from 3" in text
    plan.to_json(tmp_path / "plan.json")
    assert json.loads((tmp_path / "plan.json").read_text())["name"] == "mlp"


def test_from_the_break_even_on_the_encoded_file_is_smaller():
    points = plan_sizes(mlp(), sparsities=[0.9]).break_even
    found = {(p.dtype, p.encoding): p.sparsity for p in points}
    # Two bytes say where an entry is, or, with up to 256 inputs, one; a bit
    # says whether there is one.
    assert found["float32", "sparse"] == pytest.approx(1 / 3, abs=0.03)
    assert found["int8", "sparse"] == pytest.approx(2 / 3, abs=0.05)
    assert found["float32", "bit mask"] == pytest.approx(1 / 32, abs=0.02)
    assert found["int8", "bit mask"] == pytest.approx(1 / 8, abs=0.02)
    for (dtype, encoding), sparsity in found.items():
        plan = plan_sizes(mlp(), [sparsity - 0.03, sparsity + 0.03])
        below, above = (
            find(plan, s, dtype, encoding).bytes
            < find(plan, s, dtype, "plain").bytes
            for s in (sparsity - 0.03, sparsity + 0.03)
        )
        assert above
        assert not below or encoding == "bit mask"


def test_a_kernel_too_small_to_encode_never_breaks_even():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    points = plan_sizes(model, [0.9]).break_even
    assert [p.sparsity for p in points] == [None] * 4
    assert "never smaller than plain" in str(plan_sizes(model, [0.9]))


def test_by_default_a_pruned_model_is_planned_from_its_own_sparsity_on():
    model = remove_smallest(mlp(), 0.9)
    sparsities = sorted({file.sparsity for file in plan_sizes(model).files})
    assert sparsities == [pytest.approx(0.9), 0.95, 0.98]
    # A target that was met all but for what rounding leaves is no other one.
    model = remove_smallest(mlp(), 0.9499)
    sparsities = sorted({file.sparsity for file in plan_sizes(model).files})
    assert sparsities == [pytest.approx(0.9499, abs=5e-5), 0.98]


def test_the_sparsity_that_a_model_has_is_planned_as_it_is():
    model = mlp()
    first, last = model.layers[0], model.layers[-1]
    values = np.zeros((300, 128), "float32")
    values[::30] = 0.5
    first.kernel.assign(values)
    # The last kernel is dense, and stays so.
    plan = plan_sizes(model)
    sparsity = plan.files[0].sparsity
    dense = find(plan, sparsity, "float32", "sparse").bytes
    last.kernel.assign(np.zeros((128, 10), "float32"))
    empty = plan_sizes(model).files[1].bytes
    assert dense - empty == pytest.approx(4 * 1280, rel=0.1)


def test_only_prunable_kernels_are_pruned_in_their_own_units():
    swd = keras_swd.SelectiveWeightDecay(
        1e-3, granularity=keras_swd.Block((4, 1))
    )
    model = keras.Sequential(
        [
            keras.Input((256,)),
            layers.Dense(256, kernel_regularizer=swd),
            layers.Dense(256),
        ]
    )
    file = find(plan_sizes(model, [0.9]), 0.9, "float32", "sparse")
    kernel = 4 * 256 * 256
    # A tenth of the entries, a byte for each four of them, starts of rows.
    blocks = 0.1 * kernel * (1 + 1 / 16) + 257 * 2
    assert file.bytes - file.graph_bytes == pytest.approx(
        kernel + blocks, rel=0.001
    )


class Subclassed(keras.Model):
    """The same network as `mlp()`, whose own code calls its layers."""

    def __init__(self, regularizer=None, activation="relu"):
        super().__init__(name="subclassed")
        options = {"kernel_regularizer": regularizer}
        self.first = layers.Dense(128, activation=activation, **options)
        self.second = layers.Dense(10, **options)

    def call(self, x):
        return self.second(self.first(x))

    def get_config(self):
        return {}


def swd():
    return keras_swd.SelectiveWeightDecay()


def test_weights_of_an_activation_count_beside_those_of_its_layer():
    model = Subclassed(activation=layers.PReLU())
    model(np.zeros((1, 300), "float32"))
    bytes_of_weights = 4 * model.count_params()
    (plain, *_) = plan_sizes(model, [0.5]).files
    assert bytes_of_weights < plain.bytes < 1.05 * bytes_of_weights


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"regularizer": swd()},
        {"regularizer": swd(), "activation": layers.ReLU()},
    ],
    ids=["plain", "pruned", "activation"],
)
def test_subclassed_models_are_planned_layer_by_layer(options):
    model = Subclassed(**options)
    model(np.zeros((1, 300), "float32"))
    sizes = [f.bytes for f in plan_sizes(model, [0.9]).files]
    expected = [f.bytes for f in plan_sizes(mlp(), [0.9]).files]
    np.testing.assert_allclose(sizes, expected, rtol=0.02)


@pytest.mark.tensorflow
def test_a_size_is_met_by_a_subclassed_model(tmp_path):
    model = Subclassed(swd())
    model(np.zeros((1, 300), "float32"))
    keras_swd.remove(model, keras_swd.TFLiteBytes(50_000))
    report = keras_swd.export.to_tflite(model, tmp_path / "model.tflite")
    assert 48_000 < report.bytes <= 50_000


@pytest.mark.tensorflow
def test_a_file_in_blocks_that_do_not_fit_is_not_promised(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((1002,)),
            layers.Dense(16, activation="relu", kernel_regularizer=swd()),
            layers.Dense(4),
        ]
    )
    kernel = np.array(model.layers[0].kernel)
    kernel[-2:] *= 1e-3  # they go first
    model.layers[0].kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"out of reach|smaller"):
        keras_swd.remove(model, keras_swd.TFLiteBytes(3_500))
    keras_swd.remove(model, 0.99)
    plan = find(
        plan_sizes(model),
        plan_sizes(model).files[0].sparsity,
        "float32",
        "sparse",
    )
    report = keras_swd.export.to_tflite(
        keras_swd.strip(model), tmp_path / "model.tflite"
    )
    assert plan.bytes == pytest.approx(report.bytes, rel=0.03)


@pytest.mark.tensorflow
def test_a_normalized_separable_convolution_is_planned_as_its_file(tmp_path):
    x = inputs = keras.Input((16, 16, 64))
    for _ in range(4):
        x = layers.SeparableConv2D(64, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    model = remove_smallest(keras.Model(inputs, x, name="separable"), 0.9)
    plan = plan_sizes(model)
    samples = np.random.default_rng(0).normal(size=(16, 16, 16, 64))
    for encoding, quantization in (
        ("plain", None),
        ("sparse", None),
        ("plain", "int8"),
    ):
        report = keras_swd.export.to_tflite(
            model,
            tmp_path / "model.tflite",
            quantization=quantization,
            sparse=encoding == "sparse",
            representative_data=samples.astype("float32"),
        )
        sparsity = plan.files[0].sparsity
        file = find(plan, sparsity, quantization or "float32", encoding)
        assert file.bytes == pytest.approx(report.bytes, rel=0.03)
        assert file.gzip_bytes == pytest.approx(report.gzip_bytes, rel=0.03)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: layers.BatchNormalization(axis=1)(layers.Conv2D(8, 3)(x)),
        lambda x: low_rank(layers.Dense(16))(x),
    ],
    ids=["another axis", "LoRA"],
)
def test_layers_whose_kernels_do_not_stand_alone_are_planned(build):
    inputs = keras.Input((16, 16, 3))
    assert plan_sizes(keras.Model(inputs, build(inputs)), [0.5]).files


def low_rank(layer):
    layer.build((None, 16, 16, 3))
    layer.enable_lora(2)
    return layer


def test_kernels_of_other_layers_are_pruned_too():
    model = keras.Sequential(
        [keras.Input((4, 64)), layers.SimpleRNN(128), layers.Dense(4)]
    )
    plan = plan_sizes(remove_smallest(model, 0.0), [0.95])
    removed = plan_sizes(remove_smallest(model, 0.95)).files
    for file, expected in zip(plan.files, removed[:6], strict=True):
        assert file.gzip_bytes == pytest.approx(expected.gzip_bytes, rel=0.02)
    float32, int8 = (find(plan, 0.95, dtype, "plain") for dtype in BLOCK)
    assert float32.gzip_bytes < 0.2 * float32.bytes
    assert int8.bytes < 0.4 * float32.bytes


def test_frozen_kernels_are_not_planned_for():
    model = keras.Sequential(
        [
            keras.Input((300,)),
            layers.Dense(256, kernel_regularizer=swd(), trainable=False),
            layers.Dense(64, kernel_regularizer=swd()),
        ]
    )
    planned = plan_sizes(model, [0.9]).files
    keras_swd.remove(model, 0.9)
    removed = plan_sizes(model).files
    for file, expected in zip(planned, removed[: len(planned)], strict=True):
        assert file.bytes == pytest.approx(expected.bytes, rel=0.01)


def test_a_granularity_that_does_not_fit_is_named():
    swd = keras_swd.SelectiveWeightDecay(granularity=keras_swd.Block((4, 1)))
    layer = layers.Dense(8, kernel_regularizer=swd)
    model = keras.Sequential([keras.Input((3,)), layer])
    with pytest.raises(ValueError, match=r"cannot be pruned: .*\(4, 1\)"):
        plan_sizes(model, [0.5])


@pytest.mark.parametrize(
    "sparsities", [[], [1.0], [-0.1], [95], [0.95, float("nan")], "0.9", 0.9]
)
def test_sparsities_that_do_not_fit_are_refused(sparsities):
    with pytest.raises(ValueError, match="Argument `sparsities` must hold"):
        plan_sizes(mlp(), sparsities)


def test_zeros_do_not_come_back():
    with pytest.raises(ValueError, match=r"that of the model, which is 0\.9"):
        plan_sizes(remove_smallest(mlp(), 0.9), [0.5])


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="must be built"):
        plan_sizes(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="must be a Keras model"):
        information_limit("model.keras")


@pytest.mark.parametrize("bits", [0, -8])
def test_bits_must_be_positive(bits):
    with pytest.raises(ValueError, match="Argument `bits` must be a positive"):
        information_limit(mlp(), bits)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_mobilenet_is_predicted_within_3_percent(tmp_path):
    model = keras.applications.MobileNetV2((96, 96, 3), weights=None)
    check_predictions(model, 0.9, tmp_path, 0.03)


class Doubled(keras.layers.Dense):
    """A layer that Keras does not know."""


def test_a_layer_that_is_not_of_keras_is_refused():
    model = keras.Sequential([keras.Input((8,)), Doubled(4, name="mine")])
    with pytest.raises(ValueError, match=r"'mine' is a Doubled.*`to_tflite`"):
        plan_sizes(model)


@pytest.mark.parametrize("kernels", [False, True])
def test_coupled_channels_are_no_zeros_of_a_kernel(kernels):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3),
            keras.layers.BatchNormalization(),
        ]
    )
    plain = plan_sizes(model, sparsities=[0.5]).files
    swd = keras_swd.SelectiveWeightDecay(
        granularity=keras_swd.CoupledChannels(kernels=kernels)
    )
    model = keras_swd.with_regularizer(model, swd)
    coupled = plan_sizes(model, sparsities=[0.5]).files
    assert [f.bytes for f in coupled] == [f.bytes for f in plain]


@pytest.mark.tensorflow
def test_a_layer_that_is_called_twice_is_stored_once():
    inputs = keras.Input((64,)), keras.Input((64,))
    tower = layers.Dense(96, activation="relu")
    outputs = layers.Subtract()([tower(x) for x in inputs])
    (plan, *_) = plan_sizes(keras.Model(inputs, outputs), [0.0]).files
    assert 64 * 96 * 4 < plan.bytes < 1.2 * 64 * 96 * 4


def test_a_sparsity_alone_is_refused_with_what_is_expected():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(8)])
    with pytest.raises(ValueError, match="must hold fractions of zeros"):
        plan_sizes(model, 0.9)
