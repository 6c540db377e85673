"""The operations on Pillow images: the reference that every other backend equals byte for byte.

Each function takes ``(image, parameter, extras)``, with an `Extras`, and does not change its input. Modes are L, LA,
RGB and RGBA; the alpha channel follows geometry only.
"""

import functools
import operator
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations import arithmetic as _arithmetic
from fasteraa_transforms.operations import geometry as _geometry
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine

CUTOUT_RGB = (125, 123, 114)  # the mean colour AutoAugment's descendants fill with (Fast AutoAugment, CutoutAbs)
CUTOUT_GREY = 124

Form = Callable[[Image.Image, float, Extras], Image.Image]

_RESAMPLING = {
    InterpolationMode.NEAREST: Image.Resampling.NEAREST,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
}


def _keep_alpha(function: Form) -> Form:
    """The form of a colour operation, which gets the image without its alpha; that is put back afterwards."""

    @functools.wraps(function)
    def wrapped(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
        if image.mode not in ("LA", "RGBA"):
            return function(image, parameter, extras)
        result = function(image.convert(image.mode[:-1]), parameter, extras)
        result.putalpha(image.getchannel("A"))
        return result

    return wrapped


# --- geometry ---------------------------------------------------------------------------------------------------------


def affine(geometry: Affine) -> Form:
    """The form of an affine map."""
    matrix_of = functools.lru_cache(maxsize=1024)(geometry.matrix)

    def form(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix_of(parameter, image.height, image.width),
            _RESAMPLING[extras.interpolation],
            fillcolor=fill_colour(image, extras),
        )

    if geometry.mirrors:
        return lambda image, parameter, extras: form(image, parameter, Extras())
    return form


def fill_colour(image: Image.Image, extras: Extras) -> int | tuple[int, ...]:
    """The fill as Pillow wants it for the bands of ``image``: whole numbers, and one alone as a number."""
    colour = tuple(map(int, extras.colours(len(image.getbands()))))
    return colour[0] if len(colour) == 1 else colour


def flip(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


# --- tables of 256 entries --------------------------------------------------------------------------------------------

# Every level once: what an operation makes of it is its table.
_RAMP = Image.frombytes("L", (256, 1), _arithmetic.LEVELS)


@functools.lru_cache(maxsize=1024)
def solarize_table(threshold: float) -> bytes:
    # Pillow compares integers with the threshold, so a fractional one is exact here too; its type hint says int.
    return ImageOps.solarize(_RAMP, threshold).tobytes()  # type: ignore[arg-type]


@functools.lru_cache(maxsize=16)
def posterize_table(bits: float) -> bytes:
    return ImageOps.posterize(_RAMP, int(bits)).tobytes()


@functools.lru_cache(maxsize=1)
def invert_table(parameter: float) -> bytes:
    return ImageOps.invert(_RAMP).tobytes()


@functools.lru_cache(maxsize=1024)
def brightness_table(factor: float) -> bytes:
    return ImageEnhance.Brightness(_RAMP).enhance(factor).tobytes()


@functools.lru_cache(maxsize=4096)
def contrast_table(mean: int, factor: float) -> bytes:
    return Image.blend(Image.new("L", _RAMP.size, mean), _RAMP, factor).tobytes()


@functools.lru_cache(maxsize=4096)
def auto_contrast_table(low: int, high: int) -> bytes:
    """For a channel whose levels lie in [low, high]; the other entries do not matter."""
    levels = ImageOps.autocontrast(_RAMP.crop((low, 0, high + 1, 1))).tobytes()
    return bytes(low) + levels + bytes(255 - high)


def levels(table: Callable[[float], bytes]) -> Form:
    """The form of a map of levels."""
    return lambda image, parameter, extras: _look_up(image, table(parameter))


def _look_up(image: Image.Image, *tables: bytes) -> Image.Image:
    """Map each band through its table, or all through one; not the alpha band.

    `Image.point` without its loop over the table in Python, which takes most of its time on small images.
    """
    image.load()
    alpha = image.mode in ("LA", "RGBA")
    colours = len(image.getbands()) - alpha
    whole = tables[0] * colours if len(tables) == 1 else b"".join(tables[:colours])
    return image._new(image.im.point(whole + _arithmetic.LEVELS if alpha else whole, None))


def contrast(image: Image.Image, factor: float, extras: Extras) -> Image.Image:
    # Counting is faster than getting at the bytes of the pixels.
    total = sum(map(operator.mul, image.convert("L").histogram(), range(256)))
    mean = int(total / (image.width * image.height) + 0.5)
    return _look_up(image, contrast_table(mean, factor))


def auto_contrast(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
    limits: Any = image.getextrema()
    return _look_up(image, *(auto_contrast_table(*pair) for pair in (limits if image.mode != "L" else (limits,))))


def equalize(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
    counts = image.histogram()
    # Twice as fast as numpy makes an array of a list.
    histograms = np.frombuffer(struct.pack(f"{len(counts)}q", *counts), dtype=np.int64).reshape(-1, 256)
    tables = _arithmetic.equalize_levels(histograms, image.width * image.height)
    return _look_up(image, *(table.tobytes() for table in tables))


# --- color, sharpness, cutout, sample pairing -------------------------------------------------------------------------


@_keep_alpha
def invert(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
    # On large images five times as fast as the table of its kind.
    return ImageChops.invert(image)


@_keep_alpha
def color(image: Image.Image, factor: float, extras: Extras) -> Image.Image:
    return Image.blend(image.convert("L").convert(image.mode), image, factor)


@_keep_alpha
def sharpness(image: Image.Image, factor: float, extras: Extras) -> Image.Image:
    if image.width * image.height < _arithmetic.FEW_PIXELS:
        return ImageEnhance.Sharpness(image).enhance(factor)
    # Pillow's filter takes three times as long as this for large images, and half as long for small ones.
    bands = len(image.getbands())
    values = np.frombuffer(image.tobytes(), dtype=np.uint8).reshape(1, 1, image.height, -1)
    result = Image.frombytes(image.mode, image.size, _arithmetic.sharpen(values, (factor,), bands))
    result.info = image.info.copy()  # as Pillow's own operations do
    return result


@_keep_alpha
def cutout(image: Image.Image, fraction: float, extras: Extras) -> Image.Image:
    box = _geometry.cutout_box(fraction, extras.centre, image.height, image.width)
    result = image.copy()
    result.paste(CUTOUT_RGB if image.mode == "RGB" else CUTOUT_GREY, box)
    return result


@_keep_alpha
def sample_pairing(image: Image.Image, weight: float, extras: Extras) -> Image.Image:
    return Image.blend(image, extras.partner.convert(image.mode), weight)
