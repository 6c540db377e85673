"""The kernels: `draw`, `prepare`, `histogram`, `look_up_tables`, `pixels`, and `small`, the last three in one.

`fasteraa_transforms.backends.cuda.launch` says which of them a plan takes.
"""

import triton
import triton.language as tl

from fasteraa_transforms.backends.cuda.frame import Frame, Output, first_pixel
from fasteraa_transforms.backends.cuda.geometry import COEFFICIENTS, cutout_box, in_fixed_point, matrix_of, store_all
from fasteraa_transforms.backends.cuda.stage import (
    AFFINE,
    BRIGHTNESS,
    COLOR,
    CONTRAST,
    CUTOUT,
    NUMBERS,
    SAMPLE_PAIRING,
    SHARPNESS,
    SKIP,
    SOLARIZE,
    after,
    is_plain,
    load_stage,
    load_weight,
    needs_statistics,
)
from fasteraa_transforms.backends.cuda.statistics import (
    contrast_table,
    count,
    level_sum,
    level_table,
    make_tables,
    spread_table,
    store_table,
)

# Kernels make a `Frame` and an `Output` before their first branch: after one, Triton 3.6 has forgotten the strides of 1
# in arguments that are tuples.

# Numbers and pointers that change from batch to batch: a kernel is not compiled anew for the last, shorter one, nor for
# a plan that begins at another address. The pointers and sizes of images are worth it.
_ANY = {
    "do_not_specialize": ["begin", "batch", "base", "stage", "chunks"],
    "do_not_specialize_on_alignment": [
        *("operation", "parameter", "parameters", "applied", "centre", "partner", "sub_policy", "uniform"),
    ],
}


def _kernel(function):
    """Compile a kernel, with those of its arguments unspecialized that `_ANY` names."""
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
    kinds,  # int32 [operations]
    coefficients,  # float64 [operations, COEFFICIENTS]
    operations,
    operation,  # int64 [B, K]
    parameter,  # float64 [B, K]
    applied,  # uint8 [B, K]
    centre,  # float64 [B, K, 2]
    partner,  # int64 [B, K]
    rows,  # `Rows`, written
    stages,
    begin,  # images of the whole batch before the first
    batch,  # images in the whole batch
    height,
    width,
    C: tl.constexpr,
    CLEAR: tl.constexpr,
):
    """Records, matrices, and the tables that need no statistics; clears histograms if CLEAR.

    A program takes one stage of one image.
    """
    row = tl.program_id(0).to(tl.int64)
    value = tl.load(parameter + row)
    image = begin + row // stages
    other = tl.minimum(tl.maximum(tl.load(partner + row), 0), batch - 1)  # never outside of the batch
    code = tl.load(operation + row)
    exists = (code >= 0) & (code < operations)
    kind = tl.load(kinds + tl.where(exists, code, 0))
    acts = exists & (tl.load(applied + row) != 0)
    if kind == COLOR:
        acts &= C == 3
    elif kind == SHARPNESS:
        acts &= (height > 2) & (width > 2)
    elif kind == SAMPLE_PAIRING:
        acts &= other != image
    kind = tl.where(acts, kind, SKIP)

    record = rows.records + row * NUMBERS
    tl.store(record, kind)
    tl.store(record + 7, value.to(tl.float32).to(tl.int32, bitcast=True))
    if kind == AFFINE:
        matrix = matrix_of(coefficients + code * COEFFICIENTS, value, height, width)
        store_all(rows.matrices + row * 6, matrix)
        store_all(record + 1, in_fixed_point(matrix))
    elif kind == CUTOUT:
        store_all(record + 1, cutout_box(value, centre + 2 * row, height, width))
    elif kind == SAMPLE_PAIRING:
        tl.store(record + 1, other.to(tl.int32))
    elif (kind >= SOLARIZE) & (kind <= BRIGHTNESS):
        levels = level_table(kind, value)
        for channel in range(C):
            store_table(rows.tables + row * (C * 256), channel, levels)
    if CLEAR:
        if needs_statistics(kind):
            for channel in range(C):
                counts = rows.histograms + (row * C + channel) * 256 + tl.arange(0, 256)
                tl.store(counts, tl.zeros((256,), tl.int32))


@_kernel
def histogram(
    images,
    rows,
    stages,
    base,
    chunks,
    C: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    STAGE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """Add up the histograms that stage `base + STAGE` needs: of luma for contrast on RGB, else of each channel.

    A program takes one of `chunks` chunks of one channel. Arguments as in `pixels`.
    """
    program = tl.program_id(0)
    chunk = program % chunks
    channel = (program // chunks) % C
    image = (program // chunks // C).to(tl.int64)
    frame = Frame(first_pixel(images.before, image), images)
    row = image * stages + base
    kind = tl.load(rows.records + (row + STAGE) * NUMBERS)
    if not needs_statistics(kind):
        return
    of_luma = (C == 3) & (kind == CONTRAST)
    if of_luma & (channel > 0):
        return
    first = load_stage(rows, row, C)
    start = chunk * (BLOCK * TILES)
    stop = tl.minimum(start + BLOCK * TILES, frame.images.height * frame.images.width)
    counts = count(STAGE, frame, first, channel, of_luma, start, stop, C, DENSE, BILINEAR, BLOCK, TILES)
    total = rows.histograms + ((row + STAGE) * C + channel) * 256
    tl.atomic_add(total + tl.arange(0, 256), counts, mask=counts > 0, sem="relaxed")


@_kernel
def look_up_tables(rows, stages, stage, pixels_of_channel, C: tl.constexpr):
    """The tables of one stage out of its histograms, one image a program."""
    row = tl.program_id(0).to(tl.int64) * stages + stage
    record = rows.records + row * NUMBERS
    kind = tl.load(record)
    if not needs_statistics(kind):
        return
    counts = rows.histograms + row * (C * 256) + tl.arange(0, 256)
    table = rows.tables + row * (C * 256)
    if kind == CONTRAST:
        counted: tl.constexpr = 1 if C == 3 else C
        total = tl.zeros((), tl.int64)
        for channel in range(counted):
            total += level_sum(tl.load(counts + channel * 256))
        levels = contrast_table(total, tl.cast(pixels_of_channel, tl.int64) * counted, load_weight(record))
        for channel in range(C):
            store_table(table, channel, levels)
    else:
        for channel in range(C):
            store_table(table, channel, spread_table(kind, tl.load(counts + channel * 256), pixels_of_channel))


@triton.jit
def _write(
    frame,
    output,
    first,
    second,
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
    target, width = output.target, frame.images.width
    for tile in range(TILES):
        index = start + tile * BLOCK + tl.arange(0, BLOCK)
        valid = index < stop
        y, x = index, index
        if not PLAIN:
            y, x = index // width, index % width
        for channel in range(C):
            value = after(STAGES, frame, first, second, y, x, channel, valid, C, PLAIN, BILINEAR)
            plane = output.image + tl.cast(channel, tl.int64) * target.channel_stride
            if EPILOGUE:
                value = tl.load(target.epilogue + (channel * 256 + value), mask=valid, other=0.0)
            place = plane + index.to(tl.int64) * target.pixel_stride
            tl.store(place, value.to(output.image.dtype.element_ty), mask=valid)


@_kernel
def pixels(
    images,
    rows,
    target,
    stages,
    base,
    chunks,
    C: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    STAGES: tl.constexpr,
    PLAIN: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """One pass, the stages `base` to `base + STAGES - 1`, over one of `chunks` chunks of an image a program.

    It makes the images that are plain, or those that are not, and leaves the rest to another launch: what the one sort
    needs takes many registers, and their lack would slow down the other.

    Args:
        images: `Images`.
        rows: `Rows`, as `prepare` and `look_up_tables` wrote them.
        target: `Target`, written to.
        stages: of the plan.
        base: the first stage of the pass.
        chunks: pieces of an image, of BLOCK times TILES pixels each.
        C: channels.
        DENSE: whether the rows of a plane follow each other without a gap.
        BILINEAR: whether affine maps interpolate.
        STAGES: of the pass, 1 or 2.
        PLAIN: which of the two sorts of images.
        EPILOGUE: whether the target has an epilogue.
        BLOCK: pixels at a time.
        TILES: how often.
    """
    image = (tl.program_id(0) // chunks).to(tl.int64)
    frame = Frame(first_pixel(images.before, image), images)
    output = Output(first_pixel(target, image), target)
    row = image * stages + base
    last = row + STAGES - 1
    if is_plain(tl.load(rows.records + row * NUMBERS), tl.load(rows.records + last * NUMBERS), DENSE) != PLAIN:
        return
    start = (tl.program_id(0) % chunks) * (BLOCK * TILES)
    stop = tl.minimum(start + BLOCK * TILES, frame.images.height * frame.images.width)
    first, second = load_stage(rows, row, C), load_stage(rows, last, C)
    _write(frame, output, first, second, start, stop, C, STAGES, PLAIN, BILINEAR, EPILOGUE, BLOCK, TILES)


@_kernel
def small(
    images,
    rows,
    target,
    stages,
    base,
    C: tl.constexpr,
    DENSE: tl.constexpr,
    BILINEAR: tl.constexpr,
    STAGES: tl.constexpr,
    EPILOGUE: tl.constexpr,
    BLOCK: tl.constexpr,
    TILES: tl.constexpr,
):
    """One pass with its statistics, for images that one program is done with soon. Arguments as in `pixels`."""
    image = tl.program_id(0).to(tl.int64)
    frame = Frame(first_pixel(images.before, image), images)
    output = Output(first_pixel(target, image), target)
    row = image * stages + base
    stop = frame.images.height * frame.images.width
    first, second = load_stage(rows, row, C), load_stage(rows, row + STAGES - 1, C)
    make_tables(0, frame, first, first, C, DENSE, BILINEAR, BLOCK, TILES)
    if STAGES == 2:
        make_tables(1, frame, first, second, C, DENSE, BILINEAR, BLOCK, TILES)
    if is_plain(first.kind, second.kind, DENSE):
        _write(frame, output, first, second, 0, stop, C, STAGES, True, BILINEAR, EPILOGUE, BLOCK, TILES)
    else:
        _write(frame, output, first, second, 0, stop, C, STAGES, False, BILINEAR, EPILOGUE, BLOCK, TILES)
