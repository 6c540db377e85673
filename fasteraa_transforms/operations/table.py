"""The operations of Table 2, in one table.

`OPERATIONS` maps a name to its row. A row holds everything that is said of an operation: the range of its physical
parameter, its unit, and its three forms (Pillow, uint8, differentiable). Adding an operation is adding a row.

The paper's table lists these 17 rows and its text says 16; it gives sharpness no magnitude, while AutoAugment, from
which the list comes, does, and so does this table.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fasteraa_transforms.operations import differentiable as _differentiable
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations import uint8 as _uint8
from fasteraa_transforms.operations.geometry import Affine, Term


@dataclass(frozen=True)
class Levels:
    """A map of levels: what a value becomes depends on that value and the parameter alone.

    Attributes:
        table: the 256 levels that the levels 0 to 255 become at a parameter.
    """

    table: Callable[[float], bytes]


@dataclass(frozen=True)
class Histogram:
    """A map of levels whose table follows from all values of the image, or of one of its channels."""


@dataclass(frozen=True)
class Blend:
    """A blend of the image with another one that is made of it; the parameter is the weight of the image."""


@dataclass(frozen=True)
class Paste:
    """A square of one colour about a centre that is drawn."""


@dataclass(frozen=True)
class Mix:
    """A blend with another image of the batch; the parameter is the weight of that."""


Kind = Affine | Levels | Histogram | Blend | Paste | Mix


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One of the 17 image operations.

    The physical parameter is linear in the magnitude μ in [0, 1]: ``weakest + (severest - weakest) μ``. A signed
    operation also takes ``-μ``, which goes as far to the other side of ``weakest``.

    Attributes:
        name: the paper's name.
        kind: what sort of change it is, with the numbers or the table that say which.
        weakest: physical parameter at magnitude 0 (0.0 if the operation has no magnitude).
        severest: physical parameter at magnitude 1 (0.0 if the operation has no magnitude).
        unit: unit of the physical parameter; "" if the operation has no magnitude.
        signed: whether the direction is drawn with equal chance for each image.
        whole: whether the parameter is rounded to a whole number (half to even).
        straight_through: whether the gradient w.r.t. the magnitude is that of eq. 6, 1 at every pixel.
        pillow: exact form, ``(image, parameter, **takes) -> image`` on PIL images of mode L, LA, RGB or RGBA.
        uint8: exact form, ``(images, parameter, **takes) -> images`` on uint8 arrays [N, C, H, W], parameter [N].
        differentiable: ``(images, parameter, **takes) -> images`` on float tensors [B, C, H, W] in [0, 1], parameter
            [B].

    Example:
        >>> OPERATIONS["rotate"].parameter(torch.tensor([0.0, 0.5, -1.0]))
        tensor([  0.,  15., -30.], dtype=torch.float64)
        >>> OPERATIONS["posterize"].parameter(torch.tensor([0.0, 0.4, 1.0]))
        tensor([8., 6., 4.], dtype=torch.float64)
    """

    name: str
    kind: Kind
    weakest: float = 0.0
    severest: float = 0.0
    unit: str = ""
    signed: bool = False
    whole: bool = False
    straight_through: bool = False
    pillow: Callable[..., Image.Image] = field(default=None, repr=False)  # type: ignore[assignment]
    uint8: Callable[..., np.ndarray[Any, np.dtype[np.uint8]]] = field(default=None, repr=False)  # type: ignore[assignment]
    differentiable: Callable[..., Tensor] = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for form, module in (("pillow", _pillow), ("uint8", _uint8), ("differentiable", _differentiable)):
            if getattr(self, form) is None:
                match self.kind:
                    case Affine():
                        object.__setattr__(self, form, module.affine(self.kind))
                    case Levels(table):
                        object.__setattr__(self, form, module.levels(table))
                    case _:
                        raise TypeError(f"{form} should be given for an operation of the kind {self.kind}")

    @property
    def takes(self) -> tuple[str, ...]:
        """The keywords that the three forms need: "interpolation", "fill", "centre", "partner"."""
        match self.kind:
            case Affine():
                return () if self.kind.mirrors else ("interpolation", "fill")
            case Paste():
                return ("centre",)
            case Mix():
                return ("partner",)
        return ()

    @property
    def has_magnitude(self) -> bool:
        """Whether the operation has a magnitude; flip, invert, auto_contrast and equalize have none."""
        return self.weakest != self.severest

    def parameter(self, magnitude: Tensor) -> Tensor:
        """Physical parameter, float64, of magnitudes in [0, 1], or in [-1, 1] if the operation is signed.

        Any shape; differentiable unless the parameter is rounded.
        """
        value = self.weakest + (self.severest - self.weakest) * magnitude.double()
        return torch.round(value) if self.whole else value


def _row(name: str, kind: Kind, **fields: Any) -> tuple[str, Operation]:
    """A row; its forms are the functions of its name in the three modules, or those of its kind where none is."""
    modules = {"pillow": _pillow, "uint8": _uint8, "differentiable": _differentiable}
    forms: dict[str, Any] = {form: getattr(module, name, None) for form, module in modules.items()}
    return name, Operation(name=name, kind=kind, **forms, **fields)


_ROTATION = Affine(a=Term(cosine=1), b=Term(sine=-1), d=Term(sine=1), e=Term(cosine=1), about_centre=True)
_ENHANCE: dict[str, Any] = {"weakest": 1.0, "severest": 1.9, "unit": "factor", "signed": True}
_SOLARIZE, _POSTERIZE = Levels(_pillow.solarize_table), Levels(_pillow.posterize_table)

OPERATIONS: dict[str, Operation] = dict(
    (
        _row("shear_x", Affine(b=Term(parameter=1)), severest=0.3, unit="shear", signed=True),
        _row("shear_y", Affine(d=Term(parameter=1)), severest=0.3, unit="shear", signed=True),
        _row("translate_x", Affine(shift_x=1), severest=0.45, unit="of the width", signed=True),
        _row("translate_y", Affine(shift_y=1), severest=0.45, unit="of the height", signed=True),
        _row("rotate", _ROTATION, severest=30.0, unit="degrees", signed=True),
        _row("flip", Affine(a=Term(one=-1), about_centre=True)),
        _row("solarize", _SOLARIZE, weakest=256.0, severest=0.0, unit="level", straight_through=True),
        _row("posterize", _POSTERIZE, weakest=8.0, severest=4.0, unit="bits", whole=True, straight_through=True),
        _row("invert", Levels(_pillow.invert_table)),
        _row("contrast", Histogram(), **_ENHANCE),
        _row("color", Blend(), **_ENHANCE),
        _row("brightness", Levels(_pillow.brightness_table), **_ENHANCE),
        _row("sharpness", Blend(), **_ENHANCE),
        _row("auto_contrast", Histogram()),
        _row("equalize", Histogram()),
        _row("cutout", Paste(), severest=0.2, unit="of the width", straight_through=True),
        _row("sample_pairing", Mix(), severest=0.4, unit="of the partner"),
    )
)
"""The 17 operations by name, in the order of Table 2. Index i of a `Plan` means the i-th of these."""
