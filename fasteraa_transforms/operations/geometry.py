"""Geometry, written once: every backend, the targets and the exports read the same affine maps.

A map says where the pixel (x, y) of the output comes from:

    x_in = a x + b y + c
    y_in = d x + e y + f

This is how Pillow defines ``Image.transform`` with ``Transform.AFFINE``. `Affine` holds a, b, d and e as functions of
an operation's physical parameter. c and f follow from the point that stays in its place.
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

FIXED_POINT_LIMIT = 32768  # Pillow leaves 16.16 fixed point where a coordinate reaches this (Geometry.c, check_fixed)

Matrix = tuple[float, float, float, float, float, float]
"""The numbers (a, b, c, d, e, f) of one affine map."""


@dataclass(frozen=True)
class Term:
    """A number that depends on the parameter p: ``one + parameter p + cosine cos(p) + sine sin(p)``, p in degrees.

    Attributes:
        one: the constant part.
        parameter: what p is multiplied by.
        cosine: what the cosine of p is multiplied by.
        sine: what the sine of p is multiplied by.

    Example:
        >>> Term(one=1.0, parameter=0.5).value(3.0)
        2.5
    """

    one: float = 0.0
    parameter: float = 0.0
    cosine: float = 0.0
    sine: float = 0.0

    @property
    def turns(self) -> bool:
        """Whether p is an angle in this term."""
        return bool(self.cosine or self.sine)

    @property
    def constant(self) -> bool:
        """Whether the term does not depend on p."""
        return not (self.parameter or self.turns)

    def value(self, parameter: float, cos: float = 0.0, sin: float = 0.0) -> float:
        """The number at one parameter, whose cosine and sine are given."""
        return self.one + self.parameter * parameter + self.cosine * cos + self.sine * sin

    def tensor(self, parameter: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The number at each parameter, [B]; the same bits as `value`, and differentiable."""
        total: Tensor | float = self.one
        for factor, variable in ((self.parameter, parameter), (self.cosine, cos), (self.sine, sin)):
            if factor:
                part = variable if factor == 1 else factor * variable
                total = part if isinstance(total, float) and total == 0 else total + part
        return total if isinstance(total, Tensor) else torch.full_like(parameter, total)


_ZERO, _ONE = Term(), Term(one=1.0)


@dataclass(frozen=True, kw_only=True)
class Affine:
    """An affine map of pixels, as a function of an operation's physical parameter p.

    Attributes:
        a, b, d, e: the linear part, see the module; it is the identity unless given.
        shift_x: the input lies ``trunc(shift_x p width)`` pixels further right.
        shift_y: the input lies ``trunc(shift_y p height)`` pixels further down.
        about_centre: whether the linear part leaves the centre of the image in its place, and not the top left corner.

    Example:
        >>> Affine(b=Term(parameter=1.0)).matrix(0.3, 32, 32)
        (1.0, 0.3, 0.0, 0.0, 1.0, 0.0)
        >>> Affine(shift_x=1.0).matrix(0.45, 32, 32)
        (1.0, 0.0, 14.0, 0.0, 1.0, 0.0)
    """

    a: Term = _ONE
    b: Term = _ZERO
    d: Term = _ZERO
    e: Term = _ONE
    shift_x: float = 0.0
    shift_y: float = 0.0
    about_centre: bool = False

    @functools.cached_property
    def turns(self) -> bool:
        """Whether the parameter is an angle."""
        return any(term.turns for term in (self.a, self.b, self.d, self.e))

    @functools.cached_property
    def translates(self) -> bool:
        """Whether all it does is to move the image by whole pixels."""
        return (self.a, self.b, self.d, self.e) == (_ONE, _ZERO, _ZERO, _ONE)

    @functools.cached_property
    def mirrors(self) -> bool:
        """Whether every pixel of the output is one of the input, so that neither interpolation nor fill matters."""
        return self._along_the_axes and self.about_centre and not (self.shift_x or self.shift_y)

    @functools.cached_property
    def scales(self) -> bool:
        """Whether it stretches along the axes. Pillow then adds up coordinates one by one, with other rounding."""
        return self.b == self.d == _ZERO and not self._along_the_axes

    @functools.cached_property
    def _along_the_axes(self) -> bool:
        return self.b == self.d == _ZERO and all(t.constant and abs(t.one) == 1 for t in (self.a, self.e))

    def matrix(self, parameter: float, height: int, width: int) -> Matrix:
        """The map of an image of this size at one parameter, with the bits that Pillow's own methods have."""
        cos, sin = _cosine_and_sine(parameter) if self.turns else (0.0, 0.0)
        a, b = self.a.value(parameter, cos, sin), self.b.value(parameter, cos, sin)
        d, e = self.d.value(parameter, cos, sin), self.e.value(parameter, cos, sin)
        c, f = float(int(self.shift_x * parameter * width)), float(int(self.shift_y * parameter * height))
        if self.about_centre:
            # In the order of `PIL.Image.Image.rotate`: another order is another last bit.
            x, y = width / 2, height / 2
            c, f = a * -x + b * -y + x + c, d * -x + e * -y + y + f
        return a, b, c, d, e, f

    def tensors(self, parameter: Tensor, height: int, width: int, *, whole: bool = True) -> tuple[Tensor, ...]:
        """`matrix` at each parameter, and differentiable.

        Args:
            parameter: float64 [B].
            height: of the images.
            width: of the images.
            whole: whether shifts are truncated to whole pixels, as `matrix` does; that has no derivative.

        Returns:
            a, b, c, d, e and f, float64 [B] each.
        """
        cos = sin = parameter
        if self.turns:
            # Pillow rounds to 15 decimals; the derivative is that of the value before.
            angle = torch.deg2rad(parameter % 360)
            cos, sin = (
                torch.round(value, decimals=15).detach() + (value - value.detach())
                for value in (angle.cos(), angle.sin())
            )
        a, b, d, e = (term.tensor(parameter, cos, sin) for term in (self.a, self.b, self.d, self.e))
        c, f = (
            _shift(factor, parameter, extent, whole)
            for factor, extent in ((self.shift_x, width), (self.shift_y, height))
        )
        if self.about_centre:
            x, y = width / 2, height / 2
            c, f = a * -x + b * -y + x + c, d * -x + e * -y + y + f
        return a, b, c, d, e, f

    def coefficients(self) -> tuple[float, ...]:
        """The map as 19 numbers: one, parameter, cosine, sine of a, b, d and e; shift_x, shift_y, about_centre."""
        terms = (self.a, self.b, self.d, self.e)
        linear = [number for t in terms for number in (t.one, t.parameter, t.cosine, t.sine)]
        return (*linear, self.shift_x, self.shift_y, float(self.about_centre))


def _cosine_and_sine(degrees: float) -> tuple[float, float]:
    """As `PIL.Image.Image.rotate` has them: folded into [0, 360) first and rounded to 15 decimals.

    Without either of the two, single pixels move.
    """
    angle = math.radians(degrees % 360.0)
    return round(math.cos(angle), 15), round(math.sin(angle), 15)


def _shift(factor: float, parameter: Tensor, extent: int, whole: bool) -> Tensor:
    if not factor:
        return torch.zeros_like(parameter)
    shift = (parameter if factor == 1 else factor * parameter) * extent
    return shift.trunc() if whole else shift


def cutout_box(fraction: float, centre: tuple[float, float], height: int, width: int) -> tuple[int, int, int, int]:
    """The square that cutout fills, clipped to the image: ``(left, top, right, bottom)``, half open.

    Its side is ``fraction`` of the width, rounded half up to whole pixels. ``centre`` is (x, y) in [0, 1), fractions of
    width and height.
    """
    side = int(fraction * width + 0.5)
    left = int(centre[0] * width) - side // 2
    top = int(centre[1] * height) - side // 2
    return max(left, 0), max(top, 0), min(left + side, width), min(top + side, height)
