"""`Frame`: the images that a program reads, and how it reads a pixel of them.

Tensors are addressed in 64 bits, so a batch may have more than 2**31 values.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fasteraa_transforms.backends.cuda.arithmetic import BLUE, GREEN, HALF, RED


class Planes(NamedTuple):
    """Images uint8 [B, C, H, W] of any strides."""

    pixels: Any  # pointer to the first pixel
    image_stride: Any
    channel_stride: Any
    row_stride: Any
    column_stride: Any


class Images(NamedTuple):
    """The images that a launch reads: an argument of a kernel."""

    before: Planes  # the input of the pass
    originals: Planes  # the whole batch before the first stage, out of which sample_pairing takes partners
    fill: Any  # pointer to uint8 [C]
    height: Any
    width: Any


class Target(NamedTuple):
    """Where a launch writes to: an argument of a kernel."""

    pixels: Any  # pointer to [B, C, H, W]: uint8, or of the type of the epilogue
    epilogue: Any  # pointer to [C, 256]: what is written for a level; None if that is the level
    image_stride: Any
    channel_stride: Any
    pixel_stride: Any


class Frame(NamedTuple):
    """What one program reads."""

    image: Any  # pointer to the first pixel of its image
    images: Images


class Output(NamedTuple):
    """What one program writes to."""

    image: Any  # pointer to the first pixel of its image
    target: Target


@triton.jit
def first_pixel(
    images,  # `Planes` or `Target`
    image,  # int64
):
    """Where an image begins."""
    return images.pixels + image * images.image_stride


@triton.jit
def read(
    frame,
    stage,  # not used: every function that gives pixels takes the stage that they come out of
    y,  # int32 tile
    x,  # int32 tile
    channel,  # int32
    valid,  # bool tile
    C: tl.constexpr,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
):
    """Pixels before the pass, int32; 0 where not valid, and nothing is read there.

    PLAIN: x counts the pixels of the plane, and y is not used.
    """
    before = frame.images.before
    plane = frame.image + tl.cast(channel, tl.int64) * before.channel_stride
    if PLAIN:
        place = x.to(tl.int64) * before.column_stride
    else:
        place = y.to(tl.int64) * before.row_stride + x.to(tl.int64) * before.column_stride
    return tl.load(plane + place, mask=valid, other=0).to(tl.int32)


@triton.jit
def read_partner(frame, partner, y, x, channel, valid):
    """Pixels of the original image with the index `partner`, as `read`."""
    originals = frame.images.originals
    plane = (
        originals.pixels
        + partner.to(tl.int64) * originals.image_stride
        + tl.cast(channel, tl.int64) * originals.channel_stride
    )
    place = y.to(tl.int64) * originals.row_stride + x.to(tl.int64) * originals.column_stride
    return tl.load(plane + place, mask=valid, other=0).to(tl.int32)


@triton.jit
def is_inside(frame, y, x):
    """Whether the places lie within the image; the places may be whole numbers or not."""
    return (x >= 0) & (x < frame.images.width) & (y >= 0) & (y < frame.images.height)


@triton.jit
def fill_level(frame, channel):
    """What stands outside of the image, int32."""
    return tl.load(frame.images.fill + channel).to(tl.int32)


@triton.jit
def luma(
    pixels: tl.constexpr,  # `read`, or another function with its arguments
    frame,
    stage,
    y,
    x,
    valid,
    PLAIN: tl.constexpr,
    BILINEAR: tl.constexpr,
):
    """Luma of RGB, int32; twin of ``_luma_band`` in `fasteraa_transforms.operations.arithmetic`."""
    total = tl.full(x.shape, HALF, tl.int32)
    for i in range(3):
        weight = tl.where(i == 0, RED, tl.where(i == 1, GREEN, BLUE))
        total += weight * pixels(frame, stage, y, x, i, valid, 3, PLAIN, BILINEAR)
    return total >> 16
