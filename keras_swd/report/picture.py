"""A sparsity report as a picture."""

import math

import numpy as np

from keras_swd.figures import new_figure, png, short
from keras_swd.report.magnitudes import HIGHEST, LOWEST, PER_DECADE


def draw(report) -> bytes:
    """Returns the PNG of a `SparsityReport`.

    Args:
        report: `SparsityReport` with at least one kernel.

    Returns:
        Bytes.
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    kernels = report.kernels
    counted = [k.magnitudes is not None for k in kernels]
    height = min(1.6 + 0.45 * len(kernels), 300.0)
    layout = ConstrainedLayoutEngine(wspace=0.06)
    figure = new_figure(10.0, height, layout)
    panels = figure.subplots(1, 1 + any(counted), sharey=True, squeeze=False)[0]
    share = report.prunable.percentage
    kind = "prunable" if any(k.prunable for k in kernels) else "kernel"
    title = f"{report.name}: {share} of the {kind} weights are zero"
    figure.suptitle(title, parse_math=False)
    _draw_sparsity(panels[0], kernels)
    if any(counted):
        _draw_magnitudes(panels[1], kernels)
    panels[0].set_ylim(len(kernels) - 0.4, -0.6)
    return png(figure)


def _draw_sparsity(axes, kernels) -> None:
    rows = range(len(kernels))
    axes.barh(rows, [100.0] * len(kernels), height=0.6, color="#e8edf0")
    shares = [100.0 * k.sparsity for k in kernels]
    axes.barh(rows, shares, height=0.6, color="#2b7a9b")
    for row, kernel in enumerate(kernels):
        inside = kernel.sparsity > 0.5
        axes.text(
            shares[row] + (-1.5 if inside else 1.5),
            row,
            kernel.percentage,
            ha="right" if inside else "left",
            va="center",
            color="white" if inside else "#333333",
            fontsize=9,
        )
    labels = [short(kernel.path) for kernel in kernels]
    axes.set_yticks(rows, labels, fontsize=9, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("sparsity: share of zeros, in percent")
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_magnitudes(axes, kernels) -> None:
    """One hill per kernel, each as high as its row."""
    counts = np.array(
        [k.magnitudes or [0] * PER_DECADE * (HIGHEST - LOWEST) for k in kernels]
    )
    edges = np.linspace(LOWEST, HIGHEST, counts.shape[1] + 1)
    for row, count in enumerate(counts):
        top = max(count.max(), 1)
        axes.stairs(
            row + 0.3 - 0.75 * count / top,
            edges,
            baseline=row + 0.3,
            fill=True,
            color="#d9822b",
        )
        axes.axhline(row + 0.3, color="#c8c8c8", linewidth=0.6, zorder=0)
    used = np.flatnonzero(counts.sum(axis=0))
    low, high = (edges[used[0]], edges[used[-1] + 1]) if used.size else (-4, 0)
    ticks = range(math.floor(low), math.ceil(high) + 1)
    axes.set_xticks(
        ticks[:: 1 + len(ticks) // 9],
        [f"$10^{{{tick}}}$" for tick in ticks[:: 1 + len(ticks) // 9]],
    )
    axes.set_xlim(min(low, ticks[0] + 0.9), max(high, ticks[-1] - 0.9))
    axes.set_xlabel("magnitude of the weights that are not zero")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
