"""The preprocessing that every network of a search sees: a random crop and a mirror image, the centre in a test."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.search.data.masks import IGNORED


@dataclass(frozen=True)
class Crop:
    """Random crop and mirror image, drawn for each image.

    Fast AutoAugment calls this the baseline preprocessing; real and augmented images have both had it.

    Attributes:
        size: (height, width) of the crop, at most H + 2 padding and W + 2 padding of the images.
        padding: zeros on every side before the crop, in pixels.
        flip: whether to mirror with chance 1/2.

    Example:
        >>> crop = Crop((32, 32), padding=4, flip=True)
        >>> crop(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([4, 3, 32, 32])
        >>> Crop((24, 24)).centre(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 3, 24, 24])
    """

    size: tuple[int, int]
    padding: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Crop each image at a place of its own.

        Args:
            images: [B, C, H, W], any dtype.
            generator: source of the draws, on the device of ``images``.

        Returns:
            [B, C, *size], same dtype.
        """
        return self._cut(images, *self._draw(images, generator))

    def samples(
        self,
        images: Tensor,  # [B, C, H, W]
        labels: Tensor,  # int64 [B], or masks uint8 [B, H, W]
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Crop images, and their masks at the same place; labels stay as they are.

        Pixels of a mask that come from the padding become `IGNORED`.

        Example:
            >>> images = torch.randint(0, 10, (4, 1, 8, 8), dtype=torch.uint8)
            >>> images, masks = Crop((6, 6), flip=True).samples(images, images[:, 0])
            >>> torch.equal(images[:, 0], masks)
            True
        """
        drawn = self._draw(images, generator)
        if labels.ndim == 3:
            labels = self._cut(labels[:, None], *drawn, fill=IGNORED)[:, 0]
        return self._cut(images, *drawn), labels

    def centre(self, images: Tensor) -> Tensor:
        """The middle of the images [..., H, W], as tests see them: [..., *size]."""
        return images if tuple(images.shape[-2:]) == self.size else tv.center_crop(images, list(self.size))

    def _draw(self, images: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Rows [B, height] and columns [B, width] of the padded images."""
        device = images.device
        draw = torch.rand(3, len(images), generator=generator, device=device)
        room = [
            extent + 2 * self.padding - target + 1 for extent, target in zip(images.shape[-2:], self.size, strict=True)
        ]
        top, left = ((draw[i] * room[i]).long().clamp(max=room[i] - 1)[:, None] for i in range(2))
        rows = top + torch.arange(self.size[0], device=device)
        columns = left + torch.arange(self.size[1], device=device)
        if self.flip:
            columns = torch.where((draw[2] < 0.5)[:, None], columns.flip(1), columns)
        return rows, columns

    def _cut(self, images: Tensor, rows: Tensor, columns: Tensor, fill: int = 0) -> Tensor:
        padded = F.pad(images, (self.padding,) * 4, value=fill)
        each = torch.arange(len(images), device=images.device)
        cropped = padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [B, height, width, C]
        return cropped.permute(0, 3, 1, 2).contiguous()
