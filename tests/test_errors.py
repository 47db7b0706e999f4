"""Every error that the core promises: class, argument, value, remedy."""

import math
import re
import types
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_swd
from keras_swd import (
    NM,
    Block,
    Channel,
    Constant,
    Exponential,
    Linear,
    Polynomial,
    PruningScheduler,
    SelectiveWeightDecay,
)
from keras_swd.backend.processes import in_pieces

# Where it is constructed -----------------------------------------------------

SPARSITIES = [
    (1.0, r"`sparsity`.*\[0, 1\).*sparsity=1\.0"),
    (-0.5, r"`sparsity`.*\[0, 1\).*sparsity=-0\.5"),
    (90, r"sparsity=90.*For 90 percent, pass 0\.9"),
    (99.5, r"For 99\.5 percent, pass 0\.995"),
    (math.nan, "`sparsity`.*sparsity=nan"),
    (math.inf, "`sparsity`.*sparsity=inf"),
    ("0.9", "`sparsity`.*sparsity='0.9'"),
    (True, "`sparsity`.*sparsity=True"),
    ([0.5], r"`sparsity`.*sparsity=\[0\.5\]"),
    (np.array([0.5, 0.6]), r"`sparsity`.*sparsity=array"),
]


@pytest.mark.parametrize(("sparsity", "message"), SPARSITIES)
@pytest.mark.parametrize(
    "use",
    [
        lambda s: PruningScheduler(sparsity=s),
        lambda s: SelectiveWeightDecay(sparsity=s),
        lambda s: keras_swd.remove(model(), sparsity=s),
    ],
    ids=["scheduler", "regularizer", "remove"],
)
def test_a_sparsity_out_of_range(use, sparsity, message):
    with pytest.raises(ValueError, match=message):
        use(sparsity)


@pytest.mark.parametrize(
    ("weight_decay", "shown"),
    [
        (-1e-4, r"-0\.0001"),
        ("5e-4", "'5e-4'"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (None, "None"),
        (True, "True"),
    ],
)
def test_a_weight_decay_that_is_none(weight_decay, shown):
    with pytest.raises(
        ValueError, match=f"`weight_decay`.*0 or greater.*weight_decay={shown}"
    ):
        SelectiveWeightDecay(weight_decay)


@pytest.mark.parametrize("schedule", [Linear, Exponential, Polynomial])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1.0), r"`start`.*greater.*start=-1\.0"),
        ((0.1, 0.0), r"`end`.*greater than 0.*end=0\.0"),
        ((0.1, math.inf), "`end`.*end=inf"),
        ((2.0, 1.0), r"`start`.*`end`.*start=2\.0, end=1\.0"),
    ],
)
def test_a_strength_that_is_negative_or_falls(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(*arguments)


def test_a_strength_that_grows_by_factors_from_nothing():
    message = r"`start`.*greater than 0.*start=0\.0"
    with pytest.raises(ValueError, match=message):
        Exponential(0.0, 1.0)


@pytest.mark.parametrize("schedule", [Linear, Exponential, Polynomial])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"begin": -0.1}, r"`begin`.*\[0, 1\].*begin=-0\.1"),
        ({"finish": 1.5}, r"`finish`.*\[0, 1\].*finish=1\.5"),
        ({"finish": "end"}, "`finish`.*finish='end'"),
        (
            {"begin": 0.8, "finish": 0.2},
            r"`begin` must be less than `finish`.*begin=0\.8, finish=0\.2",
        ),
        ({"begin": 0.5, "finish": 0.5}, "`begin` must be less than `finish`"),
    ],
)
def test_a_growth_outside_the_run_or_reversed(schedule, arguments, message):
    with pytest.raises(ValueError, match=message):
        schedule(0.1, 1.0, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 100.0}, r"`schedule`.*Exponential.*schedule=100\.0"),
        ({"schedule": Constant}, "`schedule`.*schedule=<class"),
        ({"allocation": "lamp"}, r"`allocation`.*LAMP\(\).*allocation='lamp'"),
        ({"total_steps": 0}, "`total_steps`.*1 or greater.*total_steps=0"),
        ({"total_steps": 1.5}, r"`total_steps`.*integer.*total_steps=1\.5"),
        ({"reallocations": -1}, "`reallocations`.*reallocations=-1"),
        ({"reallocations": True}, "`reallocations`.*reallocations=True"),
        ({"remove_at": 1.1}, r"`remove_at`.*\[0, 1\].*remove_at=1\.1"),
        ({"remove_at": 0.0}, r"`remove_at`.*use `remove`.*remove_at=0\.0"),
    ],
    ids=str,
)
def test_a_scheduler_refuses_other_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PruningScheduler(0.5, **arguments)


def test_what_is_nothing_is_not_taken_for_a_default():
    with pytest.raises(ValueError, match=r"`granularity`.*granularity=0"):
        SelectiveWeightDecay(granularity=0)
    with pytest.raises(ValueError, match=r"`criterion`.*criterion=0"):
        SelectiveWeightDecay(criterion=0)


def test_a_number_beyond_all_floats_is_refused():
    with pytest.raises(ValueError, match="`weight_decay`"):
        SelectiveWeightDecay(weight_decay=10**400)


def test_a_granularity_must_be_one_and_may_fix_the_sparsity():
    with pytest.raises(
        ValueError, match=r"`granularity`.*Channel.*granularity='channel'"
    ):
        SelectiveWeightDecay(granularity="channel")
    with pytest.raises(
        ValueError, match=r"`sparsity` must be None or 0\.5.*sparsity=0\.9"
    ):
        SelectiveWeightDecay(sparsity=0.9, granularity=NM(2, 4))


# At the start of `fit` -------------------------------------------------------


def swd(**arguments):
    return SelectiveWeightDecay(0.01, **arguments)


def model(first=None, second=None):
    """Two dense layers, 48 and 24 weights, compiled."""
    network = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, use_bias=False, kernel_regularizer=first or swd()),
            layers.Dense(3, use_bias=False, kernel_regularizer=second or swd()),
        ]
    )
    network.compile(keras.optimizers.SGD(0.1), "mse")
    return network


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((32, 6)), rng.standard_normal((32, 3))


def fit(network, scheduler, *callbacks, **arguments):
    return network.fit(
        *data(),
        batch_size=4,
        verbose=0,
        callbacks=[scheduler, *callbacks],
        **{"epochs": 2, **arguments},
    )


def scheduler(sparsity=0.7, **arguments):
    schedule = Exponential(0.1, 500.0, finish=0.3)
    return PruningScheduler(sparsity, schedule, **arguments)


def assert_refused(network, pruning, message, **arguments):
    """`fit` raises before any step, and leaves the model as it was."""
    before = network.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(network, pruning, **arguments)
    assert all(map(np.array_equal, network.get_weights(), before))
    assert int(network.optimizer.iterations) == 0


def test_a_model_without_a_pruning_regularizer():
    plain = keras.regularizers.L2(1e-4)
    assert_refused(
        model(plain, plain),
        scheduler(),
        r"No trainable kernel of model 'sequential.*'.*`kernel_regularizer="
        r"keras_swd.SelectiveWeightDecay\(\)`.*with_regularizer",
    )


def test_a_model_whose_prunable_layers_are_all_frozen():
    network = model()
    network.trainable = False
    network.compile("sgd", "mse")
    assert_refused(network, scheduler(), "No trainable kernel")


def test_a_model_that_is_not_built_is_not_said_to_lack_a_regularizer():
    network = keras.Sequential([layers.Dense(3, kernel_regularizer=swd())])
    with pytest.raises(ValueError, match="`model` must be built"):
        keras_swd.remove(network, 0.5)


@pytest.mark.parametrize(
    ("granularity", "message"),
    [
        (Block((4, 1)), r"'.*kernel'.*Block\(shape=\(4, 1\)\).*\(6, 8\)"),
        (Channel(axis=2), r"'.*kernel'.*axis=2.*\(6, 8\)"),
        (NM(2, 4), r"'.*kernel'.*NM\(n=2, m=4.*\(6, 8\)"),
    ],
    ids=repr,
)
def test_a_granularity_that_does_not_fit(granularity, message):
    assert_refused(
        model(swd(granularity=granularity)),
        scheduler(),
        f"{message}.*another granularity, or no pruning regularizer",
    )


def test_without_a_scheduler_no_granularity_is_an_error():
    """It is plain weight decay then, and nothing is selected."""
    network = model(swd(granularity=Block((4, 1))))
    network.fit(*data(), verbose=0)
    decay = 0.005 * sum(np.sum(w**2) for w in network.get_weights())
    losses = sum(float(ops.convert_to_numpy(x)) for x in network.losses)
    assert losses == pytest.approx(decay, rel=1e-4)


def test_a_kernel_without_a_target():
    assert_refused(
        model(swd(sparsity=0.5), swd()),
        scheduler(None),
        r"Kernel '.*kernel' has no target.*`sparsity`.*sparsity=None",
    )


def test_a_kernel_in_pieces_on_several_machines(monkeypatch):
    """As with JAX, for one is not to be had in a single process."""
    piece = types.SimpleNamespace(
        is_fully_addressable=False, is_fully_replicated=False
    )
    network = model()
    kernel = network.layers[1].kernel
    monkeypatch.setattr(
        "keras_swd.prunable.in_pieces",
        lambda variable: in_pieces(
            types.SimpleNamespace(value=piece)
            if variable is kernel
            else variable
        ),
    )
    assert_refused(
        network,
        scheduler(),
        f"'{kernel.path}' lies in pieces on several machines.*DataParallel",
    )


def test_an_unknown_number_of_steps():
    network = model()
    before = network.get_weights()
    x, y = data()
    with pytest.raises(
        ValueError,
        match=r"number of steps.*unknown.*`total_steps` to PruningScheduler, "
        r"or `steps_per_epoch` to `fit`.*steps=None, epochs=2",
    ):
        network.fit(
            ((x, y) for _ in range(8)),
            epochs=2,
            shuffle=False,
            verbose=0,
            callbacks=[scheduler()],
        )
    assert all(map(np.array_equal, network.get_weights(), before))
    assert int(network.optimizer.iterations) == 0


def test_a_loop_of_ones_own_has_to_tell_the_steps():
    pruning = scheduler(total_steps=8)
    pruning.set_model(model())
    with pytest.raises(ValueError, match="call `set_params`"):
        pruning.on_train_begin()


def test_a_criterion_is_no_class():
    with pytest.raises(ValueError, match=r"`criterion` must be a function"):
        swd(criterion=keras_swd.Magnitude)


def test_remove_checks_as_fit_does():
    plain = keras.regularizers.L2(1e-4)
    with pytest.raises(ValueError, match="No trainable kernel"):
        keras_swd.remove(model(plain, plain), 0.5)
    with pytest.raises(ValueError, match=r"has no target.*sparsity=None"):
        keras_swd.remove(model())
    with pytest.raises(ValueError, match=r"cannot be pruned.*\(6, 8\)"):
        keras_swd.remove(model(swd(granularity=Block((4, 1)))), 0.5)
    with pytest.raises(ValueError, match=r"`allocation` must be.*'lamp'"):
        keras_swd.remove(model(), 0.5, allocation="lamp")
    with pytest.raises(ValueError, match="must be a Keras model"):
        keras_swd.remove("model.keras", 0.5)


# Runs that end before their schedule ----------------------------------------


class StopAfter(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.last:
            self.model.stop_training = True


def test_a_run_that_ends_early_says_what_to_do():
    network = model()
    with pytest.warns(
        UserWarning,
        match=r"ended at 25% of its schedule, so nothing was removed; selected "
        r"weights still hold [\d.e-]+ of the squared norm.*`initial_epoch`.*"
        r"`keras_swd.remove\(model, sparsity=0\.7, "
        r"allocation=keras_swd\.LAMP\(\)\)`.*accuracy",
    ):
        fit(network, scheduler(), StopAfter(0), epochs=4)
    assert all(np.count_nonzero(w) == w.size for w in network.get_weights())


@pytest.mark.parametrize("sparsity", [0.0, 0.7])
def test_a_run_that_will_do_as_asked_warns_of_nothing(sparsity):
    """Warnings are errors here."""
    network = model()
    fit(network, scheduler(sparsity), epochs=3)
    zeros = sum(np.count_nonzero(w == 0.0) for w in network.get_weights())
    assert zeros == round(sparsity * 72)


def test_a_schedule_too_weak_to_reach_zero_is_reported():
    weak = PruningScheduler(0.7, Constant(1.0))
    with pytest.warns(UserWarning, match=r"keep \d+% of its value.*`finish`"):
        fit(model(), weak)


def test_magnitude_pruning_at_half_time_warns_of_nothing_and_keeps_zeros():
    """With no selective decay nothing is meant to be driven down."""
    network = model()
    fit(network, PruningScheduler(0.7, Constant(0.0), remove_at=0.5), epochs=4)
    zeros = sum(np.count_nonzero(w == 0.0) for w in network.get_weights())
    assert zeros == round(0.7 * 72)


def test_a_step_that_would_be_unstable_is_reported():
    strong = PruningScheduler(0.7, Constant(1700.0))
    with pytest.warns(
        UserWarning, match=r"decay by 1\.7 a step.*Lower the end"
    ):
        fit(model(), strong)


def test_a_kernel_is_reported_though_counts_were_found_before_it_was_time():
    growing = Exponential(0.1, 500.0, finish=0.5)
    with pytest.warns(UserWarning, match="is about to keep 0 of its 24"):
        fit(
            model(second=swd(sparsity=0.99)),
            PruningScheduler(0.7, growing, reallocations=1),
        )


def test_a_kernel_that_would_lose_nearly_everything_is_reported():
    with pytest.warns(
        UserWarning, match=r"Kernel '.*kernel' is about to keep 0 of its 24"
    ):
        fit(model(second=swd(sparsity=0.99)), scheduler())


# NaN and infinity ------------------------------------------------------------

BAD = [math.nan, math.inf, -math.inf]


def spoil(network, value):
    """Puts a value into the second kernel; returns all kernels."""
    kernel = network.layers[1].kernel
    values = np.array(ops.convert_to_numpy(kernel))
    values[3, 1] = value
    kernel.assign(values)
    return network.get_weights()


def assert_unchanged(network, before):
    for got, expected in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize(
    "allocation",
    [keras_swd.LAMP(), keras_swd.GlobalRanking(), keras_swd.Uniform()],
    ids=repr,
)
def test_remove_refuses_a_kernel_that_is_not_finite(value, allocation):
    network = model()
    before = spoil(network, value)
    with pytest.raises(
        ValueError,
        match=r"Kernel '.*kernel' holds NaN or infinity.*Nothing was removed.*"
        "lower the learning rate",
    ):
        keras_swd.remove(network, 0.7, allocation)
    assert_unchanged(network, before)


class Spoil(keras.callbacks.Callback):
    """Puts a value into a kernel after a step of the first epoch."""

    def __init__(self, value, batch):
        super().__init__()
        self.value, self.batch, self.epoch = value, batch, None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (0, self.batch):
            spoil(self.model, self.value)


class Watch(keras.callbacks.Callback):
    """The weights after the last step of each epoch."""

    def on_train_batch_end(self, batch, logs=None):
        self.weights = self.model.get_weights()


@pytest.mark.parametrize("value", BAD[:2])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"remove_at": 0.5}, {"allocation": keras_swd.GlobalRanking()}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:A weight selected when")
def test_a_run_that_diverged_removes_nothing_and_says_so(value, arguments):
    network, watch = model(), Watch()
    with pytest.raises(ValueError, match=r"holds NaN or infinity.*diverged"):
        fit(network, scheduler(**arguments), Spoil(value, 2), watch)
    assert_unchanged(network, watch.weights)
    assert np.isnan(network.get_weights()[1]).any()


def test_infinity_when_an_epoch_ends_is_no_error_of_arithmetic():
    class Overflow(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            kernel = self.model.layers[1].kernel
            kernel.assign(np.full(kernel.shape, math.inf, "float32"))

    network = model()
    pruning = scheduler(allocation=keras_swd.GlobalRanking())
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        network.fit(
            *data(),
            batch_size=4,
            epochs=3,
            verbose=0,
            callbacks=[Overflow(), pruning],
        )


def test_divergence_is_foretold_and_ends_without_a_removal():
    """The one error is ours, and no forecast speaks of more than the whole."""
    network, watch = model(), Watch()
    strong = PruningScheduler(0.7, Constant(1e4))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            fit(network, strong, watch, epochs=12)
    assert_unchanged(network, watch.weights)
    messages = [str(w.message) for w in seen]
    assert any("this optimizer diverges" in m for m in messages)
    assert not any(re.search(r"keep \d{3,}%", m) for m in messages)
    assert not any(w.category is RuntimeWarning for w in seen)


def test_a_run_that_ends_upon_nan_warns_and_keeps_the_weights():
    network, watch = model(), Watch()
    stop = keras.callbacks.TerminateOnNaN()
    with pytest.warns(UserWarning, match="nothing was removed"):
        fit(network, scheduler(), Spoil(math.nan, 2), watch, stop)
    assert_unchanged(network, watch.weights)


@pytest.mark.parametrize("steps", [0, 3])
def test_an_interrupted_run_is_ended_by_hand(steps):
    network = model()
    pruning = PruningScheduler(0.7, Constant(500.0))

    class Interrupt(keras.callbacks.Callback):
        done = 0

        def on_train_batch_begin(self, batch, logs=None):
            if self.done == steps:
                raise KeyboardInterrupt
            self.done += 1

    with pytest.raises(KeyboardInterrupt):
        fit(network, pruning, Interrupt())

    def penalty():
        return network.evaluate(*data(), batch_size=80, verbose=0) - float(
            np.mean((network.predict(data()[0], verbose=0) - data()[1]) ** 2)
        )

    plain = sum(
        0.5
        * layer.kernel_regularizer.weight_decay
        * float(np.sum(layer.get_weights()[0] ** 2))
        for layer in network.layers
    )
    assert penalty() > 2.0 * plain
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        pruning.on_train_end()
    told = [w for w in seen if "nothing was removed" in str(w.message)]
    assert len(told) == (steps > 0)
    assert penalty() == pytest.approx(plain, rel=1e-3)


def test_a_run_without_a_step_changes_nothing_and_is_silent():
    network = model()
    before = network.get_weights()
    fit(network, scheduler(), epochs=2, initial_epoch=2)
    assert_unchanged(network, before)
    unbuilt = keras.Sequential([layers.Dense(3, kernel_regularizer=swd())])
    unbuilt.compile("sgd", "mse")
    fit(unbuilt, scheduler(), epochs=2, initial_epoch=2)


def test_data_that_can_be_gone_through_once_are_refused():
    with pytest.raises(
        ValueError,
        match=r"`monitor_data` .*iterator.*`\(x, y\)`.*monitor_data=",
    ):
        scheduler(monitor_data=iter([data()]))


# Models built again ----------------------------------------------------------


def test_a_model_that_is_not_built_cannot_be_rebuilt():
    unbuilt = keras.Sequential([layers.Dense(3, kernel_regularizer=swd())])
    message = r"must be built, 'sequential.*`model.build\(input_shape\)`"
    with pytest.raises(ValueError, match=message):
        keras_swd.strip(unbuilt)
    with pytest.raises(ValueError, match=message):
        keras_swd.with_regularizer(unbuilt, swd())


def test_a_model_without_a_working_configuration_cannot_be_rebuilt():
    class Closed(keras.Model):
        def __init__(self, units, **arguments):
            super().__init__(**arguments)
            self.head = layers.Dense(len(units), kernel_regularizer=swd())

        def call(self, inputs):
            return self.head(inputs)

        def get_config(self):
            raise NotImplementedError("no config")

    network = Closed([1, 2])
    network(np.zeros((1, 6)))
    with pytest.raises(
        ValueError, match=r"'closed' of class Closed.*`get_config\(\)`.*no conf"
    ):
        keras_swd.strip(network)


@pytest.mark.parametrize("regularizer", ["l2", keras.regularizers.L2(), None])
def test_only_a_pruning_regularizer_can_be_added(regularizer):
    with pytest.raises(
        ValueError,
        match=r"`regularizer`.*SelectiveWeightDecay\(\).*regularizer=",
    ):
        keras_swd.with_regularizer(model(), regularizer)
