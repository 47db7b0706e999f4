"""Which of the logged numbers belong into one chart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from keras_swd.run_report.wording import is_share
from keras_swd.summaries.history import Epoch

VALIDATION, REMOVED = "val_", "_if_removed"
#: What `PruningScheduler` logs: a title, and what it is.
PRUNING = {
    "swd_residual": (
        "Residual",
        "Share of the squared norm that is left in weights to be removed.",
    ),
    "sparsity": ("Sparsity", "Share of the prunable weights to be removed."),
    "swd_strength": ("Strength of the decay", ""),
    "swd_threshold": (
        "Threshold",
        "Largest magnitude, or score, of a unit to be removed.",
    ),
}
#: Numbers that range over more than this are drawn on a logarithmic scale.
RANGE = 100.0
PENALTY = "With the penalty, which grows during the run."


@dataclasses.dataclass(frozen=True)
class Curve:
    """One chart.

    Args:
        title: String.
        note: String, what is shown.
        first: Integer, the first epoch.
        series: Dictionary from a name to a number, or `None`, for each epoch.
        logarithmic: Boolean, its scale.
        percent: Boolean, does it show shares?
    """

    title: str
    note: str
    first: int
    series: dict[str, list[float | None]]
    logarithmic: bool
    percent: bool


def base_name(name: str) -> str:
    """Returns the name of a metric, whatever it was measured on.

    Example:

    >>> base_name("val_accuracy"), base_name("accuracy_if_removed")
    ('accuracy', 'accuracy')
    """
    return name.removeprefix(VALIDATION).removesuffix(REMOVED)


def curves(epochs: Sequence[Epoch]) -> list[Curve]:
    """Returns the charts of a run: metrics, the loss, pruning, and others.

    Args:
        epochs: `Epoch`s, at least one.

    Returns:
        List of `Curve`.
    """
    names = dict.fromkeys(name for epoch in epochs for name in epoch.logs)
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(base_name(name), []).append(name)
    order = sorted(groups, key=_rank)
    return [_curve(base, groups[base], epochs) for base in order]


def final(
    logs: dict[str, float | None],
) -> list[tuple[str, str, float | None]]:
    """Returns the numbers that tell how good a model is.

    Args:
        logs: Dictionary, those of the last epoch.

    Returns:
        List of name, label and number: of the metrics, those that were
        measured on other data, or with the selected weights removed; where
        there are none, those on the data of training.

    Example:

    >>> final({"loss": 0.1, "accuracy": 1.0})
    [('accuracy', 'training accuracy', 1.0)]
    """
    metrics = [name for name in logs if _rank(base_name(name)) == 0]
    better = [name for name in metrics if name != base_name(name)]
    return [
        (name, name if better else f"training {name}", logs[name])
        for name in better or metrics
    ]


def _rank(base: str) -> int:
    """Where a chart stands."""
    if base == "loss":
        return 1
    if base in PRUNING:
        return 2 + list(PRUNING).index(base)
    # Callbacks, and methods of pruning, log these.
    other = base in ("learning_rate", "irrelevance") or base.startswith("asl_")
    return 9 if other else 0


def _curve(base: str, names: list[str], epochs: Sequence[Epoch]) -> Curve:
    logs = {epoch.epoch: epoch.logs for epoch in epochs}
    first, last = epochs[0].epoch, epochs[-1].epoch
    nothing = -1.0 if base == "swd_threshold" else None  # is selected
    found = {
        name: [logs.get(e, {}).get(name) for e in range(first, last + 1)]
        for name in names
    }
    series = {
        name: [None if value == nothing else value for value in values]
        for name, values in found.items()
    }
    values = [v for each in series.values() for v in each if v is not None]
    positive = [v for v in values if v > 0.0]
    percent = is_share(base) and all(0.0 <= v <= 1.0 for v in values)
    # A logarithmic scale has no place for what is below zero.
    wide = min(values, default=-1.0) >= 0.0 and bool(positive)
    wide = wide and max(positive) > RANGE * min(positive)
    penalty = base == "loss" and "swd_strength" in epochs[-1].logs
    title, note = PRUNING.get(
        base,
        (base.replace("_", " ").capitalize(), PENALTY if penalty else ""),
    )
    return Curve(title, note, first, series, wide and not percent, percent)
