"""The data sets by name: how each is opened, and how a search and an evaluation treat its images.

Adding a data set is adding a row to `DATASETS`; helps, error messages and defaults come from it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torchvision
from torch import Tensor

from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.samples import MapDataset
from fasteraa_transforms.search.data.sizing import Size


class Digits:
    """scikit-learn's 1,797 handwritten digits, samples (uint8 [1, 8, 8], label). Source: UCI repository, Alpaydin.

    Example:
        >>> image, label = Digits()[0]
        >>> image.shape, label
        (torch.Size([1, 8, 8]), 0)
    """

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self.images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
        self.targets = [int(label) for label in bunch.target]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


@dataclass(frozen=True)
class Preparation:
    """Which images a search draws, and how they are prepared.

    The subset sizes of the table are the paper's (table 3), crop and flip are Fast AutoAugment's baseline.

    Attributes:
        num_images: size of the subset; None for all images.
        num_classes: how many classes the subset is drawn from; None for all.
        image_size: (height, width) that networks see; None for that of the images.
        choose_size: whether a size is chosen where ``image_size`` is None, for images of several sizes and large ones,
            as `data.sizing` says.
        padding: zeros around an image before its random crop, in pixels.
        margin: images are held this many pixels larger than ``image_size``, before the random crop.
        flip: whether images are mirrored with chance 1/2.
        critic: name of the critic; None for one that fits the size of the images.

    Example:
        >>> DATASETS["imagenet"].preparation.held_size
        (256, 256)
    """

    num_images: int | None = 4000
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    choose_size: bool = False
    padding: int = 4
    margin: int = 0
    flip: bool = True
    critic: str | None = None

    @property
    def held_size(self) -> Size:
        """The size that images are loaded at, as for `load_images`."""
        if self.image_size is None:
            return "auto" if self.choose_size else None
        height, width = self.image_size
        return height + self.margin, width + self.margin

    def changed(self, *, image_size: int | Literal["own"] | None = None, **fields: Any) -> "Preparation":
        """The same with what is given otherwise.

        Args:
            image_size: side of a square; "own" for the size of the images; None leaves the size as it is.
            fields: of the others; None leaves a field as it is.

        Example:
            >>> Preparation().changed(num_images=100, padding=None, image_size=64)
            Preparation(num_images=100, num_classes=None, image_size=(64, 64), choose_size=False, padding=4, ...)
        """
        given = {name: value for name, value in fields.items() if value is not None}
        if image_size is not None:
            given["image_size"] = None if image_size == "own" else (image_size, image_size)
            given["choose_size"] = False
        return dataclasses.replace(self, **given)

    def crop(self, held: tuple[int, int]) -> Crop:
        """The random crop of images that are held at (height, width)."""
        return Crop(self.image_size or held, self.padding, self.flip)


Opener = Callable[[str, bool], MapDataset]
"""Opens a split, given the folder of torchvision's files and whether torchvision may download them."""


@dataclass(frozen=True)
class Dataset:
    """One row of `DATASETS`.

    Attributes:
        summary: what it is, for helps.
        train: opens the training split; None for images of one's own, which `open_dataset` finds by their place.
        test: opens the official test split; None if there is none.
        preparation: of its images.
        model: name of the network that an evaluation trains; None for one that fits the images.
        cutout: side in pixels of the square that Cutout blanks in an evaluation; 0 for none.
        autoaugment: which of AutoAugment's published policies fits, as torchvision names it.
        downloads: whether torchvision can download it.
    """

    summary: str
    train: Opener | None
    test: Opener | None = None
    preparation: Preparation = Preparation()
    model: str | None = None
    cutout: int = 16
    autoaugment: str = "CIFAR10"
    downloads: bool = True


# Torchvision's classes are looked up when they are called. Whoever opens a test split has opened, and downloaded, the
# training split before; SVHN's is a file of its own.
DATASETS: dict[str, Dataset] = {
    # 8×8 as they are: too few pixels for equalize, which is the identity below 256, and for shifts by whole pixels.
    "digits": Dataset(
        "scikit-learn's handwritten digits, which need no file",
        lambda root, download: Digits(),
        preparation=Preparation(None, image_size=(32, 32), flip=False, critic="small"),
        model="small",
    ),
    "cifar10": Dataset(
        "CIFAR-10",
        lambda root, download: torchvision.datasets.CIFAR10(root, train=True, download=download),
        lambda root, download: torchvision.datasets.CIFAR10(root, train=False),
        Preparation(critic="wrn40_2"),
    ),
    "cifar100": Dataset(
        "CIFAR-100",
        lambda root, download: torchvision.datasets.CIFAR100(root, train=True, download=download),
        lambda root, download: torchvision.datasets.CIFAR100(root, train=False),
        Preparation(critic="wrn40_2"),
    ),
    "svhn": Dataset(
        "the house numbers of SVHN",
        lambda root, download: torchvision.datasets.SVHN(root, split="train", download=download),
        lambda root, download: torchvision.datasets.SVHN(root, split="test", download=download),
        Preparation(1000, critic="wrn40_2"),
        cutout=20,
        autoaugment="SVHN",
    ),
    # The paper's baseline here is RandomResizedCrop; with all images held at one size it is a crop of 224 from 256.
    "imagenet": Dataset(
        "ImageNet, whose files you have",
        lambda root, download: torchvision.datasets.ImageNet(root, split="train"),
        lambda root, download: torchvision.datasets.ImageNet(root, split="val"),
        Preparation(6000, num_classes=120, image_size=(224, 224), padding=0, margin=32, critic="resnet50"),
        cutout=0,
        autoaugment="IMAGENET",
        downloads=False,
    ),
}
"""The data sets by name."""


OWN = Dataset("images of one's own", None, preparation=Preparation(choose_size=True))
"""The row of everything that has no name in `DATASETS`: folders, shards, datasets in code."""


def find_dataset(name: str) -> Dataset:
    """The row called ``name``, or `OWN`.

    Example:
        >>> find_dataset("svhn").cutout, find_dataset("pets").cutout
        (20, 16)
    """
    return DATASETS.get(name, OWN)


def defaults(field: str) -> str:
    """What the rows have in ``field`` where nothing is given, in words for a help.

    Args:
        field: of `Dataset`, or of its `Preparation`.

    Example:
        >>> defaults("cutout")
        '16; svhn 20; imagenet 0'
        >>> defaults("num_images")
        '4,000; digits all; svhn 1,000; imagenet 6,000'
    """
    usual = _in_words(OWN, field)
    others = {name: text for name, row in DATASETS.items() if (text := _in_words(row, field)) != usual}
    return "; ".join([usual, *(f"{name} {text}" for name, text in others.items())])


def _in_words(row: Dataset, field: str) -> str:
    value = getattr(row if hasattr(row, field) else row.preparation, field)
    match value:
        case None:
            return {"image_size": "that of the images", "critic": "by the size of the images"}.get(field, "all")
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case tuple():
            return f"{value[0]}"
    return str(value)
