"""Data sets opened by their name, their folder, or what returns them."""

import re
from pathlib import Path
from typing import cast

from fasteraa_transforms.search.data.folders import ClassFolder, Splits, find_splits
from fasteraa_transforms.search.data.masks import MaskFolder
from fasteraa_transforms.search.data.samples import MapDataset, Samples
from fasteraa_transforms.search.data.table import DATASETS, Opener, find_dataset
from fasteraa_transforms.search.settings import find_callable


def open_dataset(name: str, *, data_dir: str | Path = "data", download: bool = False) -> Samples:
    """The training split of a named data set, a folder of images, or a dataset of one's own.

    Args:
        name: a key of `DATASETS`; the path of a folder: with one folder of images a class (`ClassFolder`), with
            ``images`` and ``masks`` (`MaskFolder`), or with splits, of which ``train`` is taken; or
            ``module:callable``, where the callable takes no argument and returns a map-style or an iterable dataset.
        data_dir: where torchvision finds or puts its files.
        download: whether torchvision may download them.

    Raises:
        ValueError: none of these; a folder with less than two classes, or whose layout cannot be told; images without
            masks; or files that are not there. Says what to do.

    Example:
        >>> len(open_dataset("fasteraa_transforms.search:Digits"))
        1797
    """
    if (train := find_dataset(name).train) is not None:
        return _named(name, train, str(data_dir), download)
    if name and Path(name).is_dir():
        return _open_split(Path(name))
    if ":" in name:
        if re.search(r"[/\\]", name):  # C:\data\pets
            raise ValueError(f"dataset should be a folder of images, but there is no such folder: {name}")
        return _call(name)
    known = ", ".join(DATASETS)
    raise ValueError(
        f"dataset should be one of {known}, a folder of images, or module:callable, but got {name!r} instead"
    )


def open_splits(
    name: str, *, data_dir: str | Path = "data", download: bool = False
) -> tuple[MapDataset, MapDataset | None]:
    """The training and the test split of a named data set or of a folder of images.

    Args:
        name: as for `open_dataset`. Of a folder with splits, ``test`` is the test split, or else ``val``.
        data_dir: where torchvision finds or puts its files.
        download: whether torchvision may download them.

    Returns:
        Both, or all images and None where there is no official test split (digits, other folders).

    Raises:
        ValueError: as of `open_dataset`; or the splits have different classes, or images can only be iterated over.
    """
    train = open_dataset(name, data_dir=data_dir, download=download)
    if not hasattr(train, "__getitem__"):
        raise ValueError(f"{name} should be a map-style dataset, but got a {type(train).__name__} instead")
    train = cast(MapDataset, train)
    if name in DATASETS:
        test = DATASETS[name].test
        return train, None if test is None else _named(name, test, str(data_dir), download, split="test images of ")
    splits = _splits(Path(name)) if name and Path(name).is_dir() else None
    if splits is None or not splits.test:
        return train, None
    other = open_folder(splits.test[0])
    if getattr(train, "classes", None) != getattr(other, "classes", None):
        raise ValueError(
            f"{splits.train.name} and {splits.test[0].name} of {name!r} should have the same classes, but they differ"
        )
    return train, other


def _named(name: str, opened: Opener, root: str, download: bool, *, split: str = "") -> MapDataset:
    """A split of a row of the table."""
    try:
        return opened(root, download)
    except (RuntimeError, FileNotFoundError) as error:
        found = f"was not found in {root!r} ({str(error).splitlines()[0]})"
        if split:
            raise ValueError(f"the {split}{name} {found.replace('was', 'were', 1)}") from error
        never = ", ".join(each for each, row in DATASETS.items() if not row.downloads)
        raise ValueError(
            f"{name} {found}; name its folder with --data-dir, "
            f"or let torchvision download it with --download (not possible for {never})"
        ) from error


def _splits(root: Path) -> Splits | None:
    return None if _has_masks(root) else find_splits(root)


def _open_split(root: Path) -> MapDataset:
    """The training split in a folder, or all of it if it has no splits."""
    splits = _splits(root)
    if splits is None:
        return open_folder(root)
    dataset = open_folder(splits.train)
    others = ", ".join(f"{folder.name}/" for folder in splits.test)
    dataset.notes.append(f"took {splits.train.name}/ of {root}" + (f", not {others}" if others else ""))
    return dataset


def open_folder(root: Path) -> ClassFolder | MaskFolder:
    """The images of a folder without splits."""
    return MaskFolder(root) if _has_masks(root) else ClassFolder(root)


def _has_masks(root: Path) -> bool:
    return all((root / part).is_dir() for part in ("images", "masks"))


def _call(name: str) -> Samples:
    """The dataset that ``module:callable`` returns."""
    dataset = find_callable("dataset", name)()
    if not hasattr(dataset, "__iter__") and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(
            f"dataset {name!r} should return a map-style or an iterable dataset, "
            f"but got {type(dataset).__name__} instead"
        )
    return dataset
