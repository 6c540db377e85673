"""The operations on uint8 arrays ``[N, C, H, W]``, byte for byte what Pillow gives.

Each function is the twin of the one of the same name in ``pillow``. It takes ``(images, parameter, extras)`` with one
parameter an image, a sequence or float64 ``[N]``, and an `Extras`. Operations that work channel by channel treat each
channel as an L image, so any C is allowed; `color` and `contrast` need luma, see there. No function writes into its
input. The result is a new array, or the input itself where it equals that, and contiguous if the input is.

What pays: arithmetic on uint8 (``~x``, ``x & mask``) and slice copies instead of tables, `bytearray.translate` instead
of indexing a table (0.4 against 2 ns a pixel), a cached index for `numpy.ndarray.take` instead of coordinates, and few
calls: for a small image the number of calls is the time.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations import arithmetic as _arithmetic
from fasteraa_transforms.operations import geometry as _geometry
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.arithmetic import Parameters, column
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine, Matrix
from fasteraa_transforms.operations.sources import SourceCache, fits_fixed_point, nearest_source

Images = NDArray[np.uint8]  # [N, C, H, W]
Form = Callable[[Images, Parameters, Extras], Images]
MatrixOf = Callable[[float, int, int], Matrix]

_NEAREST = InterpolationMode.NEAREST  # to look up a member of an enumeration takes a while

# 64 MiB hold 147 matrices for images of 224 × 224, or 6553 for images of 32 × 32.
sources = SourceCache(2**26)

_KEPT_OFFSETS = 2**12  # channels of a batch up to which `_offsets` is remembered, 32 KiB

# --- geometry ---------------------------------------------------------------------------------------------------------


def affine(geometry: Affine) -> Form:
    """The form of an affine map."""
    matrix_of = geometry.matrix
    if geometry.mirrors:
        return lambda images, parameter, extras: _nearest(images, matrix_of, parameter, 0)
    if geometry.translates:
        return _translation(matrix_of)

    def form(images: Images, parameter: Parameters, extras: Extras) -> Images:
        sample = _nearest if extras.interpolation is _NEAREST else _bilinear
        return sample(images, matrix_of, parameter, _fill_column(extras, images.shape[1]))

    return form


def _translation(matrix_of: MatrixOf) -> Form:
    """The form of a map by whole pixels: copies of slices, whatever the interpolation."""

    @functools.lru_cache(maxsize=1024)
    def overlap(parameter: float, height: int, width: int) -> tuple[Any, Any]:
        _, _, x, _, _, y = matrix_of(parameter, height, width)
        (to_y, from_y), (to_x, from_x) = _overlap(int(y), height), _overlap(int(x), width)
        return (slice(None), to_y, to_x), (slice(None), from_y, from_x)

    def form(images: Images, parameter: Parameters, extras: Extras) -> Images:
        n, channels, height, width = images.shape
        fill = _fill_column(extras, channels)
        result = np.zeros(images.shape, dtype=np.uint8)
        if not (isinstance(fill, int) and fill == 0):
            result[...] = fill
        for image, value, output in zip(images, parameter, result, strict=True):
            to, source = overlap(value, height, width)
            output[to] = image[source]
        return result

    return form


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Along one axis: the part of the output that lies on the input, and that part of the input."""
    shift = max(-size, min(shift, size))
    return slice(max(-shift, 0), size - max(shift, 0)), slice(max(shift, 0), size - max(-shift, 0))


def _fill_column(extras: Extras, channels: int) -> Any:
    """The fill as an int, or as uint8 [C, 1, 1] if it has one number for each channel."""
    if len(extras.fill) == 1:
        return int(extras.fill[0])
    return np.array(extras.colours(channels)).astype(np.uint8)[:, None, None]


def _nearest(images: Images, matrix_of: MatrixOf, parameter: Parameters, fill: Any) -> Images:
    if len(images) == 1:
        return _nearest_one(images, matrix_of, parameter[0], fill)
    result = np.empty(images.shape, dtype=np.uint8)
    for image, value, output in zip(images, parameter, result, strict=True):
        output[...] = _nearest_one(image, matrix_of, value, fill)
    return result


def _nearest_one(image: NDArray[np.uint8], matrix_of: MatrixOf, parameter: float, fill: Any) -> NDArray[np.uint8]:
    """Of [C, H, W] or [1, C, H, W]."""
    channels, height, width = image.shape[-3:]
    key = matrix_of, parameter, height, width
    source = sources.get(key)
    if source is None:
        matrix = matrix_of(parameter, height, width)
        if not fits_fixed_point(matrix, height, width):
            # Beyond 32767 pixels Pillow leaves fixed point for accumulated doubles; let Pillow do it.
            return _channel_by_channel(image.reshape(channels, height, width), matrix, fill).reshape(image.shape)
        source = nearest_source(matrix, height, width)
        sources.put(key, source)
    pixel, inside = source
    result = image.reshape(channels, height * width).take(pixel, axis=1, mode="clip")
    if inside is not None:
        result &= inside
        if not isinstance(fill, int) or fill != 0:
            result |= np.reshape(fill, (-1, 1)).astype(np.uint8) & ~inside
    return result.reshape(image.shape)


def _channel_by_channel(image: NDArray[np.uint8], matrix: Matrix, fill: Any) -> NDArray[np.uint8]:
    fills = np.broadcast_to(np.reshape(fill, -1), len(image)).tolist()
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image]
    return np.stack(
        [
            np.asarray(
                plane.transform(plane.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=c)
            )
            for plane, c in zip(planes, fills, strict=True)
        ]
    )


def _bilinear(images: Images, matrix_of: MatrixOf, parameter: Parameters, fill: Any) -> Images:
    """Twin of ``ImagingGenericTransform`` with ``bilinear_filter8`` in Pillow's Geometry.c, in double as there."""
    n, channels, height, width = images.shape
    matrices = [matrix_of(value, height, width) for value in parameter]
    a, b, c, d, e, f = np.asarray(matrices, dtype=np.float64).reshape(-1, 6).T[..., None, None]
    x_out, y_out = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
    x, y = a * x_out + b * y_out + c, d * x_out + e * y_out + f  # [N, H, W]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = x - 0.5, y - 0.5
    left, top = np.floor(x), np.floor(y)
    dx, dy = (x - left)[:, None], (y - top)[:, None]
    x0, x1 = (np.clip(left + i, 0, width - 1).astype(np.int64) for i in (0, 1))
    y0, y1 = (np.clip(top + i, 0, height - 1).astype(np.int64) for i in (0, 1))

    def gather(y_row: NDArray[np.int64], x_column: NDArray[np.int64]) -> NDArray[np.float64]:
        index = (y_row * width + x_column).reshape(n, 1, height * width)
        values = np.take_along_axis(images.reshape(n, channels, height * width), index, axis=2)
        return values.reshape(images.shape).astype(np.float64)

    def row(y_row: NDArray[np.int64]) -> NDArray[np.float64]:
        start, end = gather(y_row, x0), gather(y_row, x1)
        end -= start
        end *= dx
        start += end
        return start

    upper, lower = row(y0), row(y1)
    lower -= upper
    lower *= dy
    upper += lower
    return np.where(inside[:, None], upper.astype(np.uint8), np.asarray(fill, dtype=np.uint8))


def flip(images: Images, parameter: Parameters, extras: Extras) -> Images:
    if images.shape[-1] % 8:
        return images[..., ::-1].copy(order="C")  # also where the width is 1, and a view would be contiguous
    # Eight pixels at a time: three times as fast as one by one.
    return np.ascontiguousarray(images).view(np.uint64)[..., ::-1].byteswap().view(np.uint8)


# --- tables of 256 entries --------------------------------------------------------------------------------------------


def _look_up(images: Images, tables: Sequence[bytes]) -> Images:
    """Map the pixels of each image, or of each channel, through the table for it, as many as there are tables."""
    data = np.ascontiguousarray(images).data.cast("B") if images.size else memoryview(b"")
    if len(tables) == 1:
        mapped = bytearray(data).translate(tables[0])
    else:
        size = images.size // max(len(tables), 1)
        # Not bytes, whose translate is slower: it keeps track of whether anything changed.
        parts = (bytearray(data[i * size : (i + 1) * size]) for i in range(len(tables)))
        mapped = bytearray().join([part.translate(table) for part, table in zip(parts, tables, strict=True)])
    return np.frombuffer(mapped, dtype=np.uint8).reshape(images.shape)


def _histogram_offsets(n: int, channels: int) -> NDArray[np.int64]:
    """The number of bins before those of each channel of each image, [N, C, 1, 1]."""
    offsets = _offsets(n * channels) if n * channels <= _KEPT_OFFSETS else _offsets.__wrapped__(n * channels)
    return offsets.reshape(n, channels, 1, 1)


@functools.lru_cache(maxsize=64)
def _offsets(count: int) -> NDArray[np.int64]:
    return 256 * np.arange(count, dtype=np.int64)


def levels(table: Callable[[float], bytes]) -> Form:
    """The form of a map of levels."""
    return lambda images, parameter, extras: _look_up(images, [table(value) for value in parameter])


def solarize(images: Images, threshold: Parameters, extras: Extras) -> Images:
    level = [math.ceil(value) for value in threshold]  # x >= threshold is x >= level
    over = -(images >= column([min(value, 255) for value in level], np.uint8)).view(np.uint8)  # 255 or 0
    if max(level, default=0) > 255:
        over *= column([value < 256 for value in level], np.uint8)
    return images ^ over


def posterize(images: Images, bits: Parameters, extras: Extras) -> Images:
    return images & column([0xFF00 >> int(value) & 0xFF for value in bits], np.uint8)


def invert(images: Images, parameter: Parameters, extras: Extras) -> Images:
    return ~images


def contrast(images: Images, factor: Parameters, extras: Extras) -> Images:
    """Blend with the mean luma; on other than 3 channels, with the mean of all channels."""
    count = math.prod(images.shape[2:])
    if images.shape[1] == 3:
        totals = _arithmetic.luma_sum(images)
    else:
        count *= images.shape[1]
        totals = images.sum(axis=(1, 2, 3), dtype=np.int64)
    means = [int(total / count + 0.5) for total in totals.tolist()]
    return _look_up(images, [_pillow.contrast_table(*pair) for pair in zip(means, factor, strict=True)])


def auto_contrast(images: Images, parameter: Parameters, extras: Extras) -> Images:
    n, channels, height, width = images.shape
    planes = images.reshape(n * channels, height * width)
    low, high = np.minimum.reduce(planes, axis=1).tolist(), np.maximum.reduce(planes, axis=1).tolist()
    return _look_up(images, list(map(_pillow.auto_contrast_table, low, high)))


def equalize(images: Images, parameter: Parameters, extras: Extras) -> Images:
    n, channels, height, width = images.shape
    if height * width >= _arithmetic.FEW_PIXELS:  # Pillow counts faster than numpy
        planes = np.ascontiguousarray(images).reshape(n * channels, height, width)
        counts = [Image.frombuffer("L", (width, height), plane, "raw", "L", 0, 1).histogram() for plane in planes]
        levels = _arithmetic.equalize_levels(np.array(counts).reshape(-1, 256), height * width)
        return _look_up(images, [table.tobytes() for table in levels])
    index = images + _histogram_offsets(n, channels)
    histograms = np.bincount(index.reshape(-1), minlength=n * channels * 256).reshape(n * channels, 256)
    return _arithmetic.equalize_levels(histograms, height * width).take(index)


# --- color, sharpness, cutout, sample pairing -------------------------------------------------------------------------


def color(images: Images, factor: Parameters, extras: Extras) -> Images:
    """Blend with luma; the identity on other than 3 channels."""
    if images.shape[1] != 3:
        return images
    return _arithmetic.saturate(images, factor)


def sharpness(images: Images, factor: Parameters, extras: Extras) -> Images:
    return _arithmetic.sharpen(images, factor, 1)


def cutout(images: Images, fraction: Parameters, extras: Extras) -> Images:
    height, width = images.shape[2:]
    colour = np.array(_pillow.CUTOUT_RGB if images.shape[1] == 3 else _pillow.CUTOUT_GREY, dtype=np.uint8)
    result = images.copy(order="C")
    for image, side, middle in zip(result, fraction, extras.centre, strict=True):
        left, top, right, bottom = _geometry.cutout_box(side, middle, height, width)
        image[:, top:bottom, left:right] = colour.reshape(-1, 1, 1)
    return result


def sample_pairing(images: Images, weight: Parameters, extras: Extras) -> Images:
    return _arithmetic.blend(images, extras.partner, weight)
