"""The front of metric and size, and the models that a run keeps."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_swd
from keras_swd import ParetoCheckpoint, SelectiveWeightDecay
from keras_swd.tradeoffs.front import ParetoFront, ParetoPoint

layers = keras.layers
EMPTY = ParetoFront("accuracy", "max", "float32 file")

POINTS = st.lists(
    st.builds(
        ParetoPoint,
        epoch=st.integers(1, 99),
        sparsity=st.just(0.5),
        value=st.sampled_from([0.1, 0.2, 0.5, 0.9]) | st.floats(0.0, 1.0),
        bytes=st.integers(1_000, 1_200) | st.integers(1, 10**7),
        file=st.text("abc"),
    ),
    max_size=30,
)


# The front -------------------------------------------------------------------


@given(POINTS, st.sampled_from(["max", "min"]))
def test_it_is_the_set_that_nothing_dominates(points, mode):
    sign = 1.0 if mode == "max" else -1.0
    pairs = {(sign * p.value, -p.size_class) for p in points}
    expected = {
        p
        for p in pairs
        if not any(
            q[0] >= p[0] and q[1] >= p[1] and q != p  # better, or smaller
            for q in pairs
        )
    }
    front = ParetoFront("a", mode, "file").with_points(points)
    found = [(sign * p.value, -p.size_class) for p in front.points]
    assert len(found) == len(set(found))
    assert set(found) == expected
    sizes = [p.bytes for p in front.points]
    assert sizes == sorted(sizes)
    # The earliest of equal points.
    for point in front.points:
        equal = [
            p
            for p in points
            if (p.value, p.size_class) == (point.value, point.size_class)
        ]
        assert point == equal[0]


@given(POINTS)
def test_points_added_one_by_one_make_the_same_front(points):
    front = EMPTY
    for point in points:
        front = front.with_points([point])
    assert front == EMPTY.with_points(points)
    assert front.with_points(points) == front


def test_sizes_within_two_percent_count_as_equal():
    small = ParetoPoint(1, 0.9, 0.10, 20_000, "early.keras")
    good = ParetoPoint(2, 0.9, 0.95, 20_010, "late.keras")
    assert EMPTY.with_points([small, good]).points == (good,)


def test_what_diverged_has_no_place():
    nan = ParetoPoint(1, 0.9, float("nan"), 10, "a.keras")
    assert EMPTY.with_points([nan]).points == ()


def test_it_is_a_table_json_and_a_picture(tmp_path):
    points = [
        ParetoPoint(1, 0.9, 0.75, 10_240, "a.keras"),
        ParetoPoint(2, 0.5, 0.95, 40_960, "b.keras"),
    ]
    front = EMPTY.with_points(points)
    lines = str(front).splitlines()
    assert lines[0] == "Predicted sizes of the float32 file"
    assert lines[-2].split() == ["10.0", "0.7500", "90%", "1", "a.keras"]
    front.to_json(tmp_path / "front.json")
    assert ParetoFront.read(tmp_path / "front.json") == front
    front.plot(tmp_path / "front.png")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no points"):
        EMPTY.plot(tmp_path / "front.png")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"points": [1]}'])
def test_a_file_that_tells_no_front_is_refused(tmp_path, text):
    (tmp_path / "front.json").write_text(text)
    with pytest.raises(ValueError, match="must name a file that a front"):
        ParetoFront.read(tmp_path / "front.json")


# The callback ----------------------------------------------------------------


def data():
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 20)).astype("float32")
    return x, x @ random.normal(size=(20, 30)).astype("float32")


def small(regularizer=None):
    keras.utils.set_random_seed(0)
    regularizer = regularizer or SelectiveWeightDecay()
    model = keras.Sequential(
        [
            keras.Input((20,)),
            layers.Dense(30, kernel_regularizer=regularizer),
            layers.Dense(30, kernel_regularizer=regularizer),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    return model


def train(model, *callbacks, epochs=3, **arguments):
    # On PyTorch each evaluation draws from the numbers that shuffle.
    model.fit(
        *data(),
        batch_size=16,
        verbose=0,
        epochs=epochs,
        shuffle=False,
        callbacks=list(callbacks),
        **arguments,
    )


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_folder_holds_the_front_and_training_is_untouched(tmp_path):
    model, twin = small(), small()
    (tmp_path / "mine.txt").write_text("stays")
    checkpoint = ParetoCheckpoint(tmp_path, data(), [0.5, 0.9])
    train(model, checkpoint)
    train(twin)
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)

    front = checkpoint.front
    assert (front.metric, front.mode) == ("mae", "min")
    assert front == ParetoFront.read(tmp_path / "front.json")
    files = {point.file for point in front.points}
    assert names(tmp_path) == files | {"front.json", "mine.txt"}
    assert {point.sparsity for point in front.points} == {0.5, 0.9}
    for point in front.points:
        kept = checkpoint.load(point)
        report = keras_swd.sparsity_report(kept)
        zeros = sum(kernel.zeros for kernel in report.kernels)
        assert zeros == round(point.sparsity * 1_500)
        assert not any(kernel.prunable for kernel in report.kernels)
        kept.compile(loss="mse", metrics=["mae"])
        value = kept.evaluate(*data(), verbose=0)[1]
        assert value == pytest.approx(point.value, rel=1e-5)
        predicted = checkpoint.kind.predictor(kept)({})
        assert point.bytes == pytest.approx(predicted, rel=0.01)


@pytest.mark.slow
def test_another_run_adds_to_the_front(tmp_path, monkeypatch):
    # Predicted sizes differ a little from epoch to epoch, by more or by less
    # than counts as equal; these do not.
    monkeypatch.setattr(
        ParetoCheckpoint,
        "_predicted",
        lambda self, weights, masks: sum(int(mask.sum()) for mask in masks),
    )
    first = ParetoCheckpoint(tmp_path, data(), [0.5])
    model = small()
    train(model, first, epochs=1)
    (before,) = first.front.points
    second = ParetoCheckpoint(tmp_path, data(), [0.5, 0.9])
    train(model, second, epochs=3, initial_epoch=1)
    # The same size at more training is better, and replaces the file.
    assert before.file not in names(tmp_path)
    assert [p.sparsity for p in second.front.points] == [0.9, 0.5]
    assert all(point.epoch > 1 for point in second.front.points)
    # A worse run changes nothing, and takes no other's file.
    third = ParetoCheckpoint(tmp_path, data(), [0.5, 0.9])
    held = json.loads((tmp_path / "front.json").read_text())
    train(small(), third, epochs=1)
    assert third.front == second.front
    assert json.loads((tmp_path / "front.json").read_text()) == held


@pytest.mark.slow
def test_files_of_equal_names_do_not_meet(tmp_path):
    checkpoint = ParetoCheckpoint(tmp_path, data(), [0.5])
    (tmp_path / "epoch-0001-zeros-0.5.keras").write_text("another's")
    train(small(), checkpoint, epochs=1)
    (point,) = checkpoint.front.points
    assert point.file == "epoch-0001-zeros-0.5-2.keras"


def test_a_model_that_cannot_be_saved_leaves_no_file(tmp_path, monkeypatch):
    model = small()

    def no_space(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr("keras_swd.tradeoffs.checkpoint.os.replace", no_space)
    checkpoint = ParetoCheckpoint(tmp_path, data(), [0.9])
    with pytest.raises(OSError, match="No space left"):
        train(model, checkpoint, epochs=1)
    assert names(tmp_path) == set()
    assert np.count_nonzero(model.get_weights()[0]) == 600


def test_a_folder_of_another_kind_is_refused(tmp_path):
    EMPTY.to_json(tmp_path / "front.json")
    checkpoint = ParetoCheckpoint(tmp_path, data(), [0.5])
    with pytest.raises(ValueError, match="Name another folder"):
        train(small(), checkpoint, epochs=1)
    for arguments in ({"metric": "mae"}, {"mode": "min"}, {"gzip": True}):
        checkpoint = ParetoCheckpoint(tmp_path, data(), [0.5], **arguments)
        checkpoint.set_model(small())
        with pytest.raises(ValueError, match="Name another folder"):
            checkpoint.on_train_begin()
    (tmp_path / "front.json").write_text("{")
    with pytest.raises(ValueError, match=r"`folder` holds 'front\.json'"):
        checkpoint.on_train_begin()


def test_what_was_removed_before_counts_as_zeros(tmp_path):
    model = small()
    keras_swd.remove(model, 0.8)
    before = model.get_weights()
    checkpoint = ParetoCheckpoint(tmp_path, data(), [0.5, 0.6, 0.9], mode="min")
    checkpoint.set_model(model)
    evaluated = []
    model.evaluate = lambda *arguments, **options: (
        evaluated.append(None) or {"mae": 1.0 - len(evaluated) / 8, "loss": 1.0}
    )
    checkpoint.on_train_begin()
    checkpoint.on_epoch_end(0)
    assert len(evaluated) == 2
    assert {p.sparsity for p in checkpoint.front.points} <= {0.8, 0.9}
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_zeros_that_a_method_hides_are_not_those_of_the_file(tmp_path):
    model = small(keras_swd.AdaptiveSparsity())
    model.optimizer = None
    optimizer = keras_swd.with_pruning(keras.optimizers.SGD(0.01))
    model.compile(optimizer, "mse", metrics=["mae"])
    checkpoint = ParetoCheckpoint(tmp_path, data(), [0.5, 0.8], mode="min")
    train(model, keras_swd.PruningScheduler(0.9), checkpoint)
    assert {p.sparsity for p in checkpoint.front.points} <= {0.5, 0.8}
    for point in checkpoint.front.points:
        saved = checkpoint.load(point)
        found = keras_swd.sparsity_report(saved).prunable.sparsity
        assert found == pytest.approx(point.sparsity, abs=0.01)


def test_what_cannot_be_foreseen_is_refused_before_training(tmp_path):
    coupled = keras_swd.CoupledChannels(kernels=True)
    model = small(SelectiveWeightDecay(granularity=coupled))
    with pytest.raises(ValueError, match="coupled channels"):
        train(model, ParetoCheckpoint(tmp_path, data()))
    plain = keras_swd.strip(small())
    with pytest.raises(ValueError, match="pruning regularizer"):
        train(plain, ParetoCheckpoint(tmp_path, data()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folder": "missing/front"}, "within an existing one"),
        ({"sparsities": []}, "Argument `sparsities` must hold"),
        ({"quantization": "int8"}, "stores every zero"),
        ({"mode": "best"}, "`mode` must be 'auto', 'max' or 'min'"),
        ({"allocation": "lamp"}, "`allocation` must be a keras_swd allocation"),
        ({"data": iter([data()])}, "which an iterator cannot be"),
    ],
)
def test_wrong_arguments_are_told(tmp_path, arguments, words):
    arguments = {"folder": tmp_path, "data": data(), **arguments}
    with pytest.raises(ValueError, match=words):
        ParetoCheckpoint(**arguments)
