"""Files that appear whole or not at all."""

import os
import secrets
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
    # Not `tempfile`: its files are readable by their owner alone.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
