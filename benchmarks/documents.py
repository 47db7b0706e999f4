"""Tables that the benchmarks write into the documents."""


def write_tables(document, bodies):
    """Puts each body between `<!-- its name -->` and the next `<!-- end -->`.

    Args:
        document: `pathlib.Path` of a Markdown file.
        bodies: Dictionary from names to Markdown. Names without a place in the
            document are left out.
    """
    text = document.read_text()
    for name, body in bodies.items():
        mark = f"<!-- {name} -->\n"
        if mark in text:
            head, rest = text.split(mark, 1)
            _, tail = rest.split("<!-- end -->", 1)
            text = f"{head}{mark}\n{body}\n\n<!-- end -->{tail}"
    unfinished = document.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.replace(document)


def markdown(head, rows):
    """A Markdown table of strings."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
