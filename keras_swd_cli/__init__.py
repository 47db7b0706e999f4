"""The command line `keras-swd`: demo, report, inspect, export, explain.

Nothing heavy is imported up here, so that `--help` answers at once.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from typing import Any

import click

from keras_swd_cli.inputs import (
    check_folder,
    check_input,
    check_output,
    in_one_line,
    load_arrays,
    load_model,
    start,
)

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
@click.argument("run_dir")
@click.option(
    "--out",
    metavar="FILE",
    help="The .html file to write. Default: RUN_DIR/report.html.",
)
@click.option(
    "--time",
    "timed",
    is_flag=True,
    help="Also run the .tflite files to see how long they take.",
)
@one_line_errors
def report(run_dir: str, out: str | None, timed: bool) -> None:
    """Write what happened in a training run as one HTML page.

    RUN_DIR is the folder that the callback PruningSummaries wrote, or that of
    keras-swd demo. The page shows the metrics and the sparsity over the
    epochs, the magnitudes of each kernel, the size of each .keras and .tflite
    file in RUN_DIR, and all settings. It needs no network.
    """
    folder = check_folder(run_dir)
    path = out or str(folder / "report.html")
    check_output("--out", path, ".html")
    start()
    from keras_swd.run_report import write_page

    write_page(folder, path, timed)
    click.echo(f"Written to {path}.")


@main.command()
@click.argument("model")
@click.option(
    "--json", "json_path", metavar="FILE", help="Write the report as JSON."
)
@click.option(
    "--plot",
    "plot_path",
    metavar="FILE",
    help="Draw the report of a .keras file as .png.",
)
@one_line_errors
def inspect(model: str, json_path: str | None, plot_path: str | None) -> None:
    """Show how many weights of MODEL are zero, layer by layer.

    MODEL is a file that ends in .keras or .tflite. Of the latter it shows each
    tensor: its type and shape, how it is stored, and in how many bytes.
    """
    path = check_input(model, (".keras", ".tflite"))
    check_output("--json", json_path, source=path)
    check_output("--plot", plot_path, ".png")
    if plot_path is not None and path.suffix == ".tflite":
        raise ValueError("--plot: only .keras files can be drawn.")
    start()
    report: Any
    if path.suffix == ".tflite":
        from keras_swd.export import inspect_tflite

        report = inspect_tflite(path)
    else:
        from keras_swd import sparsity_report

        report = sparsity_report(load_model(path))
    click.echo(report.table(width()))
    if path.suffix == ".keras":
        from keras_swd.export.tflite.records import gzip_size

        content = path.read_bytes()
        click.echo(
            f"\nThe file has {len(content):,} bytes, {gzip_size(content):,} "
            "after gzip."
        )
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
    "--quantize",
    type=click.Choice(["float16", "dynamic", "int8", "int16x8"]),
    help="Store weights in fewer bits; int8 and int16x8 compute in integers "
    "and need --representative. Default: float32.",
)
@click.option(
    "--sparse",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Leave zeros out of the file? auto: if that makes it smaller.",
)
@click.option(
    "--representative",
    "samples",
    metavar="DATA.npz",
    help="Inputs as the model meets them in use, some hundred: one array, or "
    "one for each input under its name. The file is compared on some, too.",
)
@one_line_errors
def export(
    model: str,
    out: str,
    quantize: str | None,
    sparse: str,
    samples: str | None,
) -> None:
    """Write MODEL, a .keras file, as a TensorFlow Lite file.

    The file is run and compared with MODEL before it gets its name: where
    they disagree, there is no file. Without --representative they are compared
    on random inputs.
    """
    path = check_input(model, (".keras",))
    check_output("--out", out, ".tflite")
    data = None if samples is None else load_arrays(samples)
    start("tensorflow")
    from keras_swd.export import to_tflite

    wanted = "auto" if sparse == "auto" else sparse == "yes"
    loaded = load_model(path)
    try:
        report = to_tflite(
            loaded,
            out,
            quantization=quantize,
            sparse=wanted,
            representative_data=data,
        )
    except (RuntimeError, ValueError) as error:
        message = as_options(in_one_line(error))
        raise click.ClickException(f"{model}: {message}") from error
    click.echo(report.table())


@main.command()
@click.argument("model")
@click.option(
    "--target",
    type=click.Choice(["x86", "arm", "wasm", "microcontroller"]),
    default="x86",
    show_default=True,
    help="Where the TensorFlow Lite file will run.",
)
@click.option(
    "--quantize",
    type=click.Choice(["float16", "dynamic", "int8", "int16x8"]),
    help="The type of the file's weights. Default: float32.",
)
@click.option(
    "--json", "json_path", metavar="FILE", help="Write the report as JSON."
)
@one_line_errors
def explain(
    model: str, target: str, quantize: str | None, json_path: str | None
) -> None:
    """Say whether the zeros of MODEL make it faster, and what would.

    MODEL is a .keras file. Zeros save time only where the runtime has a kernel
    that skips them.
    """
    path = check_input(model, (".keras",))
    check_output("--json", json_path, source=path)
    start()
    from keras_swd.export import explain_speed

    report = explain_speed(load_model(path), target, quantize)
    click.echo(report.table(width()))
    if json_path is not None:
        report.to_json(json_path)


def width() -> int:
    """Characters of a table's line, on this terminal."""
    columns = shutil.get_terminal_size((NARROW, 24)).columns
    return min(max(columns, NARROW), WIDE)


def as_options(message: str) -> str:
    """A message about arguments as one about the options of `export`."""
    for argument, option in (
        ("`sparse=False`", "`--sparse no`"),
        ("`sparse=True`", "`--sparse yes`"),
        ("`representative_data`", "`--representative`"),
    ):
        message = message.replace(argument, option)
    return re.sub(r"`quantization='(\w+)'`", r"`--quantize \1`", message)


if __name__ == "__main__":
    main()
