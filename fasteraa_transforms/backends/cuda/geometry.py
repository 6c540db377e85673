"""Affine maps and boxes inside a kernel; twin of `fasteraa_transforms.operations.geometry`.

What an operation does is data here too: `matrix_of` reads the coefficients of its row of the table, so an affine
operation needs no code of its own.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from fasteraa_transforms.backends.cuda.arithmetic import RADIANS, fixed_point, round_to_15_decimals, truncate
from fasteraa_transforms.operations.geometry import Affine

COEFFICIENTS = tl.constexpr(len(Affine().coefficients()) + 1)
"""Numbers of an operation: what ``Affine.coefficients`` gives, and whether the parameter is an angle."""
B, D, E = tl.constexpr(4), tl.constexpr(8), tl.constexpr(12)  # where the terms begin; that of a is the first
SHIFT_X, SHIFT_Y, ABOUT_CENTRE, TURNS = (tl.constexpr(place) for place in range(16, 20))


class Matrix(NamedTuple):
    """An affine map, x_in = a x + b y + c and y_in = d x + e y + f.

    In float64, x and y are coordinates. In 16.16 fixed point, int32, they count pixels, and pixels have their centre in
    the middle.
    """

    a: Any
    b: Any
    c: Any
    d: Any
    e: Any
    f: Any


class Box(NamedTuple):
    """A rectangle of pixels, right and bottom exclusive. It may reach over the edges of the image."""

    left: Any
    top: Any
    right: Any
    bottom: Any


@triton.jit
def term_of(
    coefficients,  # pointer to float64 [4]
    parameter,  # float64, as the other two
    cos,
    sin,
):
    """Twin of ``Term.value``."""
    constant, linear = tl.load(coefficients), tl.load(coefficients + 1)
    cosine, sine = tl.load(coefficients + 2), tl.load(coefficients + 3)
    return constant + linear * parameter + cosine * cos + sine * sin


@triton.jit
def matrix_of(
    coefficients,  # pointer to float64 [COEFFICIENTS]
    parameter,  # float64
    height,
    width,
):
    """Twin of ``Affine.matrix``: a `Matrix` of float64.

    The two differ in the last bit of sine and cosine at most, which the libraries of compilers round each in their way.
    """
    cos, sin = parameter * 0.0, parameter * 0.0
    if tl.load(coefficients + TURNS) != 0:
        angle = (parameter - 360.0 * tl.floor(parameter / 360.0)) * RADIANS
        cos, sin = round_to_15_decimals(tl.cos(angle)), round_to_15_decimals(tl.sin(angle))
    a = term_of(coefficients, parameter, cos, sin)
    b = term_of(coefficients + B, parameter, cos, sin)
    d = term_of(coefficients + D, parameter, cos, sin)
    e = term_of(coefficients + E, parameter, cos, sin)
    shift_x = truncate(tl.load(coefficients + SHIFT_X) * parameter * width)
    shift_y = truncate(tl.load(coefficients + SHIFT_Y) * parameter * height)
    # The centre of the image, or its top left corner.
    about_centre = tl.load(coefficients + ABOUT_CENTRE)
    x, y = about_centre * width / 2, about_centre * height / 2
    c, f = a * -x + b * -y + x + shift_x, d * -x + e * -y + y + shift_y
    return Matrix(a=a, b=b, c=c, d=d, e=e, f=f)


@triton.jit
def in_fixed_point(matrix):
    """A `Matrix` of float64 as one of 16.16 fixed point, as ``affine_fixed`` in Pillow's Geometry.c has it."""
    return Matrix(
        a=fixed_point(matrix.a),
        b=fixed_point(matrix.b),
        c=fixed_point(matrix.c + matrix.a * 0.5 + matrix.b * 0.5),
        d=fixed_point(matrix.d),
        e=fixed_point(matrix.e),
        f=fixed_point(matrix.f + matrix.d * 0.5 + matrix.e * 0.5),
    )


@triton.jit
def cutout_box(
    fraction,  # float64
    centre,  # pointer to float64 [2]: x and y
    height,
    width,
):
    """Twin of the function of the same name: a `Box` of int32, which is not clipped."""
    side = (fraction * width + 0.5).to(tl.int64)
    left = (tl.load(centre) * width).to(tl.int64) - side // 2
    top = (tl.load(centre + 1) * height).to(tl.int64) - side // 2
    return Box(
        left=left.to(tl.int32),
        top=top.to(tl.int32),
        right=(left + side).to(tl.int32),
        bottom=(top + side).to(tl.int32),
    )


@triton.jit
def store_all(
    pointer,
    numbers,  # a `Matrix` or a `Box`
):
    """Write the fields one after another."""
    for i in tl.static_range(len(numbers)):
        tl.store(pointer + i, numbers[i])
