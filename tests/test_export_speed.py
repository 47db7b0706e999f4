"""Will a pruned model be faster: the verdict of each runtime, and why."""

import json
import pathlib
import sys

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from keras import layers, ops

from keras_swd.export.speed.clusters import find_clusters
from keras_swd.export.speed.graph import follow, is_normalization
from keras_swd.export.speed.runtimes import MEASURED, share_in_blocks
from keras_swd.export.speed.verdicts import explain_speed, hides_layers

BENCHMARK = pathlib.Path(__file__).parents[1] / "benchmarks" / "blocks.json"


def zero(layer, sparsity, block=1):
    """Sets blocks along the input axis of a layer's kernels to zero."""
    rng = np.random.default_rng(0)
    for weight in layer.weights:
        if len(weight.shape) < 2:
            continue
        values = np.ones(weight.shape, "float32")
        blocks = values.reshape(-1, block, weight.shape[-1])
        count = blocks.shape[0] * blocks.shape[2]
        gone = rng.permutation(count)[: round(sparsity * count)]
        blocks[gone // blocks.shape[2], :, gone % blocks.shape[2]] = 0.0
        weight.assign(values)


def prune(model, sparsity):
    """Sets entries of all kernels to zero, at any depth."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            prune(layer, sparsity)
        elif not isinstance(layer, layers.BatchNormalization):
            zero(layer, sparsity)


def dense(sparsity, block=1, inputs=64, units=32):
    model = keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(units, name="d")]
    )
    zero(model.layers[0], sparsity, block)
    return model


def convolution(x, filters, size=1, strides=1, explicit=True, **options):
    """A convolution with padding of its own, a normalization and a ReLU."""
    depthwise = filters is None
    padding = "valid"
    if size > 1:
        padding = "valid" if explicit else "same"
        if explicit:
            x = layers.ZeroPadding2D(size // 2)(x)
    arguments = {"strides": strides, "padding": padding, "use_bias": False}
    if depthwise:
        x = layers.DepthwiseConv2D(size, **arguments, **options)(x)
    else:
        x = layers.Conv2D(filters, size, **arguments, **options)(x)
    return layers.ReLU(6.0)(layers.BatchNormalization()(x))


def mobile(explicit=True, keepdims=True, sparsity=0.9, body=None, head=None):
    """A small MobileNetV2: inverted residuals, a mean, a classifier."""
    inputs = keras.Input((32, 32, 3))
    x = convolution(inputs, 8, 3, 2, explicit, name="stem")
    for i, strides in enumerate((1, 2)):
        y = convolution(x, 16, name=f"expand_{i}")
        y = convolution(y, None, 3, strides, explicit, name=f"depthwise_{i}")
        y = layers.Conv2D(8, 1, use_bias=False, name=f"project_{i}")(y)
        y = layers.BatchNormalization()(y)
        x = layers.Add()([x, y]) if strides == 1 else y
    if body is not None:
        x = body(x)
    x = layers.GlobalAveragePooling2D(keepdims=keepdims)(x)
    if head is None:
        x = layers.Dense(10, name="head")(layers.Flatten()(x))
    else:
        x = head(x)
    model = keras.Model(inputs, layers.Softmax()(x), name="mobile")
    prune(model, sparsity)
    return model


def verdicts(report):
    return {speed.path: speed.verdict for speed in report.layers}


FIT = ["expand_0", "project_0", "expand_1", "project_1"]


@pytest.mark.parametrize("target", ["arm", "wasm"])
@pytest.mark.parametrize("quantization", [None, "float16"])
def test_explicit_padding_and_many_zeros_run_sparse(target, quantization):
    report = explain_speed(mobile(), target, quantization)
    assert report.blocking is None
    assert report.verdict == "faster"
    assert verdicts(report) == dict.fromkeys(
        ["stem", "depthwise_0", "depthwise_1", "head"], "same"
    ) | dict.fromkeys(FIT, "faster")


def test_same_padding_is_named_as_the_first_obstacle():
    report = explain_speed(mobile(explicit=False), "arm")
    assert report.verdict == "same"
    assert report.blocking.startswith("stem: `padding='same'`")
    assert [o.path for o in report.obstacles] == ["stem", "depthwise_1"]
    assert "ZeroPadding2D(1)" in report.obstacles[0].remedy
    assert set(verdicts(report).values()) == {"same"}


def test_the_share_of_zeros_must_exceed_two_thirds():
    assert explain_speed(mobile(sparsity=0.7), "arm").verdict == "faster"
    report = explain_speed(mobile(sparsity=0.6), "arm")
    assert report.verdict == "same"
    assert "60.2% of all 1×1 kernels" in report.blocking
    assert report.blocking.startswith("expand_0: ")


def test_exactly_two_thirds_are_not_enough():
    inputs = keras.Input((8, 8, 3))
    x = convolution(inputs, 6, 3, 2)
    x = layers.Conv2D(6, 1, name="pointwise")(x)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    kernel = np.ones((1, 1, 6, 6), "float32")
    kernel.flat[:24] = 0.0
    layer = model.get_layer("pointwise")
    layer.kernel.assign(kernel)
    assert verdicts(explain_speed(model, "arm"))["pointwise"] == "same"
    kernel.flat[24] = 0.0
    layer.kernel.assign(kernel)
    assert verdicts(explain_speed(model, "arm"))["pointwise"] == "faster"


def test_x86_with_avx_never_computes_convolutions_sparse():
    report = explain_speed(mobile(), "x86")
    assert set(verdicts(report).values()) == {"same"}
    assert "AVX" in report.layers[1].reason
    assert "hardware-config.h" in report.layers[1].source
    assert report.blocking is None


@pytest.mark.parametrize("quantization", ["int8", "int16x8", "dynamic"])
@pytest.mark.parametrize("target", ["x86", "arm", "wasm"])
def test_quantized_weights_never_run_sparse(target, quantization):
    report = explain_speed(mobile(), target, quantization)
    assert report.verdict == "same"
    assert quantization in report.layers[1].reason
    blocks = explain_speed(dense(0.95, 16), target, quantization)
    assert blocks.verdict == "same"


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_microcontrollers_run_dense_files_only(quantization):
    for model in (mobile(), dense(0.95, 4)):
        report = explain_speed(model, "microcontroller", quantization)
        assert set(verdicts(report).values()) == {"same"}
        assert "DENSIFY" in report.layers[0].reason
        assert "Shrink" in report.layers[0].remedy


def test_the_measured_ratios_are_those_of_the_benchmark():
    if not BENCHMARK.exists():
        pytest.skip("the benchmark's result lies in the source tree only")
    seen = {}
    for row in json.loads(BENCHMARK.read_text())["layers"]:
        if row["granularity"] == "Block(shape=(4, 1))":
            ratio = round(row["sparse_over_dense"], 2)
            seen.setdefault(row["zeros"], []).append(ratio)
    assert {z: (min(r), max(r)) for z, r in seen.items()} == MEASURED


def test_blocks_of_four_inputs_are_faster_at_90_percent():
    report = explain_speed(dense(0.9, 4, 256, 256))
    speed = report.layers[0]
    assert (report.verdict, speed.verdict) == ("faster", "faster")
    assert speed.measured == MEASURED[0.9]
    assert speed.measured[1] < 1
    assert speed.remedy is None
    assert "fully_connected.cc" in speed.source


def test_blocks_of_four_inputs_are_slower_at_70_percent():
    speed = explain_speed(dense(0.7, 4, 256, 256)).layers[0]
    assert speed.verdict == "slower"
    assert speed.measured == MEASURED[0.7]
    assert speed.measured[0] > 1
    assert "sparse=False" in speed.remedy


def test_what_was_measured_stands_beside_layers_of_such_a_size_only():
    speed = explain_speed(dense(0.9, 4)).layers[0]
    assert speed.measured is None
    assert "256×256 and more" in speed.reason


def test_what_was_measured_on_x86_stands_beside_x86_only():
    speed = explain_speed(dense(0.9, 4), "arm").layers[0]
    assert speed.verdict == "faster"
    assert speed.measured is None
    assert "measured on x86, not on arm" in speed.reason


def test_other_zeros_of_a_dense_layer_change_nothing():
    speed = explain_speed(dense(0.9)).layers[0]
    assert speed.verdict == "same"
    assert "Block((4, 1))" in speed.remedy
    few = explain_speed(dense(0.2, 4)).layers[0]
    assert few.verdict == "same"
    assert "Less than 30 %" in few.reason
    none = explain_speed(dense(0.0)).layers[0]
    assert none.reason == "It has no zeros."


def test_blocks_with_a_few_zeros_more_count_as_blocks():
    model = dense(0.0, inputs=512, units=256)
    model.layers[0].kernel.assign(np.tile(np.eye(64, 32), (8, 8)))
    # 94 % of the entries lie in blocks of zeros, 97 % are zero.
    speed = explain_speed(model).layers[0]
    assert (speed.verdict, speed.measured) == ("faster", MEASURED[0.95])


def test_blocks_along_the_units_are_the_wrong_ones():
    model = dense(0.0, inputs=64, units=64)
    kernel = np.ones((64, 64), "float32")
    rows = np.random.default_rng(0).permutation(64 * 16)[: round(0.9 * 1024)]
    kernel.reshape(-1, 4)[rows] = 0.0
    model.layers[0].kernel.assign(kernel)
    assert explain_speed(model).verdict == "same"


def test_inputs_that_blocks_do_not_tile_have_no_kernel():
    model = dense(0.0, inputs=6, units=8)
    model.layers[0].kernel.assign(np.eye(6, 8))
    speed = explain_speed(model).layers[0]
    assert speed.verdict == "same"
    assert "Shrink" in speed.remedy


def test_share_in_blocks_counts_whole_blocks_along_the_inputs():
    kernel = np.zeros((8, 2), "float32")
    kernel[5, 1] = 1.0
    assert share_in_blocks(kernel) == 0.75
    assert share_in_blocks(kernel, 8) == 0.5


def obstacle(body):
    return explain_speed(mobile(body=body), "arm").blocking


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (layers.MaxPooling2D(name="x"), "MaxPooling2D is no operator"),
        (layers.Conv2D(8, 3, name="x"), "a 3×3 convolution"),
        (layers.Conv2D(8, 1, strides=2, name="x"), "with strides"),
        (layers.Conv2D(8, 1, groups=2, name="x"), "groups"),
        (
            layers.Conv2D(8, 1, activation="softplus", name="x"),
            "activation softplus",
        ),
        (layers.Activation("softmax", name="x"), "activation softmax"),
        (layers.BatchNormalization(name="x"), None),
        (layers.DepthwiseConv2D(3, name="x"), "needs 1 rows"),
        (layers.DepthwiseConv2D(7, name="x"), "must be 3×3 or 5×5"),
        (layers.DepthwiseConv2D(3, strides=3, name="x"), "stride 1 or 2"),
        (layers.DepthwiseConv2D(3, dilation_rate=2, name="x"), "dilated"),
        (
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="x"),
            "depth_multiplier=1",
        ),
        (layers.ReLU(3.0, name="x"), "these arguments"),
        (layers.UpSampling2D(name="x"), "nearest resizing"),
        (layers.ZeroPadding2D(name="x"), "padded for something other"),
    ],
    ids=lambda value: getattr(type(value), "__name__", None),
)
def test_one_layer_that_does_not_fit_is_named(body, expected):
    found = obstacle(body)
    if expected is None:
        expected = "does not directly follow a convolution"
    assert found.startswith("x: ")
    assert expected in found


@pytest.mark.parametrize(
    "body",
    [
        layers.Conv2D(8, 1, padding="same", activation="silu"),
        layers.UpSampling2D(interpolation="bilinear"),
        layers.LeakyReLU(),
        layers.Activation("gelu"),
        layers.Dense(8, activation="tanh"),
        layers.DepthwiseConv2D(3, padding="same"),
        layers.Dropout(0.5),
        keras.Sequential([layers.ZeroPadding2D(2), layers.DepthwiseConv2D(5)]),
        keras.Sequential(
            [layers.ZeroPadding2D(1), layers.SeparableConv2D(8, 3)]
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_fits_is_no_obstacle(body):
    assert obstacle(body) is None


def test_squeeze_and_excitation_runs_sparse():
    def squeeze(x):
        s = layers.GlobalAveragePooling2D(keepdims=True)(x)
        s = layers.Conv2D(4, 1, activation="relu")(s)
        s = layers.Conv2D(8, 1, activation="sigmoid")(s)
        return layers.Multiply()([x, s])

    assert obstacle(squeeze) is None
    assert len(find_clusters(follow(mobile(body=squeeze)))) == 1


def test_data_that_leaves_the_sparse_part_keeps_it_dense():
    def branch(x):
        side.append(layers.MaxPooling2D(name="side")(x))
        return x

    side = []
    model = mobile(body=branch)
    both = keras.Model(model.inputs, [*model.outputs, *side])
    report = explain_speed(both, "arm")
    assert report.blocking.startswith("side: it takes data of the sparse part")


@pytest.mark.parametrize(
    "head",
    [layers.Conv2D(10, 1, name="x"), layers.Dense(10, name="x")],
    ids=["convolution", "dense"],
)
def test_a_head_that_takes_the_mean_as_an_image_does_not_load(head):
    report = explain_speed(mobile(head=head), "arm")
    assert report.verdict == "same"
    assert report.blocking.startswith("x: it takes the mean as an image")
    assert report.leaks == ("x",)


@pytest.mark.parametrize("keepdims", [False, True])
def test_the_mean_may_keep_its_dimensions(keepdims):
    report = explain_speed(mobile(keepdims=keepdims), "arm")
    assert (report.verdict, report.leaks) == ("faster", ())


def as_operations(model, sparsity=0.9):
    """The same network, with functions in place of layers without weights."""

    def call(layer, inputs, **options):
        if isinstance(layer, layers.Add):
            return inputs[0] + inputs[1]
        if isinstance(layer, layers.ReLU):
            return ops.relu6(inputs)
        if isinstance(layer, layers.GlobalAveragePooling2D):
            return ops.mean(inputs, (1, -2), keepdims=layer.keepdims)
        return layer(inputs, **options)

    model = keras.models.clone_model(model, call_function=call)
    prune(model, sparsity)
    return model


def test_functions_fit_as_the_layers_of_their_names_do():
    report = explain_speed(as_operations(mobile()), "arm")
    assert (report.blocking, report.verdict) == (None, "faster")
    dense = mobile(body=layers.MaxPooling2D(name="x"))
    report = explain_speed(as_operations(dense), "arm")
    assert report.blocking == "x: MaxPooling2D is no operator of " + (
        "XNNPACK's sparse part"
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (lambda x: x + 1.0, "its constant is no image"),
        (lambda x: ops.mean(x, -1, keepdims=True), "no mean over the pixels"),
        (lambda x: x / x, "TrueDivide is no operator"),
    ],
    ids=["constant", "mean", "quotient"],
)
def test_a_function_that_does_not_fit_is_named(body, expected):
    assert expected in explain_speed(mobile(body=body), "arm").blocking


def test_an_activation_may_be_a_layer():
    def report(activation):
        body = layers.Conv2D(8, 1, activation=activation, name="x")
        return explain_speed(mobile(body=body), "arm")

    assert report(layers.ReLU(6.0)).verdict == "faster"
    assert report(layers.ReLU(3.0)).blocking.startswith(
        "x: a ReLU with these arguments"
    )


# LiteRT 2.3 for aarch64 gives other numbers than the model for these.
LEAKING = {
    "pooling": layers.MaxPooling2D(name="x"),
    "normalization": layers.BatchNormalization(name="x"),
    "convolution": layers.Conv2D(8, 3, name="x"),
    "padding": layers.DepthwiseConv2D(3, strides=2, padding="same", name="x"),
    "one-sided": keras.Sequential(
        [
            layers.ZeroPadding2D(((0, 1), (0, 1))),
            layers.DepthwiseConv2D(3, strides=2, name="x"),
        ]
    ),
    "slopes": layers.PReLU(shared_axes=[1, 2], name="x"),
}


@pytest.mark.parametrize("body", LEAKING.values(), ids=LEAKING)
def test_a_sparse_file_that_is_wrong_on_arm_is_warned_of(body):
    model = mobile(body=body)
    report = explain_speed(model, "arm")
    assert report.verdict == "same"
    assert len(report.leaks) == 1
    assert f"misreads the result of {report.leaks[0]}" in " ".join(
        str(report).split()
    )
    assert explain_speed(as_operations(model), "arm").leaks
    for target, quantization in [("x86", None), ("arm", "int8")]:
        assert explain_speed(model, target, quantization).leaks == ()
    assert explain_speed(mobile(body=body, sparsity=0.5), "arm").leaks == ()


def test_what_stays_dense_throughout_is_not_warned_of():
    def subtract(x):
        return layers.Subtract()([x, layers.ReLU()(x)])

    assert explain_speed(mobile(body=subtract), "arm").leaks == ()
    assert explain_speed(mobile(explicit=False), "arm").leaks == ()


def test_an_inner_output_of_the_sparse_part_is_warned_of():
    model = mobile()
    inner = next(x for x in model.layers if isinstance(x, layers.Add))
    both = keras.Model(model.inputs, [*model.outputs, inner.output])
    report = explain_speed(both, "arm")
    assert report.blocking == (
        f"{inner.name}: its result is also an output of the model"
    )
    assert report.leaks == (inner.name,)


def test_a_nested_model_is_opened():
    inner = mobile()
    inputs = keras.Input((32, 32, 3))
    outputs = inner(layers.Rescaling(1 / 127.5, -1)(inputs))
    report = explain_speed(keras.Model(inputs, outputs), "arm")
    assert report.verdict == "faster"
    assert verdicts(report)["mobile/expand_0"] == "faster"


@pytest.mark.parametrize(
    ("layer", "hidden"),
    [
        (lambda: layers.Lambda(lambda x: x), True),
        (lambda: layers.SpectralNormalization(layers.Conv2D(3, 1)), True),
        (lambda: layers.Activation(lambda x: x), True),
        (lambda: layers.Activation("silu"), False),
        (lambda: layers.Activation(layers.ReLU()), False),
        (lambda: layers.Conv2D(3, 1), False),
    ],
)
def test_what_may_hide_layers(layer, hidden):
    model = keras.Sequential([keras.Input((8, 8, 3)), layer()])
    assert hides_layers(model) == hidden


def test_kernels_that_are_made_from_others_are_read_too():
    model = keras.Sequential(
        [keras.Input((8, 8, 64)), layers.Conv2D(64, 1), layers.Dense(4)]
    )
    for layer in model.layers:
        zero(layer, 0.9)
        layer.enable_lora(2)
    assert len(explain_speed(model, "arm").layers) == 2


def test_a_normalization_over_another_axis_stays_an_operator():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    over = {axis: layers.BatchNormalization(axis=axis) for axis in (1, 3)}
    for layer in over.values():
        layer(x)
    assert [is_normalization(layer) for layer in over.values()] == [False, True]


def test_a_model_without_a_mean_has_no_sparse_part():
    inputs = keras.Input((8, 8, 3))
    x = convolution(inputs, 8, 3, 2)
    x = layers.Conv2D(8, 1, name="pointwise")(x)
    model = keras.Model(inputs, layers.Flatten()(x))
    prune(model, 0.9)
    speed = explain_speed(model, "arm").layers[-1]
    assert speed.verdict == "same"
    assert "GlobalAveragePooling2D" in speed.remedy


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.pointwise = layers.Conv2D(8, 1, name="pointwise")
        self.mean = layers.GlobalAveragePooling2D()
        self.dense = layers.Dense(8, name="dense")

    def call(self, x):
        return self.dense(self.mean(self.pointwise(x)))


def test_a_model_with_code_of_its_own_is_judged_layer_by_layer():
    model = Own()
    model(np.zeros((1, 4, 4, 3), "float32"))
    zero(model.pointwise, 0.9)
    zero(model.dense, 0.9, 4)
    report = explain_speed(model, "arm")
    assert verdicts(report) == {"pointwise": "same", "dense": "faster"}
    assert "cannot be followed" in report.layers[0].reason


def test_layers_inside_wrappers_are_found_and_shared_ones_count_once():
    shared = layers.Dense(16, name="shared")
    inputs = keras.Input((5, 16))
    x = layers.TimeDistributed(shared, name="each")(inputs)
    x = layers.Bidirectional(layers.LSTM(4), name="both")(shared(x))
    model = keras.Model(inputs, layers.Dropout(0.1)(x))
    prune(model, 0.9)
    paths = list(verdicts(explain_speed(model)))
    assert len(paths) == 3
    assert sum("shared" in path for path in paths) == 1
    assert sum(path.startswith("both/") for path in paths) == 2


def test_layers_with_a_pruning_regularizer_are_layers_like_others():
    import keras_swd

    swd = keras_swd.SelectiveWeightDecay(granularity=keras_swd.Block((4, 1)))
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(4, kernel_regularizer=swd, name="d")]
    )
    assert list(verdicts(explain_speed(model))) == ["d"]


def test_the_report_reads_as_a_table_and_as_json(tmp_path):
    report = explain_speed(mobile(explicit=False), "arm")
    text = str(report)
    assert "'mobile' on arm: its zeros do not change its time." in text
    words = " ".join(text.split())
    assert "In the way, stem, depthwise_1: `padding='same'` with" in words
    assert words.count("In the way") == 1
    assert max(map(len, text.splitlines())) <= 88
    record = json.loads(report.to_json(tmp_path / "speed.json"))
    assert record == json.loads((tmp_path / "speed.json").read_text())
    assert record["blocking"] == report.blocking
    assert record["obstacles"][0]["path"] == "stem"
    assert record["layers"][0]["path"] == "stem"
    blocks = str(explain_speed(dense(0.9, 4, 256, 256)))
    low, high = MEASURED[0.9]
    assert f"{low:.2f} to {high:.2f}" in blocks


def test_bad_arguments_say_what_is_expected():
    model = dense(0.5)
    with pytest.raises(ValueError, match=r"`target` must be one of 'x86'"):
        explain_speed(model, "gpu")
    with pytest.raises(ValueError, match=r"Received: quantization='int4'"):
        explain_speed(model, quantization="int4")
    with pytest.raises(ValueError, match="must be built"):
        explain_speed(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(TypeError, match="must be a Keras 3 model"):
        explain_speed("model.keras")


PARTS = {
    "pointwise": lambda x: layers.Conv2D(4, 1)(x),
    "padded": lambda x: layers.ZeroPadding2D(1)(x),
    "wide": lambda x: layers.Conv2D(4, 3, padding="same")(x),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, padding="same")(x),
    "normalized": lambda x: layers.BatchNormalization()(x),
    "activated": lambda x: layers.Activation("silu")(x),
    "dropped": lambda x: layers.Dropout(0.5)(x),
    "added": lambda x: layers.Add()([x, layers.ReLU()(x)]),
    "operation": lambda x: keras.ops.sin(x) + 1.0,
    "squeezed": lambda x: layers.Multiply()(
        [x, layers.GlobalAveragePooling2D(keepdims=True)(x)]
    ),
    "joined": lambda x: layers.Concatenate()([x, x]),
    "nested": lambda x: keras.Sequential([layers.Conv2D(3, 1)])(x),
    "named": lambda x: layers.DepthwiseConv2D(3)(layers.ZeroPadding2D(1)(x)),
}
ENDS = {
    "mean": lambda x: layers.GlobalAveragePooling2D()(x),
    "flat": lambda x: layers.Dense(4)(layers.Flatten()(x)),
    "as it is": lambda x: x,
}


@hypothesis.settings(max_examples=15)
@hypothesis.given(
    parts=st.lists(st.sampled_from(sorted(PARTS)), max_size=6),
    end=st.sampled_from(sorted(ENDS)),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    target=st.sampled_from(["x86", "arm"]),
)
def test_any_graph_gets_an_answer(parts, end, sparsity, target):
    x = inputs = keras.Input((8, 8, 3))
    for part in ["activated", *parts]:
        x = PARTS[part](x)
    model = keras.Model(inputs, ENDS[end](x))
    prune(model, sparsity)
    report = explain_speed(model, target)
    assert report.verdict == "same" or end == "flat"
    assert (report.blocking is None) == (not report.obstacles)
    assert isinstance(report.to_json(), str)
    assert all(s.reason and s.source for s in report.layers)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_stock_mobilenet_is_blocked_by_its_padding():
    model = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=0.35, weights=None
    )
    prune(model, 0.9)
    report = explain_speed(model, "arm")
    assert report.verdict == "same"
    assert report.blocking.startswith("Conv1: `padding='same'`")
    assert "block_1_depthwise" in [o.path for o in report.obstacles]
    assert explain_speed(model, "x86").verdict == "same"


def test_no_heavy_package_is_needed():
    modules = ("ai_edge_litert", "tflite_micro", "tf_keras")
    before = {name for name in modules if name in sys.modules}
    explain_speed(dense(0.9, 4, 256, 256))
    assert {name for name in modules if name in sys.modules} == before
