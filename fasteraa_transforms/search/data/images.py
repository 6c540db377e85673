"""The images a search works on: a subset of a data set, held as one uint8 tensor."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.search.data.folders import listed

_COUNTED_AT_ONCE = 2**20  # pixels, or other values, that are converted at a time


@dataclass(frozen=True)
class ImageSet:
    """The subset a search works on.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N], from 0 to ``classes`` - 1; or masks, uint8 [N, H, W], of these classes and `masks.IGNORED`.
        classes: number of classes.
        names: what the classes are called, by their number; empty if nothing says it.
        available: how many images there are, of which these were drawn; None if nothing says it.
        notes: what was left out, skipped or should be known, in lines of text.
    """

    images: Tensor
    labels: Tensor
    classes: int
    names: tuple[str, ...] = ()
    available: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether every pixel has a label."""
        return self.labels.ndim == 3

    def __len__(self) -> int:
        """Number of images N."""
        return len(self.images)

    def subset(self, index: Tensor | slice) -> "ImageSet":
        """The images at ``index``, int64 [M]; those of a slice are not copied."""
        return dataclasses.replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device) -> "ImageSet":
        """The same images on another device."""
        return dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, over pixels in [0, 1]; a deviation is at least 1e-3.

        Counted from a histogram of the 256 levels, some images at a time, to save memory.
        """
        levels = torch.arange(256, dtype=torch.float64) / 255
        at_once = max(1, _COUNTED_AT_ONCE // self.images[0, 0].numel())
        counts = torch.zeros(self.images.shape[1], 256, dtype=torch.int64, device=self.images.device)
        for part in self.images.split(at_once):
            for channel, channel_counts in enumerate(counts):
                channel_counts += part[:, channel].flatten().bincount(minlength=256)
        share = counts.cpu().double()
        share /= share.sum(1, keepdim=True)
        means = share @ levels
        deviations = (share * (levels - means[:, None]).square()).sum(1).sqrt().clamp(min=1e-3)
        return tuple(means.tolist()), tuple(deviations.tolist())

    def normaliser(self) -> Epilogue:
        """What scales and normalises images of this set: uint8 [B, C, H, W] -> float32, channels last."""
        mean, std = self.statistics()
        return Epilogue(mean=mean, std=std, memory_format=torch.channels_last)

    def checksum(self) -> str:
        """A checksum of images and labels, 16 hexadecimal digits; what differs in either has another one.

        Example:
            >>> from fasteraa_transforms.search import Digits, load_images
            >>> digits = load_images(Digits())
            >>> digits.checksum() == digits.subset(torch.arange(len(digits))).checksum()
            True
            >>> digits.checksum() == digits.subset(torch.arange(1, len(digits))).checksum()
            False
        """
        known = self.identity()
        return hashlib.sha256(f"{known['images']} {known['labels']}".encode()).hexdigest()[:16]

    def identity(self) -> dict[str, Any]:
        """A summary of the images for a checkpoint, as JSON, which `check_same` compares."""
        return {
            "shape": list(self.images.shape),
            "classes": self.classes,
            "names": list(self.names),
            "available": self.available,
            "images": _checksum(self.images),
            "labels": _checksum(self.labels),
        }

    def describe(self) -> str:
        """What was loaded, in a line; a line for each of the notes follows.

        Example:
            >>> from fasteraa_transforms.search import Digits, load_images
            >>> print(load_images(Digits(), num_images=100, balanced=True).describe())
            100 of 1,797 images, 1×8×8 (channels, height, width); 10 classes: 0 (10), 1 (10), 2 (10), ...
        """
        drawn = f"{len(self):,} images" if self.available is None else f"{len(self):,} of {self.available:,} images"
        shape = "×".join(map(str, self.images.shape[1:]))
        names = self.names or tuple(map(str, range(self.classes)))
        if self.has_masks:
            what = f"masks of {self.classes} classes: {listed(names)}"
        else:
            counts = self.labels.bincount(minlength=self.classes).tolist()
            what = f"{self.classes} classes: " + listed(
                f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)
            )
        return "\n".join([f"{drawn}, {shape} (channels, height, width); {what}", *self.notes])


def _checksum(values: Tensor) -> str:
    """SHA-256 of shape, dtype and values, shortened to 16 hexadecimal digits."""
    total = hashlib.sha256(f"{values.dtype} {list(values.shape)}".encode())
    for part in values.split(max(1, _COUNTED_AT_ONCE // max(1, values[:1].numel()))):
        total.update(part.cpu().contiguous().numpy().data)
    return total.hexdigest()[:16]


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], where: object = "the run") -> None:
    """Check that images are those that a run was started with.

    Args:
        saved: `ImageSet.identity` of then.
        now: that of now.
        where: what the run is called.

    Raises:
        ValueError: they differ; says in a line in what.

    Example:
        >>> from fasteraa_transforms.search import Digits, load_images
        >>> ten, nine = (load_images(Digits(), num_images=n).identity() for n in (10, 9))
        >>> check_same(ten, nine, "runs/digits")
        Traceback (most recent call last):
        ValueError: the images should be those that runs/digits was started with, but they were 10 and are 9; ...
    """
    advice = "give the same data, or start again in another folder"
    if found := _difference(saved, now):
        raise ValueError(f"the images should be those that {where} was started with, but {found}; {advice}")


def _difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first thing in which two identities differ."""
    (count, *shape), (count_now, *shape_now) = saved.get("shape", [0]), now.get("shape", [0])
    if shape != shape_now:
        return f"their shape was {'×'.join(map(str, shape))} and is {'×'.join(map(str, shape_now))}"
    before, after = saved.get("names", []), now.get("names", [])
    if gone := [name for name in before if name not in after]:
        return f"they have no class {listed(gone)} any more"
    if new := [name for name in after if name not in before]:
        return f"they have a new class, {listed(new)}"
    if count != count_now:
        return f"they were {count} and are {count_now}"
    if saved.get("available") != now.get("available"):
        return f"they were drawn from {saved.get('available')} images and now are from {now.get('available')}"
    differ = [part for part in ("images", "labels") if saved.get(part) != now.get(part)]
    if differ == ["labels"]:
        return "their labels or masks were changed"
    return "images were changed or replaced" if differ else None
