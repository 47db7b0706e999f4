"""Files that appear whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def check_target(path: str | os.PathLike[str]) -> Path:
    """Returns `path` if a file can lie there, or raises a `ValueError`."""
    target = Path(path)
    if not target.parent.is_dir():
        raise ValueError(
            "Argument `path` must lie in an existing folder; "
            f"{str(target.parent)!r} is none. Received: path={str(path)!r}."
        )
    if target.is_dir():
        raise ValueError(
            "Argument `path` must name a file, not a folder. "
            f"Received: path={str(path)!r}."
        )
    if target.exists() and not target.is_file():
        # A new file is put in the place of an old one, which would be theirs.
        raise ValueError(
            "Argument `path` must name a file, not a device or a pipe. "
            f"Received: path={str(path)!r}."
        )
    return target


def check_png(path: str | os.PathLike[str]) -> Path:
    """Returns `path` if a picture can lie there, or raises a `ValueError`."""
    if Path(path).suffix != ".png":
        raise ValueError(
            f"Argument `path` must end in '.png'. Received: path={str(path)!r}."
        )
    return check_target(path)


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all: beside its place, then renamed."""
    # A link to a file stays, and is followed.
    target = check_target(path).resolve()
    with beside(target) as temporary:
        write_new(temporary, content)
        put(temporary, target)


def write_new(path: Path, content: bytes) -> None:
    """Writes a file that is not there yet, down to the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def put(path: Path, target: Path) -> None:
    """Puts a file in the place of another, and gives it the same mode."""
    if target.exists():
        shutil.copymode(target, path)
    os.replace(path, target)


@contextlib.contextmanager
def beside(target: Path) -> Iterator[Path]:
    """Names a new file of the same kind in the folder of another.

    What still has that name at the end is removed.

    Args:
        target: `Path`, where the file will lie in the end.
    """
    # Not `tempfile`: its files are readable by their owner alone, and a
    # renamed file keeps that.
    # Not the other's name with something added, which may be too long.
    temporary = target.with_name(f".{secrets.token_hex(8)}{target.suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
