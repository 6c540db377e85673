"""The operations on Pillow images: the reference that every other backend equals byte for byte.

Each function takes ``(image, parameter)`` and, where its row of the table says so, the keywords ``interpolation``,
``fill``, ``centre`` or ``partner``. Modes are L, LA, RGB and RGBA; the alpha channel follows geometry only. No function
changes its input.
"""

import functools
from collections.abc import Callable, Sequence

from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode

from fasteraa_transforms import _geometry

MODES = ("L", "LA", "RGB", "RGBA", "I;16")
CUTOUT_RGB = (125, 123, 114)  # the mean colour AutoAugment's descendants fill with (Fast AutoAugment, CutoutAbs)
CUTOUT_GREY = 124

_RESAMPLING = {
    InterpolationMode.NEAREST: Image.Resampling.NEAREST,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
}

Fill = float | Sequence[float]


def check_mode(image: Image.Image) -> None:
    """Raise TypeError for a mode whose pixels the operations are not defined on."""
    if image.mode not in MODES:
        raise TypeError(
            f"image mode should be one of {', '.join(MODES)}, but got {image.mode} instead; "
            'convert it first, for example with image.convert("RGB"), or wrap it as a tv_tensors.Mask if it is a mask'
        )


def check_interpolation(interpolation: object) -> None:
    """Raise ValueError for anything but NEAREST and BILINEAR; "nearest" as a string is no `InterpolationMode`."""
    if interpolation not in _RESAMPLING:
        raise ValueError(
            "interpolation should be InterpolationMode.NEAREST or InterpolationMode.BILINEAR, "
            f"but got {interpolation!r} instead"
        )


def fill_colour(fill: Fill, image: Image.Image) -> int | tuple[int, ...]:
    """``fill`` as Pillow wants it for the bands of ``image``: one number means that number in every band."""
    bands = len(image.getbands())
    values = (fill,) * bands if isinstance(fill, int | float) else tuple(fill)
    if len(values) == 1:
        values *= bands
    if len(values) != bands:
        raise ValueError(f"fill should be one number or one for each of {bands} channels, but got {fill} instead")
    colour = tuple(int(value) for value in values)
    return colour[0] if bands == 1 else colour


def _keep_alpha(function: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
    """Apply a colour operation to the bands of an image without its alpha, if it has one, and put that back."""

    @functools.wraps(function)
    def wrapped(image: Image.Image, *args: object, **kwargs: object) -> Image.Image:
        if image.mode not in ("LA", "RGBA"):
            return function(image, *args, **kwargs)
        result = function(image.convert(image.mode[:-1]), *args, **kwargs)
        result.putalpha(image.getchannel("A"))
        return result

    return wrapped


def _affine(matrix_of: Callable[[float, int, int], _geometry.Matrix]) -> Callable[..., Image.Image]:
    def function(image: Image.Image, parameter: float, *, interpolation: InterpolationMode, fill: Fill) -> Image.Image:
        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix_of(parameter, image.height, image.width),
            _RESAMPLING[interpolation],
            fillcolor=fill_colour(fill, image),
        )

    return function


shear_x = _affine(_geometry.shear_x_matrix)
shear_y = _affine(_geometry.shear_y_matrix)
translate_x = _affine(_geometry.translate_x_matrix)
translate_y = _affine(_geometry.translate_y_matrix)


def rotate(image: Image.Image, degrees: float, *, interpolation: InterpolationMode, fill: Fill) -> Image.Image:
    return image.rotate(degrees, _RESAMPLING[interpolation], fillcolor=fill_colour(fill, image))


def flip(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.mirror(image)


@_keep_alpha
def solarize(image: Image.Image, threshold: float) -> Image.Image:
    # Pillow compares integers with the threshold, so a fractional one is exact here too; its type hint says int.
    return ImageOps.solarize(image, threshold)  # type: ignore[arg-type]


@_keep_alpha
def posterize(image: Image.Image, bits: float) -> Image.Image:
    return ImageOps.posterize(image, int(bits))


@_keep_alpha
def invert(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.invert(image)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(factor)


def color(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(factor)


def brightness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(factor)


def sharpness(image: Image.Image, factor: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(factor)


@_keep_alpha
def auto_contrast(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.autocontrast(image)


@_keep_alpha
def equalize(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.equalize(image)


@_keep_alpha
def cutout(image: Image.Image, fraction: float, *, centre: tuple[float, float]) -> Image.Image:
    box = _geometry.cutout_box(fraction, centre, image.height, image.width)
    result = image.copy()
    result.paste(CUTOUT_RGB if image.mode == "RGB" else CUTOUT_GREY, box)
    return result


@_keep_alpha
def sample_pairing(image: Image.Image, weight: float, *, partner: Image.Image) -> Image.Image:
    return Image.blend(image, partner.convert(image.mode), weight)
