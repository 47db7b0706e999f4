"""Exported TFLite files of each mode, and what is refused."""

import errno
import os

import keras
import numpy as np
import pytest
from keras import layers

from keras_swd.export import (
    ExportError,
    check_tflite,
    to_tf_keras,
    to_tflite,
)
from keras_swd.export.tflite.differences import compare_output
from keras_swd.export.tflite.flatbuffer import (
    StoredTensor,
    nodes,
    stored_tensors,
)
from keras_swd.export.tflite.modes import MODES
from keras_swd.export.tflite.quiet import quiet
from keras_swd.export.tflite.zeros import find_kernels

pytestmark = pytest.mark.tensorflow

RANGED = ("int8", "int16x8")


def remove_smallest(model, sparsity, block=1):
    """Zeroes the smallest blocks of inputs of each kernel; counts zeros."""
    for weight in model.weights:
        values = np.array(keras.ops.convert_to_numpy(weight))
        if values.ndim < 2:
            continue
        units = values.reshape(-1, block, values.shape[-1])
        scores = np.abs(units).sum(1)
        units[
            np.broadcast_to(
                (scores <= np.quantile(scores, sparsity))[:, None], units.shape
            )
        ] = 0.0
        weight.assign(units.reshape(values.shape))
    return model


def mlp():
    return keras.Sequential(
        [
            keras.Input((64,)),
            layers.Dense(64, activation="relu"),
            layers.Dense(32),
        ]
    )


def cnn():
    model = keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3),
            layers.Conv2D(80, 1),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    model.layers[1].moving_variance.assign(np.linspace(0.5, 2.0, 16))
    return model


def two_inputs():
    a, b = keras.Input((40,), name="a"), keras.Input((48,), name="b")
    both = layers.Concatenate()([layers.Dense(32)(a), layers.Dense(32)(b)])
    return keras.Model({"a": a, "b": b}, layers.Dense(8)(both))


def inputs_of(model, samples=96):
    generator = np.random.default_rng(0)
    arrays = {
        tensor.name: generator.normal(size=(samples, *tensor.shape[1:]))
        for tensor in model.inputs
    }
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def run_plainly(path, x):
    """The oracle for outputs: LiteRT itself, one sample."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        interpreter = Interpreter(model_path=str(path))
        runner = interpreter.get_signature_runner()
        (name,) = runner.get_input_details()
        (output,) = runner(**{name: x[:1].astype("float32")}).values()
    return output


# What LiteRT does with these files, per kernel and mode, when they are sparse:
# it refuses them, or computes something else.
REFUSED = {
    ("mlp", "dynamic"): "not load with default delegates",
    ("mlp", "int8"): "not load with default delegates",
    ("cnn", "dynamic"): "not load with default delegates",
    ("cnn", "int8"): "not load with default delegates",
    ("cnn", "int16x8"): "not load with default delegates",
    ("blocks", "float16"): "NaN",
    ("blocks", "dynamic"): "differs from Keras",
    ("blocks", "int16x8"): "differs from Keras",
    ("two", "dynamic"): "not load with default delegates",
    ("two", "int8"): "not load with default delegates",
}
NETWORKS = {
    "mlp": lambda: remove_smallest(mlp(), 0.85),
    "cnn": lambda: remove_smallest(cnn(), 0.85),
    "blocks": lambda: remove_smallest(mlp(), 0.85, block=16),
    "two": lambda: remove_smallest(two_inputs(), 0.85),
}
DTYPES = {None: "float32", "float16": "float16"}


def check_report(report, model, path, mode):
    """What each file that was written promises, counted anew."""
    assert report.quantization == mode
    assert report.bytes == os.path.getsize(path)
    assert report.difference <= MODES[mode].tolerance
    assert report.delegate_difference <= MODES[mode].tolerance
    assert report.flex == report.fallback == ()
    kernels = {w.path: np.array(w) for w in model.weights if w.shape.rank > 1}
    assert [kernel.path for kernel in report.kernels] == list(kernels)
    for kernel in report.kernels:
        zeros = int(np.sum(kernels[kernel.path] == 0))
        assert kernel.model_zeros == zeros
        assert zeros <= kernel.zeros < kernel.size
        left = mode == "dynamic" and kernel.size < 1024
        dtype = "float32" if left else DTYPES.get(mode, "int8")
        assert kernel.dtype == dtype


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_stores_kernels_in_its_type_with_their_zeros(mode, tmp_path):
    model = NETWORKS["mlp"]()
    x, path = inputs_of(model), tmp_path / "model.tflite"
    report = to_tflite(
        model, path, quantization=mode, sparse=False, representative_data=x
    )
    check_report(report, model, path, mode)
    assert report.samples == 64
    assert f"quantization   {mode or 'none'}" in str(report)
    expected = keras.ops.convert_to_numpy(model(x[:1]))
    difference = np.abs(run_plainly(path, x) - expected).max()
    exact = {None: 1e-5, "float16": 1e-3}.get(mode, 0.05)
    assert difference <= exact * np.abs(expected).max()
    again = check_tflite(path, model, x[:64], quantization=mode)
    assert again.to_dict() == {
        key: value
        for key, value in report.to_dict().items()
        if key not in ("sparse", "variants")
    }


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("network", NETWORKS)
def test_each_combination_works_or_is_refused(network, mode, tmp_path):
    model = NETWORKS[network]()
    x = inputs_of(model)
    sizes = {}
    for sparse in (False, True, "auto"):
        path = tmp_path / f"{sparse}.tflite"
        arguments = {
            "quantization": mode,
            "sparse": sparse,
            "representative_data": x,
        }
        if sparse is True and (network, mode) in REFUSED:
            with pytest.raises(
                ExportError, match=REFUSED[network, mode]
            ) as error:
                to_tflite(model, path, **arguments)
            assert f"works and gives {sizes[False]:,} by" in str(error.value)
            assert not path.exists()
            continue
        report = to_tflite(model, path, **arguments)
        check_report(report, model, path, mode)
        sizes[sparse] = report.bytes
        assert bool(report.sparse_tensors) == report.sparse
        assert len(report.densify) <= len(report.sparse_tensors)
    assert sizes.pop("auto") == min(sizes.values())
    assert {p.stem for p in tmp_path.iterdir()} == {"auto", *map(str, sizes)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "block", "reason"),
    [
        ("int8", 1, "does not load with default delegates"),
        ("dynamic", 16, "differs from Keras by"),
        ("int16x8", 16, "differs from Keras by"),
        ("float16", 16, "has NaN"),
    ],
)
def test_sparse_files_that_litert_gets_wrong_are_refused(
    mode, block, reason, tmp_path
):
    model = remove_smallest(mlp(), 0.85, block)
    with pytest.raises(ExportError, match=reason) as error:
        to_tflite(
            model,
            tmp_path / "model.tflite",
            quantization=mode,
            sparse=True,
            representative_data=inputs_of(model),
        )
    assert "`sparse=False` works and gives " in str(error.value)
    if "differs" in reason:
        assert error.value.difference > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_sparse_file_of_integers_wins_where_it_is_smaller(tmp_path):
    # LiteRT expands sparse convolutions of integers, other than dense layers.
    for sparsity, smaller in ((0.85, True), (0.5, False)):
        model = keras.Sequential(
            [
                keras.Input((6, 6, 16)),
                layers.Conv2D(64, 1, activation="relu"),
                layers.Conv2D(32, 3),
            ]
        )
        remove_smallest(model, sparsity)
        path = tmp_path / f"{sparsity}.tflite"
        report = to_tflite(
            model,
            path,
            quantization="int8",
            representative_data=inputs_of(model),
        )
        dense, sparse = report.variants
        assert report.sparse == (sparse.bytes < dense.bytes) == smaller
        assert report.bytes == min(dense.bytes, sparse.bytes)
        unwanted = dense if smaller else sparse
        assert unwanted.refused == "not smaller"
        check_report(report, model, path, "int8")


@pytest.mark.slow
def test_zeros_left_out_are_found_where_the_kernel_has_them(tmp_path):
    path = tmp_path / "model.tflite"
    for block in (1, 4, 16):
        model = remove_smallest(mlp(), 0.85, block)
        to_tflite(model, path, sparse=True)
        kernels = [t for t in stored_tensors(path.read_bytes()) if t.is_weight]
        assert all(kernel.sparse for kernel in kernels)
        found = {kernel.shape: kernel.is_zero for kernel in kernels}
        for layer in model.layers:
            kernel = keras.ops.convert_to_numpy(layer.kernel).T
            np.testing.assert_array_equal(found[kernel.shape], kernel == 0)


def test_a_kernel_that_lost_zeros_is_refused(tmp_path):
    model = remove_smallest(mlp(), 0.5)
    kernel = model.layers[0].kernel
    values = np.array(kernel)
    almost = np.where(values == 0, 1e-9, values)
    kernel.assign(almost)
    path = tmp_path / "model.tflite"
    to_tflite(model, path, sparse=False)
    kernel.assign(values)
    with pytest.raises(ExportError, match=r"has 2,048 zeros, and 2,048 of"):
        check_tflite(path, model)


def tensor(name, is_zero):
    count = int(np.sum(is_zero))
    return StoredTensor(
        name, is_zero.shape, "int8", False, count, False, 0, is_zero
    )


def test_kernels_are_found_by_their_zeros_in_each_layout():
    generator = np.random.default_rng(0)
    orders = {
        (6, 4): (1, 0),
        (3, 3, 5, 4): (3, 0, 1, 2),
        (3, 2, 4, 5): (2, 0, 1, 3),
        (7, 2, 3): (1, 2, 0),
        (2, 3, 7): (2, 0, 1),
        (9, 5): (0, 1),
    }
    zeros = {str(s): generator.uniform(size=s) < 0.5 for s in orders}
    tensors = [
        tensor(f"t{path}", zeros[path].transpose(order))
        for path, order in zip(zeros, orders.values(), strict=True)
    ]
    more = generator.uniform(size=(5, 9)) < 0.5
    tensors.append(tensor("other", more))
    found = find_kernels(zeros, tensors)
    assert [kernel.path for kernel in found] == list(zeros)
    assert all(kernel.tensor == f"t{kernel.path}" for kernel in found)
    # Rounding makes zeros, and may not unmake one.
    rounded = tensors[0].is_zero.copy()
    rounded[np.nonzero(~rounded)[0][0], np.nonzero(~rounded)[1][0]] = True
    (kernel,) = find_kernels(
        {"k": zeros["(6, 4)"]}, [tensor("rounded", rounded)]
    )
    assert kernel.zeros == kernel.model_zeros + 1
    with pytest.raises(ExportError, match=r"`k` has \d+ zeros, and 1 of them"):
        find_kernels({"k": rounded.T}, [tensor("less", tensors[0].is_zero)])


def test_kernels_without_a_tensor_of_their_own_are_no_loss():
    equal = np.eye(4) == 0
    first, second = find_kernels(
        {"a": equal, "b": equal}, [tensor("both", equal)]
    )
    assert first.tensor == second.tensor == "both"
    nothing = np.ones((2, 8), bool)
    (gone,) = find_kernels({"k": nothing}, [tensor("t", ~nothing)])
    assert (gone.tensor, gone.zeros, gone.size) == (None, None, 16)


def test_zero_points_count_as_zeros(tmp_path):
    # The table has no negative entries, so that its zero is -128.
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(30, 40),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )
    table = np.random.default_rng(0).uniform(0.1, 1, (30, 40))
    table[:20] = 0
    model.layers[0].embeddings.assign(table)
    x = np.random.default_rng(0).integers(0, 30, (64, 4))
    path = tmp_path / "model.tflite"
    report = to_tflite(
        model,
        path,
        quantization="int8",
        sparse=False,
        representative_data=x,
        check_with=x,
    )
    assert report.kernels[0].dtype == "int8"
    assert report.kernels[0].zeros == 800


def test_integers_are_judged_by_root_mean_square():
    ours, theirs = np.array([[3.0, 4.0]]), np.array([[3.0, 4.5]])
    check = compare_output("y", [ours], [theirs], 0.1, "int8")
    assert check.max_relative_difference == 0.125
    assert check.rms_relative_difference == pytest.approx(0.1)
    with pytest.raises(ExportError, match=r"1\.2e-01 of the largest output"):
        compare_output("y", [ours], [theirs], 0.1)
    with pytest.raises(ExportError, match="root mean square") as error:
        compare_output("y", [ours], [theirs * 2], 0.1, "int8")
    assert error.value.difference > 1


def test_delegates_must_compute_what_the_plain_interpreter_does(
    tmp_path, monkeypatch
):
    from keras_swd.export.tflite import runs

    model = mlp()
    path = tmp_path / "model.tflite"
    to_tflite(model, path, sparse=False)
    run = runs.TFLiteFile.run
    factors = []

    def drifting(self, chunks, names):
        factor = factors.pop()
        return [[factor * y for y in ys] for ys in run(self, chunks, names)]

    monkeypatch.setattr(runs.TFLiteFile, "run", drifting)
    factors[:] = [1.1, 0.95]
    check = check_tflite(path, model, tolerance=0.2)
    assert check.delegate_difference == pytest.approx(0.15 / 1.1, rel=1e-3)
    factors[:] = [1.1, 0.9]
    with pytest.raises(ExportError, match="something else with its default"):
        check_tflite(path, model, tolerance=0.15)


@pytest.mark.slow
def test_a_refused_tolerance_names_the_usual_one(tmp_path):
    with pytest.raises(ExportError, match="differs from Keras") as error:
        to_tflite(
            mlp(),
            tmp_path / "model.tflite",
            quantization="dynamic",
            sparse=False,
            tolerance=0,
        )
    assert "`tolerance=None` works and gives" in str(error.value)
    assert error.value.difference > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_refused_mode_names_the_next_one_that_works(tmp_path):
    model = mlp()
    kernel, bias = model.layers[0].get_weights()
    kernel[0] = 1000  # integers of this scale take all other weights for zero
    model.layers[0].set_weights([kernel, bias])
    x = np.random.default_rng(0).normal(size=(8, 64)).astype("float32")
    x[:, 0] = 0
    with pytest.raises(ExportError, match="differs from Keras") as error:
        to_tflite(
            model,
            tmp_path / "model.tflite",
            quantization="dynamic",
            sparse=False,
            check_with=x,
        )
    assert "`quantization='float16'` works and gives" in str(error.value)
    assert error.value.difference > 0.9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_flex_operators_must_be_asked_for_and_run(tmp_path):
    import tensorflow as tf

    inputs = keras.Input(batch_shape=(1, 3, 3))
    model = keras.Model(inputs, layers.Lambda(tf.linalg.inv)(inputs))
    path = tmp_path / "model.tflite"
    x = np.eye(3)[None] * 2
    with pytest.raises(ExportError, match="operator for MatrixInverse"):
        to_tflite(model, path, sparse=False, check_with=x)
    with pytest.raises(ExportError, match=r"not load.* Flex delegate"):
        to_tflite(model, path, sparse=False, check_with=x, flex=True)
    assert list(tmp_path.iterdir()) == []
    report = to_tflite(mlp(), path, sparse=False, flex=True)
    assert report.flex == ()
    with pytest.raises(ValueError, match="Received: flex='yes'"):
        to_tflite(model, path, flex="yes")


def test_a_file_with_flex_operators_is_recognised(tmp_path):
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((1, 3, 3))])
    def inverse(x):
        return tf.linalg.inv(x)

    module = tf.Module()
    module.inverse = inverse
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [inverse.get_concrete_function()], module
        )
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS,
            tf.lite.OpsSet.SELECT_TF_OPS,
        ]
        content = converter.convert()
    (node,) = (n for n in nodes(content) if n.operator.startswith("Flex"))
    assert (node.operator, node.dtypes) == ("FlexMatrixInverse", ("float32",))
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    inputs = keras.Input(batch_shape=(1, 3, 3))
    model = keras.Model(inputs, layers.Lambda(tf.linalg.inv)(inputs))
    with pytest.raises(ExportError, match=r"own operators.*FlexMatrixInverse"):
        check_tflite(path, model, np.eye(3)[None])


def recurrent(unroll):
    return keras.Sequential(
        [
            keras.Input((2, 16)),
            layers.SimpleRNN(16, unroll=unroll),
            layers.Dense(4),
        ]
    )


def test_ranges_inside_loops_are_refused_before_they_end_the_process(
    tmp_path, monkeypatch
):
    from keras_swd.export.tflite import writing as tflite

    monkeypatch.setattr(tflite, "_nearest", lambda request: "")
    model = recurrent(unroll=False)
    with pytest.raises(ExportError, match=r"loops.* `unroll=True`"):
        to_tflite(
            model,
            tmp_path / "model.tflite",
            quantization="int8",
            sparse=False,
            representative_data=inputs_of(model),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", RANGED)
def test_unrolled_loops_have_ranges(mode, tmp_path):
    model = recurrent(unroll=True)
    report = to_tflite(
        model,
        tmp_path / "model.tflite",
        quantization=mode,
        sparse=False,
        representative_data=inputs_of(model),
    )
    assert report.difference < 0.05
    assert {kernel.dtype for kernel in report.kernels} == {"int8"}


def test_what_has_no_integer_operator_is_listed(tmp_path):
    inputs = keras.Input((16,))
    x = layers.Dense(32)(inputs)
    model = keras.Model(inputs, layers.Dense(4)(keras.ops.sin(x)))
    report = to_tflite(
        model,
        tmp_path / "model.tflite",
        quantization="int8",
        sparse=False,
        representative_data=inputs_of(model),
    )
    (node,) = report.fallback
    assert node.startswith("SIN ")
    assert f"computed in float  {node}" in str(report)
    assert {kernel.dtype for kernel in report.kernels} == {"int8"}


@pytest.mark.slow
def test_representative_data_may_come_in_batches(tmp_path):
    import tensorflow as tf

    model = two_inputs()
    x = inputs_of(model, 10)
    batches = [{k: v[i : i + 4] for k, v in x.items()} for i in (0, 4, 8)]
    data = {
        "dictionary": x,
        "dataset": tf.data.Dataset.from_tensor_slices(x).batch(4),
        "generator": iter(batches),
    }
    contents = set()
    for name, representative in data.items():
        path = tmp_path / f"{name}.tflite"
        report = to_tflite(
            model,
            path,
            quantization="int8",
            sparse=False,
            representative_data=representative,
        )
        assert report.samples == 10
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_endless_representative_data_are_cut():
    from keras_swd.export.tflite.samples import calibration_arrays, gathered
    from keras_swd.export.tflite.signature import ModelInput

    def batches():
        while True:
            yield np.ones((64, 3))

    data = gathered(batches())
    assert data.shape == (512, 3)
    spec = ModelInput("x", "x", (None, 3), "float32")
    (array,) = calibration_arrays(spec, data)
    assert array.shape == (500, 3)


def labelled(x):
    yield x, np.zeros(len(x))


def test_of_a_whole_data_set_no_copy_is_made():
    from keras_swd.export.tflite.samples import sample_arrays
    from keras_swd.export.tflite.signature import input_structure

    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    structure = input_structure(model, None)
    data = np.zeros((2000, 3), "uint8")
    (array,) = sample_arrays(structure, data, "representative_data")
    assert (array.shape, array.dtype) == ((500, 3), "float32")
    (array,) = sample_arrays(structure, data)
    assert array.shape == (2000, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "must hold inputs as the model meets them"),
        ("x.npy", "must be arrays, or an iterable of batches"),
        (lambda: None, "must be arrays, or an iterable of batches"),
        (np.ones((4, 63)), r"one sample of shape \(64,\)"),
        (np.ones((0, 64)), r"one sample of shape \(64,\)"),
        (np.full((4, 64), "a"), "must hold numbers for input"),
        (np.full((4, 64), np.nan), "must be finite"),
        (iter([]), "at least one batch"),
        (iter([None]), "batches of arrays.*NoneType"),
        (iter([1.0, 2.0]), "batches of arrays.*float.*of several samples"),
        (iter([np.ones((2, 64)), {}]), "batches of arrays.*dict"),
        (labelled(np.ones((4, 64))), "an array for the inputs.*without labels"),
        (iter([np.ones((2, 64)), np.ones((2, 63))]), "batches that are alike"),
        ([np.ones((4, 64))] * 2, "must be an array for the inputs"),
        ([["a", object()]], "`representative_data` must"),
    ],
)
def test_wrong_representative_data_are_refused(
    data, message, tmp_path, monkeypatch
):
    from keras_swd.export.tflite import writing as tflite

    monkeypatch.setattr(tflite, "convert", None)
    path = tmp_path / "model.tflite"
    with pytest.raises(
        ValueError, match=f"`representative_data`.*{message}|{message}"
    ) as error:
        to_tflite(mlp(), path, quantization="int8", representative_data=data)
    assert "`representative_data`" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_other_wrong_arguments_are_refused(tmp_path, monkeypatch):
    from keras_swd.export.tflite import writing as tflite

    monkeypatch.setattr(tflite, "convert", None)
    path = tmp_path / "model.tflite"
    for wrong in ("int4", True, ["int8"]):
        with pytest.raises(ValueError, match="`quantization` must be None"):
            to_tflite(mlp(), path, quantization=wrong)
    two = two_inputs()
    for wrong in (np.ones((4, 40)), {"a": np.ones((4, 40))}):
        with pytest.raises(ValueError, match="must be a dictionary of arrays"):
            to_tflite(two, path, quantization="int8", representative_data=wrong)
    tokens = keras.Sequential(
        [keras.Input((4,), dtype="int32"), layers.Embedding(9, 3)]
    )
    with pytest.raises(ValueError, match="must hold whole numbers for input"):
        to_tflite(
            tokens,
            path,
            quantization="int8",
            representative_data=np.full((3, 4), 0.5),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    model = mlp()
    kernel = np.array(model.layers[1].kernel)
    kernel[3, 5] = value
    model.layers[1].kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"finite weights.*/kernel`"):
        to_tflite(model, tmp_path / "model.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"before")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match="No space left on device") as error:
        to_tflite(mlp(), path, sparse=False)
    assert "make room" in str(error.value)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    from keras_swd.export.tflite import writing as tflite

    # Permissions do not bind every user that may run this.
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    monkeypatch.setattr(tflite, "convert", None)
    with pytest.raises(ValueError, match="a folder that can be written to"):
        to_tflite(mlp(), tmp_path / "model.tflite")
    assert os.listdir(tmp_path) == []


# Models of tf_keras --------------------------------------------------------


def legacy(tf_keras):
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((12, 12, 3)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.Dense(10),
        ]
    )
    for weight in model.weights:
        values = weight.numpy()
        if values.ndim > 1:
            values[np.abs(values) <= np.quantile(np.abs(values), 0.8)] = 0
            weight.assign(values)
    return model


@pytest.mark.slow
def test_models_of_tf_keras_become_files_too(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    tf_keras.utils.set_random_seed(0)
    model = legacy(tf_keras)
    report = to_tflite(model, tmp_path / "model.tflite")
    assert report.sparse
    assert (report.batch_size, report.batch_resizes) == (None, True)
    assert report.zeros == report.model_zeros > 0.7 * report.weights
    assert report.max_relative_difference < 1e-5
    model.weights[0].assign(model.weights[0] * np.nan)
    with pytest.raises(ValueError, match=r"finite weights.*kernel"):
        to_tflite(model, tmp_path / "nan.tflite")


@pytest.mark.slow
def test_quantization_aware_training_brings_its_ranges(tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    tf_keras.utils.set_random_seed(0)
    model = tfmot.quantization.keras.quantize_model(legacy(tf_keras))
    x = np.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("f")
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((64, 10)), verbose=0)
    path = tmp_path / "model.tflite"
    report = to_tflite(model, path, quantization="int8", check_with=x)
    assert {kernel.dtype for kernel in report.kernels} == {"int8"}
    assert report.fallback == ()
    assert report.rms_relative_difference < 0.05
    assert report.zeros >= report.model_zeros
    for mode in (None, "float16", "dynamic", "int16x8"):
        with pytest.raises(ValueError, match="`quantization` must be 'int8'"):
            to_tflite(model, path, quantization=mode, representative_data=x)


# Large models --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("MobileNetV2", 96),
        ("ResNet50", 32),
        ("EfficientNetB0", 32),
        ("DenseNet121", 32),
    ],
)
def test_large_models_agree_in_float(name, size, tmp_path):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10
    )
    x = np.random.default_rng(0).uniform(0, 255, (4, size, size, 3))
    report = to_tflite(
        model, tmp_path / "model.tflite", sparse=False, check_with=x
    )
    assert report.max_relative_difference < 1e-4
    assert report.top1_agreement == 1.0
    assert all(kernel.tensor for kernel in report.kernels)
    assert report.batch_resizes


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dynamic", "int8"])
def test_a_large_model_agrees_in_integers(mode, tmp_path):
    model = keras.applications.MobileNetV2(
        weights=None,
        input_shape=(64, 64, 3),
        classes=10,
        classifier_activation=None,
    )
    remove_smallest(model, 0.8)
    # As initialized, signals die away to less than integers can tell apart.
    for weight in model.weights:
        values = keras.ops.convert_to_numpy(weight)
        if values.ndim > 1:
            depthwise = values.ndim == 4 and values.shape[-1] == 1
            inputs = values.shape[:2] if depthwise else values.shape[:-1]
            scale = np.sqrt(2 / np.prod(inputs) / np.mean(values**2))
            weight.assign(values * scale)
    coarse = np.random.default_rng(0).uniform(-1, 1, (24, 4, 4, 3))
    x = np.kron(coarse, np.ones((1, 16, 16, 1)))
    path = tmp_path / "model.tflite"
    report = to_tflite(
        model,
        path,
        quantization=mode,
        sparse=False,
        representative_data=x,
        check_with=x[:8],
    )
    check_report(report, model, path, mode)


def nearly_mobile():
    """Sparse convolutions whose data LiteRT misreads behind them, on ARM."""
    inputs = x = keras.Input((32, 32, 3))
    x = keras.layers.ZeroPadding2D(1)(x)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = keras.layers.Conv2D(64, 1, activation="relu", name="wide")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.Conv2D(64, 1, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(4)(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = layer.kernel.numpy()
            layer.kernel.assign(kernel * (rng.random(kernel.shape) > 0.9))
    return model


@pytest.mark.slow
def test_a_file_that_is_wrong_on_other_processors_is_refused(tmp_path):
    model = nearly_mobile()
    with pytest.raises(ExportError, match=r"On ARM .* `sparse=False` works"):
        to_tflite(model, tmp_path / "m.tflite", sparse=True)
    assert not list(tmp_path.iterdir())
    report = to_tflite(model, tmp_path / "m.tflite")
    assert not report.sparse
    # No graph of these can be read.
    inputs = keras.Input((32, 32, 3))
    around = keras.Model(inputs, Hidden(model)(inputs))
    for other in (Hidden(model), around, to_tf_keras(model), by_code(model)):
        other(np.zeros((1, 32, 32, 3), "float32"))
        with pytest.raises(ExportError, match="graph of this model does not"):
            to_tflite(other, tmp_path / "n.tflite", sparse=True)
        assert not to_tflite(other, tmp_path / "n.tflite").sparse


def by_code(model):
    """The same, with a mean that a function computes."""
    *features, _, classes = model.layers[1:]
    mean = keras.layers.Activation(lambda x: keras.ops.mean(x, (1, 2)))
    x = inputs = keras.Input((32, 32, 3))
    for layer in (*features, mean, classes):
        x = layer(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("test_export_quantized")
class Hidden(keras.Model):
    """A model whose own code calls another one."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        return self.inner(inputs)
