"""Bounding boxes, masks and key points: moved as the plan moves the pixels of their image.

Only geometry moves them. Color operations leave them alone, and so do cutout and sample_pairing: what they describe is
still where it was.

Coordinates are torchvision's. Those of boxes are continuous: the pixel of index i covers [i, i + 1]. Those of key
points are pixel indices: the centre of that pixel is i.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.backends import apply
from fasteraa_transforms.backends.floats import through_stages
from fasteraa_transforms.backends.options import fill_values
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.plan import Plan

TARGETS = (tv_tensors.BoundingBoxes, tv_tensors.Mask, tv_tensors.KeyPoints)

_NAMES = tuple(OPERATIONS)
_MATRICES = {name: row.kind.matrix for name, row in OPERATIONS.items() if isinstance(row.kind, Affine)}
GEOMETRIC = tuple(_MATRICES)
"""The operations that move targets."""
_IS_GEOMETRIC = torch.tensor([name in GEOMETRIC for name in _NAMES], device="cpu")

# Bytes are moved as those of images are. PyTorch selects and fills none of the wider unsigned integers (2.11), so their
# bits travel as signed ones.
_VIEWS = {
    torch.bool: torch.uint8,
    torch.int8: torch.uint8,
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}


def check(targets: Sequence[Any], images: Sequence[Any], count: int) -> None:
    """Raise ValueError if it is not clear how the targets lie on the images of their sample, ``count`` a batch."""
    sizes = sorted({tuple(tv.get_size(image)) for image in images})
    for target in targets:
        name = type(target).__name__
        size = tuple(target.shape[-2:]) if isinstance(target, tv_tensors.Mask) else tuple(target.canvas_size)
        if size not in sizes:
            raise ValueError(
                f"{name} should have the height and width of an image of the sample, "
                f"{' or '.join(map(str, sizes))}, but got {size} instead"
            )
        if count == 1:
            continue
        if isinstance(target, tv_tensors.BoundingBoxes):
            raise ValueError(
                f"{name} do not say which image of a batch they belong to, so the sample should have one image, but "
                f"got a batch of {count} instead; transform the images before they become a batch"
            )
        batches = [batch for batch in map(leading, images) if math.prod(batch) == count]
        if not any(tuple(target.shape[: len(batch)]) == batch for batch in batches):
            raise ValueError(
                f"{name} of a batch of {count} images should have its leading dimensions, but got the shape "
                f"{list(target.shape)} instead"
            )


def leading(image: Any) -> tuple[int, ...]:
    """The dimensions of a batch of images, or of videos, which draw once for all of their frames."""
    if isinstance(image, Image.Image):
        return ()
    return tuple(image.shape[: -4 if isinstance(image, tv_tensors.Video) else -3])


def transform(target: Any, plan: Plan, fill: float | Sequence[float] = 0) -> Any:
    """Move a target as ``plan`` moves the image, or the images, that it belongs to.

    - Bounding boxes of every format: torchvision's `affine_bounding_boxes`, one stage after the other, with the affine
      map that Pillow applies to the image; so they are clamped and rotated boxes stay rectangles as there.
    - Masks: the pixel of the input that Pillow's NEAREST selects, whatever the dtype; outside of it ``fill``.
    - Key points: through the inverse of the matrix that Pillow takes; not clamped, as in torchvision.

    Coordinates are computed in float64; integers are rounded, once, at the end. What no geometry of the plan reaches
    comes back as an equal copy.

    Args:
        target: ``tv_tensors.BoundingBoxes`` [N, 4 | 5 | 8], ``tv_tensors.Mask`` [..., H, W], or
            ``tv_tensors.KeyPoints`` [..., 2]. Masks and key points have leading dimensions of B in all if the plan is
            one of B ≠ 1 images; boxes need a plan of one. `check` tells whether they do.
        plan: one row for all, or one for each image.
        fill: value of masks outside of the image, one number.

    Returns:
        Target of the same type, shape, dtype, device and metadata.

    Raises:
        ValueError: ``fill`` is more than one number, or no value of the mask's dtype.
    """
    plan = plan.to("cpu")
    moving = replace(plan, applied=plan.applied & _IS_GEOMETRIC[plan.operation])
    plain = target.as_subclass(Tensor)
    if isinstance(target, tv_tensors.Mask):
        result = _transform_mask(plain, moving, fill)
    elif plain.numel() == 0 or not moving.applied.any():
        result = plain.clone()
    elif isinstance(target, tv_tensors.BoundingBoxes):
        result = _transform_boxes(plain.double(), _steps(moving)[0], target)
    else:
        rows = zip(plain.double().reshape(len(plan), -1, 2), _steps(moving), strict=True)
        result = torch.stack([_transform_points(points, steps, target.canvas_size) for points, steps in rows])
        result = result.reshape(plain.shape)
    if result.dtype != plain.dtype:
        result = (result if plain.is_floating_point() else result.round()).to(plain.dtype)
    return tv_tensors.wrap(result, like=target)


def _steps(plan: Plan) -> list[list[tuple[str, float]]]:
    """For each image, the operations that are applied, with their parameters."""
    rows = zip(plan.operation.tolist(), plan.parameter.tolist(), plan.applied.tolist(), strict=True)
    return [
        [(_NAMES[operation], parameter) for operation, parameter, applied in zip(*row, strict=True) if applied]
        for row in rows
    ]


def _transform_mask(mask: Tensor, plan: Plan, fill: float | Sequence[float]) -> Tensor:
    dtype, values = mask.dtype, fill_values(fill)
    outside = torch.tensor(values, dtype=torch.float64, device="cpu").to(dtype)
    if len(values) != 1 or (not dtype.is_floating_point and outside.double().tolist() != list(values)):
        raise ValueError(f"fill of masks should be one number, a value of {dtype}, but got {fill} instead")
    if mask.numel() == 0:
        return mask.clone()
    if dtype in _VIEWS:
        mask, outside = mask.view(_VIEWS[dtype]), outside.view(_VIEWS[dtype])
    images, values = mask.reshape(len(plan), -1, *mask.shape[-2:]), tuple(outside.tolist())
    if mask.dtype == torch.uint8:
        result = apply(images, plan, fill=values)
    else:
        # The forms for floats take every dtype where all they do is select pixels.
        result = through_stages(images, plan, Extras(fill=values))
        result = result.clone() if result is images else result
    result = result.reshape(mask.shape)
    return result.view(dtype) if dtype in _VIEWS else result


def _transform_boxes(boxes: Tensor, steps: list[tuple[str, float]], like: tv_tensors.BoundingBoxes) -> Tensor:
    for name, parameter in steps:
        if name == "flip":
            boxes = tv.horizontal_flip_bounding_boxes(boxes, format=like.format, canvas_size=like.canvas_size)
            continue
        boxes = tv.affine_bounding_boxes(
            boxes,
            format=like.format,
            canvas_size=like.canvas_size,
            scale=1.0,
            clamping_mode=like.clamping_mode,
            **_affine_arguments(name, parameter, *like.canvas_size),
        )
    return boxes


def _affine_arguments(name: str, parameter: float, height: int, width: int) -> dict[str, Any]:
    """The matrix of the operation in the words of torchvision, whose angles and shears are degrees."""
    arguments: dict[str, Any] = {"angle": 0.0, "translate": [0.0, 0.0], "shear": [0.0, 0.0], "center": [0.0, 0.0]}
    if name == "rotate":
        return arguments | {"angle": -parameter, "center": None}
    _, b, c, d, _, f = _MATRICES[name](parameter, height, width)
    shear = [math.degrees(math.atan(b)), math.degrees(math.atan(d))]
    return arguments | {"translate": [-c, -f], "shear": shear}


def _transform_points(points: Tensor, steps: list[tuple[str, float]], canvas_size: tuple[int, int]) -> Tensor:
    """Key points [N, 2] in float64. Not torchvision's affine, which takes pixel indices for continuous coordinates."""
    for name, parameter in steps:
        if name == "flip":
            points = tv.horizontal_flip_keypoints(points, canvas_size=canvas_size)
            continue
        a, b, c, d, e, f = _MATRICES[name](parameter, *canvas_size)
        x, y = (points + 0.5 - points.new_tensor([c, f])).unbind(-1)
        points = torch.stack((e * x - b * y, a * y - d * x), -1) / (a * e - b * d) - 0.5
    return points
