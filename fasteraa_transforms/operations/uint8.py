"""The operations on uint8 arrays ``[N, C, H, W]``, byte for byte what Pillow gives.

Each function is the twin of the one of the same name in ``pillow``. It takes ``(images, parameter, extras)`` with one
parameter an image, a sequence or float64 ``[N]``, and an `Extras`. Operations that work channel by channel treat each
channel as an L image, so any C is allowed; `color` and `contrast` need luma, see there. No function writes into its
input. The result is a new array, or the input itself if nothing changes; it is contiguous if the input is.

What pays: arithmetic on uint8 (``~x``, ``x & mask``) and slice copies instead of tables, `bytearray.translate` instead
of indexing a table (0.4 against 2 ns a pixel), a cached index for `numpy.ndarray.take` instead of coordinates, and few
calls: for a small image the number of calls is the time.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fasteraa_transforms.operations import arithmetic as _arithmetic
from fasteraa_transforms.operations import geometry as _geometry
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.arithmetic import Parameters, column
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.warp import Form, Images, affine

__all__ = ["affine"]  # a form by its kind, as `levels` is

_KEPT_OFFSETS = 2**12  # channels of a batch up to which `_offsets` is remembered, 32 KiB

# --- geometry ---------------------------------------------------------------------------------------------------------


def flip(images: Images, parameter: Parameters, extras: Extras) -> Images:
    if images.shape[-1] % 8:
        return images[..., ::-1].copy(order="C")  # also where the width is 1, and a view would be contiguous
    # Eight pixels at a time: three times as fast as one by one.
    return np.ascontiguousarray(images).view(np.uint64)[..., ::-1].byteswap().view(np.uint8)


# --- tables of 256 entries --------------------------------------------------------------------------------------------


def _look_up(images: Images, tables: Sequence[bytes]) -> Images:
    """Map pixels through tables: one table for all, one for each image, or one for each channel of each image."""
    data = np.ascontiguousarray(images).data.cast("B") if images.size else memoryview(b"")
    if len(tables) == 1:
        mapped = bytearray(data).translate(tables[0])
    else:
        size = images.size // max(len(tables), 1)
        # Not bytes, whose translate is slower: it keeps track of whether anything changed.
        parts = (bytearray(data[i * size : (i + 1) * size]) for i in range(len(tables)))
        mapped = bytearray().join(
            [
                part if table == _arithmetic.LEVELS else part.translate(table)
                for part, table in zip(parts, tables, strict=True)
            ]
        )
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
    tables = list(map(_pillow.auto_contrast_table, low, high))
    return images if all(table == _arithmetic.LEVELS for table in tables) else _look_up(images, tables)


def equalize(images: Images, parameter: Parameters, extras: Extras) -> Images:
    n, channels, height, width = images.shape
    if height * width >= _arithmetic.FEW_PIXELS:  # Pillow counts faster than numpy
        planes = np.ascontiguousarray(images).reshape(n * channels, height, width)
        counts = [Image.frombuffer("L", (width, height), plane, "raw", "L", 0, 1).histogram() for plane in planes]
        levels = _arithmetic.equalize_levels(_arithmetic.whole_numbers(counts), height * width)
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
