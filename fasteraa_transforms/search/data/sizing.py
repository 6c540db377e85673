"""The size that images are resized to by default: if they have several sizes, or are large.

Images of one size are left as they are, unless they are large. All others are resized to a square of 64 × 64 pixels. If
most of them have a side below 64 pixels, the square has 32 × 32, since enlarging gains nothing.

The time of a training step grows with the area. On one thread of a CPU a resnet9-16 is trained on 147 images a second
at 32×32, 33 at 64×64, 17 at 96×96 and 2 at 224×224, as measured. A race trains some twenty networks in ten minutes: at
64×64 on hundreds of images, with several threads on thousands; at 224×224 on next to none.
"""

import statistics
from collections import Counter
from typing import Literal

Extent = tuple[int, int]
"""(height, width) in pixels."""

Size = Extent | Literal["auto"] | None
"""Size that images are resized to. "auto": as `fitting_size` says. None: they keep their size."""

SIDES = (32, 64)
"""Sides of the squares that images are resized to, for small and for large images."""

LARGEST_KEPT = 96
"""Images of one size are large if they have more pixels than a square with this side."""


def fitting_size(extents: Counter[Extent]) -> Extent | None:
    """What to resize images of these sizes to; None if they can keep theirs.

    Args:
        extents: how many images have each size.

    Example:
        >>> fitting_size(Counter({(28, 28): 9})), fitting_size(Counter({(28, 28): 9, (30, 40): 2}))
        (None, (32, 32))
        >>> fitting_size(Counter({(480, 640): 9}))
        (64, 64)
    """
    if not extents or (len(extents) == 1 and not is_large(next(iter(extents)))):
        return None
    shorter = statistics.median(min(extent) for extent in extents.elements())
    side = SIDES[shorter >= SIDES[1]]
    return side, side


def is_large(extent: Extent) -> bool:
    """Whether images of this size are not left as they are."""
    return extent[0] * extent[1] > LARGEST_KEPT**2


def sizing_in_words(extents: Counter[Extent], size: Extent) -> str:
    """What was chosen, in a line.

    Args:
        extents: of the images, before they are resized.
        size: that was chosen.

    Example:
        >>> print(sizing_in_words(Counter({(480, 640): 3, (3000, 4000): 9}), (64, 64)))
        images of 640×480 to 4000×3000 (width×height): resized to 64×64; --image-size chooses another
    """
    ordered = sorted(extents, key=lambda extent: (extent[0] * extent[1], extent))
    ends = dict.fromkeys((ordered[0], ordered[-1]))
    found = " to ".join(f"{width}×{height}" for height, width in ends)
    height, width = size
    return f"images of {found} (width×height): resized to {width}×{height}; --image-size chooses another"
