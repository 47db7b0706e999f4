"""How accurate are the methods on MNIST, at equal sparsity and epochs?

python benchmarks/compare.py --data-dir DIR

Runs what is missing of examples/compare_methods.py on two networks, cell by
cell, in benchmarks/cells/compare, and writes the tables and the pictures of
README.md and docs/compare.md from the cells of those seeds that have them all.
`--tables` runs nothing. `--processes 2` runs two cells at a time; on two cores,
set TF_NUM_INTRAOP_THREADS=1.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
from documents import add_json, markdown, write_tables

ROOT = pathlib.Path(__file__).parents[1]
CELLS = ROOT / "benchmarks" / "cells" / "compare"
EXAMPLE = ROOT / "examples" / "compare_methods.py"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "docs" / "compare.md",
    ROOT / "docs" / "methods" / "adaptive_sparsity.md",
]
METHODS = (
    "SWD",
    "SWD, global",
    "SWD, ramp",
    "SWD, strong ramp",
    "AdaptiveSparsity",
    "GReg1",
    "GReg2",
    "IrrelevantWeights",
    "Lobster",
    "gradual",
    "rewinding",
    "iterative",
    "one-shot, tuned",
    "one-shot",
    "tfmot",
)
#: Of each network: sparsities, methods, where the axis of its picture begins.
GRIDS = {
    "lenet5": ((0.9, 0.95, 0.98, 0.99), METHODS, 0.9),
    "lenet5-caffe": (
        (0.98, 0.99, 0.996),
        (
            "SWD",
            "SWD, ramp",
            "AdaptiveSparsity",
            "IrrelevantWeights",
            "gradual",
            "one-shot",
            "tfmot",
        ),
        0.94,
    ),
}
SEEDS = 3


def run(network, data_dir, processes):
    """Runs the cells that are missing."""
    sparsities, methods, _ = GRIDS[network]
    command = [sys.executable, str(EXAMPLE)]
    command += ["--data-dir", data_dir, "--network", network]
    command += ["--methods", "dense", *methods]
    command += ["--sparsities", *map(str, sparsities)]
    command += ["--seeds", str(SEEDS), "--processes", str(processes)]
    subprocess.run([*command, "--folder", str(CELLS / network)], check=True)


def read(network):
    """The cells of the seeds that have them all, as a comparison, or `None`."""
    from keras_swd.comparison.cells import Cell
    from keras_swd.comparison.result import Comparison

    sparsities, methods, _ = GRIDS[network]
    names = ("method", "sparsity", "seed", "numbers", "seconds", "warnings")
    found, settings = {}, {}
    for path in (CELLS / network).glob("*.json"):
        cell = json.loads(path.read_text())
        settings = cell["experiment"]["settings"]
        key = cell["method"], cell["sparsity"], cell["seed"]
        found[key] = Cell(**{name: cell[name] for name in names})
    wanted = [("dense", 0.0)] + [(m, s) for m in methods for s in sparsities]
    seeds = {seed for _, _, seed in found}
    whole = [s for s in sorted(seeds) if all((*w, s) in found for w in wanted)]
    cells = tuple(found[*w, seed] for w in wanted for seed in whole)
    return Comparison("accuracy", settings, cells) if cells else None


def table(network, comparison):
    """Mean and standard deviation in percent, by method and sparsity."""
    sparsities, methods, _ = GRIDS[network]
    rows = {(row.method, row.sparsity): row for row in comparison.rows}

    def told(method, sparsity):
        row = rows[method, sparsity]
        text = f"{100 * row.mean:.2f}"
        if row.deviation is not None:
            text += f" ± {100 * row.deviation:.2f}"
        best = max(rows[m, sparsity].mean for m in methods) if sparsity else 2.0
        return f"**{text}**" if row.mean == best else text

    body = [[m, *(told(m, s) for s in sparsities)] for m in methods]
    head = ["method", *(f"{100 * s:g} %" for s in sparsities)]
    seeds = rows["dense", 0.0].seeds
    return (
        f"{markdown(head, body)}\n\nWithout pruning: {told('dense', 0.0)}. "
        f"Seeds: {seeds}."
    )


def before_removal(comparison):
    """Zeros that Adaptive Sparsity has at the end of training."""
    found = {}
    for cell in comparison.cells:
        if cell.method == "AdaptiveSparsity":
            zeros = cell.numbers["sparsity before removal"]
            found.setdefault(cell.sparsity, []).append(zeros)
    rows = [["zeros, %", *(f"{100 * np.mean(z):.2f}" for z in found.values())]]
    return markdown(["target", *(f"{100 * s:g} %" for s in found)], rows)


def main():
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", help="where tfds keeps its data sets")
    parser.add_argument("--network", choices=GRIDS, help="only this one")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tables", action="store_true")
    add_json(parser)
    args = parser.parse_args()
    networks = [args.network] if args.network else list(GRIDS)
    for network in networks:
        if not args.tables:
            run(network, args.data_dir, args.processes)
        if comparison := read(network):
            *_, lowest = GRIDS[network]
            comparison.plot(CELLS / f"{network}.png", lowest)
    write(args.json)


def write(path=None):
    """Writes the tables of the documents from what was kept."""
    bodies = {}
    for network in GRIDS:
        if comparison := read(network):
            bodies[f"comparison {network}"] = table(network, comparison)
            bodies[f"adaptive {network}"] = before_removal(comparison)
    for document in DOCUMENTS:
        write_tables(document, bodies, path)


if __name__ == "__main__":
    main()
