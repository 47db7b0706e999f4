"""A folder that appears whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_folder(
    folder: str | os.PathLike[str],
    files: Collection[str],
    others: Collection[str] = (),
) -> Iterator[Path]:
    """Yields a folder to work in, which becomes `folder` if all goes well.

    Args:
        folder: String or path. One of an earlier run is replaced.
        files: Names of the files that an earlier run has left.
        others: Names of files that may have come since. Defaults to `()`.

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
    _check_replaceable(target, files, others)
    work = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    old = work.with_name(f"{work.name}.old")
    work.mkdir()
    try:
        yield work
        _check_replaceable(target, files, others)
        if target.exists():
            os.replace(target, old)
        os.replace(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(
    target: Path, files: Collection[str], others: Collection[str]
) -> None:
    """Refuses a folder but an empty one and that of an earlier run."""
    held = {p.name for p in target.iterdir()} if target.is_dir() else set()
    foreign = sorted(held - {*files, *others})
    missing = sorted(set(files) - held)
    if not held or not foreign + missing:
        return
    found = f"holds {foreign[0]!r} too" if foreign else f"lacks {missing[0]!r}"
    raise ValueError(
        "Argument `folder` must name a new folder, or one that an earlier run "
        f"wrote; this one {found}. Received: folder={str(target)!r}."
    )
