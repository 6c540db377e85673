"""Files of a run: replaced whole, checked when they are read, none of them able to execute anything."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from fasteraa_transforms.search.runtime.output import readable


class DamagedFile(ValueError):
    """A file of a run cannot be used; the message is one line that names it."""


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write ``path`` through ``write`` to a temporary file that then takes its place.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> replace(path, lambda file: file.write_text("whole", encoding="utf-8"))
        >>> [file.name for file in path.parent.iterdir()]
        ['notes.txt']
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:  # Windows flushes no file that is open for reading only
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write ``text`` in the place of ``path``, as UTF-8."""
    replace(path, lambda file: file.write_text(readable(text), encoding="utf-8"))


# --- checkpoints ------------------------------------------------------------------------------------------------------

_MARK = b"sha256:"
_TRAILER = len(_MARK) + 64


def previous_of(path: Path) -> Path:
    """Where `write_checkpoint` keeps the file that it replaces."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def write_checkpoint(path: Path, saved: Mapping[str, Any], *, keep_previous: bool = True) -> None:
    """Replace ``path`` by what `torch.save` makes of ``saved``, with a checksum; keep what was there before.

    The file that was there becomes ``NAME.previous.pt``. The checksum is the comment of the zip file that PyTorch
    writes, so `torch.load` still reads the file.

    Args:
        path: of the file, such as ``checkpoint.pt``.
        saved: what `torch.load` takes with ``weights_only=True``.
        keep_previous: whether the file that was there is kept.

    Raises:
        OSError: it cannot be written; the old file is still there.
    """
    buffer = io.BytesIO()  # given a file, PyTorch makes of a full disk a RuntimeError with another reason
    torch.save(dict(saved), buffer)
    data = bytearray(buffer.getbuffer())
    data[-2:] = _TRAILER.to_bytes(2, "little")  # length of the comment, the last field of a zip file
    data += _MARK + hashlib.sha256(data).hexdigest().encode()

    def write(file: Path) -> None:
        file.write_bytes(data)
        if keep_previous and path.is_file():
            replace(previous_of(path), lambda copy: _same_file(path, copy))

    replace(path, write)


def _same_file(path: Path, copy: Path) -> None:
    """Let ``copy`` be the file ``path``: a second name where the file system has them, else a copy."""
    try:
        os.link(path, copy)
    except OSError:
        shutil.copyfile(path, copy)


def read_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `write_checkpoint` wrote.

    Args:
        path: of the file.
        device: where its tensors are to be.

    Raises:
        FileNotFoundError: no such file.
        DamagedFile: the file is not what was written; offers the one before it, if that is whole.
    """
    saved = _read_whole(path, device)
    if saved is not None:
        return saved
    message = f"{path} is damaged (its checksum is not that of its content)"
    previous = previous_of(path)
    with contextlib.suppress(OSError):
        if _read_whole(previous, device) is not None:
            message += f"; the one before it, {previous.name}, is whole: copy it over {path.name} to go on from there"
    raise DamagedFile(message)


def _read_whole(path: Path, device: torch.device | str) -> dict[str, Any] | None:
    data = path.read_bytes()
    content, trailer = data[:-_TRAILER], data[-_TRAILER:]
    if trailer != _MARK + hashlib.sha256(content).hexdigest().encode():
        return None
    saved = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    return saved if isinstance(saved, dict) else None


# --- rows -------------------------------------------------------------------------------------------------------------


def read_rows(
    path: Path,
    *,
    needs: Mapping[str, type | tuple[type, ...]] | None = None,
    check: Callable[[dict[str, Any]], object] | None = None,
) -> list[dict[str, Any]]:
    """The rows of a file, one JSON object a line. A torn last line is left out. Without a file, no rows.

    Args:
        path: of the file.
        needs: keys that each row has to have, and the type of their values.
        check: called with each row that has all keys; it refuses the row by a KeyError, TypeError or ValueError.

    Raises:
        DamagedFile: a row is damaged, lacks a key, or is refused by ``check``; names the row.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = _checked_row(line)
            for key, kind in ({} if needs is None else needs).items():
                if not isinstance(row[key], kind) or (isinstance(row[key], bool) and kind is not bool):
                    raise TypeError(f"{key} is {row[key]!r:.40}")
            if check is not None:
                check(row)
            rows.append(row)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise DamagedFile(f"{path} is damaged in line {number} ({one_line(error)})") from error
    return rows


def append_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file, behind its last whole row."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.seek(whole)
        file.write("".join(map(to_row, rows)).encode())


_ROW_END = re.compile(rb'(?:, )?"([^"]*)": "([0-9a-f]{16})"\}\s*$')  # a checksum; no older row ends like that


def to_row(row: Mapping[str, Any]) -> str:
    r"""``row`` as a line of JSON that ends with a checksum of what stands before it; `read_rows` takes it off.

    Example:
        >>> to_row({"epoch": 1})
        '{"epoch": 1, "checksum": "..."}\n'
    """
    content = to_line({key: value for key, value in row.items() if key != "checksum"})[:-2]
    comma = ", " if len(content) > 1 else ""
    return f'{content}{comma}"checksum": "{_row_checksum(content.encode())}"}}\n'


def _row_checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _checked_row(line: bytes) -> dict[str, Any]:
    """The row in a line, without its checksum; rows of older versions have none."""
    row = json.loads(line, parse_constant=_not_json, parse_float=_finite, parse_int=_whole)
    if not isinstance(row, dict):
        raise TypeError(f"it should hold an object, but holds {type(row).__name__}")
    end = _ROW_END.search(line)
    if end is None:
        if "checksum" in row:
            raise ValueError("its checksum is damaged")
        return row
    if end[1] != b"checksum" or end[2].decode() != _row_checksum(line[: end.start()]):
        raise ValueError("its checksum is not that of its content")
    del row["checksum"]
    return row


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text:.40} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 300:  # which no float can hold
        raise ValueError(f"{text:.40}… is too large")
    return int(text)


# --- text -------------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: no such file.
        DamagedFile: it holds something else.
    """
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged ({one_line(error)})") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} is damaged (it should hold an object, but holds {type(value).__name__})")
    return value


def to_document(value: object) -> str:
    """``value`` as an indented JSON document, null for numbers that are not finite.

    Example:
        >>> print(to_document({"name": "für", "loss": float("inf")}), end="")
        {
          "name": "für",
          "loss": null
        }
    """
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # paths may hold what UTF-8 does not
        text = json.dumps(plain(value), indent=2, allow_nan=False)
    return text + "\n"


def to_line(row: Mapping[str, Any]) -> str:
    r"""``row`` as a line of JSON, null for a number that is not finite.

    Example:
        >>> to_line({"loss": float("nan"), "epoch": 1})
        '{"loss": null, "epoch": 1}\n'
    """
    return json.dumps(plain(row), allow_nan=False) + "\n"


def plain(value: Any) -> Any:
    """``value`` as JSON gives it back: lists for tuples, text for keys and paths, None for numbers that are not finite.

    Example:
        >>> plain({"betas": (0.0, float("inf")), "out": Path("runs")})
        {'betas': [0.0, None], 'out': 'runs'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if hasattr(value, "item"):  # a number of NumPy or PyTorch
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    text = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())
