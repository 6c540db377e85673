"""Images as they are loaded: of one size, one by one into one tensor, so that none is held twice."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.search.data.sizing import Extent, fitting_size
from fasteraa_transforms.search.runtime.hardware import memory

_LARGE = 2**18  # pixels of an image that is called large


class Held:
    """Images of one size and their targets, gathered.

    Args:
        wanted: how many there will be at most.
        size: (height, width) that they are resized to; None keeps their size.
        automatic: whether images of another size than those before are no error, but have all resized.
        tell: called with a line about images that are large and not resized.

    Attributes:
        size: what images are resized to by now.
        targets: labels, and masks of the size of the images.
        extents: how many images had each size when they came.
    """

    def __init__(
        self,
        wanted: int,
        size: Extent | None = None,
        *,
        automatic: bool = False,
        tell: Callable[[str], object] = lambda line: None,
    ) -> None:
        self.wanted, self.size, self.automatic, self.tell = wanted, size, automatic, tell
        self.targets: list[Any] = []
        self.extents: Counter[Extent] = Counter()
        self._channels: Counter[int] = Counter()
        self._stack: Tensor | None = None  # [wanted, C, H, W]
        self._first = ""

    def __len__(self) -> int:
        """Number of images by now."""
        return len(self.targets)

    def add(self, image: Tensor, target: Any, name: str) -> None:
        """Take one more image, uint8 [C, H, W], and its label or mask [H, W].

        Raises:
            ValueError: its size differs from the others, or all images together are too large for the memory.
        """
        self.extents[image.shape[1], image.shape[2]] += 1
        if self.size is None and self._stack is not None and image.shape[1:] != self._stack.shape[2:]:
            if not self.automatic:  # said now, not when memory is full of photographs
                sizes = ((self._first, self._stack.shape[2:]), (name, image.shape[1:]))
                both = " and ".join(f"{who} of {height}×{width}" for who, (height, width) in sizes)
                raise ValueError(f"images should have one size, but got {both} pixels; give an image size")
            self._resize_all()
        image, target = resized(image, target, self.size)
        if self._stack is None:
            self._check_memory(image)
            self._stack, self._first = image.new_empty(self.wanted, *image.shape), name
        if len(image) == 3 and self._stack.shape[1] == 1:
            grey, count = self._stack, len(self)
            self._stack = grey.new_empty(self.wanted, 3, *grey.shape[2:])
            self._stack[:count] = grey[:count]
        if len(image) in (1, self._stack.shape[1]):
            self._stack[len(self)] = image
        self._channels[len(image)] += 1
        self.targets.append(target)

    def images(self) -> Tensor:
        """All images [N, C, H, W], grey ones among colour ones as RGB.

        Raises:
            ValueError: they have several numbers of channels.
        """
        counts = Counter(self._channels)
        if 3 in counts:
            counts[3] += counts.pop(1, 0)
        if len(counts) > 1:
            several = ", ".join(f"{count} of {channels}" for channels, count in sorted(counts.items()))
            raise ValueError(f"images should have the same number of channels, but got {several} instead")
        return torch.empty(0, dtype=torch.uint8) if self._stack is None else self._stack[: len(self)]

    def _resize_all(self) -> None:
        """Choose a size once images differ in size, and resize the images that are already held."""
        assert self._stack is not None
        self.size = fitting_size(self.extents)
        assert self.size is not None
        before = self._stack
        self._stack = before.new_empty(self.wanted, before.shape[1], *self.size)
        for index, target in enumerate(self.targets):
            self._stack[index], self.targets[index] = resized(before[index], target, self.size)

    def _check_memory(self, image: Tensor) -> None:
        height, width = image.shape[1:]
        needed, there = self.wanted * image.numel(), memory()
        takes = f"{self.wanted:,} images of {height}×{width} pixels take {needed / 2**30:.1f} GiB"
        if there is not None and needed > there:
            raise ValueError(
                f"{takes}, but the machine has {there / 2**30:.1f}; lower num_images, or give an image size"
            )
        if height * width > _LARGE and self.size is None:
            self.tell(f"{takes}, as no image size is given; with one they are resized while they are loaded")


def resized(image: Tensor, target: Any, size: Extent | None) -> tuple[Tensor, Any]:
    """Image [C, *size] and its label or mask [*size]: resized on the shorter side, then cropped at the centre.

    Args:
        image: uint8 [C, H, W].
        target: a label, or a mask [H, W], which is resized to the nearest pixel.
        size: (height, width); None leaves both as they are.
    """
    if size is not None and tuple(image.shape[-2:]) != size:
        covering = _covering(image, size)
        if isinstance(target, Tensor):
            mask = tv.resize(target[None].int(), covering, tv.InterpolationMode.NEAREST_EXACT)
            target = tv.center_crop(mask, list(size))[0]
        image = tv.center_crop(tv.resize(image, covering, antialias=True), list(size))
    return image, target.to(torch.uint16) if isinstance(target, Tensor) else target


def _covering(image: Tensor, size: Extent) -> list[int]:
    """The smallest (height, width) in the image's own proportions that covers ``size``."""
    extents = image.shape[-2:]
    scale = max(target / extent for target, extent in zip(size, extents, strict=True))
    return [max(round(extent * scale), target) for target, extent in zip(size, extents, strict=True)]
