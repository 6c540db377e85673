"""The loop of a search."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet


def batches(
    data: ImageSet, batch_size: int, crop: Crop, *, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches: images float [B, C, *crop.size] in [0, 1], and labels.

    Labels are int64 [B], or masks uint8 [B, *crop.size], cropped and flipped with their images. A last batch that would
    be smaller is left out.
    """
    order = torch.randperm(len(data), generator=generator, device=data.images.device)
    for start in range(0, len(order) - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        images, labels = crop.samples(data.images[index], data.labels[index], generator=generator)
        yield images.float() / 255, labels
