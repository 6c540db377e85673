"""One run at a time works in a folder: the claim of a folder."""

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO

from fasteraa_transforms.search.runtime.output import command_line

CLAIM = "run.lock"
"""Name of the file that stands for the claim, in the claimed folder."""


class FolderInUse(FileExistsError):
    """Another run works in the folder; the message says which."""


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process, and nobody else, while the context lasts.

    The operating system keeps the claim, as a lock on a file in the folder: it ends with the process that holds it,
    however that ends. So the claim of a dead process is free. On file systems without locks the process whose number
    stands in the file counts.

    Args:
        folder: made, with its parents, if it is not there.

    Raises:
        FolderInUse: another run holds it; says its process, machine and command, and since when.
        OSError: the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, claim(Path(folder)):
        ...     with claim(Path(folder)):
        ...         pass
        Traceback (most recent call last):
        fasteraa_transforms.search.runtime.claim.FolderInUse: ... is in use by process ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CLAIM
    file = _take(path)
    try:
        about = {
            "process": os.getpid(),
            "machine": platform.node(),
            "since": datetime.now().isoformat(" ", "seconds"),
            "command": command_line(*sys.argv),
        }
        file.truncate()
        file.write(json.dumps(about).encode())
        file.flush()
        yield
    finally:
        if os.name == "nt":  # where no open file can be removed
            file.close()
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()
        _held.discard(file)


_held: set[IO[bytes]] = set()


def _let_go() -> None:
    """Close the files of the claims in a forked process, which otherwise holds them longer than its parent."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _take(path: Path) -> IO[bytes]:
    """The file of the claim, locked."""
    while True:
        # Not "a": Windows locks the byte at the position, which is to be the same for everybody.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            free = _lock(file)
            if free is None:  # no locks here
                free = not _is_alive(_holder(path))
            if not free:
                raise FolderInUse(f"{path.parent} is in use by {_describe(_holder(path))}")
            if _is_same(path, file):
                _held.add(file)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # of a run that ended meanwhile, and took the file away


def _is_same(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes]) -> bool | None:
    """Whether the file could be locked; None where the file system has no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(_LOCKED_BYTE)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


_LOCKED_BYTE = 1 << 20  # beyond what is written, as Windows lets nobody read a locked byte


def _holder(path: Path) -> dict[str, object]:
    """What the holder of a claim wrote about itself; nothing if it has not yet."""
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _describe(holder: dict[str, object]) -> str:
    if not holder:
        return "another run; wait for it, or choose another folder"
    return (
        f"process {holder.get('process')} on {holder.get('machine')} since {holder.get('since')} "
        f"({holder.get('command')}); wait for it, or choose another folder"
    )


def _is_alive(holder: dict[str, object]) -> bool:
    process = holder.get("process")
    if holder.get("machine") != platform.node() or not isinstance(process, int) or os.name == "nt":
        return bool(holder)  # nobody knows: it is on another machine, or asking would end it, as on Windows
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
