"""The differentiable operations by their names, on float batches, with one magnitude an image.

Every function takes

- ``images``: float tensor [B, C, H, W] with values in [0, 1]. It takes 0 for NaN and -∞, and 1 for ∞;
- ``magnitude``, where the operation has one: a number, or a float tensor [] or [B], in [0, 1]. A signed operation also
  takes ``-μ``, which goes as far to the other side: a rotation the other way round, a factor below 1;
- ``interpolation``, where it moves pixels: NEAREST or BILINEAR;
- ``fill``, where it moves pixels: the value outside of the image, one number or one a channel; None is 0.

It returns a new tensor [B, C, H, W] of the same dtype and writes nothing into ``images``. The value is that of the
exact 8-bit operation, up to its rounding. Gradients (paper, section 4.1):

- w.r.t. the magnitude: that of the smooth map, for geometry that of bilinear sampling at the unrounded position, also
  where the value is sampled by nearest; 1 at every pixel (eq. 6) for solarize, posterize and cutout;
- w.r.t. the images: that of the map, and 1 (straight through) for solarize, posterize, auto_contrast and equalize.

Every function raises TypeError if ``images`` is no float tensor, or ``fill`` no number and no sequence of numbers. It
raises ValueError if a shape is wrong, the interpolation is another one, or ``fill`` has another number of numbers.

A row that is added to `OPERATIONS` has its function here too, by its name.

Example:
    >>> import torch
    >>> images = torch.rand(8, 3, 32, 32)
    >>> magnitude = torch.full([8], 0.5, requires_grad=True)
    >>> rotate(images, magnitude).square().mean().backward()
    >>> magnitude.grad.shape
    torch.Size([8])
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends import options
from fasteraa_transforms.backends.options import NEAREST, Fill
from fasteraa_transforms.operations.differentiable import finite
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.table import OPERATIONS, Operation

__all__ = sorted(("apply_operation", *OPERATIONS))


def apply_operation(
    name: str,
    images: Tensor,
    magnitude: float | Tensor = 0.0,
    *,
    interpolation: InterpolationMode = NEAREST,
    fill: Fill = 0.0,
    centre: Tensor | None = None,
    partner: Tensor | None = None,
) -> Tensor:
    """Apply the operation of a name. What it does not take is ignored.

    Args:
        name: a key of `OPERATIONS`.
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number, [] or [B].
        interpolation: NEAREST or BILINEAR, for operations that move pixels.
        fill: value outside of the image, for operations that move pixels.
        centre: see `cutout`.
        partner: see `sample_pairing`.

    Returns:
        [B, C, H, W].

    Raises:
        KeyError: no operation has this name.
        TypeError: ``images`` is no float tensor, or ``fill`` no number and no sequence of numbers.
        ValueError: a shape is wrong, or the interpolation is neither NEAREST nor BILINEAR.

    Example:
        >>> apply_operation("invert", torch.zeros(1, 3, 2, 2)).unique()
        tensor([1.])
    """
    operation = OPERATIONS[name]
    if not (isinstance(images, Tensor) and images.is_floating_point()):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images should be a float tensor with values in [0, 1], but got {found} instead")
    if images.ndim != 4:
        raise ValueError(f"images should have the shape [B, C, H, W], but got {list(images.shape)} instead")
    if not isinstance(magnitude, Tensor):  # keeps the precision of a number, which as a float32 may lose a pixel
        magnitude = torch.tensor(magnitude, dtype=torch.float64)
    magnitude = magnitude.to(images.device)
    if magnitude.shape not in (torch.Size([]), torch.Size([len(images)])):
        raise ValueError(
            f"magnitude should have the shape [] or [{len(images)}], but got {list(magnitude.shape)} instead"
        )
    options.check_interpolation(interpolation)
    images = finite(images)
    if "centre" in operation.takes and centre is None:
        centre = torch.rand(len(images), 2, dtype=torch.float64, device=images.device)
    if "partner" in operation.takes:
        partner = images.roll(1, 0) if partner is None else finite(partner)
    extras = Extras(interpolation, options.fill_values(fill), centre, partner)
    return at_magnitude(operation, images, magnitude.expand(len(images)), extras)


def at_magnitude(operation: Operation, images: Tensor, magnitude: Tensor, extras: Extras) -> Tensor:
    """The differentiable form at magnitudes, with the gradient of eq. 6 where it has no slope. Nothing is checked.

    Args:
        operation: a row of `OPERATIONS`.
        images: [B, C, H, W], float, in [0, 1].
        magnitude: [B].
        extras: all that the operation takes.

    Returns:
        [B, C, H, W].
    """
    result = operation.differentiable(images, operation.parameter(magnitude), extras)
    if operation.straight_through:  # eq. 5, exact in the forward value
        passed = magnitude.to(images.dtype)[:, None, None, None]
        result = result + (passed - passed.detach())
    return result


def shear_x(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Shear along x, with the top left corner in its place.

    The magnitude ±1 is a shear of ±0.3.

    Source: `PIL.Image.Image.transform`, AFFINE (1, v, 0, 0, 1, 0).
    """
    return apply_operation("shear_x", images, magnitude, interpolation=interpolation, fill=fill)


def shear_y(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Shear along y, with the top left corner in its place.

    The magnitude ±1 is a shear of ±0.3.

    Source: `PIL.Image.Image.transform`, AFFINE (1, 0, 0, v, 1, 0).
    """
    return apply_operation("shear_y", images, magnitude, interpolation=interpolation, fill=fill)


def translate_x(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Translate along x by whole pixels. The gradient is that of the unrounded shift.

    The magnitude ±1 is ±0.45 of the width.

    Source: `PIL.Image.Image.transform`, AFFINE (1, 0, v, 0, 1, 0).
    """
    return apply_operation("translate_x", images, magnitude, interpolation=interpolation, fill=fill)


def translate_y(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Translate along y by whole pixels. The gradient is that of the unrounded shift.

    The magnitude ±1 is ±0.45 of the height.

    Source: `PIL.Image.Image.transform`, AFFINE (1, 0, 0, 0, 1, v).
    """
    return apply_operation("translate_y", images, magnitude, interpolation=interpolation, fill=fill)


def rotate(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Rotate about the centre, counter-clockwise where the magnitude is positive.

    The magnitude ±1 is ±30 degrees.

    Source: `PIL.Image.Image.rotate`.
    """
    return apply_operation("rotate", images, magnitude, interpolation=interpolation, fill=fill)


def flip(images: Tensor) -> Tensor:
    """Mirror left to right.

    Source: `PIL.ImageOps.mirror`.
    """
    return apply_operation("flip", images)


def solarize(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Invert the pixels at or above a threshold.

    The magnitude μ is the threshold 256 (1 - μ), a level.

    Source: `PIL.ImageOps.solarize`.
    """
    return apply_operation("solarize", images, magnitude)


def posterize(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Keep the highest bits of each pixel's 8-bit level.

    The magnitude μ keeps 8 - round(4 μ) bits.

    Source: `PIL.ImageOps.posterize`.
    """
    return apply_operation("posterize", images, magnitude)


def invert(images: Tensor) -> Tensor:
    """Invert every pixel: 1 - x.

    Source: `PIL.ImageOps.invert`.
    """
    return apply_operation("invert", images)


def contrast(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with the mean luma; on other than 3 channels, with the mean of all channels.

    The magnitude μ is the factor 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Contrast`.
    """
    return apply_operation("contrast", images, magnitude)


def color(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with luma; the identity on other than 3 channels.

    The magnitude μ is the factor 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Color`.
    """
    return apply_operation("color", images, magnitude)


def brightness(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with black.

    The magnitude μ is the factor 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Brightness`.
    """
    return apply_operation("brightness", images, magnitude)


def sharpness(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with a smoothed image, whose outermost pixels are the image's own.

    The magnitude μ is the factor 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Sharpness`.
    """
    return apply_operation("sharpness", images, magnitude)


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch each channel to the whole range; a channel constant to 8 bits stays.

    Source: `PIL.ImageOps.autocontrast`, cutoff 0.
    """
    return apply_operation("auto_contrast", images)


def equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of each channel's 8-bit levels.

    Source: `PIL.ImageOps.equalize`.
    """
    return apply_operation("equalize", images)


def cutout(images: Tensor, magnitude: float | Tensor, *, centre: Tensor | None = None) -> Tensor:
    """Fill a square with grey: (125, 123, 114) / 255 on 3 channels, 124 / 255 otherwise.

    The side is 0.2 μ of the width, rounded to whole pixels. The border clips the square.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number, [] or [B], in [0, 1].
        centre: [B, 2], x and y as fractions of width and height in [0, 1); drawn uniformly if None.

    Source: DeVries and Taylor 2017; size, colour and clipping as in Fast AutoAugment.
    """
    return apply_operation("cutout", images, magnitude, centre=centre)


def sample_pairing(images: Tensor, magnitude: float | Tensor, *, partner: Tensor | None = None) -> Tensor:
    """Blend each image with another one of the batch; the identity on a batch of one.

    The weight of the partner is 0.4 μ.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number, [] or [B], in [0, 1].
        partner: [B, C, H, W], the images to blend with; each image's predecessor in the batch if None.

    Source: Inoue 2018; `PIL.Image.blend`.
    """
    return apply_operation("sample_pairing", images, magnitude, partner=partner)


def __getattr__(name: str) -> Callable[..., Tensor]:
    """The function of a row of `OPERATIONS` that has none above."""
    if name not in OPERATIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    operation = OPERATIONS[name]
    every = inspect.signature(apply_operation).parameters
    arguments = ["images", *(["magnitude"] if operation.has_magnitude else []), *operation.takes]
    parameters = [every[argument] for argument in arguments]
    if operation.has_magnitude:  # as in the functions above
        parameters[1] = parameters[1].replace(default=inspect.Parameter.empty)
    signature = inspect.Signature(parameters, return_annotation=Tensor)

    def function(*args: Any, **kwargs: Any) -> Tensor:
        bound = signature.bind(*args, **kwargs)
        return apply_operation(name, **bound.arguments)

    function.__name__ = function.__qualname__ = name
    function.__signature__ = signature  # type: ignore[attr-defined]
    side = "±1 is ±" if operation.signed else "1 is "
    magnitude = f"\n\nThe magnitude {side}{operation.severest:g} {operation.unit}." if operation.has_magnitude else ""
    function.__doc__ = f"{name}, a row of `OPERATIONS`.{magnitude}"
    return function
