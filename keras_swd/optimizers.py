"""Optimizers for methods that need each weight's gradient."""

from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_swd.backend.processes import replicas
from keras_swd.regularizers.base import pruning_regularizer
from keras_swd.regularizers.part import OptimizerPart
from keras_swd.rewinding import LearningRateRewinding


class PruningOptimizer(keras.optimizers.Optimizer):
    """Lets pruning methods work where each weight's gradient is.

    A mixin over an optimizer's class. It acts on kernels that carry a
    regularizer with a `part`, such as `AdaptiveSparsity`; all other weights
    are trained as ever. `with_pruning` makes Keras' own optimizers so. For an
    optimizer of your own, whose update must not depend on the weight:

    ```python
    @keras.saving.register_keras_serializable()
    class MyPruning(keras_swd.PruningOptimizer, MyOptimizer):
        pass
    ```

    Raises:
        ValueError: When it is built, if such a regularizer is on embeddings or
            there are several replicas; in a step, if such a kernel has no
            gradient.
    """

    #: What works in this optimizer, once it is built.
    parts: tuple[OptimizerPart, ...] = ()

    def build(self, variables):
        """Adds the variables of the methods to those of the optimizer."""
        if self.built:
            return
        super().build(variables)
        kernels: dict[type[OptimizerPart], list[keras.Variable]] = {}
        for variable in variables:
            regularizer = pruning_regularizer(variable)
            if regularizer is not None and regularizer.part is not None:
                _check_dense(variable)
                kernels.setdefault(regularizer.part, []).append(variable)
        if kernels:
            _check_one_replica()
        self.parts = tuple(part(self, own) for part, own in kernels.items())

    def apply(self, grads, trainable_variables=None):
        """Updates the variables, with what the methods add to the step."""
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
            if not self.built:
                self.build(trainable_variables)
        # JAX names no variables: they are those of `build`, in their order.
        variables = trainable_variables or self._trainable_variables
        given = {id(v): g for v, g in zip(variables, grads, strict=True)}
        after = []
        for part in self.parts:
            _check_gradients(part, given)
            own, then = part.step([given[id(v)] for v in part.kernels])
            given.update(
                (id(v), g) for v, g in zip(part.kernels, own, strict=True)
            )
            after.append(then)
        super().apply([given[id(v)] for v in variables], trainable_variables)
        for then in after:
            then()


#: What an optimizer's configuration lacks.
NOT_CONFIGURED = (
    "_exclude_from_weight_decay",
    "_exclude_from_weight_decay_pattern",
)


def _prunable_form(plain: Any) -> Any:
    """Returns the prunable form of a class of optimizers."""
    name = f"Pruning{plain.__name__}"
    text = f"{plain.__name__} for methods that need each weight's gradient."
    form = type(
        name,
        (PruningOptimizer, plain),
        {"__doc__": text, "__module__": __name__},
    )
    return keras.saving.register_keras_serializable("keras_swd")(form)


#: Optimizers whose update depends on the gradient alone, and their form. Lamb,
#: Adafactor and Muon scale it by the weight or its shape.
FORMS: dict[Any, Any] = {
    plain: _prunable_form(plain)
    for plain in (
        keras.optimizers.Adadelta,
        keras.optimizers.Adagrad,
        keras.optimizers.Adam,
        keras.optimizers.Adamax,
        keras.optimizers.AdamW,
        keras.optimizers.Lion,
        keras.optimizers.Nadam,
        keras.optimizers.RMSprop,
        keras.optimizers.SGD,
    )
}


def with_pruning(
    optimizer: str | keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns the same optimizer for methods that need each weight's gradient.

    `AdaptiveSparsity`, `IrrelevantWeights` and `Lobster` need it. A model
    without them trains as before.

    Args:
        optimizer: String or `keras.optimizers.Optimizer`: Adadelta, Adagrad,
            Adam, Adamax, AdamW, Lion, Nadam, RMSprop or SGD, also in a
            `LossScaleOptimizer`. Its state, if it has any, is not kept.

    Returns:
        A new `keras.optimizers.Optimizer`; the same if it is one already.

    Raises:
        ValueError: If the optimizer's update depends on more than gradients.

    Example:

    >>> optimizer = with_pruning(keras.optimizers.SGD(0.5, momentum=0.9))
    >>> isinstance(optimizer, keras.optimizers.SGD), optimizer.momentum
    (True, 0.9)
    """
    optimizer = keras.optimizers.get(optimizer)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return _wrapped_again(optimizer, with_pruning)
    if isinstance(optimizer, PruningOptimizer):
        return optimizer
    plain = _class_of(optimizer)
    if plain not in FORMS:
        names = ", ".join(cls.__name__ for cls in FORMS)
        raise ValueError(
            "Argument `optimizer` must be one that updates weights from "
            "gradients only, since weights that are masked are not in the "
            f"kernel: {names}. Received: optimizer={plain.__name__}. Use "
            "`keras.optimizers.AdamW(weight_decay=0)`, or derive the class of "
            "your own optimizer from `keras_swd.PruningOptimizer` too."
        )
    return _in_form(FORMS[plain], optimizer)


def inner_optimizer(optimizer: Any) -> Any:
    """Returns what a `LossScaleOptimizer` wraps; others as they are."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def plain_optimizer(optimizer: Any) -> Any:
    """Returns the same optimizer without its state, and as Keras knows it.

    That is without what `with_pruning` made of it, and with a learning rate
    that is not rewound.

    Args:
        optimizer: A `keras.optimizers.Optimizer`, or None.
    """
    if optimizer is None:
        return None
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return _wrapped_again(optimizer, plain_optimizer)
    classes = type(optimizer).__mro__
    plain = next(c for c in classes if not issubclass(c, PruningOptimizer))
    other = _in_form(plain, optimizer)
    while isinstance(other._learning_rate, LearningRateRewinding):
        other.learning_rate = other._learning_rate.schedule
    return other


def fresh_optimizer(
    optimizer: keras.optimizers.Optimizer,
) -> keras.optimizers.Optimizer:
    """Returns the same optimizer without its state.

    Args:
        optimizer: A `keras.optimizers.Optimizer`.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return _wrapped_again(optimizer, fresh_optimizer)
    return _in_form(type(optimizer), optimizer)


def exclude_alike(
    optimizer: Any, pairs: Iterable[tuple[keras.Variable, keras.Variable]]
) -> None:
    """Lets a fresh optimizer exclude the same variables from weight decay.

    Args:
        optimizer: What `compile` takes, made for other variables.
        pairs: Pairs of those and of the ones that it is to train.
    """
    optimizer = inner_optimizer(optimizer)
    excluded = getattr(optimizer, "_exclude_from_weight_decay", None)
    if excluded:
        # Keras knows a variable by a key that no other one has.
        key = optimizer._var_key
        optimizer._exclude_from_weight_decay = {
            key(new) for old, new in pairs if key(old) in excluded
        }


def pruning_optimizer(model: keras.Model) -> PruningOptimizer | None:
    """Returns the model's optimizer if it lets methods work in it."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = inner_optimizer(optimizer)
    return optimizer if isinstance(optimizer, PruningOptimizer) else None


def build_parts(model: keras.Model) -> tuple[OptimizerPart, ...]:
    """Returns what works in the model's optimizer, built if need be.

    Args:
        model: A built `keras.Model`.

    Returns:
        Tuple of `OptimizerPart`.

    Raises:
        ValueError: If a regularizer needs an optimizer that the model lacks.
    """
    for variable in model.trainable_variables:
        regularizer = pruning_regularizer(variable)
        if regularizer is None or regularizer.part is None:
            continue
        if pruning_optimizer(model) is None:
            optimizer = getattr(model, "optimizer", None)
            raise ValueError(
                f"Kernel {variable.path!r} carries "
                f"{type(regularizer).__name__}, which needs each weight's "
                "gradient. Compile the model with `optimizer=keras_swd."
                "with_pruning(optimizer)`. Received: "
                f"optimizer={type(optimizer).__name__}."
            )
    optimizer = pruning_optimizer(model)
    if optimizer is None:
        return ()
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    trained = {id(variable) for variable in model.trainable_variables}
    for part in optimizer.parts:
        for kernel in part.kernels:
            if id(kernel) not in trained:
                raise ValueError(_not_trained(kernel))
    return optimizer.parts


def _class_of(optimizer: keras.optimizers.Optimizer) -> type:
    """Its public class: on PyTorch Keras makes one of a class of its own."""
    return next(
        cls
        for cls in type(optimizer).__mro__
        if cls in FORMS or not cls.__module__.startswith("keras.src.backend")
    )


def _wrapped_again(optimizer, form: Callable):
    """The same loss scaling around another form of the inner optimizer."""
    config = optimizer.get_config()
    config["inner_optimizer"] = form(optimizer.inner_optimizer)
    return keras.optimizers.LossScaleOptimizer(**config)


def _in_form(form: Any, optimizer: keras.optimizers.Optimizer):
    """The same optimizer as one of another class, without its state."""
    config = optimizer.get_config()
    rate = optimizer._learning_rate
    if callable(rate) and not isinstance(rate, keras.Variable):
        config["learning_rate"] = rate  # a schedule, as it is
    other = form.from_config(config)
    # Which weights do not decay is no part of a configuration.
    for name in NOT_CONFIGURED:
        if hasattr(optimizer, name):
            setattr(other, name, getattr(optimizer, name))
    return other


def _check_gradients(part: OptimizerPart, given: dict[int, Any]) -> None:
    """Refuses kernels that a step does not train."""
    for kernel in part.kernels:
        if id(kernel) not in given:
            raise ValueError(_not_trained(kernel))
        if given[id(kernel)] is None:
            raise ValueError(
                f"Kernel {kernel.path!r} has no gradient: the loss does not "
                "depend on it. Give its layer no regularizer that needs each "
                "weight's gradient, or its output a loss."
            )


def _not_trained(kernel: keras.Variable) -> str:
    return (
        f"Kernel {kernel.path!r} was trained when the optimizer was built, and "
        "is frozen now. Compile the model with a new optimizer: "
        "`optimizer=keras_swd.with_pruning(...)`."
    )


def _check_dense(variable: keras.Variable) -> None:
    """Refuses embeddings, of which a batch sees a few rows alone."""
    if variable.name == "embeddings":
        raise ValueError(
            f"Weight {variable.path!r} holds embeddings, whose rows have no "
            "gradient in most batches. Give its layer no regularizer that "
            "needs each weight's gradient, or `SelectiveWeightDecay()`."
        )


def _check_one_replica() -> None:
    """Refuses several replicas, of which each sees a part of the gradient."""
    if replicas() > 1:
        raise ValueError(
            "Methods that need each weight's gradient train on one device: "
            "a replica sees a part of the gradient alone. Build the model "
            "outside of the distribution's scope, or use "
            "`SelectiveWeightDecay()`. "
            f"Received: replicas={replicas()}."
        )
