"""The page of a run: what it shows, and what it must not do."""

import collections
import dataclasses
import gzip
import html
import html.parser
import importlib
import json
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import keras_swd_cli as cli
from keras_swd.record import percentage
from keras_swd.run_report import charts, contents, curves, write_page
from keras_swd.run_report import page as view
from keras_swd.run_report.wording import number, signed
from keras_swd.summaries.history import Epoch, RunRecord, kernel_state

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;'
PATHS = ("net/first/kernel", f"net/{EVIL}/kernel")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def record(epochs=4, ended=True, scale=1.0):
    """A record without a run."""
    random = np.random.default_rng(0)
    measured = []
    for epoch in range(epochs):
        kernels = [random.standard_normal((6, 4)) * 0.1**epoch for _ in PATHS]
        logs = {
            "loss": scale / (epoch + 1),
            "val_accuracy": 0.5 + epoch / 10,
            "accuracy": 0.6 + epoch / 10,
            "accuracy_if_removed": 0.4 + epoch / 10,
            "sparsity": 0.75,
            "swd_strength": 10.0**epoch,
            "swd_threshold": 0.01,
            "swd_residual": 0.1**epoch,
        }
        states = tuple(
            kernel_state(path, values, np.abs(values) > 0.1)
            for path, values in zip(PATHS, kernels, strict=True)
        )
        measured.append(Epoch(epoch, logs, states))
    kernel = {"shape": [6, 4], "size": 24, "zeros": 18, "nonzeros": 6}
    kernel |= {"sparsity": 0.75, "skipped": None}
    total = {"size": 1056, "zeros": 36, "nonzeros": 1020, "sparsity": 0.034}
    settings = {
        "model": EVIL,
        "parameters": 1056,
        "epochs": epochs,
        "steps_per_epoch": 1234,
        "optimizer": keras.saving.serialize_keras_object(
            keras.optimizers.SGD(0.125, momentum=0.75)
        ),
        "scheduler": {
            "class_name": "PruningScheduler",
            "config": {"sparsity": 0.75, "remove_at": None},
        },
        "regularizers": [
            {
                "regularizer": {
                    "class_name": "SelectiveWeightDecay",
                    "config": {"weight_decay": 0.0005},
                },
                "kernels": list(PATHS),
            }
        ],
        "given": {"seed": 4711, EVIL: EVIL},
        "versions": {"keras_swd": "0.1.0", "keras": "3.99"},
    }
    end = {
        "kernels": [kernel | {"path": path} for path in PATHS],
        "prunable": {"sparsity": 0.75},
        "total": total,
    }
    return RunRecord(settings, tuple(measured), end if ended else None)


class Page(html.parser.HTMLParser):
    """What is in a page."""

    def __init__(self, content):
        super().__init__()
        self.tags = collections.Counter()
        self.attributes = []
        self.text = []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def page_of(folder, **options):
    write_page(folder, folder / "page.html", **options)
    content = (folder / "page.html").read_text("utf-8")
    return Page(content), content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run, with files beside the record."""
    folder = tmp_path_factory.mktemp("run")
    record().write(folder)
    (folder / "model.keras").write_bytes(bytes(100_000))
    (folder / "small & <b>bold<b>.tflite").write_bytes(b"no model" * 1000)
    rows = [{"name": EVIL, "accuracy": 0.9876, "gzip_bytes": 12345}]
    (folder / "report.json").write_text(json.dumps({"rows": rows}))
    (folder / "other.json").write_text('{"rows": "none"}')
    (folder / "broken.json").write_text("{")
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return page_of(folder)


# What it shows --------------------------------------------------------------


def test_every_kernel_is_named_in_the_table_and_above_its_chart(page):
    shown, _ = page
    for path in PATHS:
        assert shown.text.count(path) == 2
    # Loss, accuracy, four of pruning, and one for each kernel.
    assert shown.tags["svg"] == 1 + 1 + 4 + len(PATHS)
    assert shown.tags["image"] == len(PATHS)


@pytest.mark.parametrize(
    "value",
    [
        "75.00%",
        "of 1,056 parameters left",
        "1,020",
        "80.00% val_accuracy, last epoch",
        "70.00% accuracy_if_removed, last epoch",
        "0.001 residual, last epoch",
        f"model.keras 100,000 {len(gzip.compress(bytes(100_000), 6))}",
        "98.76%",
        "12,345",
        "SelectiveWeightDecay(weight_decay=0.0005)",
        "PruningScheduler(sparsity=0.75)",
        "learning_rate=0.125",
        "momentum=0.75",
        "4711",
        "1,234",
        "keras 3.99",
        "4 of 4 epochs",
    ],
)
def test_the_numbers_and_the_settings_are_there(page, value):
    assert value in page[0].words


def test_series_of_one_metric_share_a_chart_and_have_a_key(page):
    shown, _ = page
    for name in ("accuracy", "val_accuracy", "accuracy_if_removed"):
        assert name in shown.text
    assert "val_loss" not in shown.words


def test_a_run_that_did_not_end_has_no_table_of_its_end(tmp_path):
    record(epochs=1, ended=False).write(tmp_path)
    shown, _ = page_of(tmp_path)
    assert "the run did not end" in shown.words
    assert "Kernels when the run ended" not in shown.words
    for path in PATHS:
        assert shown.text.count(path) == 1


def test_a_run_without_pruning_or_numbers_has_a_page(tmp_path):
    whole = record(epochs=2)
    settings = whole.settings | {"scheduler": None, "regularizers": []}
    epochs = tuple(
        Epoch(e.epoch, {"loss": None, "mae": 0.25}, ()) for e in whole.epochs
    )
    RunRecord(settings, epochs, None).write(tmp_path)
    shown, _ = page_of(tmp_path)
    assert "0.25 training mae, last epoch" in shown.words
    assert shown.tags["svg"] == 2


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_kernels_without_a_magnitude_have_a_page(value, tmp_path):
    whole = record(epochs=2, ended=False)
    nothing = np.full((4, 4), value)
    states = tuple(kernel_state(path, nothing, nothing == 0) for path in PATHS)
    epochs = tuple(Epoch(e.epoch, e.logs, states) for e in whole.epochs)
    RunRecord(whole.settings, epochs).write(tmp_path)
    shown, _ = page_of(tmp_path)
    assert all(path in shown.words for path in PATHS)


@pytest.mark.tensorflow
def test_files_are_timed_and_one_that_fails_says_why(tmp_path):
    import tensorflow as tf

    record(epochs=1).write(tmp_path)
    double = tf.function(
        lambda x: 2.0 * x, input_signature=[tf.TensorSpec((1, 4))]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [double.get_concrete_function()]
    )
    (tmp_path / "good.tflite").write_bytes(converter.convert())
    (tmp_path / "bad.tflite").write_text("no model")
    good, bad = sorted(
        contents.exported_files(tmp_path, timed=True),
        key=lambda file: file.failure is not None,
    )
    assert good.name == "good.tflite"
    assert 0.0 < good.seconds < 0.1
    assert (bad.name, bad.seconds) == ("bad.tflite", None)
    assert "bad.tflite cannot be run" in bad.failure
    shown, _ = page_of(tmp_path, timed=True)
    assert "milliseconds" in shown.words
    assert "bad.tflite cannot be run" in shown.words


# What it must not do --------------------------------------------------------


def test_the_page_needs_nothing_from_elsewhere(page):
    shown, content = page
    for name, value in shown.attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith(("#", "data:image/png;base64,")), value
        assert not name.startswith("xmlns")
        assert "//" not in (value or "") or value.startswith("data:image/png")
    assert not {"script", "link", "iframe", "object"} & set(shown.tags)
    assert "@import" not in content
    assert not re.search(r"url\((?!#)", content)
    assert len(content) < 200_000


def test_text_of_others_stays_text(page):
    shown, content = page
    assert "<script" not in content
    assert not [name for name, _ in shown.attributes if name.startswith("on")]
    # As title and heading; as name and value of a setting, and in a table.
    assert shown.text.count(f"Pruning run: {EVIL}") == 2
    assert shown.text.count(EVIL) == 3
    assert "small & <b>bold<b>.tflite" in shown.text
    assert "b" in shown.tags  # ours, of the figures
    assert shown.tags["img"] == 0


def test_names_of_elements_are_unique_and_found(page):
    shown, content = page
    names = [value for name, value in shown.attributes if name == "id"]
    assert len(names) == len(set(names))
    assert set(re.findall(r"url\(#([^)]+)\)", content)) <= set(names)
    links = [v for n, v in shown.attributes if n == "href" and v[0] == "#"]
    assert {link[1:] for link in links} <= set(names)


def test_placeholders_of_colors_are_gone(page):
    _, content = page
    assert not re.search(r"#0a000\d|#010203|#040506", content)
    for name in re.findall(r"var\((--[\w-]+)\)", content):
        assert f"  {name}: " in content


# Browsers -------------------------------------------------------------------


@pytest.fixture
def browse(tmp_path):
    """Opens a file in a browser of its own; returns what that prints."""
    if CHROMIUM is None:
        pytest.skip("there is no chromium on PATH")

    def open_page(path, *arguments):
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}",
            *arguments,
            path.as_uri(),
        ]
        found = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=120
        )
        return found.stdout

    return open_page


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_shows_all_of_it_without_scrolling_sideways(
    folder, page, browse, tmp_path, width
):
    _, content = page
    script = """
        const shown = document.querySelector("iframe").contentDocument;
        const charts = [...shown.querySelectorAll("svg")];
        document.title = JSON.stringify({
            "needed": shown.documentElement.scrollWidth,
            "charts": charts.map(chart => chart.clientWidth),
        });
    """
    path = tmp_path / "frame.html"
    path.write_text(
        f'<body onload="{html.escape(script)}"><iframe width="{width}" '
        f'height="900" srcdoc="{html.escape(content)}"></iframe></body>'
    )
    picture = tmp_path / "page.png"
    window = f"--window-size={width},900"
    dom = browse(path, window, "--dump-dom")
    (title,) = re.findall("<title>({.*?})</title>", dom)
    seen = json.loads(html.unescape(title))
    assert seen["needed"] <= width
    assert len(seen["charts"]) == page[0].tags["svg"]
    assert min(seen["charts"]) > 280
    write_page(folder, tmp_path / "page.html")
    browse(tmp_path / "page.html", window, f"--screenshot={picture}")
    pixels = importlib.import_module("matplotlib.image").imread(picture)
    assert pixels.shape[:2] == (900, width)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50


@pytest.mark.slow
def test_light_and_dark_differ(folder, page, browse, tmp_path):
    read = importlib.import_module("matplotlib.image").imread
    write_page(folder, tmp_path / "page.html")
    brightness = []
    for scheme in (0, 1):  # Blink's names of dark and light
        browse(
            tmp_path / "page.html",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--screenshot={tmp_path / 'page.png'}",
        )
        brightness.append(read(tmp_path / "page.png")[..., :3].mean())
    assert brightness[0] < 0.3
    assert brightness[1] > 0.7


# The command ----------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(line):
        return CliRunner().invoke(cli.main, line.split(), prog_name="keras-swd")

    return invoke


def test_the_command_writes_the_page_into_the_folder(tmp_path, command):
    (tmp_path / "run").mkdir()
    record(epochs=1).write(tmp_path / "run")
    result = command("report run")
    assert (result.exit_code, result.output) == (
        0,
        "Written to run/report.html.\n",
    )
    assert "</html>" in (tmp_path / "run/report.html").read_text()
    assert command("report run --out page.html").exit_code == 0
    first = (tmp_path / "run/report.html").read_text()
    assert len((tmp_path / "page.html").read_text()) == len(first)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("report missing", "missing does not exist"),
        ("report file", "file is a file, not a folder"),
        ("report empty", "empty holds no pruning.json, the record of a run"),
        ("report broken", "pruning.json is no record of a run"),
        ("report empty --out page.pdf", "the name must end in .html"),
        ("report empty --out no/page.html", "the folder no does not exist"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, command, line, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "pruning.json").write_text('{"epochs": [')
    before = sorted(tmp_path.rglob("*"))
    result = command(line)
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_has_help(command):
    result = command("report --help")
    assert result.exit_code == 0
    for word in ("RUN_DIR", "PruningSummaries", "--out", "--time"):
        assert word in result.output
    assert "report" in command("--help").output


# Properties -----------------------------------------------------------------


@given(st.floats(0.0, 1.0))
def test_a_share_is_whole_or_nothing_only_if_it_is(value):
    text = percentage(value)
    assert (text == "100.00%") == (value == 1.0)
    assert (text == "0.00%") == (value == 0.0)
    assert float(text.rstrip("%")) == pytest.approx(100 * value, abs=0.011)


@given(st.floats() | st.integers() | st.text() | st.none())
def test_any_value_has_a_text(value):
    assert isinstance(number(value, "accuracy"), str)
    assert isinstance(signed(value), str)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["loss", "val_loss", "accuracy", "swd_residual", "lr", "a%$b"]
            ),
            st.none() | st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_number_is_in_one_chart(logs):
    epochs = [Epoch(i + 3, numbers, ()) for i, numbers in enumerate(logs)]
    drawn = [
        (name, curve.first + place, value)
        for curve in curves.curves(epochs)
        for name, values in curve.series.items()
        for place, value in enumerate(values)
        if value is not None
    ]
    wanted = [
        (name, epoch.epoch, value)
        for epoch in epochs
        for name, value in epoch.logs.items()
        if value is not None
    ]
    assert sorted(drawn) == sorted(wanted)


def test_a_metric_below_zero_has_a_linear_scale():
    values = (-5.0, -1.0, -0.2, 0.005, 0.4, 0.9)
    epochs = [Epoch(i, {"r2": v}, ()) for i, v in enumerate(values)]
    (curve,) = curves.curves(epochs)
    assert not curve.logarithmic


def test_a_kernel_has_a_gap_where_epochs_are_missing(monkeypatch):
    whole = record(6)
    kept = tuple(e for e in whole.epochs if e.epoch not in (2, 3))
    drawn = []
    draw = charts.kernel

    def watched(states, first):
        drawn.append((first, [state is None for state in states]))
        return draw(states, first)

    monkeypatch.setattr(charts, "kernel", watched)
    view._kernel(dataclasses.replace(whole, epochs=kept), 0)
    assert drawn == [(0, [False, False, True, True, False, False])]
