"""The differentiable operations by their names, on float batches, with one magnitude an image.

Every function takes

- ``images``: float tensor [B, C, H, W] with values in [0, 1];
- ``magnitude`` (where the operation has one): a number or a float tensor [B], in [0, 1]; a *signed* operation also
  takes ``-μ``, which goes as far to the other side (a rotation the other way round, a factor below 1);

and returns a new tensor [B, C, H, W] of the same dtype; nothing writes into ``images``. The forward value is that of
the exact 8-bit operation, up to its rounding. Gradients (paper, section 4.1):

- w.r.t. the magnitude: that of the smooth map, for geometry that of bilinear sampling at the unrounded position, also
  where the forward value is sampled by nearest; 1 at every pixel (eq. 6) for solarize, posterize and cutout;
- w.r.t. the images: that of the map, and 1 (straight through) for solarize, posterize, auto_contrast and equalize.

All raise TypeError if ``images`` is no float tensor, and ValueError if its shape is not [B, C, H, W] or that of
``magnitude`` is neither [] nor [B].

Example:
    >>> import torch
    >>> images = torch.rand(8, 3, 32, 32)
    >>> magnitude = torch.full([8], 0.5, requires_grad=True)
    >>> rotate(images, magnitude).square().mean().backward()
    >>> magnitude.grad.shape
    torch.Size([8])
"""

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.table import OPERATIONS

__all__ = sorted(("apply_operation", *OPERATIONS))

Fill = float | tuple[float, ...]
NEAREST = InterpolationMode.NEAREST


def apply_operation(name: str, images: Tensor, magnitude: float | Tensor = 0.0, **takes: object) -> Tensor:
    """Apply the operation ``name`` of `OPERATIONS`, with the keywords its row names in ``takes``.

    Args:
        name: a key of `OPERATIONS`.
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B]; ignored by operations without one.
        takes: ``interpolation``, ``fill``, ``centre`` or ``partner``, as the function of that name takes them.

    Returns:
        [B, C, H, W].

    Raises:
        KeyError: no operation has this name.
        TypeError: ``images`` is no float tensor.
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
    if "interpolation" in takes:
        _pillow.check_interpolation(takes["interpolation"])
    magnitude = magnitude.expand(len(images))
    result = operation.differentiable(images, operation.parameter(magnitude), **takes)
    if operation.straight_through:  # eq. 5, exact in the forward value
        passed = magnitude.to(images.dtype)[:, None, None, None]
        result = result + (passed - passed.detach())
    return result


def shear_x(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Shear along x, origin at the top left.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; ±1 is a shear of ±0.3.
        interpolation: NEAREST or BILINEAR.
        fill: value outside of the image, one number or one a channel.

    Source: `PIL.Image.Image.transform`, AFFINE (1, v, 0, 0, 1, 0).
    """
    return apply_operation("shear_x", images, magnitude, interpolation=interpolation, fill=fill)


def shear_y(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Shear along y, origin at the top left.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; ±1 is a shear of ±0.3.
        interpolation: NEAREST or BILINEAR.
        fill: value outside of the image, one number or one a channel.

    Source: `PIL.Image.Image.transform`, AFFINE (1, 0, 0, v, 1, 0).
    """
    return apply_operation("shear_y", images, magnitude, interpolation=interpolation, fill=fill)


def translate_x(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Translate along x by whole pixels (the gradient is that of the unrounded shift).

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; ±1 is ±0.45 of the width.
        interpolation: NEAREST or BILINEAR.
        fill: value outside of the image, one number or one a channel.

    Source: `PIL.Image.Image.transform`, AFFINE (1, 0, v, 0, 1, 0).
    """
    return apply_operation("translate_x", images, magnitude, interpolation=interpolation, fill=fill)


def translate_y(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Translate along y by whole pixels (the gradient is that of the unrounded shift).

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; ±1 is ±0.45 of the height.
        interpolation: NEAREST or BILINEAR.
        fill: value outside of the image, one number or one a channel.

    Source: `PIL.Image.Image.transform`, AFFINE (1, 0, 0, 0, 1, v).
    """
    return apply_operation("translate_y", images, magnitude, interpolation=interpolation, fill=fill)


def rotate(
    images: Tensor, magnitude: float | Tensor, *, interpolation: InterpolationMode = NEAREST, fill: Fill = 0.0
) -> Tensor:
    """Rotate about the centre, counter-clockwise where the magnitude is positive.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; ±1 is ±30 degrees.
        interpolation: NEAREST or BILINEAR.
        fill: value outside of the image, one number or one a channel.

    Source: `PIL.Image.Image.rotate`.
    """
    return apply_operation("rotate", images, magnitude, interpolation=interpolation, fill=fill)


def flip(images: Tensor) -> Tensor:
    """Mirror left to right.

    Args:
        images: [B, C, H, W], float, in [0, 1].

    Source: `PIL.ImageOps.mirror`.
    """
    return apply_operation("flip", images)


def solarize(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Invert the pixels at or above a threshold.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [0, 1]; the threshold is the level 256 (1 - μ).

    Source: `PIL.ImageOps.solarize`.
    """
    return apply_operation("solarize", images, magnitude)


def posterize(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Keep the highest bits of each pixel's 8-bit level.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [0, 1]; 8 - round(4 μ) bits are kept.

    Source: `PIL.ImageOps.posterize`.
    """
    return apply_operation("posterize", images, magnitude)


def invert(images: Tensor) -> Tensor:
    """Invert every pixel: 1 - x.

    Args:
        images: [B, C, H, W], float, in [0, 1].

    Source: `PIL.ImageOps.invert`.
    """
    return apply_operation("invert", images)


def contrast(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with the mean luma; on other than 3 channels, with the mean of all channels.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; the factor is 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Contrast`.
    """
    return apply_operation("contrast", images, magnitude)


def color(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with luma; the identity on other than 3 channels.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; the factor is 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Color`.
    """
    return apply_operation("color", images, magnitude)


def brightness(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with black.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; the factor is 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Brightness`.
    """
    return apply_operation("brightness", images, magnitude)


def sharpness(images: Tensor, magnitude: float | Tensor) -> Tensor:
    """Blend with a smoothed image, whose outermost pixels are the image's own.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [-1, 1]; the factor is 1 + 0.9 μ.

    Source: `PIL.ImageEnhance.Sharpness`.
    """
    return apply_operation("sharpness", images, magnitude)


def auto_contrast(images: Tensor) -> Tensor:
    """Stretch each channel to the whole range; a channel constant to 8 bits stays.

    Args:
        images: [B, C, H, W], float, in [0, 1].

    Source: `PIL.ImageOps.autocontrast`, cutoff 0.
    """
    return apply_operation("auto_contrast", images)


def equalize(images: Tensor) -> Tensor:
    """Equalize the histogram of each channel's 8-bit levels.

    Args:
        images: [B, C, H, W], float, in [0, 1].

    Source: `PIL.ImageOps.equalize`.
    """
    return apply_operation("equalize", images)


def cutout(images: Tensor, magnitude: float | Tensor, *, centre: Tensor | None = None) -> Tensor:
    """Fill a square with grey: (125, 123, 114) / 255 on 3 channels, 124 / 255 otherwise.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [0, 1]; the side is 0.2 μ of the width, to whole pixels; clipped at the border.
        centre: [B, 2], x and y as fractions of width and height in [0, 1); drawn uniformly if None.

    Source: DeVries and Taylor 2017; size, colour and clipping as in Fast AutoAugment.
    """
    if centre is None:
        centre = torch.rand(len(images), 2, dtype=torch.float64, device=images.device)
    return apply_operation("cutout", images, magnitude, centre=centre)


def sample_pairing(images: Tensor, magnitude: float | Tensor, *, partner: Tensor | None = None) -> Tensor:
    """Blend each image with another one of the batch; the identity on a batch of one.

    Args:
        images: [B, C, H, W], float, in [0, 1].
        magnitude: number or [B], in [0, 1]; the partner's weight is 0.4 μ.
        partner: [B, C, H, W], the images to blend with; each image's predecessor in the batch if None.

    Source: Inoue 2018; `PIL.Image.blend`.
    """
    return apply_operation(
        "sample_pairing", images, magnitude, partner=images.roll(1, 0) if partner is None else partner
    )
