"""Which kernels, operators and names a model's file will hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_swd.coupling.weights import SEPARABLE
from keras_swd.export.speed.graph import (
    Graph,
    Step,
    follow,
    is_normalization,
)
from keras_swd.export.tflite.signature import to_numpy
from keras_swd.models import all_layers

#: What TensorFlow calls the operation of a layer with a kernel.
OPERATIONS: dict[type, str] = {
    layers.Dense: "MatMul",
    layers.Conv1D: "convolution",
    layers.Conv2D: "convolution",
    layers.Conv2DTranspose: "conv_transpose",
    layers.DepthwiseConv1D: "depthwise",
    layers.DepthwiseConv2D: "depthwise",
}
# The tensors that other layers make, as TensorFlow names them, after the
# constants that they need; a layer that stands not here makes one tensor.
TENSORS: dict[type, tuple[str, ...]] = {
    layers.Flatten: ("Reshape/shape", "Reshape"),
    layers.Reshape: ("Reshape/shape", "Reshape"),
    layers.GlobalAveragePooling2D: ("Mean/reduction_indices", "Mean"),
    layers.GlobalMaxPooling2D: ("Max/reduction_indices", "Max"),
    layers.ZeroPadding2D: ("Pad/paddings", "Pad"),
    layers.Rescaling: ("mul/y", "mul", "add/y", "add"),
    layers.Normalization: ("sub/y", "sub", "truediv/y", "truediv"),
    layers.BatchNormalization: ("mul", "mul_1", "sub", "add_1"),
}
#: A reshape in a file for any number of samples first asks for this number.
ANY_BATCH = ("Shape", "strided_slice/stack", "strided_slice", "Reshape/shape/1")
#: The operators that compute these.
ANY_BATCH_OPERATORS = ["Shape", "strided_slice", "stack"]
UNNAMED = "arith.constant"
RESULT = (1, 10)
ONE = np.ones(1, "float32")


@dataclasses.dataclass(frozen=True)
class StoredKernel:
    """A kernel that a file may store without its zeros.

    Args:
        variable: `keras.Variable`.
        operation: String, what is computed with it, as TensorFlow says.
        factor: Array, what normalization multiplies the filters by.
        bias: Array of the bias beside it; what normalization adds counts.
        names: Tuple of two strings, its name with its zeros and without.
        bias_name: String, the name of the bias.
    """

    variable: keras.Variable
    operation: str
    factor: np.ndarray
    bias: np.ndarray
    names: tuple[str, str]
    bias_name: str

    @property
    def axis(self) -> int:
        """The axis in a file along which int8 scales differ."""
        return -1 if self.operation == "depthwise" else 0

    def in_order(self, values: np.ndarray) -> np.ndarray:
        """Brings values of the variable into the order of a file.

        Filters come first and inputs last, and one spatial axis becomes two.
        In a depthwise kernel the channels come last.
        """
        if values.ndim == 3:
            values = values[None]
        if self.operation == "depthwise":
            values = values.reshape(1, *values.shape[:2], -1)
            return values * self.factor
        filters = -2 if self.operation == "conv_transpose" else -1
        filters_last = np.moveaxis(values, filters, -1) * self.factor
        return np.ascontiguousarray(np.moveaxis(filters_last, -1, 0))


@dataclasses.dataclass
class Skeleton:
    """What a file holds around its kernels.

    Args:
        scope: String, what all names begin with.
        kernels: List of `StoredKernel`.
        tensors: List of tuples, name and shape of each tensor that the file
            computes, and of small constants, in order.
        vectors: List of variables, the larger constants that are no kernels,
            or whose zeros always stay.
        any_batch: List of strings, the names of the tensors that only a file
            for any number of samples has.
        operators: List of strings, what each other operator of a file for one
            sample computes.
    """

    scope: str
    kernels: list[StoredKernel]
    tensors: list[tuple[str, tuple[int, ...]]]
    vectors: list[keras.Variable]
    any_batch: list[str]
    operators: list[str]

    def name(self, step: Step, *operations: str) -> str:
        """What a file calls the result of a layer's operations."""
        path = "".join(f"/{part}_1" for part in step.path.split("/"))
        return ";".join(f"{self.scope}{path}/{o}" for o in operations)


def read_skeleton(model: keras.Model) -> Skeleton:
    """Reads from a model's layers what its file will hold.

    Normalization that follows a kernel becomes part of that and of a bias;
    ReLU becomes part of the operator that it follows.

    Args:
        model: Built Keras model.

    Returns:
        `Skeleton`.

    Raises:
        ValueError: If a layer with weights is none of Keras' own.
    """
    graph = follow(model) or _one_after_another(model)
    for step in graph.steps:
        _check_known(step.layer)
    skeleton = Skeleton(f"{model.name}_1", [], [], [], [], [])
    skeleton.tensors.append(("serving_default_input_0:0", _shape(graph, None)))
    done: set[int] = set()
    for index, step in enumerate(graph.steps):
        if index in done:
            continue
        if type(step.layer) in OPERATIONS and _holds_kernel(step.layer):
            done |= _add_kernel(skeleton, graph, index)
        elif isinstance(step.layer, SEPARABLE):
            done |= _add_separable(skeleton, graph, index)
        else:
            done |= _add_other(skeleton, graph, index)
    return skeleton


def _check_known(layer: Any) -> None:
    """Raises if a layer stores weights in a way that cannot be predicted."""
    own = type(layer).__module__.startswith("keras.")
    weights: Any = getattr(layer, "weights", ())
    if weights and not own:
        raise ValueError(
            f"Layer {layer.name!r} is a {type(layer).__name__}, none of "
            "Keras' own, so what a file stores of it cannot be told before. "
            "Convert the model with `to_tflite`, which reports the sizes."
        )


def _one_after_another(model: keras.Model) -> Graph:
    """The layers of a model whose own code calls them, as if in a chain."""
    leaves = list({id(layer): layer for layer in _leaves(model)}.values())
    steps = (
        Step(layer.name, layer, (index - 1,) if index else (None,), ())
        for index, layer in enumerate(leaves)
    )
    return Graph(tuple(steps), frozenset([len(leaves) - 1]))


def _leaves(layer: Any) -> Iterator[Any]:
    """The layers within one that hold weights themselves, or no layers.

    Pruning regularizers are layers too, for Keras, and activations may be.
    """
    for part in layer._flatten_layers(include_self=False, recursive=False):
        if isinstance(part, keras.regularizers.Regularizer):
            continue
        inner = [x for x in all_layers(part) if x is not part]
        within = {id(weight) for x in inner for weight in x.weights}
        own = any(id(weight) not in within for weight in part.weights)
        if own or not inner:
            yield part
        if within or not own:
            yield from _leaves(part)


def _next(graph: Graph, index: int, wanted: Callable[[Any], bool]) -> set[int]:
    """The step that alone takes what step `index` makes, if it is wanted."""
    following = graph.only_consumer(index)
    if following is None or not wanted(graph.steps[following].layer):
        return set()
    return {following}


def _is_relu(layer: Any) -> bool:
    if isinstance(layer, layers.ReLU):
        return not (layer.negative_slope or layer.threshold)
    return isinstance(layer, layers.Activation) and _fused(layer)


def _holds_kernel(layer: Any) -> bool:
    """Whether a layer computes with a kernel that is a variable of its own.

    A quantized layer, or one with LoRA, makes it from others.
    """
    return isinstance(layer.kernel, keras.Variable)


def _fused(layer: Any) -> bool:
    """Whether an operator computes the layer's activation on its way."""
    return _activation(layer) in ("relu", "relu6")


def _activation(layer: Any) -> str:
    """The name of a layer's activation, which may be a layer or an object."""
    function = layer.activation
    if isinstance(function, layers.ReLU) and _is_relu(function):
        return "relu"
    return getattr(function, "__name__", type(function).__name__)


def _merged(graph: Graph, index: int) -> tuple[set[int], int, set[int]]:
    """The steps that become part of a layer with a kernel.

    Returns:
        Set of the normalization, if there is one, the last step so far, and
        set of a ReLU that follows that.
    """
    if _activation(graph.steps[index].layer) != "linear":
        return set(), index, set()
    norm = _next(graph, index, is_normalization)
    last = max(norm, default=index)
    return norm, last, _next(graph, last, _is_relu)


def _relu_names(
    skeleton: Skeleton, graph: Graph, index: int, relu: set[int]
) -> list[str]:
    """What a file calls a layer's ReLU, its own or one that follows."""
    named = [*relu, *([index] if _fused(graph.steps[index].layer) else [])]
    return [skeleton.name(graph.steps[i], "Relu") for i in named]


def _add_kernel(skeleton: Skeleton, graph: Graph, index: int) -> set[int]:
    """Adds a layer; returns the steps that are computed with it."""
    step = graph.steps[index]
    layer: Any = step.layer
    norm, last, relu = _merged(graph, index)
    parts = _relu_names(skeleton, graph, index, relu)
    operation = OPERATIONS[type(layer)]
    own = skeleton.name(step, operation)
    bias = to_numpy(layer.bias) if layer.use_bias else np.zeros(0)
    factor, bias_name = ONE, UNNAMED
    if norm:
        parts += [own, _normalized(skeleton, graph.steps[last], operation)]
        factor, bias = _normalization(graph.steps[last].layer, bias)
        bias_name = ";".join(parts)
    elif np.any(bias):
        parts.append(skeleton.name(step, "BiasAdd"))
        bias_name = ";".join(parts)
        parts.append(own)
        if operation != "MatMul":
            parts.append(skeleton.name(step, "Squeeze"))
            bias_name = ";".join(parts)
    else:
        # A convolution always has a bias in a file, a matrix product not.
        filters = 0 if operation == "MatMul" else _filters(layer)
        bias = np.zeros(filters, "float32")
        parts.append(own)
    whole = ";".join(parts)
    kernel = StoredKernel(
        layer.kernel, operation, factor, bias, (own, whole), bias_name
    )
    shape = _shape(graph, max(relu, default=last))
    _add_stored(skeleton, kernel, shape)
    if not (_activation(layer) == "linear" or _fused(layer)):
        function = _activation(layer)
        skeleton.operators.append(function)
        skeleton.tensors.append((skeleton.name(step, function), shape))
    return norm | relu


def _add_stored(
    skeleton: Skeleton, kernel: StoredKernel, shape: tuple[int, ...]
) -> None:
    """Adds one kernel and what is computed with it, of this shape."""
    skeleton.kernels.append(kernel)
    skeleton.tensors.append((kernel.names[1], shape))


def _add_separable(skeleton: Skeleton, graph: Graph, index: int) -> set[int]:
    """Adds two kernels; returns the steps computed with the second."""
    step = graph.steps[index]
    shape = _shape(graph, index)
    layer: Any = step.layer
    own = skeleton.name(step, "separable_conv2d")
    depthwise = f"{own}/depthwise"
    variable = layer.depthwise_kernel
    channels = variable.shape[-1] * variable.shape[-2]
    bias = np.zeros(channels, "float32")
    kernel = StoredKernel(
        variable, "depthwise", ONE, bias, (depthwise, depthwise), UNNAMED
    )
    _add_stored(skeleton, kernel, shape)
    norm, last, relu = _merged(graph, index)
    parts = _relu_names(skeleton, graph, index, relu)
    bias = (
        to_numpy(layer.bias)
        if layer.use_bias
        else np.zeros(layer.filters, "float32")
    )
    factor = ONE
    if norm:
        parts += [
            _normalized(skeleton, graph.steps[last], "convolution"),
            skeleton.name(step, "separable_conv2d"),
        ]
        factor, bias = _normalization(graph.steps[last].layer, bias)
    else:
        operations = ("BiasAdd", "separable_conv2d", "Squeeze")
        parts.append(skeleton.name(step, *operations))
    whole = ";".join(parts)
    kernel = StoredKernel(
        layer.pointwise_kernel, "convolution", factor, bias, (own, whole), whole
    )
    _add_stored(skeleton, kernel, _shape(graph, max(relu, default=last)))
    return norm | relu


def _add_other(skeleton: Skeleton, graph: Graph, index: int) -> set[int]:
    """Adds a layer that has no kernel, or one whose zeros always stay."""
    step = graph.steps[index]
    relu = _next(graph, index, _is_relu)
    shape = _shape(graph, max(relu, default=index))
    kind = type(step.layer)
    tensors = TENSORS.get(kind, (step.layer.name,))
    skeleton.operators += [kind.__name__] * ((len(tensors) + 1) // 2)
    skeleton.tensors += [(skeleton.name(step, t), shape) for t in tensors[:-1]]
    parts = [skeleton.name(graph.steps[i], "Relu") for i in relu]
    parts.append(skeleton.name(step, tensors[-1]))
    skeleton.tensors.append((";".join(parts), shape))
    if tensors[-1] == "Reshape":
        skeleton.any_batch += [skeleton.name(step, t) for t in ANY_BATCH]
        skeleton.any_batch.append(UNNAMED)
    weights = getattr(step.layer, "weights", ())
    if isinstance(step.layer, layers.BatchNormalization):
        weights = step.layer.weights[:2]
    skeleton.vectors += weights
    return relu


def _shape(graph: Graph, index: int | None) -> tuple[int, ...]:
    """The shape of what step `index` makes, `None` for an input, one sample.

    A result that no other step takes is like that of a classifier.
    """
    for step in graph.steps:
        if index in step.inputs and step.shapes:
            shape = step.shapes[step.inputs.index(index)]
            return tuple(side or 1 for side in shape)
    return RESULT


def _normalized(skeleton: Skeleton, norm: Step, operation: str) -> str:
    parts = ["batchnorm/add_1", "batchnorm/sub"]
    if operation == "depthwise":
        parts += ["batchnorm/mul_1", "batchnorm/Rsqrt"]
    return skeleton.name(norm, *parts)


def _normalization(
    norm: Any, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What a normalization makes of a kernel: a factor and a bias."""
    factor = 1.0 / np.sqrt(to_numpy(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        factor = factor * to_numpy(norm.gamma)
    shift = to_numpy(norm.beta) if norm.center else 0.0
    mean = to_numpy(norm.moving_mean) - (bias if bias.size else 0.0)
    bias = shift - mean * factor
    return factor.astype("float32"), bias.astype("float32")


def _filters(layer: Any) -> int:
    if OPERATIONS[type(layer)] == "depthwise":
        return layer.kernel.shape[-2] * layer.depth_multiplier
    return layer.filters
