"""Arithmetic on uint8 arrays that gives Pillow's bytes. The Pillow and the uint8 forms of the operations share it.

Functions that need wider numbers take a large image band by band, so that their intermediates stay within a few MiB.
"""

import functools
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Parameters = Sequence[float] | NDArray[np.float64]  # [N]

_BAND = 2**18  # values; 1 MiB in float32
LEVELS = bytes(range(256))  # the table that changes nothing
FEW_PIXELS = 2**12  # an image of fewer pixels takes less time than the calls do, so that another way is faster

LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in 16.16 fixed point, as Pillow's Convert.c has it
# In float32 these weights, their products with 8 bits and the sums of those are exact: they have no more than 24 bits.
_LUMA = (np.array(LUMA) / 65536).astype(np.float32)[:, None, None]
_HALF = np.float32(0.5)
_RAMP = np.arange(256)


def column(parameter: Parameters, dtype: Any) -> Any:
    """The parameters [N, 1, 1, 1], which broadcast against images. One parameter is a scalar, which is faster."""
    if len(parameter) == 1:
        return dtype(parameter[0])
    return np.asarray(parameter).astype(dtype)[:, None, None, None]


def _bands(images: Pixels) -> Iterator[slice]:  # [..., H, W]
    """Slices of rows that together hold about `_BAND` values."""
    height = images.shape[-2]
    rows = max(1, _BAND * height // max(images.size, 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _is_large(images: Pixels) -> bool:
    return images.size > _BAND and images.shape[-2] > 1


def _in_bands(function: Callable[..., Pixels], *images: Pixels) -> Pixels:
    result = np.empty(images[0].shape, dtype=np.uint8)
    for rows in _bands(result):
        result[..., rows, :] = function(*(each[..., rows, :] for each in images))
    return result


def _blend_floats(start: NDArray[np.float32], end: NDArray[np.float32], weight: Parameters) -> NDArray[np.float32]:
    """`blend` without the truncation. The result is written into ``end``."""
    end -= start
    end *= column(weight, np.float32)
    end += start
    extrapolates = min(weight, default=0) < 0 or max(weight, default=0) > 1
    return end.clip(0, 255, out=end) if extrapolates else end


def blend(start: Pixels, end: Pixels, weight: Parameters) -> Pixels:
    """Twin of ``ImagingBlend`` (Pillow's Blend.c): float32 arithmetic, clipped and truncated.

    Args:
        start: [N, C, H, W] or what broadcasts to it; the result at weight 0.
        end: [N, C, H, W]; the result at weight 1.
        weight: of each image, [N].
    """
    if _is_large(end):
        return _in_bands(lambda first, last: blend(first, last, weight), start, end)
    return _blend_floats(start.astype(np.float32), end.astype(np.float32, order="C"), weight).astype(np.uint8)


def _luma_band(images: NDArray[np.float32]) -> NDArray[np.float32]:  # [N, 1, H, W], whole numbers
    total = np.add.reduce(images * _LUMA, axis=1, keepdims=True)
    total += _HALF
    return np.floor(total, out=total)


def luma_sum(images: Pixels) -> NDArray[np.integer]:
    """The sum of the luma of each image, [N], of images [N, 3, H, W]."""
    if _is_large(images):
        return np.sum([luma_sum(images[..., rows, :]) for rows in _bands(images)], axis=0, dtype=np.int64)
    luma = _luma_band(images.astype(np.float32))
    if math.prod(luma.shape[1:]) <= 2**16:
        return luma.sum(axis=(1, 2, 3)).astype(np.int64)  # of no more than 24 bits, so that float32 is exact
    # A band has few enough pixels for 32 bits; 64 bits would take twice as long.
    return luma.sum(axis=(1, 2, 3), dtype=np.uint32)


def saturate(images: Pixels, factor: Parameters) -> Pixels:
    """`ImageEnhance.Color` of images [N, 3, H, W]: a blend with their luma."""
    if _is_large(images):
        return _in_bands(lambda band: saturate(band, factor), images)
    values = images.astype(np.float32, order="C")
    return _blend_floats(_luma_band(values), values, factor).astype(np.uint8)


def sharpen(images: Pixels, factor: Parameters, step: int) -> Pixels:
    """`ImageEnhance.Sharpness`: blend with ``ImageFilter.SMOOTH``, (1 1 1, 1 5 1, 1 1 1) / 13 rounded to nearest.

    Args:
        images: [N, C, H, W]; or [N, 1, H, W C], if the channels of a pixel lie beside each other.
        factor: of each image, [N].
        step: distance between neighbours in a row, 1 or C.
    """
    result = images.copy(order="C")  # Pillow's filter copies the outermost pixels
    height, row = images.shape[-2:]
    if height < 3 or row < 3 * step:
        return result
    for rows in _bands(images[..., 2:, :]):
        band = images[..., rows.start : rows.stop + 2, :]
        wide = band.astype(np.uint16, order="C").reshape(-1)
        # Sums run on from the end of a row to the next row, and so do images. `inner` leaves out what that gives.
        across = wide[: -2 * step] + wide[step:-step]
        across += wide[2 * step :]
        total = across[: -2 * row] + across[row:-row]
        total += across[2 * row :]
        centre = wide[row + step : -row - step]
        centre *= 4
        total += centre
        total += 6  # 13 is odd, so there are no ties
        total //= 13
        wide[row + step : -row - step] = total
        inner = np.s_[..., 1:-1, step:-step]
        smooth = wide.reshape(band.shape)[inner]
        result[..., rows.start + 1 : rows.stop + 1, step:-step] = _blend_floats(
            smooth.astype(np.float32), band[inner].astype(np.float32, order="C"), factor
        )
    return result


def contrast_levels(mean: int, factor: float) -> bytes:
    """The table of ``Image.blend`` with an image of one level, at weight 0."""
    return (
        _blend_floats(np.full(256, mean, dtype=np.float32), _RAMP.astype(np.float32), (factor,))
        .astype(np.uint8)
        .tobytes()
    )


def auto_contrast_levels(low: int, high: int) -> bytes:
    """The table of ``ImageOps.autocontrast`` for a channel whose levels lie in [low, high]."""
    if high <= low:
        return LEVELS
    scale = 255.0 / (high - low)
    return (_RAMP * scale + -low * scale).clip(0, 255).astype(np.uint8).tobytes()


def whole_numbers(histograms: Sequence[list[int]]) -> NDArray[np.int64]:
    """Pillow's histograms, [P, 256], in half the time that numpy takes for lists. One may hold several bands."""
    packed = b"".join([struct.pack(f"{len(counts)}q", *counts) for counts in histograms])
    return np.frombuffer(packed, dtype=np.int64).reshape(-1, 256)


def equalize_levels(histograms: NDArray[np.int64], pixels: int) -> Pixels:
    """The table of `ImageOps.equalize`, [P, 256], for each of the histograms [P, 256] of so many pixels."""
    below = histograms.cumsum(axis=1)
    top = below.argmax(axis=1)  # the highest level that occurs
    below -= histograms
    top += 256 * np.arange(len(top))
    step = below.take(top) // 255
    if pixels < FEW_PIXELS:
        below += (step * (pixels + 1))[:, None]
        levels = _quotients(pixels).take(below)
    else:
        below += (step // 2)[:, None]
        # Whole numbers of this size have a quotient that is exact in float64 after truncation.
        levels = np.minimum(below / np.maximum(step, 1)[:, None], 255).astype(np.uint8)
    if 0 in step.tolist():
        levels[step == 0] = np.frombuffer(LEVELS, dtype=np.uint8)
    return levels


@functools.lru_cache(maxsize=16)
def _quotients(pixels: int) -> Pixels:  # [steps, pixels + 1]
    """The level for each step and each number of pixels below the level. Pillow's point() clips at 255."""
    step = np.arange(pixels // 255 + 1)[:, None]
    return np.minimum((np.arange(pixels + 1) + step // 2) // np.maximum(step, 1), 255).astype(np.uint8)
