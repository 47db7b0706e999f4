"""Figures without matplotlib's global state."""

import io
from typing import Any

#: Characters of a path beside an axis.
LABEL = 44


def new_figure(width: float, height: float, layout: Any = "constrained"):
    """Returns a figure to draw in.

    Args:
        width: Float, in inches.
        height: Float, in inches.
        layout: What `matplotlib.figure.Figure` takes as `layout`. Defaults to
            `"constrained"`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout=layout)


def png(figure) -> bytes:
    """Returns a figure as the content of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def short(path: str) -> str:
    """Returns the end of a kernel's path that fits beside an axis."""
    return path if len(path) <= LABEL else f"…{path[1 - LABEL :]}"
