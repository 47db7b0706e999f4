"""Targets in bytes of the exported file."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_swd
from keras_swd import PruningScheduler, SelectiveWeightDecay, TFLiteBytes
from keras_swd.export.sizes.kind import FileKind
from keras_swd.prunable import Prunable
from keras_swd.targets.counts import Target
from keras_swd.targets.limits import SizeLimit
from keras_swd.targets.sizing import CLOSE, MOST, least_share
from keras_swd.units.channels import find_channels
from keras_swd.units.kernels import find_kernels

layers = keras.layers


class Limit(SizeLimit):
    """A size that is told directly."""

    def __init__(self, limit):
        self._limit = limit

    @property
    def limit(self):
        return self._limit

    def remedy(self, smallest):
        return f"The smallest is {smallest}."

    def get_config(self):
        return {"limit": self._limit}


def mlp(**arguments):
    swd = SelectiveWeightDecay(**arguments)
    return keras.Sequential(
        [
            keras.Input((100,)),
            layers.Dense(80, activation="relu", kernel_regularizer=swd),
            layers.Dense(40, kernel_regularizer=swd),
        ],
        name="mlp",
    )


def foreseen(target, model):
    """The bytes that a scheduler foresees of a model as it is."""
    return target.measure(model)({}) + target.excess(model, {})


# How a share is found --------------------------------------------------------


@given(
    weights=st.integers(50, 10**6),
    fixed=st.integers(0, 10**4),
    each=st.integers(1, 8),
    bend=st.floats(0.5, 2.0),
    wanted=st.floats(0.01, 1.2),
    guess=st.none() | st.floats(0.0, MOST),
)
def test_the_least_share_is_found(weights, fixed, each, bend, wanted, guess):
    def size(share):
        left = weights - round(share * weights)
        return fixed + round(each * weights * (left / weights) ** bend)

    limit = wanted * size(0.0)
    if size(MOST) > limit:
        with pytest.raises(ValueError, match="out of reach"):
            least_share(size, Limit(limit), guess)
        return
    share = least_share(size, Limit(limit), guess)
    assert size(share) <= limit
    # Nothing goes in vain: a little less would be close to the limit.
    less = max(share - 2e-5, 0.0)
    assert share == 0.0 or size(less) >= CLOSE * limit


def test_a_guess_that_fits_takes_one_trial():
    tried = []

    def size(share):
        tried.append(share)
        return 1000 - round(900 * share)

    share = least_share(size, Limit(400))
    assert len(tried) <= 5
    tried.clear()
    assert least_share(size, Limit(400), share) == share
    assert tried == [share]


# Which files -----------------------------------------------------------------


def test_a_raw_int8_file_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="stores every zero") as error:
        TFLiteBytes(20_000, quantization="int8")
    assert "`gzip=True`" in str(error.value)
    assert "Received: quantization='int8', gzip=False." in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bytes": 0}, "Argument `bytes` must be an integer, 1 or greater"),
        ({"bytes": None}, "Argument `bytes` must be an integer, 1 or greater"),
        ({"bytes": 2.5}, "Argument `bytes` must be an integer, 1 or greater"),
        (
            {"bytes": 9, "quantization": "float16"},
            "Received: quantization='float16'",
        ),
        ({"bytes": 9, "gzip": "yes"}, "Received: gzip='yes'"),
    ],
)
def test_wrong_arguments_are_told(arguments, words):
    with pytest.raises(ValueError, match=words):
        TFLiteBytes(**arguments)


def test_a_target_survives_serialization():
    target = TFLiteBytes(20_000, quantization="int8", gzip=True)
    config = keras.saving.serialize_keras_object(target)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy == target
    assert copy.limit == pytest.approx(19_600)


# What the file has more than is foreseen -------------------------------------


def dense_on_sequences():
    return [keras.Input((12, 32)), layers.Dense(64), layers.Dense(64)]


def convolutions_of_signals():
    block = [
        (
            layers.Conv1D(64, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling1D(),
        )
        for _ in range(3)
    ]
    mean = layers.GlobalAveragePooling1D()
    return [keras.Input((60, 4)), *sum(block, ()), mean, layers.Dense(9)]


def normalized_before_dense():
    return [
        keras.Input((128,)),
        layers.Dense(160, activation="relu"),
        layers.BatchNormalization(),
        layers.Dense(96),
    ]


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("build", "bytes_"),
    [
        pytest.param(dense_on_sequences, 12_000, marks=pytest.mark.slow),
        pytest.param(convolutions_of_signals, 20_000, marks=pytest.mark.slow),
        pytest.param(normalized_before_dense, 60_000, marks=pytest.mark.slow),
    ],
)
def test_the_file_itself_meets_the_target(build, bytes_, tmp_path):
    plain = keras.Sequential(build())
    model = keras_swd.with_regularizer(plain, SelectiveWeightDecay())
    keras_swd.remove(model, TFLiteBytes(bytes_))
    report = keras_swd.export.to_tflite(
        keras_swd.strip(model), tmp_path / "model.tflite"
    )
    assert 0.96 * bytes_ <= report.bytes <= bytes_


@pytest.mark.tensorflow
def test_a_model_that_cannot_be_converted_is_foreseen_from_its_layers(
    monkeypatch,
):
    def fail(request):
        raise RuntimeError("no operator")

    monkeypatch.setattr("keras_swd.export.sizes.trial.convert", fail)
    model, target = mlp(), TFLiteBytes(20_000)
    with pytest.warns(UserWarning, match="could not be tried.*no operator"):
        keras_swd.remove(model, target)
    assert 0.97 * target.bytes < target.measure(model)({}) <= target.limit


@pytest.mark.tensorflow
def test_a_file_that_cannot_leave_zeros_out_is_refused(monkeypatch):
    from keras_swd.export.tflite.conversion import Candidate

    files = [Candidate(False, bytes(50)), Candidate(True, None, "Not here.")]
    monkeypatch.setattr(
        "keras_swd.export.sizes.trial.convert", lambda request: files
    )
    with pytest.raises(ValueError, match=r"Zeros make no .* Not here\. Pass"):
        keras_swd.remove(mlp(), TFLiteBytes(20_000))


class Larger(Limit):
    """The weights left, and something that is not measured."""

    def measure(self, model):
        return lambda values: sum(map(np.count_nonzero, values.values()))

    def excess(self, model, values):
        left = self.measure(model)(values)
        return 1_000 + left // 2


def test_what_grows_with_the_weights_is_met_after_a_few_trials():
    model, limit = mlp(), Larger(6_000)
    keras_swd.remove(model, limit)
    left = sum(np.count_nonzero(layer.kernel) for layer in model.layers)
    assert 0.9 * limit.limit < 1_000 + 1.5 * left <= limit.limit


# What goes -------------------------------------------------------------------


@pytest.fixture
def untried(monkeypatch):
    """Saves the seconds that it takes to convert a model and compare."""
    monkeypatch.setattr(TFLiteBytes, "excess", SizeLimit.excess)


@pytest.mark.usefixtures("untried")
@pytest.mark.parametrize(
    "target",
    [
        TFLiteBytes(20_000),
        TFLiteBytes(20_000, gzip=True),
        TFLiteBytes(8_000, quantization="int8", gzip=True),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "arguments",
    [{}, {"granularity": keras_swd.Block((4, 1))}],
    ids=["weights", "blocks"],
)
def test_removal_meets_the_foreseen_size(target, arguments):
    model = mlp(**arguments)
    keras_swd.remove(model, target)
    bytes_ = foreseen(target, model)
    assert 0.96 * target.bytes < bytes_ <= target.limit


@pytest.mark.usefixtures("untried")
def test_layers_share_it_as_the_allocation_says():
    model = mlp()
    keras_swd.remove(model, TFLiteBytes(20_000), keras_swd.Uniform())
    first, second = keras_swd.sparsity_report(model).kernels
    assert first.sparsity == pytest.approx(second.sparsity, abs=1e-3)
    assert 0.4 < first.sparsity < 0.7


@pytest.mark.usefixtures("untried")
def test_a_target_of_a_kernel_stays_its_own():
    own = SelectiveWeightDecay(sparsity=0.25)
    model = keras.Sequential(
        [
            keras.Input((100,)),
            layers.Dense(80, kernel_regularizer=own),
            layers.Dense(40, kernel_regularizer=SelectiveWeightDecay()),
        ]
    )
    target = TFLiteBytes(40_000)
    removed = keras_swd.remove(model, target)
    assert next(iter(removed.values())) == 2_000
    assert foreseen(target, model) <= target.limit


@pytest.mark.usefixtures("untried")
def test_a_file_that_is_small_enough_keeps_its_weights():
    assert sum(keras_swd.remove(mlp(), TFLiteBytes(10**6)).values()) == 0


@pytest.mark.usefixtures("untried")
def test_zeros_count_under_gzip_in_layers_that_keep_them_all():
    layer = layers.EinsumDense(
        "ab,bc->ac", 256, kernel_regularizer=SelectiveWeightDecay()
    )
    model = keras.Sequential([keras.Input((16,)), layer])
    target = TFLiteBytes(8_000, gzip=True)
    keras_swd.remove(model, target)
    bytes_ = foreseen(target, model)
    assert 0.96 * target.bytes < bytes_ <= target.limit


@pytest.mark.slow
@pytest.mark.usefixtures("untried")
@pytest.mark.filterwarnings("ignore:A weight selected")
def test_a_target_that_slips_out_of_reach_is_warned_of():
    # The biases are zero at first, and larger than the rest soon after.
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(500, kernel_regularizer=SelectiveWeightDecay()),
            layers.Dense(12, kernel_regularizer=SelectiveWeightDecay()),
        ]
    )
    model.compile("adam", "mse")
    x = np.random.default_rng(0).standard_normal((64, 12)).astype("float32")
    scheduler = keras_swd.PruningScheduler(TFLiteBytes(4_000))
    with pytest.warns(UserWarning, match=r"out of reach.*goes on with the sh"):
        model.fit(
            x, x, batch_size=16, epochs=2, verbose=0, callbacks=[scheduler]
        )
    assert keras_swd.sparsity_report(model).prunable.sparsity > 0.8


@pytest.mark.usefixtures("untried")
def test_out_of_reach_names_the_smallest_and_what_to_do():
    with pytest.raises(ValueError, match="out of reach") as error:
        keras_swd.remove(mlp(), TFLiteBytes(1_000))
    message = str(error.value)
    assert "TFLiteBytes(bytes=1000" in message
    assert "`quantization='int8', gzip=True`" in message
    smallest = int(
        message.split("Ask for ")[1].split(" or")[0].replace(",", "")
    )
    model = mlp()
    with pytest.raises(ValueError, match="out of reach"):
        keras_swd.remove(model, TFLiteBytes(smallest - 50))
    keras_swd.remove(model, TFLiteBytes(smallest))


def test_methods_that_pursue_a_share_are_refused():
    model = keras_swd.with_regularizer(mlp(), keras_swd.AdaptiveSparsity())
    with pytest.raises(ValueError, match="pursues a share"):
        keras_swd.remove(model, TFLiteBytes(20_000))


def test_coupled_channels_are_refused():
    swd = SelectiveWeightDecay(
        granularity=keras_swd.CoupledChannels(kernels=True)
    )
    model = keras_swd.with_regularizer(mlp(), swd)
    with pytest.raises(ValueError, match=r"Parameters\(left=0.5\)"):
        keras_swd.remove(model, TFLiteBytes(20_000))


@pytest.mark.slow
def test_a_run_ends_at_the_target():
    model = mlp()
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(64, 100)), random.normal(size=(64, 40))
    target = TFLiteBytes(20_000)
    sizes = []
    growth = keras_swd.Exponential(1.0, 1e4, finish=0.5)
    scheduler = PruningScheduler(target, growth, reallocations=4)
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: sizes.append(logs["sparsity"])
    )
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=20,
        verbose=0,
        callbacks=[scheduler, watch],
    )
    assert 0.97 * target.bytes < foreseen(target, model) <= target.bytes
    zeros = keras_swd.sparsity_report(model).prunable.sparsity
    assert sizes[-1] == pytest.approx(zeros)


@pytest.mark.usefixtures("untried")
def test_rounds_remove_a_part_of_the_share_that_meets_the_target():
    target = TFLiteBytes(20_000)
    prunable = Prunable(mlp(), target, keras_swd.Uniform())
    whole, half = prunable.counts(), prunable.counts(0.5)
    assert [2 * h for h in half] == pytest.approx(whole, abs=2)


@pytest.mark.usefixtures("untried")
def test_a_run_that_diverges_is_refused_by_removal_alone():
    model = mlp()
    target = Target(
        model,
        find_kernels(model),
        find_channels(model),
        TFLiteBytes(20_000),
        keras_swd.LAMP(),
    )
    before = target.counts()
    kernel = model.layers[0].kernel
    kernel.assign(kernel * np.nan)
    with pytest.raises(ValueError, match="NaN or infinity"):
        keras_swd.remove(model, 0.5)
    assert sum(target.counts()) == sum(before)


def test_the_kind_has_a_name():
    assert FileKind(None, gzip=False).name == "float32 file"


@pytest.mark.usefixtures("untried")
@pytest.mark.filterwarnings("ignore:A weight selected")
@pytest.mark.filterwarnings("ignore:The run ended")
def test_what_was_removed_stays_removed_in_a_run_that_goes_on():
    limit = TFLiteBytes(25_000)
    model = mlp()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    x, y = np.ones((8, 100), "float32"), np.ones((8, 40), "float32")

    def zeros(**arguments):
        pruning = PruningScheduler(limit, remove_at=0.5, total_steps=4)
        model.fit(
            x, y, batch_size=8, verbose=0, callbacks=[pruning], **arguments
        )
        kernels = [layer.kernel for layer in model.layers]
        values = map(keras.ops.convert_to_numpy, kernels)
        return sum(int(np.count_nonzero(k == 0.0)) for k in values)

    removed = zeros(epochs=3)
    assert removed > 0
    assert zeros(epochs=4, initial_epoch=3) == removed
    assert foreseen(limit, model) <= limit.limit
