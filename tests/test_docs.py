"""The documentation: complete, with links, code and quotations that hold."""

import ast
import importlib
import importlib.util
import inspect
import pathlib
import re

import griffe
import keras
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from markdown.extensions.toc import slugify

import keras_swd_cli
from keras_swd.graphs import layers

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
if not DOCS.is_dir():
    pytest.skip(
        "the documentation is not part of this checkout",
        allow_module_level=True,
    )
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
#: What the site takes from the root of the repository.
FROM_ROOT = {"changelog.md", "contributing.md", "models.md"}
#: The task of the demo, on which a page shows what it is about.
DEMO = {"keras_swd.demo.training"} | {
    f"keras_swd.demo.training.{name}" for name in ("digits", "fit", "network")
}

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)
NAME = re.compile(r"\bkeras_swd(?:\.\w+)+")


def public_names(module):
    """The names that a package's `__init__.py` passes on as its own."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    return {
        alias.asname
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }


PUBLIC = {
    "keras_swd": public_names("keras_swd") | {"__version__"},
    "keras_swd.export": public_names("keras_swd.export"),
    "keras_swd.graphs": public_names("keras_swd.graphs"),
    "keras_swd.graphs.layers": {"adapted", *layers.NAMES},
}


def find(name):
    """The public module and the name in it that a dotted name begins with."""
    module, *rest = "keras_swd", *name.split(".")[1:]
    while rest and f"{module}.{rest[0]}" in PUBLIC:
        module = f"{module}.{rest.pop(0)}"
    return module, rest[0] if rest else None


def is_public(name):
    module, member = find(name)
    return member is None or member in PUBLIC[module] or name in DEMO


def exists(name):
    if name.startswith("keras_swd"):
        return is_public(name)
    thing = keras
    for member in name.split(".")[1:]:
        thing = getattr(thing, member, None)
    return thing is not None


def text_of(page):
    """A page without its blocks of code."""
    return FENCE.sub("", page.read_text())


def blocks(page, language):
    return [
        code
        for kind, code in FENCE.findall(page.read_text())
        if kind == language
    ]


def anchors(page):
    """What a link may name after `#`."""
    plain = [re.sub(r"[`*]", "", h) for h in HEADING.findall(text_of(page))]
    return {
        *(slugify(heading, "-") for heading in plain),
        *DIRECTIVE.findall(page.read_text()),
    }


def each(pages):
    names = [str(page.relative_to(ROOT)) for page in pages]
    return pytest.mark.parametrize("page", pages, ids=names)


def test_every_page_is_in_the_navigation_once():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    found = []

    def collect(part):
        if isinstance(part, str):
            found.append(part)
            return
        for child in part.values() if isinstance(part, dict) else part:
            collect(child)

    collect(site["nav"])
    assert sorted(found) == sorted(
        {str(page.relative_to(DOCS)) for page in PAGES} | FROM_ROOT
    )


def test_the_reference_has_every_public_name_once():
    shown = [
        name
        for page in sorted((DOCS / "reference").glob("*.md"))
        for name in DIRECTIVE.findall(page.read_text())
    ]
    assert len(shown) == len(set(shown))
    # A module of the same name stands where this function is exported.
    shown = {name.replace("graphs.gcn.gcn", "graphs.gcn") for name in shown}
    expected = {
        f"{module}.{name}"
        for module in ("keras_swd", "keras_swd.export", "keras_swd.graphs")
        for name in PUBLIC[module] - {"__version__", "export", "graphs"}
    }
    assert expected - shown == set()
    graphs = (DOCS / "reference/graphs.md").read_text()
    assert [name for name in layers.NAMES if f"`{name}`" not in graphs] == []


@each(TEXTS)
def test_local_links_lead_somewhere(page):
    for link in LINK.findall(text_of(page)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each(TEXTS)
def test_names_of_ours_are_public(page):
    text = DIRECTIVE.sub("", page.read_text())
    assert [name for name in NAME.findall(text) if not is_public(name)] == []


@each([page for page in TEXTS if blocks(page, "python")])
def test_code_compiles_and_calls_what_there_is(page):
    known = {"keras": "keras", "keras_swd": "keras_swd"}
    for code in blocks(page, "python"):
        compile(code, str(page), "exec")
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (
                (node.module or "").partition(".")[0] == "keras_swd"
            ):
                for alias in node.names:
                    known[alias.asname or alias.name] = (
                        f"{node.module}.{alias.name}"
                    )
        for node in ast.walk(tree):
            if isinstance(node, (ast.Attribute, ast.Name)):
                name = dotted(node, known)
                assert name is None or exists(name), name
            if isinstance(node, ast.Call):
                check_keywords(node, dotted(node.func, known))


def dotted(node, known):
    """The full name of what an expression names, if it is known."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, known)
        return None if owner is None else f"{owner}.{node.attr}"
    return None


def check_keywords(call, name):
    if name is None or not name.startswith("keras_swd"):
        return
    module, member = find(name)
    # Layers of Spektral have the arguments that they have there.
    if name != f"{module}.{member}" or member in layers.NAMES:
        return
    called = getattr(importlib.import_module(module), member)
    if inspect.isclass(called):
        called = called.__init__
    accepted = inspect.signature(called).parameters
    for keyword in call.keywords:
        assert keyword.arg in accepted, f"{name}({keyword.arg}=...)"


def written(node):
    """The text of an expression, with … where a value is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    if isinstance(node, ast.FormattedValue):
        return "…"
    return str(node.value) if isinstance(node, ast.Constant) else ""


@pytest.fixture(scope="module")
def messages():
    """Each text in the code of the package, docstrings left out."""
    found = []
    for path in (ROOT / "keras_swd").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        alone = {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
        found += [written(node) for node in nodes if id(node) not in alone]
    return found


def test_messages_that_are_quoted_are_ours(messages):
    text = (DOCS / "errors.md").read_text()
    quoted = re.findall(r"^> (.+)$", text, re.MULTILINE)
    assert len(quoted) > 40
    assert len(quoted) == len(set(quoted))
    unknown = [q for q in quoted if not any(q in text for text in messages)]
    assert unknown == []


def test_the_help_of_each_command_is_shown():
    text = (DOCS / "reference/command_line.md").read_text()
    shown = dict(
        re.findall(
            r"^```text\n\$ (keras-swd[a-z ]*) --help\n(.*?)^```",
            text,
            re.MULTILINE | re.DOTALL,
        )
    )
    runner = CliRunner(env={"COLUMNS": "80"})
    expected = {}
    for command in ("", *keras_swd_cli.main.commands):
        result = runner.invoke(
            keras_swd_cli.main,
            [*command.split(), "--help"],
            prog_name="keras-swd",
        )
        expected[f"keras-swd {command}".strip()] = result.output
    assert shown == expected


@pytest.fixture(scope="module")
def keras_docstrings():
    """The module that reads docstrings for the site."""
    path = DOCS / "keras_docstrings.py"
    spec = importlib.util.spec_from_file_location("keras_docstrings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sections_that_keras_does_not_indent_are_indented(keras_docstrings):
    text = (
        "Adds.\n\nArgs:\n    x: A number.\n\n        y = 1\n\nReference:\n\n"
        "- A book,\n  1999.\n\nExample:\n\n>>> print('a\\n  b')\na\n  b"
    )
    assert keras_docstrings.as_google(text) == (
        "Adds.\n\nArgs:\n    x: A number.\n\n        y = 1\n\nReference:\n"
        "    - A book,\n      1999.\n\nExamples:\n    >>> print('a\\n  b')\n"
        "    a\n      b"
    )


def test_indented_sections_stay_as_they_are(keras_docstrings):
    text = "Adds.\n\nReference:\n    A book, 1999."
    assert keras_docstrings.as_google(text) == text
    assert keras_docstrings.as_google("No sections.") == "No sections."


def test_docstrings_of_public_names_have_their_sections(keras_docstrings):
    kinds = {
        "Args": "parameters",
        "Returns": "returns",
        "Raises": "raises",
        "Example": "examples",
        "Reference": "admonition",
    }
    package = griffe.load(
        "keras_swd",
        search_paths=[ROOT],
        extensions=griffe.Extensions(keras_docstrings.KerasDocstrings()),
    )
    checked = 0
    for page in (DOCS / "reference").glob("*.md"):
        for name in DIRECTIVE.findall(page.read_text()):
            thing = package[name.removeprefix("keras_swd.")]
            thing = thing.final_target if thing.is_alias else thing
            written = thing.docstring.value
            sections = thing.docstring.parse("google", warnings=False)
            found = {section.kind.value for section in sections}
            for title, kind in kinds.items():
                if re.search(rf"^{title}s?:$", written, re.MULTILINE):
                    assert kind in found, (name, title)
                    checked += 1
            prose = "\n".join(
                s.value for s in sections if s.kind.value == "text"
            )
            assert not re.search(r"^>>> |^\w+:$", prose, re.MULTILINE), name
    assert checked > 150


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_ten_lines_of_the_readme_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 28, 28, 1)).astype("float32")
    names = {"x": x, "y": random.integers(10, size=len(x))}
    code = blocks(ROOT / "README.md", "python")[0]
    exec(compile(code, "README.md", "exec"), names)
    assert names["model"].metrics_names == ["loss", "compile_metrics"]
    assert "95.00%" in capsys.readouterr().out
    assert (tmp_path / "model.tflite").stat().st_size > 0


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_quickstart_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(DOCS / "index.md", "python"))
    names = {}
    exec(compile(code, "index.md", "exec"), names)
    model, data = names["sparse"], (names["x_test"], names["y_test"])
    assert model.evaluate(*data, verbose=0)[1] > 0.94
    assert (
        "all kernels                        74,656      3,733     95.00%"
        in (capsys.readouterr().out)
    )
    assert {path.name for path in tmp_path.iterdir()} == {
        "sparse.keras",
        "sparse.tflite",
    }


def test_the_map_of_the_package_is_whole():
    text = (DOCS / "design.md").read_text()
    rows = re.findall(r"^\| (`.+`) \|", text, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w/]+)`", row)]
    package = pathlib.Path(importlib.import_module("keras_swd").__file__).parent
    there = [
        f"{path.name}/" if path.is_dir() else path.stem
        for path in package.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    assert sorted([*named, "__init__"]) == sorted(there)
