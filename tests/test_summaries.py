"""What `PruningSummaries` writes: the record, event files, resuming."""

import json

import hypothesis.extra.numpy as arrays
import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

import keras_swd
from keras_swd.report.magnitudes import HIGHEST, LOWEST, PER_DECADE
from keras_swd.summaries import history
from keras_swd.summaries.history import Epoch, RunRecord, kernel_state

SIZES = {"first": 6 * 16, "second": 16 * 3}
SPARSITY, EPOCHS, BATCH = 0.75, 3, 8
SETTINGS = dict.fromkeys(history.SETTINGS)

pytestmark = [
    pytest.mark.filterwarnings("ignore:A weight selected when"),
    pytest.mark.filterwarnings("ignore:What is removed now"),
]


def network(regularizer):
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(
                16,
                activation="relu",
                kernel_regularizer=regularizer,
                name="first",
            ),
            layers.Dense(3, kernel_regularizer=regularizer, name="second"),
        ],
        name="small",
    )
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(keras_swd.with_pruning(optimizer), "mse", metrics=["mae"])
    return model


def fit(model, *callbacks, **arguments):
    x = np.random.default_rng(0).standard_normal((40, 6)).astype("float32")
    return model.fit(
        x,
        x[:, :3],
        **{
            "batch_size": BATCH,
            "epochs": EPOCHS,
            "verbose": 0,
            "callbacks": callbacks,
            **arguments,
        },
    ).history


def data():
    x = np.random.default_rng(1).standard_normal((16, 6)).astype("float32")
    return x, x[:, :3]


class Watch(keras.callbacks.Callback):
    """Keeps the kernels at the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.kernels = []

    def on_epoch_end(self, epoch, logs=None):
        self.kernels.append(
            {
                layer.name: ops.convert_to_numpy(layer.kernel)
                for layer in self.model.layers
            }
        )


class Crash(keras.callbacks.Callback):
    """Ends the process, as it were, in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.at_work = epoch == self.epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.at_work and batch == 3:
            raise InterruptedError


def begun(folder):
    """The callback of a run without pruning that has begun."""
    summaries = keras_swd.PruningSummaries(folder)
    summaries.set_model(network(None))
    summaries.set_params({"epochs": 3, "steps": 1})
    summaries.on_train_begin()
    return summaries


def content(folder):
    return json.loads((folder / "pruning.json").read_text())


def epochs(folder):
    return [epoch["epoch"] for epoch in content(folder)["epochs"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run: its folder, its history, its kernels and its model."""
    folder = tmp_path_factory.mktemp("runs") / "new" / "run"
    swd = keras_swd.SelectiveWeightDecay(2e-3)
    model, watch = network(swd), Watch()
    pruning = keras_swd.PruningScheduler(
        SPARSITY,
        keras_swd.Exponential(0.2, 300.0, finish=0.5),
        keras_swd.Uniform(),
        monitor_data=data(),
    )
    summaries = keras_swd.PruningSummaries(folder, pruning, {"seed": 7})
    logged = fit(model, pruning, summaries, watch, validation_data=data())
    return folder, logged, watch.kernels, model


# The record -----------------------------------------------------------------


def test_the_record_holds_what_fit_logged(run):
    folder, logged, _, _ = run
    for epoch in content(folder)["epochs"]:
        at = epoch["epoch"]
        assert epoch["logs"] == {name: v[at] for name, v in logged.items()}
    assert epochs(folder) == [0, 1, 2]
    assert {
        "loss",
        "val_mae",
        "mae_if_removed",
        "sparsity",
        "swd_strength",
        "swd_threshold",
        "swd_residual",
    } <= set(logged)


def expected(values):
    """The record of a kernel, in other words than those of the package."""
    magnitudes = np.abs(values.astype("float64").ravel())
    removed = round(SPARSITY * magnitudes.size)
    edges = np.linspace(LOWEST, HIGHEST, (HIGHEST - LOWEST) * PER_DECADE + 1)
    counts, _ = np.histogram(np.log10(magnitudes[magnitudes > 0]), edges)
    return removed / magnitudes.size, counts


def test_the_record_holds_each_kernel_as_it_was(run):
    folder, _, kernels, _ = run
    for epoch, values in zip(content(folder)["epochs"], kernels, strict=True):
        assert [k["path"] for k in epoch["kernels"]] == [
            f"small/{name}/kernel" for name in SIZES
        ]
        for kernel, name in zip(epoch["kernels"], SIZES, strict=True):
            sparsity, counts = expected(values[name])
            assert tuple(kernel["shape"]) == values[name].shape
            assert kernel["sparsity"] == pytest.approx(sparsity)
            assert kernel["zeros"] == 0
            padded = np.zeros(len(counts), int)
            end = kernel["first"] + len(kernel["counts"])
            padded[kernel["first"] : end] = kernel["counts"]
            np.testing.assert_array_equal(padded, counts)


def test_the_record_ends_with_the_model_after_removal(run):
    folder, _, _, model = run
    end = content(folder)["end"]
    zeros = [int(np.sum(layer.get_weights()[0] == 0)) for layer in model.layers]
    assert [kernel["zeros"] for kernel in end["kernels"]] == zeros
    assert zeros == [round(SPARSITY * size) for size in SIZES.values()]
    assert end["total"]["size"] == model.count_params()


def test_the_settings_build_equal_objects(run):
    folder, _, _, _ = run
    settings = content(folder)["settings"]
    build = keras.saving.deserialize_keras_object
    (entry,) = settings["regularizers"]
    assert build(entry["regularizer"]).weight_decay == 2e-3
    assert entry["kernels"] == [f"small/{name}/kernel" for name in SIZES]
    assert settings["scheduler"]["class_name"] == "PruningScheduler"
    scheduler = settings["scheduler"]["config"]
    assert [build(schedule) for schedule in scheduler["schedule"]] == [
        keras_swd.Exponential(0.2, 300.0, finish=0.5)
    ]
    assert build(scheduler["allocation"]) == keras_swd.Uniform()
    assert scheduler["sparsity"] == SPARSITY
    assert scheduler["total_steps"] == EPOCHS * 40 // BATCH
    assert scheduler["remove_at"] == 1.0
    optimizer = build(settings["optimizer"])
    assert optimizer.momentum == 0.9
    assert float(optimizer.learning_rate) == pytest.approx(0.05)
    assert settings["given"] == {"seed": 7}
    assert settings["versions"]["keras"] == keras.__version__
    assert settings["parameters"] == 6 * 16 + 16 + 16 * 3 + 3


def test_a_schedule_that_was_not_given_is_that_of_the_method(tmp_path):
    regularizers = [
        keras_swd.SelectiveWeightDecay(1e-3),
        keras_swd.MagnitudePruning(1e-3),
    ]
    found = []
    for regularizer in regularizers:
        model = network(regularizer)
        pruning = keras_swd.PruningScheduler(0.5)
        pruning.set_model(model)
        pruning.set_params({"epochs": 2, "steps": 4})
        pruning.on_train_begin()
        found.append(pruning.settings())
    build = keras.saving.deserialize_keras_object
    schedules = [build(settings["schedule"][0]) for settings in found]
    assert schedules == [r.schedule for r in regularizers]
    assert [s["remove_at"] for s in found] == [1.0, regularizers[1].end]


def test_a_schedule_that_cannot_be_serialized_is_told_by_its_class(tmp_path):
    class Own(keras_swd.Schedule):
        def __init__(self, function):
            self.function = function

        def __call__(self, progress):
            return float(self.function(progress))

        def get_config(self):
            return {"function": self.function}

    pruning = keras_swd.PruningScheduler(0.5, Own(np.poly1d([1.0, 0.0])))
    pruning.set_model(network(keras_swd.SelectiveWeightDecay(1e-3)))
    pruning.set_params({"epochs": 2, "steps": 4})
    pruning.on_train_begin()
    (schedule,) = pruning.settings()["schedule"]
    assert schedule == {"class_name": "Own", "config": None}


# Event files ----------------------------------------------------------------


def events(folder):
    """All messages of a run, read with TensorFlow, which checks their sums."""
    import tensorflow as tf

    files = sorted((folder / "tensorboard").iterdir())
    return [
        tf.compat.v1.Event.FromString(message.numpy())
        for path in files
        for message in tf.data.TFRecordDataset(str(path))
    ]


def test_event_files_hold_the_numbers_of_the_record(run):
    folder, logged, _, _ = run
    first, start, *rest = events(folder)
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (0, 1)
    assert [event.step for event in rest] == [0, 1, 2]
    for event, epoch in zip(rest, content(folder)["epochs"], strict=True):
        values = {
            value.tag: value.simple_value
            for value in event.summary.value
            if value.HasField("simple_value")
        }
        wanted = {name: v[epoch["epoch"]] for name, v in logged.items()}
        wanted |= {
            f"sparsity/{kernel['path']}": kernel["sparsity"]
            for kernel in epoch["kernels"]
        }
        assert values == pytest.approx(wanted)


def test_tensorboard_reads_the_numbers_of_the_model(run):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed",
    )
    folder, logged, kernels, _ = run
    found = accumulators.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    for name, values in logged.items():
        scalars = found.Scalars(name)
        assert [scalar.step for scalar in scalars] == [0, 1, 2]
        assert [s.value for s in scalars] == pytest.approx(values)
    for name, size in SIZES.items():
        (*_, last) = found.Histograms(f"log10_magnitude/small/{name}/kernel")
        _, counts = expected(kernels[-1][name])
        used = np.flatnonzero(counts)
        wanted = counts[used[0] : used[-1] + 1]
        assert last.step == 2
        bins = last.histogram_value
        assert bins.num == size
        assert list(bins.bucket) == [0, *wanted]
        np.testing.assert_allclose(
            bins.bucket_limit,
            LOWEST + np.arange(used[0], used[-1] + 2) / PER_DECADE,
        )


# Resuming -------------------------------------------------------------------


def small_run(folder, model, *callbacks, **arguments):
    pruning = keras_swd.PruningScheduler(SPARSITY)
    summaries = keras_swd.PruningSummaries(folder, pruning)
    return fit(model, *callbacks, pruning, summaries, **arguments)


@pytest.mark.slow
def test_a_crashed_run_keeps_its_epochs_and_a_resumed_one_goes_on(tmp_path):
    model = network(keras_swd.SelectiveWeightDecay(2e-3))

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(InterruptedError):
        small_run(tmp_path, model, backup(), Crash(2))
    before = content(tmp_path)
    assert [epoch["epoch"] for epoch in before["epochs"]] == [0, 1]
    assert before["end"] is None
    model = network(keras_swd.SelectiveWeightDecay(2e-3))
    logged = small_run(tmp_path, model, backup())
    after = content(tmp_path)
    assert [epoch["epoch"] for epoch in after["epochs"]] == [0, 1, 2]
    assert after["epochs"][:2] == before["epochs"]
    assert after["epochs"][2]["logs"]["loss"] == logged["loss"][0]
    assert after["end"] is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "pruning.json",
        "tensorboard",
    ]


def test_epochs_trained_again_replace_those_of_before(tmp_path):
    model = network(keras_swd.SelectiveWeightDecay(2e-3))
    first = small_run(tmp_path, model)
    again = small_run(tmp_path, model, initial_epoch=1)
    assert epochs(tmp_path) == [0, 1, 2]
    assert [e["logs"]["loss"] for e in content(tmp_path)["epochs"]] == [
        first["loss"][0],
        *again["loss"],
    ]
    # TensorBoard forgets the steps from that of such a message on.
    starts = [e.step for e in events(tmp_path) if e.HasField("session_log")]
    assert starts == [0, 1]
    small_run(tmp_path, model, epochs=1)
    assert epochs(tmp_path) == [0]


def test_tensorboard_shows_each_epoch_once(tmp_path):
    accumulators = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="TensorBoard is not installed",
    )
    losses = [3.0, 2.0, 1.5, 1.25, 1.0]
    for first, logged in ((0, losses[:3]), (1, losses[3:])):
        summaries = begun(tmp_path)
        for epoch, loss in enumerate(logged, first):
            summaries.on_epoch_begin(epoch)
            summaries.on_epoch_end(epoch, {"loss": loss})
    found = accumulators.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    scalars = found.Scalars("loss")
    assert [scalar.step for scalar in scalars] == [0, 1, 2]
    assert [scalar.value for scalar in scalars] == [3.0, 1.25, 1.0]


def test_a_record_is_written_whole_or_not_at_all(run, tmp_path, monkeypatch):
    folder, _, _, _ = run
    record = history.read_record(folder)
    record.write(tmp_path)
    whole = (tmp_path / "pruning.json").read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr("keras_swd.files.os.replace", fail)
    with pytest.raises(OSError, match="full"):
        record.until(1).write(tmp_path)
    assert (tmp_path / "pruning.json").read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["pruning.json"]


# Other runs -----------------------------------------------------------------


def test_a_run_without_pruning_has_its_logs_alone(tmp_path):
    logged = fit(network(None), keras_swd.PruningSummaries(str(tmp_path)))
    record = history.read_record(tmp_path)
    assert [epoch.logs["mae"] for epoch in record.epochs] == logged["mae"]
    assert not any(epoch.kernels for epoch in record.epochs)
    assert record.settings["scheduler"] is None
    assert record.settings["regularizers"] == []


@pytest.mark.parametrize(
    "regularizer",
    [
        keras_swd.GReg1(1e-3, interval=1, begin=0.5),
        keras_swd.AdaptiveSparsity(1e-3),
    ],
    ids=lambda regularizer: type(regularizer).__name__,
)
def test_kernels_of_every_kind_add_up_to_the_sparsity(regularizer, tmp_path):
    logged = small_run(tmp_path, network(regularizer))
    for epoch in history.read_record(tmp_path).epochs:
        removed = sum(k.sparsity * k.size for k in epoch.kernels)
        share = logged["sparsity"][epoch.epoch]
        assert removed == pytest.approx(share * sum(SIZES.values()))


def test_weights_removed_above_a_floor_are_the_zeros(tmp_path):
    model = network(keras_swd.IrrelevantWeights())
    pruning = keras_swd.FloorScheduler(-1.0, monitor="mae", share=0.25)
    summaries = keras_swd.PruningSummaries(tmp_path, pruning)
    logged = fit(model, pruning, summaries)
    record = history.read_record(tmp_path)
    assert logged["sparsity"][-1] > 0.4
    for epoch in record.epochs:
        zeros = [k.zeros for k in epoch.kernels]
        assert zeros == [round(k.sparsity * k.size) for k in epoch.kernels]
        size = sum(SIZES.values())
        assert sum(zeros) == round(logged["sparsity"][epoch.epoch] * size)
    assert record.settings["scheduler"]["config"]["share"] == 0.25


def test_only_numbers_are_recorded_and_nan_is_null(tmp_path):
    summaries = begun(tmp_path)
    summaries.on_epoch_begin(0)
    odd = {"loss": float("nan"), "each": [1.0, 2.0], "mae": np.float32(0.5)}
    summaries.on_epoch_end(0, odd)
    summaries.on_train_end()
    text = (tmp_path / "pruning.json").read_text()
    assert "NaN" not in text
    (epoch,) = json.loads(text)["epochs"]
    assert epoch["logs"] == {"loss": None, "mae": 0.5}


# Errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("x", keras.callbacks.History()), r"`scheduler` must be .*History"),
        (("x", None, {"data": np.ones(2)}), r"`settings` must be .*array"),
        (("x", None, {"rate": float("nan")}), r"`settings` must be .*nan"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_swd.PruningSummaries(*arguments)


def test_a_scheduler_that_does_not_run_is_refused(tmp_path):
    pruning = keras_swd.PruningScheduler(SPARSITY)
    model = network(keras_swd.SelectiveWeightDecay())
    with pytest.raises(ValueError, match=r"callbacks=\[scheduler, keras_swd"):
        fit(model, keras_swd.PruningSummaries(tmp_path / "x", pruning))
    assert not list(tmp_path.iterdir())


def test_a_scheduler_of_another_fit_is_refused(tmp_path):
    pruning = keras_swd.PruningScheduler(SPARSITY)
    fit(network(keras_swd.SelectiveWeightDecay()), pruning, epochs=1)
    with pytest.raises(ValueError, match=r"callbacks=\[scheduler, keras_swd"):
        fit(
            network(keras_swd.SelectiveWeightDecay()),
            keras_swd.PruningSummaries(tmp_path / "x", pruning),
        )


def test_numbers_of_other_types_do_not_end_a_run(tmp_path):
    class Endless(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01

        def get_config(self):
            return {"until": float("inf")}

    pruning = keras_swd.PruningScheduler(SPARSITY, total_steps=np.int64(4))
    model = network(keras_swd.SelectiveWeightDecay())
    model.compile(keras.optimizers.SGD(Endless()), "mse")
    fit(
        model,
        pruning,
        keras_swd.PruningSummaries(tmp_path, pruning),
        epochs=2,
        steps_per_epoch=np.int64(2),
    )
    settings = content(tmp_path)["settings"]
    assert settings["steps_per_epoch"] == 2
    assert settings["scheduler"]["config"]["total_steps"] == 4
    assert settings["optimizer"] == {"class_name": "SGD", "config": None}


def test_a_model_that_the_first_step_builds_is_recorded(tmp_path):
    swd = keras_swd.SelectiveWeightDecay()
    model = keras.Sequential([layers.Dense(3, kernel_regularizer=swd)])
    model.compile("sgd", "mse")
    pruning = keras_swd.PruningScheduler(SPARSITY)
    summaries = keras_swd.PruningSummaries(tmp_path, pruning)
    with pytest.warns(UserWarning, match="comes before its scheduler"):
        fit(model, summaries, pruning, batch_size=40)
    assert len(content(tmp_path)["epochs"]) == EPOCHS


@pytest.mark.tensorflow
def test_a_model_that_is_only_a_train_step_is_recorded(tmp_path):
    swd = keras_swd.SelectiveWeightDecay()

    class Steps(keras.Model):
        def __init__(self):
            super().__init__()
            self.net = layers.Dense(3, kernel_regularizer=swd)
            self.net.build((None, 6))

        def train_step(self, data):
            return {"loss": ops.sum(ops.square(self.net.kernel))}

    model = Steps()
    model.compile("sgd")
    pruning = keras_swd.PruningScheduler(SPARSITY)
    fit(model, pruning, keras_swd.PruningSummaries(tmp_path, pruning))
    assert content(tmp_path)["settings"]["parameters"] == 21


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="`log_dir` must name a folder"):
        fit(network(None), keras_swd.PruningSummaries(tmp_path / "file"))


def test_a_run_is_not_resumed_in_the_folder_of_another_model(run, tmp_path):
    folder, _, _, _ = run
    other = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    other.compile("sgd", "mse")
    whole = content(folder)
    with pytest.raises(ValueError, match=r"a model of 163 parameters, .* 21"):
        fit(other, keras_swd.PruningSummaries(folder), initial_epoch=1)
    assert content(folder) == whole


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"settings": {}, "epochs": [], "end": null}']
)
def test_another_file_of_that_name_is_refused(text, tmp_path):
    (tmp_path / "pruning.json").write_text(text)
    with pytest.raises(ValueError, match=r"pruning\.json is no record of a"):
        history.read_record(tmp_path)


def test_an_order_that_loses_numbers_is_warned_of(tmp_path):
    pruning = keras_swd.PruningScheduler(SPARSITY)
    summaries = keras_swd.PruningSummaries(tmp_path, pruning)
    model = network(keras_swd.SelectiveWeightDecay())
    with pytest.warns(UserWarning, match="comes before its scheduler"):
        fit(model, summaries, pruning)


# Properties -----------------------------------------------------------------

kernels = arrays.arrays(
    "float32",
    arrays.array_shapes(max_dims=3, max_side=6),
    elements=st.floats(width=32),
)


@given(kernels, st.randoms(use_true_random=False))
def test_every_entry_is_counted_once(values, random):
    mask = np.array([random.random() < 0.5 for _ in values.flat])
    mask = mask.reshape(values.shape)
    state = kernel_state("kernel", values, mask)
    odd = int(np.sum(~np.isfinite(values)))
    assert state.size == values.size == state.zeros + sum(state.counts) + odd
    assert state.sparsity == pytest.approx(1.0 - mask.mean())
    if state.counts:
        assert state.counts[0] > 0
        assert state.counts[-1] > 0


@given(
    st.lists(
        st.dictionaries(
            st.text(), st.none() | st.floats(allow_nan=False, width=32)
        ).filter(lambda d: not any(v in (np.inf, -np.inf) for v in d.values())),
        min_size=1,
        max_size=5,
    ),
    kernels,
    st.text(),
)
def test_a_record_is_read_as_it_was_written(
    tmp_path_factory, logs, values, path
):
    folder = tmp_path_factory.mktemp("record")
    state = kernel_state(path, values, values > 0)
    written = RunRecord(
        SETTINGS, tuple(Epoch(i, x, (state,)) for i, x in enumerate(logs))
    )
    written.write(folder)
    assert history.read_record(folder) == written
    assert written.until(1).epochs == written.epochs[:1]
