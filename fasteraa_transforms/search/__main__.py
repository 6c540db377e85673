"""``python -m fasteraa_transforms.search [DATASET] --out DIR``: search a policy on images.

DATASET is digits (the default; comes with scikit-learn, needs no download), cifar10, cifar100, svhn, imagenet, or a
folder with one folder of images a class.
"""

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from fasteraa_transforms.search.data import RECIPES, open_dataset
from fasteraa_transforms.search.run import RunFolder, search
from fasteraa_transforms.search.settings import PRESETS, Settings

try:
    import tyro
except ImportError as error:
    raise SystemExit(f'{error}; the search needs: pip install "fasteraa_transforms[search]"') from error


@dataclass(frozen=True)
class Command:
    """Search an augmentation policy on images, by Faster AutoAugment (Hataya et al. 2020).

    Leaves a folder with policy.json (for FasterAutoAugment.from_pretrained), settings.json, metrics.jsonl, TensorBoard
    events, checkpoint.pt, diagnosis.json, curves.png and contact_sheet.png, and says in plain words what the search
    did.
    """

    dataset: tyro.conf.Positional[str] = "digits"
    """digits (needs no file), cifar10, cifar100, svhn, imagenet, or a folder with one folder of images a class."""
    out: Path | None = None
    """Folder of the run; none: runs/ and the name of the dataset."""
    resume: Path | None = None
    """Continue the run in this folder, with its own dataset and settings; other arguments are not used."""
    data_dir: Path = Path("data")
    """Where torchvision's datasets are, or are downloaded to."""
    download: bool = False
    """Let torchvision download the dataset (not possible for imagenet)."""
    preset: Literal["default", "paper"] = "default"
    """Where the settings start: paper has those of Hataya et al. 2020, to reproduce it."""
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 2 for unusable arguments or data, 130 if interrupted."""
    try:
        command = _parse(arguments)
        if command.resume is None:
            dataset, data_dir, settings = command.dataset, str(command.data_dir), command.settings
            name = dataset if dataset in RECIPES else Path(dataset).resolve().name
            out = command.out or Path("runs") / name
        else:
            out = command.resume
            dataset, data_dir, name, settings = _saved(out)
        search(
            open_dataset(dataset, data_dir=data_dir, download=command.download),
            settings,
            out=out,
            resume=command.resume is not None,
            name=name,
            source={"dataset": dataset, "data_dir": data_dir},
        )
    except KeyboardInterrupt as interrupt:  # a SearchInterrupted says how to go on
        print(f"\n{str(interrupt) or 'interrupted before the first step'}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {out / 'policy.json'}; augment with FasterAutoAugment.from_pretrained({str(out / 'policy.json')!r})")
    return 0


def _parse(arguments: list[str] | None) -> Command:
    """The command line, with the settings of its preset as defaults."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    settings = PRESETS.get(first.parse_known_args(arguments)[0].preset, Settings())
    default = Command(settings=settings)
    return tyro.cli(Command, prog="python -m fasteraa_transforms.search", args=arguments, default=default)


def _saved(folder: Path) -> tuple[str, str, str, Settings]:
    """Dataset, its place, name and settings of the run in ``folder``."""
    run = RunFolder(folder)
    if not run.settings.is_file():
        raise FileNotFoundError(f"{folder} holds no run to resume")
    saved = json.loads(run.settings.read_text())
    if not saved["source"]:
        raise ValueError(f"{folder} was searched from Python; resume it there, with search(…, resume=True)")
    return saved["source"]["dataset"], saved["source"]["data_dir"], saved["dataset"], run.load_settings()


if __name__ == "__main__":
    sys.exit(main())
