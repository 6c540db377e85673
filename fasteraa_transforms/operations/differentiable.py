"""The operations on float batches ``[B, C, H, W]`` in [0, 1], differentiable: the reference of the search.

Each function is the twin of the one of the same name in ``uint8``. It takes ``(images, parameter, extras)`` with one
physical parameter an image, ``[B]``, and an `Extras`. The forward value is that of the exact operation without its
rounding to 8 bits. Gradients: `functional`, which is the public face of these functions.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine

Form = Callable[[Tensor, Tensor, Extras], Tensor]

_LUMA = (19595 / 65536, 38470 / 65536, 7471 / 65536)


def finite(images: Tensor) -> Tensor:
    """The images with 0 in place of NaN and -∞, and 1 in place of ∞; themselves if they are known to have none.

    Whoever calls a form with images of a user's calls this first: one NaN would otherwise reach other pixels, by a mean
    or by the weights of bilinear sampling. Gradients of the replaced values are 0.

    Example:
        >>> finite(torch.tensor([0.5, float("nan"), float("inf")]))
        tensor([0.5000, 0.0000, 1.0000])
    """
    # A sum is read in a third of the time of a copy. On a GPU, to look at it would wait for the device.
    looks = images.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks and images.detach().sum(dtype=torch.promote_types(images.dtype, torch.float32)).isfinite():
        return images
    return images.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0)


def straight_through(value: Tensor, source: Tensor) -> Tensor:
    """``value`` going forward, the gradient of ``source`` back (eq. 5); exact, unlike ``s + (v - s).detach()``."""
    return value.detach() + (source - source.detach())


def _per_image(parameter: Tensor, images: Tensor) -> Tensor:  # [B] -> [B, 1, 1, 1]
    return parameter.to(images.dtype)[:, None, None, None]


def _levels(images: Tensor) -> Tensor:
    """The 8-bit level, 0 to 255, that each value in [0, 1] rounds to. They become indices, so even a NaN has one."""
    return (images.detach() * 255).round_().clamp_(0, 255).nan_to_num_(0.0).long()


# --- geometry ---------------------------------------------------------------------------------------------------------


def affine(geometry: Affine) -> Form:
    """The form of an affine map.

    Its value is that of the pixels that Pillow takes. Its derivative w.r.t. the parameter is that of bilinear sampling
    at the unrounded position.
    """

    def form(images: Tensor, parameter: Tensor, extras: Extras) -> Tensor:
        parameter = parameter.double()
        height, width = images.shape[2:]
        exact = geometry.tensors(parameter.detach(), height, width)
        if extras.interpolation is InterpolationMode.NEAREST:
            result = _nearest(images, exact, extras, adds_up=geometry.scales)
        else:
            result = _bilinear(images, exact, extras)
        if not (parameter.requires_grad and torch.is_grad_enabled()):
            return result
        unrounded = geometry.tensors(parameter, height, width, whole=False)
        smooth = _bilinear(images.detach(), unrounded, extras, bounded=False)
        return result + (smooth - smooth.detach())

    if geometry.mirrors:
        return lambda images, parameter, extras: form(images, parameter.detach(), Extras())
    return form


def _columns(matrix: Sequence[Tensor]) -> list[Tensor]:
    return [entry[:, None, None] for entry in matrix]


def _fill(extras: Extras, images: Tensor) -> Tensor:  # [C, 1, 1], or [1, 1, 1]
    values = extras.fill if len(extras.fill) == 1 else extras.colours(images.shape[1])
    # Made on the device: a tensor of Python numbers would be copied to it, and the host would wait for the copy.
    return torch.stack([images.new_full((1, 1), value) for value in values])


def _nearest(images: Tensor, matrix: Sequence[Tensor], extras: Extras, *, adds_up: bool = False) -> Tensor:
    """The pixel that Pillow's arithmetic chooses; twin of ``sources.nearest_source``.

    In 16.16 fixed point beyond 32767 pixels too, where Pillow leaves that and the uint8 form follows it; and if
    ``adds_up``, by the sums that Pillow takes where b and d are 0.
    """
    batch, channels, height, width = images.shape
    a, b, c, d, e, f = _columns(matrix)
    if adds_up:
        x_in, y_in = _added_up(c, a, width)[:, None], _added_up(f, e, height)[:, :, None]
    else:
        x = torch.arange(width, device=images.device)
        y = torch.arange(height, device=images.device)[:, None]

        def fixed(value: Tensor) -> Tensor:
            return (value * 65536.0 + 0.5).floor().long()

        x_in = (fixed(c + a * 0.5 + b * 0.5) + fixed(b) * y + fixed(a) * x).bitwise_right_shift_(16)  # [B, H, W]
        y_in = (fixed(f + d * 0.5 + e * 0.5) + fixed(e) * y + fixed(d) * x).bitwise_right_shift_(16)
    column, row = x_in.clamp(0, width - 1), y_in.clamp(0, height - 1)
    inside = (column == x_in) & (row == y_in)
    index = (row * width + column).flatten(1)[:, None].expand(-1, channels, -1)
    values = images.flatten(2).gather(2, index).reshape(images.shape)
    return torch.where(inside[:, None], values, _fill(extras, images))


def _added_up(offset: Tensor, step: Tensor, size: int) -> Tensor:
    """Input pixel of each output pixel along one axis, [B, size], of [B, 1, 1]; a coordinate is a sum."""
    steps = torch.cat([offset + step * 0.5, step.expand(-1, -1, size - 1)], dim=2)[:, 0]
    return steps.cumsum(1).floor().clamp(-1, size).long()


def _bilinear(images: Tensor, matrix: Sequence[Tensor], extras: Extras, *, bounded: bool = True) -> Tensor:
    """Pillow's bilinear sampling without its truncation: clamped inside of the image, the fill outside.

    The weights of four pixels add up to 1 but for rounding. If ``bounded``, values stay within the range of the image:
    white is 1, not 1.0000001.
    """
    height, width = images.shape[2:]
    a, b, c, d, e, f = _columns(matrix)
    x = torch.arange(width, device=images.device, dtype=torch.float64) + 0.5
    y = torch.arange(height, device=images.device, dtype=torch.float64)[:, None] + 0.5
    x_in, y_in = a * x + b * y + c, d * x + e * y + f  # [B, H, W]
    inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
    # Not in half precision: its coordinates are whole pixels off, and grid_sample then reads outside of the image.
    dtype = torch.promote_types(images.dtype, torch.float32)
    grid = torch.stack([(2 * x_in).div_(width).sub_(1), (2 * y_in).div_(height).sub_(1)], dim=-1).to(dtype)
    values = F.grid_sample(images.to(dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)
    if bounded:
        low, high = (limit.to(dtype) for limit in _limits(images))
        within = values.detach().maximum(low)
        torch.minimum(within, high, out=within)
        values = straight_through(within, values) if values.requires_grad else within
    return torch.where(inside[:, None], values.to(images.dtype), _fill(extras, images))


def _limits(images: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of each channel, [B, C, 1, 1]. Twice as fast as `aminmax`, and more."""
    values = images.detach()
    return values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)


def flip(images: Tensor, parameter: Tensor, extras: Extras) -> Tensor:
    return images.flip(-1)


# --- colour -----------------------------------------------------------------------------------------------------------


def _blend(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    return (start + _per_image(weight, end) * (end - start)).clamp(0, 1)


def _luma(images: Tensor) -> Tensor:  # [B, 3, H, W] -> [B, 1, H, W]
    red, green, blue = images.unbind(1)
    return (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]


def levels(table: Callable[[float], bytes]) -> Form:
    """The form of a map of levels: each value becomes what its 8-bit level does, straight through."""

    def form(images: Tensor, parameter: Tensor, extras: Extras) -> Tensor:
        data = np.frombuffer(b"".join(map(table, parameter.tolist())), dtype=np.uint8).copy()
        tables = torch.from_numpy(data).to(images.device, images.dtype).reshape(-1, 256) / 255
        value = tables.gather(1, _levels(images).flatten(1)).reshape(images.shape)
        return straight_through(value, images)

    return form


def solarize(images: Tensor, threshold: Tensor, extras: Extras) -> Tensor:
    # On the 8-bit levels, so that float error cannot move a pixel that lies on the threshold.
    above = _levels(images) >= threshold.detach()[:, None, None, None]
    return straight_through(torch.where(above, 1 - images, images), images)


def posterize(images: Tensor, bits: Tensor, extras: Extras) -> Tensor:
    width = 2 ** (8 - bits.detach().round().long())[:, None, None, None]
    levels = _levels(images)
    return straight_through((levels - levels % width).to(images.dtype) / 255, images)


def invert(images: Tensor, parameter: Tensor, extras: Extras) -> Tensor:
    return 1 - images


def brightness(images: Tensor, factor: Tensor, extras: Extras) -> Tensor:
    return _blend(torch.zeros_like(images), images, factor)


def contrast(images: Tensor, factor: Tensor, extras: Extras) -> Tensor:
    """Blend with the mean luma; on other than 3 channels, with the mean of all channels."""
    grey = _luma(images) if images.shape[1] == 3 else images
    return _blend(grey.mean(dim=(1, 2, 3), keepdim=True), images, factor)


def auto_contrast(images: Tensor, parameter: Tensor, extras: Extras) -> Tensor:
    low, high = _limits(images)
    constant = _levels(high) <= _levels(low)  # constant to 8 bits: left alone, as there
    scale = torch.where(constant, torch.ones_like(high), high - low)
    return straight_through(torch.where(constant, images, (images - low) / scale), images)


def equalize(images: Tensor, parameter: Tensor, extras: Extras) -> Tensor:
    levels = _levels(images).flatten(2)  # [B, C, H W]
    histogram = torch.zeros(*levels.shape[:2], 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(2, levels, torch.ones_like(levels))
    last = histogram.gather(2, levels.amax(2, keepdim=True))
    step = (histogram.sum(2, keepdim=True) - last) // 255  # [B, C, 1]
    below = histogram.cumsum(2) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    value = table.gather(2, levels).reshape(images.shape).to(images.dtype) / 255
    return straight_through(torch.where((step > 0)[..., None], value, images), images)


def color(images: Tensor, factor: Tensor, extras: Extras) -> Tensor:
    """Blend with luma; the identity on other than 3 channels."""
    grey = _luma(images) if images.shape[1] == 3 else images
    return _blend(grey, images, factor)


def sharpness(images: Tensor, factor: Tensor, extras: Extras) -> Tensor:
    channels, height, width = images.shape[1:]
    if height < 3 or width < 3:  # Pillow's filter copies the outermost pixels, and there are no others
        return _blend(images, images, factor)
    kernel = torch.ones(3, 3, dtype=images.dtype, device=images.device)
    kernel[1, 1].fill_(5)
    inner = F.conv2d(images, (kernel / 13).expand(channels, 1, 3, 3), groups=channels)
    border = torch.ones(height, width, dtype=torch.bool, device=images.device)
    border[1:-1, 1:-1].fill_(False)
    smooth = torch.where(border, images, F.pad(inner, (1, 1, 1, 1)))
    return _blend(smooth, images, factor)


# --- other ------------------------------------------------------------------------------------------------------------


def cutout(images: Tensor, fraction: Tensor, extras: Extras) -> Tensor:
    height, width = images.shape[2:]
    side = (fraction.detach().double() * width + 0.5).floor()[:, None]  # [B, 1]
    inside = []
    for position, extent in zip(extras.centre.double().split(1, dim=1), (width, height), strict=True):
        start = (position * extent).floor() - (side / 2).floor()  # [B, 1]
        pixel = torch.arange(extent, device=images.device)
        inside.append((pixel >= start) & (pixel < start + side))  # [B, extent]
    in_x, in_y = inside
    hole = (in_y[:, :, None] & in_x[:, None, :])[:, None]
    colour = _pillow.CUTOUT_RGB if images.shape[1] == 3 else (_pillow.CUTOUT_GREY,)
    return torch.where(hole, _fill(Extras(fill=tuple(level / 255 for level in colour)), images), images)


def sample_pairing(images: Tensor, weight: Tensor, extras: Extras) -> Tensor:
    return _blend(images, extras.partner, weight)
