"""Networks whose channels are dead at random, as pruning leaves them."""

import keras
import numpy as np

from keras_swd.coupling import find_coupling

layers = keras.layers
TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


def layers_by_path(model, trail=""):
    """The layers of a model at any depth."""
    found = {}
    for layer in model.layers:
        path = f"{trail}/{layer.name}".strip("/")
        found[path] = layer
        if isinstance(layer, keras.Model):
            found |= layers_by_path(layer, path)
    return found


def randomize(model, random, gain=1.8):
    """Gives weights values as after training, and kernels a larger scale.

    So what a network is given still shows in its outputs when a part of its
    channels is gone.
    """
    for weight in model.weights:
        name, shape = weight.path.rsplit("/", 1)[-1], weight.shape
        if len(shape) > 1:
            weight.assign(gain * keras.ops.convert_to_numpy(weight))
        elif name in ("bias", "beta", "moving_mean"):
            weight.assign(random.normal(0.0, 0.1, shape))
        elif name == "moving_variance":
            weight.assign(random.uniform(0.5, 1.5, shape))
        elif name == "gamma" or name.startswith("variable"):
            weight.assign(random.uniform(0.5, 1.5, shape))


def settle(model, x):
    """Sets the averages of batch normalizations to those of one batch."""
    found = [
        layer
        for layer in layers_by_path(model).values()
        if isinstance(layer, layers.BatchNormalization)
    ]
    for layer in found:
        layer.momentum, layer.kept = 0.0, layer.momentum
    model(x, training=True)
    for layer in found:
        layer.momentum = layer.kept
        del layer.kept


def makes(layer, member):
    """Whether channels on this axis of a weight are made by the layer."""
    if member.rank == 1:
        return True
    if isinstance(layer, DEPTHWISE):
        return True
    if isinstance(layer, TRANSPOSED):
        return member.axis == member.rank - 2
    return member.axis == member.rank - 1


def mask_channels(model, share, random):
    """Zeroes a share of each group of channels that may go.

    All that makes them is set to zero: filters, biases, and all weights of
    normalizations but the variance. At least one channel of a group is left.

    Returns:
        How many channels were zeroed.
    """
    found = layers_by_path(model)
    changed, count = {}, 0
    for group in find_coupling(model).groups:
        number = min(round(share * group.size), group.size - 1)
        if group.kept or number < 1:
            continue
        count += number
        chosen = random.permutation(group.size)[:number]
        for member in group.members:
            layer = found[member.layer]
            if makes(layer, member) and member.weight != "moving_variance":
                zero(layer, member, member.indices[chosen].ravel(), changed)
    for weight, values in changed.values():
        weight.assign(values)
    return count


def zero(layer, member, places, changed):
    """Zeroes places of a weight's axis, in a copy of its values."""
    (weight,) = (w for w in layer.weights if w.name == member.weight)
    copy = np.array(keras.ops.convert_to_numpy(weight))
    _, values = changed.setdefault(id(weight), (weight, copy))
    np.moveaxis(values, member.axis, 0)[places] = 0.0
