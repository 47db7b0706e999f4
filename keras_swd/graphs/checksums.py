"""Whether a file is the one it should be."""

import hashlib
import os
import tomllib
from collections.abc import Callable
from importlib import resources


def known_checksums() -> dict[str, str]:
    """Returns the checksums of the public Planetoid files.

    Returns:
        Dictionary from the names of the 24 files of Cora, Citeseer and PubMed
        to strings as `check_content` takes them.

    Example:

    >>> known_checksums()["ind.pubmed.allx"]
    'git:3b86bccf08111c37c632a9dd8ab63db25ea76361'
    """
    table = resources.files("keras_swd.graphs").joinpath("checksums.toml")
    return tomllib.loads(table.read_text(encoding="utf-8"))


def check_content(
    content: bytes, checksum: str, path: str | os.PathLike[str]
) -> None:
    """Raises a `ValueError` unless the content has this checksum.

    Args:
        content: Bytes of the file.
        checksum: String, `"sha256:"` or `"git:"` and hexadecimal digits; the
            latter is the id that git gives to the content.
        path: String or path of the file, for the message.

    Raises:
        ValueError: If the content has another checksum, or `checksum` is of
            neither form.

    Example:

    >>> check_content(b"a", "git:2e65efe2a145dda7ee51d1741299f848e5bf752e", "f")
    >>> check_content(b"b", "git:2e65efe2a145dda7ee51d1741299f848e5bf752e", "f")
    Traceback (most recent call last):
    ...
    ValueError: File 'f' is damaged or another one: ...
    """
    kind, _, expected = checksum.partition(":")
    if kind not in _DIGESTS or not expected:
        raise ValueError(
            "A checksum must be 'sha256:' or 'git:' and hexadecimal digits. "
            f"Received: {checksum!r} for {os.path.basename(path)!r}."
        )
    found = _DIGESTS[kind](content)
    if found != expected.lower():
        raise ValueError(
            f"File {str(path)!r} is damaged or another one: its checksum is "
            f"{kind}:{found}, expected {checksum}. It was not unpickled. "
            "Replace it, or delete it and let it be downloaded."
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_DIGESTS: dict[str, Callable[[bytes], str]] = {"sha256": _sha256, "git": _git}
