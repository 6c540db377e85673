"""``fasteraa operations DATASET``: what each operation does to images and their classes.

Trains a few networks without augmentation, shows each the images that it has not seen, augmented by one operation at
one magnitude, and counts what it still gets right. Searches nothing.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn

from fasteraa_transforms.search.contenders.contest import Notes, Rules, guard_curves
from fasteraa_transforms.search.contenders.restrict import parse_allowed
from fasteraa_transforms.search.data.opening import open_dataset
from fasteraa_transforms.search.data.source import make_source, name_of
from fasteraa_transforms.search.fields import FRACTION, POSITIVE, check_number
from fasteraa_transforms.search.report.page import operation_lines, operations_page
from fasteraa_transforms.search.runtime.help import SHOW_HELP, described, formatter
from fasteraa_transforms.search.runtime.output import in_a_line, say
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import load_task

_NUMBERS = (
    ("minutes", float, POSITIVE),
    ("budget", float, FRACTION),
    ("networks", int, POSITIVE),
    ("epochs", int, POSITIVE),
    ("processes", int, POSITIVE),
)
"""Options that are no settings, and what they hold."""


def main(arguments: list[str] | None = None, *, prog: str = "python -m fasteraa_transforms.search.operations") -> int:
    """Run the command line; the exit status is 0, or 2 with one line on stderr if something cannot be used."""
    options = _parser(prog).parse_args(arguments)
    try:
        for name, kind, range in _NUMBERS:
            if (value := getattr(options, name)) is not None:
                check_number(name, value, kind, range)
        dataset = open_dataset(options.dataset, data_dir=options.data_dir)
        settings = Settings(
            num_images=options.num_images, image_size=options.image_size, seed=options.seed, device=options.device
        )
        name = name_of(make_source(options.dataset, data_dir=options.data_dir))
        task = load_task(dataset, settings, name=name, tell=say)
        say(task.data.describe())
        rules = Rules(
            kinds=("none",),
            allowed=parse_allowed(options.operations, options.exclude),
            seconds=60 * options.minutes,
            seed=options.seed,
            network=options.network,
            epochs=options.epochs,
            processes=options.processes,
        )
        curves, plan = guard_curves(task.data, task.crop, rules, Notes(tell=say), networks=options.networks)
        say(f"{100 * curves.clean:.1f} % right as they are; {options.networks} networks ({plan.network})")
        for line in operation_lines(curves, options.budget):
            say(line)
        options.out.mkdir(parents=True, exist_ok=True)
        page = operations_page(name, curves, budget=options.budget)
        (options.out / "operations.html").write_text(page, encoding="utf-8")
        found = json.dumps({"plan": plan.to_json(), **curves.to_json()}, indent=2) + "\n"
        (options.out / "operations.json").write_text(found, encoding="utf-8")
        say(f"wrote {options.out / 'operations.html'}")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {in_a_line(message)}; --help says more\n")


def _size(text: str) -> int | str:
    return text if text == "own" else int(text)


_size.__name__ = "image size"  # as argparse calls it

_EXAMPLES = {
    "digits": "the handwritten digits of scikit-learn, which need no download",
    "photos/ --minutes 5 --out runs/photos-operations": "a folder with one folder of images for each class",
    "photos/ --operations rotate shear_x --budget 0.05": "two operations, up to a loss of 5 % of the accuracy",
}


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [DATASET] [OPTIONS]",
        description=described("Measure w" + __doc__.partition(": w")[2], _EXAMPLES, prog),
        formatter_class=formatter,
        add_help=False,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data").add_argument
    data("dataset", nargs="?", default="digits", metavar="DATASET", help="As for fasteraa search. (default: digits)")
    torchvision = "Where torchvision's datasets are. (default: data)"
    data("--data-dir", type=Path, default=Path("data"), metavar="PATH", help=torchvision)
    data("--num-images", type=int, metavar="N", help="Size of the random subset; none: as for the search.")
    size = "Side in pixels that images are resized and cropped to; own: their own; none: as for the search."
    data("--image-size", type=_size, metavar="N|own", help=size)
    what = parser.add_argument_group("what to try").add_argument
    what("--operations", nargs="*", default=(), metavar="NAME", help="The only operations to look at; none: all 17.")
    what("--exclude", nargs="*", default=(), metavar="NAME", help="Operations to leave out.")
    lost = "Share of the accuracy that an operation may cost. (default: 0.1)"
    what("--budget", type=float, default=0.1, metavar="X", help=lost)
    time = parser.add_argument_group("time").add_argument
    time("--minutes", type=float, default=2.0, metavar="X", help="Minutes that it may take. (default: 2)")
    time("--networks", type=int, default=3, metavar="N", help="How many networks are trained. (default: 3)")
    time("--epochs", type=int, metavar="N", help="Length of each training; none: as the minutes allow.")
    time("--processes", type=int, metavar="N", help="Trainings side by side; none: one for each thread of PyTorch's.")
    network = parser.add_argument_group("network and hardware").add_argument
    network("--network", metavar="NAME", help="Such as resnet9-16; none: a resnet9 as wide as the minutes allow.")
    network("--device", default="auto", metavar="NAME", help="cpu, cuda, ...; auto: cuda where there is one.")
    run = parser.add_argument_group("folder and start").add_argument
    folder = "Folder to write. (default: runs/operations)"
    run("--out", type=Path, default=Path("runs/operations"), metavar="PATH", help=folder)
    run("--seed", type=int, default=0, metavar="N", help="Of all draws. (default: 0)")
    parser.add_argument_group("other options").add_argument("-h", "--help", action="help", help=SHOW_HELP)
    return parser


if __name__ == "__main__":
    sys.exit(main())
