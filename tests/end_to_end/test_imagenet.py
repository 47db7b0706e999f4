"""The ImageNet example, on a few small images in the same layout."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest

import keras_swd

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

ROOT = pathlib.Path(__file__).parents[2]
EPOCHS, CLASSES = 3, 5
#: Devices are set before TensorFlow starts.
ON_TWO_DEVICES = """
    import runpy, sys

    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of tfds with JPEG files of many sizes, and labels."""
    tfds = pytest.importorskip("tensorflow_datasets")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=CLASSES),
            "file_name": tfds.features.Text(),
        }
    )
    folder = tmp_path_factory.mktemp("tfds")
    place = folder / "small_images" / "1.0.0"
    place.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        "small_images", tfds.core.Version("1.0.0"), str(place), __name__
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, features=features),
        max_examples_per_shard=8,
    )
    splits = {"train": 12, "validation": 6}
    writer.initialize_splits(list(splits))
    random = np.random.default_rng(0)
    for split, count in splits.items():
        for i in range(count):
            size = (*random.integers(40, 90, 2), 3)
            image = random.integers(0, 256, size, "uint8")
            name = f"{i}.JPEG"
            example = {"image": image, "label": i % CLASSES, "file_name": name}
            writer.add_examples({split: [example]})
    writer.close_all()
    return folder


def start(images, folder, epochs=EPOCHS):
    command = [
        *(sys.executable, "-c", textwrap.dedent(ON_TWO_DEVICES)),
        ROOT / "examples" / "resnet50_imagenet.py",
        *("--data-dir", images),
        *("--dataset", "small_images"),
        *("--folder", folder),
        *("--epochs", str(epochs)),
        *("--steps", "2"),
        *("--batch", "4"),
        *("--size", "32"),
        *("--smoothing", "0.1"),
        "--mixed",
        *("--json", folder / "result.json"),
    ]
    with open(folder / "output", "a") as output:
        return subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def epochs(folder):
    """The epochs that the log has, in its order."""
    if not (folder / "log.csv").is_file():
        return []
    with open(folder / "log.csv", newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def finish(images, folder, epochs=EPOCHS):
    """What a run writes that is left to end."""
    with start(images, folder, epochs) as process:
        try:
            code = process.wait(timeout=600)
        finally:
            process.kill()
    assert code == 0, (folder / "output").read_text()
    return json.loads((folder / "result.json").read_text())


def test_a_killed_run_goes_on_and_prunes_on_two_devices(images, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with start(images, folder) as process:
        try:
            end = time.monotonic() + 600
            while not epochs(folder) and time.monotonic() < end:
                assert process.poll() is None, (folder / "output").read_text()
                time.sleep(0.1)
        finally:
            process.kill()
    done = epochs(folder)
    assert done in ([0], [0, 1])
    assert not (folder / "model.keras").exists()
    killed_late = tmp_path / "killed_late"
    shutil.copytree(folder, killed_late)

    result = finish(images, folder)
    # No epoch was repeated, and none left out.
    assert epochs(folder) == list(range(EPOCHS))
    assert result["devices"] == 2
    # After six steps the moving statistics normalize nothing yet: outputs may
    # overflow, so a first place need not be among the first five.
    assert 0.0 <= result["accuracy"] <= 1.0
    assert 0.0 <= result["top5"] <= 1.0
    assert_pruned(folder, result)

    # As if it had been killed when its last epoch had ended.
    result = finish(images, killed_late, epochs=len(done))
    assert epochs(killed_late) == done
    assert result["accuracy_before_removal"] is None
    assert_pruned(killed_late, result)


def assert_pruned(folder, result):
    model = keras.saving.load_model(folder / "model.keras", compile=False)
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    size = sum(w.size for w in kernels)
    zeros = sum(int(np.count_nonzero(w == 0.0)) for w in kernels)
    assert zeros == round(0.9 * size)
    assert result["sparsity_of_kernels"] == zeros / size
    assert keras_swd.sparsity_report(model).prunable.zeros == zeros
