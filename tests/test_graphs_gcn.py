"""Kipf and Welling's network: its formula, its files, and how it is pruned."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_swd
from keras_swd.graphs import layers
from keras_swd.graphs.gcn import gcn

pytestmark = pytest.mark.tensorflow

NODES, FEATURES, CLASSES = 40, 12, 3


# What every test needs -------------------------------------------------------


def normalized(adjacency):
    """D^(-1/2) (A + I) D^(-1/2) of a dense matrix, in float64."""
    a = np.asarray(adjacency, "float64") + np.eye(len(adjacency))
    degrees = a.sum(axis=1)
    return a / np.sqrt(np.outer(degrees, degrees))


def forward(x, adjacency, first, second):
    """softmax(Â relu(Â X W0) W1), in float64."""
    a = normalized(adjacency)
    hidden = np.maximum(a @ x.astype("float64") @ first, 0.0)
    logits = a @ hidden @ second
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def random_graph(nodes, share, seed):
    random = np.random.default_rng(seed)
    upper = np.triu(random.random((nodes, nodes)) < share, 1)
    return (upper | upper.T).astype("float32")


def communities(seed=0):
    """Features, adjacency and labels of nodes that mostly know their like."""
    random = np.random.default_rng(seed)
    labels = np.arange(NODES) % CLASSES
    alike = labels[:, None] == labels
    linked = random.random((NODES, NODES)) < np.where(alike, 0.5, 0.03)
    upper = np.triu(linked, 1)
    x = random.normal(size=(NODES, FEATURES))
    x[:, :CLASSES] += np.eye(CLASSES)[labels]
    y = np.eye(CLASSES, dtype="float32")[labels]
    return x.astype("float32"), (upper | upper.T).astype("float32"), y


def sparse(adjacency):
    from scipy.sparse import csr_matrix

    return layers.GCNConv.preprocess(csr_matrix(adjacency))


def compiled(**options):
    keras.utils.set_random_seed(1)
    model = gcn(FEATURES, CLASSES, **options)
    model.compile(
        keras.optimizers.Adam(0.02),
        keras.losses.CategoricalCrossentropy(
            reduction="mean_with_sample_weight"
        ),
        weighted_metrics=["accuracy"],
    )
    return model


def fit(model, x, a, y, weights, **options):
    return model.fit(
        [x, a],
        y,
        sample_weight=weights,
        batch_size=len(x),
        shuffle=False,
        verbose=0,
        **options,
    )


def predict(model, x, a):
    return model.predict([x, a], batch_size=len(x), verbose=0)


# The formula -----------------------------------------------------------------


@given(
    nodes=st.integers(1, 12),
    features=st.integers(1, 6),
    classes=st.integers(2, 5),
    units=st.integers(1, 5),
    share=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**32 - 1),
)
def test_outputs_are_those_of_the_formula(
    nodes, features, classes, units, share, seed
):
    from spektral.utils import sp_matrix_to_sp_tensor

    a = random_graph(nodes, share, seed)
    x = np.random.default_rng(seed).normal(size=(nodes, features))
    x = x.astype("float32")
    model = gcn(features, classes, units)
    expected = forward(x, a, *model.get_weights())
    dense = layers.GCNConv.preprocess(a)
    np.testing.assert_allclose(dense, normalized(a), rtol=1e-6)
    np.testing.assert_allclose(sparse(a).toarray(), dense, rtol=1e-6)
    assert expected.shape == (nodes, classes)
    x, dense = map(keras.ops.convert_to_tensor, (x, dense))
    for matrix in (dense, sp_matrix_to_sp_tensor(sparse(a))):
        found = model([x, matrix])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_kernels_start_as_glorot_uniform_without_biases():
    keras.utils.set_random_seed(0)
    kernels = gcn(1433, 7).get_weights()
    assert [k.shape for k in kernels] == [(1433, 16), (16, 7)]
    for kernel in kernels:
        limit = np.sqrt(6.0 / sum(kernel.shape))
        assert np.abs(kernel).max() <= limit
        assert np.abs(kernel).max() > 0.9 * limit


def test_dropout_acts_in_training_alone():
    x, a, _ = communities()
    a = layers.GCNConv.preprocess(a)
    model = gcn(FEATURES, CLASSES, dropout=0.8)
    assert [v.rate for v in model.layers if hasattr(v, "rate")] == [0.8, 0.8]
    np.testing.assert_array_equal(model([x, a]), model([x, a]))
    trained = [model([x, a], training=True) for _ in range(2)]
    assert not np.array_equal(*trained)


def test_one_model_takes_graphs_of_any_size():
    model = gcn(FEATURES, CLASSES)
    for nodes in (3, 8):
        x = np.ones((nodes, FEATURES), "float32")
        a = random_graph(nodes, 0.5, seed=nodes)
        assert predict(model, x, sparse(a)).shape == (nodes, CLASSES)


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_it_computes_in_other_types(policy):
    x, a, y = communities()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(dropout=0.0)
        expected = forward(x, a, *model.get_weights())
        found = predict(model, x, sparse(a))
        fit(model, x, sparse(a), y, np.ones(NODES))
    finally:
        keras.config.set_dtype_policy(before)
    tolerance = 1e-2 if policy == "mixed_float16" else 1e-6
    np.testing.assert_allclose(found, expected, atol=tolerance)


# Training --------------------------------------------------------------------


@pytest.mark.slow
def test_it_learns_the_labels_of_the_others():
    x, a, y = communities()
    known = (np.arange(NODES) < 4 * CLASSES).astype("float32")
    model = compiled()
    fit(model, x, sparse(a), y, known, epochs=30)
    right = predict(model, x, sparse(a)).argmax(1) == y.argmax(1)
    assert right[known == 0].mean() > 0.9


@pytest.mark.slow
def test_labels_without_weight_teach_nothing():
    x, a, y = communities()
    known = (np.arange(NODES) < 9).astype("float32")
    wrong = np.where(known[:, None], y, np.roll(y, 1, axis=1))
    trained = []
    for labels in (y, wrong):
        model = compiled(dropout=0.0)
        fit(model, x, sparse(a), labels, known, epochs=3)
        trained.append(model.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_every_form_of_the_graph_trains_alike():
    import tensorflow as tf
    from spektral.utils import sp_matrix_to_sp_tensor

    x, a, y = communities()
    known = np.ones(NODES, "float32")
    tensor = sp_matrix_to_sp_tensor(sparse(a))
    data = tf.data.Dataset.from_tensors(((x, tensor), y, known))
    trained = []
    for matrix in (sparse(a), tensor, layers.GCNConv.preprocess(a)):
        model = compiled(dropout=0.0)
        fit(model, x, matrix, y, known, epochs=3)
        trained.append(model.get_weights())
    model = compiled(dropout=0.0)
    model.fit(data, shuffle=False, epochs=3, verbose=0)
    for weights in trained:
        for one, other in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


# Pruning ---------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:A weight selected")
@pytest.mark.filterwarnings("ignore:What is removed now")  # after ten steps
@pytest.mark.parametrize(
    "sparsity", [pytest.param(0.5, marks=pytest.mark.slow), 0.9]
)
def test_ten_steps_prune_it_to_the_exact_sparsity(sparsity):
    x, a, y = communities()
    model = compiled(kernel_regularizer=keras_swd.SelectiveWeightDecay())
    pruning = keras_swd.PruningScheduler(sparsity)
    known = np.ones(NODES, "float32")
    history = fit(model, x, sparse(a), y, known, epochs=10, callbacks=[pruning])
    report = keras_swd.sparsity_report(model)
    size = FEATURES * 16 + 16 * CLASSES
    assert report.prunable.size == report.total.size == size
    assert report.prunable.zeros == round(sparsity * size)
    assert [k.path for k in report.kernels] == [
        "hidden/kernel",
        "classes/kernel",
    ]
    assert len(history.history["swd_strength"]) == 10
    stripped = keras_swd.strip(model)
    np.testing.assert_array_equal(
        predict(stripped, x, sparse(a)), predict(model, x, sparse(a))
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A weight selected")
def test_a_file_from_the_middle_of_training_goes_on_alike(tmp_path):
    x, a, y = communities()
    known = np.ones(NODES, "float32")
    path = tmp_path / "model.keras"
    finished = []
    for interrupted in (False, True):
        swd = keras_swd.SelectiveWeightDecay(1e-3)
        model = compiled(dropout=0.0, kernel_regularizer=swd)
        stop = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, _, m=model: epoch == 3 and m.save(path)
        )
        callbacks = [keras_swd.PruningScheduler(0.75)]
        if not interrupted:
            callbacks.append(stop)
            fit(model, x, sparse(a), y, known, epochs=8, callbacks=callbacks)
        else:
            model = keras.saving.load_model(path)
            more = {"initial_epoch": 4, "callbacks": callbacks}
            fit(model, x, sparse(a), y, known, epochs=8, **more)
        finished.append(model.get_weights())
    for one, other in zip(*finished, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
        assert not one.all()


def test_a_clone_gives_the_same_outputs():
    x, a, _ = communities()
    model = gcn(FEATURES, CLASSES, kernel_regularizer="l2")
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for matrix in (sparse(a), layers.GCNConv.preprocess(a)):
        np.testing.assert_allclose(
            predict(clone, x, matrix), predict(model, x, matrix), rtol=1e-5
        )


# What is refused -------------------------------------------------------------


@pytest.mark.parametrize("name", ["features", "classes", "units"])
@pytest.mark.parametrize("size", [0, -3, 2.0, "16", None])
def test_a_size_must_be_a_positive_integer(name, size):
    arguments = {"features": 4, "classes": 2, "units": 3, name: size}
    with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
        gcn(**arguments)


def test_one_class_is_none():
    with pytest.raises(ValueError, match="2 or greater"):
        gcn(4, classes=1)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 50])
def test_dropout_must_be_a_share(dropout):
    with pytest.raises(ValueError, match="Argument `dropout`") as error:
        gcn(4, 2, dropout=dropout)
    assert str(error.value).endswith(f"Received: dropout={dropout}.")


# Real data -------------------------------------------------------------------


@pytest.mark.slow
def test_it_reaches_the_published_accuracy_on_cora(data_dir):
    import tensorflow as tf
    from spektral.utils import sp_matrix_to_sp_tensor

    planetoid = pytest.importorskip("keras_swd.graphs.planetoid")
    dataset = planetoid.load_cora(data_dir / "planetoid")
    graph = dataset[0]
    keras.utils.set_random_seed(0)
    # Kipf and Welling penalize the first kernel; here both are.
    decay = keras.regularizers.L2(2.5e-4)
    model = gcn(graph.x.shape[1], graph.y.shape[1], kernel_regularizer=decay)
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.CategoricalCrossentropy(
            reduction="mean_with_sample_weight"
        ),
        weighted_metrics=["accuracy"],
    )
    a = sp_matrix_to_sp_tensor(layers.GCNConv.preprocess(graph.a))

    def split(mask):
        weights = mask.astype("float32")
        return tf.data.Dataset.from_tensors(((graph.x, a), graph.y, weights))

    model.fit(split(dataset.mask_tr), shuffle=False, epochs=200, verbose=0)
    _, accuracy = model.evaluate(split(dataset.mask_te), verbose=0)
    # They report 81.5 % as the mean of 100 runs.
    assert accuracy > 0.795
