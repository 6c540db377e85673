"""``fasteraa evaluate DATASET --policies … --out DIR``: does a policy help?

DATASET is as for ``fasteraa search``; a folder may also hold ``train`` and ``test`` (or ``val``).
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fasteraa_transforms.search.data.opening import open_splits
from fasteraa_transforms.search.data.table import DATASETS
from fasteraa_transforms.search.evaluation.compare import compare
from fasteraa_transforms.search.evaluation.conclusions import conclusions
from fasteraa_transforms.search.evaluation.controls import CONTROLS, parse_augmentations
from fasteraa_transforms.search.evaluation.settings import TrainingSettings
from fasteraa_transforms.search.evaluation.table import errors_of, format_table
from fasteraa_transforms.search.runtime.output import command_line, readable, say
from fasteraa_transforms.search.runtime.world import RanksLost, exit_with, join

try:
    import tyro
except ImportError as error:
    raise SystemExit(f'{error}; the evaluation needs: pip install "fasteraa_transforms[search]"') from error
from fasteraa_transforms.search.runtime.arguments import parse

_POLICIES = (
    "Controls, shipped policies and policy files, separated by commas; label=FILE gives one a name of its own in the "
    "table. Controls: " + "; ".join(f"{name}: {control.summary}" for name, control in CONTROLS.items()) + "."
)


_DATASET = (
    f"{', '.join(DATASETS)} (digits needs no file), a folder with one folder of images a class, one that holds train "
    "and test (or val), or module:callable."
)


@dataclass(frozen=True)
class Command:
    """Train the same network with each augmentation, interleaved, and compare their errors on the test images.

    Says in a sentence whether a policy has fewer errors than the best control. Leaves a folder with evaluation.html,
    evaluation.svg, table.md, rows.jsonl (one line a finished training), settings.json and TensorBoard events. The same
    command continues what was cut off; more policies and more seeds may be added to it.
    """

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help=_DATASET)] = "digits"
    policies: Annotated[str, tyro.conf.arg(help=_POLICIES)] = ",".join(
        name for name, control in CONTROLS.items() if control.compared
    )
    seeds: int = 3
    """Trainings with each augmentation."""
    out: Path | None = None
    """Folder of the evaluation; none: runs/ and the name of the dataset, -evaluation."""
    data_dir: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    download: bool = False
    """Let torchvision download the dataset (not possible for imagenet)."""
    paper: dict[str, float] = field(default_factory=dict)
    """Published errors in percent, for a column of the table: label error label error …"""
    settings: Annotated[TrainingSettings, tyro.conf.arg(name="")] = field(default_factory=TrainingSettings)


def main(arguments: list[str] | None = None, *, prog: str = "python -m fasteraa_transforms.search.evaluate") -> int:
    """Run the command line.

    The exit status is 0, 1 if another process has ended, 2 for unusable arguments or data, 130 if interrupted.
    """
    world = join()
    try:
        with world.quiet():
            command = parse(Command, prog=prog, arguments=arguments)
    except ValueError as error:  # a setting out of its range
        world.tell(f"error: {error}")
        return 2
    name = command.dataset if command.dataset in DATASETS else readable(Path(command.dataset).resolve().name)
    out = command.out or Path("runs") / f"{name}-evaluation"
    try:
        augmentations = parse_augmentations(command.policies)
        dataset, test = world.after_first(
            lambda: open_splits(command.dataset, data_dir=command.data_dir, download=command.download)
        )
        rows = compare(
            dataset,
            augmentations,
            command.settings,
            test=test,
            out=out,
            seeds=command.seeds,
            name=name,
            paper=command.paper,
            command=f"{world.program('evaluate')} {command_line(*(sys.argv[1:] if arguments is None else arguments))}",
        )
    except KeyboardInterrupt:
        world.tell(f"\ninterrupted; {out} keeps what is done, and the same command continues it")
        return 130
    except RanksLost as error:
        world.tell(f"error: {error}; {out} keeps what is done, and the same command continues it")
        return 1
    except (ValueError, OSError) as error:
        world.tell(f"error: {error}")
        return 2
    if world.first:
        say("\n".join(conclusions(errors_of(rows), CONTROLS.keys())))
        say("\n" + format_table(rows, paper=command.paper))
        say(f"\nwrote {out / 'evaluation.html'}, {out / 'table.md'} and {out / 'rows.jsonl'}")
    return 0


if __name__ == "__main__":
    exit_with(main)
