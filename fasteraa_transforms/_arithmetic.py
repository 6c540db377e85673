"""Arithmetic on uint8 arrays, byte for byte Pillow's, that the Pillow and the uint8 forms of the operations share.

What needs wider numbers goes band by band, so that the intermediates of a large image stay within a few MiB.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Parameters = Sequence[float] | NDArray[np.float64]  # [N]

_BAND = 2**18  # values; 1 MiB in float32
LEVELS = bytes(range(256))  # the table that changes nothing

LUMA = (19595, 38470, 7471)  # ITU-R 601-2 in 16.16 fixed point, as Pillow's Convert.c has it
# In float32 these weights, their products with 8 bits and the sums of those are exact: they have no more than 24 bits.
_LUMA = (np.array(LUMA) / 65536).astype(np.float32)[:, None, None]


def column(parameter: Parameters, dtype: Any) -> Any:
    """The parameters so that they broadcast against images; that of a single image as a scalar, which is faster."""
    if len(parameter) == 1:
        return dtype(parameter[0])
    return np.asarray(parameter).astype(dtype)[:, None, None, None]


def _bands(images: Pixels) -> Iterator[slice]:  # [..., H, W]
    """Slices of rows that together hold about `_BAND` values."""
    height = images.shape[-2]
    rows = max(1, _BAND * height // max(images.size, 1))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _in_bands(function: Callable[[slice], NDArray[np.float32]], images: Pixels) -> Pixels:
    if images.size <= _BAND:
        return function(slice(None)).astype(np.uint8)
    result = np.empty(images.shape, dtype=np.uint8)
    for rows in _bands(images):
        result[..., rows, :] = function(rows)
    return result


def _blend_band(start: NDArray[Any], end: Pixels, weight: Any, clip: bool) -> NDArray[np.float32]:
    first = start.astype(np.float32)
    result = end.astype(np.float32, order="C")
    result -= first
    result *= weight
    result += first
    return result.clip(0, 255, out=result) if clip else result


def blend(start: Pixels, end: Pixels, weight: Parameters) -> Pixels:
    """Twin of ``ImagingBlend`` (Pillow's Blend.c): float32 arithmetic, clipped, truncated; both [N, C, H, W]."""
    factor, clip = column(weight, np.float32), _extrapolates(weight)
    return _in_bands(lambda rows: _blend_band(start[..., rows, :], end[..., rows, :], factor, clip), end)


def _extrapolates(weight: Parameters) -> bool:
    return not all(0 <= value <= 1 for value in weight)


def _luma_band(images: Pixels) -> Pixels:  # [N, 1, H, W]
    weighted = images.astype(np.float32)
    weighted *= _LUMA
    total = np.add.reduce(weighted, axis=1, keepdims=True)
    total += np.float32(0.5)
    return total.astype(np.uint8)


def luma_sum(images: Pixels) -> NDArray[np.integer]:
    """Sum of the luma of each of the images [N, 3, H, W]."""
    bands = _bands(images) if images.size > _BAND else (slice(None),)
    # 64 bits at once would take twice as long.
    sums = [_luma_band(images[..., rows, :]).sum(axis=(1, 2, 3), dtype=np.uint32) for rows in bands]
    return sums[0] if len(sums) == 1 else np.sum(sums, axis=0, dtype=np.int64)


def saturate(images: Pixels, factor: Parameters) -> Pixels:
    """`ImageEnhance.Color` of images [N, 3, H, W]: blend with luma."""
    weight, clip = column(factor, np.float32), _extrapolates(factor)

    def band(rows: slice) -> NDArray[np.float32]:
        part = images[..., rows, :]
        return _blend_band(_luma_band(part), part, weight, clip)

    return _in_bands(band, images)


def sharpen(images: Pixels, factor: Parameters, step: int) -> Pixels:
    """`ImageEnhance.Sharpness`: blend with ``ImageFilter.SMOOTH``, (1 1 1, 1 5 1, 1 1 1) / 13 rounded to nearest.

    Args:
        images: [N, C, H, W], or with interleaved channels [N, 1, H, W C].
        factor: of each image.
        step: distance between neighbours in a row, 1 or C.
    """
    result = images.copy(order="C")  # Pillow's filter copies the outermost pixels
    height, row = images.shape[-2:]
    if height < 3 or row < 3 * step:
        return result
    weight, clip = column(factor, np.float32), _extrapolates(factor)
    for rows in _bands(images[..., 2:, :]):
        band = images[..., rows.start : rows.stop + 2, :]
        wide = band.astype(np.uint16, order="C").reshape(-1)
        # Sums run through the ends of rows and images as if there were none; what they give there is left out below.
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
        result[..., rows.start + 1 : rows.stop + 1, step:-step] = _blend_band(smooth, band[inner], weight, clip)
    return result


def equalize_tables(histograms: NDArray[np.int64]) -> list[bytes]:
    """For each histogram [P, 256] the table of `ImageOps.equalize`."""
    up_to = histograms.cumsum(axis=1)
    # All pixels but those of the highest level that occurs.
    step = np.where(up_to < up_to[:, -1:], up_to, 0).max(axis=1, keepdims=True) // 255  # [P, 1]
    up_to -= histograms
    up_to += step // 2
    # The quotient of whole numbers of this size, truncated, is exact in float64.
    levels = np.minimum(up_to / np.maximum(step, 1), 255).astype(np.uint8)  # Pillow's point() clips the table at 255
    return [table.tobytes() if n else LEVELS for table, n in zip(levels, step[:, 0].tolist(), strict=True)]
