"""Images loaded: a random subset of a data set, read one by one into one tensor."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import hold_masks, is_mask, read_mask
from fasteraa_transforms.search.data.samples import UNREADABLE, Samples, decode, parts_of, to_uint8
from fasteraa_transforms.search.data.subset import draw
from fasteraa_transforms.search.runtime.hardware import memory
from fasteraa_transforms.search.runtime.output import in_a_line, readable

_NAMED = 10  # unreadable images that a message names
_LARGE = 2**18  # pixels of an image that is called large


def load_images(
    dataset: Samples,
    *,
    num_images: int | None = None,
    num_classes: int | None = None,
    balanced: bool = False,
    size: tuple[int, int] | None = None,
    seed: int = 0,
    ignore_label: int = 255,
    skip_broken: bool = False,
    tell: Callable[[str], object] | None = None,
) -> ImageSet:
    """Draw a random subset of ``dataset`` and load it into memory, which takes little more than the loaded images do.

    Args:
        dataset: samples as `parts_of` takes them, with images as `to_uint8` and masks as `read_mask` take them. A
            dataset that can only be iterated is gone through once, and no more of it is held than the subset.
        num_images: how many, drawn without replacement; all if None or if there are fewer.
        num_classes: draw from this many classes, themselves drawn at random; all if None.
        balanced: draw ``num_images`` evenly from all classes; where a class has too few, all of it, and more of the
            others.
        size: (height, width) to resize to, on the shorter side, then to crop at the centre; None keeps the images'
            size. Masks are resized to the nearest pixel.
        seed: of the draws.
        ignore_label: value of a mask's pixels without a class.
        skip_broken: whether images that cannot be read are left out, and listed in the notes. Of a map-style dataset,
            the images that would have been drawn next replace them.
        tell: called with a line about images that are large and not resized, before they take much memory.

    Returns:
        The images in the drawn order. Grey images among colour ones become RGB; transparency is left out.

    Raises:
        ValueError: no image, a single class, images of several sizes without ``size``, images that cannot be read
            (all are named), a sample of another kind, a mask that `read_mask` refuses, labels among masks,
            ``balanced`` without ``num_images`` or of masks, or more images than fit into the machine's memory.

    Example:
        >>> from fasteraa_transforms.search import Digits
        >>> subset = load_images(Digits(), num_images=100, balanced=True)
        >>> subset.images.shape, subset.labels.bincount().tolist()
        (torch.Size([100, 1, 8, 8]), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """
    if balanced and num_images is None:
        raise ValueError("num_images should be given for a balanced subset, but got None instead")
    drawn = draw(dataset, num_images=num_images, num_classes=num_classes, balanced=balanced, seed=seed, at_least=size)
    held = _Held(drawn.wanted, tell)
    targets: list[Any] = []
    broken: list[str] = []
    for name, sample in drawn.samples:
        try:
            image, target = _decoded(sample, name, size)
        except _Broken as error:
            broken.append(str(error))
        else:
            image = to_uint8(image, name)
            if is_mask(target):
                target = read_mask(target, name, size=(image.shape[1], image.shape[2]), ignore_label=ignore_label)
            image, target = _resized(image, target, size)
            held.add(image, name)
            targets.append(target)
        if len(targets) + (0 if skip_broken else len(broken)) == drawn.wanted:
            break
    notes = list(getattr(dataset, "notes", ()))
    if broken:
        notes.append(_check_broken(broken, len(targets), skip_broken))
    images = held.images()
    labels, values = _labels(targets, ignore_label)
    return ImageSet(images, labels, len(values), _names(dataset, values), drawn.available, tuple(notes))


class _Broken(Exception):
    """An image that cannot be read: its name and the reason."""


def _decoded(sample: Any, name: str, size: tuple[int, int] | None) -> tuple[Any, Any]:
    """Image and target of a drawn sample, decoded.

    Raises:
        _Broken: one of them cannot be read.
    """
    if isinstance(sample, Exception):
        raise _Broken(in_a_line(f"{name} ({sample})")) from sample
    image, target = parts_of(sample, name)
    try:
        return decode(image, at_least=None if is_mask(target) else size), decode(target)
    except UNREADABLE as error:
        raise _Broken(in_a_line(f"{name} ({error})")) from error


def _check_broken(broken: list[str], read: int, skip: bool) -> str:
    """A note of the images that cannot be read.

    Raises:
        ValueError: they are not to be skipped.
    """
    lines = "\n".join(f"    {line}" for line in broken[:_NAMED]) + ("\n    …" if len(broken) > _NAMED else "")
    count = f"{len(broken)} of {len(broken) + read} images cannot be read"
    if not skip:
        raise ValueError(f"{count}; repair or remove them:\n{lines}")
    return f"{count} and are left out:\n{lines}"


def _resized(image: Tensor, target: Any, size: tuple[int, int] | None) -> tuple[Tensor, Any]:
    """Image [C, *size] and its label or mask [*size]: resized on the shorter side, then cropped at the centre."""
    if size is not None and tuple(image.shape[-2:]) != size:
        covering = _covering(image, size)
        if isinstance(target, Tensor):
            mask = tv.resize(target[None], covering, tv.InterpolationMode.NEAREST_EXACT)
            target = tv.center_crop(mask, list(size))[0]
        image = tv.center_crop(tv.resize(image, covering, antialias=True), list(size))
    return image, target.to(torch.uint16) if isinstance(target, Tensor) else target


def _covering(image: Tensor, size: tuple[int, int]) -> list[int]:
    """The smallest (height, width) in the image's own proportions that covers ``size``."""
    extents = image.shape[-2:]
    scale = max(target / extent for target, extent in zip(size, extents, strict=True))
    return [max(round(extent * scale), target) for target, extent in zip(size, extents, strict=True)]


class _Held:
    """Images of one size, gathered in one tensor, so that none is held twice.

    Args:
        wanted: how many there will be at most.
        tell: as of `load_images`.
    """

    def __init__(self, wanted: int, tell: Callable[[str], object] | None) -> None:
        self.wanted, self.tell = wanted, tell
        self.channels: Counter[int] = Counter()
        self._stack: Tensor | None = None  # [wanted, C, H, W]
        self._first = ""

    def add(self, image: Tensor, name: str) -> None:
        """Take one more image, [C, H, W].

        Raises:
            ValueError: its size is not that of the others, or all together are too large.
        """
        if self._stack is None:
            self._check_memory(image)
            self._stack, self._first = image.new_empty(self.wanted, *image.shape), name
        count, stack = self.channels.total(), self._stack
        if image.shape[1:] != stack.shape[2:]:  # said now, not when memory is full of photographs
            sizes = ((self._first, stack.shape[2:]), (name, image.shape[1:]))
            both = " and ".join(f"{who} of {height}×{width}" for who, (height, width) in sizes)
            raise ValueError(f"images should have one size, but got {both} pixels; give an image size")
        self.channels[len(image)] += 1
        if len(image) == 3 and stack.shape[1] == 1:
            self._stack = stack.new_empty(self.wanted, 3, *stack.shape[2:])
            self._stack[:count] = stack[:count]
        if len(image) in (1, self._stack.shape[1]):
            self._stack[count] = image

    def images(self) -> Tensor:
        """All images [N, C, H, W], grey ones among colour ones as RGB.

        Raises:
            ValueError: they have several numbers of channels.
        """
        counts = Counter(self.channels)
        if 3 in counts:
            counts[3] += counts.pop(1, 0)
        if len(counts) > 1:
            several = ", ".join(f"{count} of {channels}" for channels, count in sorted(counts.items()))
            raise ValueError(f"images should have the same number of channels, but got {several} instead")
        return torch.empty(0, dtype=torch.uint8) if self._stack is None else self._stack[: self.channels.total()]

    def _check_memory(self, image: Tensor) -> None:
        height, width = image.shape[1:]
        needed, there = self.wanted * image.numel(), memory()
        takes = f"{self.wanted:,} images of {height}×{width} pixels take {needed / 2**30:.1f} GiB"
        if there is not None and needed > there:
            raise ValueError(
                f"{takes}, but the machine has {there / 2**30:.1f}; lower num_images, or give an image size"
            )
        if height * width > _LARGE and self.tell is not None:
            self.tell(f"{takes}, as no image size is given; with one they are resized while they are loaded")


def _labels(targets: list[Any], ignore_label: int) -> tuple[Tensor, list[int]]:
    """Labels int64 [N] or masks uint8 [N, H, W], numbered from 0, and what each number stands for in the data."""
    masks = [target for target in targets if isinstance(target, Tensor)]
    if masks:
        if len(masks) < len(targets):
            raise ValueError(
                f"samples should all have masks, or all labels, but {len(masks)} of {len(targets)} have masks"
            )
        return hold_masks(masks, ignore_label=ignore_label)
    values = sorted(set(targets))
    if len(values) < 2:
        raise ValueError(f"images of at least 2 classes are needed, but got {len(targets)} images of {len(values)}")
    position = {label: i for i, label in enumerate(values)}
    return torch.tensor([position[label] for label in targets]), values


def _names(dataset: Samples, values: list[int]) -> tuple[str, ...]:
    """What the classes of these numbers are called: by the dataset if it says so, else by their numbers."""
    names = getattr(dataset, "classes", None)
    if names is None:
        for feature in (getattr(dataset, "features", None) or {}).values():  # of a dataset of Hugging Face
            names = names or getattr(feature, "names", None)
    if isinstance(names, list | tuple) and min(values) >= 0 and max(values) < len(names):
        # ImageNet's classes have several names each.
        texts = (", ".join(name) if isinstance(name := names[value], tuple) else str(name) for value in values)
        return tuple(map(readable, texts))
    return tuple(map(str, values))
