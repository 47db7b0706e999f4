"""Thresholds that are trained in the optimizer, and masks by them."""

import math
import statistics

import numpy as np
from keras import ops

from keras_swd.backend.host import read, write
from keras_swd.regularizers.part import OptimizerPart

#: Largest threshold, in standard deviations. The published 5 binds where few
#: weights are left: if the others have decayed, these lie further out.
LARGEST = 30.0
#: What is cut even at threshold 0.
SMALLEST = 1e-6
#: Share of the target that the first thresholds are made for.
FIRST = 0.6
#: Momentum of the thresholds.
MOMENTUM = 0.9


class ThresholdTraining(OptimizerPart):
    """Trains a threshold per kernel, and masks the kernels by it.

    A kernel holds what it computes with; what its threshold cuts off lies in
    a residual, one more variable of the optimizer. Every step updates the sum
    of both with the gradient of the masked kernel, then the threshold, and
    cuts again.

    Args:
        optimizer: The optimizer, to which it adds its variables.
        kernels: The variables that carry an `AdaptiveSparsity`.
    """

    def __init__(self, optimizer, kernels):
        super().__init__(optimizer, kernels)
        self.residuals = [
            optimizer.add_variable_from_reference(v, name="residual")
            for v in kernels
        ]
        #: In standard deviations; their velocities, their gradients so far.
        each = (len(self.kernels),)
        self.thresholds = self.add("thresholds", each)
        self.velocities = self.add("threshold_velocities", each)
        self.slopes = self.add("threshold_slopes", each)
        #: What the scheduler sets; a kernel without costs is idle.
        self.costs = self.add("costs", each)
        self.left = self.add("left", each)
        self.strength = self.add("strength")
        # Kernels with a target of their own meet it alone.
        shared = np.array([r.sparsity is None for r in self.regularizers])
        together = np.logical_or(np.outer(shared, shared), np.eye(len(shared)))
        self._together = together.astype("float32")

    def step(self, grads):
        """Prepares a step of the optimizer; see `OptimizerPart`."""
        optimizer = self.optimizer
        active = ops.cast(ops.convert_to_tensor(self.costs) > 0.0, "float32")
        slopes, new, whole = [], [], []
        for i, kernel in enumerate(self.kernels):
            values = _float32(kernel)
            hidden = active[i] * self._hidden(i, values)
            whole.append(values + hidden)
            grad = ops.cast(grads[i], "float32")
            threshold = ops.convert_to_tensor(self.thresholds)[i]
            slopes.append(_task_slope(values, hidden, grad, threshold))
            # The decay in the loss reaches what the kernel computes with.
            grad = grad + self.regularizers[i].weight_decay * hidden
            new.append(ops.cast(grad, grads[i].dtype))
        slopes = ops.stack(slopes) + self.strength * self.penalty_slopes()
        rates = np.array([r.rate for r in self.regularizers], "float32")
        rate = ops.cast(optimizer.learning_rate, "float32")
        rates = ops.multiply(rate, rates) * active
        count = optimizer.iterations + 0
        for kernel, values in zip(self.kernels, whole, strict=True):
            kernel.assign(ops.cast(values, kernel.dtype))

        def after():
            # Not in every step where gradients accumulate.
            moves = ops.cast(optimizer.iterations > count, "float32")
            steps = optimizer.gradient_accumulation_steps or 1
            total = ops.convert_to_tensor(self.slopes) + slopes / steps
            old = ops.convert_to_tensor(self.velocities)
            velocity = active * MOMENTUM * old - rates * total
            self.slopes.assign((1.0 - moves) * total)
            self.velocities.assign(moves * velocity + (1.0 - moves) * old)
            self.thresholds.assign_add(moves * velocity)
            for i, kernel in enumerate(self.kernels):
                self._cut(i, _float32(kernel), active[i])

        return new, after

    def densities(self):
        """Returns the share of each kernel that is left, `(kernels,)`."""
        left = [ops.not_equal(kernel, 0.0) for kernel in self.kernels]
        return ops.stack([ops.mean(ops.cast(x, "float32")) for x in left])

    def missed(self, densities):
        """Returns how much more than its target is left, for each kernel.

        Returns:
            Float tensor of shape `(kernels,)`, equal for kernels that share.
        """
        costs = ops.convert_to_tensor(self.costs) * densities
        return ops.sum(ops.multiply(self._together, costs), axis=1) - self.left

    def penalty_slopes(self):
        """Returns the gradient of `sum((density - left)**2)`, `(kernels,)`.

        Densities are counted. The slope of one is that of normal weights of the
        same density. Where the weights are normal it is the published one, the
        slope at the threshold itself. Others have longer tails: at their
        threshold normal weights would be gone, and with them the slope.
        """
        densities = self.densities()
        sizes = np.array([math.prod(k.shape) for k in self.kernels])
        # A kernel that is empty must find back; float32 tells no less from 0.
        least = np.maximum(1.0 / sizes, 2.0**-23).astype("float32")
        removed = 1.0 - ops.maximum(densities, least)
        slopes = ops.exp(-ops.square(ops.erfinv(removed)))
        pressure = 2.0 * self.missed(densities) * self.costs
        return -math.sqrt(2.0 / math.pi) * pressure * slopes

    def begin(self, costs, left):
        """Sets targets; first thresholds, unless they were restored."""
        fresh = not read(self.thresholds).any()
        wholes = [self._checked(i, fresh) for i in range(len(self.kernels))]
        write(self.costs, np.asarray(costs, "float32"))
        write(self.left, np.asarray(left, "float32"))
        if fresh:
            zeros = [np.mean(read(kernel) == 0.0) for kernel in self.kernels]
            first = np.maximum(FIRST * (1.0 - np.asarray(left)), zeros)
            normal = statistics.NormalDist()
            self.thresholds.assign(
                [normal.inv_cdf(0.5 + min(p, 1.0 - 1e-6) / 2) for p in first]
            )
        for i, whole in enumerate(wholes):
            if whole is not None:
                self._cut(i, whole, 1.0)

    def _checked(self, i, fresh):
        """Returns a kernel with what it hides, or None if it is to stay so.

        Raises:
            ValueError: If it holds one value alone, or one that is not finite.
        """
        kernel = self.kernels[i]
        values = _float32(kernel)
        whole = values + self._hidden(i, values)
        # Zeros that hide nothing were removed, in the run that goes on.
        removed = (read(kernel) == 0.0).any()
        removed = removed and not read(self.residuals[i]).any()
        found = ops.convert_to_numpy(whole)
        if not np.isfinite(found).all():
            raise ValueError(
                f"Kernel {kernel.path!r} holds NaN or infinity, so it has no "
                "threshold. Check the weights of the model."
            )
        varied = np.ptp(found) > 0.0
        if not varied and (fresh or not removed):
            raise ValueError(
                f"Kernel {kernel.path!r} holds a single value, so centering "
                "would leave only zeros. Give its layer no "
                "`AdaptiveSparsity`, or an initializer that draws values."
            )
        return None if removed else whole

    def set(self, strength):
        """Sets how hard the budget presses on the thresholds."""
        write(self.strength, np.asarray(strength, "float32"))

    def release(self):
        """Trains and masks no more; residuals stay for `remove`."""
        self.set(0.0)
        write(self.costs, np.zeros(len(self.kernels), "float32"))

    def logs(self):
        """Returns the counted and the predicted sparsity, and the penalty."""
        sizes = np.array([math.prod(k.shape) for k in self.kernels])
        zeros = [np.count_nonzero(read(k) == 0.0) for k in self.kernels]
        predicted = 1.0 - ops.convert_to_numpy(
            predicted_density(ops.convert_to_tensor(self.thresholds))
        )
        missed = ops.convert_to_numpy(self.missed(self.densities()))
        # A target that several kernels share counts once.
        once = missed**2 / self._together.sum(axis=1)
        return {
            "asl_sparsity": float(sum(zeros) / sizes.sum()),
            "asl_predicted": float(predicted @ sizes / sizes.sum()),
            "asl_penalty": float(read(self.strength) * once.sum()),
        }

    def threshold(self, index):
        """Returns a kernel's threshold, in standard deviations."""
        return float(read(self.thresholds)[index])

    def values(self, index):
        """Returns a kernel with what its threshold cuts off."""
        values = read(self.kernels[index])
        return np.where(values == 0.0, read(self.residuals[index]), values)

    def scores(self, index):
        """Returns magnitudes, in multiples of what is cut off just so."""
        whole = self.values(index).astype("float32", copy=False)
        threshold = read(self.thresholds)[index]
        cut = _cut_at(threshold, _deviation(ops.convert_to_tensor(whole)))
        return np.abs(whole).ravel() / ops.convert_to_numpy(cut)

    def forget(self, index):
        """Forgets what a kernel's threshold cuts off."""
        residual = self.residuals[index]
        residual.assign(np.zeros(residual.shape))

    def _hidden(self, i, values):
        """The residual, but for weights that were restored from outside."""
        return ops.where(values == 0.0, _float32(self.residuals[i]), 0.0)

    def _cut(self, i, whole, active):
        """Parts a kernel into what it computes with and its residual."""
        kernel, residual = self.kernels[i], self.residuals[i]
        threshold = ops.convert_to_tensor(self.thresholds)[i]
        kept, hidden = split(whole, threshold, active)
        kernel.assign(ops.cast(kept, kernel.dtype))
        # What an idle kernel hid before stays, for `remove`.
        idle = (1.0 - active) * _float32(residual)
        residual.assign(ops.cast(hidden + idle, residual.dtype))


def predicted_density(threshold):
    """Returns the share of normal values beyond `threshold` deviations.

    Example:

    >>> round(float(predicted_density(ops.array(1.959964))), 6)
    0.05
    """
    return 1.0 - ops.erf(threshold / math.sqrt(2.0))


def split(values, threshold, active=1.0):
    """Centers values and parts them at a threshold.

    Args:
        values: Float tensor.
        threshold: Float scalar, in standard deviations.
        active: Float scalar; at 0 nothing is centered nor cut off. Defaults to
            `1.0`.

    Returns:
        Two tensors of the same shape, whose sum is the centered values: those
        larger than the cut, and the others.
    """
    values = values - active * ops.mean(values)
    cut = _cut_at(threshold, _deviation(values))
    keep = ops.abs(values) > active * cut
    # Products, not `where`: what diverged must show.
    kept = values * ops.cast(keep, values.dtype)
    return kept, values - kept


def _cut_at(threshold, deviation):
    """The magnitude up to which values are cut off."""
    return ops.clip(threshold, 0.0, LARGEST) * deviation + SMALLEST


def _deviation(values):
    """The standard deviation, for one degree of freedom less."""
    squares = ops.sum(ops.square(values - ops.mean(values)))
    return ops.sqrt(squares / max(math.prod(values.shape) - 1, 1))


def _task_slope(values, hidden, grad, threshold):
    """The gradient of the task at a threshold, from that at the weights."""
    deviation = _deviation(values + hidden)
    slope = deviation / _cut_at(threshold, deviation) * ops.sum(grad * hidden)
    inside = ops.logical_and(threshold > 0.0, threshold < LARGEST)
    return ops.where(inside, -slope, 0.0)


def _float32(variable):
    """A variable's values, to compute with."""
    return ops.cast(ops.convert_to_tensor(variable), "float32")
