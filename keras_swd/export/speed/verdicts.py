"""Will a pruned model be faster, where, and if not, why not?"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_swd.coupling.weights import kind_of
from keras_swd.export.speed.clusters import find_clusters, find_leaks
from keras_swd.export.speed.graph import follow
from keras_swd.export.speed.runtimes import (
    TARGETS,
    Finding,
    Placement,
    find_out,
    kernels,
)
from keras_swd.export.speed.sparse_operators import RULES, Obstacle
from keras_swd.export.tflite.modes import find_mode
from keras_swd.export.tflite.signature import check_is_keras, check_model
from keras_swd.record import WIDTH, Record, open_table, plain_lines, wrapped


@dataclasses.dataclass(frozen=True)
class LayerSpeed:
    """What zeros do to the time of one layer.

    Args:
        path: String, the names of the models around the layer and its own.
        type: String, the layer's class.
        size: Integer, number of entries of its kernels.
        zeros: Integer, how many of them are zero.
        verdict: String, `"faster"`, `"same"` or `"slower"`, of a file that
            stores zeros sparse against one that does not.
        reason: String, why.
        remedy: String or `None`, what would make it faster.
        source: String, where the runtime says so.
        measured: Tuple of two floats or `None`, the time of a sparse layer
            over that of a dense one, smallest and largest of the shapes that
            were measured at this share of zeros. Below 1 is faster.
    """

    path: str
    type: str
    size: int
    zeros: int
    verdict: str
    reason: str
    remedy: str | None
    source: str
    measured: tuple[float, float] | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of zeros, in [0, 1]; 0 where there are no entries."""
        return self.zeros / self.size if self.size else 0.0


@dataclasses.dataclass(frozen=True)
class SpeedReport(Record):
    """What zeros do to the time of a model. Printed, it is a table.

    Args:
        name: String, the model's name.
        target: String, `"x86"`, `"arm"`, `"wasm"` or `"microcontroller"`.
        quantization: String or `None`, the type of the file's weights.
        layers: Tuple of `LayerSpeed`, those with kernels.
        obstacles: Tuple of `Obstacle`, what keeps convolutions dense that
            could run sparse on this target, in the order of the graph.
        leaks: Tuple of strings, the layers whose results LiteRT 2.3 hands on
            in the wrong order on this target. If there are any, a sparse file
            does not load, or gives other numbers than the model; on x86 it
            works, so that no check there can tell.
    """

    name: str
    target: str
    quantization: str | None
    layers: tuple[LayerSpeed, ...]
    obstacles: tuple[Obstacle, ...] = ()
    leaks: tuple[str, ...] = ()

    @property
    def blocking(self) -> str | None:
        """The first layer that keeps convolutions dense, and why."""
        return str(self.obstacles[0]) if self.obstacles else None

    @property
    def verdict(self) -> str:
        """`"faster"`, `"same"` or `"slower"`: what holds for more weights."""
        faster = sum(s.size for s in self.layers if s.verdict == "faster")
        slower = sum(s.size for s in self.layers if s.verdict == "slower")
        if faster == slower:
            return "same"
        return "faster" if faster > slower else "slower"

    def to_dict(self) -> dict[str, Any]:
        """The report as a dictionary of plain Python values."""
        return {
            "verdict": self.verdict,
            "blocking": self.blocking,
            **dataclasses.asdict(self),
        }

    def table(self, width: int = WIDTH) -> str:
        """Returns the report as a table of plain text.

        Args:
            width: Integer, characters of the longest line. Defaults to `88`.

        Returns:
            String.
        """
        from rich.text import Text

        table = open_table()
        table.add_column("layer", overflow="fold")
        table.add_column("type", overflow="fold")
        for column in ("zeros", "verdict", "sparse / dense"):
            table.add_column(column, justify="right", no_wrap=True)
        for speed in self.layers:
            measured = "-"
            if speed.measured is not None:
                measured = "{:.2f} to {:.2f}".format(*speed.measured)
            row = (speed.path, speed.type, f"{speed.sparsity:.1%}")
            table.add_row(*map(Text, (*row, speed.verdict, measured)))
        lines = plain_lines(table, width)
        lines = [*wrapped(self._headline(), width), *lines]
        for note in self._notes():
            lines += wrapped(note, width)
        return "\n".join(lines)

    def _headline(self) -> str:
        stored = f" in {self.quantization}" if self.quantization else ""
        effect = f"make it {self.verdict}"
        if self.verdict == "same":
            effect = "do not change its time"
        return f"{self.name!r}{stored} on {self.target}: its zeros {effect}."

    def _notes(self) -> list[str]:
        """One paragraph for each reason, with the layers it holds for."""
        notes: dict[tuple[str, str], list[str]] = {}
        for speed in self.layers:
            why = f"{speed.reason} {speed.remedy or ''}".strip()
            note = (speed.verdict.capitalize(), f"{why} ({speed.source})")
            notes.setdefault(note, []).append(speed.path)
        for obstacle in self.obstacles:
            why = f"{obstacle.reason}. {obstacle.remedy} ({RULES})"
            notes.setdefault(("In the way", why), []).append(obstacle.path)
        lines = [
            f"{label}, {', '.join(paths)}: {why}"
            for (label, why), paths in notes.items()
        ]
        if self.leaks:
            lines.append(
                "WARNING: write it with `sparse=False`. On this target LiteRT "
                f"misreads the result of {', '.join(self.leaks)} in a sparse "
                "file, which then does not load or gives wrong numbers."
            )
        return lines


def explain_speed(
    model: keras.Model,
    target: str = "x86",
    quantization: str | None = None,
) -> SpeedReport:
    """Says whether the zeros of a model make it faster, and why (not).

    Zeros take as long as any other number, unless the runtime has a kernel
    that skips them for this layer, this type and this processor. The verdict
    compares two TFLite files of the model in LiteRT, stored sparse
    (`to_tflite(..., sparse=True)`) and dense, one sample at a time.

    Args:
        model: Built Keras model. In models with code of their own each layer
            is judged alone, since the graph cannot be followed.
        target: String, `"x86"` (a processor with AVX), `"arm"`, `"wasm"` or
            `"microcontroller"` (TensorFlow Lite Micro). Defaults to `"x86"`.
        quantization: `None` or string, as in `to_tflite`: the type of the
            weights in the file. Defaults to `None`, float32.

    Returns:
        `SpeedReport`; printed, it is a table.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it is not built, or another argument does not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(256)])
    >>> _ = model.layers[0].kernel.assign(keras.ops.eye(256))
    >>> report = explain_speed(model)
    >>> report.verdict, report.layers[0].zeros, report.layers[0].measured
    ('faster', 65280, (0.18, 0.52))
    >>> explain_speed(model, "microcontroller").verdict
    'same'
    """
    check_is_keras(model)
    check_model(model)
    _check_target(target)
    find_mode(quantization)
    graph = follow(model)
    clusters = None if graph is None else find_clusters(graph)
    placement = Placement(target, quantization, clusters)
    speeds = tuple(
        _speed(path, layer, find_out(layer, placement))
        for path, layer in _layers_with_kernels(model)
    )
    counting = placement.clusters_that_count()
    leaks = find_leaks(graph) if graph and placement.takes_clusters else []
    return SpeedReport(
        name=model.name,
        target=target,
        quantization=quantization,
        layers=speeds,
        obstacles=tuple(o for cluster in counting for o in cluster.obstacles),
        leaks=tuple(leaks),
    )


def hides_layers(model: Any) -> bool:
    """Whether the graph of a model does not tell all that it computes.

    Code of the user's own may call any layers, and tf_keras has other ones.

    Args:
        model: Built Keras or tf_keras model.
    """
    graph = follow(model) if isinstance(model, keras.Model) else None
    return graph is None or any(_hides(step.layer) for step in graph.steps)


def _hides(layer: Any) -> bool:
    """Whether a layer may compute what its class does not tell."""
    if isinstance(layer, (keras.layers.Lambda, keras.layers.Wrapper)):
        return True
    if not isinstance(layer, keras.layers.Activation):
        return not kind_of(layer)
    return not getattr(layer.activation, "__module__", "").startswith("keras.")


def _speed(path: str, layer: Any, finding: Finding) -> LayerSpeed:
    held = kernels(layer)
    return LayerSpeed(
        path=path,
        type=type(layer).__name__,
        size=sum(kernel.size for kernel in held),
        zeros=sum(int((kernel == 0).sum()) for kernel in held),
        verdict=finding.verdict,
        reason=finding.reason,
        remedy=finding.remedy,
        source=finding.source,
        measured=finding.measured,
    )


def _layers_with_kernels(model: Any) -> list[tuple[str, Any]]:
    """The innermost layers that hold kernels, each once, with their paths."""
    found: dict[int, tuple[str, Any]] = {}

    def walk(layer: Any, trail: str) -> None:
        # The public `layers` stops at layers that are no models and yet hold
        # others: wrappers, attention, recurrent cells.
        parts = layer._flatten_layers(include_self=False, recursive=False)
        inner = [part for part in parts if kernels(part)]
        for part in inner:
            walk(part, f"{trail}/{part.name}".strip("/"))
        if not inner and trail:
            found.setdefault(id(layer), (trail, layer))

    walk(model, "")
    return list(found.values())


def _check_target(target: Any) -> None:
    if target not in TARGETS:
        raise ValueError(
            f"Argument `target` must be one of {', '.join(map(repr, TARGETS))}."
            f" Received: target={target!r}."
        )
