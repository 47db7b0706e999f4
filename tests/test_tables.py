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
        lambda document, bodies, path=None: found.append((document, bodies)),
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


#: The benchmarks, and the tables of the documents that each writes.
TABLES = {
    "blocks": 1,
    "cifar10": 1,
    "compare": 6,
    "export": 18,
    "graphs": 8,
    "micro": 1,
    "overhead": 2,
    "ramps": 1,
    "schedules": 6,
    "shrink": 2,
    "shrink_applications": 1,
    "spektral_layers": 1,
}


@pytest.mark.parametrize("name", TABLES)
def test_documents_show_what_the_cells_hold(name, monkeypatch):
    compared = 0
    for document, bodies in written(name, monkeypatch):
        there = shown(document)
        for mark in there.keys() & bodies.keys():
            assert there[mark] == bodies[mark], (document.name, mark)
            compared += 1
    assert compared == TABLES[name]


def test_every_table_that_is_written_is_compared():
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert sum(len(shown(d)) for d in documents) == sum(TABLES.values())
