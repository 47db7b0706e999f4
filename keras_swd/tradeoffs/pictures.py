"""Sensitivities and fronts as pictures."""

from keras_swd.figures import new_figure, png, short


def draw_sensitivity(report) -> bytes:
    """Returns the PNG of a `Sensitivity`.

    Args:
        report: `Sensitivity` with at least one kernel.

    Returns:
        Bytes.
    """
    rows, columns = len(report.kernels), len(report.sparsities)
    lost = [
        [max(value, 0.0) for value in report.lost(k)] for k in report.kernels
    ]
    targets = report.targets
    height = min(1.4 + 0.38 * rows, 300.0)
    figure = new_figure(4.6 + 0.8 * columns, height)
    axes = figure.subplots()
    # From `within` to ten times as much, all that matters has a shade.
    top = max(10.0 * report.within, 1e-9)
    axes.imshow(lost, cmap="YlOrBr", aspect="auto", vmin=0.0, vmax=top)
    for row, kernel in enumerate(report.kernels):
        values = kernel.metrics[report.metric]
        for column, value in enumerate(values):
            dark = lost[row][column] > 0.6 * top
            axes.text(
                column,
                row,
                f"{value:.4f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "#333333",
            )
        if targets[kernel.path] in report.sparsities:
            column = report.sparsities.index(targets[kernel.path])
            _frame(axes, row, column)
    labels = [short(kernel.path) for kernel in report.kernels]
    axes.set_yticks(range(rows), labels, fontsize=9, parse_math=False)
    shares = [f"{100 * s:g}" for s in report.sparsities]
    axes.set_xticks(range(columns), shares)
    axes.tick_params(length=0)
    axes.set_xlabel("zeros of the kernel, in percent")
    axes.spines[:].set_visible(False)
    before = report.before[report.metric]
    axes.set_title(
        f"{report.metric} of {report.name} ({before:.4f} with all weights)",
        fontsize=10,
        parse_math=False,
    )
    return png(figure)


def draw_front(front) -> bytes:
    """Returns the PNG of a `ParetoFront`.

    Args:
        front: `ParetoFront` with at least one point.

    Returns:
        Bytes.
    """
    points = sorted(front.points, key=lambda point: point.bytes)
    sizes = [point.bytes / 1024 for point in points]
    values = [point.value for point in points]
    figure = new_figure(7.0, 4.4)
    axes = figure.subplots()
    # From each size on, its metric is to be had.
    axes.step(sizes, values, where="post", color="#2b7a9b", linewidth=1.3)
    axes.plot(sizes, values, "o", color="#2b7a9b", markersize=5)
    for point, size in zip(points, sizes, strict=True):
        axes.annotate(
            f"{100 * point.sparsity:.3g}% zeros, epoch {point.epoch}",
            (size, point.value),
            xytext=(5, -11),
            textcoords="offset points",
            fontsize=7,
            color="#555555",
        )
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel(f"predicted size of the {front.file}, in KiB")
    axes.set_ylabel(f"{front.metric} if removed", parse_math=False)
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return png(figure)


def _frame(axes, row: int, column: int) -> None:
    """Draws a frame around a field."""
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (column - 0.48, row - 0.46),
            0.96,
            0.92,
            fill=False,
            edgecolor="#2b7a9b",
            linewidth=1.8,
        )
    )
