"""Affine geometry shared by every backend, as Pillow defines it.

A matrix is ``(a, b, c, d, e, f)`` and maps an output pixel to the input: ``x_in = a x + b y + c``,
``y_in = d x + e y + f`` (`Image.transform`, ``Transform.AFFINE``).
"""

import math

FIXED_POINT_LIMIT = 32768  # Pillow leaves 16.16 fixed point where a coordinate reaches this (Geometry.c, check_fixed)

Matrix = tuple[float, float, float, float, float, float]


def shear_x_matrix(shear: float, height: int, width: int) -> Matrix:
    """Shear along x by ``shear`` (pixels per row), origin at the top left."""
    return (1.0, shear, 0.0, 0.0, 1.0, 0.0)


def shear_y_matrix(shear: float, height: int, width: int) -> Matrix:
    """Shear along y by ``shear`` (pixels per column), origin at the top left."""
    return (1.0, 0.0, 0.0, shear, 1.0, 0.0)


def translate_x_matrix(fraction: float, height: int, width: int) -> Matrix:
    """Translate along x by ``fraction`` of the width, truncated to whole pixels."""
    return (1.0, 0.0, float(int(fraction * width)), 0.0, 1.0, 0.0)


def translate_y_matrix(fraction: float, height: int, width: int) -> Matrix:
    """Translate along y by ``fraction`` of the height, truncated to whole pixels."""
    return (1.0, 0.0, 0.0, 0.0, 1.0, float(int(fraction * height)))


def rotate_matrix(degrees: float, height: int, width: int) -> Matrix:
    """Rotate counter-clockwise about the centre, as `PIL.Image.Image.rotate` computes it."""
    # Pillow folds the angle into [0, 360) first and rounds to 15 decimals; leaving out either moves single pixels.
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    minus_sin = round(-math.sin(angle), 15)
    x, y = width / 2, height / 2
    return (cos, sin, cos * -x + sin * -y + 0.0 + x, minus_sin, cos, minus_sin * -x + cos * -y + 0.0 + y)


def cutout_box(fraction: float, centre: tuple[float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """Square of side ``fraction`` of the width about ``centre``, clipped: ``(left, top, right, bottom)``, half open.

    The side is rounded to whole pixels, half up; the centre pixel is uniform where ``centre`` is.
    """
    side = int(fraction * width + 0.5)
    left = int(centre[0] * width) - side // 2
    top = int(centre[1] * height) - side // 2
    return max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
