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


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One of the 17 image operations.

    The physical parameter is linear in the magnitude μ in [0, 1]: ``weakest + (severest - weakest) μ``. A signed
    operation also takes ``-μ``, which goes as far to the other side of ``weakest``.

    Attributes:
        name: the paper's name.
        weakest: physical parameter at magnitude 0 (0.0 if the operation has no magnitude).
        severest: physical parameter at magnitude 1 (0.0 if the operation has no magnitude).
        unit: unit of the physical parameter; "" if the operation has no magnitude.
        signed: whether the direction is drawn with equal chance for each image.
        whole: whether the parameter is rounded to a whole number (half to even).
        straight_through: whether the gradient w.r.t. the magnitude is that of eq. 6, 1 at every pixel.
        takes: the keywords that the three forms need: "interpolation", "fill", "centre", "partner".
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
    weakest: float = 0.0
    severest: float = 0.0
    unit: str = ""
    signed: bool = False
    whole: bool = False
    straight_through: bool = False
    takes: tuple[str, ...] = ()
    pillow: Callable[..., Image.Image] = field(repr=False)
    uint8: Callable[..., np.ndarray[Any, np.dtype[np.uint8]]] = field(repr=False)
    differentiable: Callable[..., Tensor] = field(repr=False)

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


def _row(name: str, **fields: Any) -> tuple[str, Operation]:
    """A row whose three forms are the functions of its name in the three modules."""
    pillow, uint8, differentiable = (getattr(module, name) for module in (_pillow, _uint8, _differentiable))
    return name, Operation(name=name, pillow=pillow, uint8=uint8, differentiable=differentiable, **fields)


_AFFINE = {"signed": True, "takes": ("interpolation", "fill")}
_ENHANCE: dict[str, Any] = {"weakest": 1.0, "severest": 1.9, "unit": "factor", "signed": True}

OPERATIONS: dict[str, Operation] = dict(
    (
        _row("shear_x", severest=0.3, unit="shear", **_AFFINE),
        _row("shear_y", severest=0.3, unit="shear", **_AFFINE),
        _row("translate_x", severest=0.45, unit="of the width", **_AFFINE),
        _row("translate_y", severest=0.45, unit="of the height", **_AFFINE),
        _row("rotate", severest=30.0, unit="degrees", **_AFFINE),
        _row("flip"),
        _row("solarize", weakest=256.0, severest=0.0, unit="level", straight_through=True),
        _row("posterize", weakest=8.0, severest=4.0, unit="bits", whole=True, straight_through=True),
        _row("invert"),
        _row("contrast", **_ENHANCE),
        _row("color", **_ENHANCE),
        _row("brightness", **_ENHANCE),
        _row("sharpness", **_ENHANCE),
        _row("auto_contrast"),
        _row("equalize"),
        _row("cutout", severest=0.2, unit="of the width", straight_through=True, takes=("centre",)),
        _row("sample_pairing", severest=0.4, unit="of the partner", takes=("partner",)),
    )
)
"""The 17 operations by name, in the order of Table 2. Index i of a `Plan` means the i-th of these."""
