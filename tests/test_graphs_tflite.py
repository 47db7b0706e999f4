"""Graph networks without sparse tensors, and the TFLite files they become."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_swd
from keras_swd.export import ExportError, to_tflite
from keras_swd.export.tflite.quiet import quiet

pytestmark = pytest.mark.tensorflow

FEATURES, CLASSES = 20, 3
#: Arguments of each layer that can be baked.
LAYERS = {
    "AGNNConv": {},
    "APPNPConv": {"channels": 4, "propagations": 2},
    "ARMAConv": {"channels": 4, "order": 2, "iterations": 2},
    "ChebConv": {"channels": 4, "K": 3},
    "CrystalConv": {},
    "EdgeConv": {"channels": 4},
    "GATConv": {"channels": 4, "attn_heads": 2},
    "GCNConv": {"channels": 4, "activation": "relu"},
    "GCSConv": {"channels": 4},
    "GINConv": {"channels": 4, "mlp_hidden": [5]},
    "GINConvBatch": {"channels": 4},
    "GatedGraphConv": {"channels": FEATURES, "n_layers": 2},
    "GeneralConv": {"channels": 4, "dropout": 0.3},
    "GraphSageConv": {"channels": 4, "aggregate": "mean"},
    "TAGConv": {"channels": 4, "K": 2},
}


def make_graph(nodes, share=0.3, seed=0):
    """Features, and a matrix whose last rows and columns may be empty."""
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((nodes, FEATURES)).astype("float32")
    a = generator.random((nodes, nodes)) * (
        generator.random((nodes, nodes)) < share
    )
    a[nodes - nodes // 4 :] = 0.0
    a[:, nodes - nodes // 4 :] = 0.0
    return x, a.astype("float32")


def make_gcn(**arguments):
    from keras_swd.graphs.gcn import gcn

    return gcn(features=FEATURES, classes=CLASSES, **arguments)


def make_model(layer, features=FEATURES):
    x, a = keras.Input((features,)), keras.Input((None,), sparse=True)
    return keras.Model([x, a], layer([x, a]))


def predict(model, x, a):
    """What the model says with its sparse adjacency."""
    import tensorflow as tf

    return model([tf.constant(x), tf.sparse.from_dense(a)]).numpy()


def bake(model, a):
    from keras_swd.graphs.baking import bake

    return bake(model, a)


def with_edges(model, nodes, edges):
    from keras_swd.graphs.baking import with_edges

    return with_edges(model, nodes, edges)


def edge_inputs(x, a, edges=None):
    """A graph as `with_edges` takes it, filled up with edges of value 0."""
    rows, columns = np.nonzero(a)
    values = a[rows, columns]
    spare = (edges or len(rows)) - len(rows)
    entries = [np.pad(array, (0, spare)) for array in (rows, columns, values)]
    types = ("float32", "int32", "int32", "float32")
    return [
        array.astype(dtype)[np.newaxis]
        for array, dtype in zip((x, *entries), types, strict=True)
    ]


def prune(model, sparsity):
    """Sets the smallest entries of each kernel to zero."""
    for kernel in model.weights:
        values = kernel.numpy()
        order = np.argsort(np.abs(values), axis=None)
        values.flat[order[: round(sparsity * values.size)]] = 0.0
        kernel.assign(values)
    return model


def run_plainly(path, feeds):
    """LiteRT itself, without delegates and without our code."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with quiet():
        interpreter = Interpreter(
            model_path=str(path), experimental_op_resolver_type=plain
        )
        (output,) = interpreter.get_signature_runner()(**feeds).values()
    return output


# The same outputs ------------------------------------------------------------

graphs = given(
    nodes=st.integers(1, 12),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=8)
@graphs
def test_a_baked_model_gives_what_the_model_gives(nodes, share, seed):
    x, a = make_graph(nodes, share, seed)
    model = make_gcn()
    baked = bake(model, a)
    assert baked.input.shape == (nodes, FEATURES)
    np.testing.assert_allclose(
        baked(x).numpy(), predict(model, x, a), rtol=1e-5, atol=1e-7
    )


@settings(max_examples=8)
@graphs
def test_edges_as_inputs_give_what_the_model_gives(nodes, share, seed):
    x, a = make_graph(nodes, share, seed)
    model = make_gcn()
    edges = np.count_nonzero(a) + 3
    outputs = with_edges(model, nodes, edges)(edge_inputs(x, a, edges))
    assert outputs.shape == (1, nodes, CLASSES)
    np.testing.assert_allclose(
        outputs[0].numpy(), predict(model, x, a), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("name", LAYERS)
def test_spektrals_layers_can_be_baked(name):
    from keras_swd.graphs import layers

    x, a = make_graph(9)
    a = np.maximum(a, a.T)
    layer = getattr(layers, name)(**LAYERS[name])
    model = make_model(layer)
    outputs = predict(model, x, a)
    np.testing.assert_allclose(
        bake(model, a)(x).numpy(), outputs, rtol=1e-5, atol=1e-6
    )
    edges = with_edges(model, 9, np.count_nonzero(a))
    np.testing.assert_allclose(
        edges(edge_inputs(x, a))[0].numpy(), outputs, rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_spektrals_layers_become_files(name, tmp_path):
    from keras_swd.graphs import layers

    x, a = make_graph(9)
    layer = getattr(layers, name)(**LAYERS[name])
    baked = bake(make_model(layer), a)
    report = to_tflite(baked, tmp_path / "m.tflite", sparse=False, check_with=x)
    assert "UNSORTED_SEGMENT_SUM" in report.operators
    assert report.difference < 1e-5


def test_each_kind_of_matrix_is_taken():
    import scipy.sparse
    import tensorflow as tf

    x, a = make_graph(8)
    model = make_gcn()
    kinds = [
        a.astype("float64"),
        scipy.sparse.csr_array(a),
        scipy.sparse.csc_matrix(a),
        tf.sparse.from_dense(a),
    ]
    expected = predict(model, x, a)
    for kind in kinds:
        np.testing.assert_allclose(
            bake(model, kind)(x).numpy(), expected, rtol=1e-5
        )


def test_a_layer_that_is_called_twice_is_copied_once():
    from keras_swd.graphs.layers import GCNConv

    layer = GCNConv(FEATURES)
    x, a = keras.Input((FEATURES,)), keras.Input((None,), sparse=True)
    model = keras.Model([x, a], layer([keras.ops.relu(layer([x, a])), a]))
    features, adjacency = make_graph(8)
    baked = bake(model, adjacency)
    assert len(baked.weights) == len(model.weights) == 2
    np.testing.assert_allclose(
        baked(features).numpy(),
        predict(model, features, adjacency),
        rtol=1e-5,
        atol=1e-6,
    )


def test_functions_of_a_model_are_kept():
    def doubled(t):
        return 2.0 * t

    x, a = keras.Input((FEATURES,)), keras.Input((None,), sparse=True)
    y = keras.layers.Lambda(lambda t: keras.ops.square(t))(x)
    y = graph_layer("GCNConv", 3, doubled)([y, a])
    model = keras.Model([x, a], y)
    features, adjacency = make_graph(8)
    np.testing.assert_allclose(
        bake(model, adjacency)(features).numpy(),
        predict(model, features, adjacency),
        rtol=1e-5,
        atol=1e-6,
    )


def test_an_adapted_layer_keeps_what_it_has_found():
    x, a = make_graph(6)
    x = 5.0 + 3.0 * x
    features, adjacency = (
        keras.Input((FEATURES,)),
        keras.Input((6,), sparse=True),
    )
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    layer = graph_layer("GCSConv", 4)
    outputs = layer([normalization(features), adjacency])
    model = keras.Model([features, adjacency], outputs)
    np.testing.assert_allclose(
        bake(model, a)(x).numpy(), predict(model, x, a), rtol=1e-5, atol=1e-5
    )


def test_the_model_stays_as_it_was():
    x, a = make_graph(8)
    swd = keras_swd.SelectiveWeightDecay()
    model = make_gcn(kernel_regularizer=swd)
    model.compile("adam", "categorical_crossentropy")
    before = predict(model, x, a)
    baked = bake(model, a)
    for weight in baked.weights:
        weight.assign(0.0 * weight)
    np.testing.assert_array_equal(predict(model, x, a), before)
    assert [layer.name for layer in baked.layers if layer.weights] == [
        "hidden",
        "classes",
    ]
    assert not baked.compiled


def test_a_baked_model_is_saved_and_loaded(tmp_path):
    x, a = make_graph(8)
    for entries in (a, 0.0 * a):
        baked = bake(make_gcn(), entries)
        baked.save(tmp_path / "baked.keras")
        loaded = keras.saving.load_model(tmp_path / "baked.keras")
        np.testing.assert_array_equal(loaded(x), baked(x))


# Files -----------------------------------------------------------------------


@pytest.mark.slow
def test_the_file_of_a_baked_model_takes_the_features_alone(tmp_path):
    x, a = make_graph(70)
    model = prune(make_gcn(), 0.9)
    path = tmp_path / "m.tflite"
    report = to_tflite(bake(model, a), path, check_with=x)
    assert report.inputs == ("features",)
    assert report.batch_size == report.samples == 70
    assert report.flex == ()
    assert set(report.operators) <= {
        "DENSIFY",
        "FULLY_CONNECTED",
        "GATHER",
        "MUL",
        "RELU",
        "SOFTMAX",
        "UNSORTED_SEGMENT_SUM",
    }
    assert report.model_zeros == report.zeros == 288 + 43
    np.testing.assert_allclose(
        run_plainly(path, {"features": x}), predict(model, x, a), atol=1e-6
    )


@pytest.mark.slow
def test_a_file_holds_the_edges_once_and_no_matrix(tmp_path):
    x, a = make_graph(200, share=0.05)
    model = make_gcn()
    path = tmp_path / "m.tflite"
    report = to_tflite(bake(model, a), path, sparse=False, check_with=x)
    without = to_tflite(bake(model, 0 * a), path, sparse=False, check_with=x)
    edges = 12 * np.count_nonzero(a)
    assert edges < report.bytes - without.bytes < edges + 8_000
    assert report.bytes < a.nbytes / 4


@pytest.mark.slow
def test_a_file_with_edges_follows_another_graph(tmp_path):
    x, a = make_graph(30)
    _, other = make_graph(30, share=0.1, seed=1)
    edges = np.count_nonzero(a)
    model = prune(make_gcn(), 0.9)
    path = tmp_path / "m.tflite"
    both = [
        np.concatenate(pair)
        for pair in zip(
            edge_inputs(x, a), edge_inputs(x, other, edges), strict=True
        )
    ]
    report = to_tflite(with_edges(model, 30, edges), path, check_with=both)
    assert report.inputs == ("features", "rows", "columns", "values")
    assert (report.batch_size, report.samples) == (1, 2)
    assert report.flex == ()
    feeds = dict(zip(report.inputs, edge_inputs(x, other, edges), strict=True))
    np.testing.assert_allclose(
        run_plainly(path, feeds)[0], predict(model, x, other), atol=1e-6
    )


@pytest.mark.parametrize(
    "mode",
    [
        pytest.param(mode, marks=pytest.mark.slow)
        for mode in ("int8", "float16", "dynamic", "int16x8")
    ],
)
def test_quantized_files_keep_the_zeros(mode, tmp_path):
    x, a = make_graph(60)
    baked = bake(prune(make_gcn(units=64), 0.8), a)
    report = to_tflite(
        baked,
        tmp_path / "m.tflite",
        quantization=mode,
        representative_data=x,
    )
    assert report.zeros >= report.model_zeros == 1024 + 154
    # TensorFlow Lite sums segments in float alone.
    integers = mode in ("int8", "int16x8")
    assert len(report.fallback) == (2 if integers else 0)


@pytest.mark.slow
def test_a_graph_is_measured_and_compared_as_a_whole(tmp_path):
    x, a = make_graph(700, share=0.01)
    # Ranges from the first 500 nodes would cut off all but these.
    x[510:] *= 100.0
    report = to_tflite(
        bake(make_model(graph_layer("GCSConv", 4)), a),
        tmp_path / "m.tflite",
        quantization="int8",
        representative_data=x,
    )
    assert report.samples == 700
    assert report.difference < 0.05


def graph_layer(name, *args):
    from keras_swd.graphs import layers

    return getattr(layers, name)(*args)


@pytest.mark.slow
def test_a_model_trained_in_mixed_precision_becomes_a_file(tmp_path):
    x, a = make_graph(10)
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_gcn()
    finally:
        keras.config.set_dtype_policy(policy)
    baked = bake(model, a)
    assert baked(x).dtype == "float16"
    report = to_tflite(baked, tmp_path / "m.tflite", check_with=x)
    assert report.difference < 1e-5


def test_sparse_inputs_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"graphs\.bake.*'adjacency'"):
        to_tflite(make_gcn(), tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_dense_adjacency_as_input_gives_wrong_files_which_are_refused(
    tmp_path,
):
    # The converter loses the activation behind a product of two inputs.
    layer = graph_layer("GCNConv", 4, "relu")
    x = keras.Input(batch_shape=(8, FEATURES))
    a = keras.Input(batch_shape=(8, 8))
    last = graph_layer("GCNConv", 4)
    model = keras.Model([x, a], last([layer([x, a]), a]))
    with pytest.raises(ExportError, match="differs from Keras"):
        to_tflite(model, tmp_path / "m.tflite", check_with=make_graph(8))
    assert not list(tmp_path.iterdir())


# Errors ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adjacency", "received"),
    [
        (np.ones((3, 4)), r"type ndarray and shape \(3, 4\)"),
        (np.ones(3), r"shape \(3,\)"),
        (np.ones((0, 0)), r"shape \(0, 0\)"),
        (np.full((2, 2), 1j), "square matrix of numbers"),
        (np.full((2, 2), "a"), "square matrix of numbers"),
        (None, "type NoneType"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "NaN or infinity"),
    ],
)
def test_what_is_no_adjacency_is_refused(adjacency, received):
    with pytest.raises(ValueError, match=f"`adjacency`.*{received}"):
        bake(make_gcn(), adjacency)


def test_a_model_for_another_number_of_nodes_is_refused():
    layer = graph_layer("GCNConv", 4)
    x = keras.Input(batch_shape=(5, FEATURES), name="x")
    a = keras.Input(batch_shape=(5, 5), sparse=True)
    model = keras.Model([x, a], layer([x, a]))
    with pytest.raises(ValueError, match=r"must take 4 nodes.*\(5, 20\)"):
        bake(model, np.eye(4))


def test_models_with_other_inputs_are_refused():
    x, a, e = keras.Input((3,)), keras.Input((3,)), keras.Input((3,))
    total = keras.layers.Add()
    named = {tensor.name: tensor for tensor in (x, a)}
    for model in (
        keras.Model(named, total([x, a])),
        keras.Model([x, a, e], total([x, a, e])),
        keras.Model(x, keras.ops.relu(x)),
        keras.Sequential([x, keras.layers.Dense(2)]),
        None,
    ):
        with pytest.raises(ValueError, match="functional model of two inputs"):
            bake(model, np.eye(3))


def test_layers_that_need_more_than_edges_are_named():
    x, a = keras.Input((FEATURES,)), keras.Input((None,), sparse=True)
    inner = make_gcn()
    dense = keras.Input((None,))
    product = keras.ops.matmul(dense, x)
    for name, model in {
        "GTVConv": make_model(graph_layer("GTVConv", 4)),
        "Functional": keras.Model([x, a], inner([x, a])),
        "Matmul": keras.Model([x, dense], product),
    }.items():
        with pytest.raises(ValueError, match=f"layer '.*' of class {name}"):
            bake(model, np.eye(4))


@pytest.mark.parametrize("arguments", [(0, 3), (4, 0), (4, 2.5)])
def test_sizes_must_be_positive_integers(arguments):
    with pytest.raises(ValueError, match="must be an integer, 1 or greater"):
        with_edges(make_gcn(), *arguments)


# Real data -------------------------------------------------------------------


@pytest.mark.slow
def test_cora_becomes_small_files_that_agree(data_dir, tmp_path):
    import scipy.sparse

    from keras_swd.graphs.gcn import gcn
    from keras_swd.graphs.layers import GCNConv
    from keras_swd.graphs.planetoid import load_cora

    graph = load_cora(data_dir / "planetoid")[0]
    x = np.asarray(graph.x, "float32")
    a = scipy.sparse.coo_array(GCNConv.preprocess(graph.a))
    model = prune(gcn(features=1433, classes=7), 0.9)

    baked = to_tflite(bake(model, a), tmp_path / "baked.tflite", check_with=x)
    assert baked.sparse
    assert baked.samples == baked.batch_size == 2708
    # 12 bytes for each edge, 4 for each weight that is left, and the rest.
    assert baked.bytes < 12 * a.nnz + 4 * 2304 + 8_000

    entries = (array[np.newaxis] for array in (x, a.row, a.col, a.data))
    edges = to_tflite(
        with_edges(model, len(x), a.nnz),
        tmp_path / "edges.tflite",
        check_with=list(entries),
    )
    assert edges.bytes < 4 * 2304 + 10_000
    for report in (baked, edges):
        assert report.flex == ()
        assert report.difference < 1e-5
        assert report.top1_agreement > 0.999


def test_nodes_that_are_masked_stay_masked():
    from keras_swd.graphs import layers

    x, a = make_graph(12)
    shown = np.concatenate([x, np.arange(12)[:, None] % 3 > 0], axis=1)
    features = keras.Input((FEATURES + 1,))
    adjacency = keras.Input((None,), sparse=True)
    hidden = layers.GraphMasking()(features)
    for _ in range(2):
        convolution = layers.GCNConv(4, bias_initializer="ones")
        hidden = convolution([hidden, adjacency])
    model = keras.Model([features, adjacency], hidden)
    expected = predict(model, shown.astype("float32"), a)
    assert not expected[::3].any()
    found = bake(model, a)(shown.astype("float32"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_layer_called_by_keyword_is_refused():
    from keras_swd.graphs import layers

    x, a = keras.Input((FEATURES,)), keras.Input((None,), sparse=True)
    model = keras.Model([x, a], layers.GCNConv(3)(inputs=[x, a]))
    with pytest.raises(ValueError, match=r"called on `\[x, a\]`"):
        bake(model, make_graph(5)[1])
