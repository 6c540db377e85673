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
    block_sources,
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

_SHIFTED = 2**16  # pixels of rows that are shifted at a time
# Height and width of the blocks of a large image: high and narrow, so that few rows of the input are read at a time.
_BLOCK = 1024, 64
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
    if n == 1:  # in nine tenths of the time
        source = source_of(matrix_of, parameter[0], height, width)
        if isinstance(source, Source):
            return _gather(images.reshape(channels, pixels), source, fill, None).reshape(images.shape)
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


def _gather(image: NDArray[np.uint8], source: Source, fill: Any, output: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Of [C, H W], the pixels [C, n] of a source with n pixels, in ``output`` if there is one."""
    result = image.take(source.pixel, axis=1, mode="clip", out=output)
    inside = source.inside
    if inside is not None:
        result &= inside
        if not isinstance(fill, int) or fill != 0:
            result |= np.reshape(fill, (-1, 1)).astype(np.uint8) & ~inside
    return result


def _shift(image: NDArray[np.uint8], shifts: Shifts, fill: Any, output: NDArray[np.uint8]) -> None:
    """Of [C, H, W]: windows into an image with margins, of as many columns as its rows are shifted."""
    channels, height, width = image.shape
    rows = max(1, _SHIFTED // width)
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
    if matrix[1] == matrix[3] == 0 or not fits_fixed_point(matrix, height, width):
        # Beyond 32767 pixels Pillow leaves fixed point for accumulated doubles; let Pillow do it.
        _by_pillow(image, matrix, fill, Image.Resampling.NEAREST, output)
        return
    flat = image.reshape(channels, -1)
    parts = np.empty(channels * min(_BLOCK[0], height) * min(_BLOCK[1], width), dtype=np.uint8)
    for rows, columns, source in block_sources(matrix, height, width, _BLOCK):
        part = parts[: channels * len(source.pixel)].reshape(channels, -1)
        _gather(flat, source, fill, part)
        output[:, rows, columns] = part.reshape(channels, -1, columns.stop - columns.start)


def _by_pillow(
    image: NDArray[np.uint8], matrix: Matrix, fill: Any, resampling: Image.Resampling, output: NDArray[np.uint8]
) -> None:
    """By Pillow itself, channel by channel: of bilinear sampling it takes a fifth of the time of numpy."""
    channels, height, width = image.shape
    fills = np.broadcast_to(np.reshape(fill, -1), channels).tolist()
    for plane, colour, result in zip(np.ascontiguousarray(image), fills, output, strict=True):
        given = Image.frombuffer("L", (width, height), plane, "raw", "L", 0, 1)
        found = given.transform((width, height), Image.Transform.AFFINE, matrix, resampling, fillcolor=colour)
        result[...] = np.frombuffer(found.tobytes(), dtype=np.uint8).reshape(height, width)


def _bilinear(images: Images, matrix_of: MatrixOf, parameter: Parameters, fill: Any) -> Images:
    result = np.empty(images.shape, dtype=np.uint8)
    for image, value, output in zip(images, parameter, result, strict=True):
        _by_pillow(image, matrix_of(value, *image.shape[1:]), fill, Image.Resampling.BILINEAR, output)
    return result
