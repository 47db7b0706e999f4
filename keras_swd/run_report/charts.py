"""Charts of a run as inline SVG, in the colors of the page.

matplotlib draws them; what it colors with the placeholders below gets its
color from the page, so that one chart serves light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

import numpy as np

from keras_swd.report.magnitudes import LOWEST, PER_DECADE
from keras_swd.run_report.markup import Element
from keras_swd.summaries.history import KernelState

INK, LINE = "#010203", "#040506"
SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004")
#: What a placeholder becomes.
COLORS = {INK: "var(--muted)", LINE: "var(--line)"} | {
    color: f"var(--series-{place})" for place, color in enumerate(SERIES, 1)
}
#: Of the magnitudes, between the two blues of `style.css`.
BLUE = (0.24, 0.54, 0.82)
#: Shares that differ by less are drawn on the scale of all shares.
LEVEL = 1e-3
#: Inches; the page shows a chart in about 350 pixels.
WIDTH, HEIGHT = 3.7, 2.0
LEFT, RIGHT, TOP, BOTTOM = 0.56, 0.12, 0.08, 0.42


def lines(
    series: Mapping[str, Sequence[float | None]],
    first: int,
    logarithmic: bool,
    percent: bool,
) -> Element:
    """Draws numbers over epochs.

    Args:
        series: Dictionary from a name to a number for each epoch, `None` where
            there is none; four at most differ in their color.
        first: Integer, the first epoch.
        logarithmic: Boolean, the scale; zeros are then not drawn.
        percent: Boolean, are they shares?

    Returns:
        An `svg` element.
    """
    figure, (axes,) = _figure(HEIGHT, [1])
    for place, values in enumerate(series.values()):
        heights = np.array(values, "float64")
        if logarithmic:
            heights[heights <= 0] = np.nan
        axes.plot(
            first + 1 + np.arange(len(heights)),
            heights,
            color=SERIES[place % len(SERIES)],
            linewidth=1.6,
            marker="o" if np.isfinite(heights).sum() < 2 else None,
            markersize=3,
        )
    if logarithmic:
        _logarithmic(axes)
    elif percent:
        _percent(axes)
    else:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    _epochs(axes, first, len(next(iter(series.values()))))
    return _svg(figure)


def kernel(states: Sequence[KernelState | None], first: int) -> Element:
    """Draws the sparsity of a kernel, and its magnitudes, over epochs.

    Args:
        states: `KernelState`s, one for each epoch; `None` where there is none.
        first: Integer, the first epoch.

    Returns:
        An `svg` element.
    """
    figure, (top, bottom) = _figure(2.75, [1, 2.4])
    epochs = first + 1 + np.arange(len(states))
    known = [state for state in states if state is not None]
    shares = [np.nan if state is None else state.sparsity for state in states]
    marker = "o" if len(known) < 2 else None
    top.plot(epochs, shares, color=SERIES[0], marker=marker, markersize=3)
    _percent(top)
    top.set_ylim(-0.05, 1.05)
    top.set_yticks([0.0, 0.5, 1.0])
    _epochs(top, first, len(states))
    top.tick_params(labelbottom=False)
    top.set_xlabel("")
    low = min((s.first for s in known if s.counts), default=0)
    high = max((s.first + len(s.counts) for s in known if s.counts), default=1)
    counts = np.zeros((high - low, len(states)))
    for column, state in enumerate(states):
        if state is not None and state.counts:
            start = state.first - low
            counts[start : start + len(state.counts), column] = state.counts
    shade = np.empty((*counts.shape, 4))
    shade[..., :3] = BLUE
    # The root lets a few weights be seen beside many.
    shade[..., 3] = np.sqrt(counts / max(counts.max(), 1.0))
    sides = (first + 0.5, first + len(states) + 0.5)
    bottom.imshow(
        shade,
        origin="lower",
        aspect="auto",
        interpolation="none",
        extent=(*sides, LOWEST + low / PER_DECADE, LOWEST + high / PER_DECADE),
    )
    _decades(bottom)
    _epochs(bottom, first, len(states))
    return _svg(figure)


def _figure(height: float, heights: Sequence[float]):
    """A figure without matplotlib's global state, and its axes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height))
    FigureCanvasSVG(figure)
    # All labels are short, and finding out how short takes a while.
    figure.subplots_adjust(
        left=LEFT / WIDTH,
        right=1.0 - RIGHT / WIDTH,
        bottom=BOTTOM / height,
        top=1.0 - TOP / height,
    )
    rows = figure.subplots(
        len(heights), 1, height_ratios=heights, squeeze=False
    )[:, 0]
    for axes in rows:
        axes.grid(color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.patch.set_visible(False)
        axes.tick_params(
            colors=INK, labelcolor=INK, labelsize=8, length=0, which="both"
        )
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(LINE)
    figure.patch.set_visible(False)
    return figure, rows


def _epochs(axes, first: int, count: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(first + 0.5, first + count + 0.5)
    axes.xaxis.set_major_locator(
        MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )
    axes.set_xlabel("epoch", color=INK, fontsize=8)


def _percent(axes) -> None:
    """Labels an axis of shares; what hardly changes is drawn as level."""
    from matplotlib.ticker import PercentFormatter

    low, high = axes.dataLim.intervaly
    if high - low < LEVEL:
        axes.set_ylim(-0.05, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _logarithmic(axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")


def _decades(axes) -> None:
    """Labels an axis of decimal logarithms with the numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_formatter(lambda value, _: f"{10.0**value:.2g}")


def _svg(figure) -> Element:
    """A figure as an element that can stand in a page."""
    import matplotlib

    content = io.BytesIO()
    nothing = dict.fromkeys(["Date", "Creator", "Format", "Type"])
    # Text stays text.
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.canvas.print_svg(content, metadata=nothing)
    root = ElementTree.fromstring(content.getvalue())
    for part in root.iter():
        part.tag = _plain(part.tag)
        for name in list(part.attrib):
            value = re.sub(
                "|".join(COLORS),
                lambda m: COLORS[m[0]],
                part.attrib.pop(name),
            )
            part.set(_plain(name), value)
    for part in list(root.iter("defs")):
        for style in part.findall("style"):
            part.remove(style)  # it would be the whole page's
    _keep_used_names(root)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    return root


def _plain(name: str) -> str:
    """A name without its namespace, as HTML has it."""
    return name.rpartition("}")[2]


def _keep_used_names(root: Element) -> None:
    """Drops names to which nothing refers: they are alike in all charts."""
    text = ElementTree.tostring(root, "unicode")
    used = set(re.findall(r"#([\w-]+)", text))
    for part in root.iter():
        if part.get("id") not in used:
            part.attrib.pop("id", None)
