"""The networks that the benchmarks train, plain or with a regularizer."""

import keras


def lenet_300_100(regularizer=None, keras=keras):
    """LeNet-300-100 on flat 28 x 28 images: 266,610 parameters."""
    return mlp((784, 300, 100, 10), regularizer, keras)


def mlp_25m(regularizer=None, keras=keras):
    """A multilayer perceptron of 25.2 million parameters."""
    return mlp((1024, 4096, 4096, 1024, 10), regularizer, keras)


def mlp(widths, regularizer, keras):
    """A multilayer perceptron; the last layer gives logits."""
    stack = [keras.Input((widths[0],))]
    for i, width in enumerate(widths[1:], start=1):
        last = i == len(widths) - 1
        stack.append(
            keras.layers.Dense(
                width,
                activation=None if last else "relu",
                kernel_regularizer=regularizer,
            )
        )
    return keras.Sequential(stack)


def lenet5(regularizer=None, keras=keras):
    """LeNet-5 on 28 x 28 images: 61,706 parameters."""
    layers = keras.layers
    pruned = {"activation": "relu", "kernel_regularizer": regularizer}
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(6, 5, padding="same", **pruned),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 5, **pruned),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(120, **pruned),
            layers.Dense(84, **pruned),
            layers.Dense(10, kernel_regularizer=regularizer),
        ]
    )


def resnet20(regularizer=None, keras=keras, side=32):
    """ResNet-20 with 16 maps on square images of three channels."""
    layers = keras.layers

    def convolution(x, filters, strides=1, size=3):
        x = layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_regularizer=regularizer,
        )(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((side, side, 3))
    x = layers.ReLU()(convolution(inputs, 16))
    for filters in (16, 32, 64):
        for block in range(3):
            strides = 2 if block == 0 and filters > 16 else 1
            y = layers.ReLU()(convolution(x, filters, strides))
            y = convolution(y, filters)
            if strides == 2:
                x = convolution(x, filters, strides, size=1)
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(10, kernel_regularizer=regularizer)(x)
    return keras.Model(inputs, outputs)


def digits_cnn(regularizer=None, keras=keras):
    """A convolutional network on 8 x 8 images: 38,282 parameters."""
    layers = keras.layers
    pruned = {"activation": "relu", "kernel_regularizer": regularizer}
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", **pruned),
            layers.Conv2D(32, 3, padding="same", **pruned),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, **pruned),
            layers.Dense(10, kernel_regularizer=regularizer),
        ]
    )
