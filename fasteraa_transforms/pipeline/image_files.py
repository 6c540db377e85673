"""How an image file is opened, wherever one is: as 8 bits grey or colour, never with levels cut off."""

import os
from typing import BinaryIO

import numpy as np
from PIL import Image

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes of 16 bits, of either order of bytes."""

_GAP = 4
"""A JPEG is decoded at no less than this many times the wanted size, so that resizing still averages pixels."""

_ORIENTATION = 0x0112  # tag of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its orientation in EXIF; from 5 on height and width change places."""


def open_image(
    file: str | os.PathLike[str] | BinaryIO,
    *,
    at_least: tuple[int, int] | None = None,
    upright: bool = False,
    beside: tuple[int, int] | None = None,
) -> Image.Image:
    """The image in a file, of mode L if it is grey, else RGB, without its transparency.

    Args:
        file: path, or a binary file.
        at_least: (height, width) that the image is going to be resized to. A JPEG that is at least 8 times as large is
            decoded at 1/2, 1/4 or 1/8 of its size, but at no less than 4 times the wanted size. That saves time and
            memory; after resizing, a level differs by less than 1 on average. Other images are decoded whole.
        upright: whether to turn the image as its EXIF orientation says.
        beside: (height, width) of the image's mask. The image is turned only if it fits the mask turned and does not
            fit it as stored.

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
        orientation = orientation_of(image) if upright else 1
        if beside is not None and not (orientation >= 5 and beside == image.size != image.size[::-1]):
            orientation = 1
        if at_least is not None:
            stored = at_least if orientation < 5 else at_least[::-1]
            scale = max(wanted / extent for wanted, extent in zip(stored, image.size[::-1], strict=True))
            width, height = (max(1, round(_GAP * scale * extent)) for extent in image.size)
            image.draft(image.mode, (width, height))
        return turned_upright(eight_bits(image), orientation)


def extent_of(file: str | os.PathLike[str] | BinaryIO) -> tuple[int, int]:
    """Height and width of the image in a file, upright, as its first bytes tell them; nothing is decoded.

    Raises:
        OSError: no such file, or one that Pillow does not know.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("L", (6, 4)).save(file, "PNG")
        >>> extent_of(file)
        (4, 6)
    """
    with Image.open(file) as image:
        width, height = image.size
        # A PNG may have its EXIF at the end, for which Pillow would decode it; cameras write JPEG.
        turned = image.format in ("JPEG", "MPO") and orientation_of(image) >= 5
        return (width, height) if turned else (height, width)


def orientation_of(image: Image.Image) -> int:
    """The orientation in an image's EXIF, from 1 (upright) to 8; 1 where it says none."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises what it likes for EXIF that is damaged; the pixels are not
        return 1
    return orientation if orientation in _TURNS else 1


def turned_upright(image: Image.Image, orientation: int) -> Image.Image:
    """``image`` turned and mirrored as an orientation of EXIF says.

    Example:
        >>> turned_upright(Image.new("L", (6, 4)), 6).size
        (4, 6)
    """
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def eight_bits(image: Image.Image) -> Image.Image:
    """``image`` as mode L if it is grey, else RGB, without its transparency; levels of 16 bits are scaled.

    Args:
        image: of any mode. Where older versions of Pillow call 16 bits mode I, ``image.format`` tells them from 32.

    Raises:
        ValueError: a mode of unknown range. Pillow's ``convert("RGB")`` would make every level above 255 white.

    Example:
        >>> eight_bits(Image.new("RGBA", (2, 2), (1, 2, 3, 0))).getpixel((0, 0))
        (1, 2, 3)
    """
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.int32) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"an image should be of 8 or 16 bits a channel, but got a PIL image of mode {image.mode} instead, whose "
            "range is not known; scale it to 8 bits (Pillow's convert would cut it off at 255)"
        )
    return image.convert("L" if image.mode in ("LA", "La") else "RGB")
