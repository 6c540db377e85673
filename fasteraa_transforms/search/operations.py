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


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=prog, description=__doc__.partition(": ")[2], allow_abbrev=False)
    parser.add_argument("dataset", nargs="?", default="digits", help="as for the search (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/operations"), help="folder to write (%(default)s)")
    parser.add_argument("--minutes", type=float, default=2.0, help="that it may take (%(default)s)")
    parser.add_argument("--budget", type=float, default=0.1, help="fraction of the accuracy to lose (%(default)s)")
    parser.add_argument("--operations", nargs="*", default=(), metavar="NAME", help="the only ones to look at")
    parser.add_argument("--exclude", nargs="*", default=(), metavar="NAME", help="operations to leave out")
    parser.add_argument("--num-images", type=int, help="size of the random subset")
    parser.add_argument("--image-size", type=int, help="side that images are resized and cropped to")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="of torchvision's datasets (%(default)s)")
    parser.add_argument("--networks", type=int, default=3, help="that are trained (%(default)s)")
    parser.add_argument("--network", help="name of the network, such as resnet9-16")
    parser.add_argument("--epochs", type=int, help="length of each training")
    parser.add_argument("--processes", type=int, help="trainings side by side")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (%(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
