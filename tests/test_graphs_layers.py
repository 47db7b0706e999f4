"""Spektral's layers as Keras 3 uses them: repaired, otherwise the same."""

import inspect
import json
import os
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import keras_swd
from keras_swd.graphs import layers

pytestmark = [
    pytest.mark.tensorflow,
    # What Spektral says where it is given a dense matrix.
    pytest.mark.filterwarnings("ignore:Casting dense adjacency matrix"),
]

NODES, FEATURES, EDGE_FEATURES = 6, 4, 3
CHANNELS = {"node_channels": 5, "edge_channels": 2}
#: Arguments of each layer, as few as possible of them the default, and how
#: many kernels a pruning regularizer then reaches.
CASES = {
    "AGNNConv": ({"activation": "tanh"}, 0),
    "APPNPConv": ({"channels": 5, "mlp_hidden": [3], "alpha": 0.3}, 2),
    "ARMAConv": ({"channels": 5, "order": 2, "iterations": 2}, 8),
    "CensNetConv": (CHANNELS, 2),
    "ChebConv": ({"channels": 5, "K": 3}, 1),
    "CrystalConv": ({"aggregate": "mean"}, 2),
    "DiffusionConv": ({"channels": 5, "K": 2}, 5),
    "ECCConv": ({"channels": 5, "kernel_network": [3]}, 2),
    "EdgeConv": ({"channels": 5, "mlp_hidden": [3]}, 2),
    "GATConv": ({"channels": 5, "attn_heads": 2, "add_self_loops": False}, 1),
    "GCNConv": ({"channels": 5, "activation": "elu"}, 1),
    "GCSConv": ({"channels": 5, "use_bias": False}, 2),
    "GINConv": ({"channels": 5, "mlp_hidden": [3]}, 2),
    "GINConvBatch": ({"channels": 5, "epsilon": 0.5}, 1),
    "GTVConv": ({"channels": 5, "delta_coeff": 0.5}, 1),
    "GatedGraphConv": ({"channels": 5, "n_layers": 2}, 2),
    "GeneralConv": ({"channels": 5, "batch_norm": False, "dropout": 0.1}, 1),
    "GraphSageConv": ({"channels": 5, "aggregate": "max"}, 1),
    "TAGConv": ({"channels": 5, "K": 2}, 1),
    "XENetConv": ({"stack_channels": 4, **CHANNELS}, 3),
    "XENetConvBatch": ({"stack_channels": 4, **CHANNELS}, 3),
}
#: These take a dense adjacency matrix alone.
DENSE = ("DiffusionConv", "XENetConvBatch")
every_layer = pytest.mark.parametrize("name", CASES)
#: One of each kind: with a network within, with attention, with edges, dense.
QUICK = ("DiffusionConv", "ECCConv", "GATConv", "GCNConv", "XENetConv")
every_layer_slowly = pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)


# What every test needs -------------------------------------------------------


def adjacency():
    """A ring with one chord, rows normalized."""
    a = np.roll(np.eye(NODES, dtype="float32"), 1, axis=1)
    a[0, 3] = 1.0
    a += a.T
    return a / a.sum(axis=1, keepdims=True)


def graph(name, sparse):
    """A list of tensors that a layer takes: features, adjacency, edges."""
    import tensorflow as tf

    random = np.random.default_rng(7)

    def normal(*shape):
        return random.normal(size=shape).astype("float32")

    a = adjacency()
    x = normal(NODES, FEATURES)
    if name == "CensNetConv":
        matrices = layers.CensNetConv.preprocess(np.sign(a))
        matrices = tuple(np.asarray(m, "float32") for m in matrices)
        inputs = [x, matrices, normal(len(matrices[1]), EDGE_FEATURES)]
    elif name in ("CrystalConv", "ECCConv", "XENetConv"):
        inputs = [x, a, normal(np.count_nonzero(a), EDGE_FEATURES)]
    elif name == "GINConvBatch":
        inputs = [x[None], a[None]]
    elif name == "XENetConvBatch":
        inputs = [x[None], a[None], normal(1, NODES, NODES, EDGE_FEATURES)]
    else:
        inputs = [x, a]
    inputs = keras.tree.map_structure(tf.convert_to_tensor, inputs)
    if sparse:
        matrices = keras.tree.map_structure(tf.sparse.from_dense, inputs[1])
        inputs[1] = matrices
    return inputs


def make_model(name, sparse, **more):
    """A functional model of one layer, for any number of nodes."""

    def like(tensor):
        shape = (None,) * (len(tensor.shape) - 1) + tensor.shape[-1:]
        kind = type(tensor).__name__
        return keras.Input(batch_shape=shape, sparse=kind == "SparseTensor")

    keras.utils.set_random_seed(3)
    layer = getattr(layers, name)(**CASES[name][0], **more)
    inputs = keras.tree.map_structure(like, graph(name, sparse))
    return keras.Model(inputs, layer(inputs))


def outputs(model, name, sparse):
    found = model(graph(name, sparse))
    return [keras.ops.convert_to_numpy(v) for v in keras.tree.flatten(found)]


def assert_equal(found, expected, rtol=0.0):
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(f, e, rtol=rtol, atol=rtol)


# Every layer -----------------------------------------------------------------


def test_no_convolutional_layer_of_spektral_is_left_out():
    from spektral.layers import MessagePassing, convolutional

    theirs = {
        name
        for name, value in vars(convolutional).items()
        if inspect.isclass(value) and value is not MessagePassing
    }
    assert theirs == set(CASES)
    assert {*CASES, "GraphMasking"} == set(layers.NAMES)
    assert set(layers.NAMES) <= set(dir(layers))


@pytest.mark.parametrize(
    ("name", "sparse"),
    [(name, False) for name in CASES]
    + [(name, True) for name in CASES if name not in DENSE],
)
def test_outputs_are_those_of_spektrals_own_class(name, sparse):
    import spektral

    model = make_model(name, sparse)
    original = getattr(spektral.layers, name)(**CASES[name][0])
    # Where it passes messages, theirs takes a sparse matrix alone.
    passes = isinstance(original, spektral.layers.MessagePassing)
    passes &= name != "GINConvBatch"
    inputs = graph(name, sparse or passes)
    original.build([keras.tree.map_structure(_shape, i) for i in inputs])
    original.call(inputs)
    original.set_weights(model.get_weights())
    expected = keras.tree.flatten(original.call(inputs))
    assert_equal(outputs(model, name, sparse), [e.numpy() for e in expected])


def _shape(tensor):
    return tuple(tensor.shape)


@every_layer_slowly
def test_files_and_copies_give_the_same_outputs(name, tmp_path):
    sparse = name not in DENSE
    model = make_model(name, sparse)
    for weight in model.weights:  # no bias or statistic stays at its default
        weight.assign(weight + 0.1)
    expected = outputs(model, name, sparse)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded.layers[-1]) is getattr(layers, name)
    assert_equal(outputs(loaded, name, sparse), expected)
    twin = keras.Model.from_config(model.get_config())
    twin.set_weights(model.get_weights())
    assert_equal(outputs(twin, name, sparse), expected)
    # It gives its copy dense inputs, so the products are other ones.
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_equal(outputs(clone, name, sparse), expected, rtol=1e-5)


@every_layer
def test_configuration_holds_every_argument(name):
    arguments = CASES[name][0]
    layer = getattr(layers, name)(**arguments)
    config = layer.get_config()
    wanted = set(inspect.signature(type(layer)).parameters) - {"kwargs"}
    # Keras leaves it out where there is none; this layer does not use it.
    wanted -= {"activity_regularizer"} | (
        {"aggregate"} if name == "XENetConvBatch" else set()
    )
    assert wanted - set(config) == set()
    assert {key: config[key] for key in arguments} == arguments
    text = json.dumps(keras.saving.serialize_keras_object(layer))
    again = keras.saving.deserialize_keras_object(json.loads(text)).get_config()
    assert {key: again[key] for key in arguments} == arguments


@every_layer_slowly
@pytest.mark.filterwarnings("ignore:A weight selected")
def test_training_changes_every_weight_and_prunes_every_kernel(name):
    import tensorflow as tf

    sparse = name not in DENSE
    swd = keras_swd.SelectiveWeightDecay(1e-3)
    # Not to lose a gradient to a unit that is never active.
    more = {"activation": "tanh"} if takes_activation(name) else {}
    more = {} if "activation" in CASES[name][0] else more
    if CASES[name][1]:
        more["kernel_regularizer"] = swd
    if "mlp_hidden" in CASES[name][0]:
        more["mlp_activation"] = "tanh"
    model = make_model(name, sparse, **more)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = model.get_weights()
    target = [np.full_like(y, 0.3) for y in outputs(model, name, sparse)]
    target = target[0] if len(target) == 1 else tuple(target)
    data = (tuple(graph(name, sparse)), target)
    data = tf.data.Dataset.from_tensors(data)
    pruning = [keras_swd.PruningScheduler(0.5)] if CASES[name][1] else []
    model.fit(data, shuffle=False, epochs=2, verbose=0, callbacks=pruning)
    same = [
        weight.path
        for weight, old in zip(model.weights, before, strict=True)
        if np.array_equal(weight, old)
    ]
    assert same == []
    kernels = keras_swd.sparsity_report(model).kernels
    prunable = [kernel for kernel in kernels if kernel.prunable]
    assert len(prunable) == CASES[name][1]
    size = sum(kernel.size for kernel in prunable)
    assert sum(kernel.zeros for kernel in prunable) == round(0.5 * size)


def takes_activation(name):
    return "activation" in inspect.signature(getattr(layers, name)).parameters


# Pruned models ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["GATConv", "GINConv"])
def test_a_model_gets_regularizers_and_loses_them_again(name, tmp_path):
    plain = make_model(name, sparse=True)
    expected = outputs(plain, name, sparse=True)
    swd = keras_swd.SelectiveWeightDecay()
    model = keras_swd.with_regularizer(plain, swd)
    assert model.layers[-1].kernel_regularizer.get_config() == swd.get_config()
    assert_equal(outputs(model, name, sparse=True), expected)
    path = tmp_path / "model.keras"
    model.save(path)
    model = keras.saving.load_model(path)
    removed = keras_swd.remove(model, 0.5)
    assert len(removed) == CASES[name][1]
    stripped = keras_swd.strip(model)
    assert stripped.inputs[1].sparse
    assert "SelectiveWeightDecay" not in stripped.to_json()
    assert_equal(
        outputs(stripped, name, sparse=True), outputs(model, name, sparse=True)
    )


# Masks -----------------------------------------------------------------------


def test_masked_nodes_are_zero_in_every_layer_that_follows():
    random = np.random.default_rng(0)
    x = random.normal(size=(2, NODES, FEATURES)).astype("float32")
    valid = np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], "float32")
    a = np.broadcast_to(adjacency(), (2, NODES, NODES))
    inputs = [
        keras.Input((NODES, FEATURES + 1)),
        keras.Input((NODES, NODES)),
    ]
    nodes, matrix = layers.GraphMasking()(inputs)
    hidden = layers.GCNConv(5, "relu", use_bias=False)([nodes, matrix])
    final = layers.GCNConv(3, use_bias=False)([hidden, matrix])
    model = keras.Model(inputs, final)
    found = model([np.concatenate([x, valid[..., None]], axis=-1), a])
    first, second = model.get_weights()
    expected = valid[..., None] * np.maximum(a @ x @ first, 0)
    expected = valid[..., None] * (a @ expected @ second)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_masking_leaves_the_list_that_it_is_given_as_it_is():
    inputs = graph("GCNConv", sparse=False)
    nodes, _ = layers.GraphMasking()(inputs)
    assert inputs[0].shape == (NODES, FEATURES)
    np.testing.assert_array_equal(nodes, inputs[0][:, :-1])
    alone = layers.GraphMasking()(inputs[0])
    np.testing.assert_array_equal(alone, inputs[0][:, :-1])


# The classes themselves ------------------------------------------------------


def test_a_class_looks_like_the_one_it_adapts():
    import spektral

    ours, theirs = layers.GCNConv, spektral.layers.GCNConv
    assert issubclass(ours, theirs)
    assert ours is layers.GCNConv
    assert (ours.__name__, ours.__module__) == ("GCNConv", layers.__name__)
    assert ours.__doc__ == theirs.__doc__
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours.preprocess is theirs.preprocess


def test_keras_does_not_compile_it_with_xla():
    assert not layers.GCNConv(3).supports_jit


def test_a_layer_of_your_own_is_adapted():
    from spektral.layers.convolutional.conv import Conv

    @keras.saving.register_keras_serializable("tests")
    @layers.adapted
    class Twice(Conv):
        """Doubles the features."""

        def call(self, inputs, mask=None):
            x, _ = inputs
            return 2.0 * x if mask is None else 2.0 * x * mask[0]

    inputs = [keras.Input((4,)), keras.Input((None,), sparse=True)]
    model = keras.Model(inputs, Twice()(inputs))
    model = keras.Model.from_config(model.get_config())
    x, a = graph("GCNConv", sparse=True)
    np.testing.assert_array_equal(model([x, a]), 2.0 * x)
    assert Twice.__doc__ == "Doubles the features."
    assert Twice.__module__ == __name__


def test_a_layer_derived_from_one_of_these_keeps_its_arguments():
    class Own(layers.TAGConv):
        pass

    assert Own.from_config(Own(5, K=2).get_config()).K == 2


# What is refused -------------------------------------------------------------


def test_other_names_are_no_attributes():
    with pytest.raises(AttributeError, match="no attribute 'GCN'"):
        _ = layers.GCN


@pytest.fixture
def fresh():
    """Lets a class be made anew, and takes the old one back afterwards."""
    kept = dict(keras.saving.get_custom_objects())
    layers._layer_class.cache_clear()
    yield
    layers._layer_class.cache_clear()
    keras.saving.get_custom_objects().update(kept)


@pytest.mark.usefixtures("fresh")
def test_without_spektral_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "spektral", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_swd\[graphs\]'"):
        _ = layers.GCNConv


@pytest.mark.usefixtures("fresh")
def test_on_another_backend_the_error_names_the_variable(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="KERAS_BACKEND=tensorflow") as error:
        _ = layers.GCNConv
    assert str(error.value).endswith("keras.config.backend()='jax'.")


@pytest.mark.usefixtures("fresh")
def test_spektral_on_tf_keras_is_refused(monkeypatch):
    stand_in = types.ModuleType("spektral")
    stand_in.layers = types.SimpleNamespace(GCNConv=object)
    monkeypatch.setitem(sys.modules, "spektral", stand_in)
    with pytest.raises(ImportError, match="TF_USE_LEGACY_KERAS"):
        _ = layers.GCNConv


LOADED = """
import sys
import keras
import keras_swd.graphs.layers
print("spektral" in sys.modules)
model = keras.saving.load_model(sys.argv[1])
print("spektral" in sys.modules, type(model.layers[-1]).__name__)
"""


def run(script, *arguments, **variables):
    result = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"KERAS_BACKEND": "tensorflow", **variables},
    )
    return result.stdout.split()


@pytest.mark.slow
def test_a_file_loads_without_the_layer_imported(tmp_path):
    path = tmp_path / "model.keras"
    swd = keras_swd.SelectiveWeightDecay()
    make_model("GCNConv", sparse=True, kernel_regularizer=swd).save(path)
    assert run(LOADED, path) == ["False", "True", "GCNConv"]


LEGACY = """
from keras_swd.graphs import layers
try:
    layers.GCNConv
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_spektral_on_the_real_tf_keras_is_refused():
    pytest.importorskip("tf_keras")
    assert "TF_USE_LEGACY_KERAS," in run(LEGACY, TF_USE_LEGACY_KERAS="1")
