"""Which parts of a graph XNNPACK can run with sparse kernels, and why not.

XNNPACK looks for clusters: operators that hand each other data ordered by
channels, from a convolution that reads an image to a mean over its pixels. A
cluster runs sparse if each of its operators fits and more than two thirds of
its 1×1 kernels are zero. The rules are those of `xnn_check_nchw_compatibility`
and `xnn_subgraph_rewrite_for_nchw` in XNNPACK's `src/subgraph.c`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_swd.export.speed.graph import Graph, Step, is_normalization
from keras_swd.export.speed.sparse_operators import (
    CONVOLUTIONS,
    END,
    NO_PADDING,
    START,
    Obstacle,
    Operator,
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Layers that XNNPACK runs sparse together, or not at all.

    Args:
        layers: Tuple of layers, in the order in which they run.
        pointwise: Tuple of those among them whose zeros XNNPACK can skip.
        obstacles: Tuple of `Obstacle`, in that order; none if it runs sparse.
    """

    layers: tuple[Any, ...]
    pointwise: tuple[Any, ...]
    obstacles: tuple[Obstacle, ...]


def find_clusters(graph: Graph[Step]) -> list[Cluster]:
    """Finds what could run sparse: all that leads to a mean over pixels.

    Args:
        graph: `Graph`.

    Returns:
        List of `Cluster`.

    Example:

    >>> from keras_swd.export.speed.graph import follow
    >>> conv = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="c")
    >>> mean = keras.layers.GlobalAveragePooling2D()
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), conv, mean])
    >>> print(find_clusters(follow(model))[0].obstacles[0])
    c: `padding='same'` with strides pads each image size in its own way
    """
    merged = _merge(graph)
    groups: list[set[int]] = []
    for end in (i for i, s in enumerate(merged.steps) if s.role == END):
        members = _upstream(merged.steps, end)
        for other in [group for group in groups if group & members]:
            groups.remove(other)
            members |= other
        groups.append(members)
    return [_cluster(merged, members) for members in groups]


def find_leaks(graph: Graph[Step]) -> list[str]:
    """Finds where a sparse file computes something else than the model.

    XNNPACK orders the data of a cluster by channels, and gives it back its
    usual order behind a mean over pixels alone. LiteRT 2.3 also runs clusters
    sparse that end elsewhere, and hands their data on as it is: the file gives
    other numbers, or does not load.

    Args:
        graph: `Graph`.

    Returns:
        List of strings: the layers whose results are handed on so.
    """
    merged = _merge(graph)
    steps = merged.steps
    if not any(step.role == END for step in steps):
        return []
    found = []
    for members in _components(steps):
        handed = _handed(steps, members)
        if _stays_dense(merged, members, handed):
            continue
        found += [
            steps[i].path
            for i in sorted(members)
            if (i in merged.outputs if i in handed else steps[i].role != END)
        ]
    return found


def _cluster(graph: Graph[Operator], members: set[int]) -> Cluster:
    steps = [graph.steps[i] for i in sorted(members)]
    return Cluster(
        tuple(s.layer for s in steps),
        tuple(s.layer for s in steps if s.pointwise_kernel is not None),
        tuple(_obstacles(graph, members) or _too_dense(steps)),
    )


def _merge(graph: Graph[Step]) -> Graph[Operator]:
    """The same graph without the steps that become part of another.

    The converter folds a normalization into the convolution before it, and
    XNNPACK merges padding with zeros into the convolution after it.
    """
    maker: dict[int | None, int | None] = {None: None}
    steps: list[Operator] = []
    for i, step in enumerate(graph.steps):
        if _folds(graph, i) or _pads(graph, i):
            maker[i] = maker[step.inputs[0]]
            continue
        maker[i] = len(steps)
        source = step.inputs[0]
        padding = NO_PADDING
        if source is not None and _pads(graph, source):
            padding = graph.steps[source].layer.padding
        steps.append(
            Operator(
                step.path,
                step.layer,
                tuple(maker[source] for source in step.inputs),
                step.shapes,
                padding,
            )
        )
    outputs = {maker[i] for i in graph.outputs}
    return Graph(tuple(steps), frozenset(i for i in outputs if i is not None))


def _folds(graph: Graph[Step], index: int) -> bool:
    before = graph.steps[index].inputs[0]
    if (
        not is_normalization(graph.steps[index].layer)
        or before is None
        or graph.only_consumer(before) != index
    ):
        return False
    layer = graph.steps[before].layer
    linear = keras.activations.linear
    return type(layer) in CONVOLUTIONS and layer.activation is linear


def _pads(graph: Graph[Step], index: int) -> bool:
    after = graph.only_consumer(index)
    return (
        type(graph.steps[index].layer) is keras.layers.ZeroPadding2D
        and after is not None
        and type(graph.steps[after].layer) in CONVOLUTIONS
        and graph.steps[after].layer.padding == "valid"
    )


def _upstream(steps: tuple[Operator, ...], end: int) -> set[int]:
    """All that leads to a step, from where the image is read."""
    members, waiting = set(), [end]
    while waiting:
        index = waiting.pop()
        if index in members:
            continue
        members.add(index)
        if not steps[index].reads_image:
            waiting += [i for i in steps[index].inputs if i is not None]
    return members


def _components(steps: tuple[Operator, ...]) -> list[set[int]]:
    """Fitting steps, each with those that make what it takes."""
    joined: dict[int | None, set[int]] = {}
    for i, step in enumerate(steps):
        if not step.fits:
            continue
        members = {i}
        # What reads the image takes it in its usual order.
        for source in () if step.role == START else step.inputs:
            members |= joined.get(source, set())
        joined |= dict.fromkeys(members, members)
    unique = {id(members): members for members in joined.values()}
    return list(unique.values())


def _handed(steps: tuple[Operator, ...], members: set[int]) -> set[int]:
    """The steps whose results the members take by channels."""
    return {
        source
        for i in members
        if not steps[i].reads_image
        for source in steps[i].inputs
        if source is not None
    }


def _stays_dense(
    graph: Graph[Operator], members: set[int], handed: set[int]
) -> bool:
    """Whether XNNPACK leaves a component alone."""
    unknown = any(
        None in graph.steps[i].inputs
        for i in members
        if graph.steps[i].role != START
    )
    beside = any(set(graph.consumers(i)) - members for i in handed)
    return (
        unknown
        or beside
        or not handed <= members
        or bool(_too_dense([graph.steps[i] for i in sorted(members)]))
    )


def _obstacles(graph: Graph[Operator], members: set[int]) -> list[Obstacle]:
    """What does not fit among the members, and beside or behind them."""
    handed = _handed(graph.steps, members)
    found = []
    for i, step in enumerate(graph.steps):
        if i not in members:
            if handed.intersection(step.inputs):
                found.append(_beside(step))
            elif step.fits and members.intersection(step.inputs):
                found.append(_behind(step))
            continue
        if isinstance(step.role, Obstacle):
            found.append(step.role)
        elif not step.reads_image and None in step.inputs:
            found.append(_no_start(step))
        if i in handed and i in graph.outputs:
            found.append(_is_output(step))
    return found


def _too_dense(steps: list[Operator]) -> list[Obstacle]:
    """Why a cluster in which all fits stays dense, if it does."""
    kernels = [(step, step.pointwise_kernel) for step in steps]
    counted = [(s, kernel) for s, kernel in kernels if kernel is not None]
    size = sum(kernel.size for _, kernel in counted)
    zeros = size - sum(int(np.count_nonzero(k)) for _, k in counted)
    if 3 * zeros > 2 * size:
        return []
    if not size:
        reason = "from here to the mean there is no 1×1 convolution"
        remedy = "Shrink the model: other convolutions have no sparse kernel."
        return [steps[0].refuse(reason, remedy)]
    return [
        counted[0][0].refuse(
            f"{zeros / size:.1%} of all 1×1 kernels from here on are zero, "
            "and more than 2/3 must be",
            "Prune the 1×1 convolutions further.",
        )
    ]


def _no_start(step: Operator) -> Obstacle:
    return step.refuse(
        "before it there is no 3×3 convolution with stride 2 on 3 channels",
        "Start the model with one.",
    )


def _beside(step: Operator) -> Obstacle:
    return step.refuse(
        "it takes data of the sparse part, and lies outside of it",
        "Let it lead to the mean, or take the result of the mean.",
    )


def _behind(step: Operator) -> Obstacle:
    return step.refuse(
        "it takes the mean as an image, which LiteRT 2.3 cannot run sparse",
        "Flatten the mean, and use Dense.",
    )


def _is_output(step: Operator) -> Obstacle:
    return step.refuse(
        "its result is also an output of the model",
        "Return what comes after the mean only.",
    )
