"""Can every model of keras.applications be shrunk, and by how much?

python benchmarks/shrink_applications.py

Measures the models that are missing in benchmarks/cells/shrink, each a small
JSON file, and writes the table of docs/shrink.md from all of them. `--tables`
only writes the table; `--only NAME` measures one model again. Each model has
random weights; of every group of channels that may go, 40 percent are set to
zero at random, with all that makes them.
"""

import argparse
import json
import os
import pathlib
import resource
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import documents
import keras
import numpy as np

from keras_swd.coupling import find_coupling
from keras_swd.shrinking import shrink
from keras_swd.shrinking.verifying import verify

ROOT = pathlib.Path(__file__).parents[1]
CELLS = pathlib.Path(__file__).parent / "cells" / "shrink"
DOCUMENT = ROOT / "docs" / "shrink.md"
#: Pixels along each side: the smallest that all models take is 75.
SIZE = 96
SHARE = 0.4


def names():
    """The models of keras.applications, as that module lists them."""
    return sorted(
        name
        for name, value in vars(keras.applications).items()
        if name[0].isupper() and callable(value)
    )


def build(name, random):
    from masks import randomize, settle

    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(SIZE, SIZE, 3),
        classifier_activation=None,
    )
    randomize(model, random)
    settle(model, images(random))
    return model


def images(random):
    """Two images, scaled as some of the models expect them."""
    return 128.0 * random.normal(size=(2, SIZE, SIZE, 3)).astype("float32")


def measure(name):
    """Shrinks one model; returns what the table tells of it."""
    from masks import mask_channels

    random = np.random.default_rng(0)
    model = build(name, random)
    groups = find_coupling(model).groups
    masked = mask_channels(model, SHARE, random)
    start = time.perf_counter()
    cell = {
        "model": name,
        "parameters": model.count_params(),
        "channels": sum(group.size for group in groups),
        "free": sum(group.size for group in groups if not group.kept),
        "masked": masked,
        "kept": sorted({_kind(r) for group in groups for r in group.kept}),
        "depends": dependence(model),
    }
    try:
        small = shrink(model)
    except ValueError as error:
        return cell | {"refused": str(error)}
    return cell | {
        "seconds": time.perf_counter() - start,
        "left": small.count_params(),
        "cut": cell["channels"]
        - sum(group.size for group in find_coupling(small).groups),
        "difference": verify(model, small),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def dependence(model):
    """How far outputs for two random inputs differ: 0 would hide mistakes."""
    x = images(np.random.default_rng(1))
    y = keras.ops.convert_to_numpy(model(x, training=False))
    return float(np.abs(y[0] - y[1]).max() / np.abs(y).max())


def _kind(reason):
    """A reason without the name of the layer: its class, or the words."""
    return reason.split("(")[1].split(")")[0] if "(" in reason else reason


def table(cells):
    lines = [
        "| model | parameters | channels that may go | cut | parameters left "
        "| largest difference | seconds | stay whole |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells:
        whole = set(cell["kept"]) - {
            "input of the model",
            "output of the model",
        }
        row = [
            cell["model"],
            f"{cell['parameters'] / 1e6:.1f} M",
            f"{cell['free'] / cell['channels']:.1%}",
        ]
        if "refused" in cell:
            row += [f"refused: {cell['refused']}", "", "", ""]
        else:
            row += [
                f"{cell['cut'] / cell['channels']:.1%}",
                f"{cell['left'] / cell['parameters']:.1%}",
                f"{cell['difference']:.1e}",
                f"{cell['seconds']:.0f}",
            ]
        row.append(", ".join(sorted(whole)))
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def write(path=None):
    cells = [json.loads(p.read_text()) for p in sorted(CELLS.glob("*.json"))]
    documents.write_tables(DOCUMENT, {"applications": table(cells)}, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--only", metavar="NAME", choices=names())
    documents.add_json(parser)
    args = parser.parse_args()
    # The tests kill channels in the same way.
    sys.path.append(str(ROOT / "tests"))
    CELLS.mkdir(parents=True, exist_ok=True)
    for name in [] if args.tables else [args.only] if args.only else names():
        path = CELLS / f"{name}.json"
        if args.only or not path.exists():
            documents.write_json(path, measure(name))
            print(name, flush=True)
            keras.backend.clear_session()
    write(args.json)


if __name__ == "__main__":
    main()
