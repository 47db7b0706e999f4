"""The tables of the documents are those that the benchmarks write."""

import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
pytestmark = pytest.mark.tensorflow


def written(name, monkeypatch):
    """What a benchmark would write: documents, and tables by their names."""
    if not FOLDER.is_dir():
        pytest.skip("the benchmarks are not part of this checkout")
    monkeypatch.syspath_prepend(FOLDER)
    import documents

    found = []
    monkeypatch.setattr(
        documents,
        "write_tables",
        lambda document, bodies: found.append((document, bodies)),
    )
    path = FOLDER / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write()
    return found


def shown(document):
    """The tables in a document, by their names."""
    tables = re.findall(
        r"^<!-- (.+?) -->\n\n(.*?)\n\n<!-- end -->",
        document.read_text(),
        re.MULTILINE | re.DOTALL,
    )
    return dict(tables)


@pytest.mark.parametrize(
    "name",
    [
        "cifar10",
        "compare",
        "export",
        "graphs",
        "overhead",
        "ramps",
        "schedules",
        "shrink",
        "shrink_applications",
    ],
)
def test_documents_show_what_the_cells_hold(name, monkeypatch):
    compared = 0
    for document, bodies in written(name, monkeypatch):
        there = shown(document)
        for mark in there.keys() & bodies.keys():
            assert there[mark] == bodies[mark], (document.name, mark)
            compared += 1
    assert compared
