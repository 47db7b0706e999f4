"""Float64 NumPy versions of the formulas, slow and obvious."""

import fractions
import math

import numpy as np


def lowest(arrays, count):
    """Indices `(array, flat index)` of the lowest magnitudes, ties in order."""
    ranked = sorted(
        (abs(float(v)), i, j)
        for i, array in enumerate(arrays)
        for j, v in enumerate(np.ravel(array))
    )
    return {(i, j) for _, i, j in ranked[:count]}


def swd_penalty(kernel, weight_decay, strength, threshold):
    """Value and gradient of the penalty, one weight at a time."""
    value, gradient = 0.0, np.zeros(np.shape(kernel))
    for index, w in np.ndenumerate(np.asarray(kernel, "float64")):
        factor = 1.0 + (strength if abs(w) <= threshold else 0.0)
        value += 0.5 * weight_decay * factor * w * w
        gradient[index] = weight_decay * factor * w
    return value, gradient


def exponential(progress, start, end, finish):
    """The paper's growth of `a`, ended at `finish`."""
    return start * (end / start) ** min(progress / finish, 1.0)


def train_linear_network(
    kernels,
    x,
    y,
    sparsity,
    weight_decay,
    schedule,
    steps,
    learning_rate,
    momentum,
):
    """SWD on `y = x @ w1 @ w2`, mean squared error, as the paper has it.

    Returns the kernels after every step, and the thresholds before them.
    """
    w1, w2 = (np.array(k, "float64") for k in kernels)
    v1, v2 = np.zeros_like(w1), np.zeros_like(w2)
    count = round(sparsity * (w1.size + w2.size))
    history, thresholds = [], []
    for step in range(steps):
        pool = np.sort(np.abs(np.concatenate([w1.ravel(), w2.ravel()])))
        threshold = pool[count - 1] if count else -1.0
        a = schedule(step / steps)
        error = x @ w1 @ w2 - y
        d = 2.0 * error / error.size
        g2 = (x @ w1).T @ d + swd_penalty(w2, weight_decay, a, threshold)[1]
        g1 = x.T @ d @ w2.T + swd_penalty(w1, weight_decay, a, threshold)[1]
        v1 = momentum * v1 - learning_rate * g1
        v2 = momentum * v2 - learning_rate * g2
        w1, w2 = w1 + v1, w2 + v2
        history.append((w1, w2))
        thresholds.append(threshold)
    return history, thresholds


def lamp_counts(scores, count):
    """How many of the `count` lowest LAMP scores each kernel holds."""
    ranked = []
    for i, units in enumerate(scores):
        order = sorted(range(len(units)), key=lambda j: (units[j], j))
        for place, j in enumerate(order):
            left = math.fsum(float(units[u]) ** 2 for u in order[place:])
            square = float(units[j]) ** 2
            ranked.append((square / left if square else 0.0, i))
    ranked.sort()
    counts = [0] * len(scores)
    for _, i in ranked[:count]:
        counts[i] += 1
    return counts


def model_cost(model, operations=False):
    """Trainable parameters, or multiplications for one sample.

    For models of 2D convolutions and Dense layers, each used once.
    """
    if not operations:
        return sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            height_and_width = layer.output.shape[1:-1]
            entries = int(np.prod(layer.kernel.shape))
            total += entries * int(np.prod(height_and_width))
    return total


def greg_penalty(kernel, weight_decay, selected, kept, mask):
    """Value and gradient, one weight at a time; the mask is true to keep."""
    value, gradient = 0.0, np.zeros(np.shape(kernel))
    for index, w in np.ndenumerate(np.asarray(kernel, "float64")):
        rate = weight_decay + (kept if mask[index] else selected)
        value += 0.5 * rate * w * w
        gradient[index] = rate * w
    return value, gradient


def train_greg(
    gradient,
    w,
    sparsity,
    weight_decay,
    interval,
    increment,
    ceiling,
    hold,
    picking_increment=0.0,
    picking_ceiling=0.0,
    begin=0,
    steps=0,
    learning_rate=0.1,
    momentum=0.0,
):
    """Growing regularization by the pseudocode of the methods page.

    Exact fractions count the rungs. Without a picking ceiling it is GReg-1.
    Returns strengths, the weights after each step, the mask (true to keep) and
    the number of steps after which units become zero. It makes `steps` steps,
    or as many as that takes.
    """
    exact = [fractions.Fraction(str(x)) for x in (increment, ceiling)]
    rise, top = exact
    pick_rise = fractions.Fraction(str(picking_increment))
    pick_top = fractions.Fraction(str(picking_ceiling))
    picking = math.ceil(pick_top / pick_rise) if pick_rise else 0
    pick = begin + picking * interval
    last = pick + (math.ceil((top - pick_top) / rise) - 1) * interval
    removal = last + hold + 1
    w, velocity = np.array(w, "float64"), np.zeros(np.shape(w))
    mask = np.ones(w.shape, bool)
    strengths, history = [], []
    for t in range(steps or removal):
        n = (t - begin) // interval
        if t == pick:
            count = round(sparsity * w.size)
            mask.flat[np.argsort(np.abs(w), axis=None)[:count]] = False
        if t < begin or t >= removal:
            selected = kept = 0
        elif t < pick:
            selected = kept = min(pick_top, pick_rise * (n + 1))
        else:
            selected = min(top, pick_top + rise * (n - picking + 1))
            kept = -fractions.Fraction(str(weight_decay)) if picking else 0
        if t == removal:
            w = w * mask
        rates = weight_decay, float(selected), float(kept)
        slope = gradient(w) + greg_penalty(w, *rates, mask)[1]
        velocity = momentum * velocity - learning_rate * slope
        w = w + velocity
        if t >= removal:
            w = w * mask
        strengths.append(float(selected))
        history.append(w)
    return strengths, history, mask, removal
