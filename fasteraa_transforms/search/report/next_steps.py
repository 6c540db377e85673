"""What to do after a search: sentences, each with a command or a line of code to copy."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fasteraa_transforms.search.data.table import DATASETS
from fasteraa_transforms.search.runtime.output import command_line

LONGER = 4
"""Times as many minutes are proposed for a race that was too short."""


def next_steps(
    folder: str | os.PathLike[str],
    source: Mapping[str, Any],
    *,
    nothing: bool,
    short_of: float | None = None,
    masks: bool = False,
    train_images: int | None = None,
    image_size: int | None = None,
) -> list[tuple[str, str]]:
    """What to do after a search.

    Args:
        folder: of the run.
        source: how the data set was opened; empty for one that was made in Python.
        nothing: whether no augmentation is kept.
        short_of: the minutes of a race that was too short for its images; None for one that was not.
        masks: whether the labels are masks, for which there is no evaluation.
        train_images: how many images were searched on; None for all.
        image_size: side that images were resized to; None for their own.

    Example:
        >>> for sentence, copied in next_steps("runs/pets", {"dataset": "/pets"}, nothing=False):
        ...     print(sentence, copied)
        Augment your training images with it: augment = FasterAutoAugment.from_pretrained('runs/pets/policy.json')
        Measure whether it helps a network of your choice, ...: fasteraa evaluate /pets ...
    """
    folder = Path(folder)
    policy = (folder / "policy.json").as_posix()
    steps = []
    if not nothing:
        line = f"augment = FasterAutoAugment.from_pretrained({policy!r})"
        steps.append(("Augment your training images with it:", line))
    opened = _opened(source)
    if opened and short_of is not None:
        more = ("--settings", folder / "settings.json", "--minutes", f"{LONGER * short_of:g}")
        command = _command("search", *opened, *more, "--out", f"{folder}-longer")
        steps.append(("The race was short for its images. Give it more time:", command))
    if opened and not masks and "shards" not in source:
        options = [] if train_images is None else ["--train-images", train_images]
        options += [] if image_size is None else ["--image-size", image_size]
        what = "none,trivialaugment" if nothing else f"none,trivialaugment,searched={policy}"
        command = _command("evaluate", *opened, "--policies", what, *options, "--seeds", 3)
        question = "whether none is right for" if nothing else "whether it helps"
        sentence = f"Measure {question} a network of your choice, beside augmentations that take no search:"
        steps.append((sentence, command))
    return steps


def _opened(source: Mapping[str, Any]) -> list[object]:
    """The arguments that name a data set on the command line."""
    if "shards" in source:
        return ["--shards", *source["shards"]]
    if "dataset" not in source:
        return []
    name = source["dataset"]
    places = ["--data-dir", source["data_dir"]] if name in DATASETS and name != "digits" else []
    return [name, *places]


def _command(name: str, *arguments: object) -> str:
    return command_line("fasteraa", name, *arguments)
