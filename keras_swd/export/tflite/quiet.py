"""Silence for tools that write to the terminal from C++."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import IO

LOGGERS = ("absl", "tensorflow")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drops all that is printed, logged or warned inside the block.

    The converter writes from Python and from C++; the latter does not know
    `sys.stderr`, so the file descriptors are redirected too. Everything is as
    before when the block ends, also by an exception. Text of other threads is
    lost meanwhile.

    Example:

    >>> with quiet():
    ...     print("not to be seen")
    """
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        sink = stack.enter_context(open(os.devnull, "wb"))
        for descriptor in (1, 2):
            stack.enter_context(redirected(descriptor, sink))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        try:
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def redirected(descriptor: int, sink: IO[bytes]) -> Iterator[None]:
    """Sends what is written to a file descriptor to a file instead.

    Args:
        descriptor: Integer, 1 for the output, 2 for errors.
        sink: An open file.
    """
    # What was printed before belongs to the terminal, not to the sink.
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            stream.flush()
    try:
        saved = os.dup(descriptor)
    except OSError:
        # A process without a terminal has nothing to redirect.
        yield
        return
    try:
        os.dup2(sink.fileno(), descriptor)
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
