"""The command line: ``fasteraa COMMAND …``, or ``python -m fasteraa_transforms COMMAND …``.

The commands of the search are other modules' own. They are imported when one of them is called: the libraries of the
search take seconds to import, and belong to the extra ``search``.
"""

import argparse
import difflib
import importlib
import os
import sys
from functools import partial
from typing import NoReturn

from PIL import Image

import fasteraa_transforms
from fasteraa_transforms import commands, streams
from fasteraa_transforms.policy.errors import printable

SEARCHING = {
    "search": ("fasteraa_transforms.search.__main__", "find the augmentation that is best for images of yours"),
    "evaluate": (
        "fasteraa_transforms.search.evaluate",
        "train with policies and controls, and compare errors",
    ),
    "operations": ("fasteraa_transforms.search.operations", "what each operation does to images and their classes"),
}
"""Commands that need the extra ``search``: the module of each, and what it does."""

_EXAMPLES = """\
examples:
  fasteraa search photos/ --minutes 10 --out runs/photos
  fasteraa evaluate photos/ --policies none,mine=runs/photos/policy.json
  fasteraa show runs/photos/policy.json photo.jpg --out page.html
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after the program's name; None takes those of the process.

    Returns:
        The exit status: 0, 2 with one line on stderr if something cannot be used, or that of a command of the search.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in SEARCHING:
        return _search(words[0], words[1:])
    if words and not words[0].startswith("-") and words[0] not in commands.SUMMARIES:
        known = [*SEARCHING, *commands.SUMMARIES]
        near = difflib.get_close_matches(words[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        streams.tell(f"error: unknown command {printable(repr(words[0]))}; {hint}")
        return 2
    options = _parser().parse_args(words)
    try:
        options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk is said in a line
    except BrokenPipeError:  # whoever read standard output has seen enough
        streams.silence(sys.stdout)
    except (ValueError, OSError, ImportError, Image.DecompressionBombError) as error:
        streams.tell(f"error: {printable(' '.join(str(error).split()))}")
        return 2
    return 0


def run() -> NoReturn:
    """Run the command line of the process, and exit with its status.

    Modules of the working directory are found as well, after all others: ``fasteraa search mine:images`` works where
    ``python -m fasteraa_transforms search mine:images`` does.
    """
    if not sys.flags.safe_path and not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())
    if sys.argv[1:2] and sys.argv[1] in SEARCHING and "TORCHELASTIC_RUN_ID" in os.environ:
        # One of several processes that fails has to end at once.
        importlib.import_module("fasteraa_transforms.search.runtime.world").exit_with(main)
    with streams.readers_may_leave():
        sys.exit(main())


def _search(name: str, arguments: list[str]) -> int:
    """Run a command of the search."""
    try:
        module = importlib.import_module(SEARCHING[name][0])
    except ImportError as error:
        if (error.name or "").partition(".")[0] == __package__:
            raise
        hint = 'pip install "fasteraa_transforms[search]"'
        streams.tell(f"error: {name} needs libraries that are missing ({error}): {hint}")
        return 2
    status: int = module.main(arguments, prog=f"fasteraa {name}")
    return status


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; --help says more\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fasteraa",
        usage="fasteraa COMMAND …",
        description=_EXAMPLES,
        epilog="fasteraa COMMAND --help says more of each",
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=20),
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fasteraa_transforms {fasteraa_transforms.__version__}")
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", title="commands", prog="fasteraa"
    )
    for name, (_, summary) in SEARCHING.items():
        subparsers.add_parser(name, help=summary)
    commands.add_parsers(subparsers, allow_abbrev=False)
    return parser


if __name__ == "__main__":
    run()
