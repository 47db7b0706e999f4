"""Citation graphs from the files of Planetoid: Cora, Citeseer and PubMed.

Eight files make a graph, `ind.<name>.` and one of `PIECES` each. Seven of them
are pickles, so nothing is unpickled whose checksum is not the one expected.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_swd.files import write_whole
from keras_swd.graphs.checksums import check_content, known_checksums
from keras_swd.graphs.unpickling import unpickle

if TYPE_CHECKING:
    from spektral.data import Dataset

#: What the files of a graph hold: features and labels of the nodes that train,
#: of those that test and of all but these; edges; the nodes that test.
PIECES = ("x", "y", "tx", "ty", "allx", "ally", "graph", "test.index")
#: The public graphs.
NAMES = ("cora", "citeseer", "pubmed")
#: Where Spektral, too, gets the files.
URL = "https://github.com/tkipf/gcn/raw/master/gcn/data/{file}"


def load_cora(
    path: str | os.PathLike[str] | None = None, normalize: bool = True
) -> Dataset:
    """Loads Cora: 2708 papers, the words in them and who cites whom.

    The same as `load_planetoid("cora", path, normalize)`.

    Args:
        path: String or path of the folder that holds the eight files
            `ind.cora.*`. Defaults to `None`: the folder where Spektral keeps
            them; what is missing there is downloaded.
        normalize: Boolean, whether each paper's features are divided by their
            sum, as Kipf and Welling do for their GCN. Defaults to `True`.

    Returns:
        `spektral.data.Dataset` as `load_planetoid` describes it, of 2708
        nodes, 1433 features, 5278 edges and 7 classes; 140 nodes train, 500
        validate and 1000 test.

    Raises:
        FileNotFoundError: If `path` lacks one of the files.
        ConnectionError: If a file cannot be downloaded.
        ValueError: If a file is not the public one; it is not unpickled then.
        ImportError: If Spektral is missing.

    Example:

    ```python
    dataset = keras_swd.graphs.load_cora()
    graph = dataset[0]  # x (2708, 1433), a (2708, 2708), y (2708, 7)
    tested = graph.y[dataset.mask_te]  # (1000, 7)
    ```
    """
    return load_planetoid("cora", path, normalize)


def load_planetoid(
    name: str,
    path: str | os.PathLike[str] | None = None,
    normalize: bool = True,
) -> Dataset:
    """Loads Cora, Citeseer or PubMed with the public split.

    Each file must be the public one: its checksum is compared before it is
    unpickled, and the unpickling admits only what these files need. The result
    equals that of `spektral.datasets.Citation`, which needs a SciPy before
    1.14; this works with later ones too.

    Args:
        name: String, `"cora"`, `"citeseer"` or `"pubmed"`.
        path: String or path of the folder that holds the eight files
            `ind.<name>.*`. Defaults to `None`: the folder where Spektral keeps
            them; what is missing there is downloaded.
        normalize: Boolean, whether each node's features are divided by their
            sum, as Kipf and Welling do for their GCN. Defaults to `True`.

    Returns:
        `spektral.data.Dataset` of one graph with `n` nodes: `x`, float32
        array of shape `(n, features)`; `a`, float32 `scipy.sparse.csr_matrix`
        of shape `(n, n)`, symmetric, 1 where an edge is, without loops; `y`,
        float32 array of shape `(n, classes)`, one-hot. Its attributes
        `mask_tr`, `mask_va` and `mask_te`, boolean arrays of shape `(n,)`,
        mark the nodes that train, validate and test. The 15 nodes of Citeseer
        that the files leave out have zero rows in `x` and `y` and no mask.

    Raises:
        FileNotFoundError: If `path` lacks one of the files.
        ConnectionError: If a file cannot be downloaded.
        ValueError: If `name` is unknown, or a file is not the public one; it
            is not unpickled then.
        ImportError: If Spektral is missing.

    Reference:

    - Yang et al., "Revisiting Semi-Supervised Learning with Graph Embeddings",
      2016; Kipf and Welling, "Semi-Supervised Classification with Graph
      Convolutional Networks", 2017.

    Example:

    >>> load_planetoid("karate")
    Traceback (most recent call last):
    ...
    ValueError: Argument `name` must be 'cora', 'citeseer' or 'pubmed'. ...
    """
    if name not in NAMES:
        raise ValueError(
            "Argument `name` must be 'cora', 'citeseer' or 'pubmed'. "
            f"Received: name={name!r}. For files of your own, use "
            "`read_planetoid`."
        )
    checksums = known_checksums()
    folder = _downloaded(name, checksums) if path is None else path
    return read_planetoid(folder, name, checksums, normalize)


def read_planetoid(
    folder: str | os.PathLike[str],
    name: str,
    checksums: Mapping[str, str],
    normalize: bool = True,
) -> Dataset:
    """Reads a graph from files of the Planetoid form.

    Args:
        folder: String or path of the folder that holds the eight files
            `ind.<name>.*`.
        name: String, the name that the files carry.
        checksums: Mapping from the name of each file, as `"ind.cora.x"`, to
            `"sha256:"` and its SHA-256, or `"git:"` and the id that git gives
            it, in hexadecimal digits. It says which files you trust.
        normalize: Boolean, whether each node's features are divided by their
            sum. Defaults to `True`.

    Returns:
        `spektral.data.Dataset` as `load_planetoid` describes it. As many nodes
        train as `y` has rows; the next 500 of `allx`, or all that are left,
        validate.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If a file has no checksum or another one, names what
            Planetoid files do not need, or does not fit the others.
        ImportError: If Spektral is missing.

    Example:

    >>> read_planetoid("nowhere", "own", {})
    Traceback (most recent call last):
    ...
    FileNotFoundError: Folder 'nowhere' must hold ...; 'ind.own.x' is missing.
    """
    contents = _checked_contents(Path(folder), name, checksums)
    return _dataset().build_dataset(
        {
            piece: _nodes(content, _file(name, piece))
            if piece == "test.index"
            else unpickle(content, _file(name, piece))
            for piece, content in contents.items()
        },
        name,
        normalize,
    )


def _file(name: str, piece: str) -> str:
    return f"ind.{name}.{piece}"


def _checked_contents(
    folder: Path, name: str, checksums: Mapping[str, str]
) -> dict[str, bytes]:
    """Reads every file, and only then returns them: all or none is used."""
    contents = {}
    for piece in PIECES:
        path = folder / _file(name, piece)
        if not path.is_file():
            raise FileNotFoundError(
                f"Folder {str(folder)!r} must hold the eight files "
                f"`{_file(name, '*')}`; {path.name!r} is missing."
            )
        if path.name not in checksums:
            raise ValueError(
                "Argument `checksums` must hold a checksum of every file. "
                f"Received: none of {path.name!r}, which was not read."
            )
        contents[piece] = path.read_bytes()
        check_content(contents[piece], checksums[path.name], path)
    return contents


def _nodes(content: bytes, file: str) -> np.ndarray:
    """Returns the nodes that a text names, one in each line."""
    try:
        return np.array([int(line) for line in content.split()], "int64")
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"File {file!r} must name a node by its number in each line: "
            f"{error}."
        ) from error


def _downloaded(name: str, checksums: Mapping[str, str]) -> Path:
    """Returns the folder where Spektral keeps a graph's files, all there."""
    folder = _dataset().FOLDER / name
    missing = [
        file
        for file in (_file(name, piece) for piece in PIECES)
        if not (folder / file).exists()
    ]
    # All of them first: Spektral takes any folder there for a whole one.
    contents = {
        file: _download(file, checksums[file], folder) for file in missing
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        write_whole(folder / file, content)
    return folder


def _download(file: str, checksum: str, folder: Path) -> bytes:
    """Returns the content of a public file, checked."""
    url = URL.format(file=file)
    with tempfile.TemporaryDirectory() as work:
        try:
            path = keras.utils.get_file(file, origin=url, cache_subdir=work)
        except Exception as error:  # Keras raises no narrower class.
            raise ConnectionError(
                f"{file!r} could not be downloaded from {url}: {error}. Put "
                f"this file and the others of its name into {str(folder)!r}, "
                "or pass the folder that holds them as `path`."
            ) from error
        content = Path(path).read_bytes()
    check_content(content, checksum, url)
    return content


def _dataset() -> Any:
    try:
        from keras_swd.graphs import dataset
    except ImportError as error:
        raise ImportError(
            "Reading a Planetoid graph needs Spektral: "
            "pip install 'keras_swd[graphs]'."
        ) from error
    return dataset
