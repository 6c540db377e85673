"""``fasteraa evaluate DATASET --policies … --out DIR``: does a policy help?

DATASET is as for ``fasteraa search``; a folder may also hold ``train`` and ``test`` (or ``val``).
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fasteraa_transforms.fields import POSITIVE
from fasteraa_transforms.help import Group, Guide
from fasteraa_transforms.search.data.opening import open_splits
from fasteraa_transforms.search.data.table import DATASETS
from fasteraa_transforms.search.evaluation.compare import compare
from fasteraa_transforms.search.evaluation.conclusions import conclusions
from fasteraa_transforms.search.evaluation.controls import CONTROLS, parse_augmentations
from fasteraa_transforms.search.evaluation.settings import TrainingSettings
from fasteraa_transforms.search.evaluation.table import errors_of, format_table
from fasteraa_transforms.search.networks.table import NETWORKS
from fasteraa_transforms.search.runtime.output import command_line, readable, say
from fasteraa_transforms.search.runtime.world import RanksLost, exit_with, join

try:
    import tyro
except ImportError as error:
    raise SystemExit(f'{error}; the evaluation needs: pip install "fasteraa_transforms[search]"') from error
from fasteraa_transforms.search.runtime.arguments import parse

_POLICIES = (
    "Controls, shipped policies and policy files, separated by commas; label=FILE gives one a name of its own in the "
    "table."
)
_DATASET = (
    "Name of a data set; a folder with one folder of images for each class, or one that holds train and test (or val) "
    "of these; or module:callable, which takes nothing and returns a dataset of (image, label)."
)

GUIDE = Guide(
    examples={
        "digits --train-images 150 --batch-size 50": "the controls alone, on handwritten digits",
        "photos/ --policies none,mine=runs/photos/policy.json": "whether the policy of a search helps",
        "cifar10 --download --policies none,cifar10 --seeds 5": "a shipped policy on the data set it was searched on",
    },
    groups=(
        Group(
            "data",
            ("DATASET", "data-dir", "download", "train-images", "split-seed", "image-size", "padding", "flip"),
            "Data sets by name:",
            {name: row.summary for name, row in DATASETS.items()},
        ),
        Group(
            "what to compare",
            ("policies", "seeds", "cutout", "cutout-after", "paper"),
            "Controls by name:",
            {name: control.summary for name, control in CONTROLS.items()},
        ),
        Group(
            "network and training",
            ("model", "epochs", "batch-size", "learning-rate", "weight-decay", "warmup", "gradient-clip"),
            "Networks by name:",
            {name: row.summary for name, row in NETWORKS.items()},
        ),
        Group("folder and hardware", ("out", "device", "precision", "compile")),
    ),
    texts={
        "model": "A name from above, one of torchvision's, or module:callable, which takes the numbers of channels and "
        "of classes; none: small for digits and images of up to 16 pixels, for larger ones on a CPU resnet9, else "
        "wrn40_2 up to 64 pixels, then resnet50.",
    },
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
    seeds: int = field(default=3, metadata=POSITIVE)
    """Trainings with each augmentation."""
    out: Path | None = None
    """Folder of the evaluation; none: runs/ and the name of the dataset, -evaluation."""
    data_dir: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    download: bool = False
    """Let torchvision download the dataset (not possible for imagenet)."""
    paper: Annotated[dict[str, float], tyro.conf.arg(metavar="LABEL ERROR ...")] = field(default_factory=dict)
    """Published errors in percent, for a column of the table."""
    settings: Annotated[TrainingSettings, tyro.conf.arg(name="")] = field(default_factory=TrainingSettings)


def main(arguments: list[str] | None = None, *, prog: str = "python -m fasteraa_transforms.search.evaluate") -> int:
    """Run the command line.

    The exit status is 0, 1 if another process has ended, 2 for unusable arguments or data, 130 if interrupted.
    """
    world = join()
    try:
        with world.quiet():
            command = parse(Command, GUIDE, prog=prog, arguments=arguments)
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
