"""What the pickles of Planetoid files hold, without running anything in them.

A pickle is a program: it calls what it names, with arguments of its choice.
Here it can name only what Planetoid files need, and most of these names stand
for the small classes below. They keep what they are given, and NumPy and SciPy
come in once that is known to be sound: their own unpickling believes what a
pickle says about types and memory. It also ties files to the versions that
wrote them, which the classes below do not.
"""

import collections
import io
import pickle
from typing import Any

import numpy as np

#: Types of number that an array may have, in either byte order.
NUMBERS = frozenset(
    {"i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"}
)


def unpickle(content: bytes, file: str) -> Any:
    r"""Returns what a pickle of the Planetoid form holds.

    The pickle may be of Python 2, as the public files are, or of Python 3 with
    a protocol up to 4, and of any version of NumPy and SciPy.

    Args:
        content: Bytes of the file, whose checksum has been compared.
        file: String, the file's name, for the message.

    Returns:
        A NumPy array of numbers, a `scipy.sparse.csr_matrix`, or what is built
        of dictionaries, lists, tuples, strings and numbers alone.

    Raises:
        ValueError: If the pickle names anything that Planetoid files do not
            need, or holds a damaged array or matrix; nothing is run then.

    Example:

    >>> unpickle(b"cos\nsystem\n(S'rm -r ~'\ntR.", "ind.cora.x")
    Traceback (most recent call last):
    ...
    ValueError: File 'ind.cora.x' is no pickle ...: it names `os.system`...
    >>> import pickle
    >>> unpickle(pickle.dumps(np.eye(2), protocol=2), "ind.cora.y")
    array([[1., 0.],
           [0., 1.]])
    """
    # A damaged pickle may raise nearly anything.
    try:
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        return found.rebuilt() if isinstance(found, _Array | _CSR) else found
    except Exception as error:
        raise ValueError(
            f"File {file!r} is no pickle of the Planetoid form: "
            f"{str(error) or type(error).__name__}. Nothing in it was run."
        ) from error


class _Array:
    """Stands for an array, and for the function with which NumPy makes one."""

    def __init__(self, *_: Any) -> None:
        # The arguments say "an empty array"; the state has all the rest.
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def rebuilt(self) -> np.ndarray:
        _, shape, dtype, by_columns, content = self._state
        if isinstance(content, str):  # The bytes of Python 2.
            content = content.encode("latin1")
        elif isinstance(content, _Latin1):
            content = content.encoded
        stored = dtype.rebuilt()
        # SciPy's compiled code takes the machine's byte order alone.
        values = np.frombuffer(content, stored).astype(stored.newbyteorder("="))
        return values.reshape(shape, order="F" if by_columns else "C")


class _DType:
    """Stands for the type of an array's numbers."""

    def __init__(self, code: Any, *_: Any) -> None:
        self._code = code
        self._byte_order = "="

    def __setstate__(self, state: Any) -> None:
        self._byte_order = state[1]

    def rebuilt(self) -> np.dtype:
        if self._code not in NUMBERS:
            raise ValueError(f"an array is of the type {self._code!r}")
        return np.dtype(self._code).newbyteorder(self._byte_order)


class _CSR:
    """Stands for a `scipy.sparse.csr_matrix`."""

    def __init__(self) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def rebuilt(self) -> Any:
        from scipy.sparse import csr_matrix

        data, indices, indptr = (
            self._state[key].rebuilt() for key in ("data", "indices", "indptr")
        )
        if indices.dtype.kind != "i" or indptr.dtype.kind != "i":
            raise ValueError("the indices of a matrix are no integers")
        # SciPy's check subtracts 32-bit integers, which may overflow.
        rows = np.diff(indptr.astype("int64"))
        if indptr.size == 0 or indptr[0] != 0 or (rows < 0).any():
            raise ValueError("the rows of a matrix do not follow one another")
        shape = self._state["_shape"]
        matrix = csr_matrix((data, indices, indptr), shape=shape)
        # SciPy's compiled code reads wherever the indices point.
        matrix.check_format(full_check=True)
        return matrix


class _Latin1:
    """Stands for the calls that Python 3 writes for bytes in protocol 2."""

    def __init__(self, text: str = "", encoding: str = "latin1") -> None:
        if encoding != "latin1":
            raise ValueError(f"bytes are encoded in {encoding!r}")
        self.encoded = text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("bytes have no state")


# All that a pickle may name. Each class above has a `__setstate__`, and the
# other two cannot be changed: so a pickle can alter none of them.
_ADMITTED: dict[tuple[str, str], type] = {
    ("__builtin__", "bytes"): _Latin1,  # Without bytes: `bytes()`.
    ("__builtin__", "list"): list,
    ("builtins", "list"): list,
    ("collections", "defaultdict"): collections.defaultdict,
    ("_codecs", "encode"): _Latin1,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("scipy.sparse.csr", "csr_matrix"): _CSR,
    ("scipy.sparse._csr", "csr_matrix"): _CSR,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names `{module}.{name}`, which Planetoid files do not need"
            )
        return _ADMITTED[module, name]
