"""The operations on Pillow images: the reference that every other backend equals byte for byte.

Each function takes ``(image, parameter, extras)``, with an `Extras`, and does not change its input. Modes are L, LA,
RGB and RGBA; the alpha channel follows geometry only.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations import arithmetic as _arithmetic
from fasteraa_transforms.operations import geometry as _geometry
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine
from fasteraa_transforms.operations.sources import Source
from fasteraa_transforms.operations.warp import LARGE, source_of

CUTOUT_RGB = (125, 123, 114)  # the mean colour AutoAugment's descendants fill with (Fast AutoAugment, CutoutAbs)
CUTOUT_GREY = 124

Form = Callable[[Image.Image, float, Extras], Image.Image]

_NEAREST = InterpolationMode.NEAREST  # to look up a member of an enumeration takes a while
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


# --- pixels as an array -----------------------------------------------------------------------------------------------

# Pillow keeps these modes in 4 bytes a pixel. With these raw modes, pixels are copied as they are, which takes half as
# long as with three bytes. The fourth byte of RGB means nothing.
_RAW = {"RGB": "RGBX", "RGBA": "RGBA"}


def _pixels(image: Image.Image, more: bytes = b"") -> NDArray[np.uint32]:
    """The pixels of an image of mode RGB or RGBA, [H W], with ``more`` behind them."""
    data = image.tobytes("raw", _RAW[image.mode])
    return np.frombuffer(data + more if more else data, dtype=np.uint32)


def _image_of(pixels: NDArray[Any], like: Image.Image) -> Image.Image:
    """The image of such pixels."""
    result = Image.frombytes(like.mode, like.size, pixels, "raw", _RAW[like.mode])
    result.info = like.info.copy()  # as Pillow's own operations do
    return result


def _is_large(image: Image.Image) -> bool:
    """Whether numpy's arithmetic on RGB pixels is faster than Pillow's tables, the copies included."""
    return image.mode == "RGB" and image.width * image.height >= _arithmetic.FEW_PIXELS


# --- geometry ---------------------------------------------------------------------------------------------------------


def affine(geometry: Affine) -> Form:
    """The form of an affine map."""
    matrix_of = functools.lru_cache(maxsize=1024)(geometry.matrix)
    # Pillow itself copies the rows of other maps nearly as they are.
    gathers = not (geometry.d.constant and geometry.e.constant)

    def form(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
        width, height = image.size
        large = gathers and _arithmetic.FEW_PIXELS <= height * width <= LARGE
        if large and extras.interpolation is _NEAREST and image.mode in _RAW:
            source = source_of(geometry.matrix, parameter, height, width)
            if isinstance(source, Source):
                return _gathered(image, source, extras)
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix_of(parameter, height, width),
            _RESAMPLING[extras.interpolation],
            fillcolor=fill_colour(image, extras),
        )

    if geometry.mirrors:
        return lambda image, parameter, extras: form(image, parameter, Extras())
    return form


def _gathered(image: Image.Image, source: Source, extras: Extras) -> Image.Image:
    """The image of the pixels from a source: half the time of Pillow's own, which computes where each of them lies."""
    fill = bytes((*map(int, extras.colours(len(image.getbands()))), 255)[:4])
    return _image_of(_pixels(image, fill).take(source.pixel, mode="clip"), image)


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
    return _arithmetic.contrast_levels(mean, factor)


@functools.lru_cache(maxsize=4096)
def auto_contrast_table(low: int, high: int) -> bytes:
    return _arithmetic.auto_contrast_levels(low, high)


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


def posterize(image: Image.Image, bits: float, extras: Extras) -> Image.Image:
    if not _is_large(image):
        return _look_up(image, posterize_table(bits))
    mask = np.frombuffer(bytes([0xFF00 >> int(bits) & 0xFF] * 4), dtype=np.uint32)
    return _image_of(_pixels(image) & mask, image)


def contrast(image: Image.Image, factor: float, extras: Extras) -> Image.Image:
    luma = np.frombuffer(image.convert("L").tobytes(), dtype=np.uint8)
    total = int(luma.sum(dtype=np.uint32 if len(luma) < 2**24 else np.uint64))  # 64 bits take twice as long
    return _look_up(image, contrast_table(int(total / len(luma) + 0.5), factor))


def auto_contrast(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
    if _is_large(image):
        # A row at a time, of all bands, is twice as fast as Pillow's band by band.
        values = _pixels(image).view(np.uint8).reshape(image.height, -1)
        low, high = (limit.reduce(limit.reduce(values).reshape(-1, 4)).tolist() for limit in (np.minimum, np.maximum))
        tables = [auto_contrast_table(*pair) for pair in zip(low[:3], high[:3], strict=True)]
    else:
        limits: Any = image.getextrema()
        tables = [auto_contrast_table(*pair) for pair in (limits if image.mode != "L" else (limits,))]
    return _look_up(image, *tables)


def equalize(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
    counts = image.histogram()
    tables = _arithmetic.equalize_levels(_arithmetic.whole_numbers([counts]), image.width * image.height)
    return _look_up(image, *(table.tobytes() for table in tables))


# --- color, sharpness, cutout, sample pairing -------------------------------------------------------------------------


@_keep_alpha
def invert(image: Image.Image, parameter: float, extras: Extras) -> Image.Image:
    # On large images five times as fast as the table of its kind.
    return ImageChops.invert(image)


@_keep_alpha
def color(image: Image.Image, factor: float, extras: Extras) -> Image.Image:
    luma = image.convert("L")
    # A merge takes half the time of a conversion for a large image, and twice the time for a small one.
    grey = Image.merge("RGB", (luma, luma, luma)) if _is_large(image) else luma.convert(image.mode)
    result = Image.blend(grey, image, factor)
    result.info = image.info.copy()
    return result


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
