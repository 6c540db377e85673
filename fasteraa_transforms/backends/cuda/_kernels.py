"""The kernels: `draw`, `prepare`, `histogram`, `tables`, `pixels`, and `small`, which is the last three in one.

Two stages of a plan make one pass. Pixels of the second stage ask the first for its value at the place they need, so
nothing is written between the two; `_value` is that recursion, and the only place that knows what an operation does to
a pixel. All arithmetic is that of ``_uint8``, the twin of this module: integers, 16.16 fixed point, and float32 or
float64 where Pillow has them. A product and the sum after it are rounded one after the other, as there, so launches
need ``enable_fp_fusion=False``.

Tensors are addressed in 64 bits. A record is int32 [8]: what happens to one image in one stage, as numbers that are
ready to use:

    0      kind, see below
    1..6   WARP: 16.16 fixed point, x = (r1 x + r2 y + r3) >> 16 and y = (r4 x + r5 y + r6) >> 16; the identity in
           other kinds but CUTOUT: left, top, right, bottom in r1..r4, and PAIRING: partner in r1
"""

import triton
import triton.language as tl

from fasteraa_transforms.operations import arithmetic as _arithmetic
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations.table import OPERATIONS

_NAMES = list(OPERATIONS)


def _code(name: str) -> tl.constexpr:
    """Index of an operation in a plan, as a constant of the kernels."""
    return tl.constexpr(_NAMES.index(name))


SHEAR_X, SHEAR_Y = _code("shear_x"), _code("shear_y")
TRANSLATE_X, TRANSLATE_Y = _code("translate_x"), _code("translate_y")
ROTATE, FLIP = _code("rotate"), _code("flip")
SOLARIZE, POSTERIZE, INVERT, BRIGHTNESS = (_code(n) for n in ("solarize", "posterize", "invert", "brightness"))
CONTRAST, AUTO_CONTRAST, EQUALIZE = _code("contrast"), _code("auto_contrast"), _code("equalize")
COLOR, SHARPNESS, CUTOUT, PAIRING = (_code(n) for n in ("color", "sharpness", "cutout", "sample_pairing"))
COUNT = tl.constexpr(len(_NAMES))

# Kinds of records. Those up to PLAIN need no pixel but the ones at the same place.
SKIP, TABLE, STATISTICS, TINT, PASTE, MIX = (tl.constexpr(i) for i in range(6))
LAST_PLAIN = tl.constexpr(5)
WARP, SMOOTH = tl.constexpr(6), tl.constexpr(7)

RECORD = tl.constexpr(8)
ONE = tl.constexpr(65536)  # 1.0 in 16.16 fixed point
RED, GREEN, BLUE = (tl.constexpr(weight) for weight in _arithmetic.LUMA)
CUT_RED, CUT_GREEN, CUT_BLUE = (tl.constexpr(value) for value in _pillow.CUTOUT_RGB)
CUT_GREY = tl.constexpr(_pillow.CUTOUT_GREY)


# --- arithmetic -------------------------------------------------------------------------------------------------------


@triton.jit
def _blend(start, end, weight):
    """Twin of ``_arithmetic.blend``: int32 in [0, 255] from int32, weight float32."""
    base = start.to(tl.float32)
    value = base + weight * (end.to(tl.float32) - base)
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)


@triton.jit
def _fixed(value):
    """Float64 to 16.16 fixed point, int32."""
    return tl.floor(value * 65536.0 + 0.5).to(tl.int64).to(tl.int32)


@triton.jit
def _round15(value):
    """Float64 rounded to 15 decimals, as Pillow rounds the sine and cosine of a rotation."""
    return tl.floor(value * 1e15 + 0.5) / 1e15


# --- pixels -----------------------------------------------------------------------------------------------------------


@triton.jit
def _raw(frame, below, y, x, channel, valid, C: tl.constexpr, PLAIN: tl.constexpr, BILINEAR: tl.constexpr):
    """Pixels of the input, int32, where valid, else 0. PLAIN: x counts the pixels of the plane and y is not used."""
    image = frame[0] + tl.cast(channel, tl.int64) * frame[2]
    if PLAIN:
        return tl.load(image + x.to(tl.int64) * frame[4], mask=valid, other=0).to(tl.int32)
    return tl.load(image + (y.to(tl.int64) * frame[3] + x.to(tl.int64) * frame[4]), mask=valid, other=0).to(tl.int32)


@triton.jit
def _luma(inner: tl.constexpr, frame, below, y, x, valid, PLAIN: tl.constexpr, BILINEAR: tl.constexpr):
    """Twin of ``_arithmetic._luma_band``: luma of RGB at (y, x)."""
    total = tl.full(x.shape, 0x8000, tl.int32)
    for i in range(3):
        weight = tl.where(i == 0, RED, tl.where(i == 1, GREEN, BLUE))
        total += weight * inner(frame, below, y, x, i, valid, 3, PLAIN, BILINEAR)
    return total >> 16


@triton.jit
def _bilinear(inner: tl.constexpr, frame, below, matrix, y, x, channel, valid, C: tl.constexpr):
    """Twin of ``_uint8._bilinear``: pixels at the place that the matrix, float64 [6] in memory, sends (y, x) to."""
    height, width = frame[5], frame[6]
    x_out, y_out = x.to(tl.float64) + 0.5, y.to(tl.float64) + 0.5
    x_in = tl.load(matrix) * x_out + tl.load(matrix + 1) * y_out + tl.load(matrix + 2)
    y_in = tl.load(matrix + 3) * x_out + tl.load(matrix + 4) * y_out + tl.load(matrix + 5)
    inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
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
        start = inner(frame, below, row, x0, channel, valid & inside, C, False, True).to(tl.float64)
        end = inner(frame, below, row, x1, channel, valid & inside, C, False, True).to(tl.float64)
        upper = lower
        lower = start + (end - start) * dx
    value = (upper + (lower - upper) * dy).to(tl.int32)
    return tl.where(inside, value, tl.load(frame[7] + channel).to(tl.int32))


@triton.jit
def _stage(
    inner: tl.constexpr,
    frame,
    below,
    stage,
    y,
    x,
    channel,
    valid,
    C: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
):
    """Pixels after one stage, int32; `inner` gives those before it.

    Args:
        inner: `_raw`, or `_first` where this is the second stage.
        frame: (pointer to the input image, pointer to the whole batch before stage 0, the input's strides of channel,
            row and column, height, width, pointer to fill [C], strides of image, channel, row and column of that
            batch).
        below: what `inner` takes for its own stage.
        stage: (kind, r1, r2, r3, r4, r5, r6, weight float32, pointer to the tables [C, 256], pointer to the matrix).
        y, x: int32 tiles, places of the output; PLAIN: x counts the pixels of the plane.
        channel: int32.
        valid: bool tile; elsewhere the value does not matter and nothing is read.
    """
    kind = stage[0]
    height, width = frame[5], frame[6]
    if PLAIN:
        value = inner(frame, below, y, x, channel, valid, C, PLAIN, BILINEAR)
    else:
        # The identity where the stage does not warp: arithmetic without a branch, which moves out of the channel loop.
        warps = kind == WARP
        x_in = tl.where(warps, stage[1], ONE) * x + (tl.where(warps, stage[2], 0) * y + tl.where(warps, stage[3], 0))
        y_in = tl.where(warps, stage[4], 0) * x + (tl.where(warps, stage[5], ONE) * y + tl.where(warps, stage[6], 0))
        x_in, y_in = x_in >> 16, y_in >> 16
        inside = (x_in >= 0) & (x_in < width) & (y_in >= 0) & (y_in < height)
        value = inner(frame, below, y_in, x_in, channel, valid & inside, C, PLAIN, BILINEAR)
        value = tl.where(inside, value, tl.load(frame[7] + channel).to(tl.int32))
        if BILINEAR:
            if warps:
                value = _bilinear(inner, frame, below, stage[9], y, x, channel, valid, C)
        if kind == SMOOTH:
            interior = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
            total = 4 * value
            for i in range(9):
                total += inner(
                    frame, below, y + (i // 3 - 1), x + (i % 3 - 1), channel, valid & interior, C, PLAIN, BILINEAR
                )
            # (1 1 1, 1 5 1, 1 1 1) / 13, rounded to nearest
            value = tl.where(interior, _blend((2 * total + 13) // 26, value, stage[7]), value)
    if (kind == TABLE) | (kind == STATISTICS):
        value = tl.load(stage[8] + (channel * 256 + value), mask=valid, other=0).to(tl.int32)
    if C == 3:
        if kind == TINT:
            value = _blend(_luma(inner, frame, below, y, x, valid, PLAIN, BILINEAR), value, stage[7])
    if kind == PASTE:
        row, column = y, x
        if PLAIN:
            row, column = x // width, x % width
        colour = CUT_GREY
        if C == 3:
            colour = tl.where(channel == 0, CUT_RED, tl.where(channel == 1, CUT_GREEN, CUT_BLUE))
        cut = (column >= stage[1]) & (row >= stage[2]) & (column < stage[3]) & (row < stage[4])
        value = tl.where(cut, colour, value)
    if kind == MIX:
        partner = frame[1] + stage[1].to(tl.int64) * frame[8] + tl.cast(channel, tl.int64) * frame[9]
        row, column = y, x
        if PLAIN:
            row, column = x // width, x % width
        place = row.to(tl.int64) * frame[10] + column.to(tl.int64) * frame[11]
        value = _blend(value, tl.load(partner + place, mask=valid, other=0).to(tl.int32), stage[7])
    return value


@triton.jit
def _first(frame, stage, y, x, channel, valid, C: tl.constexpr, PLAIN: tl.constexpr, BILINEAR: tl.constexpr):
    """Pixels after the first stage of the pass."""
    return _stage(_raw, frame, stage, stage, y, x, channel, valid, C, PLAIN, BILINEAR)


@triton.jit
def _value(
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
    """Pixels after the first 0, 1 or 2 stages of the pass."""
    if STAGES == 0:
        return _raw(frame, first, y, x, channel, valid, C, PLAIN, BILINEAR)
    elif STAGES == 1:
        return _first(frame, first, y, x, channel, valid, C, PLAIN, BILINEAR)
    else:
        return _stage(_first, frame, first, second, y, x, channel, valid, C, PLAIN, BILINEAR)


# --- statistics and tables --------------------------------------------------------------------------------------------


@triton.jit
def _count(
    STAGE: tl.constexpr,
    frame,
    first,
    channel,
    luma,
    start,
    stop,
    C: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """Histogram, int32 [256], of pixels [start, stop) of one channel, or of their luma, as stage STAGE finds them."""
    counts = tl.zeros((256,), tl.int32)
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        valid = index < stop
        if _is_plain(first[0], SKIP, DENSE):
            value = _counted(STAGE, frame, first, index, index, channel, luma, valid, C, True, BILINEAR)
        else:
            y, x = index // frame[6], index % frame[6]
            value = _counted(STAGE, frame, first, y, x, channel, luma, valid, C, False, BILINEAR)
        counts += tl.histogram(value, 256, mask=valid)
    return counts


@triton.jit
def _counted(
    STAGE: tl.constexpr,
    frame,
    first,
    y,
    x,
    channel,
    luma,
    valid,
    C: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
):
    inner: tl.constexpr = _raw if STAGE == 0 else _first
    if luma:
        value = _luma(inner, frame, first, y, x, valid, PLAIN, BILINEAR)
    else:
        value = inner(frame, first, y, x, channel, valid, C, PLAIN, BILINEAR)
    return value


@triton.jit
def _is_plain(first, second, DENSE: tl.constexpr):
    """Whether two kinds need no pixel but the one at the same place, in planes without gaps."""
    return DENSE & (first <= LAST_PLAIN) & (second <= LAST_PLAIN)


@triton.jit
def _contrast_table(total, pixels, weight):
    """Twin of ``_uint8.contrast``: levels int32 [256]; `total` int64, the sum over so many pixels."""
    mean = (total.to(tl.float64) / pixels.to(tl.float64) + 0.5).to(tl.int32)
    return _blend(tl.full((256,), 0, tl.int32) + mean, tl.arange(0, 256), weight)


@triton.jit
def _spread_table(operation, counts, pixels):
    """Twin of ``_uint8.auto_contrast`` and ``equalize``: levels int32 [256] from the histogram of one channel."""
    levels = tl.arange(0, 256)
    darkest = tl.min(tl.where(counts > 0, levels, 255), 0)
    brightest = tl.max(tl.where(counts > 0, levels, 0), 0)
    table = levels
    if operation == AUTO_CONTRAST:
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
def _level_sum(counts):
    """Sum of the pixels behind a histogram, int64."""
    return tl.sum(counts.to(tl.int64) * tl.arange(0, 256).to(tl.int64), 0)


@triton.jit
def _store_table(table, channel, values):
    tl.store(table + channel * 256 + tl.arange(0, 256), values.to(tl.uint8))


# --- what the kernels take --------------------------------------------------------------------------------------------


@triton.jit
def _load_stage(records, parameters, tables, matrices, image, stage, stages, C: tl.constexpr):
    """The stage of an image, as `_stage` takes it; `image` int64."""
    row = image * stages + stage
    r = records + row * RECORD
    return (
        tl.load(r),
        tl.load(r + 1),
        tl.load(r + 2),
        tl.load(r + 3),
        tl.load(r + 4),
        tl.load(r + 5),
        tl.load(r + 6),
        tl.load(parameters + row).to(tl.float32),
        tables + row * (C * 256),
        matrices + row * 6,
    )


# --- kernels ----------------------------------------------------------------------------------------------------------

# Numbers and pointers that change from batch to batch: a kernel is not compiled anew for the last, shorter one, nor for
# a plan that begins at another address. Those of the images are worth it.
_ANY = {
    "do_not_specialize": ["begin", "batch", "base", "stage", "chunks"],
    "do_not_specialize_on_alignment": [
        *("operation", "parameter", "parameters", "applied", "centre", "partner", "sub_policy", "uniform"),
        *("records", "matrices", "tables", "histograms"),
    ],
}


def _kernel(function):
    """Compile a kernel, with what it has of `_ANY` unspecialized."""
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    return triton.jit(**{key: [name for name in names if name in value] for key, value in _ANY.items()})(function)


@_kernel
def draw(
    uniform,  # float64 [B, 1 + 6 K]
    cumulative,  # float64 [L, K, N]
    candidates,  # int64 [L, K, N]
    probability,  # float64 [L, K, N]
    parameters,  # float64 [2, L, K, N]
    operation,  # int64 [B, K], written, as those below
    parameter,  # float64 [B, K]
    applied,  # uint8 [B, K]
    centre,  # float64 [B, K, 2]
    partner,  # int64 [B, K]
    sub_policy,  # int64 [B]
    batch,
    sub_policies,
    stages: tl.constexpr,
    widest: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A plan out of random numbers; twin of the part of ``Policy.sample`` after ``torch.rand``."""
    image = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = image < batch
    numbers = uniform + image * (1 + 6 * stages)
    drawn = (tl.load(numbers, mask=valid, other=0.0) * sub_policies).to(tl.int64)
    drawn = tl.minimum(drawn, sub_policies - 1)
    tl.store(sub_policy + image, drawn, mask=valid)
    for stage in range(stages):
        u = numbers + (1 + 6 * stage)
        choice = tl.load(u, mask=valid, other=0.0)
        place = (drawn * stages + stage) * widest
        chosen = tl.zeros((BLOCK,), tl.int64)
        for i in range(widest):
            chosen += (choice >= tl.load(cumulative + place + i, mask=valid, other=0.0)).to(tl.int64)
        place += chosen
        negative = tl.load(u + 2, mask=valid, other=0.0) < 0.5
        signed = place + tl.where(negative, sub_policies * stages * widest, 0)
        gate = tl.load(u + 1, mask=valid, other=0.0) < tl.load(probability + place, mask=valid, other=0.0)
        others = (tl.load(u + 5, mask=valid, other=0.0) * (batch - 1)).to(tl.int64)
        others = tl.minimum(tl.maximum(others, 0), tl.maximum(batch - 2, 0))
        out = image * stages + stage
        tl.store(operation + out, tl.load(candidates + place, mask=valid, other=0), mask=valid)
        tl.store(parameter + out, tl.load(parameters + signed, mask=valid, other=0.0), mask=valid)
        tl.store(applied + out, gate.to(tl.uint8), mask=valid)
        tl.store(centre + 2 * out, tl.load(u + 3, mask=valid, other=0.0), mask=valid)
        tl.store(centre + 2 * out + 1, tl.load(u + 4, mask=valid, other=0.0), mask=valid)
        tl.store(partner + out, (image + 1 + others) % batch, mask=valid)


@_kernel
def prepare(
    operation,  # int64 [B, K]
    parameter,  # float64 [B, K]
    applied,  # uint8 [B, K]
    centre,  # float64 [B, K, 2]
    partner,  # int64 [B, K]
    records,  # int32 [B, K, 8], written, as those below
    matrices,  # float64 [B, K, 6]
    tables,  # uint8 [B, K, C, 256]
    histograms,  # int32 [B, K, C, 256]
    begin,  # images of the whole batch before the first
    batch,  # images in the whole batch
    height,
    width,
    stages,
    C: tl.constexpr,
    CLEAR: tl.constexpr,
):
    """Records, matrices and the tables that need no statistics, one image and stage a program; clears histograms."""
    row = tl.program_id(0).to(tl.int64)
    code = tl.load(operation + row)
    value = tl.load(parameter + row)
    zero = value * 0.0
    fraction_x, fraction_y = tl.load(centre + 2 * row), tl.load(centre + 2 * row + 1)
    image = begin + row // stages
    other = tl.minimum(tl.maximum(tl.load(partner + row), 0), batch - 1)  # never outside of the batch

    # The matrix (a, b, c, d, e, f) of ``_geometry``.
    a, b, c, d, e, f = zero + 1.0, zero, zero, zero, zero + 1.0, zero
    kind = SKIP
    if code == SHEAR_X:
        kind, b = WARP, value
    elif code == SHEAR_Y:
        kind, d = WARP, value
    elif code == TRANSLATE_X:
        kind, c = WARP, (value * width).to(tl.int64).to(tl.float64)
    elif code == TRANSLATE_Y:
        kind, f = WARP, (value * height).to(tl.int64).to(tl.float64)
    elif code == FLIP:
        kind, a, c = WARP, zero - 1.0, zero + width
    elif code == ROTATE:
        kind = WARP
        angle = (value - 360.0 * tl.floor(value / 360.0)) * 0.017453292519943295
        cos, sin = _round15(tl.cos(angle)), -_round15(tl.sin(angle))
        x, y = (zero + width) / 2, (zero + height) / 2
        a, b, c = cos, sin, cos * -x + sin * -y + x
        d, e, f = -sin, cos, -sin * -x + cos * -y + y
    elif (code == CONTRAST) | (code == AUTO_CONTRAST) | (code == EQUALIZE):
        kind = STATISTICS
    elif (code == SOLARIZE) | (code == POSTERIZE) | (code == INVERT) | (code == BRIGHTNESS):
        kind = TABLE
    elif code == COLOR:
        if C == 3:
            kind = TINT
    elif code == SHARPNESS:
        if (height > 2) & (width > 2):
            kind = SMOOTH
    elif code == CUTOUT:
        kind = PASTE
    elif code == PAIRING:
        if other != image:
            kind = MIX
    if tl.load(applied + row) == 0:
        kind = SKIP

    r1, r2, r3 = _fixed(a), _fixed(b), _fixed(c + a * 0.5 + b * 0.5)
    r4, r5, r6 = _fixed(d), _fixed(e), _fixed(f + d * 0.5 + e * 0.5)
    if kind == STATISTICS:
        r1 = code.to(tl.int32)
    elif kind == MIX:
        r1 = other.to(tl.int32)
    elif kind == PASTE:
        side = (value * width + 0.5).to(tl.int64)
        left = (fraction_x * width).to(tl.int64) - side // 2
        top = (fraction_y * height).to(tl.int64) - side // 2
        r1, r2 = left.to(tl.int32), top.to(tl.int32)
        r3, r4 = (left + side).to(tl.int32), (top + side).to(tl.int32)
    record = records + row * RECORD
    tl.store(record, kind)
    tl.store(record + 1, r1)
    tl.store(record + 2, r2)
    tl.store(record + 3, r3)
    tl.store(record + 4, r4)
    tl.store(record + 5, r5)
    tl.store(record + 6, r6)
    matrix = matrices + row * 6
    tl.store(matrix, a)
    tl.store(matrix + 1, b)
    tl.store(matrix + 2, c)
    tl.store(matrix + 3, d)
    tl.store(matrix + 4, e)
    tl.store(matrix + 5, f)

    levels = tl.arange(0, 256)
    if kind == TABLE:
        table = levels
        if code == SOLARIZE:
            table = tl.where(levels.to(tl.float64) >= value, 255 - levels, levels)
        elif code == POSTERIZE:
            bits = tl.minimum(tl.maximum(value.to(tl.int32), 0), 8)
            table = levels & (256 - (1 << (8 - bits)))
        elif code == INVERT:
            table = 255 - levels
        else:
            table = _blend(levels * 0, levels, value.to(tl.float32))
        for channel in range(C):
            _store_table(tables + row * (C * 256), channel, table)
    if CLEAR:
        if kind == STATISTICS:
            for channel in range(C):
                tl.store(histograms + row * (C * 256) + channel * 256 + levels, levels * 0)


@_kernel
def histogram(
    images,
    originals,
    fill,
    parameters,
    records,
    matrices,
    tables,
    histograms,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    original_image_stride,
    original_channel_stride,
    original_row_stride,
    original_column_stride,
    height,
    width,
    stages,
    base,
    chunks,
    C: tl.constexpr,
    STAGE: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """Adds up the histograms that stage `base + STAGE` needs: of luma for contrast on RGB, else of each channel.

    A program takes one of `chunks` chunks of one channel. Arguments as in `pixels`; histograms int32 [B, K, C, 256].
    """
    program = tl.program_id(0)
    chunk = program % chunks
    channel = (program // chunks) % C
    image = (program // chunks // C).to(tl.int64)
    row = image * stages + base + STAGE
    if tl.load(records + row * RECORD) != STATISTICS:
        return
    luma = (C == 3) & (tl.load(records + row * RECORD + 1) == CONTRAST)
    if luma & (channel > 0):
        return
    frame = (
        images + image * image_stride,
        originals,
        channel_stride,
        row_stride,
        column_stride,
        height,
        width,
        fill,
        original_image_stride,
        original_channel_stride,
        original_row_stride,
        original_column_stride,
    )
    first = _load_stage(records, parameters, tables, matrices, image, base, stages, C)
    start = chunk * (BLOCK * TILES)
    stop = tl.minimum(start + BLOCK * TILES, height * width)
    counts = _count(STAGE, frame, first, channel, luma, start, stop, C, DENSE, BILINEAR, BLOCK, TILES)
    levels = tl.arange(0, 256)
    tl.atomic_add(histograms + (row * C + channel) * 256 + levels, counts, mask=counts > 0, sem="relaxed")


@_kernel
def look_up_tables(histograms, parameters, records, tables, pixels_of_channel, stages, stage, C: tl.constexpr):
    """The tables of one stage out of its histograms, one image a program."""
    row = tl.program_id(0).to(tl.int64) * stages + stage
    if tl.load(records + row * RECORD) != STATISTICS:
        return
    operation = tl.load(records + row * RECORD + 1)
    counts = histograms + row * (C * 256) + tl.arange(0, 256)
    table = tables + row * (C * 256)
    if operation == CONTRAST:
        counted: tl.constexpr = 1 if C == 3 else C
        total = tl.zeros((), tl.int64)
        for channel in range(counted):
            total += _level_sum(tl.load(counts + channel * 256))
        values = _contrast_table(
            total, tl.cast(pixels_of_channel, tl.int64) * counted, tl.load(parameters + row).to(tl.float32)
        )
        for channel in range(C):
            _store_table(table, channel, values)
    else:
        for channel in range(C):
            _store_table(table, channel, _spread_table(operation, tl.load(counts + channel * 256), pixels_of_channel))


@triton.jit
def _write(
    frame,
    first,
    second,
    out,
    out_channel_stride,
    out_pixel_stride,
    epilogue,
    start,
    stop,
    C: tl.constexpr,
    STAGES: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """Write pixels [start, stop) of every channel of one image."""
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        valid = index < stop
        y, x = index, index
        if not PLAIN:
            y, x = index // frame[6], index % frame[6]
        for channel in range(C):
            value = _value(STAGES, frame, first, second, y, x, channel, valid, C, PLAIN, BILINEAR)
            target = out + tl.cast(channel, tl.int64) * out_channel_stride + index.to(tl.int64) * out_pixel_stride
            if EPILOGUE:
                value = tl.load(epilogue + (channel * 256 + value), mask=valid, other=0.0)
            tl.store(target, value.to(out.dtype.element_ty), mask=valid)


@_kernel
def pixels(
    images,
    originals,
    fill,
    parameters,
    records,
    matrices,
    tables,
    out,
    epilogue,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    original_image_stride,
    original_channel_stride,
    original_row_stride,
    original_column_stride,
    height,
    width,
    stages,
    base,
    out_image_stride,
    out_channel_stride,
    out_pixel_stride,
    chunks,
    C: tl.constexpr,
    STAGES: tl.constexpr,
    DENSE: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """One pass, the stages `base` to `base + STAGES - 1`, over one of `chunks` chunks of an image a program.

    It leaves out the images that are plain, or that are not: what either sort needs takes many registers, or would be
    slowed down by their lack.

    Args:
        images: uint8 [B, C, H, W], the input of the pass, with the strides given.
        originals: uint8, the whole batch as it came in, which sample_pairing takes its partners from.
        fill: uint8 [C].
        parameters: float64 [B, K].
        records, matrices, tables: as `prepare` and `look_up_tables` wrote them.
        out: [B, C, H, W], written; uint8, or of the type of the epilogue.
        epilogue: [C, 256], what is written for a level if EPILOGUE.
        C, DENSE: channels; whether the rows of a plane follow each other without a gap.
    """
    image = (tl.program_id(0) // chunks).to(tl.int64)
    row = image * stages + base
    if _is_plain(tl.load(records + row * RECORD), tl.load(records + (row + STAGES - 1) * RECORD), DENSE) != PLAIN:
        return
    start = (tl.program_id(0) % chunks) * (BLOCK * TILES)
    stop = tl.minimum(start + BLOCK * TILES, height * width)
    frame = (
        images + image * image_stride,
        originals,
        channel_stride,
        row_stride,
        column_stride,
        height,
        width,
        fill,
        original_image_stride,
        original_channel_stride,
        original_row_stride,
        original_column_stride,
    )
    first = _load_stage(records, parameters, tables, matrices, image, base, stages, C)
    second = _load_stage(records, parameters, tables, matrices, image, base + STAGES - 1, stages, C)
    out += image * out_image_stride
    _write(
        frame,
        first,
        second,
        out,
        out_channel_stride,
        out_pixel_stride,
        epilogue,
        start,
        stop,
        C,
        STAGES,
        PLAIN,
        BILINEAR,
        EPILOGUE,
        BLOCK,
        TILES,
    )


@triton.jit
def _table_of_stage(
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
    """The tables of a stage that needs statistics, by one program for the whole image."""
    area = frame[5] * frame[6]
    if stage[0] == STATISTICS:
        if stage[1] == CONTRAST:
            counted: tl.constexpr = 1 if C == 3 else C
            total = tl.zeros((), tl.int64)
            for channel in range(counted):
                total += _level_sum(
                    _count(STAGE, frame, first, channel, C == 3, 0, area, C, DENSE, BILINEAR, BLOCK, TILES)
                )
            values = _contrast_table(total, tl.cast(area, tl.int64) * counted, stage[7])
            for channel in range(C):
                _store_table(stage[8], channel, values)
        else:
            for channel in range(C):
                counts = _count(STAGE, frame, first, channel, False, 0, area, C, DENSE, BILINEAR, BLOCK, TILES)
                _store_table(stage[8], channel, _spread_table(stage[1], counts, area))
        tl.debug_barrier()  # the table is read by other threads than wrote it


@_kernel
def small(
    images,
    originals,
    fill,
    parameters,
    records,
    matrices,
    tables,
    out,
    epilogue,
    image_stride,
    channel_stride,
    row_stride,
    column_stride,
    original_image_stride,
    original_channel_stride,
    original_row_stride,
    original_column_stride,
    height,
    width,
    stages,
    base,
    out_image_stride,
    out_channel_stride,
    out_pixel_stride,
    C: tl.constexpr,
    STAGES: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """One pass with its statistics, one image a program; for images that a program is done with soon. As `pixels`."""
    image = tl.program_id(0).to(tl.int64)
    frame = (
        images + image * image_stride,
        originals,
        channel_stride,
        row_stride,
        column_stride,
        height,
        width,
        fill,
        original_image_stride,
        original_channel_stride,
        original_row_stride,
        original_column_stride,
    )
    first = _load_stage(records, parameters, tables, matrices, image, base, stages, C)
    second = _load_stage(records, parameters, tables, matrices, image, base + STAGES - 1, stages, C)
    _table_of_stage(0, frame, first, first, C, DENSE, BILINEAR, BLOCK, TILES)
    if STAGES == 2:
        _table_of_stage(1, frame, first, second, C, DENSE, BILINEAR, BLOCK, TILES)
    out += image * out_image_stride
    if _is_plain(first[0], second[0], DENSE):
        _write(
            frame,
            first,
            second,
            out,
            out_channel_stride,
            out_pixel_stride,
            epilogue,
            0,
            height * width,
            C,
            STAGES,
            True,
            BILINEAR,
            EPILOGUE,
            BLOCK,
            TILES,
        )
    else:
        _write(
            frame,
            first,
            second,
            out,
            out_channel_stride,
            out_pixel_stride,
            epilogue,
            0,
            height * width,
            C,
            STAGES,
            False,
            BILINEAR,
            EPILOGUE,
            BLOCK,
            TILES,
        )
