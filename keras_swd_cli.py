"""The command line `keras-swd`: demo, inspect, export.

Nothing heavy is imported up here, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

#: Characters of the longest line of a table, at least and at most.
NARROW, WIDE = 80, 100


def one_line_errors(command: Callable) -> Callable:
    """Turns errors of a user's making into one line and exit status 1."""

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except (ImportError, OSError, RuntimeError, ValueError) as error:
            raise click.ClickException(in_one_line(error)) from error

    return wrapped


@click.group(
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": NARROW,
    }
)
@click.version_option(None, "--version", package_name="keras_swd")
def main() -> None:
    """Prune Keras networks while they train, and see what became of them.

    \b
    New here? This needs no data and takes less than a minute:
        keras-swd demo

    \b
    Then look at the model it wrote:
        keras-swd inspect keras_swd_demo/model.keras

    To prune a network of your own, use the Python package keras_swd: a
    regularizer for its layers, and a callback for `model.fit`.
    """  # noqa: D301, click reads the backslashes: do not wrap these lines.


@main.command()
@click.option(
    "--out",
    metavar="DIR",
    default="keras_swd_demo",
    show_default=True,
    help="Folder to write; an earlier demo's is replaced.",
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    default=40,
    show_default=True,
    help="Epochs of each of the two trainings.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0, max=2**32 - 1),
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of everything random.",
)
@click.option(
    "--json", "json_path", metavar="FILE", help="Also write the figures here."
)
@one_line_errors
def demo(out: str, epochs: int, seed: int, json_path: str | None) -> None:
    """Train a small network twice, dense and pruned, and compare.

    It reads handwritten digits that come with scikit-learn, removes 95 % of
    the weights, writes the pruned model as .keras and .tflite, and prints the
    accuracy and the size of each.
    """
    check_output("--json", json_path)
    start("tensorflow")
    from keras_swd.demo import run_demo

    result = run_demo(out, epochs=epochs, seed=seed)
    if json_path is not None:
        result.to_json(json_path)


@main.command()
@click.argument("model")
@click.option(
    "--json", "json_path", metavar="FILE", help="Write the report as JSON."
)
@click.option(
    "--plot", "plot_path", metavar="FILE", help="Draw the report as .png."
)
@one_line_errors
def inspect(model: str, json_path: str | None, plot_path: str | None) -> None:
    """Show how many weights of MODEL are zero, layer by layer.

    MODEL is a file that ends in .keras or .tflite.
    """
    path = check_input(model, (".keras", ".tflite"))
    check_output("--json", json_path)
    check_output("--plot", plot_path, ".png")
    start()
    from keras_swd.export.agreement import gzip_size
    from keras_swd.report import sparsity_report

    notes: list[str] = []
    if path.suffix == ".tflite":
        report, notes = read_tflite(path)
    else:
        report = sparsity_report(load_model(path))
    columns = shutil.get_terminal_size((NARROW, 24)).columns
    click.echo(report.table(min(max(columns, NARROW), WIDE)))
    content = path.read_bytes()
    zipped = gzip_size(content)
    click.echo(f"\nThe file has {len(content):,} bytes, {zipped:,} after gzip.")
    for note in notes:
        click.echo(note)
    if json_path is not None:
        report.to_json(json_path)
    if plot_path is not None:
        report.plot(plot_path)


@main.command()
@click.argument("model")
@click.option(
    "--out",
    metavar="FILE",
    required=True,
    help="The .tflite file to write.",
)
@click.option(
    "--sparse",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Leave zeros out of the file? auto: if that makes it smaller.",
)
@one_line_errors
def export(model: str, out: str, sparse: str) -> None:
    """Write MODEL, a .keras file, as a TensorFlow Lite file.

    The file is run and compared with MODEL on random inputs before it gets
    its name: where they disagree, there is no file.
    """
    path = check_input(model, (".keras",))
    check_output("--out", out, ".tflite")
    start("tensorflow")
    from keras_swd.export import to_tflite

    wanted = "auto" if sparse == "auto" else sparse == "yes"
    loaded = load_model(path)
    try:
        report = to_tflite(loaded, out, sparse=wanted)
    except (RuntimeError, ValueError) as error:
        message = in_one_line(error).replace("`sparse=False`", "`--sparse no`")
        raise click.ClickException(f"{model}: {message}") from error
    click.echo(report.table())


# Input and output -----------------------------------------------------------


def start(backend: str | None = None) -> None:
    """Imports Keras without what TensorFlow prints when it starts.

    Args:
        backend: String, the backend that a command needs. Defaults to `None`,
            the user's.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if backend is not None:
        # The files that are read and written are the same for each backend.
        os.environ["KERAS_BACKEND"] = backend
    with _silent_errors():
        importlib.import_module("keras_swd")


@contextlib.contextmanager
def _silent_errors() -> Iterator[None]:
    """Drops what is written to standard error from C++, too."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def in_one_line(error: Exception) -> str:
    """The message of an error without line breaks, and not too long."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 500 else f"{text[:497]}..."


def check_input(model: str, suffixes: tuple[str, ...]) -> Path:
    """Returns the path of a model's file, or raises with what is wrong."""
    path = Path(model)
    if path.is_dir():
        raise ValueError(f"{model} is a folder, not a file.")
    if not path.is_file():
        raise ValueError(f"{model} does not exist.")
    if path.suffix not in suffixes:
        hint = ""
        if path.suffix in (".h5", ".hdf5"):
            hint = (
                " Load it in Python with keras.saving.load_model and save it "
                "as .keras."
            )
        elif path.suffix == ".tflite":
            hint = " A .tflite file is one already; see keras-swd inspect."
        raise ValueError(
            f"{model} does not end in {' or '.join(suffixes)}.{hint}"
        )
    return path


def check_output(option: str, path: str | None, suffix: str = "") -> None:
    """Raises if a file cannot be written there: better now than later."""
    if path is None:
        return
    target = Path(path)
    if suffix and target.suffix != suffix:
        raise ValueError(f"{option} {path}: the name must end in {suffix}.")
    if target.is_dir():
        raise ValueError(f"{option} {path}: this is a folder, not a file.")
    if not target.parent.is_dir():
        raise ValueError(
            f"{option} {path}: the folder {target.parent} does not exist."
        )
    if not os.access(target.parent, os.W_OK):
        raise ValueError(
            f"{option} {path}: the folder {target.parent} is not writable."
        )


def load_model(path: Path) -> Any:
    """Returns the model of a .keras file, or raises with what is wrong."""
    import keras

    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            begins_as_zip = file.read(2) == b"PK"
        wrong = (
            "is damaged or cut short; copy or save it again"
            if begins_as_zip
            else "is no .keras file, whatever its name; save with model.save()"
        )
        raise ValueError(f"{path} {wrong}.")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises anything on a strange file.
        message = str(error)
        unknown = re.search(r"Could not locate \w+ '([^']+)'", message)
        if unknown:
            wrong = (
                f"needs the custom object {unknown[1]!r}, which only your code "
                "defines. Load it in Python and use keras_swd.sparsity_report "
                "or keras_swd.export.to_tflite there"
            )
        elif "safe_mode" in message or "unsafe" in message:
            wrong = (
                "holds Python code (a Lambda layer), which is not run from a "
                "file. If you trust it, load it in Python with safe_mode=False"
            )
        else:
            wrong = f"cannot be read: {in_one_line(error).rstrip('.')}"
        raise ValueError(f"{path} {wrong}.") from error
    if not model.built:
        raise ValueError(
            f"{path} holds a model that was saved before it had weights. Call "
            "it on data, or model.build(input_shape), and save it again."
        )
    return model


def is_damaged(content: bytes) -> bool:
    """Whether LiteRT finds the structure of a .tflite file broken."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "Reading a TFLite file needs LiteRT: "
            "pip install 'keras_swd[tflite]'."
        ) from error
    from keras_swd.export.quiet import quiet

    try:
        with quiet():
            Interpreter(model_content=content)
    except (RuntimeError, ValueError) as error:
        # Operators that it does not know are no concern here.
        return "Flatbuffer" in str(error)
    return False


def short_name(name: str) -> str:
    """The name of one operation, where a converter has joined several.

    Example:

    >>> short_name("cnn/conv/Relu;cnn/conv/BiasAdd;cnn/conv/convolution")
    'cnn/conv/convolution'
    """
    parts = name.split(";")
    products = ("convolution", "MatMul", "depthwise")
    return next((p for p in parts if p.endswith(products)), parts[0])


def read_tflite(path: Path) -> tuple[Any, list[str]]:
    """Returns the report of a .tflite file, and remarks to print below it."""
    from keras_swd.export.flatbuffer import stored_tensors
    from keras_swd.report import KernelSparsity, SparsityReport, Totals

    content = path.read_bytes()
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path} is no TFLite file, whatever its name.")
    if is_damaged(content):
        raise ValueError(f"{path} is damaged or cut short.")
    tensors = stored_tensors(content)
    kernels = tuple(
        KernelSparsity(
            size=tensor.size,
            zeros=tensor.zeros or 0,
            path=short_name(tensor.name),
            shape=tensor.shape,
        )
        for tensor in tensors
        if tensor.is_weight
    )
    small = [t for t in tensors if t.zeros is not None and not t.is_weight]
    others = Totals(
        sum(t.size for t in small), sum(t.zeros or 0 for t in small)
    )
    notes = []
    sparse = sum(tensor.sparse for tensor in tensors)
    if sparse:
        notes.append(f"Stored without their zeros: {sparse} tensors.")
    integers = sum(t.zeros is None and len(t.shape) >= 2 for t in tensors)
    if integers:
        notes.append(f"Not counted: {integers} tensors of integers.")
    return SparsityReport(path.name, kernels, others), notes


if __name__ == "__main__":
    main()
