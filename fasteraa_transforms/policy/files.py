"""Policy files on disk: reading one, and writing one whole or not at all."""

import os
import secrets
from pathlib import Path

from fasteraa_transforms.policy.errors import PolicyError

MAX_BYTES = 16 * 2**20  # a searched policy has some 30 kB


def read_text(source: str) -> str:
    """The text of a file, UTF-8 and at most 16 MiB.

    Raises:
        PolicyError: the file cannot be read, is larger, or is no UTF-8.
    """
    try:
        # One bounded read instead of asking for the size: it holds for growing files too.
        with open(source, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found = f"nothing readable ({getattr(error, 'strerror', None) or error})"
        raise PolicyError(source, "$", found, "a policy file") from error
    check_size(data, source)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise PolicyError(source, "$", found, "UTF-8 text") from None


def write(data: bytes, path: str | os.PathLike[str]) -> None:
    """Write a file whole or not at all: if it fails, a previous file stays as it was.

    Raises:
        OSError: the file cannot be written.
        PolicyError: it would be larger than `read_text` accepts.
    """
    check_size(data, os.fspath(path))
    target = Path(path).resolve()  # a symbolic link stays one
    # Not `tempfile`, whose files nobody else may read; this one gets the rights of any new file.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_size(data: bytes, source: str) -> None:
    """Raise PolicyError if the data are more than 16 MiB."""
    if len(data) > MAX_BYTES:
        size = f"{MAX_BYTES // 2**20} MiB"
        raise PolicyError(source, "$", f"more than {size}", f"at most {size}")
