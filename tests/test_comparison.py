import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest

import keras_swd
from keras_swd.comparison.cells import Cell, Failure, Key, difference
from keras_swd.comparison.methods import identity
from keras_swd.comparison.result import Comparison, ComparisonRow

X = np.random.default_rng(0).standard_normal((32, 6)).astype("float32")
Y = X @ np.ones((6, 5), "float32")


def build_model():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5)])


def fit(model, callbacks, epochs=2):
    """Trains for real."""
    sgd = keras_swd.with_pruning(keras.optimizers.SGD(0.1, momentum=0.9))
    model.compile(sgd, "mse")
    model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)
    return {"accuracy": 1.0 - float(model.evaluate(X, Y, verbose=0))}


def no_training(model, callbacks):
    """Tells what the weights are at the start."""
    kernel = model.layers[0].get_weights()[0]
    return {"accuracy": float(kernel[0, 0]), "callbacks": len(callbacks)}


def constant(build_model, fit, sparsity):
    return {"accuracy": sparsity}


def failing(build_model, fit, sparsity):
    if sparsity > 0.5:
        raise ArithmeticError("the loss is NaN")
    return {"accuracy": sparsity}


def swd():
    return keras_swd.SelectiveWeightDecay()


compare = functools.partial(keras_swd.compare, build_model, no_training)


def files(folder):
    return {p.name: p.read_text() for p in folder.iterdir()}


@pytest.fixture(autouse=True)
def _same_session(monkeypatch):
    """Saves the half second that it takes to clear a session."""
    monkeypatch.setattr(keras.utils, "clear_session", lambda: None)


# The grid -------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder, and what was found by real training."""
    folder = tmp_path_factory.mktemp("comparison")

    def one_shot(build_model, fit, sparsity):
        model = keras_swd.with_regularizer(build_model(), swd())
        none = keras_swd.Constant(0.0)
        return fit(model, [keras_swd.PruningScheduler(sparsity, none)], 1)

    methods = {"dense": None, "SWD": swd(), "one-shot": one_shot}
    return folder, keras_swd.compare(
        build_model, fit, methods, [0.5], seeds=[4], folder=folder
    )


def test_every_cell_is_a_file_and_a_record(trained):
    folder, found = trained
    assert sorted(files(folder)) == [
        "SWD-0.5-4.json",
        "dense-0.0-4.json",
        "one-shot-0.5-4.json",
    ]
    assert [cell.key for cell in found.cells] == [
        Key("dense", 0.0, 4),
        Key("SWD", 0.5, 4),
        Key("one-shot", 0.5, 4),
    ]
    for cell in found.cells:
        content = json.loads(files(folder)["{}-{}-{}.json".format(*cell.key)])
        assert content.pop("experiment")["backend"] == keras.config.backend()
        assert content == json.loads(json.dumps(dataclasses.asdict(cell)))
        assert cell.seconds > 0.0


def test_the_reached_sparsity_is_counted(trained):
    _, found = trained
    for cell in found.cells:
        assert cell.numbers["sparsity"] == cell.sparsity


def test_parts_that_keras_does_not_know_are_used(tmp_path):
    class Rows(keras_swd.Granularity):
        def unit_scores(self, scores):
            return keras.ops.mean(scores, axis=-1)

        def expand(self, units, shape):
            return keras.ops.broadcast_to(units[:, None], shape)

    rows = keras_swd.SelectiveWeightDecay(granularity=Rows(), criterion=abs)
    found = keras_swd.compare(
        build_model, fit, {"rows": rows}, [0.5], 1, tmp_path
    )
    (cell,) = found.cells
    assert cell.numbers["sparsity"] == 0.5


def test_what_was_warned_of_is_told(trained):
    # Eight steps are too few to drive a weight to zero.
    _, found = trained
    told = {cell.method: cell.warnings for cell in found.cells}
    assert told["dense"] == told["one-shot"] == ()
    assert any("until removal" in warning for warning in told["SWD"])
    assert {row.method: row.warned for row in found.rows} == {
        "dense": 0,
        "SWD": 1,
        "one-shot": 0,
    }


def test_the_methods_start_from_the_same_weights(tmp_path):
    def with_function(build_model, fit, sparsity):
        return fit(build_model(), [None] * 3)

    found = compare(
        {"dense": None, "SWD": swd(), "other": with_function},
        [0.5],
        seeds=[3, 5],
        folder=tmp_path,
    )
    numbers = {cell.key: cell.numbers for cell in found.cells}
    for seed in (3, 5):
        start = numbers["dense", 0.0, seed]["accuracy"]
        assert numbers["SWD", 0.5, seed]["accuracy"] == start
        assert numbers["other", 0.5, seed]["accuracy"] == start
        assert numbers["dense", 0.0, seed]["callbacks"] == 0
        assert numbers["SWD", 0.5, seed]["callbacks"] == 1
        assert numbers["other", 0.5, seed]["callbacks"] == 3
    seeds = {numbers["dense", 0.0, seed]["accuracy"] for seed in (3, 5)}
    assert len(seeds) == 2


def test_a_function_may_tell_the_sparsity_itself(tmp_path):
    def other(build_model, fit, sparsity):
        return fit(build_model(), []) | {"sparsity": 0.4}

    (cell,) = compare({"other": other}, [0.5], 1, tmp_path).cells
    assert cell.numbers["sparsity"] == 0.4
    (cell,) = compare({"constant": constant}, [0.5], 1, tmp_path).cells
    assert cell.numbers == {"accuracy": 0.5}


# Resuming -------------------------------------------------------------------


def test_finished_cells_are_not_run_again(tmp_path):
    runs = []

    def counted(build_model, fit, sparsity):
        runs.append(sparsity)
        return {"accuracy": sparsity}

    first = compare({"a": counted}, [0.5, 0.9, 0.5], [0, 1, 0], tmp_path)
    assert runs == [0.5, 0.9, 0.5, 0.9]
    before = files(tmp_path)
    assert compare({"a": counted}, [0.5, 0.9], 2, tmp_path) == first
    assert files(tmp_path) == before
    assert len(runs) == 4
    (tmp_path / "a-0.9-1.json").unlink()
    compare({"a": counted, "b": constant}, [0.5, 0.9], 2, tmp_path)
    assert runs[4:] == [0.9]
    assert len(files(tmp_path)) == 8


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path):
    runs = []

    def interrupted(build_model, fit, sparsity):
        runs.append(sparsity)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return {"accuracy": sparsity}

    given = ({"a": interrupted}, [0.1, 0.2, 0.3, 0.4], 1, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        compare(*given)
    assert sorted(files(tmp_path)) == ["a-0.1-0.json", "a-0.2-0.json"]
    assert len(compare(*given).cells) == 4
    assert runs == [0.1, 0.2, 0.3, 0.3, 0.4]


SCRIPT = """
import os, pathlib, sys, time
import keras, keras_swd

def build_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])

def fit(model, callbacks):
    return {"accuracy": 0.5}

def slow(build_model, fit, sparsity):
    with open(sys.argv[2], "a") as log:
        log.write(f"{sparsity}\\n")
    if sparsity > 0.25 and len(sys.argv) > 3:
        time.sleep(600)
    return fit(build_model(), [])

found = keras_swd.compare(
    build_model, fit, {"slow": slow}, [0.1, 0.2, 0.3, 0.4], 1, sys.argv[1]
)
print(len(found.cells))
"""


@pytest.mark.slow
def test_a_killed_comparison_goes_on_where_it_was(tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log"
    folder = tmp_path / "cells"
    script.write_text(SCRIPT)
    command = [sys.executable, script, folder, log]
    process = subprocess.Popen([*command, "wait"])
    try:
        end = time.monotonic() + 120
        while not log.exists() or "0.3" not in log.read_text():
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = files(folder)
    assert sorted(finished) == ["slow-0.1-0.json", "slow-0.2-0.json"]
    log.unlink()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.split() == ["4"]
    assert log.read_text().split() == ["0.3", "0.4"]
    assert len(files(folder)) == 4
    assert finished.items() <= files(folder).items()


# Other experiments ----------------------------------------------------------


def build_wider():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(9)])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"settings": {"epochs": 3}}, "`settings.epochs` is 2 there and 3"),
        ({"build_model": build_wider}, "`build_model.code` is 'build_model "),
        ({"fit": fit}, "`fit.code` is 'no_training "),
        (
            {"methods": {"a": keras_swd.SelectiveWeightDecay(0.5)}},
            "`definition.config.weight_decay` is 0.001 there and 0.5 here",
        ),
        ({"methods": {"a": constant}}, "`definition.code` is None there and"),
    ],
)
def test_cells_of_another_experiment_are_refused(tmp_path, change, told):
    given = {
        "build_model": build_model,
        "fit": no_training,
        "methods": {"a": swd()},
        "sparsities": [0.5],
        "seeds": 1,
        "folder": tmp_path,
        "settings": {"epochs": 2},
    }
    keras_swd.compare(**given)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="of another experiment") as error:
        keras_swd.compare(**given | change)
    assert told in str(error.value)
    assert "a-0.5-0.json" in str(error.value)
    assert files(tmp_path) == before
    keras_swd.compare(**given)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"experiment": {}}'])
def test_a_file_that_is_no_cell_is_refused(tmp_path, content):
    (tmp_path / "a-0.5-0.json").write_text(content)
    with pytest.raises(ValueError, match="is no cell of a comparison"):
        compare({"a": constant}, [0.5], 1, tmp_path)


def test_a_cell_of_another_name_is_refused(tmp_path):
    compare({"a": constant}, [0.5], 1, tmp_path)
    (tmp_path / "a-0.5-0.json").rename(tmp_path / "b-0.5-0.json")
    with pytest.raises(ValueError, match="`method` is 'a' there and 'b' here"):
        compare({"b": constant}, [0.5], 1, tmp_path)


def test_the_metric_must_be_in_all_cells(tmp_path):
    compare({"a": constant}, [0.5], 1, tmp_path)
    with pytest.raises(ValueError, match=r"has \['accuracy'\]"):
        compare({"a": constant}, [0.5], 1, tmp_path, metric="loss")


def test_comments_do_not_make_another_experiment(tmp_path, monkeypatch):
    def load(text, name):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        monkeypatch.syspath_prepend(tmp_path)
        return __import__(name).fit

    one = load(
        """
        def fit(model):
            return 1  # a number
        """,
        "module_of_one",
    )
    same = load("def fit(model):\n    return 1\n", "module_of_same")
    other = load("def fit(model):\n    return 2\n", "module_of_other")
    assert identity(one) == identity(same) != identity(other)


def test_values_that_a_function_holds_make_another_experiment():
    def around(value):
        def method(build_model, fit, sparsity):
            return value

        return method

    def with_default(value):
        def method(build_model, fit, sparsity, value=value, *, more=3):
            return value

        return method

    class Callable:
        def __call__(self, *arguments):
            return arguments

    part = functools.partial
    for one, same, other in [
        (around(1), around(1), around(2)),
        (around(swd()), around(swd()), around(keras_swd.GReg1())),
        (around(fit), around(fit), around(no_training)),
        (part(fit, epochs=1), part(fit, epochs=1), part(fit, epochs=2)),
        (part(fit, 1), part(fit, 1), part(no_training, 1)),
        (with_default(1), with_default(1), with_default(2)),
        (part(Callable(), 1), part(Callable(), 1), part(Callable(), 2)),
        (None, None, fit),
    ]:
        assert identity(one) == identity(same) != identity(other)
    # What the code says is not told twice.
    assert identity(with_default(1))["holds"] == {"value": 1}
    # Neither what is large nor an address in memory tells anything.
    assert identity(around(X)) == identity(around(Y))
    json.dumps([identity(around(X)), identity(print), identity(swd)])


def test_names_of_metrics_are_no_markup(tmp_path):
    for number, name in enumerate(["f1[macro]", "f1[/x]"]):
        found = keras_swd.compare(
            build_model,
            lambda model, callbacks, name=name: {name: 0.5},
            {"dense": None},
            [0.5],
            seeds=1,
            folder=tmp_path / str(number),
            metric=name,
        )
        assert name in str(found)


def test_the_reason_of_a_failure_is_told_though_it_begins_with_a_blank():
    failure = Failure("a", 0.5, 0, "ValueError: \n\nnot a number\nmore", "")
    assert str(failure).endswith("ValueError: not a number")
    assert str(Failure("a", 0.5, 0, "ValueError: one", "")).endswith(": one")


def test_a_method_with_tuples_is_the_same_the_next_time(tmp_path):
    blocks = keras_swd.SelectiveWeightDecay(granularity=keras_swd.Block((2, 1)))
    for _ in range(2):
        found = compare({"blocks": blocks}, [0.5], seeds=1, folder=tmp_path)
        assert len(found.cells) == 1


def test_what_is_held_in_tuples_tells_methods_apart():
    def held(stages):
        return identity(functools.partial(constant, stages=stages))

    assert held((0.1,)) == held((np.float64(0.1),)) != held((0.9,))


def test_seeds_may_be_numbers_of_numpy(tmp_path):
    found = compare(
        {"constant": constant}, [0.5], np.arange(2), folder=tmp_path
    )
    assert [cell.seed for cell in found.cells] == [0, 1]


def test_the_first_difference_is_told():
    assert difference({"a": 1}, {"a": 1}) is None
    assert difference({"a": 1}, {}) == "`a` is 1 there and None here"
    deep = {"a": {"b": {"c": [1]}}}
    told = difference(deep, {"a": {"b": {"c": [2]}}})
    assert told == "`a.b.c` is [1] there and [2] here"


# Failures -------------------------------------------------------------------


def test_a_failing_cell_lets_the_others_go_on(tmp_path):
    with pytest.warns(UserWarning, match="1 of 4 cells could not be") as seen:
        found = compare({"b": failing, "a": swd()}, [0.5, 0.9], 1, tmp_path)
    reason = "ArithmeticError: the loss is NaN"
    assert f"b, 0.9, seed 0: {reason}" in str(seen[0].message)
    (failure,) = found.failures
    assert failure.key == ("b", 0.9, 0)
    assert failure.reason == reason
    assert "in failing" in failure.traceback
    assert f"Failed: b, 0.9, seed 0: {reason}" in str(found)
    assert [cell.key[:2] for cell in found.cells] == [
        ("b", 0.5),
        ("a", 0.5),
        ("a", 0.9),
    ]
    assert "b-0.9-0.json" not in files(tmp_path)


def test_no_cell_at_all_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="None of the 2 cells") as error:
        compare({"a": failing}, [0.8, 0.9], 1, tmp_path)
    assert "a, 0.8, seed 0: ArithmeticError: the loss" in str(error.value)
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "numbers",
    [
        None,
        {},
        {"loss": 1.0},
        {"accuracy": "high"},
        {"accuracy": 1.0, "loss": float("nan")},
    ],
)
def test_what_a_run_returns_is_checked(tmp_path, numbers):
    with pytest.raises(RuntimeError, match="must return a dictionary of"):
        compare({"a": lambda *_: numbers}, [0.5], 1, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"build_model": 3}, "`build_model` must be a function.*build_model=3"),
        ({"fit": None}, "`fit` must be a function.*fit=None"),
        ({"methods": {}}, "`methods` must be a dictionary.*methods={}"),
        ({"methods": {"a": 3}}, r"`methods` must hold.*methods\['a'\]=3"),
        (
            {"methods": {"a": keras_swd.SelectiveWeightDecay}},
            r"`methods` must hold.*methods\['a'\]=<class",
        ),
        (
            {"methods": {"a": keras_swd.SelectiveWeightDecay(sparsity=0.5)}},
            r"target of its own.*methods\['a'\] with sparsity=0.5",
        ),
        ({"methods": {"a/b": None}}, "become names of files.*'a/b'"),
        ({"methods": {".a": None}}, "become names of files"),
        ({"methods": {"a" * 201: None}}, "not take more than 200 bytes"),
        ({"sparsities": [0.0]}, "`sparsities` must hold.*None"),
        ({"sparsities": [90]}, "in \\[0, 1\\)"),
        ({"sparsities": []}, "`sparsities` must hold"),
        ({"sparsities": 0.5}, "`sparsities` must hold.*sparsities=0.5"),
        ({"seeds": 0}, "`seeds` must say.*seeds=0"),
        ({"seeds": [0.5]}, "`seeds` must say"),
        ({"workers": 0}, "`workers`"),
        ({"workers": "many"}, "`workers` must be a number.*'many'"),
        ({"settings": {"a": {1, 2}}}, "`settings` must be"),
        ({"folder": __file__}, "`folder` must name a folder"),
    ],
)
def test_arguments_are_checked_before_anything_runs(tmp_path, change, message):
    given = {
        "build_model": build_model,
        "fit": no_training,
        "methods": {"a": constant},
        "sparsities": [0.5],
        "folder": tmp_path / "cells",
    }
    with pytest.raises(ValueError, match=f"(?s){message}"):
        keras_swd.compare(**given | change)
    assert not (tmp_path / "cells").exists()


# The result -----------------------------------------------------------------


def cell(method, sparsity, seed, accuracy, **options):
    numbers = {"accuracy": accuracy, "sparsity": sparsity}
    return Cell(method, sparsity, seed, numbers, float(seed), **options)


FOUND = Comparison(
    "accuracy",
    {"epochs": 2},
    (
        cell("dense", 0.0, 0, 0.95),
        cell("SWD", 0.9, 1, 0.5, warnings=("slow",)),
        cell("SWD", 0.9, 2, 0.7),
        cell("SWD", 0.9, 3, 0.9),
        cell("one-shot", 0.9, 1, 0.25),
        cell("SWD", 0.5, 1, 1.0),
        Cell("one-shot", 0.5, 1, {"accuracy": 0.75}, 1.0),
    ),
    (Failure("one-shot", 0.9, 2, "ValueError: no", "Traceback"),),
)


def test_rows_have_mean_and_sample_deviation():
    dense, half_swd, half_shot, swd, shot = FOUND.rows
    assert dense == ComparisonRow("dense", 0.0, 0.95, None, 1, 0.0, 0.0, 0)
    assert half_swd == ComparisonRow("SWD", 0.5, 1.0, None, 1, 0.5, 1.0, 0)
    assert half_shot == dataclasses.replace(
        half_swd, method="one-shot", mean=0.75, reached=None
    )
    assert shot.mean == 0.25
    assert dataclasses.replace(swd, mean=0, deviation=0) == ComparisonRow(
        "SWD", 0.9, 0, 0, 3, 0.9, 2.0, 1
    )
    assert swd.mean == pytest.approx(0.7)
    assert swd.deviation == pytest.approx(0.2)


def test_the_table_is_exact():
    assert [line.split() for line in str(FOUND).splitlines()] == [
        "sparsity method accuracy ± seeds reached s warned".split(),
        ["─" * 72],
        "0 dense 0.9500 1 0.0000 0.0".split(),
        [],
        "0.5 SWD 1.0000 1 0.5000 1.0".split(),
        "one-shot 0.7500 1 1.0".split(),
        [],
        "0.9 SWD 0.7000 0.2000 3 0.9000 2.0 1".split(),
        "one-shot 0.2500 1 0.9000 1.0".split(),
        [],
        "Failed: one-shot, 0.9, seed 2: ValueError: no".split(),
    ]
    assert max(map(len, str(FOUND).splitlines())) <= 88


def test_the_json_holds_rows_cells_and_failures(tmp_path):
    record = json.loads(FOUND.to_json(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text()) == record
    assert list(record) == ["metric", "settings", "rows", "cells", "failures"]
    assert record["settings"] == {"epochs": 2}
    assert len(record["rows"]) == 5
    assert len(record["cells"]) == 7
    assert record["cells"][1]["warnings"] == ["slow"]
    assert record["failures"][0]["reason"] == "ValueError: no"


@pytest.mark.parametrize(
    "found",
    [
        FOUND,
        dataclasses.replace(FOUND, cells=FOUND.cells[:1]),
        Comparison(
            "$x_",
            {},
            tuple(
                Cell(f"$m_{i}", 0.9, 0, {"$x_": i / 30}, 1.0) for i in range(30)
            ),
        ),
    ],
    ids=["usual", "dense alone", "many"],
)
def test_the_picture_is_a_png(tmp_path, found):
    found.plot(tmp_path / "found.png", lowest=0.2)
    content = (tmp_path / "found.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n")
    assert len(content) > 5000
    with pytest.raises(ValueError, match=r"must end in '\.png'"):
        found.plot(tmp_path / "found.pdf")


# Several processes ----------------------------------------------------------


def place(build_model, fit, sparsity):
    return fit(build_model(), []) | {"process": os.getpid()}


def check_two_workers(folder, workers):
    """The same numbers as in this process, made by two others."""
    methods = {"a": place, "SWD": swd(), "c": failing}
    given = (methods, [0.5, 0.9], 2)
    with pytest.warns(UserWarning, match="2 of 12 cells could not be run"):
        found = compare(*given, folder / "many", workers)
    with pytest.warns(UserWarning, match="2 of 12 cells could not be run"):
        alone = compare(*given, folder / "alone")

    def numbers(comparison):
        return {
            c.key: {k: v for k, v in c.numbers.items() if k != "process"}
            for c in comparison.cells
        }

    assert numbers(found) == numbers(alone)
    assert list(numbers(found)) == list(numbers(alone))
    assert files(folder / "many").keys() == files(folder / "alone").keys()
    places = {c.numbers["process"] for c in found.cells if c.method == "a"}
    assert len(places) <= 2
    assert os.getpid() not in places


@pytest.mark.slow
def test_two_processes_find_the_same(tmp_path):
    pytest.importorskip("joblib")
    check_two_workers(tmp_path, 2)


@pytest.mark.slow
def test_a_ray_cluster_finds_the_same(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.util.multiprocessing import Pool

    # The functions of this module are known by their names alone.
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        runtime_env={"env_vars": paths},
    )
    try:
        with Pool(2) as pool:
            check_two_workers(tmp_path, pool)
    finally:
        ray.shutdown()
