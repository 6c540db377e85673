"""Standard streams that are missing, or that nobody reads any more: what is printed to them is dropped without a word.

``fasteraa list | head -1`` closes the pipe before all is written, ``fasteraa search … >&-`` has no standard output.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def silence(stream: TextIO) -> None:
    """Let a stream lead nowhere. Python would else try at its end to write what is left in it, and complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_missing() -> None:
    """Let the standard streams that are closed lead nowhere, before another file or pipe gets their numbers."""
    for name, mode, flags in (("stdin", "r", os.O_RDONLY), ("stdout", "w", os.O_WRONLY), ("stderr", "w", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))


@contextlib.contextmanager
def readers_may_leave() -> Iterator[None]:
    """Within it a command may print to streams that are missing or get closed; at its end they are flushed.

    Example:
        >>> with readers_may_leave():
        ...     print("somebody reads this")
        somebody reads this
    """
    open_missing()
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # a closed pipe, a full disk, a closed file
                silence(stream)


def tell(text: str) -> None:
    """Print a line on standard error, whether somebody reads it or not."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        silence(sys.stderr)
