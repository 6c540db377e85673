"""The images of an evaluation: what networks are trained on, and what they are tested on."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.load import load_images
from fasteraa_transforms.search.data.samples import MapDataset
from fasteraa_transforms.search.data.sizing import Size
from fasteraa_transforms.search.data.table import find_dataset
from fasteraa_transforms.search.evaluation.settings import TrainingSettings


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

    def identity(self) -> dict[str, Any]:
        """What tells these images from others, as JSON."""
        return {"train": self.train.identity(), "test": self.test.identity()}


class SplitsBySeed:
    """The split of each training, by its seed. The last one is kept, since trainings share it.

    Args:
        name: of the data set; a known name (digits, cifar10, …) sets the defaults of size, padding and flip.
        dataset: the training split, or all images.
        test: the test split; if None, the images that are not trained on.
        settings: of the trainings.
        device: where the images are held.
        tell: called with a line about the size of the images, where it is chosen or takes much memory.

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
        tell: Callable[[str], object] | None = None,
    ) -> None:
        self.tell = tell
        self.name, self.dataset, self.test, self.settings, self.device = name, dataset, test, settings, device
        self.preparation = find_dataset(name).preparation.changed(
            image_size=settings.image_size, padding=settings.padding, flip=settings.flip
        )
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
        held = self.preparation.held_size
        everything = load_images(self.dataset, size=held, seed=seed, tell=self.tell)
        if held == "auto":  # which others might choose otherwise: those of the test split, those of other seeds
            held = everything.images.shape[2], everything.images.shape[3]
            self.preparation = dataclasses.replace(self.preparation, image_size=held)
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
        crop = self.preparation.crop((train.images.shape[-2], train.images.shape[-1]))
        return Split(train.to(self.device), test.to(self.device), crop)

    def _load_test(self, dataset: MapDataset, held: Size, train: ImageSet) -> ImageSet:
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
