"""Exported TFLite files: what is in them, and when none is written."""

import dataclasses
import gzip
import itertools
import json
import math
import os

import keras
import numpy as np
import pytest
from keras import layers

from keras_swd.export import ExportError, check_tflite, to_tflite
from keras_swd.export.tflite import writing
from keras_swd.export.tflite.differences import compare_output
from keras_swd.export.tflite.flatbuffer import StoredTensor, stored_tensors
from keras_swd.export.tflite.float32 import in_float32
from keras_swd.export.tflite.interpreter import TFLiteFile
from keras_swd.export.tflite.latency import latency
from keras_swd.export.tflite.quiet import quiet
from keras_swd.export.tflite.records import brief
from keras_swd.export.tflite.signature import input_structure, signature_names
from keras_swd.export.tflite.zeros import find_kernels

pytestmark = pytest.mark.tensorflow


def remove_smallest(model, sparsity):
    """Sets the smallest entries of each kernel to zero; counts all zeros."""
    zeros = size = 0
    for weight in model.weights:
        values = np.array(keras.ops.convert_to_numpy(weight))
        if values.ndim < 2:
            continue
        order = np.argsort(np.abs(values), axis=None)
        values.flat[order[: round(sparsity * values.size)]] = 0.0
        weight.assign(values)
        zeros += int(np.sum(values == 0.0))
        size += values.size
    return zeros, size


def mlp(inputs=64, units=96, outputs=10):
    return keras.Sequential(
        [
            keras.Input((inputs,)),
            layers.Dense(units, activation="relu"),
            layers.Dense(outputs, activation="softmax"),
        ]
    )


def run_by_name(path, feeds):
    """The oracle for names: LiteRT itself, without our matching."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(model_path=str(path))
        return interpreter.get_signature_runner()(**feeds)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A pruned MLP and its export: model, zeros, path, report."""
    keras.utils.set_random_seed(1)
    model = mlp()
    zeros = remove_smallest(model, 0.9)
    path = tmp_path_factory.mktemp("pruned") / "model.tflite"
    return model, zeros, path, to_tflite(model, path)


def test_a_file_with_90_percent_zeros_is_stored_sparse_and_smaller(pruned):
    _, _, path, report = pruned
    dense, sparse = report.variants
    assert report.sparse
    assert (dense.name, sparse.name) == ("dense", "sparse")
    assert dense.refused == "not smaller"
    assert sparse.refused is None
    assert report.bytes == sparse.bytes == os.path.getsize(path)
    assert sparse.bytes < 0.3 * dense.bytes
    assert sparse.gzip_bytes == report.gzip_bytes
    assert report.gzip_bytes == len(gzip.compress(path.read_bytes(), 6))
    assert len(report.sparse_tensors) == report.densify_operators == 2


def test_zeros_of_the_file_are_the_zeros_of_the_model(pruned):
    _, (zeros, size), path, report = pruned
    assert (report.model_zeros, report.model_weights) == (zeros, size)
    assert (report.zeros, report.weights) == (zeros, size)
    kernels = [t for t in stored_tensors(path.read_bytes()) if t.is_weight]
    assert sorted(kernel.shape for kernel in kernels) == [(10, 96), (96, 64)]
    assert {kernel.zeros for kernel in kernels} == {
        round(0.9 * 96 * 64),
        round(0.9 * 96 * 10),
    }
    assert all(kernel.sparse for kernel in kernels)


def test_the_file_agrees_and_nothing_else_is_left(pruned):
    _, _, path, report = pruned
    assert report.max_relative_difference < 1e-5
    assert report.top1_agreement == 1.0
    assert report.samples == 8
    assert (report.batch_size, report.batch_resizes) == (None, True)
    assert os.listdir(path.parent) == ["model.tflite"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_the_record_is_readable_as_json_and_as_a_table(pruned):
    _, _, path, report = pruned
    record = json.loads(report.to_json())
    assert record["bytes"] == report.bytes
    assert record["variants"][0]["refused"] == "not smaller"
    assert record == json.loads(json.dumps(report.to_dict()))
    table = str(report)
    assert str(path) in table
    assert f"{report.zeros:,} of {report.weights:,} weights" in table
    assert "2 DENSIFY" in table
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.sparse = False


def test_check_tflite_gives_the_same_record_as_the_export(pruned):
    model, _, path, report = pruned
    check = check_tflite(path, model)
    for field in dataclasses.fields(check):
        assert getattr(check, field.name) == getattr(report, field.name)


def test_a_file_of_another_model_is_refused(pruned):
    _, _, path, _ = pruned
    with pytest.raises(ExportError, match="differs from Keras by") as error:
        check_tflite(path, mlp())
    assert 1e-2 < error.value.difference < 10
    with pytest.raises(ExportError, match=r"takes float32 of shape \[-1, 64\]"):
        check_tflite(path, mlp(inputs=32))
    with pytest.raises(ExportError, match=r"has shape \(1, 10\), the model's"):
        check_tflite(path, mlp(outputs=9))


def test_what_is_no_working_file_is_refused(tmp_path, pruned):
    model, _, good, _ = pruned
    path = tmp_path / "broken.tflite"
    with pytest.raises(ValueError, match="`path` must be an existing"):
        check_tflite(path, model)
    content = good.read_bytes()
    for broken in (b"", b"no file at all", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ExportError):
            check_tflite(path, model)


def test_each_file_runs_with_and_without_default_delegates(pruned, monkeypatch):
    from ai_edge_litert import interpreter as litert

    model, _, path, _ = pruned
    used = []

    class Spy(litert.Interpreter):
        def __init__(self, experimental_op_resolver_type, **kwargs):
            used.append(experimental_op_resolver_type)
            super().__init__(
                experimental_op_resolver_type=experimental_op_resolver_type,
                **kwargs,
            )

    monkeypatch.setattr(litert, "Interpreter", Spy)
    check_tflite(path, model)
    resolvers = litert.OpResolverType
    assert used == [
        resolvers.AUTO,
        resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    ]


def test_a_file_that_cannot_be_resized_runs_one_sample_at_a_time(
    pruned, monkeypatch
):
    model, _, path, _ = pruned
    run = TFLiteFile.run

    def run_one(self, chunks, names):
        if any(len(array) > 1 for chunk in chunks for array in chunk):
            raise RuntimeError("cannot resize")
        return run(self, chunks, names)

    monkeypatch.setattr(TFLiteFile, "run", run_one)
    check = check_tflite(path, model)
    assert (check.samples, check.batch_resizes) == (8, False)
    assert "one sample at a time" in str(check)
    monkeypatch.setattr(TFLiteFile, "run", failing_run)
    with pytest.raises(ExportError, match="does not run: out of memory"):
        check_tflite(path, model)


def failing_run(self, chunks, names):
    raise RuntimeError("out of memory")


def test_a_file_that_only_the_default_delegates_refuse_is_refused(tmp_path):
    import tensorflow as tf
    from ai_edge_litert import interpreter as litert

    model = mlp(256, 256, 32)
    remove_smallest(model, 0.9)
    with quiet():
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [
            tf.lite.Optimize.DEFAULT,
            tf.lite.Optimize.EXPERIMENTAL_SPARSITY,
        ]
        content = converter.convert()
        plain = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        litert.Interpreter(
            model_content=content, experimental_op_resolver_type=plain
        ).allocate_tensors()
    path = tmp_path / "quantized.tflite"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="not load with default delegates"):
        check_tflite(path, model)


def test_a_dense_model_is_not_stored_sparse(tmp_path):
    path = tmp_path / "dense.tflite"
    report = to_tflite(mlp(), path)
    assert not report.sparse
    assert report.sparse_tensors == ()
    assert report.bytes == min(v.bytes for v in report.variants)
    assert report.zeros == report.model_zeros == 0
    assert "DENSIFY" not in report.operators


def test_sparse_false_stores_zeros(tmp_path):
    model = mlp()
    zeros, _ = remove_smallest(model, 0.9)
    report = to_tflite(model, tmp_path / "m.tflite", sparse=False)
    (variant,) = report.variants
    assert (variant.sparse, variant.refused) == (False, None)
    assert report.sparse_tensors == ()
    assert report.zeros == zeros


def odd_inputs():
    # Three inputs: the converter stores such a kernel in blocks of four and
    # forgets it.
    model = keras.Sequential([keras.Input((3,)), layers.Dense(64)])
    model.layers[0].kernel.assign(np.arange(192).reshape(3, 64) % 2)
    return model


def test_a_kernel_that_loses_entries_when_sparse_is_stored_dense(tmp_path):
    report = to_tflite(odd_inputs(), tmp_path / "model.tflite")
    dense, sparse = report.variants
    assert not report.sparse
    assert sparse.bytes < dense.bytes
    assert "(64, 3) lost entries" in sparse.refused
    assert "lost entries" in str(report)
    assert report.zeros == 96


@pytest.mark.slow
def test_a_refused_sparse_file_leaves_what_was_there(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match=r"`sparse=False` works.* bytes\."):
        to_tflite(odd_inputs(), path, sparse=True)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_file_that_disagrees_is_not_written(tmp_path, monkeypatch):
    from keras_swd.export.tflite import writing as tflite

    model, other = mlp(), mlp()
    convert = tflite.convert

    def convert_other(request):
        reference = dataclasses.replace(request.reference, model=other)
        return convert(dataclasses.replace(request, reference=reference))

    monkeypatch.setattr(tflite, "convert", convert_other)
    path = tmp_path / "model.tflite"
    with pytest.raises(
        ExportError, match=r"(?s)dense.*sparse.*differs"
    ) as error:
        to_tflite(model, path)
    assert error.value.difference > 1e-2
    assert os.listdir(tmp_path) == []
    path.write_bytes(b"before")
    with pytest.raises(ExportError, match="No file was written"):
        to_tflite(model, path, sparse=False)
    assert path.read_bytes() == b"before"


@pytest.mark.slow
def test_inputs_and_outputs_are_matched_by_name(tmp_path):
    # Alphabetical order is not the model's, and all shapes are alike, so that
    # only names can tell them apart.
    first = keras.Input((4,), name="zeta")
    second = keras.Input((4,), name="alpha beta")
    third = keras.Input((2, 3), name="mu")
    flat = layers.Flatten()(third)
    difference = layers.Subtract(name="z_out")([first, second])
    product = layers.Multiply(name="a_out")([first, second])
    model = keras.Model(
        [first, third, second],
        [difference, layers.Dense(4)(flat), product],
    )
    kernel, bias = model.get_weights()
    x = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    y = x[::-1] * 2
    m = np.arange(240, dtype="float32").reshape(40, 2, 3) / 240
    path = tmp_path / "model.tflite"
    report = to_tflite(model, path, check_with=[x, m, y])
    assert report.inputs == ("zeta", "mu", "alpha_beta")
    assert report.samples == 40
    names = [output.name for output in report.outputs]
    assert names == ["output_0", "output_1", "output_2"]

    feeds = {"zeta": x[:1], "mu": m[:1], "alpha_beta": y[:1]}
    outputs = run_by_name(path, feeds)
    expected = [x - y, m.reshape(40, 6) @ kernel + bias, x * y]
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(outputs[name], values[:1], rtol=1e-4)

    by_name = {"alpha beta": y, "zeta": x, "mu": m}
    assert check_tflite(path, model, check_with=by_name).samples == 40
    swapped = keras.Model([second, third, first], model.outputs)
    assert check_tflite(path, swapped).inputs == ("alpha_beta", "mu", "zeta")
    wrong = keras.Model([first, third, second], model.outputs[::-1])
    with pytest.raises(ExportError, match="differs from Keras"):
        check_tflite(path, wrong)


class TwoHeads(keras.Model):
    """Takes and returns dictionaries."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.left = layers.Dense(units)
        self.right = layers.Dense(3)

    def call(self, inputs):
        left = self.left(inputs["right"])
        return {"left": left, "right": self.right(inputs["left"])}


def test_subclassed_models_take_their_shapes_from_calls_or_samples(tmp_path):
    model = TwoHeads()
    inputs = {"right": np.ones((2, 5)), "left": np.ones((2, 6))}
    model(inputs)
    report = to_tflite(model, tmp_path / "a.tflite", sparse=False)
    assert report.inputs == ("left", "right")
    assert [output.name for output in report.outputs] == ["left", "right"]
    outputs = run_by_name(
        tmp_path / "a.tflite",
        {name: np.ones((7, x.shape[1]), "f") for name, x in inputs.items()},
    )
    assert outputs["left"].shape == (7, 4)
    assert outputs["right"].shape == (7, 3)
    check = check_tflite(tmp_path / "a.tflite", model, check_with=inputs)
    assert check.samples == 2


@pytest.mark.slow
def test_convolutions_keep_their_zeros_when_normalization_is_folded(tmp_path):
    inner = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3),
        ]
    )
    inner.layers[1].moving_variance.assign(np.linspace(0.5, 2.0, 8))
    outer = keras.Input((8, 8, 3))
    flat = layers.Flatten()(inner(outer))
    model = keras.Model(outer, layers.Dense(4)(flat))
    zeros, size = remove_smallest(model, 0.8)
    report = to_tflite(model, tmp_path / "model.tflite")
    assert report.sparse
    assert (report.zeros, report.weights) == (zeros, size)
    assert report.operators["CONV_2D"] == 1


@pytest.mark.slow
def test_recurrent_models_become_files_for_one_sample(tmp_path):
    model = keras.Sequential(
        [keras.Input((4, 8)), layers.SimpleRNN(8), layers.Dense(3)]
    )
    report = to_tflite(model, tmp_path / "model.tflite", sparse=False)
    assert (report.batch_size, report.batch_resizes) == (1, False)
    assert "batch size" in str(report)
    assert report.top1_agreement == 1.0


def test_a_fixed_batch_size_is_kept(tmp_path):
    inputs = keras.Input(batch_shape=(3, 4))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    samples = np.ones((5, 4))
    path = tmp_path / "model.tflite"
    report = to_tflite(model, path, sparse=False, check_with=samples)
    assert (report.batch_size, report.samples) == (3, 5)


def test_models_of_another_float_type_are_exported_in_float32(tmp_path):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = mlp()
        lossy = TwoHeads(units=4)
        lossy.left.activation = keras.activations.sigmoid
        lossy({"left": np.ones((1, 4)), "right": np.ones((1, 4))})
        # A setting global to the process must be as it was before.
        report = to_tflite(model, tmp_path / "m.tflite", sparse=False)
        assert keras.config.dtype_policy().name == "mixed_float16"
    finally:
        keras.config.set_dtype_policy(policy)
    assert report.max_relative_difference < 1e-5
    twin = mlp()
    twin.set_weights(model.get_weights())
    assert check_tflite(tmp_path / "m.tflite", twin).top1_agreement == 1.0
    with pytest.raises(ExportError, match=r"gives other outputs .*set_dtype"):
        to_tflite(lossy, tmp_path / "lossy.tflite")


def test_quantized_models_are_refused(tmp_path):
    model = mlp()
    with quiet():
        model.quantize("int8")
    with pytest.raises(ExportError, match=r"quantized.*int8_from_float32"):
        to_tflite(model, tmp_path / "model.tflite")


@keras.saving.register_keras_serializable("test_export")
class StatefulPenalty(keras.regularizers.Regularizer, layers.Layer):
    """A regularizer with a value of its own, as those of keras_swd have."""

    def __init__(self, factor=0.1):
        layers.Layer.__init__(self)
        self.factor = factor
        self.held = keras.random.SeedGenerator(0)

    def __call__(self, kernel):
        return self.factor * keras.ops.sum(keras.ops.square(kernel))

    def get_config(self):
        return {"factor": self.factor}


def test_regularizers_with_state_do_not_reach_the_file(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(4, kernel_regularizer=StatefulPenalty()),
        ]
    )
    report = to_tflite(model, tmp_path / "model.tflite", sparse=False)
    assert report.operators == {"FULLY_CONNECTED": 1}
    assert (report.weights, report.model_weights) == (32, 32)


def test_operators_that_need_flex_are_refused_by_name(tmp_path):
    import tensorflow as tf

    inputs = keras.Input(batch_shape=(1, 3, 3))
    model = keras.Model(inputs, layers.Lambda(tf.linalg.inv)(inputs))
    with pytest.raises(ExportError, match="operator for MatrixInverse"):
        to_tflite(model, tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


def test_nan_is_refused_unless_samples_avoid_it(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,)), layers.Lambda(lambda x: keras.ops.log(x))]
    )
    path = tmp_path / "model.tflite"
    with pytest.raises(ExportError, match=r"Keras model has NaN.*check_with"):
        to_tflite(model, path, sparse=False)
    assert not path.exists()
    report = to_tflite(
        model, path, sparse=False, check_with=np.full((2, 4), math.e)
    )
    assert report.samples == 2


def test_export_prints_nothing_and_leaves_the_terminal_as_it_was(
    tmp_path, capfd
):
    import logging

    levels = [logging.getLogger(name).level for name in ("absl", "tensorflow")]
    with capfd.disabled():
        descriptors = sorted(os.listdir("/proc/self/fd"))
    to_tflite(mlp(8, 8, 2), tmp_path / "model.tflite", sparse=False)
    assert capfd.readouterr() == ("", "")
    os.write(1, b"seen")
    os.write(2, b"heard")
    print("too")
    assert capfd.readouterr() == ("seentoo\n", "heard")
    assert levels == [
        logging.getLogger(name).level for name in ("absl", "tensorflow")
    ]
    with capfd.disabled():
        assert sorted(os.listdir("/proc/self/fd")) == descriptors


def test_silence_ends_with_an_exception(capfd):
    def fail():
        with quiet():
            os.write(2, b"lost")
            print("lost")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    os.write(2, b"kept")
    assert capfd.readouterr() == ("", "kept")


@pytest.mark.parametrize(
    ("expected", "received", "relative", "top1"),
    [
        ([[1.0, 3.0], [2.0, -4.0]], [[1.0, 3.0], [2.0, -4.0]], 0.0, 1.0),
        ([[1.0, 3.0], [2.0, -4.0]], [[3.5, 3.0], [2.0, -4.0]], 0.625, 0.5),
        ([[-math.inf, 2.0]], [[-math.inf, 1.0]], 0.5, 1.0),
        ([[0.0, 0.0]], [[0.0, 0.0]], 0.0, 1.0),
        ([1.0, 2.0], [1.0, 1.0], 0.5, None),
        ([[1.0], [4.0]], [[2.0], [4.0]], 0.25, None),
    ],
)
def test_differences_are_relative_to_the_largest_finite_output(
    expected, received, relative, top1
):
    check = compare_output("y", [np.array(expected)], [np.array(received)], 1)
    assert check.max_relative_difference == relative
    assert check.top1_agreement == top1


def test_a_difference_without_scale_or_from_infinity_is_refused():
    for expected, received in [([0.0], [1e-9]), ([math.inf], [1.0])]:
        with pytest.raises(ExportError) as error:
            compare_output("y", [np.array(expected)], [np.array(received)], 1e9)
        assert error.value.difference == math.inf
    with pytest.raises(ExportError, match="of the file has NaN"):
        compare_output("y", [np.zeros(1)], [np.array([math.nan])], 1.0)


def test_signature_names_are_identifiers_that_differ():
    keys = ["a-b c", "A", "a", "2x", "", "keras_tensor_31", "input_layer", "é"]
    keys += ["class", "None", "self"]
    assert signature_names(keys, "input") == [
        "a_b_c",
        "A",
        "a_2",
        "input_2x",
        "input_4",
        "input_5",
        "input_6",
        "input_7",
        "input_class",
        "input_None",
        "input_self",
    ]


def test_models_that_are_not_built_are_refused(tmp_path):
    path = tmp_path / "model.tflite"
    unbuilt = keras.Sequential([layers.Dense(2)])
    with pytest.raises(ValueError, match="`model` must be built"):
        to_tflite(unbuilt, path)
    half = TwoHeads()
    with pytest.warns(UserWarning, match="unbuilt state"):
        half.build({"left": (None, 4), "right": (None, 4)})
    with pytest.raises(ValueError, match="had no weights yet"):
        to_tflite(half, path)
    stateful = keras.Sequential(
        [keras.Input(batch_shape=(1, 2, 3)), layers.SimpleRNN(2, stateful=True)]
    )
    with pytest.raises(ValueError, match="`stateful=False`"):
        to_tflite(stateful, path)
    with pytest.raises(TypeError, match=r"instance of `keras\.Model`"):
        to_tflite(layers.Dense(2), path)


def test_arguments_are_checked_before_anything_is_converted(
    tmp_path, monkeypatch
):
    from keras_swd.export.tflite import writing as tflite

    model = mlp()
    path = tmp_path / "model.tflite"
    monkeypatch.setattr(tflite, "convert", None)
    for wrong in ("model.h5", "model", "model.tflite.zip"):
        with pytest.raises(ValueError, match=r"`path` must end in '\.tflite'"):
            to_tflite(model, tmp_path / wrong)
    with pytest.raises(ValueError, match="`path` must lie in an existing"):
        to_tflite(model, tmp_path / "none" / "model.tflite")
    (tmp_path / "folder.tflite").mkdir()
    with pytest.raises(ValueError, match="`path` must name a file"):
        to_tflite(model, tmp_path / "folder.tflite")
    with pytest.raises(ValueError, match="Received: sparse='yes'"):
        to_tflite(model, path, sparse="yes")
    for wrong in (-1e-3, math.nan, math.inf, "small"):
        with pytest.raises(ValueError, match="`tolerance` must be a number"):
            to_tflite(model, path, tolerance=wrong)
    for wrong in (np.ones((5, 63)), np.ones(64), np.ones((0, 64))):
        with pytest.raises(ValueError, match=r"one sample of shape \(64,\)"):
            to_tflite(model, path, check_with=wrong)
    with pytest.raises(ValueError, match=r"must be an array for the inputs"):
        to_tflite(model, path, check_with=[np.ones((5, 64))] * 2)
    a, b = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    two = keras.Model({"a": a, "b": b}, layers.Add()([a, b]))
    # A list has no order that would fit a dictionary.
    for wrong in ([np.ones((1, 2))] * 2, {"a": np.ones((1, 2))}):
        with pytest.raises(ValueError, match="a dictionary of arrays"):
            to_tflite(two, path, check_with=wrong)
    uneven = {"a": np.ones((1, 2)), "b": np.ones((2, 2))}
    with pytest.raises(ValueError, match=r"Received: \[1, 2\] samples"):
        to_tflite(two, path, check_with=uneven)


def test_other_backends_are_told_how_to_export(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="KERAS_BACKEND=tensorflow") as error:
        to_tflite(mlp(), tmp_path / "model.tflite")
    assert "'jax'" in str(error.value)
    assert "model.save" in str(error.value)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(ImportError, match=r"LiteRT: pip install 'keras_swd\["):
        to_tflite(mlp(), tmp_path / "model.tflite")


def test_inputs_of_any_size_become_files_that_take_them(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None, None, 3), name="images"),
            layers.Conv2D(4, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype("float32")
    path = tmp_path / "model.tflite"
    to_tflite(model, path, sparse=False, check_with=x)
    (found,) = run_by_name(path, {"images": x}).values()
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-4)
    with pytest.raises(ExportError, match="may be of any size"):
        latency(path)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_kernel_is_found_in_any_order_of_its_axes(order):
    zero = np.random.default_rng(0).random((3, 4, 5)) < 0.5
    is_zero = zero.transpose(order)
    stored = StoredTensor(
        "w", is_zero.shape, "float32", False, 240, is_zero=is_zero
    )
    (found,) = find_kernels({"kernel": zero}, [stored])
    assert found.tensor == "w"


def test_a_kernel_in_pieces_is_not_taken_for_another_one():
    drawn = np.random.default_rng(0)
    # The one with more zeros is looked for first, and is not there.
    pieces, whole = drawn.random((6, 8)) < 0.6, drawn.random((6, 8)) < 0.4
    stored = StoredTensor(
        "whole", (8, 6), "float32", False, 192, is_zero=whole.T
    )
    found = find_kernels({"pieces": pieces, "whole": whole}, [stored])
    assert [kernel.tensor for kernel in found] == [None, "whole"]
    with pytest.raises(
        ExportError, match=r"`pieces` has .* others in the file"
    ):
        find_kernels({"pieces": pieces}, [stored])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((16, 4), lambda: layers.Conv1DTranspose(6, 3, padding="same")),
        ((5, 4), lambda: layers.EinsumDense("bnc,cnd->bnd", (5, 6))),
        ((3, 8), lambda: layers.GRU(8, reset_after=False, unroll=True)),
        # A constant of its own has as many numbers as the kernel of the GRU.
        ((24, 8), lambda: Shifted(np.ones((24, 8), "float32"))),
    ],
)
def test_kernels_in_unusual_orders_become_files(shape, layer, tmp_path):
    model = keras.Sequential([keras.Input(shape), layer()])
    if isinstance(model.layers[0], Shifted):
        model.add(layers.GRU(8, reset_after=False))
    remove_smallest(model, 0.6)
    report = to_tflite(model, tmp_path / "model.tflite", sparse=False)
    assert report.bytes > 0


class Shifted(layers.Layer):
    """Adds a constant."""

    def __init__(self, constant):
        super().__init__()
        self.constant = constant

    def call(self, inputs):
        return inputs + self.constant


@pytest.mark.slow
def test_nan_of_the_model_itself_is_told_at_once(tmp_path, monkeypatch):
    inputs = keras.Input((4,))
    outputs = keras.ops.log(layers.Dense(3)(inputs))
    monkeypatch.setattr(writing, "_nearest", None)
    with pytest.raises(ExportError, match="of the Keras model has NaN"):
        to_tflite(keras.Model(inputs, outputs), tmp_path / "model.tflite")


@pytest.mark.slow
def test_what_works_with_another_tolerance_says_so(tmp_path):
    with pytest.raises(ExportError, match=r"`tolerance=None` works"):
        to_tflite(
            mlp(),
            tmp_path / "model.tflite",
            quantization="dynamic",
            tolerance=np.float32(1e-9),
        )


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "there.tflite").write_text("old")
    link = tmp_path / "link.tflite"
    link.symlink_to("there.tflite")
    report = to_tflite(mlp(), link, sparse=False)
    assert link.is_symlink()
    assert (tmp_path / "there.tflite").stat().st_size == report.bytes
    assert report.path == str(link)


@pytest.mark.parametrize("order", [1, -1])
def test_each_sample_counts_once(order, tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    model.layers[0].set_weights([np.eye(3), np.zeros(3)])
    to_tflite(model, tmp_path / "m.tflite", sparse=False)
    # Of three samples, it changes the winner of the last one alone.
    model.layers[0].bias.assign([0.0, 0.4, 0.0])
    x = np.float32([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.0, 0.0]])
    check = check_tflite(
        tmp_path / "m.tflite", model, x[::order], tolerance=2.0
    )
    assert check.top1_agreement == pytest.approx(2 / 3)


@pytest.mark.slow
def test_biases_of_two_axes_are_no_kernels(tmp_path):
    model = keras.Sequential(
        [keras.Input((6, 8)), layers.GRU(8, unroll=True), layers.Dense(2)]
    )
    report = to_tflite(model, tmp_path / "m.tflite", sparse=False)
    assert (report.model_zeros, report.model_weights) == (0, 2 * 8 * 24 + 16)


def test_rebuilding_in_float32_runs_a_few_samples():
    largest = 0

    class Watching(layers.Layer):
        def call(self, inputs):
            nonlocal largest
            largest = max(largest, inputs.shape[0] or 0)
            return inputs

    model = keras.Sequential(
        [keras.Input((4,)), Watching(), layers.Dense(2)], name="watched"
    )
    for layer in model.layers:
        layer.dtype_policy = "mixed_float16"
    x = np.zeros((5000, 4), "float32")
    structure = input_structure(model, x)
    in_float32(model, structure, [x])
    assert 0 < largest <= 64


def test_activations_of_ones_own_are_rebuilt_in_float32():
    def twice(x):
        return 2.0 * x

    dense = layers.Dense(2, twice, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((4,)), dense])
    x = np.ones((3, 4), "float32")
    twin = in_float32(model, input_structure(model, x), [x])
    assert twin.layers[0].activation is twice
    assert twin.layers[0].compute_dtype == "float32"


def test_a_long_message_is_cut_before_its_cause():
    error = ValueError("x " * 500 + "Exception encountered: the cause")
    assert brief(error) == "the cause"


def test_files_without_names_can_be_read(pruned):
    from tensorflow.lite.tools import flatbuffer_utils

    path = pruned[2]
    model = flatbuffer_utils.read_model(str(path))
    flatbuffer_utils.strip_strings(model)
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    tensors = stored_tensors(content)
    assert {tensor.name for tensor in tensors} == {""}
    named = stored_tensors(path.read_bytes())
    assert [t.zeros for t in tensors] == [t.zeros for t in named]


@pytest.mark.slow
def test_kernels_that_are_stored_in_parts_are_not_lost(tmp_path):
    """A part of one has as many entries as the whole of another."""
    inputs = keras.Input((3, 6, 6, 2))
    x = layers.ConvLSTM2D(16, 3, padding="same", return_sequences=True)(inputs)
    model = keras.Model(inputs, layers.ConvLSTM2D(8, 3, padding="same")(x))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(weight * (rng.random(weight.shape) > 0.8))
    report = to_tflite(model, tmp_path / "model.tflite")
    assert report.model_zeros > 0.7 * report.model_weights


def test_of_one_sample_no_other_number_is_claimed(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    x = np.ones((1, 4), "float32")
    report = to_tflite(model, tmp_path / "model.tflite", check_with=x)
    assert (report.batch_size, report.batch_resizes) == (None, False)


@pytest.mark.parametrize("name", ["my net", "größe"])
@pytest.mark.parametrize("of_a_layer", [True, False])
def test_names_that_tensorflow_refuses_are_refused_first(
    name, of_a_layer, tmp_path
):
    inputs = keras.Input((8,), name="the input")
    dense = layers.Dense(4, name=name if of_a_layer else "dense")
    model = keras.Model(
        inputs, dense(inputs), name=None if of_a_layer else name
    )
    with pytest.raises(ValueError, match=f"`model` must have.*{name!r}"):
        to_tflite(model, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())
    # Nor do layers that are built from now on bear that name.
    other = layers.Dense(3, name="other")
    other.build((None, 2))
    assert other.kernel.path == "other/kernel"


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((32,), lambda: layers.Dense(48)),
        ((8, 8, 4), lambda: layers.Conv2D(16, 3)),
        ((5,), lambda: layers.Embedding(40, 16)),
    ],
    ids=["dense", "convolution", "embedding"],
)
def test_zeros_under_an_adaptation_are_not_asked_of_the_file(
    shape, layer, tmp_path
):
    adapted = layer()
    model = keras.Sequential(
        [keras.Input(shape), adapted, layers.Flatten(), layers.Dense(3)]
    )
    remove_smallest(model, 0.9)
    adapted.enable_lora(2)
    noise = np.random.default_rng(0)
    for weight in model.trainable_variables:
        if weight.name.startswith("lora_"):
            weight.assign(noise.normal(size=weight.shape) * 0.1)
    # Zeros of what is not adapted still have to be there.
    report = to_tflite(model, tmp_path / "model.tflite")
    assert len(report.kernels) == 2
    first, last = (kernel.zeros for kernel in report.kernels)
    assert first == 0
    assert last > 0


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    path = tmp_path / "model.tflite"
    path.touch(mode=0o600)
    to_tflite(mlp(), path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size > 0


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path):
    path = tmp_path / ("n" * (255 - len(".tflite")) + ".tflite")
    to_tflite(mlp(), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
