"""The options of `apply`: what images, interpolation and fill may be. They are checked here and nowhere else."""

import functools
import numbers
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations.extras import Extras

Fill = float | Sequence[float] | None
"""A fill as a user gives it: a number, a number a channel, or None for 0."""

MODES = ("L", "LA", "RGB", "RGBA", "I;16")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WHITE = {torch.uint8: 255, torch.uint16: 65535, **dict.fromkeys(_FLOATS, 1)}
"""The dtypes that are taken, and the highest value of an image in each."""

NEAREST = InterpolationMode.NEAREST  # to look up a member of an enumeration takes a while
BILINEAR = InterpolationMode.BILINEAR

_INTERPOLATIONS: dict[object, InterpolationMode] = {
    NEAREST: NEAREST,
    BILINEAR: BILINEAR,
    "nearest": NEAREST,
    "bilinear": BILINEAR,
    int(Image.Resampling.NEAREST): NEAREST,
    int(Image.Resampling.BILINEAR): BILINEAR,
}
_KEPT_FILL = 16  # numbers of a fill up to which it is remembered as right


def interpolation_mode(interpolation: InterpolationMode | str | int) -> InterpolationMode:
    """The mode, given as torchvision takes it: itself, its name, or Pillow's number for it.

    Raises:
        ValueError: it is neither NEAREST nor BILINEAR.

    Example:
        >>> interpolation_mode("bilinear")
        <InterpolationMode.BILINEAR: 'bilinear'>
    """
    if interpolation is NEAREST or interpolation is BILINEAR:
        return interpolation
    mode: Any = _INTERPOLATIONS.get(interpolation, interpolation)
    check_interpolation(mode)
    return mode


def check_interpolation(interpolation: object) -> None:
    """Raise ValueError for anything but the two modes themselves."""
    if interpolation is not NEAREST and interpolation is not BILINEAR:
        raise ValueError(
            "interpolation should be InterpolationMode.NEAREST or InterpolationMode.BILINEAR, "
            f"but got {interpolation!r} instead"
        )


def fill_values(fill: Fill) -> tuple[float, ...]:
    """``fill`` as a tuple: of one number for all channels, or of one number for each.

    Raises:
        TypeError: it is neither a number nor a sequence of numbers, nor None.

    Example:
        >>> fill_values(7), fill_values([1, 2, 3]), fill_values(None)
        ((7,), (1, 2, 3), (0,))
    """
    if type(fill) in (int, float):
        return (fill,)  # type: ignore[return-value]
    if fill is None:  # the default of torchvision's functions
        return (0,)
    values: tuple[Any, ...] = tuple(fill) if isinstance(fill, Sequence) else (fill,)
    if not all(isinstance(value, numbers.Real) for value in values):
        raise TypeError(f"fill should be a number or a sequence with one number per channel, but got {fill!r} instead")
    return values


def extras(interpolation: InterpolationMode, fill: tuple[float, ...], channels: int, white: int) -> Extras:
    """Interpolation and fill for images of so many channels, whose highest value is ``white``.

    Args:
        interpolation: from `interpolation_mode`.
        fill: from `fill_values`.
        channels: of the images.
        white: of the images, see `WHITE`.

    Raises:
        ValueError: the fill has another number of numbers, or one outside of [0, white].
    """
    checked = _kept if len(fill) <= _KEPT_FILL else _checked
    return checked(interpolation is NEAREST, fill, channels, white)


def _checked(nearest: bool, fill: tuple[float, ...], channels: int, white: int) -> Extras:
    result = Extras(NEAREST if nearest else BILINEAR, fill)
    result.colours(channels)  # raises
    if not all(0 <= value <= white for value in fill):
        raise ValueError(f"fill should be in [0, {white}], the range of the images, but got {fill} instead")
    return result


_kept = functools.lru_cache(maxsize=64)(_checked)


def check_image(image: Image.Image) -> None:
    """Raise TypeError for a PIL image of a mode whose pixels the operations are not defined on."""
    if image.mode in MODES:
        return
    how = 'for example with image.convert("RGB")'
    if image.mode.startswith("I") or image.mode == "F":  # of more than 8 bits
        how = 'by scaling its levels to 8 bits, as all above 255 become white with image.convert("RGB")'
    raise TypeError(
        f"image mode should be one of {', '.join(MODES)}, but got {image.mode} instead; "
        f"convert it first, {how}, or wrap it as a tv_tensors.Mask if it is a mask"
    )


def check_tensor(images: Tensor) -> None:
    """Raise TypeError for a dtype, or ValueError for a shape, that images do not have."""
    if images.dtype not in WHITE:
        accepted = ", ".join(map(str, WHITE))
        raise TypeError(f"the dtype of images should be one of {accepted}, but got {images.dtype} instead")
    if images.ndim < 3:
        raise ValueError(f"images should have the shape [..., C, H, W], but got {list(images.shape)} instead")
