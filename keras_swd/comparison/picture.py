"""A comparison as a picture."""

import itertools

from keras_swd.figures import new_figure, png

#: Shapes of the points, so that lines differ without colors too.
MARKERS = "osD^vP*X<>hp"


def draw(metric: str, rows, lowest: float | None) -> bytes:
    """Returns the PNG of a comparison.

    Args:
        metric: String, the name of the upright axis.
        rows: `ComparisonRow`s, at least one.
        lowest: Float, where the upright axis begins, or `None`.

    Returns:
        Bytes.
    """
    from matplotlib import color_sequences

    figure = new_figure(8.0, 5.0)
    axes = figure.subplots()
    methods = list(dict.fromkeys(row.method for row in rows))
    colors = [*color_sequences["tab10"], *color_sequences["Dark2"]]
    for method, color, marker in zip(
        methods, itertools.cycle(colors), itertools.cycle(MARKERS)
    ):
        own = [row for row in rows if row.method == method]
        style = {"color": color, "label": method, "linewidth": 1.3}
        if own[0].sparsity == 0.0:
            _draw_level(axes, own[0], style)
        else:
            _draw_line(axes, own, style | {"marker": marker})
    _label_sparsities(axes, sorted({r.sparsity for r in rows if r.sparsity}))
    axes.set_ylabel(metric, parse_math=False)
    highest = max(row.mean + (row.deviation or 0.0) for row in rows)
    if lowest is not None and lowest < highest:
        axes.set_ylim(lowest, highest + 0.05 * (highest - lowest))
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(
        loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return png(figure)


def _draw_level(axes, row, style) -> None:
    """A line across, with its deviation as a band."""
    axes.axhline(row.mean, linestyle="--", **style)
    if row.deviation:
        low, high = row.mean - row.deviation, row.mean + row.deviation
        axes.axhspan(low, high, color=style["color"], alpha=0.12, linewidth=0)


def _draw_line(axes, rows, style) -> None:
    """A line through a method's means, with its deviations as bars."""
    axes.errorbar(
        [1.0 - row.sparsity for row in rows],
        [row.mean for row in rows],
        [row.deviation or 0.0 for row in rows],
        markersize=4.5,
        capsize=3.0,
        elinewidth=1.0,
        **style,
    )


def _label_sparsities(axes, sparsities) -> None:
    """Marks the sparsities on an axis of the share left, falling."""
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xlabel("sparsity of the prunable weights, in percent")
    if not sparsities:
        axes.set_xticks([])
        return
    labels = [f"{100 * s:.6g}" for s in sparsities]
    left = [1.0 - s for s in sparsities]
    axes.set_xlim(1.15 * left[0], left[-1] / 1.15)
    axes.set_xscale("log")
    axes.set_xticks(left, labels)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
