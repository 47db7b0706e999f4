"""Runs that die and are resumed."""

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
from keras import layers, ops

import keras_swd

EPOCHS, STEPS, BATCH, SPARSITY = 4, 8, 4, 0.7
SIZE = 6 * 8 + 8 * 3
GROWTH = {"start": 0.1, "end": 500.0, "finish": 0.5}


def curve(epochs):
    steps = [(epoch + 1) * STEPS - 1 for epoch in epochs]
    total = EPOCHS * STEPS
    return [reference.exponential(s / total, **GROWTH) for s in steps]


def build():
    keras.utils.set_random_seed(1)
    swd = keras_swd.SelectiveWeightDecay(0.01)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", kernel_regularizer=swd),
            layers.Dense(3, kernel_regularizer=swd),
        ]
    )
    model.compile(keras.optimizers.SGD(0.1, momentum=0.3), "mse")
    return model


class Die(keras.callbacks.Callback):
    """Calls `how()` in the middle of the third epoch."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (2, 3):
            self.how()


def run(*callbacks, backup_first=True, **arguments):
    """Returns the history, the kernels and the number of zeros."""
    scheduler = keras_swd.PruningScheduler(
        SPARSITY, keras_swd.Exponential(**GROWTH), **arguments
    )
    callbacks = [*callbacks, scheduler]
    if not backup_first:
        callbacks.reverse()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS * BATCH, 6))
    model = build()
    history = model.fit(
        x,
        x @ rng.standard_normal((6, 3)),
        batch_size=BATCH,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    ).history
    kernels = [ops.convert_to_numpy(layer.kernel) for layer in model.layers]
    zeros = sum(int(np.count_nonzero(k == 0.0)) for k in kernels)
    return history, [k.tolist() for k in kernels], zeros


def assert_same_run(resumed, whole):
    """A run resumed in its third epoch ended as one that never stopped."""
    (history, kernels, zeros), (all_history, all_kernels, all_zeros) = (
        resumed,
        whole,
    )
    assert len(history["loss"]) == EPOCHS - 2
    for key, values in history.items():
        assert values == pytest.approx(all_history[key][2:], rel=1e-3), key
    assert zeros == all_zeros == round(SPARSITY * SIZE)
    for one, other in zip(kernels, all_kernels, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)


class Crash(Exception):
    pass


def crash():
    raise Crash


@pytest.mark.filterwarnings("ignore:A weight selected when")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param(
            {"backup_first": False, "reallocations": 2}, marks=pytest.mark.slow
        ),
        pytest.param({"remove_at": 0.3}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_resumed_after_a_crash_ends_as_if_it_had_not_stopped(
    arguments, tmp_path
):
    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(Crash):
        run(backup(), Die(crash), **arguments)
    resumed = run(backup(), **arguments)
    whole = run(**arguments)
    if "remove_at" in arguments:
        assert resumed[0]["swd_strength"] == [0.0, 0.0]
    else:
        assert resumed[0]["swd_strength"] == pytest.approx(curve([2, 3]))
    assert_same_run(resumed, whole)


def test_a_run_that_is_killed_within_an_epoch_resumes_on_the_curve(tmp_path):
    """Keras repeats the epoch, and so does the curve."""

    def backup():
        return keras.callbacks.BackupAndRestore(
            tmp_path / "backup", save_freq=STEPS // 2
        )

    with pytest.raises(Crash):
        run(backup(), Die(crash))
    history, _, zeros = run(backup())
    assert history["swd_strength"] == pytest.approx(curve([2, 3]))
    assert zeros == round(SPARSITY * SIZE)


PROGRAM = """
    import json, os, signal, sys

    import keras

    import test_resume

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    backup = keras.callbacks.BackupAndRestore(sys.argv[1])
    if sys.argv[2] == "die":
        test_resume.run(backup, test_resume.Die(kill))
        sys.exit("still alive")
    print(json.dumps([test_resume.run(backup), test_resume.run()]))
"""


def start(*arguments):
    here = pathlib.Path(__file__).parent
    package = pathlib.Path(keras_swd.__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.slow
def test_a_killed_process_is_resumed_by_another(tmp_path):
    died = start(tmp_path / "backup", "die")
    assert died.returncode == -signal.SIGKILL, died.stderr
    done = start(tmp_path / "backup", "resume")
    assert done.returncode == 0, done.stderr
    resumed, whole = json.loads(done.stdout.splitlines()[-1])
    assert whole[0]["swd_strength"] == pytest.approx(curve(range(EPOCHS)))
    assert resumed[0]["swd_strength"] == pytest.approx(curve([2, 3]))
    assert_same_run(resumed, whole)
