"""Histograms of the input of a stage, and the tables of 256 levels that follow from them."""

import triton
import triton.language as tl

from fasteraa_transforms.backends.cuda.arithmetic import blend
from fasteraa_transforms.backends.cuda.frame import luma, read
from fasteraa_transforms.backends.cuda.stage import (
    AUTO_CONTRAST,
    CONTRAST,
    INVERT,
    POSTERIZE,
    SKIP,
    SOLARIZE,
    after_first,
    is_plain,
    needs_statistics,
)


@triton.jit
def level_table(
    kind,  # SOLARIZE, POSTERIZE, INVERT or BRIGHTNESS
    parameter,  # float64
):
    """The table that follows from the parameter alone, int32 [256]; twin of ``Levels.table`` in the operations."""
    levels = tl.arange(0, 256)
    table = levels
    if kind == SOLARIZE:
        table = tl.where(levels.to(tl.float64) >= parameter, 255 - levels, levels)
    elif kind == POSTERIZE:
        bits = tl.minimum(tl.maximum(parameter.to(tl.int32), 0), 8)
        table = levels & (256 - (1 << (8 - bits)))
    elif kind == INVERT:
        table = 255 - levels
    else:
        table = blend(levels * 0, levels, parameter.to(tl.float32))
    return table


@triton.jit
def contrast_table(
    total,  # int64: the sum of the levels of all pixels
    pixels,  # int64: their number
    weight,  # float32
):
    """The table of contrast, int32 [256]; twin of ``contrast`` in `fasteraa_transforms.operations.uint8`."""
    mean = (total.to(tl.float64) / pixels.to(tl.float64) + 0.5).to(tl.int32)
    return blend(tl.full((256,), 0, tl.int32) + mean, tl.arange(0, 256), weight)


@triton.jit
def spread_table(
    kind,  # AUTO_CONTRAST or EQUALIZE
    counts,  # int32 [256]: the histogram of one channel
    pixels,
):
    """The table of one channel, int32 [256]; twin of ``auto_contrast`` and ``equalize`` in the same module."""
    levels = tl.arange(0, 256)
    darkest = tl.min(tl.where(counts > 0, levels, 255), 0)
    brightest = tl.max(tl.where(counts > 0, levels, 0), 0)
    table = levels
    if kind == AUTO_CONTRAST:
        if brightest > darkest:
            scale = 255.0 / (brightest - darkest).to(tl.float64)
            value = levels.to(tl.float64) * scale + (-darkest).to(tl.float64) * scale
            table = tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)
    else:
        last = tl.sum(tl.where(levels == brightest, counts, 0), 0)
        step = (pixels - last).to(tl.int32) // 255
        if step > 0:
            below = tl.cumsum(counts, 0) - counts
            table = tl.minimum((step // 2 + below) // step, 255)
    return table


@triton.jit
def level_sum(counts):
    """The sum of the levels of the pixels that a histogram counts, int64."""
    return tl.sum(counts.to(tl.int64) * tl.arange(0, 256).to(tl.int64), 0)


@triton.jit
def store_table(table, channel, values):
    """Write the table of one channel, int32 [256], among those of a stage."""
    tl.store(table + channel * 256 + tl.arange(0, 256), values.to(tl.uint8))


@triton.jit
def count(
    STAGE: tl.constexpr,
    frame,
    first,
    channel,
    of_luma,
    start,
    stop,
    C: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """The histogram of pixels [start, stop), int32 [256], as the stage number STAGE of a pass finds them.

    It is that of one channel, or of luma if `of_luma`. `first` is the first stage of the pass.
    """
    counts = tl.zeros((256,), tl.int32)
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        valid = index < stop
        if is_plain(first.kind, SKIP, DENSE):
            levels = found(STAGE, frame, first, index, index, channel, of_luma, valid, C, True, BILINEAR)
        else:
            y, x = index // frame.images.width, index % frame.images.width
            levels = found(STAGE, frame, first, y, x, channel, of_luma, valid, C, False, BILINEAR)
        counts += tl.histogram(levels, 256, mask=valid)
    return counts


@triton.jit
def found(
    STAGE: tl.constexpr,
    frame,
    first,
    y,
    x,
    channel,
    of_luma,
    valid,
    C: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
):
    """The levels that the stage number STAGE of a pass finds, int32, before it changes them."""
    pixels: tl.constexpr = read if STAGE == 0 else after_first
    if of_luma:
        levels = luma(pixels, frame, first, y, x, valid, PLAIN, BILINEAR)
    else:
        levels = pixels(frame, first, y, x, channel, valid, C, PLAIN, BILINEAR)
    return levels


@triton.jit
def make_tables(
    STAGE: tl.constexpr,
    frame,
    first,
    stage,
    C: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write the tables of a stage that needs statistics: one program, the whole image."""
    area = frame.images.height * frame.images.width
    if needs_statistics(stage.kind):
        if stage.kind == CONTRAST:
            counted: tl.constexpr = 1 if C == 3 else C
            total = tl.zeros((), tl.int64)
            for channel in range(counted):
                counts = count(STAGE, frame, first, channel, C == 3, 0, area, C, DENSE, BILINEAR, BLOCK, TILES)
                total += level_sum(counts)
            values = contrast_table(total, tl.cast(area, tl.int64) * counted, stage.weight)
            for channel in range(C):
                store_table(stage.table, channel, values)
        else:
            for channel in range(C):
                counts = count(STAGE, frame, first, channel, False, 0, area, C, DENSE, BILINEAR, BLOCK, TILES)
                store_table(stage.table, channel, spread_table(stage.kind, counts, area))
        tl.debug_barrier()  # other threads read the table than wrote it
