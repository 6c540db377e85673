"""The arithmetic of Pillow inside a kernel; twin of `fasteraa_transforms.operations.arithmetic`.

A product and the sum after it are rounded one after the other, as Pillow's compiler does. Every launch says so with
``enable_fp_fusion=False``.
"""

import triton
import triton.language as tl

from fasteraa_transforms.operations.arithmetic import LUMA

ONE = tl.constexpr(65536)  # 1.0 in 16.16 fixed point
HALF = tl.constexpr(32768)
RED, GREEN, BLUE = (tl.constexpr(weight) for weight in LUMA)
RADIANS = tl.constexpr(0.017453292519943295)  # of one degree


@triton.jit
def blend(
    start,  # int32, in [0, 255]
    end,  # int32, in [0, 255]
    weight,  # float32
):
    """``ImagingBlend``: int32 in [0, 255]."""
    base = start.to(tl.float32)
    value = base + weight * (end.to(tl.float32) - base)
    return tl.minimum(tl.maximum(value, 0.0), 255.0).to(tl.int32)


@triton.jit
def fixed_point(
    value,  # float64
):
    """16.16 fixed point, int32, of a coefficient."""
    return tl.floor(value * 65536.0 + 0.5).to(tl.int64).to(tl.int32)


@triton.jit
def round_to_15_decimals(
    value,  # float64
):
    """What Pillow does to the sine and the cosine of a rotation."""
    return tl.floor(value * 1e15 + 0.5) / 1e15


@triton.jit
def truncate(
    value,  # float64
):
    """The whole number towards zero, float64; twin of ``int`` in Python."""
    return value.to(tl.int64).to(tl.float64)
