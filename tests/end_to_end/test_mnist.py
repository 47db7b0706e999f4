"""From real images to a TFLite file, with a small budget."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_swd
from keras_swd import PruningScheduler, SelectiveWeightDecay

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

ROOT = pathlib.Path(__file__).parents[2]
PRUNABLE = 61_470  # kernels of LeNet-5, which has 61,706 parameters


@pytest.fixture(scope="module")
def mnist(data_dir):
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = data_dir / "tensorflow_datasets"

    def load(split):
        loaded = tfds.load(
            "mnist", split=split, data_dir=folder, download=False, batch_size=-1
        )
        images, labels = tfds.as_numpy((loaded["image"], loaded["label"]))
        return ((images / 255.0 - 0.1307) / 0.3081).astype("float32"), labels

    return load("train[:20000]"), load("test[:4000]")


def lenet5(swd):
    layers = keras.layers
    pruned = {"activation": "relu", "kernel_regularizer": swd}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", **pruned),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, **pruned),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, **pruned),
            layers.Dense(84, **pruned),
            layers.Dense(10, kernel_regularizer=swd),
        ]
    )


def test_train_remove_strip_export(mnist, tmp_path):
    train, test = mnist
    model = lenet5(SelectiveWeightDecay())
    epochs, steps = 4, 157
    hold = int(0.7 * epochs * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.05, epochs * steps - hold, warmup_target=0.05, warmup_steps=hold
    )
    model.compile(
        keras.optimizers.SGD(rate, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        *train,
        batch_size=128,
        epochs=epochs,
        verbose=0,
        validation_data=test,
        callbacks=[PruningScheduler(0.9, monitor_data=test)],
    ).history
    before = history["val_accuracy"][-1]
    after = model.evaluate(*test, verbose=0)[1]
    assert before > 0.95
    assert abs(before - after) < 0.01
    assert history["accuracy_if_removed"][-1] == pytest.approx(after, abs=1e-6)
    # Early in the run removal would have cost a lot: it is the decay that
    # makes it free.
    assert history["accuracy_if_removed"][0] < history["val_accuracy"][0]

    sparse = keras_swd.strip(model)
    zeros = sum(np.count_nonzero(w == 0) for w in sparse.get_weights()[::2])
    assert zeros == round(0.9 * PRUNABLE)

    path = tmp_path / "lenet5.tflite"
    report = keras_swd.export.to_tflite(sparse, path, check_with=test[0][:256])
    dense = keras_swd.export.to_tflite(
        sparse, tmp_path / "dense.tflite", sparse=False
    )
    assert report.sparse
    assert report.bytes == path.stat().st_size
    assert report.bytes < 0.25 * dense.bytes
    assert report.top1_agreement == 1.0
    assert report.zeros >= zeros


def run_example(name, *arguments):
    subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        check=True,
        capture_output=True,
    )


def test_the_examples_prune_and_export(data_dir, tmp_path):
    data = ("--data-dir", data_dir / "tensorflow_datasets")
    model, figures = tmp_path / "m.keras", tmp_path / "result.json"
    run_example(
        "lenet5_mnist.py",
        *data,
        *("--epochs", "1"),
        *("--sparsity", "0.9"),
        *("--out", model),
        *("--json", figures),
    )
    result = json.loads(figures.read_text())
    assert result["epochs"] == 1
    assert result["accuracy"] > 0.93
    assert abs(result["accuracy"] - result["accuracy_before_removal"]) < 0.03

    run_example(
        "export_lenet5.py",
        model,
        *data,
        *("--out", tmp_path / "files"),
        *("--json", figures),
    )
    result = json.loads(figures.read_text())
    assert result.pop("keras")["accuracy"] > 0.93
    accuracy = result["float32"]["accuracy"]
    assert set(result) == {"float32", "float16", "dynamic", "int8", "int16x8"}
    for file in result.values():
        # On all 10,000 test images.
        assert abs(file["accuracy"] - accuracy) < 0.005
        assert file["zeros"] >= file["model_zeros"]
    assert result["int8"]["bytes"] < 0.35 * 4 * PRUNABLE


def test_the_example_compares_methods(data_dir, tmp_path):
    def compare(*methods):
        run_example(
            "compare_methods.py",
            *("--data-dir", data_dir / "tensorflow_datasets"),
            *("--epochs", "1"),
            *("--seeds", "1"),
            *("--sparsities", "0.9"),
            *("--methods", *methods),
            *("--folder", tmp_path / "cells"),
            *("--json", tmp_path / "found.json"),
            *("--plot", tmp_path / "found.png"),
        )
        return json.loads((tmp_path / "found.json").read_text())

    (cell,) = compare("dense")["cells"]
    found = compare("dense", "IrrelevantWeights", "tfmot")
    assert found["cells"][0] == cell
    assert found["failures"] == []
    for row in found["rows"]:
        # Each of tfmot's kernels is rounded by itself.
        assert row["reached"] == pytest.approx(row["sparsity"], abs=1e-3)
        assert row["mean"] > 0.93
    assert (tmp_path / "found.png").exists()
