"""The operations of Table 2, in one table.

`OPERATIONS` maps a name to its row. A row describes an operation: its kind, the range and unit of its physical
parameter, and its three forms (Pillow, uint8, differentiable). An affine map or a map of levels needs a row and nothing
else, since its forms follow from its kind.

All other code looks into the table when it is called. So a row may be added at any time.

The paper's table lists these 17 rows; its text says 16. It gives sharpness no magnitude. AutoAugment, the source of the
list, does, and so does this table.
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
from fasteraa_transforms.operations.kinds import Blend, Histogram, Kind, Levels, Mix, Paste

_FORMS: dict[str, Any] = {"pillow": _pillow, "uint8": _uint8, "differentiable": _differentiable}
_FROM_THE_KIND: Any = None  # in place of a form that follows from the kind of the operation


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One of the image operations.

    The physical parameter is linear in the magnitude μ in [0, 1]: ``weakest + (severest - weakest) μ``. A signed
    operation also takes ``-μ``, which goes as far to the other side of ``weakest``.

    Each form is a function ``(images, parameter, extras) -> images``, with an `Extras`, and does not change its input.
    An operation of the kind `Affine` or `Levels` needs none: all three follow from the kind. The differentiable form of
    `Levels` has no slope. So ``straight_through`` is True for an operation with this form and a magnitude.

    Attributes:
        name: the paper's name.
        kind: what sort of change it makes, and the data that says which.
        weakest: physical parameter at magnitude 0 (0.0 if the operation has no magnitude).
        severest: physical parameter at magnitude 1 (0.0 if the operation has no magnitude).
        unit: unit of the physical parameter; "" if the operation has no magnitude.
        signed: whether the direction is drawn with equal chance for each image.
        whole: whether the parameter is rounded to a whole number (half to even).
        straight_through: whether the gradient w.r.t. the magnitude is that of eq. 6, 1 at every pixel.
        pillow: exact form, on one PIL image of mode L, LA, RGB or RGBA and one parameter.
        uint8: exact form, on uint8 arrays [N, C, H, W] and parameters [N].
        differentiable: on float tensors [B, C, H, W] in [0, 1] and parameters [B].
        takes: which of the fields of an `Extras` matter, in their order.

    Raises:
        TypeError: a form is missing, and the kind is neither `Affine` nor `Levels`.

    Example:
        >>> OPERATIONS["rotate"].parameter(torch.tensor([0.0, 0.5, -1.0]))
        tensor([  0.,  15., -30.], dtype=torch.float64)
        >>> OPERATIONS["posterize"].parameter(torch.tensor([0.0, 0.4, 1.0]))
        tensor([8., 6., 4.], dtype=torch.float64)
        >>> diagonal = Affine(b=Term(parameter=1.0), d=Term(parameter=1.0))
        >>> shear = Operation(name="shear_diagonal", kind=diagonal, severest=0.3, unit="shear", signed=True)
        >>> shear.takes
        ('interpolation', 'fill')
    """

    name: str
    kind: Kind
    weakest: float = 0.0
    severest: float = 0.0
    unit: str = ""
    signed: bool = False
    whole: bool = False
    straight_through: bool = False
    pillow: Callable[..., Image.Image] = field(default=_FROM_THE_KIND, repr=False)
    uint8: Callable[..., np.ndarray[Any, np.dtype[np.uint8]]] = field(default=_FROM_THE_KIND, repr=False)
    differentiable: Callable[..., Tensor] = field(default=_FROM_THE_KIND, repr=False)
    takes: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # a frozen dataclass takes nothing else
        set_field(self, "takes", _takes(self.kind))
        if isinstance(self.kind, Levels) and self.differentiable is _FROM_THE_KIND:
            set_field(self, "straight_through", self.has_magnitude)
        for name, module in _FORMS.items():
            if getattr(self, name) is not _FROM_THE_KIND:
                continue
            match self.kind:
                case Affine():
                    set_field(self, name, module.affine(self.kind))
                case Levels(table):
                    set_field(self, name, module.levels(table))
                case _:
                    raise TypeError(f"{name} should be given for an operation of the kind {type(self.kind).__name__}")

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


def _takes(kind: Kind) -> tuple[str, ...]:
    match kind:
        case Affine(mirrors=False):
            return "interpolation", "fill"
        case Paste():
            return ("centre",)
        case Mix():
            return ("partner",)
    return ()


def _row(name: str, kind: Kind, **fields: Any) -> tuple[str, Operation]:
    """A row. Its forms are the functions of its name in the three modules; where none is, that of its kind."""
    forms = {form: getattr(module, name, _FROM_THE_KIND) for form, module in _FORMS.items()}
    return name, Operation(name=name, kind=kind, **forms, **fields)


_ROTATION = Affine(a=Term(cosine=1), b=Term(sine=-1), d=Term(sine=1), e=Term(cosine=1), about_centre=True)
_SOLARIZE, _POSTERIZE = Levels(_pillow.solarize_table), Levels(_pillow.posterize_table)
_ENHANCE: dict[str, Any] = {"weakest": 1.0, "severest": 1.9, "unit": "factor", "signed": True}

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
