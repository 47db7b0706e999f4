"""What a comparison takes for a method, as a function, and what tells it."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_swd.callbacks.pruning_scheduler import PruningScheduler
from keras_swd.configured import Configured
from keras_swd.rebuilding import with_regularizer
from keras_swd.references import by_reference
from keras_swd.regularizers.base import PruningRegularizer

#: A function of `build_model`, `fit` and the sparsity, which returns numbers.
Method = Callable[[Callable, Callable, float], dict[str, float]]


def as_function(name: str, method: Any) -> Method:
    """Returns what runs a method.

    Args:
        name: String, the method's.
        method: A `PruningRegularizer`, a function, or `None`.

    Returns:
        Function of `build_model`, `fit` and the sparsity.

    Raises:
        ValueError: If `method` is none of these.
    """
    if method is None:
        return _train
    if isinstance(method, PruningRegularizer):
        if method.sparsity is not None:
            raise ValueError(
                "Argument `methods` holds a regularizer with a target of its "
                "own, which the `sparsities` of the comparison would not "
                "change. Leave its `sparsity` out; for a granularity that "
                "fixes one, pass a function `(build_model, fit, sparsity)`. "
                f"Received: methods[{name!r}] with sparsity={method.sparsity}."
            )
        cls = type(method)
        registered = keras.saving.get_registered_name(cls)
        with by_reference() as parts:
            config = method.get_config()
        return functools.partial(_prune, cls, registered, config, parts)
    if callable(method) and not inspect.isclass(method):
        return method
    raise ValueError(
        "Argument `methods` must hold pruning regularizers, functions "
        "`(build_model, fit, sparsity)` that return a dictionary of numbers, "
        f"or None for no pruning. Received: methods[{name!r}]={method!r}."
    )


def _train(build_model, fit, sparsity):
    del sparsity
    return fit(build_model(), [])


def _prune(cls, registered, config, parts, build_model, fit, sparsity):
    package, _, name = registered.rpartition(">")
    if package and keras.saving.get_registered_object(registered) is not cls:
        # The class of a user's program, in a process that did not run it.
        keras.saving.register_keras_serializable(package, name)(cls)
    with by_reference(parts):
        regularizer = cls.from_config(config)
    model = with_regularizer(build_model(), regularizer)
    return fit(model, [PruningScheduler(sparsity)])


def identity(part: Any) -> Any:
    """Returns what tells a method or a function from others, as plain values.

    For what is ours, its class and its arguments. For a function, a hash of its
    own code, without comments, and the values of the function around it, of
    defaults that the code only names, or of `functools.partial`. What it calls,
    or reads from its module or its object, is not seen. Of all else only the
    class.

    Example:

    >>> identity(keras_swd.GReg1(begin=0.5))["config"]["begin"]
    0.5
    >>> identity(functools.partial(print, 1, sep=""))
    {'code': 'print', 'holds': {'0': 1, 'sep': ''}}
    """
    if isinstance(part, functools.partial):
        held = {**{str(i): v for i, v in enumerate(part.args)}, **part.keywords}
        known: Any = identity(part.func)
        inner = known if isinstance(known, dict) else {"code": known}
        return {**inner, "holds": {**inner.get("holds", {}), **_values(held)}}
    if inspect.isroutine(part):
        around = inspect.isfunction(part) and inspect.getclosurevars(part)
        held = {**around.nonlocals, **_defaults(part)} if around else {}
        code: dict[str, Any] = {"code": _code(part)}
        return code | {"holds": _values(held)} if held else code
    return _value(part)


def _defaults(function: Callable) -> dict[str, Any]:
    """The plain values of defaults that stand in the code as names alone."""
    parameters = inspect.signature(function).parameters.values()
    values = {p.name: p.default for p in parameters if p.default is not p.empty}
    with contextlib.suppress(OSError, TypeError, SyntaxError):
        source = textwrap.dedent(inspect.getsource(function))
        (definition,) = ast.parse(source).body
        arguments = getattr(definition, "args", None)
        for name in _written_out(arguments) if arguments else ():
            values.pop(name, None)
    return {n: v for n, v in values.items() if not inspect.ismodule(v)}


def _written_out(arguments: ast.arguments) -> Iterator[str]:
    """The arguments whose defaults can be read from the code."""
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [
        *zip(positional[::-1], arguments.defaults[::-1], strict=False),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        with contextlib.suppress(ValueError):
            if default is not None:
                ast.literal_eval(default)
                yield argument.arg


def _values(held: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(value) for name, value in held.items()}


def _value(part: Any) -> Any:
    """A plain value as it is, the configuration of what is ours, or a name."""
    if part is None or isinstance(part, (bool, int, float, str)):
        return part
    if isinstance(part, np.generic):
        return part.item()
    if isinstance(part, tuple):  # lists may be what a function fills
        return [_value(item) for item in part]
    if isinstance(part, (PruningRegularizer, Configured)):
        return keras.saving.serialize_keras_object(part)
    if inspect.isroutine(part):
        return _code(part)
    return (part if inspect.isclass(part) else type(part)).__qualname__


def _code(function: Any) -> str:
    """The name of a function, and a hash of its code where that is known."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):  # not from a file
        return function.__qualname__
    # A lambda within a line is no code of its own.
    with contextlib.suppress(SyntaxError):
        source = ast.unparse(ast.parse(source))
    digest = hashlib.sha256(source.encode()).hexdigest()
    return f"{function.__qualname__} {digest[:12]}"
