import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_swd
import keras_swd_cli as cli
from keras_swd.export.tflite.contents import inspect_tflite, short_name

layers = keras.layers


class Doubling(layers.Layer):
    """A layer that a file alone cannot bring back."""

    def call(self, inputs):
        return 2.0 * inputs


def network(*extra):
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(16, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(64, name="dense"),
            *extra,
        ],
        name="small",
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of models, good and bad."""
    folder = tmp_path_factory.mktemp("models")
    model = network()
    for layer in (model.get_layer("conv"), model.get_layer("dense")):
        values = np.ones(layer.kernel.shape, "float32")
        values.ravel()[: round(0.9 * values.size)] = 0.0
        layer.kernel.assign(values)
    model.save(folder / "good.keras")
    content = (folder / "good.keras").read_bytes()
    (folder / "cut.keras").write_bytes(content[: len(content) // 2])
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    (folder / "flipped.keras").write_bytes(flipped)
    (folder / "empty.keras").write_bytes(b"")
    (folder / "text.keras").write_text("no model")
    with zipfile.ZipFile(folder / "other.keras", "w") as archive:
        archive.writestr("letter.txt", "no model")
    (folder / "old.h5").write_bytes(b"\x89HDF")
    (folder / "text.tflite").write_text("no model")
    (folder / "damaged.tflite").write_bytes(b"\x00\x00\x00\xffTFL3" * 9)
    network(Doubling()).save(folder / "custom.keras")
    network(layers.Lambda(lambda x: 2.0 * x)).save(folder / "lambda.keras")
    unbuilt = keras.Sequential([layers.Dense(2)])
    with pytest.warns(UserWarning, match="not yet been built"):
        unbuilt.save(folder / "unbuilt.keras")
    (folder / "folder.keras").mkdir()
    return folder


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """Runs a command in a folder of its own, with the models in `m/`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").symlink_to(files)

    def invoke(line):
        return CliRunner().invoke(cli.main, line.split(), prog_name="keras-swd")

    return invoke


def written(folder):
    return sorted(p.name for p in Path(folder).iterdir() if p.name != "m")


# Help -----------------------------------------------------------------------


def test_help_names_the_commands_and_a_first_step(run):
    result = run("--help")
    assert result.exit_code == 0
    for word in ("demo", "inspect", "export", "    keras-swd demo\n"):
        assert word in result.output
    assert max(map(len, result.output.splitlines())) <= 80


@pytest.mark.parametrize("command", ["demo", "inspect", "export"])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help(run, command, option):
    result = run(f"{command} {option}")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: keras-swd {command}")


def test_version_is_that_of_the_package(run):
    result = run("--version")
    assert result.output == f"keras-swd, version {keras_swd.__version__}\n"


def test_the_module_itself_imports_nothing_heavy():
    origin = importlib.util.find_spec("keras_swd_cli").origin
    program = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='cli'); "
        "heavy = {'keras', 'numpy', 'tensorflow', 'rich'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program, origin], check=True)


# Errors ---------------------------------------------------------------------

BAD_INPUT = {
    "m/missing.keras": "does not exist",
    "m/folder.keras": "is a folder",
    "m/old.h5": "does not end in .keras",
    "m/text.keras": "is no .keras file",
    "m/empty.keras": "is no .keras file",
    "m/cut.keras": "is damaged or cut short",
    "m/flipped.keras": "cannot be read",
    "m/other.keras": "config.json",
    "m/custom.keras": "needs the custom object 'Doubling'",
    "m/lambda.keras": "Lambda",
    "m/unbuilt.keras": "before it had weights",
}
BAD_COMMANDS = {
    **{f"inspect {file}": why for file, why in BAD_INPUT.items()},
    **{f"export {f} --out x.tflite": why for f, why in BAD_INPUT.items()},
    "inspect m/text.tflite": "is no TFLite file",
    "export m/text.tflite --out x.tflite": "see keras-swd inspect",
    "inspect m/good.keras --json no/x.json": "folder no does not exist",
    "inspect m/good.keras --plot no/x.png": "folder no does not exist",
    "inspect m/good.keras --plot x.jpg": "must end in .png",
    "inspect m/good.keras --json m": "is a folder",
    "export m/good.keras --out no/x.tflite": "folder no does not exist",
    "export m/good.keras --out x.bin": "must end in .tflite",
    "demo --json no/x.json": "folder no does not exist",
}


def assert_one_line_error(result):
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert len(result.stderr) < 600


@pytest.mark.parametrize("command", BAD_COMMANDS)
def test_bad_input_gives_one_line_and_no_file(run, command, tmp_path):
    result = run(command)
    assert_one_line_error(result)
    assert BAD_COMMANDS[command] in result.stderr
    assert written(tmp_path) == []


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("no/x", "existing folder"),
        (".", "not the present folder"),
        ("m", "holds"),
    ],
)
def test_the_demo_is_refused_where_it_cannot_write(run, folder, why, tmp_path):
    result = run(f"demo --out {folder}")
    assert_one_line_error(result)
    assert why in result.stderr
    assert written(tmp_path) == []


def test_a_message_of_many_lines_becomes_one():
    assert cli.in_one_line(ValueError("two\n  lines\n")) == "two lines"
    assert cli.in_one_line(ValueError()) == "ValueError"
    assert len(cli.in_one_line(ValueError("word " * 999))) == 500
    missing = FileNotFoundError(2, "No such file", "x.json")
    assert cli.in_one_line(missing) == "x.json: No such file"


@pytest.mark.parametrize(
    "command",
    ["inspect", "export m/good.keras", "demo --epochs 0", "demo --seed -1"],
)
def test_wrong_usage_is_told_apart(run, command):
    result = run(command)
    assert result.exit_code == 2
    assert "Usage: keras-swd" in result.stderr


# Inspect --------------------------------------------------------------------


def test_inspect_prints_the_report(run, files, tmp_path):
    result = run("inspect m/good.keras")
    assert result.exit_code == 0, result.output
    report = keras_swd.sparsity_report(
        keras.saving.load_model(files / "good.keras")
    )
    assert result.stdout.startswith(report.table(80))
    # 0.9 of 3 * 3 * 2 * 16, and of 6 * 6 * 16 * 64.
    assert [k.zeros for k in report.kernels] == [259, 33178]
    size = (files / "good.keras").stat().st_size
    assert f"The file has {size:,} bytes" in result.stdout
    assert result.stderr == ""
    assert written(tmp_path) == []


@pytest.mark.tensorflow
def test_a_damaged_sparse_file_is_told_in_one_line(run, tmp_path):
    result = run("export m/good.keras --out x.tflite --sparse yes")
    assert result.exit_code == 0, result.output
    content = (tmp_path / "x.tflite").read_bytes()
    random = np.random.default_rng(0)
    ends = []
    for _ in range(80):
        damaged = bytearray(content)
        damaged[random.integers(8, len(content))] ^= 1 << random.integers(8)
        (tmp_path / "y.tflite").write_bytes(damaged)
        result = run("inspect y.tflite")
        ends.append((result.exit_code, result.stderr.count("\n")))
    assert set(ends) == {(0, 0), (1, 1)}


@pytest.mark.parametrize("command", ["inspect", "explain"])
def test_a_report_does_not_replace_the_model(run, files, command):
    before = (files / "good.keras").read_bytes()
    result = run(f"{command} m/good.keras --json m/./good.keras")
    assert result.exit_code == 1
    assert "this is the file that is read" in result.stderr
    assert (files / "good.keras").read_bytes() == before


def test_inspect_writes_json_and_a_picture(run, tmp_path):
    result = run("inspect m/good.keras --json x.json --plot x.png")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["total"]["zeros"] == 259 + 33178 + 16 + 64
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert written(tmp_path) == ["x.json", "x.png"]


def test_inspect_knows_models_that_are_still_being_pruned(run, tmp_path):
    swd = keras_swd.SelectiveWeightDecay()
    model = keras_swd.with_regularizer(network(), swd)
    keras_swd.remove(model, 0.5)
    model.save(tmp_path / "pruning.keras")
    result = run("inspect pruning.keras")
    assert result.exit_code == 0, result.output
    # Half of 288 + 36864.
    assert "prunable kernels" in result.stdout
    assert "18,576     50.00%" in result.stdout


# TFLite ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def tflite(files, tmp_path_factory):
    """The same model as a file without and with its zeros."""
    folder = tmp_path_factory.mktemp("tflite")
    for sparse in ("yes", "no", "auto"):
        result = CliRunner().invoke(
            cli.main,
            [
                "export",
                f"{files}/good.keras",
                "--out",
                f"{folder}/{sparse}.tflite",
                "--sparse",
                sparse,
            ],
        )
        assert result.exit_code == 0, result.output
        assert f"{sparse}.tflite" in result.stdout
        assert "tolerance" in result.stdout
    return folder


@pytest.mark.tensorflow
def test_export_writes_the_file_that_was_asked_for(tflite):
    sizes = {p.stem: p.stat().st_size for p in tflite.iterdir()}
    weights = 4 * (288 + 16 + 36864 + 64)
    assert sizes["no"] > weights
    assert sizes["yes"] < 0.3 * weights
    assert sizes["auto"] == sizes["yes"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["yes", "no"])
def test_inspect_shows_the_tensors_of_a_tflite_file(
    run, tflite, name, tmp_path
):
    result = run(f"inspect {tflite}/{name}.tflite --json x.json")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "x.json").read_text())
    kernels = {t["size"]: t for t in record["tensors"] if len(t["shape"]) > 1}
    assert {size: k["zeros"] for size, k in kernels.items()} == {
        288: 259,
        36864: 33178,
    }
    assert record["weights"] == {
        "size": 37152,
        "zeros": 33437,
        "nonzeros": 3715,
        "sparsity": 33437 / 37152,
    }
    for size, kernel in kernels.items():
        assert kernel["dtype"] == "float32"
        assert kernel["sparse"] == (name == "yes")
        left = size - kernel["zeros"]
        assert kernel["bytes"] == 4 * size or (
            name == "yes" and 4 * left < kernel["bytes"] < 4 * size
        )
    assert record["bytes"] == (tflite / f"{name}.tflite").stat().st_size
    assert f"'{name}.tflite'" in result.stdout
    assert ("sparse" in result.stdout) == (name == "yes")


@pytest.mark.tensorflow
def test_a_tflite_file_is_not_drawn(run, tflite):
    result = run(f"inspect {tflite}/yes.tflite --plot x.png")
    assert_one_line_error(result)
    assert "only .keras files" in result.stderr


@pytest.mark.tensorflow
def test_export_quantizes_with_data_from_a_file(run, tmp_path):
    samples = np.random.default_rng(0).standard_normal((16, 8, 8, 2))
    np.savez(tmp_path / "x.npz", samples.astype("float32"))
    command = "export m/good.keras --out x.tflite --quantize int8"
    result = run(f"{command} --representative x.npz")
    assert result.exit_code == 0, result.output
    record = json.loads(inspect_tflite(tmp_path / "x.tflite").to_json())
    kernels = [t for t in record["tensors"] if len(t["shape"]) > 1]
    assert {k["dtype"] for k in kernels} == {"int8"}
    assert record["weights"]["zeros"] >= 33437


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("", "--representative"),
        ("--representative no.npz", "this is no file"),
        ("--representative m/text.keras", "no .npz file of numbers"),
        ("--representative wrong.npz", "shape"),
        ("--representative none.npz", "no .npz file of numbers"),
        ("--representative damaged.npz", "no .npz file of numbers"),
    ],
)
def test_data_that_does_not_fit_leaves_no_file(run, option, message, tmp_path):
    np.savez(tmp_path / "wrong.npz", np.zeros((4, 3), "float32"))
    (tmp_path / "none.npz").touch()
    np.savez_compressed(tmp_path / "damaged.npz", np.arange(4_000.0))
    content = bytearray((tmp_path / "damaged.npz").read_bytes())
    content[300:400] = bytes(100)
    (tmp_path / "damaged.npz").write_bytes(content)
    result = run(f"export m/good.keras --out x.tflite --quantize int8 {option}")
    assert_one_line_error(result)
    assert message in result.stderr
    assert not (tmp_path / "x.tflite").exists()


@pytest.mark.parametrize("target", ["x86", "microcontroller"])
def test_explain_says_what_zeros_are_worth(run, target, tmp_path):
    result = run(f"explain m/good.keras --target {target} --json x.json")
    assert result.exit_code == 0, result.output
    assert f"on {target}" in result.stdout
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["target"] == target
    assert [layer["zeros"] for layer in record["layers"]] == [259, 33178]


@pytest.mark.tensorflow
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99, 0.9999])
def test_a_tflite_file_cut_short_is_recognised(run, tflite, share, tmp_path):
    content = (tflite / "yes.tflite").read_bytes()
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(content[: int(share * len(content))])
    result = run("inspect cut.tflite")
    assert_one_line_error(result)
    assert "cut.tflite is" in result.stderr


@pytest.mark.tensorflow
def test_a_failed_export_keeps_the_file_that_was_there(run, tmp_path):
    (tmp_path / "x.tflite").write_text("old")
    result = run("export m/custom.keras --out x.tflite")
    assert_one_line_error(result)
    assert (tmp_path / "x.tflite").read_text() == "old"


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("cnn/conv/convolution", "cnn/conv/convolution"),
        ("a/Relu;a/BiasAdd;a/MatMul;a/bias", "a/MatMul"),
        ("a/Relu;a/BiasAdd", "a/Relu"),
        ("", ""),
    ],
)
def test_joined_names_are_shortened(name, short):
    assert short_name(name) == short
