"""A Spektral data set from the eight pieces of a Planetoid graph.

This module imports Spektral and SciPy, and is itself imported on demand.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from spektral.data import Dataset, Graph
from spektral.datasets.utils import DATASET_FOLDER

#: Where Spektral keeps the files of citation graphs, a folder for each.
FOLDER = Path(DATASET_FOLDER, "Citation")
#: Nodes of the public split that validate, right after those that train.
VALIDATION_NODES = 500


class PlanetoidDataset(Dataset):
    """A Spektral data set of one graph, with the masks of a split.

    Args:
        name: String, the name of the data.
        graph: `spektral.data.Graph` of `n` nodes.
        mask_tr: Boolean array of shape `(n,)`, the nodes that train.
        mask_va: Boolean array of shape `(n,)`, those that validate.
        mask_te: Boolean array of shape `(n,)`, those that test.

    Example:

    >>> graph = Graph(x=np.eye(2), a=csr_matrix((2, 2)), y=np.eye(2))
    >>> first = np.array([True, False])
    >>> dataset = PlanetoidDataset("own", graph, first, ~first, ~first)
    >>> dataset.n_nodes, dataset[0].y[dataset.mask_tr]
    (2, array([[1., 0.]]))
    """

    def __init__(
        self,
        name: str,
        graph: Graph,
        mask_tr: np.ndarray,
        mask_va: np.ndarray,
        mask_te: np.ndarray,
    ) -> None:
        self.name = name
        self.mask_tr = mask_tr
        self.mask_va = mask_va
        self.mask_te = mask_te
        self._graph = graph
        super().__init__()

    def read(self) -> list[Graph]:
        """The one graph, in a list."""
        return [self._graph]


def build_dataset(
    pieces: Mapping[str, Any], name: str, normalize: bool
) -> PlanetoidDataset:
    """Puts the pieces of a Planetoid graph together.

    Args:
        pieces: Mapping from `"x"`, `"tx"`, `"allx"` to sparse matrices of
            features, from `"y"`, `"ty"`, `"ally"` to arrays of labels, from
            `"graph"` to a dictionary from nodes to lists of neighbours, and
            from `"test.index"` to an array of nodes.
        name: String, the name of the data.
        normalize: Boolean, whether each node's features are divided by their
            sum.

    Returns:
        `PlanetoidDataset`.

    Raises:
        ValueError: If the pieces are none of a Planetoid graph, or do not fit
            one another.
    """
    _check_tables(pieces)
    known = pieces["allx"].shape[0]
    test = _test_nodes(pieces["test.index"], known, pieces["tx"].shape[0])
    nodes = int(test.max(initial=known - 1)) + 1
    a = _adjacency(pieces["graph"], nodes)
    # The rows of `tx` and `ty` are in the order of `test.index`. A node that
    # is in neither table keeps its place, with zeros: Citeseer has 15.
    x = np.zeros((nodes, pieces["allx"].shape[1]), "float32")
    x[:known] = pieces["allx"].toarray()
    x[test] = pieces["tx"].toarray()
    y = np.zeros((nodes, pieces["ally"].shape[1]), "float32")
    y[:known] = pieces["ally"]
    y[test] = pieces["ty"]
    trained = pieces["y"].shape[0]
    validated = np.arange(trained, min(trained + VALIDATION_NODES, known))
    return PlanetoidDataset(
        name,
        Graph(x=_normalized(x) if normalize else x, a=a, y=y),
        mask_tr=_mask(np.arange(trained), nodes),
        mask_va=_mask(validated, nodes),
        mask_te=_mask(test, nodes),
    )


def _check_tables(pieces: Mapping[str, Any]) -> None:
    """Checks that the tables are of the right kinds, and as large as needed."""
    for features, labels in (("x", "y"), ("tx", "ty"), ("allx", "ally")):
        _check_kinds(pieces, features, labels)
        _check_equal(pieces, features, labels, axis=0)
        _check_equal(pieces, features, "allx", axis=1)
        _check_equal(pieces, labels, "ally", axis=1)
    if pieces["y"].shape[0] > pieces["ally"].shape[0]:
        raise ValueError(
            "The nodes of `x` must be the first of `allx`. Received: "
            f"{pieces['x'].shape[0]} and {pieces['allx'].shape[0]} nodes."
        )


def _check_kinds(pieces: Mapping[str, Any], features: str, labels: str) -> None:
    table, answers = pieces[features], pieces[labels]
    if not isinstance(table, csr_matrix):
        raise ValueError(
            f"Piece `{features}` must hold a `scipy.sparse.csr_matrix`. "
            f"Received: {type(table).__name__}."
        )
    if not isinstance(answers, np.ndarray) or answers.ndim != 2:
        raise ValueError(
            f"Piece `{labels}` must hold a NumPy array of two axes. "
            f"Received: {type(answers).__name__}."
        )
    if not np.isin(answers, (0, 1)).all() or (answers.sum(axis=1) > 1).any():
        raise ValueError(
            f"Piece `{labels}` must hold one-hot rows: a 1 at the node's class "
            "and zeros elsewhere."
        )


def _check_equal(
    pieces: Mapping[str, Any], first: str, second: str, axis: int
) -> None:
    shapes = pieces[first].shape, pieces[second].shape
    if shapes[0][axis] != shapes[1][axis]:
        raise ValueError(
            f"Pieces `{first}` and `{second}` must have the same number of "
            f"{('rows', 'columns')[axis]}. "
            f"Received: shapes {shapes[0]} and {shapes[1]}."
        )


def _test_nodes(index: np.ndarray, known: int, count: int) -> np.ndarray:
    """Returns the nodes that test, or raises a `ValueError`."""
    if len(index) != count or len(np.unique(index)) != count:
        raise ValueError(
            "Piece `test.index` must name one node per row of `tx`, each once. "
            f"Received: {len(np.unique(index))} nodes for {count} rows."
        )
    if count and index.min() < known:
        raise ValueError(
            f"Piece `test.index` must name nodes after the {known} of `allx`. "
            f"Received: {index.min()}."
        )
    return index


def _adjacency(graph: Any, nodes: int) -> csr_matrix:
    """Returns the symmetric adjacency, ones and zeros, without loops."""
    named = _named_nodes(graph)
    if len(named) != nodes or any(not 0 <= node < nodes for node in named):
        raise ValueError(
            f"Piece `graph` must name each node from 0 to {nodes - 1}, the "
            f"last of `allx` and `test.index`. Received: {len(named)} nodes, "
            f"{min(named, default=None)} to {max(named, default=None)}."
        )
    edges = np.array(
        [(node, other) for node, others in graph.items() for other in others],
        "int64",
    ).reshape(-1, 2)
    edges = edges[edges[:, 0] != edges[:, 1]]
    source, target = np.concatenate([edges, edges[:, ::-1]]).T
    ones = np.ones(len(source), "float32")
    adjacency = csr_matrix((ones, (source, target)), shape=(nodes, nodes))
    # An edge that is listed twice, or at both of its ends, counts once.
    adjacency.sum_duplicates()
    adjacency.data[:] = 1.0
    return adjacency


def _named_nodes(graph: Any) -> set[int]:
    """Returns the nodes of a dictionary from nodes to lists of nodes."""
    if not isinstance(graph, dict) or not all(
        type(others) is list for others in graph.values()
    ):
        raise ValueError(
            "Piece `graph` must hold a dictionary from nodes to lists of "
            f"their neighbours. Received: {type(graph).__name__}."
        )
    named = set(graph).union(*graph.values())
    if any(type(node) is not int for node in named):
        raise ValueError("Piece `graph` must name its nodes by integers.")
    return named


def _normalized(x: np.ndarray) -> np.ndarray:
    """Divides each row by its sum; a row of zeros stays."""
    total = x.sum(axis=1, keepdims=True)
    return np.divide(x, total, out=np.zeros_like(x), where=total != 0)


def _mask(members: np.ndarray, nodes: int) -> np.ndarray:
    mask = np.zeros(nodes, bool)
    mask[members] = True
    return mask
