"""Tables that the benchmarks write into the documents."""

import json
import pathlib


def add_json(parser):
    """Adds the argument `--json` to a parser."""
    parser.add_argument(
        "--json", metavar="FILE", help="write the tables here, too"
    )


def write_tables(document, bodies, path=None):
    """Puts each body between `<!-- its name -->` and the next `<!-- end -->`.

    Args:
        document: `pathlib.Path` of a Markdown file.
        bodies: Dictionary from names to Markdown. Names without a place in the
            document are left out.
        path: String, a JSON file that gets the rows of each table, and other
            text as it is, or `None`.
    """
    text = document.read_text()
    for name, body in bodies.items():
        mark = f"<!-- {name} -->\n"
        if mark in text:
            head, rest = text.split(mark, 1)
            _, tail = rest.split("<!-- end -->", 1)
            text = f"{head}{mark}\n{body}\n\n<!-- end -->{tail}"
    write_whole(document, text)
    if path is not None:
        tables = {name: rows(body) or body for name, body in bodies.items()}
        write_json(path, tables)


def write_json(path, content):
    """Writes what was found as JSON, whole or not at all."""
    write_whole(pathlib.Path(path), json.dumps(content, indent=1) + "\n")


def write_whole(path, text):
    """Writes a file, whole or not at all."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.replace(path)


def markdown(head, rows):
    """A Markdown table of strings."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def rows(body):
    """The rows of a Markdown table, each a dictionary by column."""
    lines = [
        line.strip()[1:-1].split("|")
        for line in body.splitlines()
        if line.startswith("|")
    ]
    cells = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]
