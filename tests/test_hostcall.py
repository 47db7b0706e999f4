"""Steps that ask the host, and everything else that reads the penalty."""

import gc
import threading
import weakref

import keras
import numpy as np
import pytest
from keras import layers

from keras_swd import (
    Channel,
    Constant,
    Exponential,
    GlobalRanking,
    PruningScheduler,
    SelectiveWeightDecay,
)
from keras_swd.backend import hostcall
from keras_swd.backend.host import given, read
from keras_swd.prunable import Prunable

pytestmark = pytest.mark.tensorflow
#: This run is too short to drive selected weights to zero, and says so.
short_run = pytest.mark.filterwarnings("ignore:A weight selected when")

RATE, DECAY, STRENGTH, SPARSITY, STEPS = 0.1, 0.01, 500.0, 0.7, 8


def network():
    # One regularizer for each layer: they share what they ask.
    return keras.Sequential(
        [
            keras.Input((6,)),
            *(
                layers.Dense(
                    n,
                    use_bias=False,
                    kernel_regularizer=SelectiveWeightDecay(DECAY),
                )
                for n in (8, 4)
            ),
        ]
    )


def square():
    swd = SelectiveWeightDecay(DECAY)
    return layers.Dense(6, use_bias=False, kernel_regularizer=swd)


def train_squares(model):
    """Trains a model of such layers on nothing."""
    x = np.zeros((STEPS * 4, 6))
    return model.fit(
        x, x, batch_size=2, verbose=0, callbacks=[scheduler()]
    ).history


def scheduler():
    return PruningScheduler(SPARSITY, Constant(STRENGTH), GlobalRanking())


def fit(model, *callbacks, epochs=2, **arguments):
    x, y = np.zeros((STEPS * 2, 6)), np.zeros((STEPS * 2, 4))
    return model.fit(
        x,
        y,
        batch_size=2,
        epochs=epochs,
        verbose=0,
        callbacks=[scheduler(), *callbacks],
        **arguments,
    ).history


def penalty(weights, strength=STRENGTH, threshold=None):
    """The paper's, of the weights of all layers; and its threshold."""
    flat = np.concatenate([np.ravel(w) for w in weights]).astype("float64")
    if threshold is None:
        lowest = round(SPARSITY * flat.size)
        threshold = np.sort(np.abs(flat))[lowest - 1]
    selected = np.abs(flat) <= threshold
    squares = flat**2
    found = np.sum(squares) + strength * np.sum(squares[selected])
    return 0.5 * DECAY * found, threshold


class Watch(keras.callbacks.Callback):
    """Reads the penalty in the middle of a run, and after it."""

    def __init__(self, losses):
        super().__init__()
        self.losses, self.found, self.expected = losses, [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.before = self.model.get_weights()

    def on_train_batch_end(self, batch, logs=None):
        _, threshold = penalty(self.before)
        weights = self.model.get_weights()
        self.expected.append(penalty(weights, threshold=threshold)[0])
        self.found.append(float(self.losses(self.model)))


def eagerly(model):
    return sum(model.losses)


def compiled(**arguments):
    import tensorflow as tf

    return tf.function(lambda model: sum(model.losses), **arguments)


@pytest.mark.parametrize(
    "losses",
    [
        lambda: eagerly,
        lambda: compiled(),
        lambda: compiled(jit_compile=True),
        lambda: (
            lambda model: model.evaluate(
                np.zeros((2, 6)), np.zeros((2, 4)), verbose=0
            )
        ),
    ],
    ids=["eagerly", "compiled", "compiled by XLA", "evaluate"],
)
def test_between_steps_the_penalty_is_that_of_the_last_step(losses):
    model, watch = network(), Watch(losses())
    model.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=False)
    fit(model, watch)
    # At first it is not known yet who will read what.
    np.testing.assert_allclose(watch.found[1:], watch.expected[1:], rtol=1e-5)


def test_validation_does_not_change_the_run():
    plain, validated = network(), network()
    validated.set_weights(plain.get_weights())
    for model in (plain, validated):
        model.compile(keras.optimizers.SGD(RATE), "mse")
    data = np.ones((2, 6)), np.ones((2, 4))
    histories = [
        fit(plain),
        fit(validated, validation_data=data, validation_freq=1),
    ]
    for one, other in zip(
        plain.get_weights(), validated.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert histories[0]["swd_threshold"] == histories[1]["swd_threshold"]


def test_after_the_run_the_penalty_is_plain_weight_decay():
    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    fit(model)
    found = model.evaluate(np.zeros((2, 6)), np.zeros((2, 4)), verbose=0)
    plain, _ = penalty(model.get_weights(), strength=0.0)
    assert found == pytest.approx(plain, rel=1e-5)
    assert float(eagerly(model)) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        pytest.param({"jit_compile": True}, marks=pytest.mark.slow),
        pytest.param({"run_eagerly": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_thresholds_follow_when_a_model_is_compiled_anew(arguments):
    """What asked before may ask no more, and the other way round."""
    model, fresh = network(), network()
    model.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=False)
    fit(model)
    model.set_weights(fresh.get_weights())
    for each in (model, fresh):
        each.compile(keras.optimizers.SGD(RATE), "mse", **arguments)
        fit(each)
    for one, other in zip(
        model.get_weights(), fresh.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_two_models_in_turn_are_told_their_own():
    """They hold the same layers in another order."""
    dense = [square() for _ in range(2)]
    models = [
        keras.Sequential([keras.Input((6,)), *order])
        for order in (dense, dense[::-1])
    ]
    for model in (*models, *models):
        dense[0].kernel.assign(0.5 * keras.random.normal((6, 6)))
        dense[1].kernel.assign(keras.random.normal((6, 6)))
        model.compile(keras.optimizers.SGD(RATE), "mse")
        train_squares(model)
        left = [np.count_nonzero(layer.get_weights()[0]) for layer in dense]
        assert sum(left) == 72 - round(SPARSITY * 72)
        assert left[1] > left[0]


def test_steps_of_one_program_ask_at_each_step():
    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse", steps_per_execution=3)
    weights = [w.copy() for w in model.get_weights()]
    start = np.concatenate([w.ravel() for w in weights]).astype("float64")

    class Last(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.seen = self.model.get_weights()

    last = Last()
    fit(model, last, epochs=1)
    for _ in range(STEPS):
        _, threshold = penalty([start])
        selected = np.abs(start) <= threshold
        start = start * (1.0 - RATE * DECAY * (1.0 + STRENGTH * selected))
    found = np.concatenate([w.ravel() for w in last.seen])
    np.testing.assert_allclose(found, start, rtol=1e-5)


def test_threads_that_wait_go_first_when_a_step_asks(monkeypatch):
    choose = Prunable.choose
    seen, last = [], []

    def chooses(self, counts):
        seen.append("chooses")
        return choose(self, counts)

    monkeypatch.setattr(hostcall, "give_way", lambda: seen.append("gives way"))
    monkeypatch.setattr(Prunable, "choose", chooses)
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.clear(),
        on_train_batch_end=lambda batch, logs: last.append(list(seen)),
    )
    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=False)
    fit(model, watch, epochs=1)
    assert last[1:] == [["gives way", "chooses"]] * (STEPS - 1)


class Evaluate(keras.callbacks.Callback):
    """Evaluates at a moment of the run, on its own data."""

    def __init__(self, moment, times=1):
        super().__init__()
        self.times = times
        setattr(self, moment, self.evaluate)

    def evaluate(self, *_, **__):
        for _ in range(self.times):
            self.model.evaluate(np.ones((4, 6)), np.ones((4, 4)), verbose=0)


@short_run
@pytest.mark.parametrize(
    "first",
    [
        pytest.param(True, id="before"),
        pytest.param(False, id="after", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("on_train_begin", marks=pytest.mark.slow),
        pytest.param("on_epoch_begin", marks=pytest.mark.slow),
        pytest.param("on_train_batch_begin", marks=pytest.mark.slow),
        pytest.param("on_train_batch_end", marks=pytest.mark.slow),
        "on_epoch_end",
        pytest.param("on_train_end", marks=pytest.mark.slow),
    ],
)
def test_evaluation_at_any_moment_changes_nothing(moment, first):
    plain, model = network(), network()
    model.set_weights(plain.get_weights())
    growing = Exponential(0.1, STRENGTH, finish=0.5)
    histories = []
    for each, others in ((plain, []), (model, [Evaluate(moment, times=2)])):
        each.compile(keras.optimizers.SGD(RATE), "mse")
        pruning = PruningScheduler(SPARSITY, growing, GlobalRanking())
        callbacks = [*others, pruning] if first else [pruning, *others]
        history = each.fit(
            np.zeros((STEPS, 6)),
            np.zeros((STEPS, 4)),
            batch_size=2,
            epochs=2,
            verbose=0,
            callbacks=callbacks,
        )
        histories.append(history.history)
    for one, other in zip(
        plain.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for key in ("swd_strength", "swd_threshold", "swd_residual"):
        assert histories[0][key] == histories[1][key]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_step_that_never_runs_is_not_counted():
    """Keras begins one at the end of data of unknown length."""
    import tensorflow as tf

    signature = tuple(tf.TensorSpec((2, n)) for n in (6, 4))
    batch = np.zeros((2, 6)), np.zeros((2, 4))
    data = tf.data.Dataset.from_generator(
        lambda: (batch for _ in range(STEPS)), output_signature=signature
    )
    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    growing = Exponential(0.1, STRENGTH, finish=0.5)
    total = 3 * STEPS
    history = model.fit(
        data,
        epochs=3,
        verbose=0,
        shuffle=False,
        validation_data=batch,
        callbacks=[
            PruningScheduler(
                SPARSITY, growing, GlobalRanking(), total_steps=total
            )
        ],
    ).history
    told = [growing((STEPS * (i + 1) - 1) / total) for i in range(3)]
    assert history["swd_strength"] == pytest.approx(told)


@pytest.mark.parametrize(
    "ended",
    [True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["ended", "interrupted"],
)
def test_a_model_that_is_dropped_is_freed(ended):
    def run():
        model = network()
        model.compile(keras.optimizers.SGD(RATE), "mse")
        if ended:
            fit(model)
        else:
            with pytest.raises(KeyboardInterrupt):
                fit(model, Interrupt())
        return [weakref.ref(v) for v in (model, *model.trainable_variables)]

    alive = run()
    keras.backend.clear_session()
    gc.collect()
    assert [each() for each in alive] == [None] * 3


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 3:
            raise KeyboardInterrupt


@short_run
def test_a_run_after_an_interrupted_one_does_not_go_on_with_its_schedule():
    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse")
    pruning = PruningScheduler(
        SPARSITY, Exponential(0.1, STRENGTH), GlobalRanking()
    )
    x, y = np.zeros((STEPS * 2, 6)), np.zeros((STEPS * 2, 4))
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            x,
            y,
            batch_size=2,
            verbose=0,
            callbacks=[Interrupt(), pruning],
        )
    before = model.get_weights()
    model.fit(x, y, batch_size=2, verbose=0)
    told = 0.1 * (STRENGTH / 0.1) ** (3 / STEPS)
    left = (1.0 - RATE * DECAY * (1.0 + told)) ** STEPS
    for one, other in zip(before, model.get_weights(), strict=True):
        assert (np.abs(other) > 0.999 * left * np.abs(one)).all()


@pytest.mark.slow
def test_models_that_share_layers_in_turn_ask_for_their_own():
    dense = [square() for _ in range(3)]
    models = [
        keras.Sequential([keras.Input((6,)), *own])
        for own in (dense[:2], dense, dense[:2], dense[1:])
    ]
    for model in models:
        model.compile(keras.optimizers.SGD(RATE), "mse")
    for model in (*models, *models):
        for layer in dense:
            layer.kernel.assign(keras.random.normal((6, 6)))
        history = train_squares(model)
        assert history["swd_residual"][-1] < 1e-4


def test_a_loop_of_ones_own_goes_on_asking_after_another_model_trained():
    import tensorflow as tf

    dense = [square() for _ in range(3)]
    one, other = (
        keras.Sequential([keras.Input((6,)), *own])
        for own in (dense[:2], dense)
    )
    optimizer = keras.optimizers.SGD(RATE)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = sum(one.losses)
        variables = one.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    def loop():
        for layer in dense:
            layer.kernel.assign(keras.random.normal((6, 6)))
        pruning = scheduler()
        pruning.set_model(one)
        pruning.set_params({"epochs": 1, "steps": 2 * STEPS})
        pruning.on_train_begin()
        pruning.on_epoch_begin(0)
        for batch in range(2 * STEPS):
            pruning.on_train_batch_begin(batch)
            step()
            pruning.on_train_batch_end(batch)
        logs = {}
        pruning.on_epoch_end(0, logs)
        pruning.on_train_end()
        assert logs["swd_residual"] < 1e-4

    loop()
    other.compile(keras.optimizers.SGD(RATE), "mse")
    train_squares(other)
    loop()


def test_values_that_are_handed_out_are_read_in_their_thread_alone():
    variable = keras.Variable(np.ones(3, "float32"))
    handed, seen = np.zeros(3, "float32"), []
    with given([variable], [handed]):
        assert read(variable) is handed
        other = threading.Thread(
            target=lambda: seen.append(read(variable).tolist())
        )
        other.start()
        other.join()
    assert seen == [[1.0, 1.0, 1.0]]
    assert read(variable).tolist() == [1.0, 1.0, 1.0]


def wide_network(dtype):
    """Kernels of several widths of controls, and one in several pieces."""
    swd, other = SelectiveWeightDecay(DECAY), SelectiveWeightDecay(2.0 * DECAY)
    channels = SelectiveWeightDecay(DECAY, granularity=Channel(-1))
    return keras.Sequential(
        [
            keras.Input((6,), dtype="float32"),
            layers.Dense(211, kernel_regularizer=channels, dtype=dtype),
            layers.Dense(307, kernel_regularizer=swd, dtype=dtype),
            layers.Dense(8, kernel_regularizer=other, dtype=dtype),
            layers.Dense(4, kernel_regularizer=swd, dtype=dtype),
        ]
    )


@short_run
@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param("mixed_float16", marks=pytest.mark.slow),
        pytest.param("float64", marks=pytest.mark.slow),
    ],
)
def test_each_kernel_is_told_its_own_numbers(dtype):
    import tensorflow as tf

    model = wide_network(dtype)
    model.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=False)
    asked = tf.function(lambda: list(map(tf.identity, model.losses)))
    found = []

    def compare(batch, logs):
        eager = [float(loss) for loss in model.losses]
        assert min(eager) > 0.0
        found.append(np.array(asked()) / eager)

    fit(model, keras.callbacks.LambdaCallback(on_train_batch_end=compare))
    assert len(found) == 2 * STEPS
    np.testing.assert_allclose(found, 1.0, rtol=2e-6)
    np.testing.assert_allclose(np.array(asked()), plain(model), rtol=2e-6)


def plain(model):
    """The decay of each kernel where nothing is selected."""
    return [
        0.5 * layer.kernel.regularizer.instance.weight_decay * np.sum(kernel**2)
        for layer in model.layers
        for kernel in [np.asarray(layer.kernel).astype("float64")]
    ]


@pytest.mark.slow
@short_run
def test_a_kernel_that_changed_in_a_program_is_not_taken_for_what_it_was():
    import tensorflow as tf

    model = network()
    model.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=False)
    kernel = model.layers[0].kernel

    @tf.function
    def twice():
        before = tf.identity(model.losses[0])
        doubled = kernel.regularizer(2.0 * kernel)
        kernel.assign(0.5 * kernel)
        return before, doubled, tf.identity(model.losses[0])

    fit(model)
    before, doubled, after = map(float, twice())
    assert after == pytest.approx(0.25 * before, rel=1e-6)
    assert doubled == pytest.approx(4.0 * before, rel=1e-6)
