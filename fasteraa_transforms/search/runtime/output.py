"""What a run prints. Printing never ends a run: not for a character, not because nobody reads any more."""

import os
import shlex
import subprocess
import sys
from typing import Any, TextIO

from fasteraa_transforms.streams import silence


class Output:
    r"""A text stream that takes every text, and drops it once the stream is closed.

    Characters that the stream's encoding lacks are written as escapes, and so are control characters, which could
    change what a terminal shows.

    Args:
        stream: where to write; None drops everything.

    Example:
        >>> import io
        >>> narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
        >>> Output(narrow).write("0.1 → 0.2\n")
        >>> narrow.seek(0)
        0
        >>> narrow.read()
        '0.1 \\u2192 0.2\n'
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:
        """Encoding of the stream, which progress bars look at."""
        return getattr(self.stream, "encoding", None) or "ascii"

    def isatty(self) -> bool:
        """Whether somebody looks at a terminal."""
        try:
            return self.stream is not None and self.stream.isatty()
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """Number of the stream's file, by which progress bars find the width of the terminal."""
        if self.stream is None:
            raise OSError("no stream")
        return self.stream.fileno()

    def write(self, text: str) -> None:
        """Write ``text``, or nothing if the stream is closed."""
        shown = readable(text).encode(self.encoding, "backslashreplace").decode(self.encoding)
        self._attempt(lambda stream: stream.write(shown))

    def flush(self) -> None:
        """Hand on what was written."""
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, do: Any) -> None:
        if self.stream is None:
            return
        try:
            do(self.stream)
        except (OSError, ValueError):  # a closed pipe, a full disk, a closed file
            silence(self.stream)
            self.stream = None


def say(text: str, *, error: bool = False) -> None:
    r"""Print ``text`` and a line's end, whatever happens.

    Args:
        text: may have several lines; control characters other than tabs and lines' ends are shown as escapes.
        error: whether it goes to standard error.

    Example:
        >>> say("first line\nsecond \x1b[31m line")
        first line
        second \x1b[31m line
    """
    output = Output(sys.stderr if error else sys.stdout)
    output.write(visible(text) + "\n")
    output.flush()


def visible(text: str) -> str:
    r"""``text`` with its control characters, but for tabs and lines' ends, as escapes.

    Example:
        >>> visible("bell \x07") == r"bell \x07"
        True
    """
    return "".join(each if each.isprintable() or each in "\n\t" else _escape(each) for each in text)


def readable(text: str) -> str:
    r"""``text`` without the stand-ins that Python has for bytes of names and arguments that it could not decode.

    The bytes are read as UTF-8, whatever the locale; those that are no UTF-8 become escapes. So names are the same in
    every locale, and can be written to files. For opening a file, the text has to be left as it is.

    Example:
        >>> readable("f\udcc3\udcbcr"), readable("\udcff")
        ('für', '\\xff')
    """
    return text.encode("utf-8", "surrogateescape" if _only_bytes(text) else "backslashreplace").decode(
        "utf-8", "backslashreplace"
    )


def _only_bytes(text: str) -> bool:
    """Whether all surrogates stand for bytes; Windows has others."""
    return all("\udc80" <= each <= "\udcff" for each in text if "\ud800" <= each <= "\udfff")


def in_a_line(text: object) -> str:
    r"""``text`` with all control characters as escapes, lines' ends as well: for names of files within a message.

    Example:
        >>> in_a_line("two\nlines") == r"two\nlines"
        True
    """
    return "".join(each if each.isprintable() or each == " " else _escape_any(each) for each in str(text))


def _escape(character: str) -> str:
    return character if character.isspace() and character != "\r" else _escape_any(character)


def _escape_any(character: str) -> str:
    return ascii(character)[1:-1]


def command_line(*parts: object) -> str:
    """The command of these parts, quoted so that a shell takes them as they are.

    Example:
        >>> command_line("fasteraa", "search", "--resume", "runs/my pets")
        "fasteraa search --resume 'runs/my pets'"
    """
    texts = [str(part) for part in parts]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)
