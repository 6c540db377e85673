"""Command lines read by tyro, with every mistake told in one line."""

import difflib
import io
import re
import sys
from contextlib import redirect_stderr
from typing import Any, NoReturn, TypeVar

import tyro

from fasteraa_transforms.help import Guide, help_text, options_of
from fasteraa_transforms.search.runtime.output import in_a_line, say

T = TypeVar("T")


def parse(kind: type[T], guide: Guide, *, prog: str, arguments: list[str] | None, default: T | None = None) -> T:
    """The command of a command line. A mistake ends the process with status 2 and one line on stderr.

    Args:
        kind: dataclass of the command.
        guide: what its help says.
        prog: how the command is called.
        arguments: its words; None takes those of the process.
        default: where its values start.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        say(help_text(kind, guide, prog=prog, default=default).rstrip())
        sys.exit(0)
    told = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # without an encoding, tyro draws its boxes in ASCII
    start: dict[str, Any] = {} if default is None else {"default": default}
    try:
        with redirect_stderr(told):
            command, unknown = tyro.cli(kind, prog=prog, args=words, return_unknown_args=True, add_help=False, **start)
    except SystemExit as stop:
        if stop.code in (0, None):  # a script that completes words in a shell
            raise
        told.seek(0)
        _refuse(_message(told.read()))
    if unknown:
        _refuse(_unknown(unknown, kind))
    return command


def _refuse(message: str) -> NoReturn:
    say(f"error: {message}; --help says more", error=True)
    sys.exit(2)


def _message(box: str) -> str:
    r"""What a box of tyro's says above its first rule, in one line.

    Example:
        >>> _message("╭─ Value error ────╮\n│ Error parsing x  │\n│ ──────────────── │\n│ more             │\n")
        'Error parsing x'
    """
    sections: list[list[str]] = [[]]  # before the first rule stands at most a title, after the second the help
    for line in box.splitlines():
        text = line.strip("│| ")
        if re.search("[─-]{4}[^a-z]*$", text):
            sections.append([])
        else:
            sections[-1].append(text)
    said = _shorter(" ".join(filter(None, sections[min(1, len(sections) - 1)])))
    return in_a_line(said).removesuffix(" .").rstrip(".") or "the arguments cannot be read"


_KINDS = {"INT": "a whole number", "FLOAT": "a number", "{True,False}": "True or False"}


def _shorter(said: str) -> str:
    """A message without the list of every type that a value was tried as.

    Example:
        >>> _shorter("Error parsing --side: no type matching {None}|INT|{own} could be instantiated from ['x']. Got …")
        "--side should be None, a whole number or own, but got 'x' instead"
    """
    found = re.match(r"Error parsing (--[\w-]+): no type matching (\S+) could be instantiated from \[(.*?)\]\.", said)
    if found is None:
        return said
    option, kinds, value = found.groups()
    *first, last = (_KINDS.get(kind, kind.strip("{}")) for kind in kinds.split("|"))
    return f"{option} should be {' or '.join(filter(None, (', '.join(first), last)))}, but got {value} instead"


def _unknown(words: list[str], kind: type) -> str:
    """The first word that was not understood, and the option that it resembles.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Options:
        ...     learning_rate: float = 0.1
        >>> _unknown(["--lerning-rate", "1"], Options)
        'unknown option --lerning-rate; did you mean --learning-rate?'
    """
    word = next((each for each in words if each.startswith("-")), None)
    if word is None:
        return f"unexpected argument {in_a_line(words[0])}"
    name = word.partition("=")[0].lstrip("-")
    names = [option.name for option in options_of(kind)]
    near = difflib.get_close_matches(name.replace("_", "-"), names, n=1)
    return f"unknown option {in_a_line(word)}" + (f"; did you mean --{near[0]}?" if near else "")
