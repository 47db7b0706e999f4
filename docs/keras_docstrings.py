"""Lets mkdocstrings read docstrings written as Keras writes them."""

import re
import textwrap

import griffe

#: What Keras does not indent, each with its title in Google's style.
FLUSH = {"Example": "Examples", "Reference": "Reference"}
TITLE = re.compile(
    r"^(Args|Returns|Raises|Yields|Example|Reference):$", re.MULTILINE
)


class KerasDocstrings(griffe.Extension):
    """Hands docstrings on in the form that Google's style asks for."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrites the docstring of one object, if it has one."""
        if obj.docstring is not None:
            obj.docstring.value = as_google(obj.docstring.value)


def as_google(text: str) -> str:
    r"""Returns a docstring whose examples and references are indented.

    Args:
        text: String, the docstring without its common indentation.

    Returns:
        String.

    Example:

    >>> as_google("Adds.\n\nExample:\n\n>>> 1 + 1\n2")
    'Adds.\n\nExamples:\n    >>> 1 + 1\n    2'
    """
    head, *rest = TITLE.split(text)
    sections = [head.rstrip()]
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        if title in FLUSH:
            title = FLUSH[title]
            body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        sections.append(f"{title}:\n" + body.strip("\n"))
    return "\n\n".join(sections)
