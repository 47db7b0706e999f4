"""The contracts that every pruning regularizer keeps."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_swd import (
    NM,
    AdaptiveSparsity,
    Block,
    Channel,
    Exponential,
    GReg1,
    GReg2,
    IrrelevantWeights,
    Lobster,
    MagnitudePruning,
    PruningScheduler,
    SelectiveWeightDecay,
    strip,
    with_pruning,
)
from keras_swd.regularizers.selectors import Threshold

METHODS = {
    "swd": lambda: SelectiveWeightDecay(1e-3),
    "swd, own target": lambda: SelectiveWeightDecay(1e-3, sparsity=0.5),
    "swd, channels": lambda: SelectiveWeightDecay(1e-3, granularity=Channel()),
    "swd, blocks": lambda: SelectiveWeightDecay(
        1e-3, granularity=Block((4, 1))
    ),
    "swd, 2:4": lambda: SelectiveWeightDecay(1e-3, granularity=NM(2, 4)),
    "greg1": lambda: GReg1(1e-3, interval=1),
    "greg1, channels": lambda: GReg1(1e-3, interval=1, granularity=Channel()),
    "greg2": lambda: GReg2(1e-3, interval=1, sparsity=0.5),
    "greg2, blocks": lambda: GReg2(1e-3, interval=1, granularity=Block((4, 1))),
    "magnitude, gradual": lambda: MagnitudePruning(1e-3),
    "magnitude, channels": lambda: MagnitudePruning(
        1e-3, removals=3, granularity=Channel()
    ),
    "irrelevant weights": lambda: IrrelevantWeights(),
    "lobster": lambda: Lobster(scale=2.0, sparsity=0.5),
    "adaptive sparsity": lambda: AdaptiveSparsity(1e-3),
    "adaptive sparsity, own target": lambda: AdaptiveSparsity(
        1e-3, sparsity=0.5
    ),
}


#: The same methods on other units or with other targets.
VARIANTS = {
    "swd, own target",
    "swd, channels",
    "swd, blocks",
    "greg1, channels",
    "greg2, blocks",
    "magnitude, channels",
    "adaptive sparsity, own target",
}


@pytest.fixture(params=METHODS.values(), ids=METHODS.keys())
def method(request):
    return request.param()


@pytest.fixture(
    params=[
        pytest.param(
            make, id=name, marks=[pytest.mark.slow] * (name in VARIANTS)
        )
        for name, make in METHODS.items()
    ]
)
def method_to_train(request):
    return request.param()


@pytest.fixture
def data():
    x = np.random.default_rng(0).standard_normal((32, 8)).astype("float32")
    return x, x[:, :1] - x[:, 1:2]


def network(regularizer, dtype=None):
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(
                12,
                activation="relu",
                kernel_regularizer=regularizer,
                dtype=dtype,
                name="pruned",
            ),
            keras.layers.Dense(1, dtype=dtype, name="head"),
        ]
    )


def test_config_survives_a_round_trip(method):
    config = keras.saving.serialize_keras_object(method)
    copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert copy.get_config() == method.get_config()
    assert type(copy) is type(method)


def test_a_zero_kernel_has_no_penalty(method):
    zeros = ops.zeros((8, 12))
    assert float(method(zeros)) == 0.0
    threshold = ops.convert_to_tensor([1.0])
    penalty = method.penalty(zeros, 1e4, selector(method), threshold)
    assert float(penalty) == 0.0


def selector(method):
    return Threshold(method.granularity, method.criterion)


def select(method, values, threshold):
    return selector(method)(values, ops.convert_to_tensor([threshold]))


def test_nothing_is_selected_before_a_scheduler_comes(method):
    values = np.random.default_rng(0).standard_normal((8, 12))
    tensor = ops.convert_to_tensor(values.astype("float32"))
    assert not ops.convert_to_numpy(select(method, tensor, -1.0)).any()
    # Decay that needs gradients is in the optimizer, not in the loss.
    weight_decay = getattr(method, "weight_decay", 0.0)
    assert float(method(tensor)) == pytest.approx(
        0.5 * weight_decay * np.sum(values**2), rel=1e-5
    )


def test_the_host_selects_what_the_step_selects(method):
    from keras_swd.units.kernels import Kernel

    values = np.random.default_rng(0).standard_normal((8, 12))
    kernel = Kernel(keras.Variable(values, dtype="float32"), method)
    units = kernel.unit_scores().size
    fixed = method.granularity.fixed_sparsity
    counts = range(units + 1) if fixed is None else [round(fixed * units)]
    for count in counts:
        threshold = kernel.threshold(count)
        step = select(method, kernel.variable.value, threshold)
        np.testing.assert_array_equal(
            ops.convert_to_numpy(step), ~kernel.mask(count)
        )


@pytest.mark.filterwarnings("ignore:A weight selected")
def test_a_change_of_strength_reaches_the_compiled_step(method_to_train, data):
    if method_to_train.decay(1.0) == method_to_train.decay(0.0):
        pytest.skip("its strength is not in the loss")
    model = network(method_to_train)
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    schedule = Exponential(1.0, 1e3)
    plan = method_to_train.plan(schedule, 4, remove_at=1.0)
    # What a method does before it selects, its own tests say.
    first = round(4 * (plan.pick_at or 0.0))
    scheduler = PruningScheduler(0.5, schedule, remove_at=1.0)
    history = model.fit(
        *data, batch_size=32, epochs=4, verbose=0, callbacks=[scheduler]
    )
    # The weights stand still, so the loss grows with the strength alone.
    growth = np.diff(history.history["loss"][first:])
    steps = np.diff([plan.strength(p / 4) for p in range(first, 4)])
    np.testing.assert_allclose(
        growth / growth[0], steps / steps[0], rtol=1e-3, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:A weight selected")
def test_training_ends_at_the_target(method_to_train, data):
    model = network(method_to_train)
    optimizer = with_pruning(keras.optimizers.SGD(0.05, momentum=0.9))
    model.compile(optimizer, loss="mse")
    model.fit(
        *data,
        batch_size=8,
        epochs=20,
        verbose=0,
        callbacks=[PruningScheduler(0.5)],
    )
    kernel = model.get_layer("pruned").get_weights()[0]
    assert np.count_nonzero(kernel == 0) == kernel.size // 2
    assert np.count_nonzero(model.get_layer("head").get_weights()[0]) == 12


@pytest.mark.filterwarnings("ignore:A weight selected")
def test_saved_models_load_and_fit_the_plain_model(
    method_to_train, data, tmp_path
):
    model = network(method_to_train)
    model.compile(with_pruning("sgd"), loss="mse")
    model.fit(*data, epochs=4, verbose=0, callbacks=[PruningScheduler(0.5)])
    expected = model.predict(data[0], verbose=0)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    plain = network(None)
    plain.load_weights(tmp_path / "model.weights.h5")
    stripped = strip(model)
    assert stripped.get_layer("pruned").kernel_regularizer is None
    for copy in (loaded, plain, stripped):
        assert len(copy.weights) == len(model.weights) == 4
        np.testing.assert_allclose(
            copy.predict(data[0], verbose=0), expected, rtol=1e-6
        )


@pytest.mark.filterwarnings("ignore:A weight selected")
def test_the_loss_survives_half_precision(method_to_train, data):
    model = network(method_to_train, dtype="mixed_float16")
    model.compile(with_pruning(keras.optimizers.SGD(1e-3)), loss="mse")
    history = model.fit(
        *data, epochs=5, verbose=0, callbacks=[PruningScheduler(0.5)]
    )
    assert np.isfinite(history.history["loss"]).all()
