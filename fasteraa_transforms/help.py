"""The help of a command: what it does, examples, and its options in groups.

The options are the fields of the command's dataclass. A field's docstring is the help of its option, and its metadata
says which numbers it takes (see `fields`). The groups are written down beside the command. Options that no group names
are shown at the end, in a group of their own.
"""

import argparse
import ast
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fasteraa_transforms.fields import RANGE, Range

WIDEST = 100
"""Columns that a help has at most."""

SHOW_HELP = "Show this help and end."
"""Help of ``--help``."""

_METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


@dataclass(frozen=True)
class Group:
    """Some options of a command.

    Attributes:
        title: above the options.
        options: names of the options without dashes, in the order in which they are shown; in capitals those whose
            values are given without a name.
        about: sentences between the title and the options.
        table: names that an option of the group takes, such as contenders, each with its meaning.
    """

    title: str
    options: tuple[str, ...]
    about: str = ""
    table: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Guide:
    """What the help of a command says, beside the options themselves.

    Attributes:
        examples: lines of arguments, each with what it does.
        groups: all options.
        texts: helps of options, in place of docstrings that speak to readers of the code.
    """

    examples: Mapping[str, str]
    groups: tuple[Group, ...]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: as it is typed, without dashes; in capitals if its value is given without a name.
        kind: type of its value.
        help: what it does.
        default: its value where it is not given.
        metavar: what stands for its value.
        range: which numbers it takes, in words; "" if it takes none.
    """

    name: str
    kind: Any
    help: str
    default: Any
    metavar: str
    range: str = ""

    def text(self, about: str | None = None) -> str:
        """Its help for argparse, with its range and default at the end.

        Args:
            about: in place of what its help says it does.

        Example:
            >>> Option("epochs", int, "Passes.", 30, "N", "positive").text()
            'Passes. (positive; default: 30)'
        """
        told = _told(self.default)
        notes = "; ".join(filter(None, (self.range, told and f"default: {told}")))
        said = self.help if about is None else about
        return " ".join(filter(None, (said, notes and f"({notes})"))).replace("%", "%%")


def options_of(kind: type, default: Any = None) -> Iterator[Option]:
    """The options of a dataclass, and of those inside of it.

    Args:
        kind: dataclass of a command, as tyro takes it.
        default: an instance, with the values of options that are not given.

    Example:
        >>> @dataclass
        ... class Command:
        ...     learning_rate: float = 0.1
        >>> [(option.name, option.metavar, option.default) for option in options_of(Command)]
        [('learning-rate', 'X', 0.1)]
    """
    docstrings = _docstrings(kind)
    metadata = {each.name: each.metadata for each in fields(kind)}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
        value = getattr(default, name) if default is not None else _default(kind, name)
        if is_dataclass(inner) and isinstance(inner, type):
            yield from options_of(inner, value)
            continue

        def noted(what: str, notes: list[Any] = notes) -> str | None:
            """What a note of ``tyro.conf.arg`` has."""
            return next((found for note in notes if (found := getattr(note, what, None))), None)

        typed = (noted("name") or name).replace("_", "-")
        yield Option(
            name=typed.upper() if "Positional" in map(repr, notes) else typed,
            kind=inner,
            help=" ".join((noted("help") or docstrings.get(name, "")).split()),
            default=value,
            metavar=noted("metavar") or " ".join(_metavars(inner)),
            range=_range(inner, metadata[name].get(RANGE)),
        )


def _default(kind: type, name: str) -> Any:
    (found,) = (each for each in fields(kind) if each.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()


def _range(kind: Any, range: Range | None) -> str:
    """The range in words.

    Example:
        >>> from fasteraa_transforms.fields import POSITIVE
        >>> _range(int, POSITIVE[RANGE]), _range(tuple[float, ...], POSITIVE[RANGE]), _range(str, None)
        ('positive', 'each positive', '')
    """
    if range is None:
        return ""
    return f"each {range.words}" if get_origin(kind) is tuple else range.words


def _docstrings(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    except (OSError, SyntaxError):  # of a class that was typed at the prompt
        return {}
    assert isinstance(tree, ast.ClassDef)
    return {
        above.target.id: below.value.value
        for above, below in pairwise(tree.body)
        if isinstance(above, ast.AnnAssign)
        and isinstance(above.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _metavars(kind: Any) -> Iterator[str]:
    """What stands for each value of an option.

    Example:
        >>> [" ".join(_metavars(kind)) for kind in (int | None, tuple[str, ...], Literal["a", "b"], bool)]
        ['N', 'NAME ...', '{a,b}', '']
    """
    inner = [each for each in get_args(kind) if each not in (NoneType, ...)]
    if kind is bool:
        return
    if kind in _METAVARS:
        yield _METAVARS[kind]
    elif get_origin(kind) is Literal:
        yield "{" + ",".join(map(str, inner)) + "}"
    elif bool in inner and NoneType in get_args(kind):
        yield "{True,False}"
    else:
        for each in inner:
            yield from _metavars(each)
        if ... in get_args(kind) or get_origin(kind) is dict:
            yield "..."


def help_text(kind: type, guide: Guide, *, prog: str, default: Any = None) -> str:
    """The help of a command.

    Args:
        kind: dataclass of the command; its docstring says what the command does.
        guide: examples and groups.
        prog: how the command is called.
        default: an instance, with the values of options that are not given.

    Example:
        >>> @dataclass
        ... class Command:
        ...     "Train a network."
        ...     rate: float = 0.1
        >>> guide = Guide({"--rate 1": "slowly"}, (Group("training", ("rate",)),))
        >>> print(help_text(Command, guide, prog="train"))
        usage: train [OPTIONS]
        <BLANKLINE>
        Train a network.
        <BLANKLINE>
        examples:
          # slowly
          train --rate 1
        <BLANKLINE>
        training:
          --rate X    (default: 0.1)
        <BLANKLINE>
        other options:
          -h, --help  Show this help and end.
        <BLANKLINE>
    """
    options = {option.name: option for option in options_of(kind, default)}
    positional = " ".join(f"[{name}]" for name in options if name.isupper())
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=" ".join(filter(None, (prog, positional, "[OPTIONS]"))),
        description=described(inspect.cleandoc(kind.__doc__ or ""), guide.examples, prog),
        formatter_class=formatter,
        add_help=False,
    )
    named = {name for group in guide.groups for name in group.options}
    rest = Group("other options", tuple(name for name in options if name not in named))
    for group in (*guide.groups, rest):
        shown = parser.add_argument_group(group.title, _about(group) or None)
        for option in (options[name] for name in group.options):
            text = guide.texts.get(option.name, option.help)
            # Docstrings call other options by the names of their fields.
            _show(option, re.sub(r"\b[a-z]+(_[a-z]+)+\b", partial(_typed, options), text), shown)
    shown.add_argument("-h", "--help", action="help", help=SHOW_HELP)
    return parser.format_help()


def described(about: str, examples: Mapping[str, str], prog: str) -> str:
    """What a command does, for its parser: the first paragraph, the examples, and the other paragraphs.

    Args:
        about: paragraphs on what the command does.
        examples: lines of arguments, each with what it does.
        prog: how the command is called.
    """
    first, *others = (textwrap.fill(" ".join(part.split()), columns()) for part in about.split("\n\n"))
    lines = (f"  # {what}\n  {prog} {arguments}".rstrip() for arguments, what in examples.items())
    return "\n\n".join([first, "\n".join(["examples:", *lines]), *others])


def formatter(prog: str) -> argparse.HelpFormatter:
    """Writes helps as wide as the terminal, and leaves the lines of descriptions as they are."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=24, width=columns())


def columns() -> int:
    """Columns of a help: two fewer than the terminal has, and at most `WIDEST`."""
    return min(shutil.get_terminal_size().columns - 2, WIDEST)


def _typed(options: Mapping[str, Option], word: re.Match[str]) -> str:
    name = word[0].replace("_", "-")
    return f"--{name}" if name in options else word[0]


def _about(group: Group) -> str:
    wide = max(map(len, group.table), default=0)
    width = columns() - 2
    rows = (
        textwrap.fill(what, width, initial_indent=f"  {name:{wide}}  ", subsequent_indent=" " * (wide + 4))
        for name, what in group.table.items()
    )
    return "\n".join([*([textwrap.fill(group.about, width)] if group.about else []), *rows])


def _show(option: Option, text: str, group: Any) -> None:
    """Add an option to a group of the help's parser."""
    text = option.text(text)
    if option.kind is bool:
        group.add_argument(f"--{option.name}", action=argparse.BooleanOptionalAction, help=text)
    elif option.name.isupper():
        group.add_argument(option.name, help=text)
    else:
        group.add_argument(f"--{option.name}", metavar=option.metavar, help=text)


def _told(value: Any) -> str:
    """The default as it is shown; "" where the help says what the absence of a value means.

    Example:
        >>> [_told(each) for each in (None, False, True, (0.0, 0.999), 1e-3, "auto", ())]
        ['', '', 'yes', '0 0.999', '0.001', 'auto', '']
    """
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(_told, value))
    return str(value)
