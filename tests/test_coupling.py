"""Which channels go together, for each type of layer and whole networks."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_swd.coupling import find_coupling
from keras_swd.shrinking import shrink

layers = keras.layers


def places(group):
    """A group's axes without those of normalizations and biases."""
    return {(m.layer, m.axis) for m in group.members if m.rank > 1}


def groups_of(inputs, outputs):
    record = find_coupling(keras.Model(inputs, outputs))
    return {frozenset(places(g)): g for g in record.groups}


def image(channels=3):
    return keras.Input((8, 8, channels), name="image")


def conv(filters, name, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", name=name, **kwargs)


def test_a_filter_is_the_next_layers_input():
    x = inputs = image()
    for name in "ab":
        x = conv(4, name)(x)
        x = layers.BatchNormalization(name=f"bn_{name}")(x)
        x = layers.ReLU()(layers.MaxPooling2D(padding="same")(x))
    groups = groups_of(inputs, x)
    group = groups[frozenset({("a", 3), ("b", 2)})]
    assert group.size == 4
    assert group.kept == {}
    assert {m.layer for m in group.members} == {"a", "b", "bn_a"}
    assert groups[frozenset({("a", 2)})].kept == {"input of the model": 3}
    assert groups[frozenset({("b", 3)})].kept == {"output of the model": 4}


@pytest.mark.parametrize(
    "merge",
    [
        layers.Add(),
        layers.Subtract(),
        layers.Multiply(),
        layers.Average(),
        layers.Maximum(),
        layers.Minimum(),
        lambda pair: pair[0] + pair[1],
        lambda pair: keras.ops.maximum(*pair),
    ],
)
def test_what_is_merged_goes_together(merge):
    inputs = image()
    x = merge([conv(4, "a")(inputs), conv(4, "b")(inputs)])
    groups = groups_of(inputs, conv(2, "c")(x))
    assert groups[frozenset({("a", 3), ("b", 3), ("c", 2)})].size == 4


def test_a_residual_network_has_one_group_per_stream():
    inputs = image()
    stream = conv(4, "stem")(inputs)
    for name in "ab":
        y = conv(8, f"{name}1")(stream)
        stream = layers.Add()([stream, conv(4, f"{name}2")(y)])
    groups = groups_of(inputs, conv(2, "last")(stream))
    makers = {("stem", 3), ("a2", 3), ("b2", 3)}
    takers = {("a1", 2), ("b1", 2), ("last", 2)}
    assert groups[frozenset(makers | takers)].size == 4
    assert groups[frozenset({("a1", 3), ("a2", 2)})].size == 8


def test_concatenated_channels_stay_apart():
    inputs = image()
    a, b = conv(4, "a")(inputs), conv(6, "b")(inputs)
    x = layers.BatchNormalization(name="bn")(layers.Concatenate()([a, b]))
    groups = groups_of(inputs, conv(2, "c")(x))
    first = groups[frozenset({("a", 3), ("c", 2)})]
    second = groups[frozenset({("b", 3), ("c", 2)})]
    assert (first.size, second.size) == (4, 6)
    (taken,) = (m for m in second.members if m.layer == "c")
    assert taken.indices.ravel().tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("multiplier", [1, 3])
def test_a_depthwise_convolution_takes_and_makes_the_same(multiplier):
    x = inputs = image()
    x = conv(4, "a")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, name="dw")(x)
    groups = groups_of(inputs, conv(2, "b")(x))
    group = groups[frozenset({("a", 3), ("dw", 2), ("b", 2)})]
    (taken,) = (m for m in group.members if m.layer == "b")
    expected = np.arange(4 * multiplier).reshape(4, multiplier)
    assert np.array_equal(taken.indices, expected)


def test_a_convolution_with_a_group_per_channel_is_depthwise():
    x = inputs = image()
    x = conv(4, "grouped", groups=4)(conv(4, "a")(x))
    groups = groups_of(inputs, conv(2, "b")(x))
    assert frozenset({("a", 3), ("grouped", 3), ("b", 2)}) in groups


def test_separable_and_transposed_convolutions_mix():
    x = inputs = image()
    x = layers.SeparableConv2D(5, 3, name="s", depth_multiplier=2)(x)
    x = layers.Conv2DTranspose(6, 3, name="t")(x)
    groups = groups_of(inputs, conv(2, "b")(x))
    assert groups[frozenset({("s", 3), ("t", 3)})].size == 5
    assert groups[frozenset({("t", 2), ("b", 2)})].size == 6


@pytest.mark.parametrize("shape", [None, (32,), (8, 4)])
def test_channels_are_followed_through_flatten_and_reshape(shape):
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 2, 2, name="a")(inputs)
    x = layers.Reshape((4, 4))(x) if shape == (8, 4) else x
    x = layers.Flatten()(x)
    groups = groups_of(inputs, layers.Dense(2, name="dense")(x))
    group = groups[frozenset({("a", 3), ("dense", 0)})]
    (rows,) = (m for m in group.members if m.layer == "dense")
    assert rows.indices.tolist() == [
        [c, c + 4, c + 8, c + 12] for c in range(4)
    ]


def test_units_that_a_reshape_turns_into_an_image_go_together():
    inputs = keras.Input((5,))
    x = layers.Dense(2 * 2 * 3, name="dense")(inputs)
    x = layers.Reshape((2, 2, 3))(x)
    groups = groups_of(inputs, conv(2, "a")(x))
    group = groups[frozenset({("dense", 1), ("a", 2)})]
    assert group.size == 3
    (units,) = (m for m in group.members if m.weight == "bias")
    assert units.indices.tolist() == [
        [0, 3, 6, 9],
        [1, 4, 7, 10],
        [2, 5, 8, 11],
    ]


def test_channels_are_shuffled():
    x = inputs = image()
    x = conv(6, "a")(x)
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((8, 8, 2, 3))(x))
    x = layers.Reshape((8, 8, 6))(x)
    groups = groups_of(inputs, conv(2, "b")(x))
    group = groups[frozenset({("a", 3), ("b", 2)})]
    filters, taken = (m.indices.tolist() for m in group.members if m.rank > 1)
    # Both halves are cut alike, or what is left is no rectangle.
    assert filters == [[0, 3], [1, 4], [2, 5]]
    assert taken == [[0, 1], [2, 3], [4, 5]]


def test_squeeze_and_excitation_gates_the_channels_it_squeezes():
    x = inputs = image()
    x = conv(4, "a")(x)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = conv(2, "squeeze", 1, activation="relu")(y)
    y = conv(4, "excite", 1, activation="sigmoid")(y)
    groups = groups_of(inputs, conv(2, "b")(layers.Multiply()([x, y])))
    places = {("a", 3), ("squeeze", 2), ("excite", 3), ("b", 2)}
    assert frozenset(places) in groups
    assert groups[frozenset({("squeeze", 3), ("excite", 2)})].size == 2


@pytest.mark.parametrize("kind", ["mean", "max", "min", "sum", "amax", "amin"])
def test_operations_reduce_each_channel_over_its_places(kind):
    x = inputs = image()
    operation = getattr(ops, kind)
    x = operation(conv(4, "a")(x), axis=(1, -2))
    groups = groups_of(inputs, layers.Dense(2, name="dense")(x))
    assert groups[frozenset({("a", 3), ("dense", 0)})].size == 4


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: ops.squeeze(ops.mean(x, axis=1, keepdims=True), axis=1),
        lambda x: ops.mean(ops.expand_dims(x, (1, -2)), axis=(1, 2, -2)),
        lambda x: ops.transpose(
            ops.max(ops.transpose(x, (0, 3, 1, 2)), 2), (0, 2, 1)
        ),
    ],
)
def test_axes_are_added_moved_and_taken_away(reduce):
    x = inputs = image()
    x = reduce(conv(4, "a")(x))
    groups = groups_of(inputs, layers.Dense(2, name="dense")(x))
    assert groups[frozenset({("a", 3), ("dense", 0)})].size == 4


@pytest.mark.parametrize(
    ("reduce", "reason"),
    [
        (lambda x: ops.sum(x, axis=-1, keepdims=True), "computes with all"),
        (lambda x: ops.mean(x, axis=(0, 1)), "mixes samples"),
        (lambda x: ops.squeeze(x), "takes away each axis of size 1"),
        (lambda x: ops.max(x, 1, initial=0.0), "begins with a value"),
        (lambda x: ops.transpose(x), "mixes samples"),
    ],
)
def test_operations_that_need_every_channel_leave_them_whole(reduce, reason):
    x = inputs = keras.Input((5, 4))
    x = reduce(layers.Dense(3, name="a")(x))
    (told,) = groups_of(inputs, x)[frozenset({("a", 1)})].kept
    assert reason in told


def test_a_layer_used_twice_has_the_same_channels_each_time():
    first, second = keras.Input((3,)), keras.Input((3,))
    shared = layers.Dense(4, name="shared")
    x = layers.Concatenate()([shared(first), shared(second)])
    groups = groups_of([first, second], layers.Dense(2, name="out")(x))
    group = groups[frozenset({("shared", 1), ("out", 0)})]
    (rows,) = (m for m in group.members if m.layer == "out")
    assert rows.indices.tolist() == [[c, c + 4] for c in range(4)]


def test_models_within_are_opened():
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), conv(5, "b"), layers.ReLU()], name="inner"
    )
    inputs = image()
    x = conv(6, "c")(inner(conv(4, "a")(inputs)))
    groups = groups_of(inputs, x)
    assert frozenset({("a", 3), ("inner/b", 2)}) in groups
    assert frozenset({("inner/b", 3), ("c", 2)}) in groups


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
def test_a_model_within_may_be_given_a_mask():
    words = keras.Input((6,), dtype="int32")
    inner = keras.Sequential(
        [keras.Input((None, 5)), layers.Dense(8, name="a"), layers.Dense(4)]
    )
    x = inner(layers.Embedding(9, 5, mask_zero=True)(words))
    model = keras.Model(words, layers.Dense(2)(layers.GRU(3)(x)))
    model.get_layer(inner.name).layers[0].kernel.assign(np.zeros((5, 8)))
    assert shrink(model).count_params() < model.count_params()


def test_a_model_within_may_be_given_its_inputs_by_name():
    x, y = keras.Input((3,), name="x"), keras.Input((6,), name="y")
    both = [layers.Dense(4, name="on_y")(y), layers.Dense(4, name="on_x")(x)]
    inner = keras.Model([y, x], layers.Add()(both), name="inner")
    p, q = keras.Input((6,)), keras.Input((3,))
    outputs = layers.Dense(2)(inner({"x": q, "y": p}))
    model = keras.Model([p, q], outputs)
    kernel = np.array(inner.get_layer("on_y").kernel)
    for layer in inner.layers[-3:-1]:
        layer.kernel.assign(np.array(layer.kernel) * (np.arange(4) > 0))
    assert kernel.shape == (6, 4)
    small = shrink(model)
    given = [np.ones((2, 6), "float32"), np.ones((2, 3), "float32")]
    np.testing.assert_allclose(
        small.predict(given, verbose=0),
        model.predict(given, verbose=0),
        rtol=1e-5,
    )
    assert small.count_params() < model.count_params()


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LayerNormalization(name="x"), "computes with all of them"),
        (layers.Softmax(name="x"), "computes with all of them"),
        (layers.Activation("softmax", name="x"), "applies its function"),
        (layers.GRU(3, name="x"), "is not followed"),
        (layers.Lambda(lambda x: x, name="x"), "is not followed"),
    ],
)
def test_what_is_not_followed_is_left_whole_and_said(layer, reason):
    x = inputs = keras.Input((6, 3))
    x = layer(layers.Dense(4, name="a")(x))
    groups = groups_of(inputs, layers.Dense(2, name="b")(x))
    (told,) = groups[frozenset({("a", 1)})].kept
    assert told.startswith(f"`x` ({type(layer).__name__}) {reason}")
    kernel = [g for key, g in groups.items() if ("b", 0) in key]
    assert all(g.kept and not g.dead for g in kernel)


def test_a_channel_that_gates_all_others_stays():
    inputs = image()
    x, gate = conv(4, "a")(inputs), conv(1, "gate")(inputs)
    groups = groups_of(inputs, conv(2, "b")(x * gate))
    (told,) = groups[frozenset({("gate", 3)})].kept
    assert told.endswith("spreads it over others")
    assert groups[frozenset({("a", 3), ("b", 2)})].kept == {}


def model_with_zeros():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            conv(4, "a", activation="relu"),
            conv(5, "b"),
            layers.GlobalMaxPooling2D(),
            layers.Dense(2, name="c"),
        ],
        name="net",
    )
    for layer, filters in (("a", [0, 1]), ("b", [2])):
        kernel = np.array(model.get_layer(layer).get_weights()[0])
        kernel[..., filters] = 0.0
        bias = np.array([0.0, 1.0, 0.0, 0.0, 0.0][: kernel.shape[-1]])
        model.get_layer(layer).set_weights([kernel, bias])
    return model


def test_dead_channels_are_counted_and_others_explained():
    groups = find_coupling(model_with_zeros()).groups
    assert [g.dead for g in groups] == [0, 1, 1, 0]
    assert groups[1].kept == {"`b` pads a constant that is not zero": 1}


def test_it_prints_as_a_table_and_writes_json(tmp_path):
    record = find_coupling(model_with_zeros())
    lines = str(record).splitlines()
    assert lines[0] == "Channels of 'net' that go together"
    (row,) = (line for line in lines if "a[3]" in line)
    assert row.split()[:4] == ["a[3],", "b[2]", "4", "1"]
    assert max(map(len, record.table(width=60).splitlines())) <= 60
    record.to_json(tmp_path / "coupling.json")
    written = json.loads((tmp_path / "coupling.json").read_text())
    assert written == record.to_dict()
    assert written["groups"][1]["members"][0] == {
        "layer": "a",
        "weight": "kernel",
        "axis": 3,
    }


class Own(keras.Model):
    def __init__(self):
        super().__init__(name="own")
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize("read", [find_coupling, shrink])
def test_models_without_a_graph_are_refused(read):
    model = Own()
    with pytest.raises(ValueError, match="must be built, 'own' is not"):
        read(model)
    model(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="must be Sequential or functional"):
        read(model)
    with pytest.raises(ValueError, match="must be a Keras model"):
        read("model.keras")
