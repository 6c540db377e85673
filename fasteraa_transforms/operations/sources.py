"""For each pixel of a transformed image, the source pixel that Pillow's nearest sampling chooses."""

import itertools
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fasteraa_transforms.operations.geometry import FIXED_POINT_LIMIT, Matrix


class Source(NamedTuple):
    """Where the pixels of a transformed image come from."""

    pixel: NDArray[np.intp]  # [H W], into the flattened input; H W where it would lie outside
    inside: NDArray[np.uint8] | None  # [H W], 255 inside of the input and 0 outside; None if nothing is outside

    @property
    def bytes(self) -> int:
        """What it takes in a cache, together with its key."""
        arrays = self.pixel.nbytes + (0 if self.inside is None else self.inside.nbytes)
        return arrays + _OVERHEAD


class Shifts(NamedTuple):
    """Where the rows of a sheared image come from: each from the same row, so many pixels further right."""

    row: NDArray[np.intp]  # [H], in [-W, W]

    @property
    def bytes(self) -> int:
        """What it takes in a cache, together with its key."""
        return self.row.nbytes + _OVERHEAD


# Two arrays without their data, the tuple, the key and its numbers, and the entry of the dictionary: 720 bytes by
# tracemalloc, and what the allocator rounds up. Without them, images of one pixel would fill the memory.
_OVERHEAD = 1024


class SourceCache:
    """Sources by key. Those not used for longest go first, once all together take more than ``limit`` bytes.

    A policy has few magnitudes, so few matrices, and images of one size come again and again. Threads share the cache;
    a forked process gets a whole copy.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._sources: OrderedDict[tuple[Any, ...], Source | Shifts] = OrderedDict()
        self._lock = threading.Lock()
        if hasattr(os, "register_at_fork"):
            # Else a child forked while another thread holds the lock would wait for it forever.
            release = self._lock.release
            os.register_at_fork(before=self._lock.acquire, after_in_parent=release, after_in_child=release)

    def __len__(self) -> int:
        return len(self._sources)

    def get(self, key: tuple[Any, ...]) -> Source | Shifts | None:
        """The source of this key, which then counts as used last."""
        with self._lock:
            source = self._sources.get(key)
            if source is not None:
                self._sources.move_to_end(key)
            return source

    def put(self, key: tuple[Any, ...], source: Source | Shifts) -> None:
        """Keep a source, unless it is larger than the whole cache."""
        size = source.bytes
        with self._lock:
            if size <= self.limit and key not in self._sources:
                self._sources[key] = source
                self.bytes += size
                while self.bytes > self.limit:
                    self.bytes -= self._sources.popitem(last=False)[1].bytes

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._sources.clear()
            self.bytes = 0


def fits_fixed_point(matrix: Matrix, height: int, width: int) -> bool:
    """Whether `nearest_source` is Pillow's choice. Twin of ``check_fixed`` in Pillow's Geometry.c."""
    a, b, c, d, e, f = matrix
    if b == d == 0:  # Pillow does not take fixed point then
        return True
    corners = ((0, 0), (width, height), (0, height), (width, 0))
    return all(
        abs(x * a + y * b + c) < FIXED_POINT_LIMIT and abs(x * d + y * e + f) < FIXED_POINT_LIMIT for x, y in corners
    )


def row_shifts(matrix: Matrix, height: int, width: int) -> Shifts | None:
    """The shifts of a map that moves each row by itself, as a shear along x does; None for any other map."""
    a, b, c, d, e, f = matrix
    if not (a == e == 1 and d == f == 0 and b != 0):
        return None
    start, step, _ = _steps(matrix)[0]
    return Shifts(((start + step * np.arange(height)) >> 16).clip(-width, width).astype(np.intp))


def nearest_source(matrix: Matrix, height: int, width: int) -> Source:
    """Where the pixels of an image of this size come from."""
    x, y = _nearest_coordinates(matrix, height, width)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = np.where(inside, y * width + x, height * width).astype(np.intp)  # `take` would convert any other type
    return Source(index.reshape(-1), None if inside.all() else -inside.reshape(-1).view(np.uint8))


def block_sources(
    matrix: Matrix, height: int, width: int, block: tuple[int, int]
) -> Iterator[tuple[slice, slice, Source]]:
    """Where the pixels of a large image come from, block by block, in a third of the time of `nearest_source`.

    The map fits fixed point and is no mere stretch. Every coordinate then has 16 bits, so that 32 are enough; where a
    part of a sum has more, the sum is right again. A pixel outside of the input may be any number here.

    Args:
        matrix: of the map.
        height: of the image.
        width: of the image.
        block: height and width of a block. What its pixels come from should fit the caches of the processor.

    Yields:
        Rows and columns of a block, and the source of its pixels, which the next one overwrites.
    """
    (x_start, x_down, x_right), (y_start, y_down, y_right) = _steps(matrix)
    step = np.arange(max(height, width))
    x_across, y_across = ((right * step[:width]).astype(np.int32) for right in (x_right, y_right))
    x_from, y_from = (
        (start + down * step[:height, None]).astype(np.int32) for start, down in ((x_start, x_down), (y_start, y_down))
    )
    size = min(block[0], height) * min(block[1], width)
    coordinates = np.empty((2, size), dtype=np.int32)
    flags = np.empty((2, size), dtype=np.bool_)
    found = np.empty(size, dtype=np.intp)
    for rows, columns in itertools.product(_slices(height, block[0]), _slices(width, block[1])):
        across = columns.stop - columns.start
        count = (rows.stop - rows.start) * across
        (x, y), (inside, other), pixel = coordinates[:, :count], flags[:, :count], found[:count]
        np.add(x_from[rows], x_across[columns], out=x.reshape(-1, across))
        np.add(y_from[rows], y_across[columns], out=y.reshape(-1, across))
        x >>= 16
        y >>= 16
        np.less(x.view(np.uint32), np.uint32(width), out=inside)
        np.less(y.view(np.uint32), np.uint32(height), out=other)
        inside &= other
        y *= np.int32(width)
        y += x
        pixel[:] = y
        mask = None if inside.all() else np.negative(inside.view(np.uint8), out=other.view(np.uint8))
        yield rows, columns, Source(pixel, mask)


def _slices(size: int, step: int) -> list[slice]:
    return [slice(begin, min(begin + step, size)) for begin in range(0, size, step)]


def _fixed(value: float) -> int:
    return math.floor(value * 65536.0 + 0.5)


def _steps(matrix: Matrix) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """In 16.16 fixed point, of x and of y: the coordinate of the first pixel, and the steps down and to the right."""
    a, b, c, d, e, f = matrix
    return (
        (_fixed(c + a * 0.5 + b * 0.5), _fixed(b), _fixed(a)),
        (_fixed(f + d * 0.5 + e * 0.5), _fixed(e), _fixed(d)),
    )


def _nearest_coordinates(matrix: Matrix, height: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Input pixel of each output pixel, ``x`` and ``y``, which broadcast to [H, W]. May lie outside of the image.

    Twin of ``ImagingScaleAffine`` in Pillow's Geometry.c where b and d are 0, else of ``affine_fixed``, which computes
    in 16.16 fixed point.
    """
    a, b, c, d, e, f = matrix
    if b == d == 0:
        return _added_up(c, a, width), _added_up(f, e, height)[:, None]
    (x_start, x_down, x_right), (y_start, y_down, y_right) = _steps(matrix)
    x, y = np.arange(width), np.arange(height)[:, None]
    return (x_start + x_down * y) + x_right * x >> 16, (y_start + y_down * y) + y_right * x >> 16


def _added_up(offset: float, step: float, size: int) -> NDArray[np.int64]:
    """Input pixel of each output pixel along one axis, [size], -1 or ``size`` if outside; a coordinate is a sum."""
    steps = np.full(size, step)
    steps[0] = offset + step * 0.5
    return np.floor(steps.cumsum()).clip(-1, size).astype(np.int64)
