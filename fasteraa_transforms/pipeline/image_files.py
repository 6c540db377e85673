"""How an image file is opened, wherever one is: as 8 bits grey or colour, never with levels cut off."""

import os
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of 16 bits, of either order of bytes."""

_GAP = 4
"""A JPEG is decoded at no less than this many times the size that is wanted, so that resizing still averages pixels."""


def open_image(
    file: str | os.PathLike[str] | BinaryIO, *, at_least: tuple[int, int] | None = None, upright: bool = False
) -> Image.Image:
    """The image in a file, of mode L if it is grey, else RGB, without its transparency.

    Args:
        file: path, or a binary file.
        at_least: (height, width) that the image is going to be resized to. A JPEG that is at least 8 times as large is
            decoded at 1/2, 1/4 or 1/8 of its size, but never below 4 times what is wanted: that takes a fraction of the
            time and the memory, and after resizing a level differs by less than 1 on average. Others are decoded whole.
        upright: whether to turn the image as its EXIF orientation says.

    Returns:
        A loaded image. 16 bits are scaled to 8: the upper byte of each level.

    Raises:
        ValueError: a mode of unknown range (I or F, which are 32 bits).
        OSError: no such file, or one that Pillow cannot read.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(file, "PNG")
        >>> image = open_image(file)
        >>> image.mode, image.getextrema()
        ('L', (255, 255))
    """
    with Image.open(file) as image:
        if at_least is not None:
            scale = max(wanted / extent for wanted, extent in zip(at_least, image.size[::-1], strict=True))
            width, height = (max(1, round(_GAP * scale * extent)) for extent in image.size)
            image.draft(image.mode, (width, height))
        kind = image.format
        return eight_bits(ImageOps.exif_transpose(image) if upright else image, kind)


def eight_bits(image: Image.Image, kind: str | None = None) -> Image.Image:
    """``image`` as mode L if it is grey, else RGB, without its transparency; levels of 16 bits are scaled.

    Args:
        image: of any mode.
        kind: format of its file, as ``image.format`` says; where older versions of Pillow call 16 bits mode I, it
            tells them from 32.

    Raises:
        ValueError: a mode of unknown range. Pillow's ``convert("RGB")`` would make every level above 255 white.

    Example:
        >>> eight_bits(Image.new("RGBA", (2, 2), (1, 2, 3, 0))).getpixel((0, 0))
        (1, 2, 3)
    """
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and (kind or image.format) in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.int32) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"an image should be of 8 or 16 bits a channel, but got a PIL image of mode {image.mode} instead, whose "
            "range is not known; scale it to 8 bits (Pillow's convert would cut it off at 255)"
        )
    return image.convert("L" if image.mode in ("LA", "La") else "RGB")
