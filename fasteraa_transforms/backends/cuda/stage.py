"""`Stage`: what happens to one image in one stage, and what that does to a pixel.

Two stages of a plan make one pass. A pixel of the second stage computes the pixel of the first stage that it needs, so
nothing is written between the two. `after` is that recursion.

All arithmetic is that of `fasteraa_transforms.operations.uint8`, the twin of this module: integers, 16.16 fixed point,
and float32 or float64 where Pillow has them.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fasteraa_transforms.backends.cuda.arithmetic import ONE, blend
from fasteraa_transforms.backends.cuda.frame import fill_level, is_inside, luma, read, read_partner
from fasteraa_transforms.backends.cuda.geometry import Box, Matrix
from fasteraa_transforms.operations.pillow import CUTOUT_GREY, CUTOUT_RGB

# What a stage does. The order counts: see `has_table`, `needs_statistics` and `is_plain`.
SKIP = tl.constexpr(0)
SOLARIZE, POSTERIZE, INVERT, BRIGHTNESS = (tl.constexpr(kind) for kind in range(1, 5))
CONTRAST, AUTO_CONTRAST, EQUALIZE = (tl.constexpr(kind) for kind in range(5, 8))
COLOR, CUTOUT, SAMPLE_PAIRING = (tl.constexpr(kind) for kind in range(8, 11))
AFFINE, SHARPNESS = tl.constexpr(11), tl.constexpr(12)

NUMBERS = tl.constexpr(8)  # int32 of a record, see `Stage`

CUTOUT_RED, CUTOUT_GREEN, CUTOUT_BLUE = (tl.constexpr(level) for level in CUTOUT_RGB)
GREY = tl.constexpr(CUTOUT_GREY)


class Rows(NamedTuple):
    """What is known of every stage of every image of a launch: an argument of a kernel."""

    records: Any  # pointer to int32 [B, K, NUMBERS]: `kind`, `numbers` and the bits of `weight` of a `Stage`
    matrices: Any  # pointer to float64 [B, K, 6]: the `Matrix` of kind AFFINE
    tables: Any  # pointer to uint8 [B, K, C, 256]: what a level becomes, in kinds that have a table
    histograms: Any  # pointer to int32 [B, K, C, 256]: of large images, in kinds that need statistics


class Stage(NamedTuple):
    """What happens to one image in one stage.

    `numbers` are six int32. The kind says what they are: a `Matrix` in fixed point in AFFINE, a `Box` in CUTOUT, the
    index of the partner in SAMPLE_PAIRING. Those that are left over have no meaning, and any value.
    """

    kind: Any  # int32
    numbers: Any
    weight: Any  # float32: the parameter
    table: Any  # pointer to uint8 [C, 256]
    matrix: Any  # pointer to float64 [6]: a `Matrix`


@triton.jit
def has_table(kind):
    """Whether what becomes of a level does not depend on its matrix."""
    return (kind >= SOLARIZE) & (kind <= EQUALIZE)


@triton.jit
def needs_statistics(kind):
    """Whether the table follows from a histogram."""
    return (kind == CONTRAST) | (kind == AUTO_CONTRAST) | (kind == EQUALIZE)


@triton.jit
def is_plain(first, second, DENSE: tl.constexpr):
    """Whether two kinds need no pixel but the one at the same place, in planes without gaps."""
    return DENSE & (first <= SAMPLE_PAIRING) & (second <= SAMPLE_PAIRING)


@triton.jit
def load_weight(record):
    """`weight` of a `Stage`."""
    return tl.load(record + 7).to(tl.float32, bitcast=True)


@triton.jit
def load_stage(
    rows,
    row,  # int64: the number of the stage, counted through all images
    C: tl.constexpr,
):
    """A `Stage` of an image."""
    record = rows.records + row * NUMBERS
    return Stage(
        kind=tl.load(record),
        numbers=(
            tl.load(record + 1),
            tl.load(record + 2),
            tl.load(record + 3),
            tl.load(record + 4),
            tl.load(record + 5),
            tl.load(record + 6),
        ),
        weight=load_weight(record),
        table=rows.tables + row * (C * 256),
        matrix=rows.matrices + row * 6,
    )


@triton.jit
def matrix_or_identity(stage):
    """The `Matrix` of a stage in fixed point, which is the identity in kinds other than AFFINE.

    This is arithmetic without a branch, which the compiler moves out of the loop over channels.
    """
    moves = stage.kind == AFFINE
    return Matrix(
        a=tl.where(moves, stage.numbers[0], ONE),
        b=tl.where(moves, stage.numbers[1], 0),
        c=tl.where(moves, stage.numbers[2], 0),
        d=tl.where(moves, stage.numbers[3], 0),
        e=tl.where(moves, stage.numbers[4], ONE),
        f=tl.where(moves, stage.numbers[5], 0),
    )


@triton.jit
def mapped(pixels: tl.constexpr, frame, before, stage, y, x, channel, valid, C: tl.constexpr, BILINEAR: tl.constexpr):
    """Pixels at the place that the stage sends (y, x) to, the nearest one; arguments as in `after_stage`."""
    matrix = matrix_or_identity(stage)
    x_in = matrix.a * x + (matrix.b * y + matrix.c)
    y_in = matrix.d * x + (matrix.e * y + matrix.f)
    x_in, y_in = x_in >> 16, y_in >> 16
    inside = is_inside(frame, y_in, x_in)
    value = pixels(frame, before, y_in, x_in, channel, valid & inside, C, False, BILINEAR)
    return tl.where(inside, value, fill_level(frame, channel))


@triton.jit
def interpolated(
    pixels: tl.constexpr, frame, before, stage, y, x, channel, valid, C: tl.constexpr, BILINEAR: tl.constexpr
):
    """As `mapped`, out of the four nearest pixels; twin of ``_bilinear`` in `fasteraa_transforms.operations.uint8`."""
    height, width, matrix = frame.images.height, frame.images.width, stage.matrix
    x_out, y_out = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
    x_in = tl.load(matrix) * x_out + tl.load(matrix + 1) * y_out + tl.load(matrix + 2)
    y_in = tl.load(matrix + 3) * x_out + tl.load(matrix + 4) * y_out + tl.load(matrix + 5)
    inside = is_inside(frame, y_in, x_in)
    x_in, y_in = x_in - 0.5, y_in - 0.5
    left, top = tl.floor(x_in), tl.floor(y_in)
    dx, dy = x_in - left, y_in - top
    # Outside of the image they are anything; the clamp keeps them small before they become integers.
    left = tl.minimum(tl.maximum(left, -1.0), width - 1.0).to(tl.int32)
    top = tl.minimum(tl.maximum(top, -1.0), height - 1.0).to(tl.int32)
    x0, x1 = tl.maximum(left, 0), tl.minimum(left + 1, width - 1)
    upper = tl.zeros(x.shape, tl.float64)
    lower = tl.zeros(x.shape, tl.float64)
    for i in range(2):
        row = tl.minimum(tl.maximum(top + i, 0), height - 1)
        start = pixels(frame, before, row, x0, channel, valid & inside, C, False, BILINEAR).to(tl.float64)
        end = pixels(frame, before, row, x1, channel, valid & inside, C, False, BILINEAR).to(tl.float64)
        upper = lower
        lower = start + (end - start) * dx
    value = (upper + (lower - upper) * dy).to(tl.int32)
    return tl.where(inside, value, fill_level(frame, channel))


@triton.jit
def sharpened(
    pixels: tl.constexpr, frame, before, stage, value, y, x, channel, valid, C: tl.constexpr, BILINEAR: tl.constexpr
):
    """`value`, the pixels at (y, x), blended with the mean of their neighbours; those at the edge stay."""
    interior = (y > 0) & (y < frame.images.height - 1) & (x > 0) & (x < frame.images.width - 1)
    total = 4 * value
    for i in range(9):
        total += pixels(frame, before, y + (i // 3 - 1), x + (i % 3 - 1), channel, valid & interior, C, False, BILINEAR)
    # (1 1 1, 1 5 1, 1 1 1) / 13, rounded to nearest
    return tl.where(interior, blend((2 * total + 13) // 26, value, stage.weight), value)


@triton.jit
def cut_out(stage, value, y, x, channel, C: tl.constexpr):
    """`value`, the pixels at (y, x), with the colour of cutout in its box."""
    box = Box(left=stage.numbers[0], top=stage.numbers[1], right=stage.numbers[2], bottom=stage.numbers[3])
    colour = GREY
    if C == 3:
        colour = tl.where(channel == 0, CUTOUT_RED, tl.where(channel == 1, CUTOUT_GREEN, CUTOUT_BLUE))
    within = (x >= box.left) & (y >= box.top) & (x < box.right) & (y < box.bottom)
    return tl.where(within, colour, value)


@triton.jit
def row_and_column(frame, y, x, PLAIN: tl.constexpr):
    """The places (y, x) in any case; the division takes time, so only a stage that needs them asks."""
    if PLAIN:
        return x // frame.images.width, x % frame.images.width
    else:
        return y, x


@triton.jit
def after_stage(
    pixels: tl.constexpr,
    frame,
    before,
    stage,
    y,
    x,
    channel,
    valid,
    C: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
):
    """Pixels after one stage, int32.

    Args:
        pixels: the function that gives pixels before the stage: `read`, or `after_first` where this is the second one.
        frame: see `Frame`.
        before: the stage that `pixels` is given.
        stage: this one.
        y, x: int32 tiles, places of the output.
        channel: int32.
        valid: bool tile; elsewhere the value does not matter, and nothing is read.
        C: channels.
        PLAIN: whether the stages are known to be plain; then x counts the pixels of the plane and y is not used.
        BILINEAR: whether affine maps interpolate.
    """
    kind = stage.kind
    if PLAIN:
        value = pixels(frame, before, y, x, channel, valid, C, PLAIN, BILINEAR)
    else:
        value = mapped(pixels, frame, before, stage, y, x, channel, valid, C, BILINEAR)
        if BILINEAR:
            if kind == AFFINE:
                value = interpolated(pixels, frame, before, stage, y, x, channel, valid, C, BILINEAR)
        if kind == SHARPNESS:
            value = sharpened(pixels, frame, before, stage, value, y, x, channel, valid, C, BILINEAR)
    if has_table(kind):
        value = tl.load(stage.table + (channel * 256 + value), mask=valid, other=0).to(tl.int32)
    if C == 3:
        if kind == COLOR:
            value = blend(luma(pixels, frame, before, y, x, valid, PLAIN, BILINEAR), value, stage.weight)
    if kind == CUTOUT:
        row, column = row_and_column(frame, y, x, PLAIN)
        value = cut_out(stage, value, row, column, channel, C)
    if kind == SAMPLE_PAIRING:
        row, column = row_and_column(frame, y, x, PLAIN)
        partner = read_partner(frame, stage.numbers[0], row, column, channel, valid)
        value = blend(value, partner, stage.weight)
    return value


@triton.jit
def after_first(frame, first, y, x, channel, valid, C: tl.constexpr, PLAIN: tl.constexpr, BILINEAR: tl.constexpr):
    """Pixels after the first stage of a pass; arguments as in `after_stage`."""
    return after_stage(read, frame, first, first, y, x, channel, valid, C, PLAIN, BILINEAR)


@triton.jit
def after(
    STAGES: tl.constexpr,
    frame,
    first,
    second,
    y,
    x,
    channel,
    valid,
    C: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
):
    """Pixels after one or two stages of a pass; arguments as in `after_stage`."""
    if STAGES == 1:
        return after_first(frame, first, y, x, channel, valid, C, PLAIN, BILINEAR)
    else:
        return after_stage(after_first, frame, first, second, y, x, channel, valid, C, PLAIN, BILINEAR)
