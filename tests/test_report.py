import dataclasses
import json
import os
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import keras_swd
from keras_swd.files import write_whole
from keras_swd.kernel_uses import kernel_uses
from keras_swd.prunable import Prunable
from keras_swd.report.picture import HIGHEST, LOWEST, PER_DECADE
from keras_swd.report.sparsity import (
    KernelSparsity,
    SparsityReport,
    Totals,
    sparsity_report,
)

layers = keras.layers


class Weight(layers.Layer):
    """One weight of any shape."""

    def __init__(self, shape, regularizer=None, dtype="float32"):
        super().__init__()
        self.weight = self.add_weight(
            shape=shape,
            initializer="ones",
            regularizer=regularizer,
            dtype=dtype,
            trainable="float" in dtype,
            name="weight",
        )
        self.built = True


def dense(units=2, **options):
    """A model of one Dense layer: 3 × `units` weights, all of them 1."""
    layer = layers.Dense(
        units, kernel_initializer="ones", name="dense", **options
    )
    return keras.Sequential([keras.Input((3,)), layer], name="small")


def set_kernel(layer, values):
    layer.kernel.assign(np.asarray(values, "float32"))


def test_zeros_are_counted_per_kernel_and_in_total():
    model = dense()
    set_kernel(model.layers[0], [[0, 1], [2, 0], [0, 3]])
    report = sparsity_report(model)
    (kernel,) = report.kernels
    assert report.name == "small"
    assert kernel.path == model.layers[0].kernel.path
    assert (kernel.shape, kernel.size, kernel.zeros) == ((3, 2), 6, 3)
    assert (kernel.nonzeros, kernel.sparsity) == (3, 0.5)
    # The bias starts at zero, and is no kernel.
    assert report.others == Totals(2, 2)
    assert report.total == Totals(8, 5)
    assert report.total.sparsity == 0.625


def test_negative_zero_is_zero_and_tiny_or_nan_is_not():
    model = dense()
    set_kernel(model.layers[0], [[-0.0, 0.0], [1e-38, -1e-30], [np.nan, 1]])
    assert sparsity_report(model).kernels[0].zeros == 2


@given(
    arrays(
        "float32",
        array_shapes(min_dims=2, max_dims=4, max_side=5),
        elements=st.sampled_from([0.0, -0.0, 1e-20, -0.5, 3.0]),
    )
)
def test_counts_are_those_of_numpy(values):
    layer = Weight(values.shape)
    layer.weight.assign(values)
    (kernel,) = sparsity_report(layer).kernels
    assert kernel.shape == values.shape
    assert kernel.size == values.size
    assert kernel.zeros == np.sum(values == 0)
    assert sum(kernel.magnitudes) == kernel.nonzeros


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_every_number_type_is_counted(dtype):
    layer = Weight((2, 2), dtype=dtype)
    layer.weight.assign(np.array([[0, 1], [-100, 0]]))
    (kernel,) = sparsity_report(layer).kernels
    assert kernel.zeros == 2
    assert sum(kernel.magnitudes) == 2


def test_int8_magnitude_of_128_is_counted():
    layer = Weight((1, 1), dtype="int8")
    layer.weight.assign(np.array([[-128]]))
    (kernel,) = sparsity_report(layer).kernels
    assert kernel.magnitudes[int((np.log10(128) - LOWEST) * PER_DECADE)] == 1


def test_magnitudes_are_counted_by_decade_and_the_far_ones_at_the_ends():
    layer = Weight((2, 3))
    values = [[2e-3, -2e-3, 1e-20], [1e9, 0.0, np.inf]]
    layer.weight.assign(np.array(values, "float32"))
    counts = np.array(sparsity_report(layer).kernels[0].magnitudes)
    decades = counts.reshape(HIGHEST - LOWEST, PER_DECADE).sum(axis=1)
    # 2e-3 lies between 1e-3 and 1e-2; infinity has no magnitude.
    assert decades[-3 - LOWEST] == 2
    assert (counts[0], counts[-1], counts.sum()) == (1, 1, 4)


# What is prunable, and why the rest is not ----------------------------------


def test_a_regularized_kernel_is_prunable_and_not_skipped():
    swd = keras_swd.SelectiveWeightDecay()
    (kernel,) = sparsity_report(dense(kernel_regularizer=swd)).kernels
    assert kernel.prunable
    assert kernel.skipped is None


def test_a_vector_with_a_pruning_regularizer_is_a_kernel():
    swd = keras_swd.SelectiveWeightDecay()
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, bias_regularizer=swd)]
    )
    report = sparsity_report(model)
    assert [k.shape for k in report.kernels] == [(3, 2), (2,)]
    assert [k.prunable for k in report.kernels] == [False, True]
    assert report.prunable == Totals(2, 2)


@pytest.mark.parametrize(
    ("regularizer", "reason"),
    [
        (lambda: None, "no pruning regularizer"),
        (lambda: keras.regularizers.L2(0.1), "no pruning regularizer"),
        (
            lambda: keras_swd.SelectiveWeightDecay(
                granularity=keras_swd.Block((2, 2))
            ),
            "granularity does not fit: Block(shape=(2, 2)) needs a kernel "
            "whose last two axes are multiples of (2, 2)",
        ),
        # round(0.05 * 6) is 0, and so is round(0.2 * 2) of 2 channels.
        (
            lambda: keras_swd.SelectiveWeightDecay(sparsity=0.05),
            "too small: its own target of 0.05 removes none of 6",
        ),
        (
            lambda: keras_swd.SelectiveWeightDecay(
                sparsity=0.2, granularity=keras_swd.Channel()
            ),
            "too small: its own target of 0.2 removes none of 2",
        ),
        (lambda: keras_swd.SelectiveWeightDecay(sparsity=0.1), None),
    ],
)
def test_the_reason_is_named_where_nothing_is_pruned(regularizer, reason):
    model = dense(kernel_regularizer=regularizer())
    assert sparsity_report(model).kernels[0].skipped == reason


def test_a_frozen_kernel_is_skipped_and_not_prunable():
    model = dense(kernel_regularizer=keras_swd.SelectiveWeightDecay())
    model.layers[0].trainable = False
    (kernel,) = sparsity_report(model).kernels
    assert (kernel.prunable, kernel.skipped) == (False, "frozen")


def one_small_and_one_large(small, large):
    return keras.Sequential(
        [
            keras.Input((40,)),
            layers.Dense(40, kernel_regularizer=large),
            layers.Dense(1, kernel_regularizer=small),
        ],
        name="net",
    )


def test_a_kernel_that_a_common_target_leaves_whole_has_its_reason():
    swd = keras_swd.SelectiveWeightDecay()
    model = one_small_and_one_large(large=swd, small=swd)
    assert [k.skipped for k in sparsity_report(model).kernels] == [None, None]
    keras_swd.remove(model, 0.5, allocation=keras_swd.ErdosRenyi())
    report = sparsity_report(model)
    large, small = report.kernels
    assert (large.zeros, large.skipped) == (820, None)
    assert (small.zeros, small.prunable) == (0, True)
    assert small.skipped == "all that was removed lies in other kernels"
    assert f"Not pruned, {small.skipped}: {small.path}" in str(report)


def test_a_kernel_with_its_own_target_is_not_said_to_share_one():
    model = one_small_and_one_large(
        large=keras_swd.SelectiveWeightDecay(),
        small=keras_swd.SelectiveWeightDecay(sparsity=0.5),
    )
    set_kernel(model.layers[0], np.eye(40))
    assert [k.skipped for k in sparsity_report(model).kernels] == [None, None]


def test_a_kernel_that_was_always_zero_tells_of_no_removal():
    swd = keras_swd.SelectiveWeightDecay()
    model = one_small_and_one_large(large=swd, small=swd)
    set_kernel(model.layers[1], np.zeros((40, 1)))
    assert [k.skipped for k in sparsity_report(model).kernels] == [None, None]


def coupled_reasons(model):
    return {
        kernel.path: (kernel.prunable, kernel.skipped)
        for kernel in sparsity_report(model).kernels
    }


def test_weights_whose_channels_all_stay_are_skipped():
    swd = keras_swd.SelectiveWeightDecay(
        granularity=keras_swd.CoupledChannels(kernels=True)
    )
    model = keras.Sequential(
        [
            keras.Input((6, 3)),
            layers.Dense(4, name="stays", kernel_regularizer=swd),
            layers.GRU(5, name="gru", kernel_regularizer=swd),
            layers.Dense(4, name="a", kernel_regularizer=swd),
            layers.Dense(4, name="b", kernel_regularizer=swd),
            layers.BatchNormalization(name="norm", gamma_regularizer=swd),
        ],
        name="net",
    )
    found = coupled_reasons(model)
    start, gru, end = (
        f"its channels must stay ({reason})"
        for reason in (
            "input of the model, `gru` (GRU) is not followed",
            "`gru` (GRU) is not followed",
            "output of the model",
        )
    )
    assert found["net/stays/kernel"] == (False, start)
    assert found["net/gru/gru_cell/kernel"] == (False, gru)
    assert found["net/a/kernel"] == found["net/b/kernel"] == (True, None)
    assert found["net/norm/gamma"] == (False, end)
    assert f"Not pruned, {end}: net/norm/gamma" in str(sparsity_report(model))
    weights = Prunable(model, 0.5, keras_swd.LAMP()).weights
    assert {path for path, (prunable, _) in found.items() if prunable} == {
        weight.path
        for weight in weights
        if any((place.units >= 0).any() for place in weight.places)
    }


class Hidden(keras.Model):
    def __init__(self, regularizer):
        super().__init__()
        self.dense = layers.Dense(2, kernel_regularizer=regularizer)

    def call(self, inputs):
        return self.dense(inputs)


def test_coupled_channels_of_a_hidden_graph_are_skipped():
    swd = keras_swd.SelectiveWeightDecay(
        granularity=keras_swd.CoupledChannels(kernels=True)
    )
    model = Hidden(swd)
    model(np.ones((1, 3)))
    (found,) = coupled_reasons(model).values()
    assert found == (False, "the graph of the model is hidden")


def test_a_kernel_with_zeros_is_never_called_skipped():
    model = dense()
    set_kernel(model.layers[0], [[0, 1], [1, 1], [1, 1]])
    report = sparsity_report(model)
    assert report.kernels[0].skipped is None
    assert "Not pruned" not in report.table()


def test_a_kernel_that_was_left_out_is_called_skipped_though_it_has_zeros():
    swd = keras_swd.SelectiveWeightDecay()
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(2, kernel_regularizer=swd),
            layers.Dense(2, kernel_initializer="zeros"),
        ]
    )
    report = sparsity_report(model)
    pruned, left_out = report.kernels
    assert (pruned.skipped, left_out.zeros) == (None, 4)
    assert left_out.skipped == "no pruning regularizer"
    assert "no pruning regularizer" in report.table()


def test_totals_of_the_prunable_part_leave_the_other_kernels_out():
    swd = keras_swd.SelectiveWeightDecay()
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, kernel_regularizer=swd),
            layers.Dense(5),
        ]
    )
    set_kernel(model.layers[0], np.eye(3, 4))
    report = sparsity_report(model)
    assert report.prunable == Totals(12, 9)
    assert report.total == Totals(12 + 4 + 20 + 5, 9 + 4 + 5)


def test_without_prunable_kernels_the_part_is_that_of_all_kernels():
    model = dense()
    set_kernel(model.layers[0], [[0, 1], [1, 1], [1, 1]])
    assert sparsity_report(model).prunable == Totals(6, 1)


@given(st.integers(1, 9), st.floats(0.0, 0.99))
def test_removal_and_report_agree(units, sparsity):
    swd = keras_swd.SelectiveWeightDecay()
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(units, kernel_regularizer=swd)]
    )
    keras_swd.remove(model, sparsity)
    removed = round(sparsity * 4 * units)
    assert sparsity_report(model).prunable == Totals(4 * units, removed)
    stripped = sparsity_report(keras_swd.strip(model))
    assert stripped.prunable == Totals(4 * units, removed)


# Models ---------------------------------------------------------------------


def test_a_shared_layer_counts_once():
    shared = layers.Dense(3)
    x = keras.Input((3,))
    model = keras.Model(x, shared(shared(x)))
    report = sparsity_report(model)
    assert len(report.kernels) == 1
    assert report.total.size == 12


def test_layers_of_nested_models_are_found():
    inner = keras.Sequential(
        [keras.Input((3,)), layers.Dense(3), layers.BatchNormalization()]
    )
    model = keras.Sequential([keras.Input((3,)), inner, layers.Dense(2)])
    report = sparsity_report(model)
    assert [k.shape for k in report.kernels] == [(3, 3), (3, 2)]
    # Two biases, and four vectors of the normalization, two of them zero.
    assert report.others == Totals(3 + 2 + 4 * 3, 3 + 2 + 2 * 3)
    assert report.total.size == model.count_params()


def test_what_pruning_needs_in_training_is_not_counted():
    model = dense(kernel_regularizer=keras_swd.SelectiveWeightDecay())
    model.compile("adam", "mse", metrics=["mae"])
    # One step is too short a run.
    with pytest.warns(UserWarning, match="until removal"):
        model.fit(
            np.ones((2, 3)),
            np.ones((2, 2)),
            verbose=0,
            callbacks=[keras_swd.PruningScheduler(sparsity=0.5)],
        )
    assert sparsity_report(model).total.size == 8


def test_a_model_without_weights_gives_an_empty_report(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.ReLU()])
    report = sparsity_report(model)
    assert report.total == report.prunable == Totals(0, 0)
    assert report.total.sparsity == 0.0
    assert "whole model" in report.table()
    with pytest.raises(ValueError, match="no kernels"):
        report.plot(tmp_path / "plot.png")
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_not_built_is_refused():
    model = keras.Sequential([layers.Dense(2)], name="later")
    with pytest.raises(ValueError, match="`model` must be built, 'later'"):
        sparsity_report(model)


def test_a_path_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"load_model.*model='m\.keras'"):
        sparsity_report("m.keras")


# Views ----------------------------------------------------------------------


@pytest.fixture
def report():
    swd = keras_swd.SelectiveWeightDecay()
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, kernel_regularizer=swd, name="conv"),
            layers.Flatten(),
            layers.Dense(10, name="head"),
        ],
        name="digits",
    )
    keras_swd.remove(model, 0.75)
    return sparsity_report(model)


def test_the_table_shows_each_kernel_and_the_totals(report):
    lines = [line.split() for line in str(report).splitlines()]
    path = report.kernels[0].path
    # 3 * 3 * 3 * 16 = 432, of which 108 stay; 6 * 6 * 16 * 10 = 5760.
    assert [path, "3×3×3×16", "432", "108", "75.00%", "15,552"] in lines
    path = report.kernels[1].path
    assert [path, "576×10", "5,760", "5,760", "0.00%", "5,760"] in lines
    assert ["prunable", "kernels", "432", "108", "75.00%"] in lines
    assert ["biases", "and", "others", "26", "0", "100.00%"] in lines
    # 324 + 26 of 6218 are zero. Each filter is applied at 36 positions.
    assert ["whole", "model", "6,218", "5,868", "5.63%", "21,312"] in lines
    assert f" Not pruned, no pruning regularizer: {path}" in str(report)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_line_of_the_table_is_too_long(width):
    kernels = tuple(
        KernelSparsity(
            size=10**9,
            zeros=10**8 * i,
            path=f"{'outer_' * 9}{i}/[b]name[/b]/kernel",
            shape=(3, 3, 1024, 1024),
            skipped="granularity does not fit: " + "reason " * 20,
        )
        for i in range(3)
    )
    table = SparsityReport("big", kernels, Totals(5, 0)).table(width)
    assert max(map(len, table.splitlines())) <= width
    # Brackets in names are no markup.
    folded = "".join(line[:20].strip() for line in table.splitlines())
    assert "[b]name[/b]" in table or "[b]" in folded
    assert "1,000,000,000" in table


def test_one_reason_for_all_kernels_is_told_once():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2), layers.Dense(2)]
    )
    note = "Not pruned, no pruning regularizer: all kernels"
    assert str(sparsity_report(model)).count(note) == 1


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_only_exact_shares_are_shown_as_none_or_all(zeros, more):
    counted = Totals(zeros + more, zeros)
    assert (counted.percentage == "0.00%") == (zeros == 0)
    assert counted.percentage != "100.00%"
    shown = float(counted.percentage[:-1])
    assert shown == pytest.approx(100 * counted.sparsity, abs=0.0101)


def test_everything_zero_is_shown_as_all():
    assert Totals(3, 3).percentage == "100.00%"
    assert Totals(0, 0).percentage == "0.00%"


def test_json_is_the_dictionary(report, tmp_path):
    path = tmp_path / "report.json"
    text = report.to_json(path)
    assert path.read_text() == text
    assert json.loads(text) == report.to_dict()
    kernel = report.to_dict()["kernels"][0]
    assert kernel == {
        "path": report.kernels[0].path,
        "shape": [3, 3, 3, 16],
        "size": 432,
        "zeros": 324,
        "nonzeros": 108,
        "sparsity": 0.75,
        "prunable": True,
        "skipped": None,
        "operations": 432 * 36,
        "activations": 4 * 36 * 16,
    }


def test_records_cannot_be_changed(report):
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.name = "other"
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.kernels[0].zeros = 0


def test_the_picture_is_a_png(report, tmp_path):
    pyplot = "matplotlib.pyplot" in sys.modules
    report.plot(tmp_path / "plot.png")
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
    content = (tmp_path / "plot.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width = int.from_bytes(content[16:20], "big")
    assert width == 1500
    assert [p.name for p in tmp_path.iterdir()] == ["plot.png"]


@pytest.mark.parametrize(
    "kernel",
    [
        KernelSparsity(4, 2, "$uncounted", (2, 2)),
        KernelSparsity(4, 4, "all zero", (2, 2), magnitudes=(0,) * 128),
        KernelSparsity(4, 0, "x" * 99, (2, 2), magnitudes=(0, 4) + (0,) * 126),
        KernelSparsity(
            4, 0, "far", (2, 2), magnitudes=(2,) + (0,) * 126 + (2,)
        ),
    ],
)
def test_a_picture_of_anything_is_drawn(kernel, tmp_path):
    SparsityReport("$x", (kernel, kernel), Totals(0, 0)).plot(
        tmp_path / "plot.png"
    )
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_a_picture_must_be_a_png(report, tmp_path):
    with pytest.raises(ValueError, match=r"'\.png'.*plot\.pdf"):
        report.plot(tmp_path / "plot.pdf")


@pytest.mark.parametrize("write", ["to_json", "plot"])
def test_a_missing_folder_is_named(report, tmp_path, write):
    with pytest.raises(ValueError, match=r"existing folder.*none"):
        getattr(report, write)(tmp_path / "missing" / "file.png")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="not a folder"):
        write_whole(tmp_path, b"new")


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_operations_and_activations_by_hand():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3),
            keras.layers.DepthwiseConv2D(3, strides=2, padding="same"),
            keras.layers.Conv2DTranspose(3, 2, strides=2),
            keras.layers.Flatten(),
            keras.layers.Dense(5),
        ]
    )
    report = sparsity_report(model)
    operations = [kernel.operations for kernel in report.kernels]
    # 16 positions, then 4, then from each of 4 places, then one.
    assert operations == [72 * 16, 36 * 4, 48 * 4, 48 * 5]
    activations = [kernel.activations for kernel in report.kernels]
    assert activations == [4 * 64, 4 * 16, 4 * 48, 4 * 5]
    assert report.operations == sum(operations)
    assert report.activations == sum(activations)
    assert f"{72 * 16:,}" in str(report)
    assert report.to_dict()["kernels"][0]["operations"] == 72 * 16


def test_a_layer_used_twice_counts_twice():
    layer = keras.layers.Dense(3)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(layer(inputs)))
    assert sparsity_report(model).operations == 18


def test_operations_that_are_not_all_known_are_a_lower_bound():
    inputs = keras.Input((5, 8, 8, 3))
    x = layers.TimeDistributed(layers.Conv2D(8, 3))(inputs)
    outputs = layers.Dense(4)(layers.Flatten()(x))
    report = sparsity_report(keras.Model(inputs, outputs))
    assert report.operations == 5 * 6 * 6 * 8 * 4
    assert "≥ 5,760" in str(report)


def test_operations_of_a_free_size_are_not_told():
    model = keras.Sequential(
        [keras.Input((None, None, 2)), keras.layers.Conv2D(4, 3)]
    )
    report = sparsity_report(model)
    assert report.operations is None
    assert "operations" not in str(report)


def test_a_model_within_counts_at_the_size_that_it_is_given():
    """Twice as high and wide, at another size again, and by its strides."""
    free = keras.Input((None, None, 3))
    conv = keras.layers.Conv2D(4, 3, strides=2, padding="same", name="conv")
    up = keras.layers.Conv2DTranspose(2, 2, strides=2, name="up")
    x = keras.layers.ReLU()(conv(free)) * 2.0
    inner = keras.Sequential([keras.Input((None, None, 4)), up])
    backbone = keras.Model(free, inner(x), name="backbone")
    inputs = keras.Input((12, 8, 3))
    small = backbone(keras.layers.Cropping2D((2, 0))(inputs))
    large = backbone(inputs)
    dense = keras.layers.Dense(5)
    ends = [dense(large), keras.layers.GlobalMaxPooling2D()(small)]
    model = keras.Model(inputs, ends)
    report = sparsity_report(model)
    known = {
        kernel.path.rsplit("/", 2)[-2]: (kernel.operations, kernel.activations)
        for kernel in report.kernels
    }
    positions, pixels = 6 * 4 + 4 * 4, 12 * 8 + 8 * 8
    assert known["conv"] == (108 * positions, 4 * positions * 4)
    assert known["up"] == (32 * positions, 4 * pixels * 2)
    assert known[dense.name] == (10 * 12 * 8, 4 * 12 * 8 * 5)
    uses = kernel_uses(model)
    assert uses[id(conv.kernel)].positions == positions
    # The model within is as free as it was.
    assert backbone.input_shape == (None, None, None, 3)
    assert sparsity_report(backbone).operations is None


def test_a_model_within_of_a_fixed_size_counts_at_that_size():
    inner = keras.Sequential(
        [keras.Input((6, 6, 2)), keras.layers.Conv2D(4, 3)]
    )
    inputs = keras.Input((None, None, 2))
    assert sparsity_report(keras.Model(inputs, inner(inputs))).operations == (
        72 * 16
    )


def test_a_layer_that_computes_its_kernel_is_reported():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
    model.layers[0].enable_lora(2)
    report = sparsity_report(model)
    assert report.total.size == 4 * 5 + 5 + 4 * 2 + 2 * 5
    assert report.operations is None


def test_a_bias_of_two_axes_is_no_kernel():
    model = keras.Sequential([keras.Input((5, 4)), keras.layers.GRU(6)])
    found = sparsity_report(model)
    assert [kernel.size for kernel in found.kernels] == [4 * 18, 6 * 18]
    assert found.others.size == 2 * 18


def test_biases_of_attention_are_no_kernels():
    inputs = keras.Input((5, 4))
    attention = keras.layers.MultiHeadAttention(2, 4)
    model = keras.Model(inputs, attention(inputs, inputs))
    found = sparsity_report(model)
    assert len(found.kernels) == 4
    assert found.others.size == 3 * 8 + 4


def test_what_a_quantized_layer_scales_with_is_no_kernel():
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    model.layers[0].quantize("int8")
    assert len(sparsity_report(model).kernels) == 1


def test_slopes_scales_and_statistics_are_no_kernels():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.PReLU(),
            keras.layers.LayerNormalization(axis=[1, 2, 3]),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    found = sparsity_report(model)
    assert [kernel.size for kernel in found.kernels] == [9 * 4, 4 * 2]
    assert found.others.size == 4 + 3 * 6 * 6 * 4 + 2


def test_a_separable_convolution_gives_its_output_once():
    layer = keras.layers.SeparableConv2D(4, 3, padding="same")
    model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    found = sparsity_report(model)
    assert found.activations == 4 * 8 * 8 * 4
    assert found.operations == 8 * 8 * (9 * 3 + 3 * 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_replaced_by_a_file(report, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a device or a pipe"):
        report.to_json(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_to_a_file_is_followed(report, tmp_path):
    (tmp_path / "there.json").write_text("old")
    (tmp_path / "link.json").symlink_to("there.json")
    report.to_json(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "there.json").read_text())
