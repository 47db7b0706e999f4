"""A graph network on Cora: trained, pruned, baked and run."""

import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_swd
from keras_swd import graphs

pytestmark = [pytest.mark.slow, pytest.mark.tensorflow]

ROOT = pathlib.Path(__file__).parents[2]
KERNELS = 1433 * 16 + 16 * 7


@pytest.fixture(scope="module")
def cora(data_dir):
    return graphs.load_cora(data_dir / "planetoid")


def train(cora, granularity=None, exclude=()):
    """Trains Kipf's network with 95 % of its units removed."""
    tf = pytest.importorskip("tensorflow")
    from spektral.utils.sparse import sp_matrix_to_sp_tensor

    keras.utils.set_random_seed(0)
    graph = cora[0]
    adjacency = graphs.layers.GCNConv.preprocess(graph.a)
    swd = keras_swd.SelectiveWeightDecay(2e-4, granularity=granularity)
    model = keras_swd.with_regularizer(
        graphs.gcn(graph.x.shape[1], graph.y.shape[1]), swd, exclude=exclude
    )
    rate = keras.optimizers.schedules.CosineDecay(
        0.05, decay_steps=20, warmup_target=0.05, warmup_steps=180
    )
    model.compile(
        keras.optimizers.Adam(rate),
        keras.losses.CategoricalCrossentropy(
            reduction="mean_with_sample_weight"
        ),
    )
    inputs = (graph.x, sp_matrix_to_sp_tensor(adjacency))
    batch = tf.data.Dataset.from_tensors((inputs, graph.y, cora.mask_tr))
    model.fit(
        batch,
        epochs=200,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras_swd.PruningScheduler(
                0.95, keras_swd.Exponential(0.1, 5e3, finish=0.6)
            )
        ],
    )
    output = model.predict(batch, verbose=0)
    right = output.argmax(axis=1) == graph.y.argmax(axis=1)
    return model, adjacency, output, right[cora.mask_te].mean()


def test_a_pruned_network_becomes_a_file(cora, tmp_path):
    model, adjacency, output, accuracy = train(cora)
    assert accuracy > 0.79
    kernels = model.get_weights()
    nonzeros = sum(np.count_nonzero(kernel) for kernel in kernels)
    assert nonzeros == KERNELS - round(0.95 * KERNELS)
    baked = graphs.bake(keras_swd.strip(model), adjacency)
    np.testing.assert_allclose(
        baked.predict(cora[0].x, batch_size=2708, verbose=0), output, atol=1e-5
    )
    report = keras_swd.export.to_tflite(
        baked, tmp_path / "gcn.tflite", check_with=cora[0].x
    )
    assert report.top1_agreement == 1.0
    assert report.bytes < 260_000


def test_whole_words_are_removed(cora):
    rows = keras_swd.Channel(axis=0)
    model, _, _, accuracy = train(cora, rows, exclude=["classes"])
    first, second = model.get_weights()
    words = np.count_nonzero(first.any(axis=1))
    assert words == 1433 - round(0.95 * 1433)
    assert second.all()
    assert accuracy > 0.72


def test_the_example_goes_on_where_it_stopped(data_dir, tmp_path):
    kept = tmp_path / "runs.json"
    command = [
        *(sys.executable, str(ROOT / "examples" / "gcn_cora.py")),
        *("--data-dir", str(data_dir / "planetoid")),
        *("--epochs", "4", "--seeds", "1", "--json", str(kept)),
    ]
    first = subprocess.run(command, check=True, capture_output=True, text=True)
    runs = json.loads(kept.read_text())["runs"]
    assert len(runs) == 1 + 6 * 3
    assert all(len(cells) == 1 for cells in runs.values())
    assert kept.with_suffix(".png").stat().st_size > 10_000
    # A made-up cell shows that what is there is not trained again.
    content = json.loads(kept.read_text())
    content["runs"]["SWD 0.5"] = [[0.123, 7]]
    del content["runs"]["SWD 0.9"]
    kept.write_text(json.dumps(content))
    second = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "SWD                    50%  accuracy 12.30%" in second.stdout
    line = next(
        li for li in first.stdout.splitlines() if "SWD" in li and "90%" in li
    )
    assert line in second.stdout
    other = subprocess.run(
        [*command, "--words"], check=False, capture_output=True, text=True
    )
    assert other.returncode == 2
    assert "holds runs with other settings" in other.stderr
