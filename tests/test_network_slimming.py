"""The baseline that pulls all scales to zero."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_swd import (
    CoupledChannels,
    GlobalRanking,
    NetworkSlimming,
    Operations,
    Parameters,
    PruningScheduler,
    SelectiveWeightDecay,
    remove,
    shrink,
    sparsity_report,
    with_regularizer,
)
from keras_swd.prunable import Prunable
from keras_swd.regularizers.base import pruning_regularizer


def network(regularizer=None):
    """Padding, so that a shift that is left keeps its channel alive."""
    stack = [keras.Input((6, 6, 3))]
    for number, filters in enumerate((12, 10)):
        stack += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(
                gamma_regularizer=regularizer, name=f"norm_{number}"
            ),
            layers.ReLU(),
        ]
    stack += [layers.GlobalAveragePooling2D(), layers.Dense(3)]
    return keras.Sequential(stack)


def scatter(model):
    """Sets scales and shifts to numbers of which none is zero."""
    random = np.random.default_rng(0)
    for norm in norms(model):
        norm.gamma.assign(random.uniform(0.1, 1.0, norm.gamma.shape))
        norm.beta.assign(random.uniform(0.5, 1.0, norm.beta.shape))
    return model


def norms(model):
    kind = layers.BatchNormalization
    return [layer for layer in model.layers if isinstance(layer, kind)]


def values(variable):
    return ops.convert_to_numpy(variable)


def carriers(model):
    return {
        "/".join(v.path.split("/")[-2:])
        for v in model.trainable_variables
        if pruning_regularizer(v) is not None
    }


def test_the_penalty_is_the_sum_of_magnitudes_whatever_is_selected():
    slimming = NetworkSlimming(rate=0.25)
    scales = ops.array([3.0, -4.0, 0.0, 1.0])
    assert float(slimming(scales)) == pytest.approx(2.0)
    penalty = slimming.penalty(scales, 1e3, None, ops.array([1.0, -1.0]))
    assert float(penalty) == pytest.approx(2.0)


def test_its_configuration_survives_json():
    method = NetworkSlimming(
        0.5, sparsity=0.25, granularity=CoupledChannels(may_empty=True)
    )
    config = json.dumps(keras.saving.serialize_keras_object(method))
    copy = keras.saving.deserialize_keras_object(json.loads(config))
    assert copy.get_config() == method.get_config()


@pytest.mark.parametrize("rate", [-1.0, "high", None])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=r"`rate` must be a number, 0 or"):
        NetworkSlimming(rate=rate)


def test_it_is_placed_on_scales_alone_and_others_on_shifts_too():
    scales = {"norm_0/gamma", "norm_1/gamma"}
    slim = with_regularizer(network(), NetworkSlimming())
    assert carriers(slim) == scales
    swd = SelectiveWeightDecay(granularity=CoupledChannels())
    decayed = with_regularizer(network(), swd)
    assert carriers(decayed) == scales | {"norm_0/beta", "norm_1/beta"}
    slimming = NetworkSlimming(granularity=CoupledChannels(kernels=True))
    whole = carriers(with_regularizer(network(), slimming))
    assert scales < whole
    assert not any(path.endswith("beta") for path in whole)
    plain = keras.Sequential([keras.Input((4,)), layers.Dense(5)])
    with pytest.raises(ValueError, match="without normalizations need"):
        with_regularizer(plain, NetworkSlimming())


def size(model):
    return sum(int(np.prod(w.shape)) for w in model.trainable_weights)


@pytest.mark.parametrize("method", [NetworkSlimming, SelectiveWeightDecay])
def test_shifts_without_a_regularizer_go_with_their_scales(method):
    model = scatter(network(method(granularity=CoupledChannels())))
    assert carriers(model) == {"norm_0/gamma", "norm_1/gamma"}
    budget = Parameters(left=0.5)
    prunable = Prunable(model, budget, GlobalRanking())
    attached, _ = prunable.attach(model)
    paths = [w.path for one in attached for w in one.weights]
    assert len(prunable.weights) == 4
    assert not [path for path in paths if path.endswith("beta")]
    removed = remove(model, budget, GlobalRanking())
    for norm in norms(model):
        gone = values(norm.gamma) == 0.0
        np.testing.assert_array_equal(values(norm.beta) == 0.0, gone)
        assert removed[norm.beta.path] == gone.sum() > 0
    assert size(shrink(model)) <= 0.5 * size(model)


def test_a_slimmed_model_shrinks_to_its_budget():
    model = with_regularizer(network(), NetworkSlimming(rate=0.05))
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(48, 6, 6, 3)).astype("float32")
    y = random.integers(0, 3, 48)
    full = sparsity_report(model).operations
    pruning = PruningScheduler(
        Operations(left=0.5),
        allocation=GlobalRanking(),
        monitor_data=(x, y),
        remove_at=0.5,
    )
    history = model.fit(
        x, y, batch_size=12, epochs=4, verbose=0, callbacks=[pruning]
    ).history
    for norm in norms(model):
        # Zeros stay zero while the others train on; the shifts of these are
        # not penalized.
        gone = values(norm.gamma) == 0.0
        np.testing.assert_array_equal(values(norm.beta) == 0.0, gone)
    small = shrink(model)
    assert 0.3 * full < sparsity_report(small).operations <= 0.5 * full
    # What is monitored is the model after removal.
    accuracy = small.evaluate(x, y, verbose=0, return_dict=True)["accuracy"]
    assert history["accuracy_if_removed"][-1] == pytest.approx(accuracy)
