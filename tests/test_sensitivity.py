"""What the zeros of each kernel cost, and that nothing else changes."""

import json

import keras
import numpy as np
import pytest

import keras_swd
from keras_swd import SelectiveWeightDecay, sensitivity
from keras_swd.tradeoffs.sensitivity import KernelSensitivity, Sensitivity

layers = keras.layers

# Every entry of a product that is lost is seen: y = diag · w on unit vectors.
DIAGONAL = np.array([4.0, 3.0, 2.0, 1.0], "float32")
WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0], "float32")
DATA = np.eye(4, dtype="float32"), (DIAGONAL * WEIGHTS)[:, None]


def known(regularizer=None, second=None, metrics=("mae",)):
    """A network of which it can be computed by hand what zeros cost."""
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, use_bias=False, kernel_regularizer=regularizer),
            layers.Dense(1, use_bias=False, kernel_regularizer=second),
        ],
        name="known",
    )
    model.set_weights([np.diag(DIAGONAL), WEIGHTS[:, None]])
    metrics = metrics and list(metrics)
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=metrics)
    return model


def state(model):
    """All that training goes on from."""
    variables = [
        *model.variables,
        *model.optimizer.variables,
        *model.metrics_variables,
    ]
    values = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    flags = [v.trainable for v in model.weights]
    return values, flags


def assert_same(before, after):
    assert before[1] == after[1]
    assert len(before[0]) == len(after[0])
    for one, other in zip(before[0], after[0], strict=True):
        np.testing.assert_array_equal(one, other)


# What counts -----------------------------------------------------------------


def test_metrics_of_several_numbers_do_not_count():
    several = keras.metrics.R2Score(class_aggregation=None)
    report = sensitivity(known(metrics=[several, "mae"]), DATA, [0.5])
    assert report.metric == "mean_absolute_error" or report.metric == "mae"
    assert "r2_score" not in report.before
    with pytest.raises(ValueError, match=r"`metric` must be one of"):
        sensitivity(known(metrics=[several]), DATA, [0.5], metric="r2_score")


@pytest.mark.slow
def test_the_first_metric_that_was_compiled_counts():
    names = ["mse", "mae"], ["mae", "mse"]
    for metrics in names:
        report = sensitivity(known(metrics=metrics), DATA, [0.5])
        assert report.metric == metrics[0]

    def a_metric_without_direction(y, prediction):
        return keras.ops.mean(prediction)

    model = known(metrics=["mae", a_metric_without_direction])
    assert sensitivity(model, DATA, [0.5]).metric == "mae"


def test_the_loss_counts_without_penalties():
    reports = [
        sensitivity(known(regularizer, metrics=None), DATA, [0.5, 0.9])
        for regularizer in (None, keras.regularizers.L2(0.5))
    ]
    one, other = reports
    assert one.metric == other.metric == "loss"
    assert other.before["loss"] == pytest.approx(0.0, abs=1e-5)
    for mine, its in zip(one.kernels, other.kernels, strict=True):
        np.testing.assert_allclose(
            mine.metrics["loss"], its.metrics["loss"], rtol=1e-5, atol=1e-5
        )


@pytest.mark.slow
def test_losses_of_a_subclassed_model_with_outputs_are_no_metrics():
    class TwoHeads(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.other = layers.Dense(1), layers.Dense(3)

        def call(self, inputs):
            return {"o1": self.one(inputs), "o2": self.other(inputs)}

    x = np.ones((8, 4), "float32")
    y = {"o1": np.ones((8, 1)), "o2": np.zeros((8, 3))}
    for metrics, name in ((None, "loss"), ({"o2": ["mae"]}, "o2_mae")):
        model = TwoHeads()
        model.compile("sgd", {"o1": "mse", "o2": "mse"}, metrics=metrics)
        model.fit(x, y, verbose=0)
        assert sensitivity(model, (x, y), [0.5]).metric == name


# Values ----------------------------------------------------------------------


def test_what_zeros_cost_is_what_is_computed_by_hand():
    # Of 16 entries of the first kernel 12 are zero; the 13th is 1 and the
    # 14th 2. Of the second kernel's 4 the smallest two are 1 and 2.
    report = sensitivity(known(), DATA, [0.75, 14 / 16], within=0.5)
    assert report.metric == "mae"
    assert report.mode == "min"
    assert report.before["mae"] == pytest.approx(0.0)
    first, second = report.kernels
    assert (first.units, second.units) == (16, 4)
    assert first.metrics["mae"] == pytest.approx((0.0, (4 + 6) / 4))
    lost = np.array([4.0, 6.0, 6.0])
    assert second.metrics["mae"] == pytest.approx(
        (lost.sum() / 4, (lost.sum() + 4) / 4)
    )
    assert second.metrics["loss"][0] == pytest.approx(np.sum(lost**2) / 4)
    assert list(report.targets.values()) == [0.75, 0.0]


def test_granularity_and_criterion_are_those_of_the_regularizer():
    rows = keras_swd.Channel(axis=0)
    swd = SelectiveWeightDecay(granularity=rows)
    report = sensitivity(known(swd), DATA, [0.5])
    # What carries no regularizer is not pruned, and not measured.
    (kernel,) = report.kernels
    assert kernel.units == 4
    assert kernel.metrics["mae"] == pytest.approx(((4 + 6) / 4,))


def test_coupled_channels_go_in_all_their_weights():
    coupled = SelectiveWeightDecay(
        granularity=keras_swd.CoupledChannels(kernels=True)
    )
    model = keras_swd.with_regularizer(known(), coupled)
    (channels,) = sensitivity(model, DATA, [0.25]).kernels
    assert channels.units == 4
    assert channels.metrics["mae"] == pytest.approx((1.0,))


@pytest.mark.parametrize("build", [known, lambda: known("l2", "l2")])
def test_layers_can_be_left_out(build):
    model = build()
    first, second = model.layers
    (kernel,) = sensitivity(model, DATA, [0.5], exclude=[first.name]).kernels
    assert kernel.path == second.kernel.path
    (kernel,) = sensitivity(model, DATA, [0.5], exclude=second).kernels
    assert kernel.path == first.kernel.path


def test_a_subclassed_model_and_every_kind_of_kernel_are_measured():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.convolution = layers.SeparableConv1D(3, 2)
            self.memory = layers.SimpleRNN(2)

        def call(self, inputs):
            return self.memory(self.convolution(inputs))

    model = Net()
    model.compile(loss="mse")
    data = np.ones((2, 5, 2)), np.ones((2, 2))
    model.evaluate(*data, verbose=0)
    report = sensitivity(model, data, [0.5])
    assert report.metric == "loss"
    names = [kernel.path.split("/")[-1] for kernel in report.kernels]
    assert sorted(names) == [
        "depthwise_kernel",
        "kernel",
        "pointwise_kernel",
        "recurrent_kernel",
    ]


def test_targets_prune_each_layer_as_far_as_they_say():
    model = known(SelectiveWeightDecay(), SelectiveWeightDecay())
    report = sensitivity(model, DATA, [0.5, 0.75], within=1.5)
    for layer in model.layers:
        target = report.targets[layer.kernel.path]
        layer.kernel_regularizer.sparsity = target
    assert list(keras_swd.remove(model).values()) == [12, 0]


def test_a_target_ends_where_the_first_point_loses_too_much():
    curve = KernelSensitivity("k", 9, {"a": (0.895, 0.88, 0.9, np.nan)})
    report = Sensitivity(
        "m", "a", "max", 0.01, (0.2, 0.4, 0.6, 0.8), {"a": 0.9}, (curve,)
    )
    assert report.targets == {"k": 0.2}
    assert report.lost(curve)[:3] == pytest.approx((0.005, 0.02, 0.0))


# Nothing else changes --------------------------------------------------------


def trained():
    model = known()
    model.fit(*DATA, epochs=2, verbose=0, shuffle=False)
    return model


@pytest.mark.slow
def test_training_goes_on_as_if_nothing_had_been_measured():
    model, twin = trained(), trained()
    before = state(model)
    sensitivity(model, DATA, [0.5, 0.9])
    assert_same(before, state(model))
    for one in (model, twin):
        one.fit(*DATA, epochs=2, verbose=0, shuffle=False)
    np.testing.assert_array_equal(model.get_weights()[0], twin.get_weights()[0])


def test_an_evaluation_that_raises_leaves_all_as_it_was(monkeypatch):
    model = trained()
    model.layers[1].trainable = False
    before = state(model)
    evaluate, calls = model.evaluate, []

    def fail_late(*args, **kwargs):
        calls.append(np.count_nonzero(model.get_weights()[0]))
        result = evaluate(*args, **kwargs)
        if len(calls) == 3:
            raise RuntimeError("no more data")
        return result

    monkeypatch.setattr(model, "evaluate", fail_late)
    with pytest.raises(RuntimeError, match="no more data"):
        sensitivity(model, DATA, [0.5, 0.99])
    # It did raise while weights were at zero.
    assert calls[2] == 0 < calls[0]
    assert_same(before, state(model))


def test_a_weight_that_cannot_be_zeroed_leaves_the_others_as_they_were(
    monkeypatch,
):
    coupled = SelectiveWeightDecay(
        granularity=keras_swd.CoupledChannels(kernels=True)
    )
    model = keras_swd.with_regularizer(known(), coupled)
    before = [w.copy() for w in model.get_weights()]
    weight = keras_swd.units.channels.ChannelWeight
    masked, calls = weight.masked, []

    def fail_second(self, mask):
        calls.append(self)
        if len(calls) == 2:
            raise MemoryError
        return masked(self, mask)

    monkeypatch.setattr(weight, "masked", fail_second)
    with pytest.raises(MemoryError):
        sensitivity(model, DATA, [0.5])
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


# The record ------------------------------------------------------------------


def test_it_is_a_table_json_and_a_picture(tmp_path):
    report = sensitivity(known(), DATA, [0.5, 0.75])
    text = str(report)
    assert "mae of 'known' with zeros in one kernel" in text
    assert "75%" in text
    assert max(map(len, text.splitlines())) <= 88
    assert json.loads(report.to_json()) == json.loads(
        json.dumps(report.to_dict())
    )
    assert report.to_dict()["targets"] == report.targets
    report.plot(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"must end in '\.png'"):
        report.plot(tmp_path / "map.pdf")


# Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsities": []}, "Argument `sparsities` must hold"),
        ({"sparsities": [1.0]}, "Received: sparsity=1.0"),
        ({"sparsities": 0.5}, "`sparsities` must hold.*sparsities=0.5"),
        ({"metric": "auc"}, r"one of \['loss', 'mae'\].*metric='auc'"),
        ({"mode": "up"}, "Received: mode='up'"),
        ({"within": -0.1}, "Received: within=-0.1"),
        ({"exclude": ["head"]}, "Argument `exclude` names 'head'"),
        ({"data": iter([DATA])}, "which an iterator cannot be"),
    ],
)
def test_wrong_arguments_are_told(arguments, words):
    with pytest.raises(ValueError, match=words):
        sensitivity(known(), **{"data": DATA, **arguments})


def test_a_model_that_cannot_be_evaluated_is_refused():
    model = known()
    plain = keras.Sequential.from_config(model.get_config())
    with pytest.raises(ValueError, match="not compiled"):
        sensitivity(plain, DATA)
    with pytest.raises(ValueError, match="must be built"):
        sensitivity(keras.Sequential([layers.Dense(2)]), DATA)
    everything = model.layers
    with pytest.raises(ValueError, match="has no kernels"):
        sensitivity(model, DATA, exclude=everything)


def test_what_diverged_is_refused():
    model = known()
    model.set_weights([w * np.nan for w in model.get_weights()])
    with pytest.raises(ValueError, match="NaN or infinity"):
        sensitivity(model, DATA)


def test_a_metric_of_unknown_direction_needs_a_mode():
    def spread(y, prediction):
        return keras.ops.std(prediction, axis=-1)

    model = known()
    model.compile(loss="mse", metrics=[spread])
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        sensitivity(model, DATA, [0.5])
    report = sensitivity(model, DATA, [0.5], mode="max")
    assert (report.metric, report.mode) == ("spread", "max")


def test_what_diverged_is_null_in_json(tmp_path):
    nan = float("nan")
    curve = KernelSensitivity("k", 9, {"a": (0.5, nan)})
    report = Sensitivity("m", "a", "max", 0.6, (0.5, 0.8), {"a": 1.0}, (curve,))
    report.to_json(tmp_path / "report.json")
    found = json.loads(
        (tmp_path / "report.json").read_text(), parse_constant=pytest.fail
    )
    assert found["kernels"][0]["metrics"]["a"] == [0.5, None]
    assert found["targets"] == {"k": 0.5}


def two_outputs(metrics=None):
    inputs = keras.Input((4,))
    outputs = [
        layers.Dense(2, name="a")(inputs),
        layers.Dense(1, name="b")(inputs),
    ]
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss=["mse", "mse"], metrics=metrics)
    x = np.eye(4, dtype="float32")
    return model, (x, [x[:, :2], x[:, :1]])


@pytest.mark.parametrize(
    ("metrics", "asked", "found"),
    [
        (None, None, ("loss", "min")),
        (None, "b_loss", ("b_loss", "min")),
        ({"b": ["mae"]}, None, ("b_mae", "min")),
        ({"b": ["cosine_similarity"]}, None, ("b_cosine_similarity", "max")),
    ],
)
def test_metrics_of_several_outputs_have_a_direction(metrics, asked, found):
    model, data = two_outputs(metrics)
    report = sensitivity(model, data, [0.5], metric=asked)
    assert (report.metric, report.mode) == found


@pytest.mark.parametrize(
    ("metrics", "asked", "found"),
    [
        (None, None, ("loss", "min")),
        (None, "left_loss", ("left_loss", "min")),
        ({"right": ["mae"]}, None, ("right_mae", "min")),
    ],
)
def test_outputs_are_known_by_the_keys_of_a_dictionary(metrics, asked, found):
    inputs = keras.Input((4,))
    ends = {"left": layers.Dense(2)(inputs), "right": layers.Dense(1)(inputs)}
    model = keras.Model(inputs, ends)
    model.compile("sgd", {"left": "mse", "right": "mse"}, metrics=metrics)
    x = np.eye(4, dtype="float32")
    data = (x, {"left": x[:, :2], "right": x[:, :1]})
    report = sensitivity(model, data, [0.5], metric=asked)
    assert (report.metric, report.mode) == found
