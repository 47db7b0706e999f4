"""Reading the Planetoid files: what they hold, and what is refused."""

import collections
import copy
import hashlib
import io
import pickle
import struct
import sys
import tempfile
import typing
from pathlib import Path

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

import keras_swd.graphs
from keras_swd.graphs import load_cora, load_planetoid, read_planetoid
from keras_swd.graphs.checksums import check_content, known_checksums
from keras_swd.graphs.planetoid import PIECES
from keras_swd.graphs.unpickling import unpickle

OLD_MODULES = {
    "_reconstruct": "numpy.core.multiarray",
    "ndarray": "numpy",
    "dtype": "numpy",
    "csr_matrix": "scipy.sparse.csr",
    "defaultdict": "collections",
    "list": "__builtin__",
}


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and the NumPy and SciPy of its time wrote."""

    dispatch: typing.ClassVar = dict(pickle._Pickler.dispatch)

    def save_global(self, obj, name=None):
        name = obj.__name__
        self.write(f"c{OLD_MODULES[name]}\n{name}\n".encode())
        self.memoize(obj)

    def save_bytes(self, obj):
        self.write(b"T" + struct.pack("<i", len(obj)) + obj)
        self.memoize(obj)

    def save_type(self, obj):
        self.save_global(obj)

    dispatch[bytes] = save_bytes
    dispatch[type] = save_type


def python2_pickle(value):
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def write_files(folder, pieces, name="own", dump=python2_pickle):
    """Writes the eight files and returns their checksums."""
    checksums = {}
    for piece in PIECES:
        if piece == "test.index":
            lines = "".join(f"{node}\n" for node in pieces[piece])
            content = lines.encode()
        elif isinstance(pieces[piece], bytes):
            content = pieces[piece]
        else:
            content = dump(pieces[piece])
        file = f"ind.{name}.{piece}"
        (Path(folder) / file).write_bytes(content)
        checksums[file] = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return checksums


def made_pieces(trained, known, test, features, labels, graph):
    """The pieces of a graph whose every node has features and a label."""
    test = list(test)
    features = np.asarray(features, "float32")
    labels = np.asarray(labels, "int32")
    return {
        "x": csr_matrix(features[:trained]),
        "y": labels[:trained],
        "tx": csr_matrix(features[test]),
        "ty": labels[test],
        "allx": csr_matrix(features[:known]),
        "ally": labels[:known],
        "graph": collections.defaultdict(list, graph),
        "test.index": test,
    }


def small_pieces():
    """Six nodes: 0 and 1 train, 2 validates, 5 and 3 test, 4 is left out."""
    features = [[1, 0], [0, 3], [1, 1], [2, 2], [9, 9], [0, 0]]
    labels = [[1, 0], [0, 1], [1, 0], [0, 1], [1, 1], [1, 0]]
    graph = {0: [1, 1, 5], 1: [0], 2: [2, 3], 3: [], 4: [], 5: []}
    return made_pieces(2, 3, [5, 3], features, labels, graph)


@pytest.fixture
def small(tmp_path):
    return tmp_path, write_files(tmp_path, small_pieces())


def test_a_small_graph_is_read_as_it_was_written(small):
    dataset = read_planetoid(small[0], "own", small[1], normalize=False)
    graph = dataset[0]
    np.testing.assert_array_equal(
        graph.x, [[1, 0], [0, 3], [1, 1], [2, 2], [0, 0], [0, 0]]
    )
    np.testing.assert_array_equal(
        graph.y, [[1, 0], [0, 1], [1, 0], [0, 1], [0, 0], [1, 0]]
    )
    edges = {(0, 1), (1, 0), (0, 5), (5, 0), (2, 3), (3, 2)}
    assert set(zip(*graph.a.nonzero(), strict=True)) == edges
    np.testing.assert_array_equal(graph.a.data, np.ones(6))
    assert np.flatnonzero(dataset.mask_tr).tolist() == [0, 1]
    assert np.flatnonzero(dataset.mask_va).tolist() == [2]
    assert np.flatnonzero(dataset.mask_te).tolist() == [3, 5]
    assert graph.x.dtype == graph.a.dtype == graph.y.dtype == "float32"
    assert (dataset.n_nodes, dataset.n_labels, len(dataset)) == (6, 2, 1)


def test_each_row_is_divided_by_its_sum(small):
    x = read_planetoid(small[0], "own", small[1])[0].x
    np.testing.assert_array_equal(
        x, [[1, 0], [0, 1], [0.5, 0.5], [0.5, 0.5], [0, 0], [0, 0]]
    )


def test_500_nodes_validate_where_there_are_as_many(tmp_path):
    nodes = 610
    pieces = made_pieces(
        20,
        600,
        range(600, nodes),
        np.ones((nodes, 1)),
        np.ones((nodes, 1)),
        {node: [] for node in range(nodes)},
    )
    checksums = write_files(tmp_path, pieces)
    mask = read_planetoid(tmp_path, "own", checksums).mask_va
    assert np.flatnonzero(mask).tolist() == list(range(20, 520))


@st.composite
def planetoid_graphs(draw):
    """Pieces whose tested nodes are in any order, some nodes left out."""
    trained = draw(st.integers(0, 3))
    known = draw(st.integers(max(trained, 1), trained + 4))
    test = draw(st.lists(st.integers(known, known + 6), unique=True))
    nodes = max([known - 1, *test]) + 1
    width, classes = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    rows = st.lists(st.integers(0, 3), min_size=width, max_size=width)
    features = draw(st.lists(rows, min_size=nodes, max_size=nodes))
    chosen = st.integers(0, classes - 1)
    labels = draw(st.lists(chosen, min_size=nodes, max_size=nodes))
    others = st.lists(st.integers(0, nodes - 1), max_size=3)
    graph = {node: draw(others) for node in draw(st.permutations(range(nodes)))}
    one_hot = np.eye(classes)[labels]
    return made_pieces(trained, known, test, features, one_hot, graph)


def slow_reference(pieces):
    """Kipf's way, with loops: stack both tables, then put rows in place."""
    index, known = pieces["test.index"], pieces["allx"].shape[0]
    ordered = sorted(index)
    nodes = max([known - 1, *index]) + 1
    tables = []
    for first, second in (("allx", "tx"), ("ally", "ty")):
        start, end = (
            p.toarray().tolist() if hasattr(p, "toarray") else p.tolist()
            for p in (pieces[first], pieces[second])
        )
        stacked = start + [[0] * len(start[0]) for _ in range(known, nodes)]
        for node, row in zip(ordered, end, strict=True):
            stacked[node] = row
        placed = copy.deepcopy(stacked)
        for node, row in zip(index, ordered, strict=True):
            placed[node] = stacked[row]
        tables.append(placed)
    adjacency = [[0] * nodes for _ in range(nodes)]
    for node, others in pieces["graph"].items():
        for other in others:
            if other != node:
                adjacency[node][other] = adjacency[other][node] = 1
    trained = pieces["x"].shape[0]
    masks = (
        [i < trained for i in range(nodes)],
        [trained <= i < known for i in range(nodes)],
        [i in index for i in range(nodes)],
    )
    return *tables, adjacency, *masks


@hypothesis.given(
    planetoid_graphs(),
    st.sampled_from(
        [
            python2_pickle,
            *(lambda v, p=p: pickle.dumps(v, p) for p in (2, 3, 4)),
        ]
    ),
)
def test_any_graph_agrees_with_a_slow_reference(pieces, dump):
    with tempfile.TemporaryDirectory() as folder:
        checksums = write_files(folder, pieces, dump=dump)
        dataset = read_planetoid(folder, "own", checksums, normalize=False)
    graph = dataset[0]
    masks = dataset.mask_tr, dataset.mask_va, dataset.mask_te
    found = (graph.x, graph.y, graph.a.toarray(), *masks)
    for value, expected in zip(found, slow_reference(pieces), strict=True):
        np.testing.assert_array_equal(value, expected)
    assert graph.a.has_canonical_format


def test_cora_is_what_the_papers_say(data_dir):
    dataset = load_cora(data_dir / "planetoid", normalize=False)
    graph = dataset[0]
    assert graph.x.shape == (2708, 1433)
    assert set(np.unique(graph.x)) == {0.0, 1.0}
    assert np.count_nonzero(graph.x) == 49216
    assert graph.a.shape == (2708, 2708)
    assert graph.a.nnz == 2 * 5278
    assert (graph.a != graph.a.T).nnz == 0
    assert graph.a.diagonal().sum() == 0
    assert graph.y.sum(axis=0).tolist() == [351, 217, 418, 818, 426, 298, 180]
    assert (graph.y.sum(axis=1) == 1).all()
    masks = dataset.mask_tr, dataset.mask_va, dataset.mask_te
    assert [int(mask.sum()) for mask in masks] == [140, 500, 1000]
    assert not (np.sum(masks, axis=0) > 1).any()
    assert graph.y[dataset.mask_tr].sum(axis=0).tolist() == [20] * 7


def test_cora_is_normalized_unless_told_otherwise(data_dir):
    x = load_cora(data_dir / "planetoid")[0].x
    np.testing.assert_allclose(x.sum(axis=1), 1.0, rtol=1e-6)


def test_the_checksums_are_those_of_the_lists(data_dir):
    folder = data_dir / "planetoid"
    known = known_checksums()
    lines = [
        *(folder / "SHA256SUMS").read_text().splitlines(),
        *(folder / "CHECKSUMS.md").read_text().splitlines(),
    ]
    listed = {
        words[1]: f"sha256:{words[0]}"
        for words in map(str.split, lines)
        if len(words) == 2 and len(words[0]) == 64
    }
    git = {file: c for file, c in known.items() if c.startswith("git:")}
    assert list(git) == ["ind.pubmed.allx"]
    assert known == {**listed, **git}
    assert len(known) == 24


class Payload:
    """Makes a folder, if a pickle of it is trusted."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("piece", ["x", "ally", "graph"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, protocol, piece):
    witness = tmp_path / "run"
    payload = pickle.dumps({0: [Payload(witness)]}, protocol)
    checksums = write_files(tmp_path, {**small_pieces(), piece: payload})
    with pytest.raises(ValueError, match=r"names `(posix|nt)\.mkdir`"):
        read_planetoid(tmp_path, "own", checksums)
    assert not witness.exists()
    pickle.loads(payload)
    assert witness.exists()


def named(module, name):
    return f"c{module}\n{name}\n)R.".encode()


def dotted(module, name):
    """A name with dots, which protocol 4 looks up step by step."""
    words = (module.encode(), name.encode())
    return b"\x80\x04" + b"".join(
        b"\x8c" + bytes([len(w)]) + w for w in words
    ) + b"\x93)R."  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        named("os", "system"),
        named("builtins", "eval"),
        named("__builtin__", "eval"),
        named("builtins", "getattr"),
        named("builtins", "dict"),
        named("subprocess", "Popen"),
        named("copyreg", "_reconstructor"),
        named("codecs", "encode"),
        named("numpy", "load"),
        named("numpy", "frombuffer"),
        named("numpy.core.multiarray", "scalar"),
        named("numpy._core.multiarray", "fromfile"),
        named("scipy.sparse", "csr_matrix"),
        named("scipy.sparse._csr", "_csr_base"),
        named("keras_swd.graphs.unpickling", "_Array"),
        named("collections", "OrderedDict"),
        dotted("collections", "defaultdict.__class__"),
        dotted("builtins", "list.__class__.__base__"),
        dotted("numpy", "ndarray.tofile"),
        dotted("builtins.list", "__class__"),
    ],
)
def test_only_the_names_that_are_needed_may_be_named(content):
    with pytest.raises(ValueError, match="which Planetoid files do not need"):
        unpickle(content, "ind.own.x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Ran out of input"),
        (b"no pickle", "no pickle of the Planetoid form"),
        (b"P0\n.", "no pickle of the Planetoid form"),
        (b"\x82\x01.", "no pickle of the Planetoid form"),
        (b"c_codecs\nencode\n(Va\nVrot13\ntR.", "encoded in 'rot13'"),
        (b"cnumpy\nndarray\n)R.", "no pickle of the Planetoid form"),
        (b"cscipy.sparse.csr\ncsr_matrix\n)R.", "Planetoid form"),
    ],
    ids=["empty", "text", "persistent", "extension", "codec", "array", "csr"],
)
def test_what_is_no_pickle_of_an_array_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        unpickle(content, "ind.own.x")


@pytest.mark.parametrize(
    "name",
    [
        "collections\ndefaultdict",
        "builtins\nlist",
        "numpy\nndarray",
        "numpy\ndtype",
        "scipy.sparse.csr\ncsr_matrix",
        "_codecs\nencode",
        "__builtin__\nbytes",
    ],
)
def test_a_pickle_cannot_change_what_it_names(name):
    # Sets the attribute `rebuilt` of the class itself.
    content = f"c{name}\n(N(dVrebuilt\nI1\nstb0.".encode()
    with pytest.raises(ValueError, match="Planetoid form"):
        unpickle(content, "ind.own.x")
    values = np.arange(6.0).reshape(2, 3)
    for protocol in (2, 3, 4):
        again = unpickle(pickle.dumps(values, protocol), "ind.own.y")
        np.testing.assert_array_equal(again, values)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("kind", ["int64", ">i4", "uint8", "float64", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(protocol, kind, order):
    values = np.asarray(np.arange(12).reshape(3, 4), kind, order)
    found = unpickle(pickle.dumps(values, protocol), "ind.own.y")
    np.testing.assert_array_equal(found, values)
    assert found.dtype == values.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "values",
    [
        np.array([[1, "a"], [None, {}]], object),
        np.array(["a", "b"]),
        np.zeros(2, [("a", "i4"), ("b", "O")]),
        np.zeros(2, complex),
        np.zeros(2, "V8"),
        np.zeros(2, "M8[s]"),
    ],
    ids=lambda values: values.dtype.kind,
)
def test_arrays_of_anything_but_numbers_are_refused(values):
    with pytest.raises(ValueError, match="an array is of the type"):
        unpickle(pickle.dumps(values, protocol=2), "ind.own.y")


def csr_of(data, indices, indptr, shape):
    """A matrix that SciPy would not make."""
    matrix = csr_matrix((2, 3), dtype="float32")
    matrix.data = np.asarray(data)
    matrix.indices = np.asarray(indices)
    matrix.indptr = np.asarray(indptr)
    matrix._shape = shape
    return matrix


@pytest.mark.parametrize(
    ("data", "indices", "indptr", "shape"),
    [
        ([1.0, 1.0], [0, 10**9], [0, 1, 2], (2, 3)),
        ([1.0, 1.0], [0, -5], [0, 1, 2], (2, 3)),
        ([1.0, 1.0], [0, 1], [0, 10**6, 2], (2, 3)),
        ([1.0, 1.0], [0, 1], [0, 1, 10**6], (2, 3)),
        ([1.0, 1.0], [0, 1], [-9, 1, 2], (2, 3)),
        ([1.0, 1.0], [0, 1], [0, 1, 2], (10**6, 3)),
        ([1.0, 1.0], [0, 1], [0, 1, 2], (-2, 3)),
        ([1.0, 1.0], [0, 1], [0, 1, 2], (2,)),
        ([1.0], [0, 1], [0, 1, 2], (2, 3)),
        ([1.0, 1.0], [0.0, 1.0], [0, 1, 2], (2, 3)),
        ([[1.0], [1.0]], [0, 1], [0, 1, 2], (2, 3)),
    ],
)
def test_a_damaged_matrix_is_refused(data, indices, indptr, shape):
    matrix = csr_of(data, indices, indptr, shape)
    with pytest.raises(ValueError, match=r"'ind\.own\.x' is no pickle"):
        unpickle(python2_pickle(matrix), "ind.own.x")


def test_an_array_larger_than_its_bytes_is_refused():
    content = python2_pickle(np.zeros((2, 3), "float32"))
    assert content.count(b"K\x02K\x03") == 1
    with pytest.raises(ValueError, match="cannot reshape"):
        unpickle(content.replace(b"K\x02K\x03", b"K\x02K\xff"), "ind.own.y")


def test_no_beginning_of_a_pickle_is_taken_for_the_whole():
    content = python2_pickle(csr_matrix(np.eye(3, dtype="float32")))
    assert unpickle(content, "ind.own.x").nnz == 3
    for end in range(len(content)):
        with pytest.raises(ValueError, match="no pickle of the Planetoid form"):
            unpickle(content[:end], "ind.own.x")


def test_rows_that_end_at_a_negative_place_are_refused():
    """SciPy's own check overflows there, and finds nothing wrong."""
    matrix = csr_matrix(np.tri(5, 4, dtype="float32"))
    content = bytearray(python2_pickle(matrix))
    start = content.index(matrix.indptr.tobytes())
    content[start + matrix.indptr.nbytes - 1] = 128
    with pytest.raises(ValueError, match="do not follow one another"):
        unpickle(bytes(content), "ind.own.x")


@hypothesis.given(st.sampled_from(["indices", "indptr"]), st.data())
def test_a_damaged_index_never_points_outside_the_matrix(name, data):
    matrix = csr_matrix(np.tri(5, 4, dtype="float32"))
    content = bytearray(python2_pickle(matrix))
    start = content.index(getattr(matrix, name).tobytes())
    place = data.draw(st.integers(0, getattr(matrix, name).nbytes - 1))
    content[start + place] = data.draw(st.integers(0, 255))
    try:
        found = unpickle(bytes(content), "ind.own.x")
    except ValueError:
        return
    assert found.indices.min(initial=0) >= 0
    assert found.indices.max(initial=0) < 4
    assert (np.diff(found.indptr) >= 0).all()
    assert found.indptr[-1] <= len(found.indices) <= len(found.data)


@pytest.fixture
def untouched(monkeypatch):
    """Fails a test that unpickles anything."""

    def fail(content, file):
        pytest.fail(f"{file} was unpickled")

    monkeypatch.setattr("keras_swd.graphs.planetoid.unpickle", fail)


@pytest.mark.usefixtures("untouched")
def test_a_truncated_file_is_refused_before_it_is_unpickled(small):
    folder, checksums = small
    file = folder / "ind.own.graph"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"graph' is damaged or another one"):
        read_planetoid(folder, "own", checksums)


@pytest.mark.usefixtures("untouched")
def test_a_swapped_file_is_refused_before_it_is_unpickled(small):
    folder, checksums = small
    (folder / "ind.own.allx").replace(folder / "ind.own.tx")
    (folder / "ind.own.allx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"ind\.own\.tx' is damaged"):
        read_planetoid(folder, "own", checksums)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("piece", PIECES)
def test_a_missing_file_is_named(small, piece):
    folder, checksums = small
    (folder / f"ind.own.{piece}").unlink()
    with pytest.raises(FileNotFoundError, match=f"'ind.own.{piece}' is miss"):
        read_planetoid(folder, "own", checksums)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("piece", PIECES)
def test_a_file_without_a_checksum_is_not_read(small, piece):
    folder, checksums = small
    del checksums[f"ind.own.{piece}"]
    with pytest.raises(ValueError, match=f"none of 'ind.own.{piece}'"):
        read_planetoid(folder, "own", checksums)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("checksum", ["", "sha256:", "md5:0cc1", "abcdef"])
def test_a_checksum_of_no_known_form_is_refused(small, checksum):
    folder, checksums = small
    checksums["ind.own.x"] = checksum
    with pytest.raises(ValueError, match="A checksum must be 'sha256:' or"):
        read_planetoid(folder, "own", checksums)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("name", ["cora", "citeseer", "pubmed"])
def test_files_under_a_public_name_must_be_the_public_ones(tmp_path, name):
    write_files(tmp_path, small_pieces(), name)
    with pytest.raises(ValueError, match=f"ind.{name}.x' is damaged"):
        load_planetoid(name, tmp_path)


def test_checksums_are_those_of_git_and_of_sha256():
    check_content(b"", "git:e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", "f")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    check_content(b"abc", f"sha256:{digest}", "f")
    check_content(b"abc", f"sha256:{digest.upper()}", "f")
    with pytest.raises(ValueError, match="is damaged or another one"):
        check_content(b"abd", f"sha256:{digest}", "f")


@pytest.mark.parametrize("name", ["Cora", "karate", "", None])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="Argument `name` must be 'cora'"):
        load_planetoid(name)


@pytest.mark.parametrize(
    ("piece", "value", "message"),
    [
        ("x", np.zeros((2, 2)), "`x` must hold a `scipy.sparse.csr_matrix`"),
        ("y", {}, "`y` must hold a NumPy array of two axes"),
        ("ty", np.zeros(2), "`ty` must hold a NumPy array of two axes"),
        ("ally", np.full((3, 2), 1), "`ally` must hold one-hot rows"),
        ("ally", np.full((3, 2), 0.5), "`ally` must hold one-hot rows"),
        ("y", np.eye(3, 2), "`x` and `y` must have the same number of rows"),
        ("y", np.eye(2, 3), "`y` and `ally` must have the same number of col"),
        ("tx", csr_matrix((2, 5)), "`tx` and `allx` must have the same"),
        ("test.index", [5], "Received: 1 nodes for 2 rows"),
        ("test.index", [5, 5], "Received: 1 nodes for 2 rows"),
        ("test.index", [5, 2], "must name nodes after the 3 of `allx`"),
        ("test.index", [5, 10**15], "`graph` must name each node from 0"),
        ("test.index", [3, 4], "`graph` must name each node from 0 to 4"),
        ("test.index", [3, 10**30], "must name a node by its number"),
        ("test.index", [3, "a"], "must name a node by its number"),
        ("graph", {0: [1]}, "`graph` must name each node from 0 to 5"),
        ("graph", {i: [] for i in range(-1, 5)}, "name each node from 0 to 5"),
        ("graph", {i: [6] for i in range(6)}, "`graph` must name each node"),
        ("graph", {i: [1.5] for i in range(6)}, "its nodes by integers"),
        ("graph", {i: (0,) for i in range(6)}, "nodes to lists of their"),
        ("graph", [[1], [0]], "`graph` must hold a dictionary"),
        ("graph", np.eye(6), "`graph` must hold a dictionary"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(tmp_path, piece, value, message):
    checksums = write_files(tmp_path, {**small_pieces(), piece: value})
    with pytest.raises(ValueError, match=message):
        read_planetoid(tmp_path, "own", checksums)


def test_training_nodes_are_the_first_of_all(tmp_path):
    pieces = small_pieces()
    more = {"x": csr_matrix((4, 2)), "y": np.eye(2)[[0, 0, 0, 0]]}
    checksums = write_files(tmp_path, {**pieces, **more})
    with pytest.raises(ValueError, match="must be the first of `allx`"):
        read_planetoid(tmp_path, "own", checksums)


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Small files as the public ones, and an empty folder of Spektral's."""
    from keras_swd.graphs import dataset

    source, kept = tmp_path / "source", tmp_path / "spektral" / "Citation"
    source.mkdir()
    checksums = write_files(source, small_pieces(), "citeseer")
    monkeypatch.setattr(dataset, "FOLDER", kept)
    monkeypatch.setattr(
        "keras_swd.graphs.planetoid.known_checksums", lambda: checksums
    )
    return source, kept / "citeseer"


def get_file_from(source, asked):
    def get_file(fname, origin, cache_subdir):
        assert origin.endswith(f"/gcn/data/{fname}")
        asked.append(fname)
        target = Path(cache_subdir) / fname
        target.write_bytes((source / fname).read_bytes())
        return str(target)

    return get_file


def test_what_is_missing_is_downloaded_once(published, monkeypatch):
    source, kept = published
    kept.mkdir(parents=True)
    there = "ind.citeseer.tx"
    (kept / there).write_bytes((source / there).read_bytes())
    asked = []
    monkeypatch.setattr(keras.utils, "get_file", get_file_from(source, asked))
    dataset = load_planetoid("citeseer")
    assert dataset.n_nodes == 6
    assert not dataset.mask_te[4]
    assert not dataset[0].x[4].any()
    files = {f"ind.citeseer.{piece}" for piece in PIECES}
    assert sorted(asked) == sorted(files - {there})
    assert {p.name for p in kept.iterdir()} == files
    load_planetoid("citeseer")
    assert len(asked) == 7


def test_a_download_that_fails_says_where_to_put_the_files(
    published, monkeypatch
):
    def get_file(*_, **__):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    with pytest.raises(ConnectionError, match="URL fetch failure") as caught:
        load_planetoid("citeseer")
    assert repr(str(published[1])) in str(caught.value)
    assert not published[1].exists()


@pytest.mark.usefixtures("untouched")
def test_a_download_with_another_content_is_not_kept(published, monkeypatch):
    source, kept = published
    (source / "ind.citeseer.test.index").write_bytes(b"<html>")
    monkeypatch.setattr(keras.utils, "get_file", get_file_from(source, []))
    with pytest.raises(ValueError, match=r"test\.index' is damaged"):
        load_planetoid("citeseer")
    assert not kept.exists()


def test_without_spektral_the_remedy_is_named(small, monkeypatch):
    monkeypatch.delattr(keras_swd.graphs, "dataset", raising=False)
    monkeypatch.delitem(sys.modules, "keras_swd.graphs.dataset", raising=False)
    for module in ("spektral", "spektral.data"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"install 'keras_swd\[graphs\]'"):
        read_planetoid(small[0], "own", small[1])
