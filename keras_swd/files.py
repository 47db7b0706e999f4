"""Files and folders that appear whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
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
    target = check_target(path)
    # Not `tempfile`: its files are readable by their owner alone.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(
    folder: str | os.PathLike[str], files: Collection[str]
) -> Iterator[Path]:
    """Yields a folder to work in, which becomes `folder` if all goes well.

    Args:
        folder: String or path. One of an earlier run is replaced.
        files: Names of the files that an earlier run may have left.

    Yields:
        Path of an empty folder beside it.

    Raises:
        ValueError: If `folder` cannot be written, or holds anything else.
    """
    # A link to a folder stays, and is followed.
    target = Path(folder).resolve()
    if not target.parent.is_dir():
        raise ValueError(
            "Argument `folder` must lie in an existing folder; "
            f"{str(target.parent)!r} is none. Received: folder={str(folder)!r}."
        )
    if target.exists() and (not target.is_dir() or target == Path.cwd()):
        raise ValueError(
            "Argument `folder` must name a folder of its own, no file and not "
            f"the present folder. Received: folder={str(folder)!r}."
        )
    _check_replaceable(target, files)
    work = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    old = work.with_name(f"{work.name}.old")
    work.mkdir()
    try:
        yield work
        _check_replaceable(target, files)
        if target.exists():
            os.replace(target, old)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(target: Path, files: Collection[str]) -> None:
    """Refuses a folder that holds anything but these files."""
    held = {p.name for p in target.iterdir()} if target.is_dir() else set()
    if held - set(files):
        raise ValueError(
            "Argument `folder` must name a new folder, or one that an earlier "
            f"run wrote; this one holds {sorted(held - set(files))[0]!r} too. "
            f"Received: folder={str(target)!r}."
        )
