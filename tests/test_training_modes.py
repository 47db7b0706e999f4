"""Training in all the ways that Keras users train.

Most tests train "in the dark": inputs are zero and layers have no bias, so the
data have no gradient, and what the penalty does to each weight at each step is
known exactly.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import reference
from keras import layers, ops

import keras_swd
from keras_swd import GlobalRanking, PruningScheduler, SelectiveWeightDecay

BACKEND = keras.backend.backend()
RATE, DECAY, SPARSITY = 0.1, 0.01, 0.7
EPOCHS, STEPS, BATCH = 3, 8, 4
TOTAL = EPOCHS * STEPS
GROWTH = {"start": 0.1, "end": 500.0, "finish": 0.5}

tensorflow_only = pytest.mark.tensorflow
not_torch = pytest.mark.skipif(
    BACKEND == "torch", reason="Keras on PyTorch does not have this"
)
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="needs PyTorch")
#: These runs are too short to drive selected weights to zero, and say so.
short_run = pytest.mark.filterwarnings("ignore:A weight selected when")
#: Keras says this at the end of each epoch whose length it does not know.
ends = pytest.mark.filterwarnings("ignore:Your input ran out of data")
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="needs JAX")


# What every test needs -------------------------------------------------------


def dense(units, regularizer):
    return layers.Dense(units, use_bias=False, kernel_regularizer=regularizer)


def sequential(new):
    return keras.Sequential(
        [keras.Input((6,)), dense(8, new()), dense(3, new())]
    )


def functional(new):
    inputs = keras.Input((6,))
    left = layers.ReLU()(dense(8, new())(inputs))
    right = dense(8, new())(inputs)
    return keras.Model(inputs, dense(3, new())(left + right))


class Subclassed(keras.Model):
    def __init__(self, new):
        super().__init__()
        self.stem = dense(8, new())
        self.heads = [dense(3, new()), dense(3, new())]

    def call(self, inputs):
        x = ops.relu(self.stem(inputs))
        return self.heads[0](x) + self.heads[1](x)


def nested(new):
    inputs = keras.Input((6,))
    block = keras.Sequential(
        [keras.Input((6,)), dense(5, new()), dense(6, new())]
    )
    return keras.Model(inputs, dense(3, new())(block(inputs)))


def layer_used_twice(new):
    inputs = keras.Input((6,))
    shared = dense(6, new())
    return keras.Model(inputs, dense(3, new())(shared(shared(inputs))))


def one_for_all():
    regularizer = SelectiveWeightDecay(DECAY)
    return lambda: regularizer


def one_per_layer():
    return lambda: SelectiveWeightDecay(DECAY)


def compiled(model=None, optimizer=None, **arguments):
    model = sequential(one_for_all()) if model is None else model
    optimizer = optimizer or keras.optimizers.SGD(RATE)
    model.compile(optimizer, "mse", **arguments)
    return model


def scheduler(sparsity=SPARSITY, **arguments):
    arguments.setdefault("schedule", keras_swd.Exponential(**GROWTH))
    arguments.setdefault("allocation", GlobalRanking())
    return PruningScheduler(sparsity, **arguments)


def kernels(model):
    return [
        np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables
    ]


def zeros(model):
    return sum(int(np.count_nonzero(k == 0.0)) for k in kernels(model))


def count_of(size, sparsity=SPARSITY):
    return round(sparsity * size)


def share(model, sparsity=SPARSITY):
    return count_of(sum(k.size for k in kernels(model)), sparsity)


class Record(keras.callbacks.Callback):
    """The kernels when training starts and at the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.start = kernels(self.model)
        self.after = []

    def on_epoch_end(self, epoch, logs=None):
        self.after.append(kernels(self.model))


def dark(steps=STEPS):
    return np.zeros((steps * BATCH, 6)), np.zeros((steps * BATCH, 3))


def lit(steps=STEPS):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps * BATCH, 6))
    return x, x @ rng.standard_normal((6, 3))


def train(model, *data, pruning=None, **arguments):
    """Returns the history, and the kernels before and during training."""
    record = Record()
    pruning = pruning or scheduler()
    arguments = {"epochs": EPOCHS, **arguments}
    if isinstance(data[0], np.ndarray):
        arguments.setdefault("batch_size", BATCH)
    else:
        # Keras warns that it cannot shuffle these.
        arguments["shuffle"] = False
    history = model.fit(
        *data, verbose=0, callbacks=[pruning, record], **arguments
    )
    return history.history, record


def strength(step, total=TOTAL):
    return reference.exponential(step / total, **GROWTH)


def after_penalty_alone(start, steps, every=1, momentum=0.0, nesterov=False):
    """The kernels after steps of SGD in which the data have no gradient.

    Every so many steps of an epoch share the strength, and the threshold, that
    the first of them found.
    """
    weights = np.concatenate([k.ravel() for k in start]).astype("float64")
    velocity, threshold, a = np.zeros_like(weights), None, None
    for step in steps:
        if step % STEPS % every == 0:
            threshold = np.sort(np.abs(weights))[count_of(weights.size) - 1]
            a = strength(step)
        selected = np.abs(weights) <= threshold
        change = -RATE * DECAY * (1.0 + a * selected) * weights
        velocity = momentum * velocity + change
        weights = weights + (
            momentum * velocity + change if nesterov else velocity
        )
    flat = np.split(weights, np.cumsum([k.size for k in start])[:-1])
    return [f.reshape(k.shape) for f, k in zip(flat, start, strict=True)]


def assert_close(got, expected):
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def assert_pruned_in_the_dark(model, history, record, every=1, **optimizer):
    """The strength's curve, each weight, and the number of zeros are right."""
    last = STEPS - 1 - (STEPS - 1) % every
    curve = [strength(epoch * STEPS + last) for epoch in range(EPOCHS)]
    assert history["swd_strength"] == pytest.approx(curve, rel=1e-9)
    for epoch, got in enumerate(record.after, start=1):
        steps = range(epoch * STEPS)
        assert_close(
            got, after_penalty_alone(record.start, steps, every, **optimizer)
        )
    size = sum(k.size for k in kernels(model))
    assert zeros(model) == count_of(size)
    assert history["sparsity"][-1] == pytest.approx(count_of(size) / size)
    assert history["swd_residual"][-1] < 1e-4 < history["swd_residual"][0]


# Models ----------------------------------------------------------------------


def built(new):
    model = Subclassed(new)
    model(dark(1)[0])
    return model


@pytest.mark.parametrize(
    "build",
    [sequential, functional, built, nested, layer_used_twice],
    ids=["sequential", "functional", "subclassed", "nested", "used twice"],
)
def test_selected_weights_alone_shrink_in_every_kind_of_model(build):
    model = compiled(build(one_for_all()))
    assert_pruned_in_the_dark(model, *train(model, *dark()))


@pytest.mark.parametrize(
    "build",
    [
        lambda new: keras.Sequential([dense(8, new()), dense(3, new())]),
        pytest.param(Subclassed, marks=pytest.mark.slow),
    ],
    ids=["sequential", "subclassed"],
)
def test_a_model_that_its_first_step_builds_is_pruned(build):
    model = compiled(build(one_for_all()))
    history, _ = train(model, *lit())
    assert zeros(model) == share(model)
    assert history["swd_strength"] == pytest.approx(
        [strength(7), strength(15), strength(23)]
    )


def test_one_regularizer_for_all_layers_does_as_one_for_each():
    results = []
    for new in (one_for_all(), one_per_layer()):
        keras.utils.set_random_seed(1)
        model = compiled(functional(new))
        history, _ = train(model, *lit(), shuffle=False)
        results.append((history, kernels(model)))
    (one_history, one), (other_history, other) = results
    for key, values in one_history.items():
        assert values == pytest.approx(other_history[key], rel=1e-4), key
    assert_close(one, other)


def test_a_layer_with_its_own_target_leaves_the_shared_one():
    own = SelectiveWeightDecay(DECAY, sparsity=0.25)
    shared = SelectiveWeightDecay(DECAY)
    model = compiled(
        keras.Sequential(
            [
                keras.Input((6,)),
                dense(7, shared),
                dense(9, own),
                dense(3, shared),
            ]
        )
    )
    train(model, *lit(), pruning=scheduler(0.8))
    first, second, third = (np.count_nonzero(k == 0.0) for k in kernels(model))
    assert second == round(0.25 * 7 * 9)
    assert first + third == round(0.8 * (6 * 7 + 9 * 3))


def test_a_scheduler_needs_no_target_where_every_layer_has_its_own():
    model = compiled(
        sequential(lambda: SelectiveWeightDecay(DECAY, sparsity=0.5))
    )
    history, _ = train(model, *lit(), pruning=scheduler(None))
    assert [np.count_nonzero(k == 0.0) for k in kernels(model)] == [24, 12]
    assert history["sparsity"][-1] == 0.5


def test_what_carries_no_pruning_regularizer_is_not_pruned():
    swd = SelectiveWeightDecay(DECAY)
    plain = layers.Dense(8, kernel_regularizer="l2")
    model = keras.Sequential([keras.Input((6,)), plain, dense(3, swd)])
    train(compiled(model), *lit())
    assert np.count_nonzero(ops.convert_to_numpy(plain.kernel)) == 6 * 8
    assert zeros(model) == round(SPARSITY * 24)


def test_a_frozen_layer_is_neither_pruned_nor_counted():
    model = sequential(one_for_all())
    model.layers[0].trainable = False
    frozen = model.layers[0].get_weights()[0]
    train(compiled(model), *lit())
    assert np.array_equal(model.layers[0].get_weights()[0], frozen)
    assert np.count_nonzero(frozen) == frozen.size
    assert zeros(model) == round(SPARSITY * 24)


@short_run
def test_a_layer_may_be_frozen_and_set_free_between_runs():
    model = compiled(functional(one_for_all()))
    train(model, *dark(), epochs=1)
    model.layers[-1].trainable = False
    train(compiled(model), *dark(), epochs=1)
    model.layers[-1].trainable = True
    model = compiled(model)
    start = kernels(model)
    model.fit(*dark(), batch_size=BATCH, verbose=0)
    assert_close(kernels(model), [k * (1 - RATE * DECAY) ** 8 for k in start])


@short_run
def test_one_regularizer_serves_two_models_in_turn():
    swd = SelectiveWeightDecay(DECAY)
    one, other = (compiled(sequential(lambda: swd)) for _ in range(2))
    train(one, *dark(), epochs=1)
    train(other, *dark(), epochs=1)
    keras.utils.set_random_seed(1)
    one.set_weights(sequential(lambda: None).get_weights())
    assert_pruned_in_the_dark(one, *train(one, *dark()))


@short_run
def test_two_models_may_hold_the_same_layers_in_another_order():
    swd = SelectiveWeightDecay(DECAY)
    one, other = dense(6, swd), dense(6, swd)
    models = []
    for first, second in [(one, other), (other, one)]:
        inputs = keras.Input((6,))
        models.append(compiled(keras.Model(inputs, second(first(inputs)))))
    x = np.zeros((STEPS * BATCH, 6))
    train(models[0], x, x, epochs=1)
    for layer, size in [(one, 0.5), (other, 1.0)]:
        layer.kernel.assign(size * keras.random.normal((6, 6)))
    assert_pruned_in_the_dark(models[1], *train(models[1], x, x))


def sizes_held(thing, seen):
    """How many numbers each array has that an object of ours keeps."""
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    arrays = np.ndarray, keras.Variable
    if isinstance(thing, arrays) or ops.is_tensor(thing):
        return [math.prod(thing.shape)]
    if isinstance(thing, dict):
        inner = list(thing.values())
    elif isinstance(thing, (list, tuple, set)):
        inner = list(thing)
    elif type(thing).__module__.startswith("keras_swd"):
        inner = list(vars(thing).values())
    else:
        return []
    return [size for each in inner for size in sizes_held(each, seen)]


def test_nothing_as_large_as_a_kernel_is_kept_between_steps():
    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen = {id(weight) for weight in model.weights}
            view = model.layers[0].kernel.regularizer
            sizes.append(max(sizes_held([pruning, view], seen)))

    sizes, pruning = [], scheduler()
    model = compiled(sequential(one_for_all()))
    model.fit(
        *lit(),
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[pruning, Watch()],
    )
    assert len(sizes) == TOTAL
    # Two kernels have two thresholds, to which the strength may be added.
    assert set(sizes) <= {2, 3}


# Compilation and precision ---------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"jit_compile": True}, marks=not_torch),
        {"jit_compile": False},
        {"run_eagerly": True},
    ],
    ids=str,
)
def test_compilation_changes_nothing(arguments):
    model = compiled(**arguments)
    assert_pruned_in_the_dark(model, *train(model, *dark()))


@not_torch
@pytest.mark.parametrize("together", [4, 3])
@pytest.mark.parametrize(
    "arguments", [{"jit_compile": True}, {"jit_compile": False}], ids=str
)
def test_steps_executed_together_share_what_they_cannot_ask(
    together, arguments
):
    """With 3 the last execution of an epoch is not full."""
    model = compiled(steps_per_execution=together, **arguments)
    record = train(model, *dark())
    asks = BACKEND == "tensorflow" and not arguments["jit_compile"]
    every = 1 if asks else together
    assert_pruned_in_the_dark(model, *record, every=every)


@pytest.fixture
def policy(request):
    """Sets the global policy that the test names."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16"], indirect=True
)
def test_mixed_precision_penalizes_in_full_precision(policy):
    model = compiled()
    assert model.layers[0].compute_dtype == policy.removeprefix("mixed_")
    assert_pruned_in_the_dark(model, *train(model, *dark()))


@pytest.mark.parametrize("policy", ["bfloat16"], indirect=True)
def test_kernels_in_half_precision_are_pruned_exactly(policy):
    model = compiled()
    assert model.layers[0].kernel.dtype == policy
    history, _ = train(model, *lit())
    assert zeros(model) == share(model)
    assert np.isfinite(history["loss"]).all()


# Optimizers ------------------------------------------------------------------


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_moves_each_weight_by_its_definition(nesterov):
    momentum = {"momentum": 0.5, "nesterov": nesterov}
    model = compiled(optimizer=keras.optimizers.SGD(RATE, **momentum))
    record = train(model, *dark())
    assert_pruned_in_the_dark(model, *record, **momentum)


@short_run
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.filterwarnings("ignore:The run ended at")
@pytest.mark.parametrize(
    "data", [{}, {"steps_per_execution": 2}], ids=["batches", "executions"]
)
def test_gradients_may_accumulate(data):
    if data and BACKEND == "torch":
        pytest.skip("Keras on PyTorch does not have this")
    optimizer = keras.optimizers.SGD(RATE, gradient_accumulation_steps=2)
    model = compiled(optimizer=optimizer, **data)
    x, y = lit()

    def batches():
        for start in range(0, len(x), BATCH):
            yield x[start : start + BATCH], y[start : start + BATCH]

    total = STEPS * EPOCHS
    pruning = scheduler(total_steps=total)
    history = []
    for epoch in range(EPOCHS):
        log = model.fit(
            batches(),
            verbose=0,
            shuffle=False,
            initial_epoch=epoch,
            epochs=epoch + 1,
            callbacks=[pruning],
        )
        history += log.history["swd_strength"]
    assert history == sorted(history)
    assert zeros(model) == share(model)


def test_a_scaled_loss_scales_nothing_else():
    inner = keras.optimizers.SGD(RATE)
    model = compiled(optimizer=keras.optimizers.LossScaleOptimizer(inner))
    assert_pruned_in_the_dark(model, *train(model, *dark()))


@short_run
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.05),
        lambda: keras.optimizers.AdamW(0.05, weight_decay=1e-3),
        lambda: keras.optimizers.RMSprop(0.05),
        lambda: keras.optimizers.SGD(
            keras.optimizers.schedules.CosineDecay(RATE, TOTAL), momentum=0.5
        ),
    ],
    ids=["adam", "adamw", "rmsprop", "cosine"],
)
def test_selected_weights_are_low_when_they_go(optimizer):
    model = compiled(optimizer=optimizer())
    _, record = train(model, *lit())
    assert zeros(model) == share(model)
    gone = [k == 0.0 for k in kernels(model)]

    def size(of, which):
        return np.mean(np.abs(np.concatenate([k[w] for k, w in which(of)])))

    def removed(of):
        return zip(of, gone, strict=True)

    def kept(of):
        return ((k, ~g) for k, g in removed(of))

    assert size(record.after[-1], removed) < 0.3 * size(record.start, removed)
    assert size(record.after[-1], kept) > 0.5 * size(record.start, kept)


# Data ------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        return dark(1)


def endless():
    while True:
        yield dark(1)


def of_unknown_length():
    import tensorflow as tf

    signature = tuple(tf.TensorSpec((BATCH, n)) for n in (6, 3))
    return tf.data.Dataset.from_generator(
        lambda: (dark(1) for _ in range(STEPS)), output_signature=signature
    )


def of_known_length():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(dark()).batch(BATCH)


def torch_batches():
    import torch

    data = torch.utils.data.TensorDataset(*map(torch.from_numpy, dark()))
    return torch.utils.data.DataLoader(data, batch_size=BATCH)


@pytest.mark.parametrize(
    ("data", "arguments", "total_steps"),
    [
        (endless, {"steps_per_epoch": STEPS}, None),
        (lambda: Batches(), {}, None),
        pytest.param(of_known_length, {}, None, marks=tensorflow_only),
        pytest.param(of_unknown_length, {}, TOTAL, marks=tensorflow_only),
        pytest.param(
            lambda: of_unknown_length().repeat(),
            {"steps_per_epoch": STEPS},
            None,
            marks=tensorflow_only,
        ),
        pytest.param(torch_batches, {}, None, marks=torch_only),
    ],
    ids=[
        "generator",
        "PyDataset",
        "tf.data",
        "tf.data of unknown length",
        "endless tf.data",
        "DataLoader",
    ],
)
@ends
def test_data_of_every_kind_give_the_same_curve(data, arguments, total_steps):
    model = compiled()
    pruning = scheduler(total_steps=total_steps)
    history, record = train(model, data(), pruning=pruning, **arguments)
    assert_pruned_in_the_dark(model, history, record)


@short_run
@ends
def test_a_generator_that_ends_needs_the_number_of_its_steps():
    model = compiled()
    history, _ = train(
        model,
        (dark(1) for _ in range(STEPS)),
        pruning=scheduler(total_steps=STEPS),
        epochs=1,
    )
    assert history["swd_strength"] == pytest.approx([strength(7, STEPS)])
    assert zeros(model) == share(model)


@pytest.mark.parametrize(
    "data",
    [endless, pytest.param(of_unknown_length, marks=tensorflow_only)],
)
def test_an_unknown_number_of_steps_is_an_error_before_any_step(data):
    model = compiled()
    start = kernels(model)
    with pytest.raises(
        ValueError, match=r"`total_steps`.*`steps_per_epoch`.*steps=None"
    ):
        train(model, data())
    assert all(map(np.array_equal, kernels(model), start))
    assert int(model.optimizer.iterations) == 0


# Several runs ----------------------------------------------------------------


def test_a_model_trained_before_without_pruning_is_pruned():
    model = compiled()
    model.fit(*dark(), batch_size=BATCH, verbose=0)
    assert_pruned_in_the_dark(model, *train(model, *dark()))


def test_after_pruning_training_is_plain_weight_decay():
    model = compiled()
    train(model, *dark())
    start = kernels(model)
    model.fit(*dark(), batch_size=BATCH, verbose=0)
    assert_close(kernels(model), [k * (1 - RATE * DECAY) ** 8 for k in start])
    assert model.evaluate(*dark(), verbose=0) == pytest.approx(
        DECAY / 2 * sum(np.sum(k**2) for k in kernels(model)), rel=1e-4
    )


def test_one_scheduler_serves_several_runs_and_models():
    pruning = scheduler()
    for model in (compiled(), compiled(functional(one_per_layer()))):
        record = train(model, *dark(), pruning=pruning)
        assert_pruned_in_the_dark(model, *record)
        keras.utils.set_random_seed(1)
        model.set_weights(keras.models.clone_model(model).get_weights())
        record = train(model, *dark(), pruning=pruning)
        assert_pruned_in_the_dark(model, *record)


def test_a_second_run_may_ask_for_more_sparsity():
    model = compiled()
    for sparsity in (0.5, 0.75):
        train(model, *lit(), pruning=scheduler(sparsity))
        assert zeros(model) == share(model, sparsity)


@pytest.mark.parametrize(
    "data",
    [
        lambda: Batches(),
        pytest.param(of_unknown_length, marks=tensorflow_only),
    ],
    ids=["known length", "unknown length"],
)
@ends
def test_a_run_in_two_parts_follows_one_curve(data):
    model = compiled()
    pruning = scheduler(total_steps=TOTAL)
    with pytest.warns(UserWarning, match="ended at 33% of its schedule"):
        history, record = train(model, data(), pruning=pruning, epochs=1)
    assert zeros(model) == 0
    rest, second = train(model, data(), pruning=pruning, initial_epoch=1)
    history = {key: values + rest[key] for key, values in history.items()}
    record.after += second.after
    assert_pruned_in_the_dark(model, history, record)


@tensorflow_only
@ends
def test_a_first_part_of_two_epochs_of_unknown_length_follows_the_curve():
    model = compiled()
    with pytest.warns(UserWarning, match="ended at 67% of its schedule"):
        history, _ = train(
            model,
            of_unknown_length(),
            pruning=scheduler(total_steps=TOTAL),
            epochs=2,
        )
    assert history["swd_strength"] == pytest.approx([strength(7), strength(15)])


@tensorflow_only
@ends
def test_an_epoch_once_counted_keeps_its_length_in_later_runs():
    model, total = compiled(), 4 * STEPS
    pruning = scheduler(total_steps=total)
    with pytest.warns(UserWarning, match="ended at 50% of its schedule"):
        train(model, of_unknown_length(), pruning=pruning, epochs=2)
    with pytest.warns(UserWarning, match="ended at 75% of its schedule"):
        history, _ = train(
            model,
            of_unknown_length(),
            pruning=pruning,
            epochs=3,
            initial_epoch=2,
        )
    # Not as if these 32 steps were those of three epochs.
    assert history["swd_strength"] == pytest.approx([strength(23, total)])


def test_a_later_initial_epoch_starts_on_the_curve():
    model = compiled()
    history, record = train(model, *dark(), initial_epoch=1)
    assert history["swd_strength"] == pytest.approx(
        [strength(15), strength(23)]
    )
    expected = after_penalty_alone(record.start, range(STEPS, TOTAL))
    assert_close(record.after[-1], expected)
    assert zeros(model) == share(model)


# Removal ---------------------------------------------------------------------


class ZerosAfterEachStep(keras.callbacks.Callback):
    """Where the kernels are zero after each step."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append([k == 0.0 for k in kernels(self.model)])


@short_run
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.Adam(0.05),
        lambda: keras.optimizers.SGD(RATE, momentum=0.5, nesterov=True),
    ],
    ids=["adam", "nesterov"],
)
def test_zeros_stay_zero_in_every_step_after_an_early_removal(optimizer):
    model = compiled(optimizer=optimizer())
    after = ZerosAfterEachStep()
    history = model.fit(
        *lit(),
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[scheduler(remove_at=0.5), after],
    ).history
    first = TOTAL // 2
    assert not any(g.any() for s in after.seen[:first] for g in s)
    for step in after.seen[first:]:
        assert sum(map(np.count_nonzero, step)) == share(model)
        assert all(map(np.array_equal, step, after.seen[first]))
    assert history["swd_strength"][1:] == [0.0, 0.0]
    assert history["swd_residual"][1:] == [0.0, 0.0]
    assert history["loss"][-1] < history["loss"][0]


@short_run
@not_torch
def test_zeros_stay_zero_where_steps_are_executed_together():
    model = compiled(steps_per_execution=4)
    after = ZerosAfterEachStep()
    model.fit(
        *lit(),
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[scheduler(remove_at=0.5), after],
    )
    counts = [sum(map(np.count_nonzero, step)) for step in after.seen]
    assert counts == [0, 0, 0] + 3 * [share(model)]


def test_a_run_that_stops_early_warns_and_removes_nothing():
    model = compiled(functional(one_for_all()))
    stop = keras.callbacks.EarlyStopping("sparsity", mode="max", patience=1)
    with pytest.warns(
        UserWarning,
        match=r"ended at 67% .*nothing was removed.*`initial_epoch`.*"
        rf"keras_swd.remove\(model, sparsity={SPARSITY}, "
        r"allocation=keras_swd\.GlobalRanking\(\)\)",
    ):
        model.fit(
            *lit(),
            batch_size=BATCH,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[scheduler(), stop],
        )
    assert zeros(model) == 0
    start = kernels(model)
    model.fit(*dark(1), batch_size=BATCH, verbose=0)
    assert_close(kernels(model), [k * (1 - RATE * DECAY) for k in start])
    keras_swd.remove(model, SPARSITY)
    assert zeros(model) == share(model)


@short_run
@pytest.mark.parametrize("remove_at", [0.5, 1.0])
def test_averaged_weights_bring_no_removed_weight_back(remove_at):
    """Keras overwrites the weights by their averages when `fit` ends."""
    optimizer = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.5)
    model = compiled(optimizer=optimizer)
    train(model, *lit(), pruning=scheduler(remove_at=remove_at))
    assert zeros(model) == share(model)


@short_run
def test_averages_that_are_put_in_place_for_a_while_are_pruned_too(tmp_path):
    optimizer = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=0.9)
    model = compiled(optimizer=optimizer)
    evaluated = []

    class Evaluated(keras.callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            evaluated.append(zeros(self.model))

    model.fit(
        *lit(),
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        validation_data=lit(1),
        callbacks=[
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            scheduler(remove_at=0.5),
            Evaluated(),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.keras"),
        ],
    )
    assert evaluated[-1] == share(model)
    saved = keras.saving.load_model(tmp_path / "last.keras")
    assert zeros(saved) == share(model)


def test_restored_weights_are_pruned_if_the_scheduler_comes_last():
    model = compiled()
    best = keras.callbacks.EarlyStopping(
        "loss", mode="max", patience=EPOCHS, restore_best_weights=True
    )
    with pytest.warns(UserWarning, match="removed now holds .*restore_best"):
        model.fit(
            *lit(),
            batch_size=BATCH,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[best, scheduler()],
        )
    assert zeros(model) == share(model)


class Replace(keras.callbacks.Callback):
    """Puts other weights in place when the run has ended."""

    def on_train_end(self, logs=None):
        self.model.set_weights([w + 1.0 for w in self.model.get_weights()])


@short_run
@pytest.mark.parametrize("remove_at", [0.5, 1.0])
def test_weights_that_come_back_do_not_go_without_a_word(remove_at):
    came = "from before the removal" if remove_at < 1.0 else "removed now holds"
    model = compiled()
    with pytest.warns(UserWarning, match=rf"{came}.*restore_best"):
        model.fit(
            *lit(),
            batch_size=BATCH,
            epochs=EPOCHS,
            verbose=0,
            callbacks=[Replace(), scheduler(remove_at=remove_at)],
        )
    assert zeros(model) == share(model)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_weights_that_still_matter_do_not_go_without_a_word():
    arguments = {"batch_size": BATCH, "epochs": 40, "verbose": 0}
    growth = keras_swd.Exponential(1.0, 1e3, finish=0.5)
    model = compiled()
    pruning = scheduler(schedule=growth)
    model.fit(*dark(STEPS), **arguments, callbacks=[pruning])
    model = compiled()
    pruning = scheduler(schedule=growth)
    with pytest.warns(
        UserWarning, match=r"removed now holds \d\d\.\d% .*restore_best"
    ):
        model.fit(*dark(STEPS), **arguments, callbacks=[Replace(), pruning])
    assert zeros(model) == share(model)


@short_run
def test_a_run_resumed_after_its_last_epoch_says_that_nothing_went(tmp_path):
    class Die(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch + 1 == EPOCHS:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    arguments = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    with pytest.raises(KeyboardInterrupt):
        compiled().fit(
            *lit(), **arguments, callbacks=[scheduler(), backup, Die()]
        )
    model = compiled()
    with pytest.warns(UserWarning, match=r"No step was left.*remove\(model"):
        model.fit(*lit(), **arguments, callbacks=[scheduler(), backup])
    assert zeros(model) == 0


@ends
@short_run
@not_torch
@pytest.mark.parametrize("together", [5, 2 * STEPS])
@pytest.mark.parametrize("known", [True, False])
def test_steps_that_never_run_are_no_progress(together, known):
    """An execution may take more steps than an epoch has left."""
    if not known and BACKEND != "tensorflow":
        pytest.skip("the data are a tf.data.Dataset")
    model = compiled(steps_per_execution=together)
    pruning, seen = scheduler(), []
    progress = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(pruning._done)
    )
    data = {"x": lit()[0], "y": lit()[1], "batch_size": BATCH}
    if not known:
        import tensorflow as tf

        pairs = tf.data.Dataset.from_tensor_slices(lit()).batch(BATCH)
        data = {"x": pairs.filter(lambda x, y: True)}
        pruning.total_steps = TOTAL
    model.fit(
        **data,
        shuffle=False,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[pruning, progress],
    )
    # What is not known is known from the second epoch on.
    assert seen[1:] == pytest.approx([2 / 3, 1.0])
    assert zeros(model) == share(model)


@pytest.mark.tensorflow
@short_run
def test_a_model_that_says_only_how_to_train_is_pruned():
    """As variational autoencoders and adversarial networks do."""

    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = sequential(one_for_all())
            self.second = functional(one_for_all())

        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            with tf.GradientTape() as tape:
                loss = ops.mean(ops.square(self.first(x) - self.second(x) + y))
                loss = loss + sum(self.losses)
            variables = self.trainable_variables
            grads = tape.gradient(loss, variables)
            self.optimizer.apply(grads, variables)
            return {"loss": loss}

    model = Pair()
    model.compile(keras.optimizers.SGD(RATE))
    train(model, *lit())
    assert zeros(model) == share(model)
    assert keras_swd.sparsity_report(model).prunable.zeros == share(model)


FLOATX = """
import keras, numpy as np, keras_swd
keras.config.set_floatx("{floatx}")
swd = keras_swd.SelectiveWeightDecay()
methods = [swd, keras_swd.GReg1(), keras_swd.NetworkSlimming()]
in_optimizers = [keras_swd.IrrelevantWeights(), keras_swd.AdaptiveSparsity()]
for method in [*methods, *in_optimizers]:
    plain = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(3),
        ]
    )
    model = keras_swd.with_regularizer(plain, method)
    optimizer = keras_swd.with_pruning(keras.optimizers.SGD(0.01))
    model.compile(optimizer, "mse")
    x, y = np.ones((8, 4)), np.ones((8, 3))
    pruning = keras_swd.PruningScheduler(0.5)
    model.fit(x, y, epochs=9, verbose=0, callbacks=[pruning])
    assert keras_swd.sparsity_report(model).prunable.zeros
"""


@pytest.mark.slow
@pytest.mark.parametrize("floatx", ["float64", "bfloat16"])
def test_every_type_of_losses_is_trained_with(floatx):
    """In a process of its own: Keras keeps the first that it was given."""
    code = FLOATX.format(floatx=floatx)
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_run_that_stops_at_its_very_end_is_complete():
    model = compiled()
    stop = keras.callbacks.EarlyStopping(
        "sparsity", mode="max", patience=EPOCHS - 1
    )
    model.fit(
        *lit(),
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[scheduler(), stop],
    )
    assert zeros(model) == share(model)


# Loops of one's own ----------------------------------------------------------


def run_by_hand(model, step):
    """Calls the hooks as `PruningScheduler` says, around `step(x, y)`."""
    pruning, record, logs = scheduler(), Record(), []
    record.set_model(model)
    pruning.set_model(model)
    pruning.set_params({"epochs": EPOCHS, "steps": STEPS})
    pruning.on_train_begin()
    record.on_train_begin()
    for epoch in range(EPOCHS):
        pruning.on_epoch_begin(epoch)
        for batch in range(STEPS):
            pruning.on_train_batch_begin(batch)
            step(*dark(1))
            pruning.on_train_batch_end(batch)
        logs.append({})
        pruning.on_epoch_end(epoch, logs[-1])
        record.on_epoch_end(epoch)
    pruning.on_train_end()
    return {key: [log[key] for log in logs] for key in logs[0]}, record


def test_train_on_batch_with_hooks_called_by_hand():
    model = compiled()
    assert_pruned_in_the_dark(model, *run_by_hand(model, model.train_on_batch))


@tensorflow_only
@pytest.mark.parametrize("compiled_step", [True, False])
def test_a_loop_with_a_gradient_tape(compiled_step):
    import tensorflow as tf

    model, optimizer = functional(one_for_all()), keras.optimizers.SGD(RATE)

    def step(x, y):
        with tf.GradientTape() as tape:
            error = model(x, training=True) - tf.cast(y, "float32")
            loss = tf.reduce_mean(error**2) + sum(model.losses)
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, variables), variables)

    if compiled_step:
        step = tf.function(step)
    record = run_by_hand(model, lambda x, y: step(*map(tf.constant, (x, y))))
    assert_pruned_in_the_dark(model, *record)


@tensorflow_only
def test_a_train_step_of_the_model_itself():
    import tensorflow as tf

    class Own(Subclassed):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            variables = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, variables), variables)
            return {"loss": loss}

    model = Own(one_for_all())
    model(dark(1)[0])
    assert_pruned_in_the_dark(model, *train(compiled(model), *dark()))


@tensorflow_only
@short_run
def test_a_train_step_that_leaves_a_layer_out():
    """A model without `call` is not built while a layer of it is unused."""
    import tensorflow as tf

    class Alone(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem = dense(8, SelectiveWeightDecay(DECAY))
            self.stem.build((None, 6))
            self.probe = layers.Dense(3)

        def train_step(self, data):
            x, _ = data
            with tf.GradientTape() as tape:
                loss = ops.mean(self.stem(x)) + sum(self.losses)
            variables = self.trainable_variables
            grads = tape.gradient(loss, variables)
            self.optimizer.apply(grads, variables)
            return {"loss": loss}

    model = Alone()
    model.compile(keras.optimizers.SGD(RATE))
    train(model, *lit())
    assert zeros(model) == share(model)


@jax_only
@short_run
@pytest.mark.filterwarnings("ignore:What is removed now")  # after nine steps
def test_a_regularizer_that_no_layer_holds_is_refused():
    class Own(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(
                shape=(shape[-1], 3), regularizer=SelectiveWeightDecay(DECAY)
            )

        def call(self, inputs):
            return ops.matmul(inputs, self.kernel)

    model = compiled(keras.Sequential([keras.Input((6,)), Own()]))
    with pytest.raises(ValueError, match="a regularizer that no layer holds"):
        train(model, *lit())
    model = keras.Sequential([keras.Input((6,)), Own()])
    train(compiled(model, run_eagerly=True), *lit(3))
    assert zeros(model) == share(model)


@torch_only
def test_a_loop_with_a_torch_optimizer():
    import torch

    model = functional(one_for_all())
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step(x, y):
        optimizer.zero_grad()
        error = model(ops.convert_to_tensor(x)) - ops.convert_to_tensor(y)
        loss = torch.mean(error**2) + sum(model.losses)
        loss.backward()
        optimizer.step()

    assert_pruned_in_the_dark(model, *run_by_hand(model, step))


@jax_only
def test_a_stateless_loop():
    import jax

    model, optimizer = functional(one_for_all()), keras.optimizers.SGD(RATE)
    optimizer.build(model.trainable_variables)

    def loss(trainable, fixed, x, y):
        outputs, _, losses = model.stateless_call(
            trainable, fixed, x, return_losses=True
        )
        return ops.mean((outputs - y) ** 2) + sum(losses)

    @jax.jit
    def update(trainable, fixed, state, x, y):
        gradients = jax.grad(loss)(trainable, fixed, x, y)
        return optimizer.stateless_apply(state, gradients, trainable)

    def values(variables):
        return [v.value for v in variables]

    def step(x, y):
        trainable, state = update(
            values(model.trainable_variables),
            values(model.non_trainable_variables),
            values(optimizer.variables),
            x,
            y,
        )
        for variable, value in zip(
            [*model.trainable_variables, *optimizer.variables],
            [*trainable, *state],
            strict=True,
        ):
            variable.assign(value)

    assert_pruned_in_the_dark(model, *run_by_hand(model, step))


# Monitoring ------------------------------------------------------------------


def classifier():
    model = sequential(one_for_all())
    model.compile(
        keras.optimizers.SGD(RATE, momentum=0.5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def classes(size=60):
    x, _ = lit(size // BATCH)
    return x.astype("float32"), np.argmax(x[:, :3], axis=1)


def accuracy_without_the_lowest(weights, x, y):
    """Accuracy of two dense layers without bias, by hand."""
    weights = [w.copy() for w in weights]
    size = sum(w.size for w in weights)
    for i, j in reference.lowest(weights, round(SPARSITY * size)):
        weights[i].flat[j] = 0.0
    return np.mean(np.argmax(x @ weights[0] @ weights[1], axis=1) == y)


def as_tf_data(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(7)


@short_run
@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        pytest.param(lambda x, y: [x, y], marks=pytest.mark.slow),
        pytest.param(as_tf_data, marks=[tensorflow_only, pytest.mark.slow]),
    ],
    ids=["tuple", "list", "tf.data"],
)
def test_monitored_accuracy_is_that_without_the_selected_weights(form):
    x, y = classes()
    results = []
    for monitor_data in (None, form(x[:40], y[:40])):
        keras.utils.set_random_seed(1)
        model = classifier()
        history, record = train(
            model,
            x,
            y,
            pruning=scheduler(monitor_data=monitor_data),
            validation_data=(x[:20], y[:20]),
            batch_size=15,
            shuffle=False,
            epochs=4,
        )
        optimizer = [
            np.array(ops.convert_to_numpy(v)) for v in model.optimizer.variables
        ]
        results.append((history, record.after, kernels(model), optimizer))
    (plain, *without), (history, *state) = results

    expected = [
        accuracy_without_the_lowest(w, x[:40], y[:40]) for w in record.after
    ]
    assert history["accuracy_if_removed"] == pytest.approx(expected)
    assert len(set(expected)) > 1
    assert history["accuracy_if_removed"][-1] == pytest.approx(
        model.evaluate(x[:40], y[:40], verbose=0)[1]
    )
    for key, values in plain.items():
        assert history[key] == values, key
    assert set(history) - set(plain) == {
        "accuracy_if_removed",
        "loss_if_removed",
    }
    flat, expected = map(keras.tree.flatten, (state, without))
    assert len(flat) > 8
    assert all(map(np.array_equal, flat, expected))


@short_run
def test_a_metric_of_several_numbers_is_logged_as_it_is():
    x, y = classes()
    model = classifier()
    y = keras.utils.to_categorical(y)
    model.compile(
        keras.optimizers.SGD(RATE),
        "categorical_crossentropy",
        metrics=[keras.metrics.F1Score()],
    )
    history, _ = train(model, x, y, pruning=scheduler(monitor_data=(x, y)))
    shape = (y.shape[-1],)
    assert [np.shape(v) for v in history["f1_score_if_removed"]] == (
        [shape] * EPOCHS
    )


@short_run
def test_monitored_samples_may_be_weighted():
    x, y = classes()
    weight = (y == 0).astype("float32")
    model = sequential(one_for_all())
    model.compile("sgd", "mse", weighted_metrics=["mae"])
    targets = np.eye(3)[y]
    history, _ = train(
        model,
        x,
        targets,
        pruning=scheduler(
            0.5,
            schedule=keras_swd.Constant(1e3),
            monitor_data=(x, targets, weight),
        ),
        epochs=1,
        batch_size=5,
    )
    x, targets = x[y == 0], targets[y == 0]
    outputs = model.predict(x, verbose=0)
    assert history["mae_if_removed"][-1] == pytest.approx(
        np.mean(np.abs(outputs - targets)), rel=1e-3
    )


# Several devices -------------------------------------------------------------

MIRRORED = """
    import json

    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )

    import test_training_modes as modes

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = modes.compiled()
    monitor = modes.dark(2)
    history, record = modes.train(
        model, *modes.dark(), pruning=modes.scheduler(monitor_data=monitor)
    )
    modes.assert_pruned_in_the_dark(model, history, record)
    with strategy.scope():
        model = modes.compiled(
            optimizer=modes.keras.optimizers.Adam(0.05), jit_compile=False
        )
    modes.train(model, *modes.lit(), pruning=modes.scheduler(remove_at=0.5))
    print(json.dumps([
        strategy.num_replicas_in_sync,
        history["swd_strength"],
        history["loss_if_removed"],
        modes.zeros(model),
    ]))
"""


@pytest.mark.slow
@tensorflow_only
def test_two_devices_train_as_one():
    """In a process of its own: devices are set before TensorFlow starts."""
    here = pathlib.Path(__file__).parent
    package = pathlib.Path(keras_swd.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MIRRORED)],
        env={**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    replicas, strengths, losses, zeros = json.loads(
        done.stdout.splitlines()[-1]
    )
    assert replicas == 2
    assert strengths == pytest.approx([strength(s) for s in (7, 15, 23)])
    assert len(losses) == EPOCHS
    assert zeros == round(SPARSITY * 72)


@pytest.mark.slow
def test_validation_contains_the_penalty_after_an_earlier_evaluation():
    def validated(first):
        keras.utils.set_random_seed(0)
        model = compiled(functional(one_for_all()))
        if first:
            model.evaluate(*dark(), verbose=0)
        history, _ = train(model, *dark(), validation_data=dark())
        return history["val_loss"]

    assert validated(True) == pytest.approx(validated(False), rel=1e-5)


# What ends early -------------------------------------------------------------


class Interruption(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == STEPS // 2:
            raise KeyboardInterrupt


@short_run
def test_what_was_interrupted_is_ended_by_hand():
    swd = SelectiveWeightDecay(DECAY)
    model = sequential(lambda: swd)
    model.compile(keras.optimizers.SGD(RATE), loss="mse")
    x, y = np.zeros((STEPS * BATCH, 6)), np.zeros((STEPS * BATCH, 3))
    scheduler = PruningScheduler(SPARSITY, keras_swd.Constant(50.0))
    with pytest.raises(KeyboardInterrupt):
        model.fit(
            x,
            y,
            batch_size=BATCH,
            verbose=0,
            callbacks=[scheduler, Interruption()],
        )

    def penalty():
        return model.evaluate(x, y, batch_size=BATCH, verbose=0)

    def plain():
        return float(sum(swd(w) for w in model.get_weights()))

    # Keras does not tell callbacks of what it raises.
    assert penalty() > 1.1 * plain()
    with pytest.warns(UserWarning, match="The run ended at 62% of"):
        scheduler.on_train_end()
    assert penalty() == pytest.approx(plain(), rel=1e-5)
    assert all(np.all(w) for w in model.get_weights())


def test_no_epoch_at_all_is_no_error():
    model = sequential(SelectiveWeightDecay)
    model.compile("sgd", loss="mse")
    x, y = np.zeros((4, 6)), np.zeros((4, 3))
    before = model.get_weights()
    callbacks = [PruningScheduler(SPARSITY)]
    history = model.fit(x, y, epochs=0, verbose=0, callbacks=callbacks)
    assert history.history == {}
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
