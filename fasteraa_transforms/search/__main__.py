"""``fasteraa search [DATASET] --out DIR``: find the augmentation that is best for images.

DATASET is a name of `DATASETS` (none: digits, which needs no download); a folder with one folder of images a class, or
with images and masks; or ``module:callable`` for a dataset of one's own. ``--shards`` reads webdataset's shards.
"""

import argparse
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fasteraa_transforms.help import Group, Guide
from fasteraa_transforms.search.contenders.table import CONTENDERS
from fasteraa_transforms.search.data.source import (
    absolute,
    check_consent,
    make_source,
    moved,
    name_of,
    open_source,
    read_source,
)
from fasteraa_transforms.search.data.table import DATASETS
from fasteraa_transforms.search.report.page import how_to_use
from fasteraa_transforms.search.run import search
from fasteraa_transforms.search.runtime.failures import SearchFailed
from fasteraa_transforms.search.runtime.files import DamagedFile, read_json
from fasteraa_transforms.search.runtime.folder import RunFolder, read_settings
from fasteraa_transforms.search.runtime.output import say
from fasteraa_transforms.search.runtime.world import RanksLost, exit_with, join
from fasteraa_transforms.search.settings import PRESETS, Settings

try:
    import tyro
except ImportError as error:
    raise SystemExit(f'{error}; the search needs: pip install "fasteraa_transforms[search]"') from error
from fasteraa_transforms.search.runtime.arguments import parse

_DATASET = (
    "Name of a data set; a folder with one folder of images for each class, with images and masks, or with train and "
    "val of these; or module:callable, which takes nothing and returns a dataset of (image, label) or (image, mask). "
    "None: digits."
)

GUIDE = Guide(
    examples={
        "digits --minutes 3": "the handwritten digits of scikit-learn, which need no download",
        "photos/ --minutes 10 --out runs/photos": "a folder with one folder of images for each class",
        "--resume runs/photos": "go on after a break",
    },
    groups=(
        Group(
            "data",
            (
                *("DATASET", "dataset", "shards", "data-dir", "download", "num-images", "balanced", "image-size"),
                *("padding", "flip", "ignore-label", "skip-broken"),
            ),
            "Data sets by name:",
            {name: row.summary for name, row in DATASETS.items()},
        ),
        Group(
            "what to try",
            ("contenders", "operations", "exclude", "max-magnitude"),
            "Contenders by name:",
            {name: kind.summary for name, kind in CONTENDERS.items()}
            | {"adversarial": "the search of Faster AutoAugment (Hataya et al. 2020)"},
        ),
        Group("budget", ("minutes", "trainings", "replicates", "race-epochs", "race-images", "processes")),
        Group("network and hardware", ("network", "device", "precision", "graphs")),
        Group("folder and start", ("out", "resume", "name", "description", "preset", "settings", "seed")),
        Group(
            "advanced (adversarial search)",
            (
                *("start", "epochs", "batch-size", "sub-policies", "stages", "objective", "critic", "guard"),
                *("classifier-epochs", "strengths", "multiplier-rate", "policy-learning-rate", "critic-learning-rate"),
                *("betas", "classification-weight", "gradient-penalty-weight", "penalty-every", "temperature"),
                *("selection-temperature", "sample-selection", "chunk-size", "prune", "affinity-diversity"),
            ),
            "Used with --preset paper, and where adversarial is among the contenders.",
        ),
    ),
    texts={
        "contenders": "What is tried: names from above, policy files, policy=NAME of a shipped policy, or "
        "module:callable. None given, as in the paper: the adversarial search alone, without a race.",
        "network": "Network of the race: resnet9-WIDTH, or another that fasteraa evaluate has for --model; none: a "
        "resnet9 as wide as the time allows.",
        "objective": "What the search lowers: wasserstein, the paper's; gradient-matching; or module:callable.",
    },
)


@dataclass(frozen=True)
class Command:
    """Find the augmentation that is best for images: contenders race, and the best one is kept.

    Contenders are published augmentations, uniform policies, policies calibrated on the images, and on request the
    adversarial search of Faster AutoAugment (Hataya et al. 2020). Leaves a folder with policy.json (for
    FasterAutoAugment.from_pretrained), settings.json, race.jsonl, diagnosis.json, contact_sheet.png and report.html,
    and says in plain words what to keep. --preset paper is the paper's search alone; it leaves metrics.jsonl,
    TensorBoard events and curves.png as well.
    """

    images: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(name="dataset", help=_DATASET)] = None
    dataset: str | None = None
    """The dataset, as an option."""
    shards: tuple[str, ...] = ()
    """In place of a dataset: webdataset shards, each sample an image and a .cls (extra webdataset)."""
    name: str | None = None
    """Name of the policy; none: that of the dataset. If digits, cifar10, ..., it is searched as that one."""
    description: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """Which images these are, in words; the policy's provenance keeps it."""
    out: Path | None = None
    """Folder of the run; none: runs/ and the name."""
    resume: Path | None = None
    """Continue the run in this folder, with its own dataset and settings. Other arguments that count:
    affinity-diversity; the new place of data that moved; and names of code, such as module:callable, which run only if
    they are given again."""
    data_dir: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    download: bool = False
    """Let torchvision download the dataset (not possible for imagenet)."""
    affinity_diversity: bool = False
    """At the end, measure affinity and diversity of the policy (Gontijo-Lopes et al. 2020) by six small trainings."""
    preset: Literal["default", "paper"] = "default"
    """Where the settings start: paper has those of Hataya et al. 2020, to reproduce it."""
    settings_file: Annotated[Path | None, tyro.conf.arg(name="settings")] = None
    """Where the settings start: those of this file, such as the settings.json of a run."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def main(arguments: list[str] | None = None, *, prog: str = "python -m fasteraa_transforms.search") -> int:
    """Run the command line.

    The exit status is 0, 1 if the search failed, 2 for unusable arguments or data, 130 if interrupted.
    """
    world = join()
    try:
        with world.quiet():
            command = _parse(arguments, prog)
        if command.resume is None:
            source, settings = _source(command), command.settings
            name = command.name or name_of(source)
            out = command.out or Path("runs") / name
        else:
            out = command.resume
            source, name, settings = world.from_first(lambda: _saved(command, out))
        policy = search(
            world.after_first(lambda: open_source(source, download=command.download)),
            settings,
            out=out,
            resume=command.resume is not None,
            name=name,
            source=absolute(source),
            affinity_diversity=command.affinity_diversity,
        )
    except KeyboardInterrupt as interrupt:  # a SearchInterrupted says how to go on
        world.tell(f"\n{str(interrupt) or 'interrupted before the first step'}")
        return 130
    except (SearchFailed, RanksLost) as error:
        world.tell(f"\nerror: {error}")
        return 1
    except (ValueError, OSError, ImportError) as error:
        world.tell(f"error: {error}")
        return 2
    if world.first:
        say(f"wrote {out / 'policy.json'}; {how_to_use(policy, out / 'policy.json')}")
    return 0


def _parse(arguments: list[str] | None, prog: str = "python -m fasteraa_transforms.search") -> Command:
    """The command line, with the settings of its preset or of its settings file as defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    first.add_argument("--settings", type=Path)
    known = first.parse_known_args(arguments)[0]
    if known.preset and known.settings:
        raise ValueError(f"one of preset and settings should be given, but got {known.preset} and {known.settings}")
    settings = PRESETS.get(known.preset, Settings())
    if known.settings is not None:
        settings = read_settings(known.settings)
    default = Command(settings=settings)
    return parse(Command, GUIDE, prog=prog, arguments=arguments, default=default)


def _source(command: Command) -> dict[str, Any]:
    """Where the images come from, as kept in the folder of the run."""
    given = [each for each in (command.images, command.dataset, command.shards) if each]
    if len(given) > 1:
        found = " and ".join(" ".join(each) if isinstance(each, tuple) else each for each in given)
        raise ValueError(f"one dataset or shards should be given, but got {found} instead")
    dataset = command.images or command.dataset or "digits"
    return make_source(dataset, shards=command.shards, data_dir=command.data_dir, description=command.description)


def _saved(command: Command, folder: Path) -> tuple[dict[str, Any], str, Settings]:
    """Source, name and settings of the run in ``folder``; what executes code has to be in the command as well."""
    run = RunFolder(folder)
    if not run.settings.is_file():
        raise FileNotFoundError(f"{folder} holds no run to resume")
    about = read_json(run.settings)
    if not about.get("source"):
        raise ValueError(f"{folder} was searched from Python; resume it there, with search(…, resume=True)")
    try:
        source, name = read_source(about["source"]), str(about["dataset"])
    except (ValueError, KeyError) as error:
        raise DamagedFile(f"{run.settings} does not say where the images of the run are ({error})") from error
    settings = run.load_settings()
    dataset = command.images or command.dataset
    data_dir = None if command.data_dir == Command.data_dir else command.data_dir
    source = moved(source, dataset=dataset, shards=command.shards, data_dir=data_dir)
    given = {**asdict(command.settings), "dataset": dataset, "shards": command.shards}
    check_consent(folder, source, asdict(settings), given)
    return source, name, settings


if __name__ == "__main__":
    exit_with(main)
