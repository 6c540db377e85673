"""``fasteraa operations DATASET``: what each operation does to images and their classes.

DATASET is as for ``fasteraa search``.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from fasteraa_transforms.fields import FRACTION, POSITIVE, SEED, SIDE, check_fields
from fasteraa_transforms.help import Group, Guide
from fasteraa_transforms.search.contenders.contest import Notes, Rules, guard_curves
from fasteraa_transforms.search.contenders.restrict import parse_allowed
from fasteraa_transforms.search.data.opening import open_dataset
from fasteraa_transforms.search.data.source import make_source, name_of
from fasteraa_transforms.search.report.page import operation_lines, operations_page
from fasteraa_transforms.search.runtime.files import replace_text, to_document
from fasteraa_transforms.search.runtime.output import say
from fasteraa_transforms.search.runtime.world import exit_with
from fasteraa_transforms.search.settings import Settings
from fasteraa_transforms.search.task import load_task

try:
    import tyro
except ImportError as error:
    raise SystemExit(f'{error}; the operations need: pip install "fasteraa_transforms[search]"') from error
from fasteraa_transforms.search.runtime.arguments import parse

GUIDE = Guide(
    examples={
        "digits": "the handwritten digits of scikit-learn, which need no download",
        "photos/ --minutes 5 --out runs/photos-operations": "a folder with one folder of images for each class",
        "photos/ --operations rotate shear_x --tolerance 0.05": "two operations, up to a loss of 5 % of the accuracy",
    },
    groups=(
        Group("data", ("DATASET", "data-dir", "num-images", "image-size")),
        Group("what to try", ("operations", "exclude", "tolerance")),
        Group("time", ("minutes", "networks", "epochs", "processes")),
        Group("network and hardware", ("network", "device")),
        Group("folder and start", ("out", "seed")),
    ),
)


@dataclass(frozen=True)
class Command:
    """Measure what each operation does to images and their classes.

    Trains a few networks without augmentation. Each operation, at each magnitude, then augments images that the
    networks have not seen. The share that they still get right is the accuracy of that operation. Searches nothing.
    Leaves a folder with operations.html and operations.json.
    """

    dataset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(help="As for fasteraa search.")] = "digits"
    data_dir: Path = Path("data")
    """Where torchvision's datasets are."""
    num_images: int | None = field(default=None, metadata=POSITIVE)
    """Size of the random subset; none: as for the search."""
    image_size: int | Literal["own"] | None = field(default=None, metadata=SIDE)
    """Side in pixels that images are resized and cropped to; own: their own; none: as for the search."""
    operations: tuple[str, ...] = ()
    """The only operations to look at; none given: all 17."""
    exclude: tuple[str, ...] = ()
    """Operations to leave out."""
    tolerance: float = field(default=0.1, metadata=FRACTION)
    """Share of the accuracy that an operation may cost."""
    minutes: float = field(default=2.0, metadata=POSITIVE)
    """Minutes that it may take."""
    networks: int = field(default=3, metadata=POSITIVE)
    """How many networks are trained."""
    epochs: int | None = field(default=None, metadata=POSITIVE)
    """Length of each training; none: as the minutes allow."""
    processes: int | None = field(default=None, metadata=POSITIVE)
    """Trainings side by side; none: one for each thread of PyTorch's."""
    network: str | None = None
    """Such as resnet9-16; none: a resnet9 as wide as the minutes allow."""
    device: str = "auto"
    """cpu, cuda, ...; auto: cuda where there is one."""
    out: Path = Path("runs/operations")
    """Folder to write."""
    seed: int = field(default=0, metadata=SEED)
    """Of all draws."""


def main(arguments: list[str] | None = None, *, prog: str = "python -m fasteraa_transforms.search.operations") -> int:
    """Run the command line; the exit status is 0, 2 for unusable arguments or data, 130 if interrupted."""
    try:
        command = parse(Command, GUIDE, prog=prog, arguments=arguments)
        check_fields(command)
        dataset = open_dataset(command.dataset, data_dir=command.data_dir)
        settings = Settings(
            num_images=command.num_images, image_size=command.image_size, seed=command.seed, device=command.device
        )
        name = name_of(make_source(command.dataset, data_dir=command.data_dir))
        task = load_task(dataset, settings, name=name, tell=say)
        say(task.data.describe())
        rules = Rules(
            kinds=("none",),
            allowed=parse_allowed(command.operations, command.exclude),
            seconds=60 * command.minutes,
            seed=command.seed,
            network=command.network,
            epochs=command.epochs,
            processes=command.processes,
        )
        curves, plan = guard_curves(task.data, task.crop, rules, Notes(tell=say), networks=command.networks)
        say(f"{100 * curves.clean:.1f} % right as they are; {command.networks} networks ({plan.network})")
        for line in operation_lines(curves, command.tolerance):
            say(line)
        command.out.mkdir(parents=True, exist_ok=True)
        page = operations_page(name, curves, tolerance=command.tolerance)
        replace_text(command.out / "operations.html", page)
        replace_text(command.out / "operations.json", to_document({"plan": plan.to_json(), **curves.to_json()}))
        say(f"wrote {command.out / 'operations.html'}")
    except KeyboardInterrupt:
        say("\ninterrupted; nothing is left of it", error=True)
        return 130
    except (ValueError, OSError, ImportError) as error:
        say(f"error: {error}", error=True)
        return 2
    return 0


if __name__ == "__main__":
    exit_with(main)
