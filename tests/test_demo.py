import io
import json
import math
import shutil

import keras
import numpy as np
import pytest
from rich.console import Console

from keras_swd import report
from keras_swd.demo import run_demo, running, training
from keras_swd.demo.folder import whole_folder
from keras_swd.export.tflite.flatbuffer import stored_tensors
from keras_swd.run_report import write_page
from keras_swd.summaries.history import read_record

pytestmark = pytest.mark.tensorflow

# Two convolutions of 3 × 3, 1 to 24 to 48 channels, then 4 * 4 * 48 to 48 to
# 10 units.
KERNELS = 9 * 24 + 9 * 24 * 48 + 768 * 48 + 480
BIASES = 24 + 48 + 48 + 10
REMOVED = round(0.95 * KERNELS)


def run(folder, **options):
    stream = io.StringIO()
    console = Console(file=stream, width=80, highlight=False)
    result = run_demo(folder, console=console, **options)
    return result, stream.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder, the record and the output of a short demo."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    return folder, *run(folder, epochs=2, seed=3)


def test_all_files_are_written_and_nothing_else(finished):
    folder, _, _ = finished
    assert sorted(p.name for p in folder.iterdir()) == sorted(running.FILES)
    assert [p.name for p in folder.parent.iterdir()] == ["out"]


def test_the_rows_count_parameters_and_bytes(finished):
    folder, result, _ = finished
    rows = {row.name: row for row in result.rows}
    assert list(rows) == [
        "Dense baseline",
        "SWD, before removal",
        "SWD, after removal",
        "TFLite, all weights",
        "TFLite, zeros left out",
    ]
    assert {row.parameters for row in result.rows} == {KERNELS + BIASES}
    assert rows["Dense baseline"].nonzeros >= KERNELS
    for name in list(rows)[2:]:
        assert KERNELS - REMOVED <= rows[name].nonzeros
        assert rows[name].nonzeros <= KERNELS - REMOVED + BIASES
    after, last = result.rows[2], result.rows[-1]
    # Sizes of .keras files differ by a few bytes, for names in them.
    size = (folder / "model.keras").stat().st_size
    assert after.bytes == pytest.approx(size, abs=100)
    assert last.bytes == (folder / "model.tflite").stat().st_size
    assert after.gzip_bytes < 0.2 * after.bytes
    assert last.bytes < 0.2 * result.rows[-2].bytes


def test_the_accuracy_is_that_of_the_files(finished):
    folder, result, _ = finished
    _, _, images, labels = training.digits(seed=3)
    model = keras.saving.load_model(folder / "model.keras")
    logits = model.predict(images, verbose=0)
    right = np.mean(np.argmax(logits, axis=-1) == labels)
    assert result.rows[2].accuracy == pytest.approx(right)
    for row in result.rows[3:]:
        assert row.accuracy == pytest.approx(right, abs=2 / len(labels))


def test_the_pruned_model_holds_exact_zeros(finished):
    folder, result, _ = finished
    assert result.sparsity.prunable == report.Totals(KERNELS, REMOVED)
    model = keras.saving.load_model(folder / "model.keras")
    assert report.sparsity_report(model).prunable.zeros == REMOVED
    tensors = stored_tensors((folder / "model.tflite").read_bytes())
    assert sum(t.zeros for t in tensors if t.is_weight) == REMOVED


def test_the_json_holds_the_rows_and_the_layers(finished, tmp_path):
    folder, result, _ = finished
    record = json.loads((folder / "report.json").read_text())
    assert record == json.loads(result.to_json(tmp_path / "copy.json"))
    assert (tmp_path / "copy.json").read_text() == result.to_json()
    assert [row["name"] for row in record["rows"]] == [
        row.name for row in result.rows
    ]
    assert record["sparsity"]["prunable"]["zeros"] == REMOVED
    assert record["settings"]["seed"] == 3
    assert record["tflite"]["path"] == str(folder / "model.tflite")


def test_the_output_fits_the_screen_and_names_the_files(finished):
    folder, result, output = finished
    table = output[output.index("model  ") : output.index("Removed:")]
    assert max(map(len, table.splitlines())) <= 80
    for row in result.rows:
        (line,) = [x for x in table.splitlines() if row.name in x]
        assert f"{row.accuracy:.2%}" in line
        assert f"{row.bytes:,}" in line
    assert "residual" in output
    assert f"{REMOVED:,} of {KERNELS:,} kernel weights (95.00%)" in output
    for name in ("model.keras", "model.tflite", "report.json", "sparsity.png"):
        assert name in output
    assert f"keras-swd inspect {folder / 'model.keras'}" in output


def test_the_folder_makes_a_page_that_a_later_demo_replaces(finished, tmp_path):
    folder, result, _ = finished
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    write_page(copy, copy / running.PAGE)
    page = (copy / running.PAGE).read_text()
    for row in result.rows:
        assert row.name in page
        assert f"{row.accuracy:.2%}" in page
    for kernel in result.sparsity.kernels:
        assert page.count(f"/{kernel.path}</th>") == 1
        assert page.count(f"/{kernel.path}</h3>") == 1
    size = (folder / "model.tflite").stat().st_size
    assert f">{size:,}<" in page
    with whole_folder(copy, running.FILES, [running.PAGE]) as work:
        (work / "model.keras").write_text("new")
    assert [p.name for p in copy.iterdir()] == ["model.keras"]


def test_the_record_is_that_of_the_pruned_run(finished):
    folder, result, _ = finished
    record = read_record(folder)
    assert [epoch.epoch for epoch in record.epochs] == [0, 1]
    assert record.settings["given"]["seed"] == 3
    assert record.end["prunable"]["zeros"] == REMOVED
    assert len(record.epochs[-1].kernels) == len(result.sparsity.kernels)


def test_warnings_become_notes(finished):
    # Two epochs are too few, and the scheduler says so.
    _, result, output = finished
    assert any("until removal" in note for note in result.notes)
    text = " ".join(output.split())
    for note in result.notes:
        assert f"Note: {note}" in text


# The folder -----------------------------------------------------------------


@pytest.fixture
def no_training(monkeypatch):
    """Replaces the demo by one that writes a file."""

    def write(work, *_):
        (work / "model.keras").write_text("new")
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_run", write)


def test_an_interrupted_demo_leaves_nothing(tmp_path, no_training):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_demo_keeps_the_earlier_one(tmp_path, no_training):
    (tmp_path / "out").mkdir()
    for name in running.FILES:
        (tmp_path / "out" / name).write_text("old")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    assert (tmp_path / "out" / "model.keras").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_earlier_demo_is_replaced_as_a_whole(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in running.FILES:
        (out / name).write_text("old")
    with whole_folder(out, running.FILES) as work:
        (work / "model.keras").write_text("new")
    assert [p.name for p in out.iterdir()] == ["model.keras"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with whole_folder(tmp_path / "link", running.FILES) as work:
        (work / "model.keras").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.keras").read_text() == "new"


def test_a_folder_with_other_files_is_refused(tmp_path, no_training):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds 'thesis\.txt' too"):
        run(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_run_of_ones_own_is_not_taken_for_a_demo(tmp_path, no_training):
    for name in ("model.keras", "pruning.json", "tensorboard"):
        (tmp_path / name).write_text("a week of work")
    with pytest.raises(ValueError, match=r"lacks 'model\.tflite'"):
        run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_files_that_appear_meanwhile_are_kept(tmp_path):
    out = tmp_path / "out"

    def work_while_another_writes():
        with whole_folder(out, running.FILES) as work:
            (work / "model.keras").write_text("new")
            out.mkdir()
            (out / "new.txt").write_text("mine")

    with pytest.raises(ValueError, match=r"holds 'new\.txt'"):
        work_while_another_writes()
    assert (out / "new.txt").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["missing/out", "file", "."])
def test_a_place_that_cannot_be_is_refused(
    tmp_path, monkeypatch, name, no_training
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder='"):
        run(name)


@pytest.mark.parametrize("missing", ["sklearn", "ai_edge_litert"])
def test_a_missing_package_is_named_before_training(
    tmp_path, monkeypatch, missing
):
    def find(name):
        return None if name == missing else name

    monkeypatch.setattr(running.importlib.util, "find_spec", find)
    with pytest.raises(ImportError, match=r"pip install 'keras_swd\[demo"):
        run(tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_another_backend_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ValueError, match=r"KERAS_BACKEND=tensorflow.*'jax'"):
        run(tmp_path / "out")
    assert not list(tmp_path.iterdir())


# Training -------------------------------------------------------------------


def test_the_digits_are_split_without_overlap_or_loss():
    images, labels, test_images, test_labels = training.digits(seed=0)
    assert (len(images), len(test_images)) == (1348, 449)
    everything = np.concatenate([images, test_images])
    assert everything.shape == (1797, 8, 8, 1)
    assert (everything.min(), everything.max()) == (0.0, 1.0)
    assert len(labels) + len(test_labels) == 1797
    again, _, _, _ = training.digits(seed=0)
    other, _, _, _ = training.digits(seed=1)
    assert (again == images).all()
    assert not (other == images).all()


def test_both_networks_start_from_the_same_weights():
    first = training.network(lambda: None, seed=5)
    second = training.network(lambda: keras.regularizers.L2(0.1), seed=5)
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert (a == b).all()
    assert first.count_params() == KERNELS + BIASES


def test_the_learning_rate_is_held_then_falls_to_zero():
    rates = []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    training.fit(model, np.ones((4, 2)), np.ones((4, 1)), 10, [Record()])
    assert rates[:8] == pytest.approx([training.LEARNING_RATE] * 8)
    thirds = [(1 + math.cos(math.pi * i / 3)) / 2 for i in (1, 2)]
    assert rates[8:] == pytest.approx(
        [training.LEARNING_RATE * t for t in thirds]
    )


@pytest.mark.slow
def test_the_demo_as_a_newcomer_runs_it(tmp_path):
    result, output = run(tmp_path / "out")
    assert result.notes == ()
    assert "Note:" not in output
    dense, before, after, *tflite = [row.accuracy for row in result.rows]
    assert dense > 0.95
    # Removal costs next to nothing, and neither does all of pruning.
    assert after == pytest.approx(before, abs=0.01)
    assert after > dense - 0.03
    assert tflite == pytest.approx([after, after], abs=0.005)
