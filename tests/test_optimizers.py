"""Optimizers that let methods work where gradients are."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_swd import (
    AdaptiveSparsity,
    LearningRateRewinding,
    PruningOptimizer,
    PruningScheduler,
    strip,
    with_pruning,
)
from keras_swd.optimizers import FORMS, plain_optimizer

USUAL = (keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW)


def network(regularizer, optimizer, dtype=None):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, kernel_regularizer=regularizer, dtype=dtype),
            layers.Dense(3, dtype=dtype),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((16, 6)), rng.standard_normal((16, 3))


@pytest.mark.parametrize(
    "plain",
    [
        cls if cls in USUAL else pytest.param(cls, marks=pytest.mark.slow)
        for cls in FORMS
    ],
    ids=lambda cls: cls.__name__,
)
def test_without_a_scheduler_it_trains_as_the_plain_optimizer(plain):
    one = network(AdaptiveSparsity(0.01), plain(0.01))
    two = network(AdaptiveSparsity(0.01), with_pruning(plain(0.01)))
    two.set_weights(one.get_weights())
    for _ in range(3):
        one.train_on_batch(*data())
        two.train_on_batch(*data())
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("plain", FORMS, ids=lambda cls: cls.__name__)
def test_the_settings_stay_there_and_back(plain):
    given = plain(0.25, clipnorm=2.0, name="mine")
    form = with_pruning(given)
    assert isinstance(form, plain)
    assert isinstance(form, PruningOptimizer)
    assert form.get_config() == given.get_config()
    back = plain_optimizer(form)
    assert not isinstance(back, PruningOptimizer)
    assert back.get_config() == given.get_config()
    assert with_pruning(form) is form
    config = keras.optimizers.serialize(form)
    assert type(keras.optimizers.deserialize(config)) is type(form)


def test_a_name_will_do():
    assert isinstance(with_pruning("adam"), keras.optimizers.Adam)


def test_a_schedule_of_the_learning_rate_stays():
    rate = keras.optimizers.schedules.CosineDecay(0.5, 10)
    form = with_pruning(keras.optimizers.SGD(rate))
    config = form.get_config()["learning_rate"]["config"]
    assert config["initial_learning_rate"] == 0.5


def test_loss_scaling_stays_outside():
    inner = keras.optimizers.SGD(0.5)
    scaled = keras.optimizers.LossScaleOptimizer(inner, initial_scale=64.0)
    form = with_pruning(scaled)
    assert form.initial_scale == 64.0
    assert isinstance(form.inner_optimizer, PruningOptimizer)
    back = plain_optimizer(form)
    assert not isinstance(back.inner_optimizer, PruningOptimizer)


@pytest.mark.parametrize(
    "name", ["Adafactor", "Ftrl", "Lamb", "Muon", "ScheduleFreeAdamW"]
)
def test_optimizers_that_look_at_the_weight_are_refused(name):
    cls = getattr(keras.optimizers, name, None)
    if cls is None:
        pytest.skip(f"this Keras has no {name}")
    with pytest.raises(
        ValueError, match=rf"`optimizer`.*SGD.*optimizer={name}\..*AdamW"
    ):
        with_pruning(cls(0.01))


class Mine(keras.optimizers.SGD):
    pass


def test_an_optimizer_of_your_own_needs_the_mixin():
    with pytest.raises(ValueError, match="PruningOptimizer"):
        with_pruning(Mine(0.1))

    class PruningMine(PruningOptimizer, Mine):
        pass

    optimizer = PruningMine(0.1)
    assert with_pruning(optimizer) is optimizer
    model = network(AdaptiveSparsity(), optimizer)
    model.train_on_batch(*data())
    assert len(optimizer.parts) == 1


def test_a_kernel_that_is_frozen_needs_a_new_optimizer():
    model = network(AdaptiveSparsity(), with_pruning("sgd"))
    model.train_on_batch(*data())
    model.layers[0].trainable = False
    model.compile(model.optimizer, "mse")
    message = r"is frozen now.*with a new optimizer"
    with pytest.raises(ValueError, match=message):
        model.fit(*data(), verbose=0, callbacks=[PruningScheduler(0.5)])
    if keras.config.backend() != "jax":  # where Keras itself refuses it
        with pytest.raises(ValueError, match=message):
            model.fit(*data(), verbose=0)


def test_a_kernel_without_a_gradient_is_named():
    inputs = keras.Input((5,))
    asl = AdaptiveSparsity()
    one = layers.Dense(3, kernel_regularizer=asl)(inputs)
    two = layers.Dense(3, kernel_regularizer=asl, name="unused")(inputs)
    model = keras.Model(inputs, [one, two])
    optimizer = with_pruning("sgd")
    optimizer.build(model.trainable_variables)
    grads = [ops.ones(v.shape) for v in model.trainable_variables]
    grads[2] = None
    with pytest.raises(ValueError, match=r"unused/kernel.*has no gradient"):
        optimizer.apply(grads, model.trainable_variables)


def test_what_does_not_decay_stays_so_there_and_back():
    adamw = keras.optimizers.AdamW(weight_decay=0.1)
    adamw.exclude_from_weight_decay(var_names=["bias"])
    forms = with_pruning(adamw), plain_optimizer(with_pruning(adamw))
    bias, kernel = (
        keras.Variable(np.ones(2), name=name) for name in ("bias", "kernel")
    )
    for form in forms:
        assert not form._use_weight_decay(bias)
        assert form._use_weight_decay(kernel)


def test_embeddings_are_refused():
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(9, 5, embeddings_regularizer=AdaptiveSparsity()),
        ]
    )
    model.compile(with_pruning("sgd"), "mse")
    with pytest.raises(ValueError, match=r"embeddings.*no regularizer"):
        model.train_on_batch(np.ones((2, 4)), np.ones((2, 4, 5)))


@pytest.mark.tensorflow
def test_several_replicas_are_refused():
    import tensorflow as tf

    class Two:
        num_replicas_in_sync = 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.distribute, "get_strategy", lambda: Two())
        optimizer = with_pruning("sgd")
        kernel = keras.Variable(np.ones((2, 2)))
        kernel.regularizer = AdaptiveSparsity()
        with pytest.raises(ValueError, match=r"one device.*replicas=2"):
            optimizer.build([kernel])


@pytest.mark.slow
def test_gradients_that_accumulate_give_the_steps_of_whole_batches():
    x, y = data()

    def run(batch, accumulate):
        keras.utils.set_random_seed(1)
        plain = keras.optimizers.SGD(
            0.1, momentum=0.9, gradient_accumulation_steps=accumulate
        )
        model = network(AdaptiveSparsity(0.01, rate=1.0), with_pruning(plain))
        model.optimizer.build(model.trainable_variables)
        (part,) = model.optimizer.parts
        part.begin(np.ones(1), np.full(1, 0.5))
        part.set(1.0)
        for _ in range(3):
            for start in range(0, 16, batch):
                rows = slice(start, start + batch)
                model.train_on_batch(x[rows], y[rows])
        return model.get_weights(), part.threshold(0)

    whole, threshold = run(16, None)
    parts, other = run(8, 2)
    assert other == pytest.approx(threshold, rel=1e-5)
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("dtype", [None, "mixed_float16"])
def test_a_stripped_model_has_the_plain_optimizer(dtype, tmp_path):
    model = network(AdaptiveSparsity(), with_pruning("adam"), dtype)
    model.fit(*data(), verbose=0, callbacks=[PruningScheduler(0.5)])
    plain = strip(model)
    inner = getattr(plain.optimizer, "inner_optimizer", plain.optimizer)
    assert not isinstance(inner, PruningOptimizer)
    plain.save(tmp_path / "plain.keras")
    text = (tmp_path / "plain.keras").read_bytes()
    assert b"keras_swd" not in text
    zeros = np.count_nonzero(ops.convert_to_numpy(plain.layers[0].kernel) == 0)
    assert zeros == 24


@pytest.mark.parametrize("form", [with_pruning, lambda optimizer: optimizer])
def test_a_stripped_model_has_a_rate_that_keras_knows(form, tmp_path):
    falling = keras.optimizers.schedules.CosineDecay(0.1, 10)
    rate = LearningRateRewinding(falling, at=10)
    rate = LearningRateRewinding(rate, at=20)
    optimizer = form(keras.optimizers.SGD(rate, momentum=0.9))
    plain = strip(network(AdaptiveSparsity(), optimizer))
    assert plain.optimizer._learning_rate is falling
    assert plain.optimizer.momentum == 0.9
    plain.save(tmp_path / "plain.keras")
    assert b"keras_swd" not in (tmp_path / "plain.keras").read_bytes()


def test_an_optimizer_that_cannot_be_made_plain_is_told_of():
    class Own(keras.optimizers.SGD):
        pass

    class OwnPruning(PruningOptimizer, Own):
        def __init__(self, learning_rate=0.1, more=1, **options):
            super().__init__(learning_rate, **options)
            self.more = more

        def get_config(self):
            return {**super().get_config(), "more": self.more}

    model = network(AdaptiveSparsity(), OwnPruning(0.25))
    with pytest.warns(UserWarning, match="not compiled again"):
        assert not strip(model).compiled


def test_an_optimizer_of_ones_own_is_stripped_too():
    class Own(keras.optimizers.SGD):
        pass

    class OwnPruning(PruningOptimizer, Own):
        pass

    model = network(AdaptiveSparsity(), OwnPruning(0.25, momentum=0.5))
    optimizer = strip(model).optimizer
    assert isinstance(optimizer, Own)
    assert not isinstance(optimizer, PruningOptimizer)
    assert (float(optimizer.learning_rate), optimizer.momentum) == (0.25, 0.5)
