"""The operations on uint8 arrays ``[N, C, H, W]``, byte for byte what Pillow gives.

Each function is the twin of the one of the same name in ``_pillow`` and takes ``(images, parameter)`` with one
parameter an image, float64 ``[N]``, plus the keywords its row of the table names. Operations that work channel by
channel treat each channel as an L image, so any C is allowed; `color` and `contrast` need luma, see there. No function
writes into its input; a function whose result equals its input may return the input itself.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode

from fasteraa_transforms import _geometry, _pillow

Images = NDArray[np.uint8]  # [N, C, H, W]
Parameters = NDArray[np.float64]  # [N]

_LEVELS = np.arange(256)
_LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in 16.16 fixed point, as Pillow's Convert.c has it


# --- geometry ---------------------------------------------------------------------------------------------------------


def fill_array(fill: float | Sequence[float], channels: int) -> NDArray[np.float64]:  # [C]
    """``fill`` as one value per channel; one number means that number in every channel."""
    values = np.atleast_1d(np.asarray(fill, dtype=np.float64))
    if values.shape not in {(1,), (channels,)}:
        raise ValueError(f"fill should be one number or one for each of {channels} channels, but got {fill} instead")
    return np.broadcast_to(values, (channels,))


def _fits_fixed_point(matrix: _geometry.Matrix, height: int, width: int) -> bool:
    a, b, c, d, e, f = matrix
    corners = ((0, 0), (width, height), (0, height), (width, 0))
    limit = _geometry.FIXED_POINT_LIMIT
    return all(abs(x * a + y * b + c) < limit and abs(x * d + y * e + f) < limit for x, y in corners)


def nearest_coordinates(
    matrices: Sequence[_geometry.Matrix], height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input pixel of each output pixel, ``x`` and ``y`` of shape [N, H, W], in Pillow's 16.16 fixed point.

    Twin of ``affine_fixed`` in Pillow's Geometry.c. May lie outside of the image.
    """
    a, b, c, d, e, f = np.asarray(matrices, dtype=np.float64).reshape(-1, 6).T[..., None, None]  # each [N, 1, 1]
    x, y = np.arange(width), np.arange(height)[:, None]

    def fixed(value: NDArray[np.float64]) -> NDArray[np.int64]:
        return np.floor(value * 65536.0 + 0.5).astype(np.int64)

    x_in = fixed(c + a * 0.5 + b * 0.5) + fixed(b) * y + fixed(a) * x
    y_in = fixed(f + d * 0.5 + e * 0.5) + fixed(e) * y + fixed(d) * x
    return x_in >> 16, y_in >> 16


def _gather(images: Images, y: NDArray[np.int64], x: NDArray[np.int64]) -> Images:
    """``images[n, c, y[n], x[n]]`` for coordinates [N, H, W] inside of the image."""
    n, channels, height, width = images.shape
    pixels = height * width
    index = (y * width + x).reshape(n, 1, pixels)
    return np.take_along_axis(images.reshape(n, channels, pixels), index, axis=2).reshape(images.shape)


def _nearest(images: Images, matrices: Sequence[_geometry.Matrix], fill: NDArray[np.float64]) -> Images:
    height, width = images.shape[2:]
    if not all(_fits_fixed_point(matrix, height, width) for matrix in matrices):
        # Beyond 32767 pixels Pillow leaves fixed point for accumulated doubles; let Pillow do it.
        return _channel_by_channel(images, matrices, fill, Image.Resampling.NEAREST)
    x, y = nearest_coordinates(matrices, height, width)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    values = _gather(images, y.clip(0, height - 1), x.clip(0, width - 1))
    return np.where(inside[:, None], values, fill.astype(np.uint8)[:, None, None])


def _bilinear(images: Images, matrices: Sequence[_geometry.Matrix], fill: NDArray[np.float64]) -> Images:
    """Twin of ``ImagingGenericTransform`` with ``bilinear_filter8`` in Pillow's Geometry.c, in double as there."""
    height, width = images.shape[2:]
    a, b, c, d, e, f = np.asarray(matrices, dtype=np.float64).reshape(-1, 6).T[..., None, None]
    x_out, y_out = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    x, y = a * x_out + b * y_out + c, d * x_out + e * y_out + f  # [N, H, W]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x - 0.5, y - 0.5
    left, top = np.floor(x), np.floor(y)
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    x0, x1 = (np.clip(left + i, 0, width - 1).astype(np.int64) for i in (0, 1))
    y0, y1 = (np.clip(top + i, 0, height - 1).astype(np.int64) for i in (0, 1))

    def row(y_row: NDArray[np.int64]) -> NDArray[np.float64]:
        start, end = (_gather(images, y_row, x_column).astype(np.float64) for x_column in (x0, x1))
        return start + (end - start) * dx

    upper, lower = row(y0), row(y1)
    values = (upper + (lower - upper) * dy).astype(np.uint8)
    return np.where(inside[:, None], values, fill.astype(np.uint8)[:, None, None])


def _channel_by_channel(
    images: Images, matrices: Sequence[_geometry.Matrix], fill: NDArray[np.float64], resampling: Image.Resampling
) -> Images:
    result = np.empty_like(images)
    for n, matrix in enumerate(matrices):
        for c, plane in enumerate(images[n]):
            image = Image.fromarray(np.ascontiguousarray(plane))
            result[n, c] = np.asarray(
                image.transform(image.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=int(fill[c]))
            )
    return result


def _affine(matrix_of: Callable[[float, int, int], _geometry.Matrix]) -> Callable[..., Images]:
    def function(
        images: Images, parameter: Parameters, *, interpolation: InterpolationMode, fill: float | Sequence[float]
    ) -> Images:
        matrices = [matrix_of(value, *images.shape[2:]) for value in parameter.tolist()]
        sample = _nearest if interpolation is InterpolationMode.NEAREST else _bilinear
        return sample(images, matrices, fill_array(fill, images.shape[1]))

    return function


shear_x = _affine(_geometry.shear_x_matrix)
shear_y = _affine(_geometry.shear_y_matrix)
translate_x = _affine(_geometry.translate_x_matrix)
translate_y = _affine(_geometry.translate_y_matrix)
rotate = _affine(_geometry.rotate_matrix)


def flip(images: Images, _: Parameters) -> Images:
    return images[..., ::-1]


# --- tables of 256 entries --------------------------------------------------------------------------------------------


def _look_up(images: Images, tables: NDArray[np.uint8]) -> Images:
    """Map pixels through one table an image, [N, 256], or one a channel, [N, C, 256]."""
    if tables.ndim == 2:
        tables = tables[:, None]
    offset = 256 * np.arange(tables.size // 256).reshape(*tables.shape[:2], 1, 1)
    return tables.reshape(-1)[images + offset]


def _histograms(images: Images) -> NDArray[np.int64]:  # [N, C, 256]
    n, channels = images.shape[:2]
    offset = 256 * np.arange(n * channels).reshape(n, channels, 1, 1)
    return np.bincount((images + offset).reshape(-1), minlength=n * channels * 256).reshape(n, channels, 256)


def _blend(start: NDArray[np.integer], end: NDArray[np.integer], weight: NDArray[np.floating]) -> Images:
    """Twin of ``ImagingBlend`` (Pillow's Blend.c): float32 arithmetic, truncated, clipped."""
    start, end = start.astype(np.float32), end.astype(np.float32)
    return np.clip(start + weight.astype(np.float32) * (end - start), 0, 255).astype(np.uint8)


def solarize(images: Images, threshold: Parameters) -> Images:
    return np.where(images >= threshold[:, None, None, None], 255 - images, images)


def posterize(images: Images, bits: Parameters) -> Images:
    mask = 256 - 2 ** (8 - bits.astype(np.int64))
    return images & mask.astype(np.uint8)[:, None, None, None]


def invert(images: Images, _: Parameters) -> Images:
    return ~images


def brightness(images: Images, factor: Parameters) -> Images:
    return _look_up(images, _blend(np.zeros_like(_LEVELS), _LEVELS, factor[:, None]))


def contrast(images: Images, factor: Parameters) -> Images:
    """Blend with the mean luma; on other than 3 channels, with the mean of all channels."""
    grey = _luma(images) if images.shape[1] == 3 else images
    mean = grey.sum(axis=(1, 2, 3), dtype=np.int64) / math.prod(grey.shape[1:])
    mean = (mean + 0.5).astype(np.int64)[:, None]
    return _look_up(images, _blend(mean, _LEVELS[None], factor[:, None]))


def auto_contrast(images: Images, _: Parameters) -> Images:
    limits = images.min(axis=(2, 3)), images.max(axis=(2, 3))
    low, high = (limit.astype(np.float64)[..., None] for limit in limits)  # [N, C, 1]
    constant = high <= low
    scale = 255.0 / np.where(constant, 1.0, high - low)
    table = np.clip(_LEVELS * scale + -low * scale, 0, 255)
    return _look_up(images, np.where(constant, _LEVELS, table).astype(np.uint8))


def equalize(images: Images, _: Parameters) -> Images:
    histogram = _histograms(images)
    brightest = 255 - (histogram[..., ::-1] > 0).argmax(axis=2)  # [N, C]
    last = np.take_along_axis(histogram, brightest[..., None], axis=2)
    step = (histogram.sum(axis=2, keepdims=True) - last) // 255  # [N, C, 1]
    below = histogram.cumsum(axis=2) - histogram
    table = np.minimum((step // 2 + below) // np.maximum(step, 1), 255)  # Pillow's point() clips the table at 255
    return _look_up(images, np.where(step > 0, table, _LEVELS).astype(np.uint8))


# --- color, sharpness, cutout, sample pairing -------------------------------------------------------------------------


def _luma(images: Images) -> NDArray[np.uint8]:  # [N, 1, H, W]
    red, green, blue = (images[:, i : i + 1].astype(np.int64) * weight for i, weight in enumerate(_LUMA))
    return ((red + green + blue + 0x8000) >> 16).astype(np.uint8)


def color(images: Images, factor: Parameters) -> Images:
    """Blend with luma; the identity on other than 3 channels."""
    if images.shape[1] != 3:
        return images
    return _blend(_luma(images), images, factor[:, None, None, None])


def sharpness(images: Images, factor: Parameters) -> Images:
    height, width = images.shape[2:]
    if height < 3 or width < 3:
        return images  # Pillow's filter copies the outermost pixels, and there are no others
    wide = images.astype(np.int64)
    total = 4 * wide[..., 1:-1, 1:-1]
    for y in range(3):
        for x in range(3):
            total = total + wide[..., y : y + height - 2, x : x + width - 2]
    smooth = images.copy()
    # ImageFilter.SMOOTH is (1 1 1, 1 5 1, 1 1 1) / 13 rounded to nearest; 13 is odd, so there are no ties.
    smooth[..., 1:-1, 1:-1] = (2 * total + 13) // 26
    return _blend(smooth, images, factor[:, None, None, None])


def cutout(images: Images, fraction: Parameters, *, centre: NDArray[np.float64]) -> Images:
    height, width = images.shape[2:]
    colour = np.array(_pillow.CUTOUT_RGB if images.shape[1] == 3 else _pillow.CUTOUT_GREY, dtype=np.uint8)
    result = images.copy()
    for image, side, middle in zip(result, fraction.tolist(), centre.tolist(), strict=True):
        left, top, right, bottom = _geometry.cutout_box(side, middle, height, width)
        image[:, top:bottom, left:right] = colour.reshape(-1, 1, 1)
    return result


def sample_pairing(images: Images, weight: Parameters, *, partner: Images) -> Images:
    return _blend(images, partner, weight[:, None, None, None])
