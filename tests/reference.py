"""Float64 NumPy versions of the formulas, slow and obvious."""

import fractions
import math
import statistics

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


def cut_off(dense, threshold):
    """Adaptive Sparsity's forward pass: centered weights, what is left, cut."""
    w = np.array(dense, "float64")
    w -= w.mean()
    cut = min(max(threshold, 0.0), 30.0) * w.std(ddof=1) + 1e-6
    return w, np.where(np.abs(w) > cut, w, 0.0), cut


def density_penalty(sizes, densities, left, together):
    """Squares of missed densities, summed, and their slopes by threshold."""
    value, slopes = 0.0, np.zeros(len(sizes))
    for group in together:
        total = sum(sizes[i] for i in group)
        missed = sum(sizes[i] * densities[i] for i in group) / total
        missed -= left[group[0]]
        value += missed**2
        for i in group:
            normal = statistics.NormalDist()
            left_over = max(densities[i], 1.0 / sizes[i])
            slope = -2.0 * normal.pdf(normal.inv_cdf(1.0 - left_over / 2.0))
            slopes[i] = 2.0 * missed * sizes[i] / total * slope
    return value, slopes


def train_adaptive_sparsity(
    kernels,
    thresholds,
    x,
    y,
    left,
    together,
    strength,
    weight_decay,
    rate,
    steps,
    learning_rate,
    momentum,
):
    """The published form on `y = x @ w1 @ w2`, but for counted densities.

    Dense weights, used through a mask. Yields after every step the
    thresholds, and for each kernel what is used and what is cut off.
    """
    dense = [np.array(k, "float64") for k in kernels]
    r = np.array(thresholds, "float64")
    velocity, speed = [np.zeros_like(w) for w in dense], np.zeros_like(r)
    sizes = [w.size for w in dense]
    for _ in range(steps):
        parts = [cut_off(w, t) for w, t in zip(dense, r, strict=True)]
        one, two = (used for _, used, _ in parts)
        error = x @ one @ two - y
        back = 2.0 * error / error.size
        grads = [x.T @ back @ two.T, (x @ one).T @ back]
        densities = [np.mean(used != 0.0) for _, used, _ in parts]
        _, slopes = density_penalty(sizes, densities, left, together)
        slopes *= strength
        for i, (w, used, cut) in enumerate(parts):
            if 0.0 < r[i] < 30.0:
                gone = used == 0.0
                ratio = w.std(ddof=1) / cut
                slopes[i] -= ratio * np.sum(grads[i][gone] * w[gone])
            g = grads[i] + weight_decay * w
            velocity[i] = momentum * velocity[i] - learning_rate * g
            dense[i] = w + velocity[i]
        speed = 0.9 * speed - learning_rate * rate * slopes
        r = r + speed
        cuts = [cut_off(w, t) for w, t in zip(dense, r, strict=True)]
        yield r, [(used, w - used) for w, used, _ in cuts]


def irrelevance(gradient, alpha, present):
    """How little the loss feels each weight; `alpha` None: the mean size."""
    sizes = np.abs(np.asarray(gradient, "float64"))
    if alpha is None:
        alpha = np.mean(sizes[present])
    return np.exp(-sizes / alpha) if alpha > 0.0 else np.ones_like(sizes)


def train_irrelevant(
    kernels, x, y, alpha, strength, step, steps, epochs, learning_rate, momentum
):
    """The method on `y = x @ w1 @ w2`, removing after each epoch but the last.

    The penalty is part of the gradient, as a second backward pass has it.
    """
    w = [np.array(k, "float64") for k in kernels]
    velocity = [np.zeros_like(k) for k in w]
    present = [np.ones(k.shape, bool) for k in w]
    for epoch in range(epochs):
        for batch in range(steps):
            gamma = strength * max(0.0, 1.0 - (batch + 1) / steps)
            error = x @ w[0] @ w[1] - y
            back = 2.0 * error / error.size
            grads = [x.T @ back @ w[1].T, (x @ w[0]).T @ back]
            for i, g in enumerate(grads):
                f = irrelevance(g, alpha, present[i])
                g = g + 2.0 * gamma * f * w[i]
                velocity[i] = momentum * velocity[i] - learning_rate * g
                w[i] = (w[i] + velocity[i]) * present[i]
        if epoch + 1 < epochs:
            left = sum(int(p.sum()) for p in present)
            ranked = sorted(
                (abs(v), i, j)
                for i, k in enumerate(w)
                for j, v in enumerate(k.ravel())
                if present[i].ravel()[j]
            )
            for _, i, j in ranked[: round(step * left)]:
                present[i].ravel()[j] = False
                w[i].ravel()[j] = 0.0
    return w


def train_magnitude(
    kernels,
    x,
    y,
    sparsity,
    weight_decay,
    removals,
    steps,
    learning_rate,
    momentum,
):
    """Magnitude pruning on `y = x @ w1 @ w2`; `removals`: when, which share.

    Returns the kernels after every step.
    """
    w = [np.array(k, "float64") for k in kernels]
    v = [np.zeros_like(k) for k in w]
    gone, made, history = set(), 0, []
    for step in range(steps):
        due = [share for at, share in removals if at <= step / steps]
        if len(due) > made:
            made = len(due)
            size = sum(k.size for k in w)
            gone = lowest(w, round(sparsity * due[-1] * size))
        for i, j in gone:
            w[i].ravel()[j] = 0.0
        error = x @ w[0] @ w[1] - y
        d = 2.0 * error / error.size
        slopes = [x.T @ d @ w[1].T, (x @ w[0]).T @ d]
        for i, slope in enumerate(slopes):
            slope = slope + weight_decay * w[i]
            v[i] = momentum * v[i] - learning_rate * slope
            w[i] = w[i] + v[i]
        for i, j in gone:
            w[i].ravel()[j] = 0.0
        history.append([k.copy() for k in w])
    return history
