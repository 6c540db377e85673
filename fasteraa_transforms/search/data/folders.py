"""Images in folders: which files are data, which are left out, and which folder is the training split."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from fasteraa_transforms.pipeline.image_files import open_image
from fasteraa_transforms.search.runtime.output import in_a_line

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation")
"""Names of the folders of splits, in any case. Of several test splits, the first one in this order is taken."""

_OF_SYSTEMS = ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found")
_RUN_FILES = ("checkpoint.pt", "metrics.jsonl", "rows.jsonl", "policy.json", "checkpoints")


class ImageFiles(ABC):
    """A map-style dataset of image files.

    Attributes:
        samples: for each sample the image's path, and what goes with it.
        notes: lines of text on files that were left out, and on a split that was taken in place of the whole folder.
    """

    samples: list[tuple[str, Any]]
    notes: list[str]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image.Image, Any]:
        return self.read(index)

    @abstractmethod
    def read(self, index: int, *, at_least: tuple[int, int] | None = None) -> tuple[Image.Image, Any]:
        """The sample ``index``, its image decoded as `open_image` does for ``at_least``."""


class ClassFolder(ImageFiles):
    """A folder with one folder of images a class; samples (RGB image, class), as torchvision's ImageFolder has.

    Images are turned upright, as their EXIF orientation says, which torchvision does not do. Folders inside of a class
    are searched as well. Hidden files and folders, files that operating systems add, and folders of runs are left out.

    Args:
        root: the folder.

    Attributes:
        samples: path and class of each image.
        targets: class of each image.
        classes: names of the classes, sorted.
        notes: what was left out.

    Raises:
        ValueError: fewer than 2 classes, or a class without an image.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        folders, left_out = entries(Path(root))
        self.notes = []
        self.classes = [folder.name for folder in folders]
        self.class_to_idx = {name: i for i, name in enumerate(self.classes)}
        if not folders:
            raise ValueError(f"{str(root)!r} is not laid out as one folder of images a class: it holds no folder")
        self.samples = []
        empty = []
        for target, folder in enumerate(folders):
            before = len(self.samples)
            self.samples += [(path, target) for path in image_files(folder, left_out)]
            if len(self.samples) == before:
                empty.append(folder.name)
        if empty:
            raise ValueError(
                f"{str(root)!r} is not laid out as one folder of images a class: no image is in {listed(empty)} "
                f"(images end in {', '.join(IMG_EXTENSIONS)})"
            )
        if len(folders) < 2:
            raise ValueError(
                f"{str(root)!r} should hold a folder for each of 2 or more classes, but got {self.classes} instead"
            )
        if loose := [name for name in os.listdir(root) if _is_image(name) and not is_hidden(name)]:
            left_out.append(f"{len(loose)} images beside the folders")
        if left_out:
            self.notes.append(f"left out of {root}: {listed(left_out)}")
        self.targets = [target for _, target in self.samples]

    def read(self, index: int, *, at_least: tuple[int, int] | None = None) -> tuple[Image.Image, int]:
        """The sample ``index``, its image decoded as `open_image` does for ``at_least``."""
        path, target = self.samples[index]
        return open_image(path, at_least=at_least, upright=True).convert("RGB"), target


@dataclass(frozen=True)
class Splits:
    """The folders of a data set that comes in splits.

    Attributes:
        train: the training split.
        test: the test splits, the one to take first.
    """

    train: Path
    test: tuple[Path, ...]


def find_splits(root: Path) -> Splits | None:
    """The splits that the folders in ``root`` are, by their usual names; None if they are no splits.

    A split holds folders: those of the classes, or ``images`` and ``masks``. A folder called ``train`` that holds
    images itself, among others that do, is a class.

    Raises:
        ValueError: it cannot be told whether the folders are splits or classes, or which one to train on.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
        ...     (root / name).mkdir(parents=True)
        >>> splits = find_splits(root)
        >>> splits.train.name, [folder.name for folder in splits.test]
        ('train', ['val'])
    """
    folders, _ = entries(root)
    named = [folder for folder in folders if folder.name.lower() in TRAIN_NAMES + TEST_NAMES]
    splits = [folder for folder in named if not _holds_images(folder) and entries(folder)[0]]
    if not splits:
        if len(named) > 1 and len(named) == len(folders):
            raise ValueError(
                f"{str(root)!r} holds {_slashed(named)}, which should each hold a folder a class, but hold images: "
                "nothing says which class they are of"
            )
        return None
    if others := [folder for folder in folders if folder not in splits]:
        raise ValueError(
            f"{str(root)!r} holds {_slashed(splits)}, as splits are called, and {_slashed(others)} beside them; name "
            "the folder to take, or move the others out of it"
        )
    return _as_splits(root, splits)


def find_splits_of_files(root: Path) -> Splits | None:
    """The splits that the folders in ``root`` are, where they hold files of images or masks; None if they are none.

    Raises:
        ValueError: folders called otherwise are beside them, or none is to train on.
    """
    folders, _ = entries(root)
    splits = [folder for folder in folders if folder.name.lower() in TRAIN_NAMES + TEST_NAMES]
    if not splits or _holds_images(root):
        return None
    if others := [folder for folder in folders if folder not in splits]:
        raise ValueError(
            f"{str(root)!r} holds {_slashed(splits)}, as splits are called, and {_slashed(others)} beside them; move "
            "the others out of it"
        )
    return _as_splits(root, splits)


def _as_splits(root: Path, folders: list[Path]) -> Splits:
    train = [folder for folder in folders if folder.name.lower() in TRAIN_NAMES]
    test = sorted(
        (folder for folder in folders if folder not in train), key=lambda folder: TEST_NAMES.index(folder.name.lower())
    )
    if len(train) != 1:
        raise ValueError(
            f"{str(root)!r} should hold one folder to train on ({' or '.join(TRAIN_NAMES)}), "
            f"but got {_slashed(folders)} instead; name the folder to take"
        )
    return Splits(train[0], tuple(test))


def entries(root: Path) -> tuple[list[Path], list[str]]:
    """The folders in ``root`` that can be data, sorted by name, and the names of the other folders."""
    found, left_out = [], []
    with os.scandir(root) as scanned:
        folders = sorted((entry for entry in scanned if entry.is_dir()), key=lambda entry: entry.name)
    for entry in folders:
        if is_hidden(entry.name):
            left_out.append(entry.name)
        elif is_run_folder(Path(entry.path)):
            left_out.append(f"{entry.name} (runs of a search or an evaluation)")
        else:
            found.append(Path(entry.path))
    return found, left_out


def image_files(folder: Path, left_out: list[str]) -> Iterator[str]:
    """The paths of the images in ``folder`` and in the folders within, in the order of torchvision's ImageFolder.

    Args:
        folder: to look into; links are followed, each folder once.
        left_out: what is left out is added here.
    """
    names: dict[str, list[str]] = {}
    pending, seen = [str(folder)], set()
    while pending:
        place = pending.pop()
        if (real := os.path.realpath(place)) in seen:
            continue
        seen.add(real)
        names[place] = []
        with os.scandir(place) as scanned:
            for entry in scanned:
                if is_hidden(entry.name):
                    if entry.is_dir() or _is_image(entry.name):
                        left_out.append(os.path.relpath(entry.path, folder.parent))
                elif entry.is_dir():
                    pending.append(entry.path)
                elif not _is_image(entry.name):
                    continue
                elif entry.is_file() or entry.is_symlink():  # a broken link is an image that is missing
                    names[place].append(entry.name)
                else:
                    left_out.append(f"{os.path.relpath(entry.path, folder.parent)} (no file)")
    for place in sorted(names):
        yield from (os.path.join(place, name) for name in sorted(names[place]))


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or something that an operating system adds.

    Example:
        >>> [is_hidden(name) for name in (".ipynb_checkpoints", "__MACOSX", "._x.png", "cat")]
        [True, True, True, False]
    """
    return name.startswith(".") or name.lower() in _OF_SYSTEMS


def is_run_folder(folder: Path) -> bool:
    """Whether ``folder`` is that of a search or an evaluation, or holds such folders, as ``runs`` does."""
    if _is_run(folder):
        return True
    with os.scandir(folder) as scanned:
        return any(_is_run(Path(entry.path)) for entry in scanned if entry.is_dir())


def _is_run(folder: Path) -> bool:
    return (folder / "settings.json").is_file() and any((folder / name).exists() for name in _RUN_FILES)


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Names in a line, those above a limit by their number.

    Example:
        >>> listed("abcd", 2)
        'a, b and 2 more'
    """
    found = [in_a_line(name) for name in names]
    more = f" and {len(found) - limit} more" if len(found) > limit else ""
    return ", ".join(found[:limit]) + more


def _holds_images(folder: Path) -> bool:
    with os.scandir(folder) as scanned:
        return any(_is_image(entry.name) and not is_hidden(entry.name) for entry in scanned if not entry.is_dir())


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS)


def _slashed(folders: Iterable[Path]) -> str:
    return listed(f"{folder.name}/" for folder in folders)
