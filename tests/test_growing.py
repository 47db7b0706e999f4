"""Growing Regularization: its ladder, its penalty, its selection, its files."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops

import keras_swd
from keras_swd import (
    NM,
    Block,
    Channel,
    CoupledChannels,
    GReg1,
    GReg2,
    PruningScheduler,
    Uniform,
    Unstructured,
)

# The ladder ------------------------------------------------------------------


def ladder_of(greg, total, remove_at=None):
    """The plan of a run, as a strength per step, and two integers."""
    plan = greg.plan(None, total, remove_at)
    strengths = [plan.strength(step / total) for step in range(total)]
    return strengths, plan.pick_at * total, plan.remove_at * total


@pytest.mark.parametrize(
    ("settings", "rungs", "removal"),
    [
        ((3, 0.25, 1.0, 4), {0: 0.25, 3: 0.5, 6: 0.75, 9: 1.0}, 14),
        ((4, 0.3, 1.0, 5), {0: 0.3, 4: 0.6, 8: 0.9, 12: 1.0}, 18),
    ],
)
def test_the_ladder_by_hand(settings, rungs, removal):
    interval, increment, ceiling, stabilizing = settings
    greg = GReg1(
        interval=interval,
        increment=increment,
        ceiling=ceiling,
        stabilizing=stabilizing,
    )
    strengths, pick_at, remove_at = ladder_of(greg, 30)
    expected = [0.0] * 30
    for first, strength in rungs.items():
        expected[first:] = [strength] * (30 - first)
    assert strengths == pytest.approx(expected, rel=1e-15)
    assert (pick_at, remove_at) == (0, pytest.approx(removal))


def test_the_published_ladder_has_no_rounding_error():
    greg = GReg1(interval=10, increment=1e-4, ceiling=1.0, stabilizing=10000)
    plan = greg.plan(None, 400_000, None)
    assert plan.remove_at * 400_000 == 109_991
    strengths = [plan.strength(t / 400_000) for t in (99_989, 99_990, 300_000)]
    assert strengths == [0.9999, 1.0, 1.0]
    every = [plan.strength(t / 400_000) for t in range(0, 100_000, 10)]
    assert every == [1e-4 * n for n in range(1, 10_000)] + [1.0]


def test_the_published_ladder_that_picks():
    greg = GReg2(
        interval=5,
        increment=1e-4,
        stabilizing=40_000,
        picking_increment=1e-5,
        picking_ceiling=0.01,
    )
    ladder = greg.ladder(0, 0)
    assert (ladder.pick_at, ladder.top) == (5000, 54_495)
    assert (ladder(4999), ladder(5000)) == (0.01, pytest.approx(0.0101))


@given(
    interval=st.integers(1, 6),
    increment=st.integers(1, 30),
    ceiling=st.integers(21, 60),
    stabilizing=st.integers(1, 9),
    picking=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 20)),
    begin=st.integers(0, 20),
)
def test_every_ladder_is_the_specified_one(
    interval, increment, ceiling, stabilizing, picking, begin
):
    """On integers, 200 of which are a whole run, and hundredths."""
    own = {}
    if picking is not None:
        own = {
            "picking_increment": picking[0] / 100,
            "picking_ceiling": picking[1] / 100,
        }
    greg = (GReg2 if own else GReg1)(
        interval=interval,
        increment=increment / 100,
        ceiling=ceiling / 100,
        stabilizing=stabilizing,
        begin=begin / 2000,
        **own,
    )
    strengths, _, mask, removal = reference.train_greg(
        np.zeros_like,
        [1.0, 2.0],
        0.5,
        0.0,
        interval,
        increment / 100,
        ceiling / 100,
        stabilizing,
        begin=begin,
        **own,
    )
    assert mask.tolist() == [False, True]
    seen, pick_at, remove_at = ladder_of(greg, 2000)
    assert seen[:removal] == pytest.approx(strengths, rel=1e-12)
    assert remove_at == pytest.approx(removal, abs=1e-9)
    assert round(pick_at) == pick_at


@pytest.mark.parametrize("total", [10, 50, 200, 1970, 12_345])
@pytest.mark.parametrize("begin", [0.0, 0.3])
@pytest.mark.parametrize("remove_at", [None, 0.7, 1.0])
def test_what_is_not_given_is_fitted_to_the_run(total, begin, remove_at):
    interval = 10 if total >= 200 else 1
    for method in (GReg1, GReg2):
        greg = method(interval=interval, begin=begin)
        strengths, pick_at, removal = ladder_of(greg, total, remove_at)
        first = round(begin * total)
        due = remove_at or begin + (1.0 - begin) / 2
        assert abs(removal - due * total) <= 1
        assert not any(strengths[:first])
        assert strengths[first] > 0.0
        assert np.all(np.diff(strengths) >= 0.0)
        top = strengths.index(1.0)
        held = (removal - top) / (removal - first)
        assert 0.1 <= held <= 0.6
        assert (pick_at == first) == (method is GReg1)
        assert pick_at <= top


def test_holding_is_never_shorter_than_asked():
    greg = GReg1(interval=1, increment=0.25, stabilizing=3)
    assert ladder_of(greg, 20)[2] == 7
    assert ladder_of(greg, 20, remove_at=0.5)[2] == 10
    assert ladder_of(greg, 7)[2] == 7


# The penalty and whole runs --------------------------------------------------


# JAX computes in float64 only where the whole process does.
FLOAT = "float32" if keras.config.backend() == "jax" else "float64"


class Quadratic(keras.Model):
    """The loss `w h w / 2 - b w` of one kernel; the data are ignored."""

    def __init__(self, regularizer, h, b, w):
        super().__init__()
        self.h, self.b = (ops.cast(x, FLOAT) for x in (h, b))
        self.dense = layers.Dense(
            1, use_bias=False, kernel_regularizer=regularizer, dtype=FLOAT
        )
        self.dense.build((None, len(w)))
        self.dense.kernel.assign(np.reshape(w, (-1, 1)))
        self.built = True

    def call(self, x):
        w = self.dense.kernel
        bend = 0.5 * ops.sum(w * ops.matmul(self.h, w)) - ops.sum(
            w[:, 0] * self.b
        )
        return bend + 0.0 * ops.cast(ops.sum(x), FLOAT)


class Watch(keras.callbacks.Callback):
    """Keeps the weights after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        kernel = self.model.dense.kernel
        self.seen.append(ops.convert_to_numpy(kernel).ravel().copy())


H = [
    [2.0, 0.3, 0.0, 0.1],
    [0.3, 1.0, 0.2, 0.0],
    [0.0, 0.2, 1.5, 0.4],
    [0.1, 0.0, 0.4, 1.2],
]
B = [0.2, -0.9, 0.8, -0.1]
W = [1.0, -0.3, 0.2, -0.8]
ONE = {
    "weight_decay": 0.01,
    "interval": 2,
    "increment": 0.5,
    "ceiling": 1.0,
    "stabilizing": 3,
}
TWO = {
    "weight_decay": 0.02,
    "interval": 2,
    "increment": 1.0,
    "ceiling": 3.0,
    "stabilizing": 2,
    "picking_increment": 0.5,
    "picking_ceiling": 1.0,
}


def descend(regularizer, h, b, w, steps, momentum=0.0, **arguments):
    """Returns the weights after each of the steps, and the final ones."""
    model = Quadratic(regularizer, h, b, w)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=momentum),
        loss=lambda y, prediction: prediction,
    )
    watch = Watch()
    model.fit(
        np.zeros((steps, 1)),
        np.zeros((steps, 1)),
        batch_size=1,
        epochs=1,
        verbose=0,
        callbacks=[PruningScheduler(0.5, **arguments), watch],
    )
    return np.array(watch.seen), ops.convert_to_numpy(model.dense.kernel)


def test_the_penalty_by_hand():
    greg = GReg1(0.01)
    kernel = ops.convert_to_tensor(np.reshape(W, (4, 1)))
    marked = keras_swd.regularizers.selectors.Marked(greg.granularity)
    flags = ops.convert_to_tensor([0.0, 1.0, 1.0, 0.0])
    penalty = greg.penalty(kernel, 0.5, marked, flags)
    assert float(penalty) == pytest.approx(0.04135)


@pytest.mark.filterwarnings("ignore:A weight selected")
def test_greg1_on_a_quadratic():
    seen, final = descend(GReg1(**ONE), H, B, W, 6)
    expected = [
        [0.83600000, -0.37870000, 0.27780000, -0.73120000],
        [0.70663700, -0.44215230, 0.33878420, -0.67219680],
        [0.60458950, -0.47125448, 0.36948028, -0.62147873],
        [0.52341943, -0.49205962, 0.39102497, -0.57710491],
        [0.45874496, -0.50667872, 0.40580309, -0.53815041],
        [0.40711909, -0.51671471, 0.41560611, -0.50385378],
    ]
    np.testing.assert_allclose(seen, expected, atol=1e-6)
    np.testing.assert_array_equal(
        final[:, 0], [seen[-1][0], 0.0, 0.0, seen[-1][3]]
    )


@pytest.mark.filterwarnings("ignore:A weight selected")
def test_greg1_with_momentum():
    seen, _ = descend(GReg1(**ONE), H, B, W, 6, momentum=0.9)
    expected = {
        1: [0.55903700, -0.51298230, 0.40880420, -0.61027680],
        5: [-0.34907996, -0.75639220, 0.62816047, -0.04446029],
    }
    for step, weights in expected.items():
        np.testing.assert_allclose(seen[step], weights, atol=1e-6)


DIAGONAL, AIM = np.array([0.1, 0.5, 2.0, 1.0]), np.array([1.0, 0.8, 0.6, 0.5])


@pytest.mark.filterwarnings("ignore:A weight selected")
def test_greg2_on_a_diagonal_quadratic():
    seen, final = descend(
        GReg2(**TWO), np.diag(DIAGONAL), DIAGONAL * AIM, AIM, 9
    )
    picked = [0.72795769, 0.59242505, 0.46951146, 0.37770484]
    last = [0.74129047, 0.63938246, 0.25394054, 0.15528784]
    np.testing.assert_allclose(seen[3], picked, atol=1e-6)
    np.testing.assert_allclose(seen[8], last, atol=1e-6)
    np.testing.assert_array_equal(
        final[:, 0], [seen[-1][0], seen[-1][1], 0.0, 0.0]
    )


STATIONARY = {
    0.1: (1000, [0.50000000, 0.66666667, 0.57142857, 0.45454545], {0, 3}),
    1.0: (150, [0.09090909, 0.26666667, 0.40000000, 0.25000000], {0, 3}),
    2.0: (100, [0.04761905, 0.16000000, 0.30000000, 0.16666667], {0, 1}),
}


@pytest.mark.filterwarnings("ignore:A weight selected")
@pytest.mark.parametrize(
    "strength", [2.0, pytest.param(0.1, marks=pytest.mark.slow), 1.0]
)
def test_picking_lets_the_loss_decide(strength):
    """At rest under the picking strength, units leave by their curvature."""
    steps, weights, lowest = STATIONARY[strength]
    greg = GReg2(
        0.0,
        interval=steps,
        picking_increment=strength,
        picking_ceiling=strength,
        ceiling=4.0,
        increment=4.0,
        stabilizing=1,
    )
    seen, final = descend(
        greg, np.diag(DIAGONAL), DIAGONAL * AIM, AIM, steps + 2
    )
    np.testing.assert_allclose(seen[steps - 1], weights, atol=1e-5)
    assert set(np.flatnonzero(final == 0.0)) == lowest


@pytest.mark.filterwarnings("ignore:A weight selected")
@pytest.mark.parametrize(
    ("size", "interval", "picks", "begin", "momentum"),
    [
        (5, 1, False, 0, 0.0),
        (7, 3, False, 2, 0.9),
        (4, 1, True, 3, 0.9),
        (8, 2, True, 0, 0.0),
    ],
)
def test_a_run_is_the_reference_run(size, interval, picks, begin, momentum):
    """Growth, hold, removal, and a third of the run to fine-tune."""
    w = np.random.default_rng(size).uniform(0.1, 1.0, size)
    h = np.linspace(0.2, 1.5, w.size)
    b = h[::-1] * w
    settings = {**(TWO if picks else ONE), "interval": interval}
    steps = 40
    hold = settings["stabilizing"]
    own = {k: v for k, v in settings.items() if k != "stabilizing"}
    strengths, history, mask, removal = reference.train_greg(
        lambda w: h * w - b,
        w,
        0.5,
        hold=hold,
        begin=begin,
        steps=steps,
        momentum=momentum,
        **own,
    )
    assert removal < steps
    assert strengths[removal] == 0.0
    method = GReg2 if picks else GReg1
    greg = method(**settings, begin=begin / steps)
    seen, final = descend(greg, np.diag(h), b, w, steps, momentum)
    np.testing.assert_allclose(seen, history, atol=2e-5)
    np.testing.assert_array_equal(final[:, 0] != 0.0, mask)


# Selections ------------------------------------------------------------------

GRANULARITIES = [Unstructured(), Channel(), Block((4, 1)), NM(2, 4)]


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=repr)
def test_the_step_selects_what_the_host_marks(granularity):
    from keras_swd.units.kernels import MarkedKernel

    values = np.random.default_rng(0).standard_normal((8, 12))
    variable = keras.Variable(values, dtype="float32")
    kernel = MarkedKernel(variable, GReg1(granularity=granularity))
    for count in (0, 1, kernel.size // 2, kernel.size):
        choices = [kernel.choose(count)]
        controls = ops.convert_to_tensor(kernel.controls(choices))
        assert controls.shape == (kernel.width,)
        step = kernel.select(variable.value, controls)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(step), ~kernel.chosen(choices)
        )


# Runs that stop --------------------------------------------------------------

STEPS, EPOCHS = 4, 6
METHODS = {"greg1": GReg1, "greg2": GReg2}


def build(method, shared=False, **arguments):
    keras.utils.set_random_seed(3)
    first = method(1e-2, interval=2, **arguments)
    second = first if shared else method(1e-2, interval=2, **arguments)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", kernel_regularizer=first),
            layers.Dense(3, kernel_regularizer=second),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "mse")
    return model


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS * 4, 6))
    return x, x @ rng.standard_normal((6, 3))


def train(model, *callbacks, initial_epoch=0, epochs=EPOCHS, **arguments):
    history = model.fit(
        *data(),
        batch_size=4,
        epochs=epochs,
        initial_epoch=initial_epoch,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, PruningScheduler(0.7, **arguments)],
    ).history
    kernels = [ops.convert_to_numpy(layer.kernel) for layer in model.layers]
    return history, kernels


class Crash(Exception):
    pass


class Die(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.at, self.epoch = epoch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (self.at, 1):
            raise Crash


def assert_same_run(resumed, whole, epochs_done):
    for key, values in resumed[0].items():
        rest = whole[0][key][epochs_done:]
        assert values == pytest.approx(rest, rel=1e-3, abs=1e-7), key
    for one, other in zip(resumed[1], whole[1], strict=True):
        np.testing.assert_array_equal(one == 0.0, other == 0.0)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


quiet = pytest.mark.filterwarnings("ignore:A weight selected")


@quiet
@pytest.mark.parametrize(
    ("method", "epoch", "shared", "granularity"),
    [
        pytest.param(GReg1, 2, True, Unstructured(), marks=pytest.mark.slow),
        pytest.param(GReg2, 2, False, Channel(), marks=pytest.mark.slow),
        pytest.param(GReg1, 4, False, None, marks=pytest.mark.slow),
    ],
    ids=["pushed", "pushed, channels", "tuned"],
)
def test_a_crashed_run_goes_on_with_its_selection(
    method, epoch, shared, granularity, tmp_path
):
    """Stopped while units are pushed, or in the fine-tuning that follows."""

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    arguments = {"shared": shared, "granularity": granularity, "begin": 0.1}
    with pytest.raises(Crash):
        train(build(method, **arguments), backup(), Die(epoch))
    resumed = train(build(method, **arguments), backup())
    whole = train(build(method, **arguments))
    assert_same_run(resumed, whole, epoch)
    assert resumed[0]["sparsity"][-1] == pytest.approx(0.7, abs=0.05)


PROGRAM = """
    import json, os, signal, sys

    import keras

    import test_growing as growing

    class Kill(growing.Die):
        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (self.at, 1):
                os.kill(os.getpid(), signal.SIGKILL)

    def run(*callbacks):
        model = growing.build(growing.GReg2, shared=True)
        history, kernels = growing.train(model, *callbacks)
        return history, [kernel.tolist() for kernel in kernels]

    backup = keras.callbacks.BackupAndRestore(sys.argv[1])
    if sys.argv[2] == "die":
        run(backup, Kill(2))
        sys.exit("still alive")
    print(json.dumps([run(backup), run()]))
"""


@pytest.mark.slow
def test_a_killed_process_is_resumed_by_another(tmp_path):
    def start(action):
        here = pathlib.Path(__file__).parent
        package = pathlib.Path(keras_swd.__file__).parents[1]
        return subprocess.run(
            [
                sys.executable,
                "-c",
                textwrap.dedent(PROGRAM),
                str(tmp_path / "backup"),
                action,
            ],
            env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{package}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    died = start("die")
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = start("resume")
    assert done.returncode == 0, done.stderr
    resumed, whole = json.loads(done.stdout.splitlines()[-1])
    assert_same_run(
        (resumed[0], [np.array(k) for k in resumed[1]]),
        (whole[0], [np.array(k) for k in whole[1]]),
        2,
    )


@quiet
@pytest.mark.parametrize(
    ("shared", "whole_model"),
    [
        (True, True),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
def test_files_carry_the_selection(shared, whole_model, tmp_path):
    model = build(GReg1, shared)
    plain = train(build(GReg1, shared))
    with pytest.raises(Crash):
        train(model, Die(2))
    # The lowest weights are now others than those that were selected.
    for layer in model.layers:
        values = ops.convert_to_numpy(layer.kernel)
        layer.kernel.assign(values[::-1].copy())
    if whole_model:
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        loaded = build(GReg1, shared)
        loaded.optimizer.build(loaded.trainable_variables)
        loaded.load_weights(tmp_path / "model.weights.h5")
    assert len(loaded.weights) == len(model.weights) == 4
    assert loaded.count_params() == model.count_params() == 83
    _, kernels = train(loaded, initial_epoch=2)
    for one, other in zip(kernels, plain[1], strict=True):
        np.testing.assert_array_equal(one == 0.0, other == 0.0)


@quiet
def test_files_load_from_and_into_the_plain_model(tmp_path):
    from test_every_method import network

    x = np.random.default_rng(0).standard_normal((32, 8))
    model = network(GReg1())
    model.compile("sgd", "mse")
    with pytest.raises(Crash):
        model.fit(
            x,
            x[:, :1],
            batch_size=4,
            epochs=8,
            verbose=0,
            callbacks=[PruningScheduler(0.5), Die(1)],
        )
    selection = model.get_layer("pruned").kernel_regularizer.chosen_for_good
    assert [bits.size for bits in selection.values()] == [12]
    model.save_weights(tmp_path / "pruned.weights.h5")
    plain, other = network(None), network(GReg1())
    plain.load_weights(tmp_path / "pruned.weights.h5")
    plain.save_weights(tmp_path / "plain.weights.h5")
    regularizer = other.get_layer("pruned").kernel_regularizer
    regularizer.chosen_for_good = dict(selection)
    other.load_weights(tmp_path / "plain.weights.h5")
    assert regularizer.chosen_for_good == {}
    for copy in (plain, other):
        np.testing.assert_array_equal(
            copy.predict(x, verbose=0), model.predict(x, verbose=0)
        )


@quiet
def test_nothing_is_left_when_the_run_is_complete():
    model = build(GReg1)
    train(model)
    assert [r.kernel_regularizer.chosen_for_good for r in model.layers] == [
        {},
        {},
    ]


@quiet
def test_a_second_run_selects_again():
    model = build(GReg1)
    _, kernels = train(model)
    zeros = [kernel == 0.0 for kernel in kernels]
    keras.utils.set_random_seed(99)
    for layer in model.layers:
        shape = layer.kernel.shape
        layer.kernel.assign(np.random.default_rng(9).standard_normal(shape))
    _, kernels = train(model)
    assert any(
        (k == 0.0).tolist() != z.tolist()
        for k, z in zip(kernels, zeros, strict=True)
    )
    assert sum(np.count_nonzero(k == 0.0) for k in kernels) == round(0.7 * 72)


@quiet
def test_a_resumed_run_without_its_selection_warns():
    with pytest.warns(UserWarning, match="resumed after its units had been"):
        _, kernels = train(build(GReg1), initial_epoch=2)
    assert sum(np.count_nonzero(k == 0.0) for k in kernels) == round(0.7 * 72)


@pytest.mark.slow
@quiet
def test_more_epochs_after_a_run_need_no_selection():
    """The zeros say what it was."""
    model = build(GReg1)
    _, before = train(model)
    _, after = train(model, initial_epoch=EPOCHS, epochs=EPOCHS + 2)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one == 0.0, other == 0.0)


# In `fit` --------------------------------------------------------------------


@quiet
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_one_fit_grows_holds_removes_and_tunes(method):
    history, kernels = train(build(method))
    strengths = history["swd_strength"]
    residuals = history["swd_residual"]
    assert strengths[:3] == sorted(strengths[:3])
    assert strengths[2] == 1.0
    assert strengths[3:] == residuals[3:] == [0.0] * 3
    assert history["swd_threshold"] == [-1.0] * EPOCHS
    assert history["sparsity"] == pytest.approx([round(0.7 * 72) / 72] * EPOCHS)
    assert sum(np.count_nonzero(k == 0.0) for k in kernels) == round(0.7 * 72)


@quiet
def test_a_fresh_model_trains_before_it_is_pruned():
    plain = build(GReg1)
    for layer in plain.layers:
        layer.kernel.regularizer = keras.regularizers.L2(0.005)
    x, y = data()
    plain.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0)
    expected = [ops.convert_to_numpy(layer.kernel) for layer in plain.layers]

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                for layer, kernel in zip(
                    self.model.layers, expected, strict=True
                ):
                    np.testing.assert_allclose(
                        ops.convert_to_numpy(layer.kernel), kernel, rtol=1e-4
                    )

    history, _ = train(build(GReg1, begin=0.5), Look())
    assert history["swd_strength"][:3] == [0.0] * 3
    assert history["swd_strength"][3] > 0.0


@quiet
@pytest.mark.parametrize("refused", [False, True])
def test_steps_that_were_compiled_before_see_the_selection(refused):
    """The weights stand still, so the loss grows with the penalty alone."""
    model = build(GReg1, increment=0.5, stabilizing=6)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(*data(), verbose=0)
    if refused:
        with pytest.raises(ValueError, match="Train for more epochs"):
            train(model, epochs=2)
    losses = train(model)[0]["loss"]
    assert losses[1] > 1.02 * losses[0]


@quiet
@pytest.mark.tensorflow
def test_several_steps_per_execution_pick_at_the_next_chance():
    model = build(GReg2, picking_ceiling=0.5)
    model.compile(keras.optimizers.SGD(0.1), "mse", steps_per_execution=4)
    _, kernels = train(model)
    assert sum(np.count_nonzero(k == 0.0) for k in kernels) == round(0.7 * 72)


@quiet
def test_coupled_channels_are_selected_once():
    greg = GReg1(0.01, interval=1, granularity=CoupledChannels(kernels=True))
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(8, activation="relu"),
            layers.Dense(3),
        ]
    )
    model = keras_swd.with_regularizer(model, greg)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 6))
    model.fit(
        x,
        x[:, :3],
        epochs=10,
        batch_size=8,
        verbose=0,
        callbacks=[PruningScheduler(0.5, allocation=Uniform())],
    )
    small = keras_swd.shrink(keras_swd.strip(model))
    assert [layer.units for layer in small.layers] == [4, 4, 3]


# Errors ----------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": -1.0}, "`weight_decay`.*weight_decay=-1.0"),
        ({"interval": 0}, "`interval`.*1 or greater.*interval=0"),
        ({"interval": None}, "`interval`.*1 or greater.*interval=None"),
        ({"interval": 1.5}, "`interval`.*1 or greater.*interval=1.5"),
        ({"increment": 0.0}, "`increment`.*greater than 0.*increment=0.0"),
        ({"ceiling": -1.0}, "`ceiling`.*greater than 0.*ceiling=-1.0"),
        ({"stabilizing": 0}, "`stabilizing`.*1 or greater.*stabilizing=0"),
        ({"begin": 1.0}, "`begin` must be less than 1.*begin=1.0"),
        ({"begin": 5}, r"`begin`.*\[0, 1\].*begin=5"),
        ({"sparsity": 90}, "sparsity=90.*For 90 percent, pass 0.9"),
    ],
)
def test_an_argument_out_of_range(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        method(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"picking_increment": 0.0},
            "`picking_increment`.*greater than 0.*picking_increment=0.0",
        ),
        (
            {"picking_ceiling": 1.0},
            "`picking_ceiling` must be less than `ceiling`.*"
            "picking_ceiling=1.0, ceiling=1.0",
        ),
    ],
)
def test_a_picking_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        GReg2(**arguments)


@pytest.mark.parametrize(
    ("settings", "scheduling", "message"),
    [
        ({"increment": 1e-4}, {}, "at least 19999 steps.*after 12 of 24"),
        (
            {"increment": 0.5, "stabilizing": 50},
            {},
            "GReg1.*at least 53 steps.*after 24 of 24.*Train for more epochs.*"
            "`remove_at`.*`interval`.*increment=0.5.*stabilizing=50",
        ),
        (
            {"increment": 0.5, "stabilizing": 9},
            {"remove_at": 0.4},
            "at least 12 steps.*after 10 of 24",
        ),
    ],
)
def test_a_run_that_is_too_short(settings, scheduling, message):
    model = build(GReg1, **settings)
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        train(model, **scheduling)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_methods_that_select_at_different_times():
    model = build(GReg1)
    model.layers[1].kernel.regularizer = keras_swd.SelectiveWeightDecay()
    message = "same steps.*once, at 0% and removes at 50% of the run"
    with pytest.raises(ValueError, match=message):
        train(model)


@quiet
@pytest.mark.filterwarnings("ignore:The run ended")
@pytest.mark.filterwarnings("ignore:What is removed now")
def test_another_target_in_a_run_that_goes_on_is_warned_of():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, kernel_regularizer=GReg1(interval=1)),
        ]
    )
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x, y = np.ones((4, 6), "float32"), np.ones((4, 8), "float32")

    def train(sparsity, **arguments):
        pruning = PruningScheduler(sparsity, total_steps=8)
        model.fit(
            x, y, batch_size=1, verbose=0, callbacks=[pruning], **arguments
        )

    train(0.5, epochs=1)
    with pytest.warns(UserWarning, match="24 units .* now asks for 36"):
        train(0.75, epochs=2, initial_epoch=1)
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    assert np.count_nonzero(kernel == 0.0) == 24
