"""Several processes, as on several machines, train and prune one model."""

import contextlib
import importlib.util
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

import keras
import numpy as np
import pytest

import keras_swd

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("jax") is None, reason="needs JAX"
    ),
]

EPOCHS, SPARSITY = 3, 0.7
SIZE = 6 * 8 + 8 * 3
PROGRAM = """
    import json, os, signal, sys

    import keras
    import numpy as np
    import tensorflow as tf

    import keras_swd

    EPOCHS, STEPS, BATCH = 3, 8, 8
    folder, mode = sys.argv[1:]
    task = int(os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", 0))
    if "KERAS_DISTRIBUTION_PROCESS_ID" in os.environ:
        keras.distribution.initialize()
    if len(keras.distribution.list_devices()) > 1:
        keras.distribution.set_distribution(keras.distribution.DataParallel())


    class Differing(keras_swd.GlobalRanking):
        "Shares the target in another way in the second process."

        def counts(self, scores, shapes, sparsity):
            first, second = super().counts(scores, shapes, sparsity)
            return [first - task, second + task]


    class Die(keras.callbacks.Callback):
        "Ends the process at once after the second epoch."

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                os.kill(os.getpid(), signal.SIGKILL)


    def train(allocation, *callbacks):
        keras.utils.set_random_seed(1)
        swd = keras_swd.SelectiveWeightDecay(0.01)
        model = keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, "relu", kernel_regularizer=swd),
                keras.layers.Dense(3, kernel_regularizer=swd),
            ]
        )
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        random = np.random.default_rng(0)
        x = random.normal(size=(STEPS * BATCH, 6)).astype("float32")
        y = x @ random.normal(size=(6, 3)).astype("float32")
        # The same program for all: Keras gives each process its share.
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(
            BATCH, drop_remainder=True
        )
        pruning = keras_swd.PruningScheduler(
            0.7,
            keras_swd.Exponential(0.1, 500.0, finish=0.5),
            allocation,
            monitor_data=data,
        )
        history = model.fit(
            data.repeat(),
            steps_per_epoch=STEPS,
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=[*callbacks, pruning],
        ).history
        together = keras.distribution.distribution()
        keras.distribution.set_distribution(None)
        model = keras_swd.strip(model)
        if task == 0:
            model.save(os.path.join(folder, f"{mode}.keras"))
        keras.distribution.set_distribution(together)
        return history, [weight.tolist() for weight in model.get_weights()]


    backup = keras.callbacks.BackupAndRestore(
        os.path.join(folder, f"backup-{task}")
    )
    results = {
        "alone": lambda: [
            train(keras_swd.GlobalRanking()),
            train(keras_swd.LAMP()),
        ],
        "together": lambda: [
            train(Differing()),
            train(keras_swd.LAMP()),
        ],
        "die": lambda: train(keras_swd.LAMP(), backup, Die()),
        "resume": lambda: [train(keras_swd.LAMP(), backup)],
    }[mode]()
    print(json.dumps(results))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def started(folder, mode, processes=1, devices=1):
    """Yields the running processes of a program; none outlives the block."""
    package = pathlib.Path(keras_swd.__file__).parents[1]
    flags = f"--xla_force_host_platform_device_count={devices}"
    common = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "PYTHONPATH": str(package),
        "XLA_FLAGS": flags,
    }
    if processes > 1:
        common["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"127.0.0.1:{free_port()}"
        common["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(processes)
    with contextlib.ExitStack() as stack:
        running = []
        for task in range(processes):
            own = {"KERAS_DISTRIBUTION_PROCESS_ID": str(task)}
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    textwrap.dedent(PROGRAM),
                    str(folder),
                    mode,
                ],
                env=common | (own if processes > 1 else {}),
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            stack.enter_context(process)
            stack.callback(process.kill)  # nothing, if it has ended
            running.append((process, output))
        yield running


def ended(running, seconds=600):
    """Returns what each has written, when all have ended or one has failed."""
    end = time.monotonic() + seconds
    processes = [process for process, _ in running]
    while time.monotonic() < end:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes):
            break
        time.sleep(0.1)
    written = []
    for _, output in running:
        output.seek(0)
        written.append(output.read())
    return written


def results(running):
    """Returns what each process printed last; all must end well, in time."""
    written = ended(running)
    codes = [process.poll() for process, _ in running]
    assert codes == [0] * len(running), "\n".join(written)
    return [json.loads(text.splitlines()[-1]) for text in written]


def masks(weights):
    return [np.asarray(w) != 0.0 for w in weights if np.ndim(w) == 2]


def assert_same_run(one, other, **tolerance):
    (history, weights), (other_history, other_weights) = one, other
    assert history.keys() == other_history.keys()
    for key, values in history.items():
        assert values == pytest.approx(other_history[key], **tolerance), key
    for mask, other_mask in zip(
        masks(weights), masks(other_weights), strict=True
    ):
        assert np.array_equal(mask, other_mask)
    for weight, other_weight in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(weight, other_weight, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(folder):
    """The two runs of one process on one device."""
    with started(folder, "alone") as running:
        return results(running)[0]


def test_two_devices_of_a_process_train_as_one(alone, folder):
    with started(folder, "alone", devices=2) as running:
        (both,) = results(running)
    for one, other in zip(both, alone, strict=True):
        assert_same_run(one, other, rel=1e-4)


def test_two_processes_decide_alike_and_train_as_one(alone, folder):
    """In the first run the second process would share the target otherwise."""
    with started(folder, "together", processes=2) as running:
        first, second = results(running)
    # Each process has computed its own: they are the same to the bit.
    assert first == second
    for (history, weights), whole in zip(first, alone, strict=True):
        assert len(history["swd_threshold"]) == EPOCHS
        zeros = sum(int((~mask).sum()) for mask in masks(weights))
        assert zeros == round(SPARSITY * SIZE)
        assert_same_run((history, weights), whole, rel=1e-4)
    saved = keras.saving.load_model(folder / "together.keras", compile=False)
    for one, other in zip(saved.get_weights(), first[-1][1], strict=True):
        np.testing.assert_array_equal(one, np.asarray(other, "float32"))


def test_two_killed_processes_are_resumed_by_two_others(alone, folder):
    with started(folder, "die", processes=2) as running:
        ended(running)
        codes = [process.poll() for process, _ in running]
    # The other ends by itself or is killed with it.
    assert -signal.SIGKILL in codes
    assert 0 not in codes
    with started(folder, "resume", processes=2) as running:
        first, second = results(running)
    assert first == second
    history, weights = alone[1]
    resumed = {key: values[2:] for key, values in history.items()}
    assert_same_run(first[0], (resumed, weights), rel=1e-3)
