"""Files, copies and plain twins of models under training."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import zipfile

import keras
import numpy as np
import pytest
import reference
from keras import layers, ops

import keras_swd
from keras_swd import PruningScheduler, SelectiveWeightDecay

# These runs are too short to drive weights down as far as they should go.
pytestmark = pytest.mark.filterwarnings("ignore:What is removed now")

RATE, EPOCHS, STEPS, BATCH, SPARSITY = 0.1, 3, 8, 4, 0.7
GROWTH = {"start": 0.1, "end": 500.0, "finish": 0.5}


# What every test needs -------------------------------------------------------


def sequential(regularizer=None):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", kernel_regularizer=regularizer),
            layers.BatchNormalization(),
            layers.Dropout(0.1),
            layers.Dense(3, kernel_regularizer=regularizer),
        ]
    )


def nested(regularizer=None):
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, kernel_regularizer=regularizer, name="first"),
            layers.Dense(6, kernel_regularizer=regularizer, name="second"),
        ],
        name="block",
    )
    inputs = keras.Input((6,))
    x = layers.Dense(6, kernel_regularizer=regularizer, name="stem")(inputs)
    x = layers.Add()([x, inner(x)])
    outputs = layers.Dense(3, kernel_regularizer=regularizer, name="head")(x)
    return keras.Model(inputs, outputs)


class Subclassed(keras.Model):
    """Takes its regularizer as an argument, and says so in its config."""

    def __init__(self, kernel_regularizer=None, **arguments):
        super().__init__(**arguments)
        self.given = keras.regularizers.get(kernel_regularizer)
        self.stem = layers.Dense(8, kernel_regularizer=self.given)
        self.head = layers.Dense(3, kernel_regularizer=self.given)

    def call(self, inputs):
        return self.head(ops.relu(self.stem(inputs)))

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "kernel_regularizer": self.given and serialize(self.given),
        }


def subclassed(regularizer=None):
    model = Subclassed(regularizer)
    model(np.zeros((1, 6)))
    return model


BUILDERS = [sequential, nested, subclassed]


def swd(**arguments):
    return SelectiveWeightDecay(0.01, **arguments)


def compiled(model, **arguments):
    arguments.setdefault("loss", "mse")
    model.compile(keras.optimizers.SGD(RATE), **arguments)
    return model


def scheduler():
    return PruningScheduler(SPARSITY, keras_swd.Exponential(**GROWTH))


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS * BATCH, 6)).astype("float32")
    return x, (x @ rng.standard_normal((6, 3))).astype("float32")


def train(model, *callbacks, **arguments):
    return model.fit(
        *data(),
        batch_size=BATCH,
        verbose=0,
        callbacks=[scheduler(), *callbacks],
        **{"epochs": EPOCHS, **arguments},
    ).history


def regularized(model):
    return [v for v in model.trainable_variables if v.regularizer is not None]


def zeros(variables):
    arrays = [ops.convert_to_numpy(v) for v in variables]
    return sum(int(np.count_nonzero(a == 0.0)) for a in arrays)


def share(variables):
    return round(SPARSITY * sum(int(np.prod(v.shape)) for v in variables))


def curve(epochs):
    steps = [(epoch + 1) * STEPS - 1 for epoch in epochs]
    total = EPOCHS * STEPS
    return pytest.approx(
        [reference.exponential(s / total, **GROWTH) for s in steps]
    )


def assert_same_arrays(got, expected):
    assert len(got) == len(expected)
    assert all(map(np.array_equal, got, expected))


def run_alone(program, *arguments):
    """Runs a program in a fresh process; returns the JSON of its last line."""
    package = pathlib.Path(keras_swd.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


class Stop(Exception):
    """Ends a run as a crash would."""


class Crash(keras.callbacks.Callback):
    """Raises in the middle of the second epoch."""

    def __init__(self):
        super().__init__()
        self.epoch = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (1, 2):
            raise Stop


# A model under training is a plain model -------------------------------------


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("build", BUILDERS)
def test_weights_and_counts_are_those_of_the_plain_model(build, trained):
    plain, model = build(), compiled(build(swd()))
    if trained:
        train(model, epochs=2)
    assert [(w.name, w.shape) for w in model.weights] == [
        (w.name, w.shape) for w in plain.weights
    ]
    assert model.count_params() == plain.count_params()
    assert len(model.trainable_weights) == len(plain.trainable_weights)
    plain.set_weights(model.get_weights())
    model.set_weights(plain.get_weights())


def test_the_summary_counts_as_that_of_the_plain_model():
    def counts(model):
        lines = []
        model.summary(print_fn=lines.append)
        return [x for x in "\n".join(lines).split("\n") if "params" in x]

    assert counts(sequential(swd())) == counts(sequential())


@pytest.mark.parametrize("build", BUILDERS)
def test_weight_files_go_from_the_plain_model_and_back(build, tmp_path):
    plain, model = compiled(build()), compiled(build(swd()))
    path = tmp_path / "plain.weights.h5"
    plain.save_weights(path)
    model.load_weights(path)
    assert_same_arrays(model.get_weights(), plain.get_weights())
    train(model)
    path = tmp_path / "pruned.weights.h5"
    model.save_weights(path)
    plain.load_weights(path)
    assert_same_arrays(plain.get_weights(), model.get_weights())


@pytest.mark.parametrize(
    "build", [sequential, pytest.param(nested, marks=pytest.mark.slow)]
)
def test_a_clone_prunes_apart_from_its_model(build):
    model = compiled(build(swd()))
    train(model)
    before = model.get_weights()
    clone = compiled(keras.models.clone_model(model))
    assert zeros(regularized(clone)) == 0
    assert len(regularized(clone)) == len(regularized(model))
    history = train(clone)
    assert zeros(regularized(clone)) == share(regularized(clone))
    assert history["swd_strength"] == curve(range(EPOCHS))
    assert_same_arrays(model.get_weights(), before)


# Files written in mid-training -----------------------------------------------


@pytest.mark.parametrize(
    ("build", "save_freq"),
    [
        (sequential, 5),
        *(
            pytest.param(build, "epoch", marks=pytest.mark.slow)
            for build in BUILDERS
        ),
    ],
)
def test_a_checkpoint_of_mid_training_loads_and_trains_on(
    build, save_freq, tmp_path
):
    path = tmp_path / "model.keras"
    model = compiled(build(swd()))
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_freq=save_freq)
    with pytest.raises(Stop):
        train(model, checkpoint, Crash())

    scope = {"Subclassed": Subclassed}
    with keras.saving.custom_object_scope(scope):
        loaded = keras.saving.load_model(path)
    assert zeros(regularized(loaded)) == 0
    assert len(regularized(loaded)) == len(regularized(model))
    for variable in regularized(loaded):
        assert variable.regularizer.get_config() == swd().get_config()
    history = train(loaded, initial_epoch=1)
    assert history["swd_strength"] == curve([1, 2])
    assert zeros(regularized(loaded)) == share(regularized(loaded))


def test_a_weight_checkpoint_of_mid_training_loads_and_trains_on(tmp_path):
    path = tmp_path / "{epoch}.weights.h5"
    model = compiled(sequential(swd()))
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    with pytest.raises(Stop):
        train(model, checkpoint, Crash())
    fresh = compiled(sequential(swd()))
    fresh.load_weights(tmp_path / "1.weights.h5")
    history = train(fresh, initial_epoch=1)
    assert history["swd_strength"] == curve([1, 2])
    assert zeros(regularized(fresh)) == share(regularized(fresh))


def test_a_loaded_model_predicts_and_is_penalized_as_before(tmp_path):
    model = compiled(nested(swd(granularity=keras_swd.Channel(), sparsity=0.4)))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x, y = data()
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(
        model.evaluate(x, y, verbose=0)
    )
    config = regularized(loaded)[0].regularizer.get_config()
    assert config == regularized(model)[0].regularizer.get_config()


CONTINUE = """
    import json, sys

    import keras
    import numpy as np

    import keras_swd

    model = keras.saving.load_model(sys.argv[1])
    weights = [w.tolist() for w in model.get_weights()]
    again = keras.models.clone_model(model)
    again.load_weights(sys.argv[2])
    equal = all(map(np.array_equal, model.get_weights(), again.get_weights()))
    with np.load(sys.argv[3]) as data:
        x, y = data["x"], data["y"]
    scheduler = keras_swd.PruningScheduler(
        0.7, keras_swd.Exponential(0.1, 500.0, finish=0.5)
    )
    history = model.fit(
        x, y, batch_size=4, epochs=3, initial_epoch=1, verbose=0,
        callbacks=[scheduler],
    ).history
    print(json.dumps([
        weights,
        equal,
        history["swd_strength"],
        sum(
            int(np.count_nonzero(keras.ops.convert_to_numpy(v) == 0.0))
            for v in model.trainable_variables
            if v.regularizer is not None
        ),
    ]))
"""


@pytest.mark.slow
def test_a_checkpoint_trains_on_in_a_fresh_process(tmp_path):
    model = compiled(sequential(swd()))
    both = [
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.ModelCheckpoint(
            tmp_path / "{epoch}.weights.h5", save_weights_only=True
        ),
    ]
    with pytest.raises(Stop):
        train(model, *both, Crash())
    x, y = data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    weights, equal, strengths, removed = run_alone(
        CONTINUE,
        tmp_path / "1.keras",
        tmp_path / "1.weights.h5",
        tmp_path / "data.npz",
    )
    assert len(weights) == len(model.get_weights())
    assert equal
    assert strengths == curve([1, 2])
    assert removed == share(regularized(model))


# Stripped models -------------------------------------------------------------


def hard_coded():
    """A model whose own code makes its regularizers."""

    class HardCoded(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.stem = layers.Dense(8, kernel_regularizer=swd())
            self.heads = [layers.Dense(3, kernel_regularizer=swd())]

        def call(self, inputs):
            return self.heads[0](self.stem(inputs))

    model = HardCoded()
    model(np.zeros((1, 6)))
    return model


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "build", [*(lambda b=b: b(swd()) for b in BUILDERS), hard_coded],
    ids=["sequential", "nested", "subclassed", "hard coded"],
)  # fmt: skip
def test_a_stripped_model_is_the_same_without_a_trace_of_us(
    build, trained, tmp_path
):
    model = compiled(build())
    if trained:
        train(model)
    plain = keras_swd.strip(model)
    assert plain.built
    assert_same_arrays(plain.get_weights(), model.get_weights())
    x, _ = data()
    np.testing.assert_array_equal(
        plain.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert plain.losses == []
    assert all(v.regularizer is None for v in plain.variables)
    assert model.losses, "the model itself stays as it is"

    plain.save(tmp_path / "plain.keras")
    with zipfile.ZipFile(tmp_path / "plain.keras") as archive:
        assert b"keras_swd" not in archive.read("config.json")


def test_a_compiled_model_is_compiled_when_stripped():
    model = compiled(sequential(swd()), metrics=["mae"], loss_weights=[2.0])
    train(model)
    plain = keras_swd.strip(model)
    x, y = data()
    loss, error = plain.evaluate(x, y, verbose=0)
    outputs = model.predict(x, verbose=0)
    assert loss == pytest.approx(2.0 * np.mean((outputs - y) ** 2), rel=1e-5)
    assert error == pytest.approx(np.mean(np.abs(outputs - y)), rel=1e-5)
    assert error == pytest.approx(model.evaluate(x, y, verbose=0)[1], rel=1e-5)
    plain.fit(x, y, verbose=0)


def test_a_model_with_a_loss_of_its_own_can_be_stripped():
    def own_loss(y_true, y_pred):
        return ops.mean(ops.abs(y_true - y_pred) ** 3)

    def own_metric(y_true, y_pred):
        return ops.max(ops.abs(y_true - y_pred), axis=-1)

    model = compiled(sequential(), loss=own_loss, metrics=[own_metric])
    x, y = data()
    expected = model.evaluate(x, y, verbose=0)
    model = keras_swd.with_regularizer(model, swd())
    plain = keras_swd.strip(model)
    assert plain.evaluate(x, y, verbose=0) == pytest.approx(expected)


def cubed(y_true, y_pred, factor=1.0):
    return factor * ops.mean(ops.abs(y_true - y_pred) ** 3)


class OwnRate(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": lambda y_true, y_pred: cubed(y_true, y_pred)},
        {"loss": functools.partial(cubed, factor=2.0)},
        {"optimizer": keras.optimizers.SGD(OwnRate())},
    ],
    ids=["lambda", "partial", "learning rate"],
)
def test_what_keras_cannot_write_down_does_not_hinder_stripping(arguments):
    model = sequential(swd())
    model.compile(**{"optimizer": "sgd", "loss": "mse", **arguments})
    x, y = data()
    plain = keras_swd.strip(model)
    assert_same_arrays(plain.get_weights(), model.get_weights())
    expected = model.evaluate(x, y, verbose=0) - float(
        ops.convert_to_numpy(sum(model.losses))
    )
    assert plain.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-4)


def test_a_model_with_a_compile_of_its_own_is_left_to_its_author():
    class Two(Subclassed):
        def compile(self, first, second):
            super().compile()
            self.optimizers = first, second

    model = Two(swd())
    model(np.zeros((1, 6)))
    model.compile("sgd", "adam")
    with pytest.warns(UserWarning, match=r"`compile\(\)` method is custom"):
        plain = keras_swd.strip(model)
    assert not plain.compiled
    assert_same_arrays(plain.get_weights(), model.get_weights())


def test_a_model_that_was_not_compiled_is_not_when_stripped():
    assert not keras_swd.strip(sequential(swd())).compiled


def test_stripping_keeps_other_regularizers_and_what_is_frozen():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.5)),
            layers.Dense(3, kernel_regularizer=swd(), bias_regularizer="l1"),
        ]
    )
    model.layers[0].trainable = False
    first, second = keras_swd.strip(model).layers
    assert first.kernel_regularizer.l2 == 0.5
    assert not first.trainable
    assert second.kernel_regularizer is None
    assert second.bias_regularizer is not None


WITHOUT_US = """
    import importlib.abc, json, sys

    class Absent(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "keras_swd":
                raise ModuleNotFoundError(name)

    sys.meta_path.insert(0, Absent())

    import keras
    import numpy as np

    try:
        import keras_swd
    except ModuleNotFoundError:
        pass
    else:
        sys.exit("keras_swd is still there")
    with np.load(sys.argv[1]) as data:
        x, y = data["x"], data["y"]
    outputs, losses = [], []
    for path in sys.argv[2:]:
        model = keras.saving.load_model(path)
        outputs.append(model.predict(x, verbose=0).tolist())
        losses.append(model.evaluate(x, y, verbose=0))
    print(json.dumps([outputs, losses, "keras_swd" in sys.modules]))
"""


@pytest.mark.slow
def test_stripped_models_load_where_we_are_not_installed(tmp_path):
    x, y = data()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    models, paths = [], []
    for build in (sequential, nested):
        model = compiled(build(swd()))
        train(model)
        models.append(keras_swd.strip(model))
        paths.append(tmp_path / f"{build.__name__}.keras")
        models[-1].save(paths[-1])
    outputs, losses, imported = run_alone(
        WITHOUT_US, tmp_path / "data.npz", *paths
    )
    assert not imported
    for model, output, loss in zip(models, outputs, losses, strict=True):
        np.testing.assert_allclose(
            np.float32(output), model.predict(x, verbose=0), rtol=1e-6
        )
        assert loss == pytest.approx(model.evaluate(x, y, verbose=0))
        assert zeros(model.trainable_variables) > 0


# Regularizing an existing model ----------------------------------------------


def dense_layers(model):
    """The dense layers at any depth, by name."""
    found = {}
    for layer in model.layers:
        if hasattr(layer, "layers"):
            found.update(dense_layers(layer))
        elif isinstance(layer, layers.Dense):
            found[layer.name] = layer
    return found


def carriers(model):
    return {
        name
        for name, layer in dense_layers(model).items()
        if isinstance(layer.kernel_regularizer, SelectiveWeightDecay)
    }


@pytest.mark.parametrize(
    "build", [sequential, pytest.param(nested, marks=pytest.mark.slow)]
)
def test_an_existing_model_is_regularized_with_its_weights_kept(build):
    plain = compiled(build(), metrics=["mae"])
    train_plain = data()
    plain.fit(*train_plain, verbose=0)
    model = keras_swd.with_regularizer(plain, swd(sparsity=0.25))
    assert_same_arrays(model.get_weights(), plain.get_weights())
    assert carriers(model) == set(dense_layers(plain))
    assert carriers(plain) == set()
    for layer in dense_layers(model).values():
        assert layer.kernel_regularizer.get_config() == (
            swd(sparsity=0.25).get_config()
        )
        assert layer.bias_regularizer is None
    assert model.evaluate(*train_plain, verbose=0)[1] == pytest.approx(
        plain.evaluate(*train_plain, verbose=0)[1]
    )
    train(model)
    for variable in regularized(model):
        size = int(np.prod(variable.shape))
        assert zeros([variable]) == round(0.25 * size)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (lambda m: ["head"], {"stem", "first", "second"}),
        (lambda m: [m.get_layer("head"), "stem"], {"first", "second"}),
        (lambda m: ["first"], {"stem", "second", "head"}),
        (
            lambda m: [m.get_layer("block").get_layer("second")],
            {"stem", "first", "head"},
        ),
        (lambda m: ["block"], {"stem", "head"}),
        (lambda m: {m.get_layer("block")}, {"stem", "head"}),
        (lambda m: iter(["first", "head"]), {"stem", "second"}),
    ],
    ids=[
        "name",
        "layer",
        "inner name",
        "inner layer",
        "model",
        "model layer",
        "iterator",
    ],
)
def test_layers_are_excluded_by_name_and_by_themselves(exclude, left):
    plain = nested()
    model = keras_swd.with_regularizer(plain, swd(), exclude=exclude(plain))
    assert carriers(model) == left


def test_an_excluded_layer_does_not_spare_its_namesake_elsewhere():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, name="head")], name="block"
    )
    inputs = keras.Input((6,))
    plain = keras.Model(inputs, layers.Dense(3, name="head")(inner(inputs)))
    model = keras_swd.with_regularizer(
        plain, swd(), exclude=[plain.get_layer("head")]
    )
    namesake = model.get_layer("block").get_layer("head")
    assert isinstance(namesake.kernel_regularizer, SelectiveWeightDecay)
    assert model.get_layer("head").kernel_regularizer is None


def test_a_wrong_name_is_refused_with_a_suggestion():
    with pytest.raises(
        ValueError, match=r"`exclude` names 'haed'.*Did you mean 'head'\?"
    ):
        keras_swd.with_regularizer(nested(), swd(), exclude=["haed"])


def test_every_kind_of_kernel_is_found():
    inputs = keras.Input((8, 6))
    x = layers.LSTM(4, return_sequences=True)(inputs)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.SeparableConv1D(3, 2)(x)
    x = layers.DepthwiseConv1D(2)(x)
    x = layers.Conv1DTranspose(4, 2)(x)
    x = layers.Bidirectional(layers.GRU(2))(x)
    plain = keras.Model(inputs, layers.EinsumDense("ab,bc->ac", 3)(x))
    model = keras_swd.with_regularizer(plain, swd())
    kernels = [w.shape for w in plain.weights if "kernel" in w.name]
    assert [v.shape for v in regularized(model)] == kernels
    assert len(kernels) == 15
    assert regularized(keras_swd.strip(model)) == []


def test_a_subclassed_model_is_regularized_through_its_configuration():
    plain = subclassed()
    model = keras_swd.with_regularizer(plain, swd())
    assert model.built
    assert_same_arrays(model.get_weights(), plain.get_weights())
    assert carriers(model) == set(dense_layers(model))
    train(compiled(model))
    assert zeros(regularized(model)) == share(regularized(model))


def test_a_model_whose_configuration_takes_no_regularizer_is_refused():
    class Silent(keras.Model):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.head = layers.Dense(3)

        def call(self, inputs):
            return self.head(inputs)

    model = Silent()
    model(np.zeros((1, 6)))
    with pytest.raises(
        ValueError, match=r"`kernel_regularizer=`.*model's code"
    ):
        keras_swd.with_regularizer(model, swd())


def test_a_scaled_optimizer_keeps_its_own_learning_rate():
    model = sequential(swd())
    inner = keras.optimizers.SGD(OwnRate(), momentum=0.5)
    model.compile(keras.optimizers.LossScaleOptimizer(inner), loss="mse")
    copy = keras_swd.strip(model).optimizer
    assert copy is not model.optimizer
    assert copy.inner_optimizer is not inner
    assert copy.inner_optimizer.momentum == 0.5
    assert float(copy.inner_optimizer.learning_rate) == pytest.approx(0.1)
    assert not copy.inner_optimizer.built


def test_one_excluded_layer_needs_no_list():
    plain = sequential()
    for exclude in (plain.layers[0].name, plain.layers[0]):
        model = keras_swd.with_regularizer(plain, swd(), exclude=exclude)
        assert model.layers[0].kernel_regularizer is None
        assert model.layers[-1].kernel_regularizer is not None


class InTurn(layers.Layer):
    """Applies activations one after another."""

    def __init__(self, functions, **arguments):
        super().__init__(**arguments)
        self.functions = list(map(keras.activations.get, functions))

    def call(self, inputs):
        for function in self.functions:
            inputs = function(inputs)
        return inputs

    def get_config(self):
        functions = list(map(keras.activations.serialize, self.functions))
        return {**super().get_config(), "functions": functions}


def twice(x):
    return 2.0 * x


def test_a_scope_of_custom_objects_reaches_what_is_built_again():
    model = keras.Sequential([keras.Input((4,)), InTurn([twice])])
    with keras.saving.custom_object_scope({"twice": twice}):
        assert keras_swd.strip(model).layers[0].functions == [twice]
        assert keras_swd.shrink(model).layers[0].functions == [twice]
    with pytest.raises(ValueError, match="register_keras_serializable"):
        keras_swd.strip(model)


def test_an_activation_of_ones_own_needs_no_scope():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, twice)])
    assert keras_swd.strip(model).layers[0].activation is twice
    assert keras_swd.shrink(model).layers[0].activation is twice


def test_a_regularizer_for_weights_that_are_not_there_is_refused():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3),
            layers.BatchNormalization(scale=False),
            layers.Dense(2),
        ]
    )
    with pytest.raises(ValueError, match=r"No layer .* takes"):
        keras_swd.with_regularizer(model, keras_swd.NetworkSlimming())


@pytest.mark.filterwarnings("ignore:Layer InputLayer")
def test_quantizing_a_layer_under_pruning_says_what_to_do():
    layer = layers.Dense(8, kernel_regularizer=swd())
    model = keras.Sequential([keras.Input((16,)), layer])
    with pytest.warns(UserWarning, match=r"keras_swd\.strip\(model\)"):
        model.quantize("int8")
    plain = keras_swd.strip(model)
    plain.quantize("int8")
    assert plain.layers[0].quantization_mode == "int8"


# The state of a model as Keras sees it ---------------------------------------


@pytest.mark.filterwarnings("ignore:A weight selected when")
def test_keras_finds_the_state_of_each_regularizer_by_its_name():
    shared = SelectiveWeightDecay()
    x, y = np.ones((16, 6), "float32"), np.ones((16, 3), "float32")

    def trained():
        model = keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(8, kernel_regularizer=shared, name="first"),
                layers.Dense(
                    3, kernel_regularizer=SelectiveWeightDecay(), name="last"
                ),
            ],
            name="net",
        )
        model.compile("sgd", loss="mse")
        model.fit(x, y, verbose=0, callbacks=[PruningScheduler(SPARSITY)])
        return model

    model, other = trained(), trained()
    for each in (model, other):
        state = each.get_state_tree("numpy_array")["non_trainable_variables"]
        assert len(state) == len(each.non_trainable_variables)
        # A `LayoutMap` finds kernels by their names.
        assert not any("kernel" in name for name in state)
    before = model.predict(x, verbose=0)
    tree = model.get_state_tree("numpy_array")
    model.set_weights([np.zeros(w.shape) for w in model.weights])
    model.set_state_tree(tree)
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)
