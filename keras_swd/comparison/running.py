"""`compare`: all methods at all sparsities with all seeds."""

from __future__ import annotations

import contextlib
import functools
import json
import numbers
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_swd.arguments import check_count, check_sparsities
from keras_swd.comparison.cells import Failure, Key, Task, run
from keras_swd.comparison.methods import Method, as_function, identity
from keras_swd.comparison.result import Comparison

#: What a method's name must not hold, for it becomes that of files.
FORBIDDEN = re.compile(r'[\\/:*?"<>|\x00-\x1f]|^\.|^\s|\s$|^$')
#: How many bytes it may take: most file systems allow 255 for all of a name.
LONGEST = 200


def compare(
    build_model: Callable[[], keras.Model],
    fit: Callable[..., Mapping[str, float]],
    methods: Mapping[str, Any],
    sparsities: Iterable[float],
    seeds: int | Iterable[int] = 3,
    folder: str | os.PathLike[str] = "comparison",
    workers: Any = 1,
    metric: str = "accuracy",
    settings: Mapping[str, Any] | None = None,
) -> Comparison:
    """Runs every method at every sparsity with every seed.

    Each run, a cell of the grid, starts with a cleared session of Keras and
    `keras.utils.set_random_seed(seed)`, so that all methods start from the
    same weights. When it has finished, it is written into `folder` as a file of
    its own. Called again after an interruption, or with more methods,
    sparsities or seeds, `compare` runs the cells that are missing. A cell that
    raises an exception does not stop the others: it is warned of, told in the
    result, and runs again the next time.

    A file is used again if it was made with equal `settings`, backend and
    regularizer, and with the same code of `build_model`, of `fit` and of the
    method's function. What these call or read from elsewhere, such as data or
    constants, is not seen: name it in `settings`.

    Args:
        build_model: Function without arguments that returns a built model,
            not compiled. What it needs of Keras' global settings, e.g. a dtype
            policy, it sets itself.
        fit: Function `(model, callbacks)` that compiles the model, trains it,
            evaluates it and returns a dictionary of numbers. Compile with
            `keras_swd.with_pruning(optimizer)` for methods that need it.
        methods: Dictionary from a name to a method: a pruning regularizer,
            given to all kernels and followed by `PruningScheduler(sparsity)`;
            a function `(build_model, fit, sparsity)` that returns numbers, for
            all else; or `None`, which trains without pruning, once per seed.
        sparsities: Floats in (0, 1).
        seeds: Integer, how many, from 0 on; or the seeds. Defaults to `3`.
        folder: String or path, made if needed. Defaults to `"comparison"`.
        workers: Integer, how many processes, where 1 is this process; more
            need joblib. Or a pool of processes with the method
            `imap_unordered`, such as `ray.util.multiprocessing.Pool()` on a
            Ray cluster. Defaults to `1`.
        metric: String, the number to compare. Defaults to `"accuracy"`.
        settings: Dictionary of plain values that tells this experiment from
            others, e.g. `{"data": "mnist", "epochs": 10}`. Defaults to `None`.

    Returns:
        `Comparison`; printed, it is a table.

    Raises:
        ValueError: If an argument is out of range, or `folder` holds a cell of
            another experiment.
        RuntimeError: If not a single cell could be run.
        ImportError: If joblib is needed and missing.

    Example:

    ```python
    comparison = keras_swd.compare(
        build_model,
        fit,
        {"dense": None, "SWD": keras_swd.SelectiveWeightDecay()},
        sparsities=[0.9, 0.95],
    )
    print(comparison)
    comparison.plot("comparison.png")
    ```
    """
    tasks = _grid(build_model, fit, methods, sparsities, seeds, settings)
    _check_workers(workers)
    folder = _make(folder)
    cells = {task.key: task.read(folder, metric) for task in tasks}
    missing = {task.key: task for task in tasks if cells[task.key] is None}
    failures = []
    function = functools.partial(run, build_model, fit, metric)
    with _progress(len(tasks), len(tasks) - len(missing)) as tell:
        for result in _results(function, list(missing.values()), workers):
            if isinstance(result, Failure):
                failures.append(result)
                tell(str(result))
            else:
                missing[result.key].write(folder, result)
                cells[result.key] = result
                number = f"{metric} {result.numbers[metric]:.4f}"
                tell(f"{result.key}: {number}, {result.seconds:.1f} s")
    _tell_failures(failures, len(tasks))
    return Comparison(
        metric=metric,
        settings=dict(settings or {}),
        cells=tuple(cell for cell in cells.values() if cell is not None),
        failures=tuple(failures),
    )


def _grid(build_model, fit, methods, sparsities, seeds, settings) -> list[Task]:
    """The cells of the grid, all of a seed before those of the next."""
    for name, function in (("build_model", build_model), ("fit", fit)):
        if not callable(function):
            raise ValueError(
                f"Argument `{name}` must be a function. "
                f"Received: {name}={function!r}."
            )
    experiment = {
        "backend": keras.config.backend(),
        "build_model": identity(build_model),
        "fit": identity(fit),
        "settings": _check_settings(settings),
    }
    functions = _check_methods(methods)
    sparsities = _check_sparsities(sparsities)
    return [
        Task(
            Key(name, sparsity, seed),
            functions[name],
            _plain(experiment | {"definition": identity(method)}),
        )
        for seed in _check_seeds(seeds)
        for name, method in methods.items()
        for sparsity in (sparsities if method is not None else [0.0])
    ]


def _check_methods(methods) -> dict[str, Method]:
    """Returns what runs each method, or raises a `ValueError`."""
    if not isinstance(methods, Mapping) or not methods:
        raise ValueError(
            "Argument `methods` must be a dictionary from names to methods. "
            f"Received: methods={methods!r}."
        )
    for name in methods:
        if not isinstance(name, str) or FORBIDDEN.search(name):
            raise ValueError(
                "The names in argument `methods` become names of files and "
                "must suit them: no slash, colon, quote or the like. "
                f"Received: {name!r}."
            )
        if len(os.fsencode(name)) > LONGEST:
            raise ValueError(
                "The names in argument `methods` become names of files and "
                f"must not take more than {LONGEST} bytes. Received: {name!r}."
            )
    return {name: as_function(name, m) for name, m in methods.items()}


def _check_sparsities(sparsities) -> list[float]:
    """Returns the sparsities, or raises a `ValueError`."""
    given = list(check_sparsities(sparsities))
    if 0.0 in given:
        raise ValueError(
            "Argument `sparsities` must hold numbers greater than 0. For no "
            "pruning, add a method that is None. "
            f"Received: sparsities={given}."
        )
    return given


def _check_seeds(seeds) -> list[int]:
    """Returns the seeds, or raises a `ValueError`."""
    single = isinstance(seeds, numbers.Integral)
    given = range(seeds) if single else seeds
    given = list(given) if isinstance(given, Iterable) else []
    if not given or not all(
        isinstance(s, numbers.Integral) and 0 <= int(s) < 2**32 for s in given
    ):
        raise ValueError(
            "Argument `seeds` must say how many there are, or hold integers "
            f"from 0 to 2**32 - 1. Received: seeds={seeds!r}."
        )
    return list(dict.fromkeys(int(seed) for seed in given))


def _check_workers(workers) -> None:
    if isinstance(workers, int):
        check_count("workers", workers)
    elif not hasattr(workers, "imap_unordered"):
        raise ValueError(
            "Argument `workers` must be a number of processes, or a pool of "
            "processes with the method `imap_unordered`, such as "
            "ray.util.multiprocessing.Pool(). "
            f"Received: workers={workers!r}."
        )


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The values as they come back from a file."""
    return json.loads(json.dumps(values))


def _check_settings(settings) -> dict[str, Any]:
    """Returns the settings, or raises a `ValueError`."""
    try:
        return _plain(dict(settings or {}))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Argument `settings` must be a dictionary of plain values, which "
            f"JSON can hold. Received: settings={settings!r}."
        ) from error


def _make(folder) -> Path:
    """Makes the folder of the cells, if there is none."""
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise ValueError(
            "Argument `folder` must name a folder. "
            f"Received: folder={str(folder)!r}, a file."
        )
    path.mkdir(parents=True, exist_ok=True)
    return path


def _results(function: Callable, tasks: list[Task], workers) -> Iterator:
    """Yields what the tasks give, each as soon as it is there."""
    if not isinstance(workers, int):
        yield from workers.imap_unordered(function, tasks)
    elif workers == 1:
        yield from map(function, tasks)
    else:
        try:
            import joblib
        except ImportError as error:
            raise ImportError(
                "`compare` needs joblib for several workers: "
                "pip install 'keras_swd[compare]'."
            ) from error
        # New processes, no forks: TensorFlow and JAX do not survive these.
        parallel = joblib.Parallel(
            n_jobs=workers,
            backend="loky",
            return_as="generator_unordered",
            # A cell is written when it has finished: none waits for others.
            batch_size=1,
            pre_dispatch="n_jobs",
        )
        with warnings.catch_warnings():
            # It replaces a process between cells if its memory has grown.
            warnings.filterwarnings("ignore", "A worker stopped", UserWarning)
            yield from parallel(
                joblib.delayed(function)(task) for task in tasks
            )


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[str], None]]:
    """Yields a function that tells of a cell, above a bar for all."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TimeElapsedColumn,
    )

    columns = ("Cells", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=total, completed=done)

        def tell(line: str) -> None:
            console.print(line, markup=False)
            progress.advance(bar)

        yield tell


def _tell_failures(failures: list[Failure], total: int) -> None:
    """Warns of cells that could not be run; raises if all could not."""
    if not failures:
        return
    lines = "".join(f"\n- {failure}" for failure in failures)
    if len(failures) == total:
        raise RuntimeError(f"None of the {total} cells could be run:{lines}")
    warnings.warn(
        f"{len(failures)} of {total} cells could not be run; they are tried "
        f"again the next time:{lines}",
        stacklevel=3,
    )
