"""Affine maps of uint8 arrays [N, C, H, W], byte for byte what Pillow gives."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.operations.arithmetic import FEW_PIXELS, Parameters
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine, Matrix
from fasteraa_transforms.operations.sources import (
    Shifts,
    Source,
    SourceCache,
    fits_fixed_point,
    nearest_source,
    row_shifts,
)

Images = NDArray[np.uint8]  # [N, C, H, W]
Form = Callable[[Images, Parameters, Extras], Images]
MatrixOf = Callable[[float, int, int], Matrix]

_NEAREST = InterpolationMode.NEAREST  # to look up a member of an enumeration takes a while

# 64 MiB hold 147 matrices for images of 224 × 224, or 6553 for images of 32 × 32.
sources = SourceCache(2**26)

_BLOCK = 2**16  # pixels of a large image whose sources are computed at a time
LARGE = 2**18  # pixels beyond which an image has its sources computed block by block, and they are not kept


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


# --- the nearest pixel ------------------------------------------------------------------------------------------------


def source_of(matrix_of: MatrixOf, parameter: float, height: int, width: int) -> Source | Shifts | None:
    """Where the pixels of an image of this size come from, kept for the next one.

    None if the image is too large for that, or beyond Pillow's fixed point.
    """
    key = matrix_of, parameter, height, width
    source = sources.get(key)
    if source is None:
        matrix = matrix_of(parameter, height, width)
        if not fits_fixed_point(matrix, height, width):
            return None
        # Rows one by one take as long as the pixels of a small image.
        source = row_shifts(matrix, height, width) if height * width >= FEW_PIXELS else None
        if source is None:
            if height * width > LARGE:
                return None
            source = nearest_source(matrix, height, width)
        sources.put(key, source)
    return source


def _nearest(images: Images, matrix_of: MatrixOf, parameter: Parameters, fill: Any) -> Images:
    n, channels, height, width = images.shape
    pixels = height * width
    result = np.empty(images.shape, dtype=np.uint8)
    before, after = images.reshape(n, channels, pixels), result.reshape(n, channels, pixels)
    for index, value in enumerate(parameter):
        source = source_of(matrix_of, value, height, width)
        if isinstance(source, Source):
            _gather(before[index], source, fill, after[index])
        elif isinstance(source, Shifts):
            _shift(images[index], source, fill, result[index])
        else:
            _large(images[index], matrix_of(value, height, width), fill, result[index])
    return result


def _gather(image: NDArray[np.uint8], source: Source, fill: Any, output: NDArray[np.uint8]) -> None:
    """Of [C, H W], the pixels [C, n] of a source with n pixels."""
    image.take(source.pixel, axis=1, mode="clip", out=output)
    inside = source.inside
    if inside is not None:
        output &= inside
        if not isinstance(fill, int) or fill != 0:
            output |= np.reshape(fill, (-1, 1)).astype(np.uint8) & ~inside


def _shift(image: NDArray[np.uint8], shifts: Shifts, fill: Any, output: NDArray[np.uint8]) -> None:
    """Of [C, H, W]: windows into an image with margins, of as many columns as its rows are shifted."""
    channels, height, width = image.shape
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        shift = shifts.row[band]
        before, after = max(-int(shift.min()), 0), max(int(shift.max()), 0)
        wide = np.empty((channels, len(shift), before + width + after), dtype=np.uint8)
        wide[..., :before], wide[..., before + width :] = fill, fill
        wide[..., before : before + width] = image[:, band]
        windows = np.ndarray(
            (*wide.shape[:2], before + after + 1, width), np.uint8, wide, strides=(*wide.strides, 1)
        )  # numpy's own function for it takes as long as the copies
        output[:, band] = windows[:, np.arange(len(shift)), shift + before]


def _large(image: NDArray[np.uint8], matrix: Matrix, fill: Any, output: NDArray[np.uint8]) -> None:
    """Of an image [C, H, W] whose sources would take more memory than the image; or beyond fixed point."""
    channels, height, width = image.shape
    if not fits_fixed_point(matrix, height, width):
        # Beyond 32767 pixels Pillow leaves fixed point for accumulated doubles; let Pillow do it.
        output[...] = _channel_by_channel(image, matrix, fill, Image.Resampling.NEAREST)
        return
    flat = image.reshape(channels, -1)
    rows = max(1, _BLOCK // width)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        part = np.empty((channels, (band.stop - top) * width), dtype=np.uint8)
        _gather(flat, nearest_source(matrix, height, width, band), fill, part)
        output[:, band] = part.reshape(channels, -1, width)


def _channel_by_channel(
    image: NDArray[np.uint8], matrix: Matrix, fill: Any, resampling: Image.Resampling
) -> NDArray[np.uint8]:
    fills = np.broadcast_to(np.reshape(fill, -1), len(image)).tolist()
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in image]
    return np.stack(
        [
            np.asarray(plane.transform(plane.size, Image.Transform.AFFINE, matrix, resampling, fillcolor=c))
            for plane, c in zip(planes, fills, strict=True)
        ]
    )


# --- bilinear ---------------------------------------------------------------------------------------------------------


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
