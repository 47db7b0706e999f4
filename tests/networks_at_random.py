"""Networks drawn by hypothesis from all layer types that are followed."""

import keras
from hypothesis import strategies as st

layers = keras.layers
SIZE = 8
ACTIVATIONS = ["linear", "relu", "sigmoid", "gelu", "hard_silu", "tanh"]


def convolve(draw, x, filters=None):
    filters = filters or draw(st.integers(1, 6))
    groups = 1
    if filters % 2 == 0 and x.shape[-1] % 2 == 0:
        groups = draw(st.sampled_from([1, 2]))
    return layers.Conv2D(
        filters,
        draw(st.sampled_from([1, 2, 3])),
        groups=groups,
        padding="same",
        use_bias=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )(x)


def normalize(draw, x):
    return layers.BatchNormalization(
        scale=draw(st.booleans()), center=draw(st.booleans())
    )(x)


def activate(draw, x):
    kind = draw(st.sampled_from(["relu", "leaky", "prelu", "op", "dropout"]))
    if kind == "prelu":
        shared = draw(st.sampled_from([None, [1, 2]]))
        start = keras.initializers.Constant(0.2)
        return layers.PReLU(start, shared_axes=shared)(x)
    if kind == "op":
        return keras.ops.relu6(x + 3.0) * 0.2
    return {
        "relu": layers.ReLU(6.0),
        "leaky": layers.LeakyReLU(),
        "dropout": layers.SpatialDropout2D(0.3),
    }[kind](x)


def filter_each(draw, x):
    return layers.DepthwiseConv2D(
        3,
        padding="same",
        depth_multiplier=draw(st.integers(1, 2)),
        use_bias=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )(x)


def group_each(draw, x):
    channels = x.shape[-1]
    times = draw(st.integers(1, 2))
    return layers.Conv2D(channels * times, 3, padding="same", groups=channels)(
        x
    )


def separate(draw, x):
    return layers.SeparableConv2D(
        draw(st.integers(1, 6)),
        3,
        padding="same",
        depth_multiplier=draw(st.integers(1, 2)),
        use_bias=draw(st.booleans()),
    )(x)


def transpose(draw, x):
    return layers.Conv2DTranspose(
        draw(st.integers(1, 6)),
        draw(st.sampled_from([1, 3])),
        padding="same",
        use_bias=draw(st.booleans()),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )(x)


def connect(draw, x):
    """A Dense layer at each place, or over all places of a smaller image."""
    units = draw(st.integers(1, 6))
    activation = draw(st.sampled_from(ACTIVATIONS))
    if draw(st.booleans()):
        return layers.Dense(units, activation)(x)
    x = layers.Flatten()(layers.AveragePooling2D(SIZE // 2)(x))
    x = layers.Dense(2 * 2 * units, activation)(x)
    return layers.UpSampling2D(SIZE // 2)(layers.Reshape((2, 2, units))(x))


def reshape(draw, x):
    """A convolution of one or three axes over the same entries."""
    filters, bias = draw(st.integers(1, 6)), draw(st.booleans())
    if draw(st.booleans()):
        padding = draw(st.sampled_from(["same", "causal"]))
        x = layers.Reshape((SIZE * SIZE, x.shape[-1]))(x)
        x = layers.Conv1D(filters, 3, padding=padding, use_bias=bias)(x)
    else:
        x = layers.Reshape((2, SIZE // 2, SIZE, x.shape[-1]))(x)
        x = layers.Conv3D(filters, 2, padding="same", use_bias=bias)(x)
    return layers.Reshape((SIZE, SIZE, filters))(x)


def resample(draw, x):
    """Half the size and back."""
    kind = draw(st.sampled_from(["max", "average", "crop", "stride", "up"]))
    if kind == "crop":
        return layers.ZeroPadding2D(1)(layers.Cropping2D(1)(x))
    if kind == "stride":
        strided = layers.Conv2D(draw(st.integers(1, 4)), 3, 2, "same")
        return layers.UpSampling2D()(strided(x))
    if kind == "up":
        up = layers.Conv2DTranspose(draw(st.integers(1, 4)), 2, 2)
        return up(layers.AveragePooling2D(2)(x))
    pooling = layers.MaxPooling2D if kind == "max" else layers.AveragePooling2D
    return layers.UpSampling2D(interpolation="bilinear")(
        pooling(3, 2, padding="same")(x)
    )


def merge(draw, x):
    kind = draw(
        st.sampled_from(
            [
                layers.Add,
                layers.Average,
                layers.Subtract,
                layers.Multiply,
                layers.Maximum,
                layers.Minimum,
            ]
        )
    )
    return kind()([x, convolve(draw, x, x.shape[-1])])


def concatenate(draw, x):
    return layers.Concatenate()([convolve(draw, x), x])


def reduce(draw, x):
    """A layer, or operations, that leave one value of each channel."""
    kind = draw(st.sampled_from([None, "mean", "max", "min", "sum"]))
    if kind is None:
        return layers.GlobalAveragePooling2D()(x)
    operation = getattr(keras.ops, kind)
    if draw(st.booleans()):
        return operation(x, axis=(-3, 2))
    y = operation(keras.ops.transpose(x, (0, 3, 1, 2)), axis=2, keepdims=True)
    y = operation(keras.ops.squeeze(y, axis=-2), axis=-1)
    return operation(keras.ops.expand_dims(y, 1), axis=[1])


def excite(draw, x):
    channels, squeezed = x.shape[-1], draw(st.integers(1, 3))
    y = reduce(draw, x)
    if draw(st.booleans()):
        y = layers.Reshape((1, 1, channels))(y)
        y = layers.Conv2D(squeezed, 1, activation="relu")(y)
        y = layers.Conv2D(channels, 1, activation="sigmoid")(y)
    else:
        y = layers.Dense(squeezed, "relu")(y)
        y = layers.Dense(channels, "sigmoid")(y)
        y = layers.Reshape((1, 1, channels))(y)
    return x * y


def nest(draw, x):
    """A model within, for images of one size or any, perhaps used twice."""
    size = draw(st.sampled_from([SIZE, None]))
    inputs = keras.Input((size, size, x.shape[-1]))
    inner = keras.Model(inputs, convolve(draw, normalize(draw, inputs)))
    if draw(st.booleans()):
        inner = keras.Sequential([inputs, inner, layers.ReLU()])
    y = inner(x, training=False)
    if draw(st.booleans()):
        y = layers.Concatenate()(
            [y, inner(layers.MaxPooling2D(3, 1, "same")(x))]
        )
    return y


def use_twice(draw, x):
    layer = layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")
    return layer(layer(x))


def shuffle(draw, x):
    channels = x.shape[-1]
    if channels % 2:
        return x
    y = layers.Reshape((SIZE, SIZE, 2, channels // 2))(x)
    return layers.Reshape((SIZE, SIZE, channels))(
        layers.Permute((1, 2, 4, 3))(y)
    )


def leave(draw, x):
    """A layer that is not followed."""
    kinds = [
        layers.GroupNormalization(1),
        layers.LayerNormalization(),
        layers.RMSNormalization(),
        layers.UnitNormalization(),
    ]
    return draw(st.sampled_from(kinds))(x)


STEPS = [
    activate,
    concatenate,
    connect,
    convolve,
    excite,
    filter_each,
    group_each,
    leave,
    merge,
    nest,
    normalize,
    resample,
    reshape,
    separate,
    shuffle,
    transpose,
    use_twice,
]


def draw_network(draw):
    """Returns a functional model of two inputs and two outputs.

    No strategy of its own: Keras draws seeds, which strategies may not.
    """
    image, vector = keras.Input((SIZE, SIZE, 3)), keras.Input((4,))
    x = convolve(draw, image, draw(st.integers(2, 6)))
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6)):
        x = step(draw, x)
    strided = layers.Conv2D(4, 3, strides=2, activation="relu")(x)
    ends = [layers.Flatten()(strided), layers.GlobalMaxPooling2D()(x)]
    end = ends[draw(st.integers(0, 1))]
    y = layers.Dense(draw(st.integers(1, 6)), activation="relu")(vector)
    y = layers.Concatenate()([layers.Dense(5, activation="elu")(end), y])
    y = layers.Dense(2, activation="softmax")(y)
    return keras.Model([image, vector], {"class": y, "map": strided})
