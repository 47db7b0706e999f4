"""The benchmark of exported files: its tables and its counting of bytes."""

import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    """The program `benchmarks/export.py` as a module."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not part of this checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        path = FOLDER / "export.py"
        spec = importlib.util.spec_from_file_location("bench_export", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


CELL = {
    "network": "lenet5",
    "sparsity": 0.9,
    "limits": {"32": 2048, "16": 1024, "8": 1024},
    "files": [
        {
            "quantization": None,
            "sparse": False,
            "bytes": 10240,
            "gzip_bytes": 5120,
            "graph_bytes": 4096,
            "graph_gzip_bytes": 1024,
            "latency": 1.0,
            "predicted_bytes": 10342,
            "predicted_gzip_bytes": 5120,
        },
        {
            "quantization": "int8",
            "sparse": True,
            "refused": "No file was written. sparse: It is a | b. Try another.",
        },
    ],
}


def test_a_table_shows_sizes_limits_and_refusals(benchmark):
    lines = benchmark.table(CELL).splitlines()
    assert lines[2] == (
        "| float32 | stored | 10.0 | 5.0 | 4.0 | 3.00 | 2.00 | 1.00 |"
    )
    assert lines[3].startswith("| int8 | left out | refused: It is a / b |")
    # A bar in a message would add a column.
    assert {line.count("|") for line in lines} == {9}


def test_the_load_of_the_machine_is_told_where_it_is_known(benchmark):
    assert "load was not recorded" in benchmark.conditions(CELL)
    known = CELL | {"cores": 2, "load": [1.25, 5.9]}
    assert "2 cores at a load average of 1.2 before and 5.9 after" in (
        benchmark.conditions(known)
    )


def test_predictions_can_be_made_again(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "CELLS", tmp_path)
    path = benchmark.path_of("lenet5", 0.9)
    path.write_text(json.dumps(CELL))
    benchmark.predict_again(None, "lenet5")
    cell = json.loads(path.read_text())
    measured, refused = cell["files"]
    # LeNet-5 has 61,470 weights in kernels and 236 in biases.
    assert 4 * 61706 < measured["predicted_bytes"] < 4 * 61706 + 8192
    assert measured["predicted_gzip_bytes"] < measured["predicted_bytes"] / 5
    assert refused == CELL["files"][1]
    unchanged = {k: v for k, v in measured.items() if "predicted" not in k}
    assert unchanged.items() <= CELL["files"][0].items()


def test_predictions_are_shown_as_differences(benchmark):
    assert benchmark.predictions([CELL]).splitlines()[2:] == [
        "| lenet5 | 90% | float32 | plain | +1.0% | +0.0% |"
    ]


def test_tables_are_made_from_the_cells_that_are_there(
    benchmark, tmp_path, monkeypatch
):
    monkeypatch.setattr(benchmark, "CELLS", tmp_path)
    benchmark.path_of("lenet5", 0.9).write_text(json.dumps(CELL))
    document = tmp_path / "export.md"
    document.write_text(
        "before\n<!-- lenet5 0.9 -->\n\nold\n\n<!-- end -->\n"
        "<!-- lenet5 0.5 -->\n\nkept\n\n<!-- end -->\nafter\n"
    )
    benchmark.write(document)
    text = document.read_text()
    assert "old" not in text
    assert "| float32 | stored | 10.0 |" in text
    assert "kept" in text
    assert (text[:7], text[-6:]) == ("before\n", "after\n")
    benchmark.write(document)
    assert document.read_text() == text


def test_cells_that_are_there_are_not_made_again(
    benchmark, tmp_path, monkeypatch
):
    made = []

    def make_cell(network, sparsity, data_dir):
        made.append((network, sparsity))
        return CELL

    monkeypatch.setattr(benchmark, "CELLS", tmp_path)
    monkeypatch.setattr(benchmark, "make_cell", make_cell)
    benchmark.path_of("lenet5", 0.9).write_text("{}")
    benchmark.make_missing(None, "lenet5")
    assert made == [("lenet5", s) for s in (0.5, 0.8, 0.95, 0.98)]
    assert not list(tmp_path.glob("*.partial"))


def test_a_pruned_network_has_the_zeros_asked_for(benchmark):
    model, samples = benchmark.pruned("lenet5", 0.9)
    assert benchmark.present_sparsity(model) == pytest.approx(0.9, abs=1e-4)
    assert samples.shape == (64, 28, 28, 1)
    biases = [w for w in model.weights if len(w.shape) == 1]
    assert all(np.all(keras.ops.convert_to_numpy(b) > 0) for b in biases)


@pytest.mark.tensorflow
@pytest.mark.parametrize("sparse", [False, True])
def test_the_bytes_of_kernels_and_graph_add_up(benchmark, sparse, tmp_path):
    from keras_swd.export import to_tflite

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)])
    kernel = np.eye(64, 32, dtype="float32")
    random = np.random.default_rng(0)
    kernel[:, 0] = kernel[3] = random.normal()
    model.set_weights([kernel, np.ones(32)])
    path = tmp_path / "model.tflite"
    to_tflite(model, path, sparse=sparse)
    content = path.read_bytes()
    spans = list(benchmark.kernel_spans(content))
    if sparse:
        # Stored in blocks of four inputs: entries, starts of rows, places.
        blocks = np.sum(kernel.T.reshape(32, 16, 4).any(axis=-1))
        expected = [16 * blocks, 33, blocks]
        assert [length for _, length in spans] == expected
    else:
        ((start, length),) = spans
        stored = np.frombuffer(content[start : start + length], "float32")
        np.testing.assert_array_equal(stored.reshape(32, 64), kernel.T)
    graph, graph_gzip = benchmark.graph_sizes(content)
    assert graph == len(content) - sum(length for _, length in spans)
    assert 0.3 * graph < graph_gzip < graph
