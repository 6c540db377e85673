"""Policy files on disk: reading one, and writing one whole or not at all."""

import codecs
import errno
import os
import secrets
import stat
from pathlib import Path

from fasteraa_transforms.policy.errors import PolicyError, shown

MAX_BYTES = 16 * 2**20  # a searched policy has some 30 kB


_BLOCK = 2**16  # bytes that are decoded at a time, to see whether they are UTF-8

_KINDS = (
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def read(source: str) -> bytes:
    """The bytes of a regular file: UTF-8, at most 16 MiB.

    Raises:
        PolicyError: the file cannot be read, is no regular file, is larger, or is no UTF-8.
    """
    try:
        _check_kind(os.stat(source), source)  # before it is opened, to which a device may react
        with open(source, "rb", buffering=0, opener=_open) as file:
            status = os.fstat(file.fileno())
            _check_kind(status, source)
            # A file may grow while it is read, so its present size is only an estimate of the room to make.
            data = file.read(min(status.st_size, MAX_BYTES) + 1)
            while len(data) <= MAX_BYTES and (rest := file.read(_BLOCK)):
                data += rest
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if isinstance(error, PolicyError):
            raise
        found = f"nothing readable ({getattr(error, 'strerror', None) or error})"
        raise PolicyError(source, "$", found, "a policy file") from error
    check_size(data, source)
    check_utf8(data, source)
    return data


def read_text(source: str) -> str:
    """The text of a file, as `read` gives its bytes."""
    return read(source).decode("utf-8")


def encoded(text: str, source: str) -> bytes:
    """The text as UTF-8; a lone surrogate, which has no place in it, is a PolicyError."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise PolicyError(source, "$", shown(text), "Unicode text") from None


def _check_kind(status: os.stat_result, source: str) -> None:
    """Raise PolicyError if a file is neither a regular one nor a folder; opening a folder fails by itself."""
    if kind := _kind(status.st_mode):
        raise PolicyError(source, "$", kind, "a policy file")


def _kind(mode: int) -> str | None:
    """What a file is if it is neither a regular one nor a folder."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def _open(path: str, flags: int) -> int:
    # Else opening a FIFO waits for somebody who writes into it. Windows has neither.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))


def check_utf8(data: bytes, source: str) -> None:
    """Raise PolicyError if the data are no UTF-8; the text, which may be four times as long, is not kept."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(data)
    for begin in range(0, len(data) + 1, _BLOCK):
        kept = len(decoder.getstate()[0])  # bytes of a character that the block before has begun
        try:
            decoder.decode(view[begin : begin + _BLOCK], final=begin + _BLOCK > len(data))
        except UnicodeDecodeError as error:
            place = begin - kept + error.start
            raise PolicyError(source, "$", f"byte 0x{data[place]:02x} at offset {place}", "UTF-8 text") from None


def write(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all: if it fails, a previous file stays as it was.

    The new file keeps the rights of the file that it replaces. Without one, it has the rights of any new file. A
    symbolic link stays one.

    Raises:
        OSError: the file cannot be written, or the path leads to a FIFO, a socket or a device.
        PolicyError: it would be larger than `read` accepts.
    """
    check_size(data, os.fspath(path))
    target = Path(path).resolve()
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and (kind := _kind(mode)):
        raise OSError(errno.EINVAL, f"a policy file should not replace {kind}", os.fspath(path))
    # Not `tempfile`, whose files nobody else may read.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            temporary.chmod(stat.S_IMODE(mode))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_size(data: bytes, source: str) -> None:
    """Raise PolicyError if the data are more than 16 MiB."""
    if len(data) > MAX_BYTES:
        size = f"{MAX_BYTES // 2**20} MiB"
        raise PolicyError(source, "$", f"more than {size}", f"at most {size}")
