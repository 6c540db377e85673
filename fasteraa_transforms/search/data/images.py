"""The images a search works on: a subset, held as one uint8 tensor, and the baseline preprocessing on batches of it."""

import heapq
import io
import operator
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.search.data.masks import IGNORED, MaskFolder, hold_masks, is_mask, read_mask
from fasteraa_transforms.search.settings import find_callable


class MapDataset(Protocol):
    """Any map-style dataset whose samples are (image, label) or (image, mask)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


Samples = MapDataset | Iterable[Any]
"""What can be searched on: a map-style dataset, or one that can only be iterated, gone through once."""


class Encoded(NamedTuple):
    """An image as it lies in a file, decoded only if the subset is to hold it.

    Attributes:
        data: JPEG, PNG, or whatever else Pillow reads.
        name: for messages.
    """

    data: bytes
    name: str


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


def open_dataset(name: str, *, data_dir: str | Path = "data", download: bool = False) -> Samples:
    """The training split of a named dataset, a folder of images, or a dataset of one's own.

    Args:
        name: a key of `RECIPES`, the path of a folder with one folder of images a class (torchvision's ImageFolder) or
            with ``images`` and ``masks`` (`MaskFolder`), or ``module:callable``, where the callable takes no argument
            and returns a map-style or an iterable dataset of (image, label) or (image, mask).
        data_dir: where torchvision finds or puts its files.
        download: whether torchvision may download them.

    Raises:
        ValueError: none of these, a folder with less than two classes, images without masks, or the files are not
            there; says what to do.

    Example:
        >>> len(open_dataset("fasteraa_transforms.search:Digits"))
        1797
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
        if ":" in name:
            return _call(name)
        known = ", ".join(RECIPES)
        raise ValueError(
            f"dataset should be one of {known}, a folder of images, or module:callable, but got {name!r} instead"
        )
    if all((Path(name) / part).is_dir() for part in ("images", "masks")):
        return MaskFolder(name)
    try:
        folder = torchvision.datasets.ImageFolder(name)
    except FileNotFoundError as error:
        raise ValueError(f"{name!r} is not laid out as one folder of images a class: {error}") from error
    if len(folder.classes) < 2:
        raise ValueError(
            f"{name!r} should hold a folder for each of 2 or more classes, but got {folder.classes} instead"
        )
    return folder


def _call(name: str) -> Samples:
    """The dataset that ``module:callable`` returns."""
    dataset = find_callable("dataset", name)()
    if not hasattr(dataset, "__iter__") and not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ValueError(
            f"dataset {name!r} should return a map-style or an iterable dataset, "
            f"but got {type(dataset).__name__} instead"
        )
    return dataset


@dataclass(frozen=True)
class ImageSet:
    """The subset a search works on.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], from 0 to ``classes`` - 1; or masks, uint8 [N, H, W], of these classes and `IGNORED`.
        classes: number of classes.
    """

    images: Tensor
    labels: Tensor
    classes: int

    @property
    def has_masks(self) -> bool:
        """Whether every pixel has a label."""
        return self.labels.ndim == 3

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.images)

    def subset(self, index: Tensor) -> "ImageSet":
        """The images at ``index``, int64 [M]."""
        return ImageSet(self.images[index], self.labels[index], self.classes)

    def to(self, device: torch.device) -> "ImageSet":
        """The same images on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.classes)

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, over pixels in [0, 1]; a deviation is at least 1e-3.

        Counted from a histogram of the 256 levels, so that it takes no memory beside the images.
        """
        levels = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for channel in range(self.images.shape[1]):
            counts = sum(
                part[:, channel].flatten().bincount(minlength=256) for part in self.images.split(_COUNTED_AT_ONCE)
            )
            share = counts.cpu().double() / counts.sum().item()  # type: ignore[union-attr]
            mean = (share * levels).sum()
            means.append(mean.item())
            deviations.append(max((share * (levels - mean).square()).sum().sqrt().item(), 1e-3))
        return tuple(means), tuple(deviations)

    def normaliser(self) -> Epilogue:
        """What scales and normalises images of this set: uint8 [B, C, H, W] -> float32, channels last."""
        mean, std = self.statistics()
        return Epilogue(mean=mean, std=std, memory_format=torch.channels_last)


def _is_map_style(dataset: Samples) -> bool:
    # IterableDataset inherits a __getitem__ that only raises.
    return hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset)


def _labels(dataset: MapDataset) -> list[int] | None:
    """All labels without loading an image, where the dataset tells them as whole numbers."""
    for attribute in ("targets", "labels"):
        labels = getattr(dataset, attribute, None)
        try:
            if labels is not None and len(labels) == len(dataset):
                return [operator.index(label) for label in labels]
        except TypeError:  # names of classes, or several labels each
            continue
    return None


def _pair(sample: Any, name: str) -> tuple[Any, Any]:
    """Image and label or mask of a sample."""
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise ValueError(f"{name} should be (image, label), but got {type(sample).__name__} instead")
    if is_mask(sample[1]):
        return sample[0], sample[1]
    try:
        return sample[0], operator.index(sample[1])
    except TypeError:
        raise ValueError(f"the label of {name} should be a whole number, but got {sample[1]!r:.40} instead") from None


def _label(sample: Any, name: str, setting: str) -> int:
    """Label of a sample, where ``setting`` needs one."""
    _, label = _pair(sample, name)
    if is_mask(label):
        raise ValueError(f"{setting} takes a label for each image, but {name} has a mask; leave it out")
    return label


def _to_uint8(image: Any, name: str) -> Tensor:
    """One sample's image as uint8 [C, H, W]: PIL images as grey or RGB, without their transparency."""
    if isinstance(image, Image.Image):
        if image.mode == "LA":
            image = image.convert("L")
        elif image.mode not in ("L", "RGB") and not image.mode.startswith("I;16"):
            if image.mode in ("I", "F"):  # of unknown range; Pillow would clip at 255
                raise ValueError(
                    f"{name} should be of 8 or 16 bits a channel, but got a PIL image of mode {image.mode}"
                )
            image = image.convert("RGB")
        image = tv.pil_to_tensor(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image.copy())  # torch takes neither negative strides nor, without a warning, read-only
        image = image[None] if image.ndim == 2 else image.permute(2, 0, 1) if image.ndim == 3 else image
    kinds = (torch.uint8, torch.uint16)
    if isinstance(image, Tensor) and image.ndim == 3 and (image.dtype in kinds or image.is_floating_point()):
        if not image.numel():
            raise ValueError(f"{name} should hold pixels, but got an image of shape {list(image.shape)} instead")
        if image.is_floating_point() and not (image.min() >= 0 and image.max() <= 1):
            raise ValueError(
                f"the float image of {name} should have values in [0, 1], but they lie in "
                f"[{image.min():.3g}, {image.max():.3g}]; leave out a normalisation"
            )
        return tv.to_dtype(image.as_subclass(Tensor), torch.uint8, scale=True)
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise ValueError(
        f"{name} should hold a PIL image, an array [H, W, C], or a uint8, uint16 or float tensor [C, H, W], "
        f"but holds {found}"
    )


def load_images(
    dataset: Samples,
    *,
    num_images: int | None = None,
    num_classes: int | None = None,
    balanced: bool = False,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    ignore_label: int = 255,
) -> ImageSet:
    """Draw a random subset of ``dataset`` and load it into memory.

    Args:
        dataset: samples (image, label), the label a whole number, or (image, mask); images PIL, arrays [H, W, C], or
            uint8, uint16 or float tensors [C, H, W]; masks as `read_mask` takes them. One that can only be iterated is
            gone through once, and no more of it is held than the subset.
        num_images: how many, drawn without replacement; all if None or if there are fewer.
        num_classes: draw from this many classes, themselves drawn at random; all if None.
        balanced: draw ``num_images`` evenly from all classes; where a class has too few, all of it, and more of the
            others.
        size: (height, width) to resize to, on the shorter side, then to crop at the centre; None keeps the images'
            size. Masks are resized to the nearest pixel.
        seed: of the draws.
        ignore_label: value of a mask's pixels without a class.

    Returns:
        The images in the drawn order. Grey images among colour ones become RGB; transparency is left out.

    Raises:
        ValueError: no image, a single class, images of several sizes without ``size``, images that cannot be read
            (all are named), a sample of another kind, a mask that `read_mask` refuses, labels among masks, or
            ``balanced`` without ``num_images`` or of masks.

    Example:
        >>> subset = load_images(Digits(), num_images=100, balanced=True)
        >>> subset.images.shape, subset.labels.bincount().tolist()
        (torch.Size([100, 1, 8, 8]), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    if balanced and num_images is None:
        raise ValueError("num_images should be given for a balanced subset, but got None instead")
    if _is_map_style(dataset):
        samples = _draw(dataset, num_images, num_classes, balanced, seed)  # type: ignore[arg-type]
    elif num_classes is None:
        samples = _draw_in_one_pass(dataset, num_images, balanced, seed)  # type: ignore[arg-type]
    else:
        raise ValueError("num_classes should be None for a dataset that is gone through once: classes come up late")

    images: list[Tensor] = []
    targets: list[Any] = []
    broken: list[str] = []
    first = ""
    for name, sample in samples:
        if isinstance(sample, Exception):
            broken.append(f"{name} ({sample})")
            continue
        image, target = _pair(sample, name)
        try:
            if isinstance(image, Encoded):
                image = Image.open(io.BytesIO(image.data))
            for each in (image, target):
                if isinstance(each, Image.Image):
                    each.load()
        except _UNREADABLE as error:
            broken.append(f"{name} ({error})")
            continue
        image = _to_uint8(image, name)
        if is_mask(target):
            target = read_mask(target, name, size=(image.shape[1], image.shape[2]), ignore_label=ignore_label)
        if size is not None and tuple(image.shape[-2:]) != size:
            if isinstance(target, Tensor):
                mask = tv.resize(target[None], _covering(image, size), tv.InterpolationMode.NEAREST_EXACT)
                target = tv.center_crop(mask, list(size))[0]
            image = tv.center_crop(tv.resize(image, _covering(image, size), antialias=True), list(size))
        first = first or name
        if images and image.shape[-2:] != images[0].shape[-2:]:  # now, not when memory is full of photographs
            both = ((first, images[0]), (name, image))
            found = " and ".join(f"{who} of {each.shape[1]}×{each.shape[2]}" for who, each in both)
            raise ValueError(f"images should have one size, but got {found} pixels; give an image size")
        images.append(image)
        targets.append(target)
    if broken:
        listed = "\n".join(f"    {each}" for each in broken[:_NAMED]) + ("\n    …" if len(broken) > _NAMED else "")
        count = len(broken) + len(images)
        raise ValueError(f"{len(broken)} of {count} images cannot be read; repair or remove them:\n{listed}")
    if any(len(image) == 3 for image in images):
        images = [image.expand(3, -1, -1) if len(image) == 1 else image for image in images]
    channels = Counter(len(image) for image in images)
    if len(channels) > 1:
        found = ", ".join(f"{count} of {each}" for each, count in sorted(channels.items()))
        raise ValueError(f"images should have the same number of channels, but got {found} instead")
    masks = [target for target in targets if isinstance(target, Tensor)]
    if masks:
        if len(masks) < len(targets):
            raise ValueError(
                f"samples should all have masks, or all labels, but {len(masks)} of {len(targets)} have masks"
            )
        return ImageSet(torch.stack(images), *hold_masks(masks, ignore_label=ignore_label))
    classes = sorted(set(targets))
    if len(classes) < 2:
        raise ValueError(f"images of at least 2 classes are needed, but got {len(images)} images of {len(classes)}")
    position = {label: i for i, label in enumerate(classes)}
    return ImageSet(torch.stack(images), torch.tensor([position[label] for label in targets]), len(classes))


_COUNTED_AT_ONCE = 256  # images whose pixels are converted to count them
_NAMED = 10  # unreadable images that a message names
# What Pillow raises for torn files and those that are no images; a SyntaxError for some PNGs, a ValueError for PPMs.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def _draw(
    dataset: MapDataset, num_images: int | None, num_classes: int | None, balanced: bool, seed: int
) -> Iterator[tuple[str, Any]]:
    """The drawn samples of a map-style dataset with their names; an exception in place of one that cannot be read."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator).tolist()
    if num_classes is not None or balanced:
        labels = _labels(dataset)
        if labels is None:
            setting = "balanced" if balanced else "num_classes"
            labels = [_label(_read(dataset, index), _name(dataset, index), setting) for index in range(len(dataset))]
        if num_classes is not None:
            present = sorted(set(labels))
            chosen = torch.randperm(len(present), generator=generator)[:num_classes].tolist()
            kept = {present[i] for i in chosen}
            order = [index for index in order if labels[index] in kept]
        if balanced:
            seen: Counter[int] = Counter()
            turn = {}  # the first image of each class, then the second of each, …
            for index in order:
                turn[index] = seen[labels[index]]
                seen[labels[index]] += 1
            order.sort(key=turn.__getitem__)
    for index in order[:num_images]:
        try:
            sample = _read(dataset, index)
        except _UNREADABLE as error:
            sample = error
        yield _name(dataset, index), sample


def _read(dataset: MapDataset, index: int) -> Any:
    try:
        return dataset[index]
    except Exception as error:
        error.add_note(f"while reading {_name(dataset, index)}")
        raise


def _name(dataset: MapDataset, index: int) -> str:
    """What a message calls a sample: its file where the dataset is a folder that tells it."""
    folders = (torchvision.datasets.DatasetFolder, MaskFolder)
    files = getattr(dataset, "samples", None) if isinstance(dataset, folders) else None
    return str(files[index][0]) if files else f"sample {index}"


def _draw_in_one_pass(
    dataset: Iterable[Any], num_images: int | None, balanced: bool, seed: int
) -> Iterator[tuple[str, Any]]:
    """The drawn samples of an iterable dataset with their names.

    Reservoir sampling by random keys: each sample draws a key, and those of the smallest keys are kept (Vitter 1985;
    with keys: Efraimidis and Spirakis 2006, of equal weights). Balanced, each class has a reservoir of its own, and the
    fullest one gives up a sample.
    """
    draw = random.Random(seed)
    reservoirs: dict[int, list[tuple[float, int, Any]]] = {}  # heaps, the largest key first
    held = 0
    for index, sample in enumerate(dataset):
        _pair(sample, f"sample {index}")
        key = _label(sample, f"sample {index}", "balanced") if balanced else 0
        heapq.heappush(reservoirs.setdefault(key, []), (-draw.random(), index, sample))
        held += 1
        if num_images is not None and held > num_images:
            heapq.heappop(max(reservoirs.values(), key=len))
            held -= 1
    for _, index, sample in sorted((each for heap in reservoirs.values() for each in heap), key=lambda each: -each[0]):
        image = sample[0]
        yield image.name if isinstance(image, Encoded) else f"sample {index}", sample


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
    return _crop(images, *_crops(images, size, padding, flip, generator), padding)


def baseline_of_samples(
    images: Tensor,
    labels: Tensor,
    *,
    size: tuple[int, int],
    padding: int,
    flip: bool,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """`baseline` of images, and of their masks by the same draws, ignored where there is padding; labels stay.

    Args:
        images: [B, C, H, W], any dtype.
        labels: int64 [B], or masks uint8 [B, H, W].
        size: as for `baseline`.
        padding: as for `baseline`.
        flip: as for `baseline`.
        generator: as for `baseline`.

    Returns:
        [B, C, *size], and [B] or [B, *size].

    Example:
        >>> images = torch.randint(0, 10, (4, 1, 8, 8), dtype=torch.uint8)
        >>> images, masks = baseline_of_samples(images, images[:, 0], size=(6, 6), padding=0, flip=True)
        >>> torch.equal(images[:, 0], masks)
        True
    """
    crops = _crops(images, size, padding, flip, generator)
    if labels.ndim == 3:
        labels = _crop(labels[:, None], *crops, padding, fill=IGNORED)[:, 0]
    return _crop(images, *crops, padding), labels


def _crops(
    images: Tensor, size: tuple[int, int], padding: int, flip: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The rows [B, height] and columns [B, width] of the padded images that are drawn."""
    device = images.device
    draw = torch.rand(3, len(images), generator=generator, device=device)
    room = [extent + 2 * padding - target + 1 for extent, target in zip(images.shape[-2:], size, strict=True)]
    top, left = ((draw[i] * room[i]).long().clamp(max=room[i] - 1)[:, None] for i in range(2))
    rows = top + torch.arange(size[0], device=device)
    columns = left + torch.arange(size[1], device=device)
    if flip:
        columns = torch.where((draw[2] < 0.5)[:, None], columns.flip(1), columns)
    return rows, columns


def _crop(images: Tensor, rows: Tensor, columns: Tensor, padding: int, fill: int = 0) -> Tensor:
    padded = torch.nn.functional.pad(images, (padding,) * 4, value=fill)
    each = torch.arange(len(images), device=images.device)
    cropped = padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [B, height, width, C]
    return cropped.permute(0, 3, 1, 2).contiguous()
