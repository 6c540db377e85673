"""The operations on uint8 arrays ``[N, C, H, W]``, byte for byte what Pillow gives.

Each function is the twin of the one of the same name in ``_pillow`` and takes ``(images, parameter)`` with one
parameter an image, a sequence or float64 ``[N]``, plus the keywords its row of the table names. Operations that work
channel by channel treat each channel as an L image, so any C is allowed; `color` and `contrast` need luma, see there.
No function writes into its input; the result is a new array, or the input itself where it equals that, and contiguous
if the input is.

What pays: arithmetic on uint8 (``~x``, ``x & mask``) and slice copies instead of tables, `bytearray.translate` instead
of indexing a table (0.4 against 2 ns a pixel), a cached index for `numpy.ndarray.take` instead of coordinates, and few
calls: for a small image the number of calls is the time.
"""

import functools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations import arithmetic as _arithmetic
from fasteraa_transforms.operations import geometry as _geometry
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.arithmetic import Parameters, column
from fasteraa_transforms.operations.geometry import Affine

Images = NDArray[np.uint8]  # [N, C, H, W]
_NEAREST = InterpolationMode.NEAREST  # to look up a member of an enumeration takes a while
MatrixOf = Callable[[float, int, int], _geometry.Matrix]

# --- geometry ---------------------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """Where the pixels of a transformed image come from."""

    pixel: NDArray[np.intp]  # [H W], into the flattened input; any pixel where it would lie outside
    inside: NDArray[np.uint8] | None  # [H W], 255 inside of the input and 0 outside; None if nothing is outside


class SourceCache:
    """Sources by key; those not used for longest go first once all together take more than ``limit`` bytes.

    A policy has few magnitudes, so few matrices, and images of one size come again and again. Threads share it; a
    forked process gets a whole copy.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._sources: OrderedDict[tuple[Any, ...], _Source] = OrderedDict()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            # Else a child forked while another thread holds the lock would wait for it forever.
            release = self._lock.release
            os.register_at_fork(before=self._lock.acquire, after_in_parent=release, after_in_child=release)

    def __len__(self) -> int:
        return len(self._sources)

    def get(self, key: tuple[Any, ...]) -> _Source | None:
        with self._lock:
            source = self._sources.get(key)
            if source is not None:
                self._sources.move_to_end(key)
            return source

    def put(self, key: tuple[Any, ...], source: _Source) -> None:
        size = _bytes(source)
        with self._lock:
            if size <= self.limit and key not in self._sources:
                self._sources[key] = source
                self.bytes += size
                while self.bytes > self.limit:
                    self.bytes -= _bytes(self._sources.popitem(last=False)[1])

    def clear(self) -> None:
        with self._lock:
            self._sources.clear()
            self.bytes = 0


def _bytes(source: _Source) -> int:
    return source.pixel.nbytes + (0 if source.inside is None else source.inside.nbytes)


# 64 MiB hold 148 matrices for images of 224 × 224, or 7281 for images of 32 × 32.
sources = SourceCache(2**26)


def _fill_column(fill: float | Sequence[float], channels: int) -> Any:
    """``fill`` as an int, or as uint8 [C, 1, 1] if it has one number for each channel."""
    values: Any = fill if isinstance(fill, tuple) else tuple(fill) if isinstance(fill, Sequence) else (fill,)
    if len(values) not in (1, channels):
        raise ValueError(f"fill should be one number or one for each of {channels} channels, but got {fill} instead")
    return int(values[0]) if len(values) == 1 else np.array(values).astype(np.uint8)[:, None, None]


def _fits_fixed_point(matrix: _geometry.Matrix, height: int, width: int) -> bool:
    a, b, c, d, e, f = matrix
    if b == d == 0:  # Pillow does not leave doubles then
        return True
    corners = ((0, 0), (width, height), (0, height), (width, 0))
    limit = _geometry.FIXED_POINT_LIMIT
    return all(abs(x * a + y * b + c) < limit and abs(x * d + y * e + f) < limit for x, y in corners)


def nearest_coordinates(
    matrix: _geometry.Matrix, height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input pixel of each output pixel, ``x`` and ``y``, which broadcast to [H, W]. May lie outside of the image.

    Twin of ``ImagingScaleAffine`` in Pillow's Geometry.c where b and d are 0, else of ``affine_fixed``, which takes
    16.16 fixed point.
    """
    a, b, c, d, e, f = matrix
    if b == d == 0:
        return _added_up(c, a, width), _added_up(f, e, height)[:, None]
    x, y = np.arange(width), np.arange(height)[:, None]

    def fixed(value: float) -> int:
        return math.floor(value * 65536.0 + 0.5)

    x_in = (fixed(c + a * 0.5 + b * 0.5) + fixed(b) * y) + fixed(a) * x
    y_in = (fixed(f + d * 0.5 + e * 0.5) + fixed(e) * y) + fixed(d) * x
    return x_in >> 16, y_in >> 16


def _added_up(offset: float, step: float, size: int) -> NDArray[np.int64]:
    """Input pixel of each output pixel along one axis, [size]: coordinates come one by one, each by a sum."""
    steps = np.full(size, step)
    steps[0] = offset + step * 0.5
    return np.floor(steps.cumsum()).clip(-1, size).astype(np.int64)


def _nearest_source(matrix: _geometry.Matrix, height: int, width: int) -> _Source:
    x, y = nearest_coordinates(matrix, height, width)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = np.where(inside, y * width + x, 0).astype(np.intp)  # `take` would convert any other type in each call
    return _Source(index.reshape(-1), None if inside.all() else -inside.reshape(-1).view(np.uint8))


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
        if not _fits_fixed_point(matrix, height, width):
            # Beyond 32767 pixels Pillow leaves fixed point for accumulated doubles; let Pillow do it.
            return _channel_by_channel(image.reshape(channels, height, width), matrix, fill).reshape(image.shape)
        source = _nearest_source(matrix, height, width)
        sources.put(key, source)
    pixel, inside = source
    result = image.reshape(channels, height * width).take(pixel, axis=1, mode="clip")
    if inside is not None:
        result &= inside
        if not isinstance(fill, int) or fill != 0:
            result |= np.reshape(fill, (-1, 1)).astype(np.uint8) & ~inside
    return result.reshape(image.shape)


def _channel_by_channel(image: NDArray[np.uint8], matrix: _geometry.Matrix, fill: Any) -> NDArray[np.uint8]:
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


def affine(geometry: Affine) -> Callable[..., Images]:
    """The uint8 form of an affine map."""
    matrix_of = geometry.matrix
    if geometry.mirrors:
        return lambda images, parameter: _nearest(images, matrix_of, parameter, 0)
    if geometry.translates:
        return _translation(matrix_of)

    def form(
        images: Images, parameter: Parameters, *, interpolation: InterpolationMode, fill: float | Sequence[float]
    ) -> Images:
        sample = _nearest if interpolation is _NEAREST else _bilinear
        return sample(images, matrix_of, parameter, _fill_column(fill, images.shape[1]))

    return form


def _translation(matrix_of: MatrixOf) -> Callable[..., Images]:
    """The uint8 form of a map by whole pixels: copies of slices, whatever the interpolation."""

    @functools.lru_cache(maxsize=1024)
    def overlap(parameter: float, height: int, width: int) -> tuple[Any, Any]:
        _, _, x, _, _, y = matrix_of(parameter, height, width)
        (to_y, from_y), (to_x, from_x) = _overlap(int(y), height), _overlap(int(x), width)
        return (slice(None), to_y, to_x), (slice(None), from_y, from_x)

    def form(
        images: Images, parameter: Parameters, *, interpolation: InterpolationMode, fill: float | Sequence[float]
    ) -> Images:
        n, channels, height, width = images.shape
        column = _fill_column(fill, channels)
        result = np.zeros(images.shape, dtype=np.uint8)
        if not (isinstance(column, int) and column == 0):
            result[...] = column
        for image, value, output in zip(images, parameter, result, strict=True):
            to, source = overlap(value, height, width)
            output[to] = image[source]
        return result

    return form


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    """Along one axis: the part of the output that lies on the input, and that part of the input."""
    shift = max(-size, min(shift, size))
    return slice(max(-shift, 0), size - max(shift, 0)), slice(max(shift, 0), size - max(-shift, 0))


def flip(images: Images, _: Parameters) -> Images:
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


@functools.lru_cache(maxsize=64)
def _histogram_offset(n: int, channels: int) -> NDArray[np.int64]:
    return 256 * np.arange(n * channels, dtype=np.int64).reshape(n, channels, 1, 1)


def levels(table: Callable[[float], bytes]) -> Callable[..., Images]:
    """The uint8 form of a map of levels."""
    return lambda images, parameter: _look_up(images, [table(value) for value in parameter])


def solarize(images: Images, threshold: Parameters) -> Images:
    level = [math.ceil(value) for value in threshold]  # x >= threshold is x >= level
    over = -(images >= column([min(value, 255) for value in level], np.uint8)).view(np.uint8)  # 255 or 0
    if max(level, default=0) > 255:
        over *= column([value < 256 for value in level], np.uint8)
    return images ^ over


def posterize(images: Images, bits: Parameters) -> Images:
    return images & column([0xFF00 >> int(value) & 0xFF for value in bits], np.uint8)


def invert(images: Images, _: Parameters) -> Images:
    return ~images


def contrast(images: Images, factor: Parameters) -> Images:
    """Blend with the mean luma; on other than 3 channels, with the mean of all channels."""
    count = math.prod(images.shape[2:])
    if images.shape[1] == 3:
        totals = _arithmetic.luma_sum(images)
    else:
        count *= images.shape[1]
        totals = images.sum(axis=(1, 2, 3), dtype=np.int64)
    means = [int(total / count + 0.5) for total in totals.tolist()]
    return _look_up(images, [_pillow.contrast_table(*pair) for pair in zip(means, factor, strict=True)])


def auto_contrast(images: Images, _: Parameters) -> Images:
    n, channels, height, width = images.shape
    planes = images.reshape(n * channels, height * width)
    low, high = np.minimum.reduce(planes, axis=1).tolist(), np.maximum.reduce(planes, axis=1).tolist()
    return _look_up(images, list(map(_pillow.auto_contrast_table, low, high)))


def equalize(images: Images, _: Parameters) -> Images:
    n, channels, height, width = images.shape
    if height * width >= _arithmetic.FEW_PIXELS:  # Pillow counts faster than numpy
        planes = np.ascontiguousarray(images).reshape(n * channels, height, width)
        counts = [Image.frombuffer("L", (width, height), plane, "raw", "L", 0, 1).histogram() for plane in planes]
        levels = _arithmetic.equalize_levels(np.array(counts).reshape(-1, 256), height * width)
        return _look_up(images, [table.tobytes() for table in levels])
    index = images + _histogram_offset(n, channels)
    histograms = np.bincount(index.reshape(-1), minlength=n * channels * 256).reshape(n * channels, 256)
    return _arithmetic.equalize_levels(histograms, height * width).take(index)


# --- color, sharpness, cutout, sample pairing -------------------------------------------------------------------------


def color(images: Images, factor: Parameters) -> Images:
    """Blend with luma; the identity on other than 3 channels."""
    if images.shape[1] != 3:
        return images
    return _arithmetic.saturate(images, factor)


def sharpness(images: Images, factor: Parameters) -> Images:
    return _arithmetic.sharpen(images, factor, 1)


def cutout(images: Images, fraction: Parameters, *, centre: Sequence[Sequence[float]] | NDArray[np.float64]) -> Images:
    height, width = images.shape[2:]
    colour = np.array(_pillow.CUTOUT_RGB if images.shape[1] == 3 else _pillow.CUTOUT_GREY, dtype=np.uint8)
    result = images.copy(order="C")
    for image, side, middle in zip(result, fraction, centre, strict=True):
        left, top, right, bottom = _geometry.cutout_box(side, middle, height, width)
        image[:, top:bottom, left:right] = colour.reshape(-1, 1, 1)
    return result


def sample_pairing(images: Images, weight: Parameters, *, partner: Images) -> Images:
    return _arithmetic.blend(images, partner, weight)
