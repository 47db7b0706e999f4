"""The page of a run, part by part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from keras_swd.files import check_target, write_whole
from keras_swd.record import percentage
from keras_swd.run_report import charts
from keras_swd.run_report.contents import (
    ExportedFile,
    exported_files,
    tables,
)
from keras_swd.run_report.curves import Curve, curves, final
from keras_swd.run_report.markup import Element, element, page, section, table
from keras_swd.run_report.wording import number, signed
from keras_swd.summaries.history import FILE, RunRecord, read_record


def write_page(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    timed: bool = False,
) -> None:
    """Writes the page of a run.

    It shows what `PruningSummaries` wrote down, the sizes of the `.keras` and
    `.tflite` files beside, and tables: JSON files with a list `rows` of
    dictionaries.

    Args:
        folder: String or path, the `log_dir` of a `PruningSummaries`.
        path: String or path of the HTML file, written whole or not at all.
        timed: Boolean, also run the TFLite files to see how long they take?
            Defaults to `False`.

    Raises:
        ValueError: If the folder holds no record of a run, or `path` does not
            fit.
    """
    target = check_target(path)
    record = read_record(folder)
    files = exported_files(Path(folder), timed)
    rows = tables(Path(folder))
    title = f"Pruning run: {record.settings['model']}"
    content = page(
        title,
        _header(record),
        _tiles(record, files),
        _training(record),
        *_kernels(record),
        *_files(files, timed),
        *(_table(name, entries) for name, entries in rows.items()),
        _settings(record),
        _footer(record),
    )
    write_whole(target, content)


def _header(record: RunRecord) -> Element:
    settings = record.settings
    trained, wanted = record.epochs[-1].epoch + 1, settings["epochs"]
    of = "" if wanted is None else f" of {wanted}"
    state = f"{trained}{of} epochs"
    if record.end is None:
        state += ", the run did not end"
    names = dict.fromkeys(
        entry["regularizer"]["class_name"] for entry in settings["regularizers"]
    )
    return element(
        "header",
        element("h1", f"Pruning run: {settings['model']}"),
        element("div", " · ".join([*names, state]), class_="muted"),
    )


def _tiles(record: RunRecord, files: list[ExportedFile]) -> Element:
    shown = []
    logs = record.epochs[-1].logs
    if record.end is not None:
        total, prunable = record.end["total"], record.end["prunable"]
        shown += [
            (
                percentage(prunable["sparsity"]),
                "of the prunable weights are zero",
            ),
            (f"{total['nonzeros']:,}", f"of {total['size']:,} parameters left"),
        ]
    elif "sparsity" in logs:
        shown.append((number(logs["sparsity"], "sparsity"), "sparsity"))
    shown += [
        (number(value, name), f"{label}, last epoch")
        for name, label, value in final(logs)
    ]
    if "swd_residual" in logs:
        shown.append((number(logs["swd_residual"]), "residual, last epoch"))
    smallest = min(
        (file for file in files if file.name.endswith(".tflite")),
        key=lambda file: file.bytes,
        default=None,
    )
    if smallest is not None:
        shown.append((f"{smallest.bytes:,}", f"bytes, {smallest.name}"))
    tiles = [
        element(
            "div", element("b", value), element("span", label), class_="tile"
        )
        for value, label in shown
    ]
    return element("div", *tiles, class_="tiles")


def _training(record: RunRecord) -> Element:
    figures = [_curve(curve) for curve in curves(record.epochs)]
    return section("Over the epochs", element("div", *figures, class_="charts"))


def _curve(curve: Curve) -> Element:
    chart = charts.lines(
        curve.series, curve.first, curve.logarithmic, curve.percent
    )
    keys = [
        element(
            "span",
            element("i", style=f"background: var(--series-{1 + place % 4})"),
            name,
        )
        for place, name in enumerate(curve.series)
        if len(curve.series) > 1
    ]
    return element(
        "figure",
        element("h3", curve.title),
        element("p", *keys, class_="keys muted") if keys else None,
        chart,
        element("figcaption", curve.note) if curve.note else None,
    )


def _kernels(record: RunRecord) -> list[Element]:
    parts = []
    if record.end is not None:
        rows = [
            [
                kernel["path"],
                "×".join(map(str, kernel["shape"])),
                f"{kernel['size']:,}",
                f"{kernel['nonzeros']:,}",
                _bar(kernel["sparsity"]),
                kernel["skipped"] or "",
            ]
            for kernel in record.end["kernels"]
        ]
        columns = ["kernel", "shape", "parameters", "non-zero", "sparsity"]
        if any(row[-1] for row in rows):
            columns.append("not pruned")
        content = table(columns, [row[: len(columns)] for row in rows])
        parts.append(section("Kernels when the run ended", content))
    figures = [
        _kernel(record, place)
        for place in range(len(record.epochs[-1].kernels))
    ]
    if figures:
        parts.append(
            section(
                "Kernels over the epochs",
                element(
                    "p",
                    "Above, the share of a kernel that is removed or would be "
                    "now. Below, its magnitudes that are not zero: the darker "
                    "or brighter the blue, the more weights.",
                    class_="muted",
                ),
                element("div", *figures, class_="charts"),
            )
        )
    return parts


def _kernel(record: RunRecord, place: int) -> Element:
    last = record.epochs[-1].kernels[place]
    known = {
        epoch.epoch: epoch.kernels[place]
        for epoch in record.epochs
        if len(epoch.kernels) > place and epoch.kernels[place].path == last.path
    }
    first = min(known)
    states = [known.get(epoch) for epoch in range(first, max(known) + 1)]
    return element(
        "figure",
        element("h3", last.path),
        element(
            "div",
            f"{percentage(last.sparsity)} of {last.size:,}",
            class_="muted",
        ),
        charts.kernel(states, first),
    )


def _bar(sparsity: float) -> Element:
    width = f"width: {100 * sparsity:.1f}%"
    bar = element("span", element("i", style=width), class_="bar")
    return element("span", bar, percentage(sparsity))


def _files(files: list[ExportedFile], timed: bool) -> list[Element]:
    if not files:
        return []
    columns = ["file", "bytes", "after gzip"]
    rows = [[f.name, f"{f.bytes:,}", f"{f.gzip_bytes:,}"] for f in files]
    note = None
    if timed:
        columns.append("milliseconds")
        for row, file in zip(rows, files, strict=True):
            measured = file.seconds is not None
            row.append(f"{1e3 * (file.seconds or 0):.3g}" if measured else "–")
        failures = [file.failure for file in files if file.failure]
        note = " ".join(
            ["LiteRT on one thread of this machine, median.", *failures]
        )
    return [
        section(
            "Files",
            table(columns, rows),
            element("p", note, class_="muted") if note else None,
        )
    ]


def _table(name: str, rows: list[dict[str, Any]]) -> Element:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[number(row.get(c), c) for c in columns] for row in rows]
    return section(name, table([c.replace("_", " ") for c in columns], cells))


def _settings(record: RunRecord) -> Element:
    settings = record.settings
    scheduler = settings["scheduler"]
    shown = {
        "scheduler": "none" if scheduler is None else signed(scheduler),
        **{
            f"regularizer {place}" if place > 1 else "regularizer": (
                f"{signed(entry['regularizer'])} on "
                f"{', '.join(entry['kernels'])}"
            )
            for place, entry in enumerate(settings["regularizers"], 1)
        },
        "optimizer": signed(settings["optimizer"]),
        "steps per epoch": number(settings["steps_per_epoch"]),
        **{name: signed(value) for name, value in settings["given"].items()},
        "versions": ", ".join(
            f"{name} {version}"
            for name, version in settings["versions"].items()
        ),
    }
    entries = [
        part
        for name, text in shown.items()
        for part in (element("dt", name), element("dd", text))
    ]
    exact = json.dumps(settings, indent=2, ensure_ascii=False)
    return section(
        "Settings",
        element("dl", *entries),
        element(
            "details",
            element("summary", "All of them, as JSON"),
            element("pre", exact),
        ),
    )


def _footer(record: RunRecord) -> Element:
    version = record.settings["versions"]["keras_swd"]
    return element(
        "footer",
        f"Made by keras-swd report from {FILE} of keras_swd {version}.",
    )
