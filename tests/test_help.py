"""The helps of the commands: every option in one group, examples that the commands take, and 80 columns."""

import argparse
import dataclasses
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tyro

from fasteraa_transforms.__main__ import _parser, main
from fasteraa_transforms.fields import EVEN, FRACTION, NOT_NEGATIVE, POSITIVE, RANGE, SIDE
from fasteraa_transforms.help import Group, Guide, help_text, options_of
from fasteraa_transforms.search import __main__ as search_cli
from fasteraa_transforms.search import evaluate, operations
from fasteraa_transforms.search.contenders.table import CONTENDERS
from fasteraa_transforms.search.evaluation.controls import CONTROLS
from fasteraa_transforms.search.runtime.arguments import parse

COMMANDS = {"search": search_cli, "evaluate": evaluate, "operations": operations}
each_command = pytest.mark.parametrize("name", COMMANDS)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command line prints on a terminal of 80 columns."""

    def show(*arguments: str) -> str:
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as stop:
            main([*arguments])
        assert stop.value.code == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return show


def groups(text: str) -> dict[str, list[str]]:
    """The options below each title of a help, as they are typed."""
    found: dict[str, list[str]] = {}
    for title, below in re.findall(r"^(\S[^\n]*):\n((?:  [^\n]*\n|\n(?=  ))+)", text, re.MULTILINE):
        found[title] = re.findall(r"^  (--[\w-]+|-h|DATASET|POLICY|PHOTO|[AB])\b", below, re.MULTILINE)
    return {title: options for title, options in found.items() if title != "examples"}


@each_command
def test_every_option_is_in_exactly_one_group(name: str, shown: Any, capsys: pytest.CaptureFixture[str]) -> None:
    module = COMMANDS[name]
    with pytest.raises(SystemExit):
        tyro.cli(module.Command, args=["--help"])
    taken = {*re.findall(r"^ *[│|]? *(--[a-z][\w-]*)", capsys.readouterr().out, re.MULTILINE), "DATASET"}
    assert len(taken) > 14
    counts = Counter(option for options in groups(shown(name, "--help")).values() for option in options)
    assert counts.pop("-h") == 1
    assert set(counts) == taken
    assert set(counts.values()) == {1}
    assert {option for group in module.GUIDE.groups for option in group.options} == {
        option.removeprefix("--") for option in taken
    }


def _looking(name: str) -> list[argparse.Action]:
    """The options of a command that looks at policies."""
    (commands,) = (each for each in _parser()._actions if each.choices)
    return list(commands.choices[name]._actions)  # type: ignore[index]


@pytest.mark.parametrize("name", ["show", "diff", "list"])
def test_every_option_of_a_command_that_looks_is_in_exactly_one_group(name: str, shown: Any) -> None:
    counts = Counter(option for options in groups(shown(name, "-h")).values() for option in options)
    assert counts == dict.fromkeys(((each.option_strings or [each.metavar])[0] for each in _looking(name)), 1)


def _below(text: str, option: str) -> str:
    """The help of an option, in one line."""
    found = re.search(rf"^  {option}\b.*\n(?:    .*\n)*", text, re.MULTILINE)
    assert found, option
    return " ".join(found[0].split())


@each_command
def test_the_help_of_a_number_says_its_range_and_its_default(name: str, shown: Any) -> None:
    text = shown(name, "--help")
    kind = COMMANDS[name].Command
    made = [kind, *(each for each in get_type_hints(kind).values() if dataclasses.is_dataclass(each))]
    numbers = [each for one in made for each in dataclasses.fields(one) if RANGE in each.metadata]
    assert len(numbers) > 6
    assert {each.name for each in numbers} >= {"seed" if name != "evaluate" else "seeds", "epochs"}
    for each in numbers:
        told = _below(text, f"--{each.name.replace('_', '-')}")
        assert each.metadata[RANGE].words in told
        default = each.default if isinstance(each.default, tuple) else (each.default,)
        if default != (None,):
            assert f"; default: {' '.join(f'{value:g}' for value in default)})" in told


def test_the_help_of_show_says_the_range_and_the_default_of_a_number(shown: Any) -> None:
    text = shown("show", "--help")
    numbers = [each for each in _looking("show") if each.type is int]
    assert {each.dest for each in numbers} == {"samples", "limit", "size", "tile", "seed"}
    for each in numbers:
        words = "in [0, 4294967296)" if each.dest == "seed" else "positive"
        default = "" if each.default is None else f"; default: {each.default}"
        assert _below(text, f"--{each.dest}").endswith(f"({words}{default})")


def test_ranges_in_words() -> None:
    ranges = {"a": POSITIVE, "b": NOT_NEGATIVE, "c": FRACTION, "d": EVEN, "e": SIDE}
    assert {name: each[RANGE].words for name, each in ranges.items()} == {
        "a": "positive",
        "b": "not negative",
        "c": "in [0, 1)",
        "d": "not negative, even",
        "e": "at least 2 pixels",
    }


def test_the_groups_of_a_search(shown: Any) -> None:
    text = shown("search", "--help")
    assert list(groups(text)) == [
        *("data", "what to try", "budget", "network and hardware", "folder and start"),
        *("advanced (adversarial search)", "other options"),
    ]
    for kind in CONTENDERS:
        assert re.search(rf"^    {kind} ", text, re.MULTILINE), kind
    for control in CONTROLS:
        assert re.search(rf"^    {control} ", shown("evaluate", "--help"), re.MULTILINE), control


@pytest.mark.parametrize(("name", "count"), {**dict.fromkeys([*COMMANDS, "show", "diff"], 3), "list": 2}.items())
def test_examples_come_first_and_are_taken(name: str, count: int, shown: Any) -> None:
    text = shown(name, "--help")
    examples = re.findall(rf"^  # [^\n]+\n  (fasteraa {name}[^\n]*)$", text, re.MULTILINE)
    assert len(examples) == count
    assert text.index(examples[-1]) < text.index(f"\n{next(iter(groups(text)))}:\n")
    assert text.count("\n", 0, text.index(examples[0])) < 10
    for example in examples:
        arguments = shlex.split(example)[2:]
        if name == "search":
            command: Any = search_cli._parse(arguments)
            assert command.resume or command.settings.minutes
        elif name == "evaluate":
            command = parse(evaluate.Command, evaluate.GUIDE, prog="evaluate", arguments=arguments)
            assert command.dataset == arguments[0]
        elif name == "operations":
            command = parse(operations.Command, operations.GUIDE, prog="operations", arguments=arguments)
            assert command.dataset == arguments[0]
        else:
            options = _parser().parse_args([name, *arguments[: arguments.index("|") if "|" in arguments else None]])
            assert options.command == name


@pytest.mark.parametrize("name", ["", "search", "evaluate", "operations", "show", "diff", "list"])
def test_a_help_fits_80_columns(name: str, shown: Any) -> None:
    assert [line for line in shown(*filter(None, [name]), "--help").splitlines() if len(line) > 80] == []


def test_a_help_tells_the_defaults_of_the_preset(shown: Any) -> None:
    usual, paper = (" ".join(shown("search", *more, "--help").split()) for more in ((), ("--preset", "paper")))
    assert "the paper: 20. (positive; default: 30)" in usual
    assert "the paper: 20. (positive; default: 20)" in paper
    assert "(each positive; default: 1 0.5 0.25)" in usual
    assert "(each positive; default: 1 0.5 0.25)" not in paper


def test_the_module_commands_have_the_same_help(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for prog in ("fasteraa search", "python -m fasteraa_transforms.search"):
        with pytest.raises(SystemExit):
            search_cli.main(["-h"], prog=prog)
        texts.append(capsys.readouterr().out.replace(prog, "PROG"))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(("typed", "meant"), [("--setings", "--settings"), ("--descripton", "--description")])
def test_what_is_proposed_is_an_option(typed: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search_cli.main([typed, "x"])
    assert capsys.readouterr().err == f"error: unknown option {typed}; did you mean {meant}?; --help says more\n"


@dataclass(frozen=True)
class Inner:
    """Options inside of a command."""

    side_length: int | None = None
    """Pixels. 100 % of the `side_length`,
    or none."""
    rates: tuple[float, ...] = (0.5, 1.0)


@dataclass(frozen=True)
class Outer:
    """Do something.

    And say how.
    """

    folder: Path = Path("here")
    """Where."""
    inner: Inner = Inner()
    fast: bool = True
    flip: bool | None = None


def test_options_are_read_from_dataclasses() -> None:
    found = {option.name: (option.metavar, option.default, option.help) for option in options_of(Outer)}
    assert found == {
        "folder": ("PATH", Path("here"), "Where."),
        "side-length": ("N", None, "Pixels. 100 % of the `side_length`, or none."),
        "rates": ("X ...", (0.5, 1.0), ""),
        "fast": ("", True, ""),
        "flip": ("{True,False}", None, ""),
    }


def test_an_option_of_no_group_is_shown_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    guide = Guide({"--fast": "quickly"}, (Group("where", ("folder",), "Names:", {"here": "this one"}),))
    text = help_text(Outer, guide, prog="do", default=Outer(inner=Inner(rates=(2.0,))))
    assert groups(text) == {
        "where": ["--folder"],
        "other options": ["--side-length", "--rates", "--fast", "--flip", "-h"],
    }
    assert text.startswith(
        "usage: do [OPTIONS]\n\nDo something.\n\nexamples:\n  # quickly\n  do --fast\n\nAnd say how.\n"
    )
    assert "  Names:\n    here  this one\n" in text
    assert "Pixels. 100 % of the `--side-length`, or none." in " ".join(text.split())
    assert "(default: 2)" in text
    assert "--fast, --no-fast" in text
