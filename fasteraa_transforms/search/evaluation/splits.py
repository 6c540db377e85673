"""The images of an evaluation: what networks are trained on, and what they are tested on."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torchvision

from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import (
    FOLDER_RECIPE,
    RECIPES,
    ImageSet,
    MapDataset,
    load_images,
    open_dataset,
)
from fasteraa_transforms.search.evaluation.settings import TrainingSettings


def open_splits(
    name: str, *, data_dir: str | Path = "data", download: bool = False
) -> tuple[MapDataset, MapDataset | None]:
    """The training and the test split of a named dataset or of a folder of images.

    Args:
        name: as for `open_dataset`; or a folder that holds ``train`` and ``test`` or ``val``, each laid out as
            torchvision's ImageFolder.
        data_dir: where torchvision finds or puts its files.
        download: whether torchvision may download them.

    Returns:
        Both, or all images and None where there is no official test split (digits, other folders).

    Raises:
        ValueError: neither a known name nor a folder, the files are not there, the splits have different classes, or
            images can only be iterated over.
    """
    folder = Path(name)
    parts = [folder / part for part in ("test", "val") if (folder / part).is_dir()]
    if name not in RECIPES and parts and (folder / "train").is_dir():
        train, test = (_open(str(part)) for part in (folder / "train", parts[0]))
        ours, theirs = (getattr(split, "classes", None) for split in (train, test))
        if ours != theirs:
            raise ValueError(f"train and {parts[0].name} of {name!r} should have the same classes, but they differ")
        return train, test
    train, root = _open(name, data_dir=data_dir, download=download), str(data_dir)
    try:
        match name:
            case "cifar10":
                return train, torchvision.datasets.CIFAR10(root, train=False)
            case "cifar100":
                return train, torchvision.datasets.CIFAR100(root, train=False)
            case "svhn":
                return train, torchvision.datasets.SVHN(root, split="test", download=download)
            case "imagenet":
                return train, torchvision.datasets.ImageNet(root, split="val")
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(
            f"the test images of {name} were not found in {root!r} ({str(error).splitlines()[0]})"
        ) from error
    return train, None


def _open(name: str, **options: Any) -> MapDataset:
    dataset = open_dataset(name, **options)
    if not hasattr(dataset, "__getitem__"):
        raise ValueError(f"{name} should be a map-style dataset, but got a {type(dataset).__name__} instead")
    return cast(MapDataset, dataset)


@dataclass(frozen=True)
class Split:
    """What networks are trained on, and what they are tested on.

    Attributes:
        train: the training images.
        test: the test images, of the same classes.
        crop: random in training; its centre is tested.
    """

    train: ImageSet
    test: ImageSet
    crop: Crop

    def checksum(self) -> str:
        """Of all pixels and labels."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for values in (part.images, part.labels):
                digest.update(f"{list(values.shape)} {part.classes}".encode())
                digest.update(values.cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


class Splits:
    """The split of each training, by its seed. The last one is kept, since trainings share it.

    Args:
        name: of the data set, whose recipe is the default of what ``settings`` leaves open.
        dataset: the training split, or all images.
        test: the test split; if None, the images that are not trained on.
        settings: with ``padding`` and ``flip`` set.
        device: where the images are held.

    Raises:
        ValueError: masks, more training images than there are, or test images of other classes or channels.
    """

    def __init__(
        self,
        name: str,
        dataset: MapDataset,
        test: MapDataset | None,
        settings: TrainingSettings,
        device: torch.device,
    ) -> None:
        self.name, self.dataset, self.test, self.settings, self.device = name, dataset, test, settings, device
        recipe = RECIPES.get(name, FOLDER_RECIPE)
        side = settings.image_size
        self.size = recipe.image_size if side is None else (side, side)
        self.margin = recipe.margin
        self._kept: tuple[int, Split] | None = None

    def of(self, seed: int) -> Split:
        """The images of the training with this seed."""
        if self.settings.split_seed is not None:
            seed = self.settings.split_seed
        if self.test is not None and self.settings.train_images is None:
            seed = 0  # all of them
        if self._kept is None or self._kept[0] != seed:
            self._kept = seed, self._load(seed)
        return self._kept[1]

    def _load(self, seed: int) -> Split:
        settings = self.settings
        held = None if self.size is None else (self.size[0] + self.margin, self.size[1] + self.margin)
        everything = load_images(self.dataset, size=held, seed=seed)
        if everything.has_masks:
            raise ValueError("an evaluation takes a label for each image, but the dataset has masks")
        total = len(everything)
        count = settings.train_images or (total if self.test is not None else total // 2)
        if count > total or (count == total and self.test is None):
            raise ValueError(
                f"train_images should be at most {total if self.test is not None else total - 1}, "
                f"but got {count} instead"
            )
        train, rest = (everything.subset(part) for part in torch.arange(total).split([count, total - count]))
        test = rest if self.test is None else self._load_test(self.test, held, everything)
        size = self.size or (train.images.shape[-2], train.images.shape[-1])
        assert settings.padding is not None
        crop = Crop(size, settings.padding, bool(settings.flip))
        return Split(train.to(self.device), test.to(self.device), crop)

    def _load_test(self, dataset: MapDataset, held: tuple[int, int] | None, train: ImageSet) -> ImageSet:
        test = load_images(dataset, size=held)
        if test.classes != train.classes or test.images.shape[1] != train.images.shape[1]:
            raise ValueError(
                "test images should have the classes and channels of the training images, "
                f"{train.classes} and {train.images.shape[1]}, "
                f"but got {test.classes} and {test.images.shape[1]} instead"
            )
        return test

    def searched_on(self, policy: Policy, seed: int) -> int | None:
        """How many of the test images a policy was searched on, as far as its provenance tells.

        Args:
            policy: with the provenance of a search.
            seed: of the training.
        """
        origin = policy.provenance
        if self.test is not None or origin.get("dataset") != self.name:
            return None if not origin else 0
        settings, searched = origin.get("settings"), origin.get("images")
        if not (isinstance(settings, Mapping) and isinstance(searched, int)):
            return None
        split_seed = seed if self.settings.split_seed is None else self.settings.split_seed
        seen, tested = (
            torch.randperm(len(self.dataset), generator=torch.Generator().manual_seed(each))
            for each in (int(settings["seed"]), split_seed)
        )
        trained = len(self.of(seed).train)
        return int(torch.isin(tested[trained:], seen[:searched]).sum())
