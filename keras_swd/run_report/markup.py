"""Elements of a page: text in them is escaped when they are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from xml.etree import ElementTree

Element = ElementTree.Element


def element(
    kind: str, *children: str | Element | None, **attributes: str
) -> Element:
    """Returns an element of HTML.

    Args:
        kind: String, its tag.
        *children: Strings, elements, or `None` for nothing.
        **attributes: Strings; `class_` stands for `class`.

    Example:

    >>> made = element("p", "a < b", element("b", "!"), class_="note")
    >>> ElementTree.tostring(made, "unicode", method="html")
    '<p class="note">a &lt; b<b>!</b></p>'
    """
    made = Element(kind, {k.rstrip("_"): v for k, v in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif child is not None and last is None:
            made.text = (made.text or "") + child
        elif child is not None and last is not None:
            last.tail = (last.tail or "") + child
    return made


def section(title: str, *children: str | Element | None) -> Element:
    """Returns a part of the page under a heading."""
    return element("section", element("h2", title), *children)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Element]]
) -> Element:
    """Returns a table; the first column is text, the others are numbers."""
    head = element("tr", *(element("th", c, scope="col") for c in columns))
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    ]
    content = element("table", element("thead", head), element("tbody", *body))
    return element("div", content, class_="table")


def page(title: str, *children: Element) -> bytes:
    """Returns a whole page, its style included.

    Args:
        title: String.
        *children: Elements of its body.

    Returns:
        Bytes of an HTML file.
    """
    style = resources.files("keras_swd.run_report") / "style.css"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element(
            "meta",
            name="viewport",
            content="width=device-width, initial-scale=1",
        ),
        element("title", title),
        element("style", style.read_text("utf-8")),
    )
    body = element("body", element("main", *children))
    root = element("html", head, body, lang="en")
    text = ElementTree.tostring(root, "unicode", method="html")
    # A lone surrogate in a name has no bytes.
    return f"<!DOCTYPE html>\n{text}\n".encode("utf-8", "replace")
