"""The images a search works on: a subset, held as one uint8 tensor, and the baseline preprocessing on batches of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv


class MapDataset(Protocol):
    """Any map-style dataset whose samples are (image, label)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class Recipe:
    """How a dataset is searched: the paper's subset sizes (table 3), Fast AutoAugment's baseline preprocessing.

    Attributes:
        num_images: size of the subset; None for all.
        num_classes: how many classes the subset is drawn from; None for all.
        image_size: (height, width) the critic sees; None for that of the images.
        padding: zeros around the image before the random crop, in pixels.
        margin: the images are held this many pixels larger than ``image_size`` before the random crop.
        flip: whether images are mirrored with chance 1/2.
        critic: name of the backbone; None for one that fits the size of the images.
    """

    num_images: int | None = None
    num_classes: int | None = None
    image_size: tuple[int, int] | None = None
    padding: int = 0
    margin: int = 0
    flip: bool = False
    critic: str | None = None


RECIPES = {
    # 8×8 as they are: too few pixels for equalize, which is the identity below 256, and for shifts by whole pixels.
    "digits": Recipe(image_size=(32, 32), padding=4, critic="small"),
    "cifar10": Recipe(num_images=4000, padding=4, flip=True, critic="wrn40_2"),
    "cifar100": Recipe(num_images=4000, padding=4, flip=True, critic="wrn40_2"),
    "svhn": Recipe(num_images=1000, padding=4, flip=True, critic="wrn40_2"),
    # The paper's baseline here is RandomResizedCrop; with all images held at one size it is a crop of 224 from 256.
    "imagenet": Recipe(
        num_images=6000, num_classes=120, image_size=(224, 224), margin=32, flip=True, critic="resnet50"
    ),
}
FOLDER_RECIPE = Recipe(num_images=4000, padding=4, flip=True)


class Digits:
    """scikit-learn's 1,797 handwritten digits, samples (uint8 [1, 8, 8], label). Source: UCI repository, Alpaydin."""

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self.images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
        self.targets = [int(label) for label in bunch.target]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def open_dataset(name: str, *, data_dir: str | Path = "data", download: bool = False) -> MapDataset:
    """The training split of a named dataset, or a folder laid out as torchvision's ImageFolder.

    Args:
        name: a key of `RECIPES`, or the path of a folder with one folder of images a class.
        data_dir: where torchvision finds or puts its files.
        download: whether torchvision may download them.

    Raises:
        ValueError: neither a known name nor a folder, or the files are not there; says what to do.
    """
    root = str(data_dir)
    try:
        match name:
            case "digits":
                return Digits()
            case "cifar10":
                return torchvision.datasets.CIFAR10(root, train=True, download=download)
            case "cifar100":
                return torchvision.datasets.CIFAR100(root, train=True, download=download)
            case "svhn":
                return torchvision.datasets.SVHN(root, split="train", download=download)
            case "imagenet":
                return torchvision.datasets.ImageNet(root, split="train")
    except (RuntimeError, FileNotFoundError) as error:
        raise ValueError(
            f"{name} was not found in {root!r} ({str(error).splitlines()[0]}); name its folder with --data-dir, "
            "or let torchvision download it with --download (not possible for imagenet)"
        ) from error
    if not name or not Path(name).is_dir():
        known = ", ".join(RECIPES)
        raise ValueError(f"dataset should be one of {known}, or a folder of images, but got {name!r} instead")
    try:
        return torchvision.datasets.ImageFolder(name)
    except FileNotFoundError as error:
        raise ValueError(f"{name!r} is not laid out as one folder of images a class: {error}") from error


@dataclass(frozen=True)
class ImageSet:
    """The subset a search works on.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], from 0 to ``classes`` - 1.
        classes: number of classes.
    """

    images: Tensor
    labels: Tensor
    classes: int


def _labels(dataset: MapDataset) -> list[int] | None:
    """All labels without loading an image, where the dataset tells them."""
    for attribute in ("targets", "labels"):
        labels = getattr(dataset, attribute, None)
        if labels is not None and len(labels) == len(dataset):
            return [int(label) for label in labels]
    return None


def _to_uint8(image: Any, index: int) -> Tensor:
    """One sample's image as uint8 [C, H, W], grey or RGB."""
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        return tv.pil_to_tensor(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image.copy())  # torch takes neither negative strides nor, without a warning, read-only
        image = image[None] if image.ndim == 2 else image.permute(2, 0, 1) if image.ndim == 3 else image
    if isinstance(image, Tensor) and image.ndim == 3 and (image.dtype == torch.uint8 or image.is_floating_point()):
        if image.is_floating_point() and not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                f"the float image of sample {index} should have values in [0, 1], but they lie in "
                f"[{image.min():.3g}, {image.max():.3g}]; leave out a normalisation"
            )
        return tv.to_dtype(image.as_subclass(Tensor), torch.uint8, scale=True)
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise ValueError(
        f"sample {index} should hold a PIL image, an array [H, W, C], or a uint8 or float tensor [C, H, W], "
        f"but holds {found}"
    )


def load_images(
    dataset: MapDataset,
    *,
    num_images: int | None = None,
    num_classes: int | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 0,
) -> ImageSet:
    """Draw a random subset of ``dataset`` and load it into memory.

    Args:
        dataset: map-style, samples (image, label); images PIL, arrays [H, W, C], or uint8 or float tensors [C, H, W].
        num_images: how many, drawn without replacement; all if None or if there are fewer.
        num_classes: draw from this many classes, themselves drawn at random; all if None.
        size: (height, width) to resize to, on the shorter side, then to crop at the centre; None keeps the images'
            size.
        seed: of the draws.

    Returns:
        The images in the drawn order. Grey images among colour ones become RGB.

    Raises:
        ValueError: no image, a single class, images of several sizes without ``size``, or a sample of another kind.

    Example:
        >>> subset = load_images(Digits(), num_images=100)
        >>> subset.images.shape, subset.classes
        (torch.Size([100, 1, 8, 8]), 10)
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator).tolist()
    if num_classes is not None:
        labels = _labels(dataset) or [int(dataset[index][1]) for index in range(len(dataset))]
        present = sorted(set(labels))
        chosen = torch.randperm(len(present), generator=generator)[:num_classes].tolist()
        kept = {present[i] for i in chosen}
        order = [index for index in order if labels[index] in kept]
    order = order[:num_images]

    images: list[Tensor] = []
    targets: list[int] = []
    for index in order:
        image, target = dataset[index][:2]
        image = _to_uint8(image, index)
        if size is not None and tuple(image.shape[-2:]) != size:
            image = tv.center_crop(tv.resize(image, _covering(image, size), antialias=True), list(size))
        images.append(image)
        targets.append(int(target))
    if any(len(image) == 3 for image in images):
        images = [image.expand(3, -1, -1) if len(image) == 1 else image for image in images]
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        found = ", ".join(str(shape) for shape in sorted(shapes)[:3])
        raise ValueError(f"images should have one shape, but got {len(shapes)} ({found}, …); give an image size")
    classes = sorted(set(targets))
    if len(classes) < 2:
        raise ValueError(f"images of at least 2 classes are needed, but got {len(images)} images of {len(classes)}")
    position = {label: i for i, label in enumerate(classes)}
    return ImageSet(torch.stack(images), torch.tensor([position[label] for label in targets]), len(classes))


def _covering(image: Tensor, size: tuple[int, int]) -> list[int]:
    """The smallest (height, width) in the image's own proportions that covers ``size``."""
    extents = image.shape[-2:]
    scale = max(target / extent for target, extent in zip(size, extents, strict=True))
    return [max(round(extent * scale), target) for target, extent in zip(size, extents, strict=True)]


def baseline(
    images: Tensor, *, size: tuple[int, int], padding: int, flip: bool, generator: torch.Generator | None = None
) -> Tensor:
    """The preprocessing that real and augmented images have both had: random crop and flip, own draws for each image.

    Args:
        images: [B, C, H, W], any dtype.
        size: (height, width) of the crop, at most H + 2 padding and W + 2 padding.
        padding: zeros on every side before the crop.
        flip: whether to mirror with chance 1/2.
        generator: of the draws, on the device of ``images``.

    Returns:
        [B, C, *size], same dtype.

    Example:
        >>> baseline(torch.zeros(4, 3, 32, 32, dtype=torch.uint8), size=(32, 32), padding=4, flip=True).shape
        torch.Size([4, 3, 32, 32])
    """
    batch, device = len(images), images.device
    padded = torch.nn.functional.pad(images, (padding,) * 4)
    draw = torch.rand(3, batch, generator=generator, device=device)
    room = [extent - target + 1 for extent, target in zip(padded.shape[-2:], size, strict=True)]
    top, left = ((draw[i] * room[i]).long().clamp(max=room[i] - 1)[:, None] for i in range(2))
    rows = top + torch.arange(size[0], device=device)  # [B, height]
    columns = left + torch.arange(size[1], device=device)  # [B, width]
    if flip:
        columns = torch.where((draw[2] < 0.5)[:, None], columns.flip(1), columns)
    each = torch.arange(batch, device=device)
    cropped = padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [B, height, width, C]
    return cropped.permute(0, 3, 1, 2).contiguous()
