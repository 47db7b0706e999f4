"""How accurate are the methods on MNIST, at equal sparsity and epochs?

python benchmarks/compare.py --data-dir DIR

Runs what is missing of examples/compare_methods.py on two networks, cell by
cell, in benchmarks/cells/compare, and writes the tables and the pictures of
README.md and docs/compare.md from the cells. `--tables` runs nothing.
`--processes 2` runs two cells at a time; on two cores, set
TF_NUM_INTRAOP_THREADS=1. A method gets a row when it has all seeds at every
sparsity.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
from documents import markdown, write_tables

ROOT = pathlib.Path(__file__).parents[1]
CELLS = ROOT / "benchmarks" / "cells" / "compare"
EXAMPLE = ROOT / "examples" / "compare_methods.py"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "docs" / "compare.md",
    ROOT / "docs" / "methods" / "adaptive_sparsity.md",
]
#: Sparsities of each network, and where the axis of its picture begins.
GRIDS = {
    "lenet5": ((0.9, 0.95, 0.98, 0.99), 0.9),
    "lenet5-caffe": ((0.98, 0.99, 0.996), 0.94),
}
METHODS = (
    "SWD",
    "SWD, global",
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
SEEDS = 3


def run(network, data_dir, processes):
    """Runs the cells that are missing."""
    sparsities, _ = GRIDS[network]
    command = [sys.executable, str(EXAMPLE)]
    command += ["--data-dir", data_dir, "--network", network]
    command += ["--sparsities", *map(str, sparsities)]
    command += ["--seeds", str(SEEDS), "--processes", str(processes)]
    subprocess.run([*command, "--folder", str(CELLS / network)], check=True)


def read(network):
    """The finished cells, as a comparison."""
    from keras_swd.comparison.cells import Cell
    from keras_swd.comparison.result import Comparison

    places = {method: place for place, method in enumerate(("dense", *METHODS))}
    found = [
        json.loads(p.read_text()) for p in (CELLS / network).glob("*.json")
    ]
    found.sort(key=lambda cell: (places[cell["method"]], cell["seed"]))
    settings = found[0]["experiment"]["settings"] if found else {}
    names = ("method", "sparsity", "seed", "numbers", "seconds", "warnings")
    cells = [Cell(**{name: cell[name] for name in names}) for cell in found]
    return Comparison("accuracy", settings, tuple(cells))


def table(network, comparison):
    """Mean and standard deviation in percent, by method and sparsity."""
    sparsities, _ = GRIDS[network]
    rows = {(row.method, row.sparsity): row for row in comparison.rows}

    def told(method, sparsity):
        row = rows[method, sparsity]
        mean, deviation = 100 * row.mean, 100 * (row.deviation or 0.0)
        best = max(rows[m, sparsity].mean for m in complete)
        text = f"{mean:.2f} ± {deviation:.2f}"
        return f"**{text}**" if row.mean == best and sparsity else text

    def finished(method):
        found = [rows.get((method, sparsity)) for sparsity in sparsities]
        return all(row and row.seeds == SEEDS for row in found)

    complete = [method for method in METHODS if finished(method)]
    body = [[m, *(told(m, s) for s in sparsities)] for m in complete]
    head = ["method", *(f"{100 * s:g} %" for s in sparsities)]
    dense = rows["dense", 0.0]
    note = (
        f"Without pruning: {100 * dense.mean:.2f} ± "
        f"{100 * (dense.deviation or 0.0):.2f}."
    )
    return f"{markdown(head, body)}\n\n{note}"


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
    args = parser.parse_args()
    bodies = {}
    for network in [args.network] if args.network else GRIDS:
        if not args.tables:
            run(network, args.data_dir, args.processes)
        comparison = read(network)
        bodies[f"comparison {network}"] = table(network, comparison)
        bodies[f"adaptive {network}"] = before_removal(comparison)
        _, lowest = GRIDS[network]
        comparison.plot(CELLS / f"{network}.png", lowest)
    for document in DOCUMENTS:
        write_tables(document, bodies)


if __name__ == "__main__":
    main()
