"""Bounding boxes, masks and key points: they move as the plan moves the pixels of their image.

Only affine operations move them. Color operations leave them alone, and so do cutout and sample_pairing: what a target
describes is still where it was.

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
from torch.utils._pytree import KeyPath, SequenceKey, tree_flatten_with_path
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.backends import apply
from fasteraa_transforms.backends.floats import through_stages
from fasteraa_transforms.backends.options import Fill, fill_values
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine, Matrix
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.pipeline.boxes import move_boxes, move_points
from fasteraa_transforms.plan import Plan

# torchvision has key points from 0.23 on.
KEY_POINTS: tuple[Any, ...] = (tv_tensors.KeyPoints,) if hasattr(tv_tensors, "KeyPoints") else ()
TARGETS = (tv_tensors.BoundingBoxes, tv_tensors.Mask, *KEY_POINTS)

# Masks of single bytes move as images do. PyTorch (2.11) neither selects nor fills wider unsigned integers. Their bits
# travel as signed integers.
_VIEWS = {
    torch.bool: torch.uint8,
    torch.int8: torch.uint8,
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
}


def check(targets: Sequence[Any], images: Sequence[Any], count: int) -> None:
    """Check that each target lies on an image of its sample.

    Args:
        targets: the boxes, masks and key points of a sample.
        images: the images of the sample.
        count: how many images the largest batch among them has.

    Raises:
        ValueError: a target has another size than every image, or does not say which image of a batch it belongs to.
    """
    sizes = sorted({tuple(tv.get_size(image)) for image in images}) if targets else []
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
    """The leading dimensions of a batch of images or videos. The frames of a video share one draw."""
    if isinstance(image, Image.Image):
        return ()
    return tuple(image.shape[: -4 if isinstance(image, tv_tensors.Video) else -3])


def rows(sample: Any, count: int) -> list[int | None]:
    """Which image of a batch the targets of a sample belong to by their place in a list.

    The place counts in a list or tuple that has an entry for each image, with a target but no image in every entry.
    Entries may be nested: boxes, or a dict of boxes, masks and labels. The place does not count for masks or key points
    that have the leading dimensions of the batch: each of them belongs to all images.

    Args:
        sample: a sample with a batch of images.
        count: how many images the batch has.

    Returns:
        For each leaf of the sample, the index of its image; None if it belongs to all images, or is no target.
    """
    leaves = tree_flatten_with_path(sample)[0]
    lists: dict[KeyPath, dict[int, list[Any]]] = {}  # for each list, by its path: the leaves of each entry
    for path, leaf in leaves:
        for depth, key in enumerate(path):
            if isinstance(key, SequenceKey):
                lists.setdefault(path[:depth], {}).setdefault(key.idx, []).append(leaf)
    telling = {path for path, entries in lists.items() if len(entries) == count and _tells(list(entries.values()))}

    def row(path: KeyPath) -> int | None:
        steps = ((path[:depth], key) for depth, key in enumerate(path))
        return next((key.idx for before, key in steps if before in telling and isinstance(key, SequenceKey)), None)

    return [row(path) if isinstance(leaf, TARGETS) else None for path, leaf in leaves]


def _tells(entries: list[list[Any]]) -> bool:
    """Whether each entry of a list, given as its leaves, belongs to an image of its own."""
    if any(isinstance(leaf, (tv_tensors.Image, tv_tensors.Video, Image.Image)) for entry in entries for leaf in entry):
        return False
    targets = [[leaf for leaf in entry if isinstance(leaf, TARGETS)] for entry in entries]
    batches = [
        not isinstance(target, tv_tensors.BoundingBoxes) and target.shape[:1] == (len(entries),)
        for entry in targets
        for target in entry
    ]
    return all(targets) and not all(batches)


def transform(target: Any, plan: Plan, fill: Fill = 0) -> Any:
    """Move a target as ``plan`` moves its image, or its images.

    - Bounding boxes of every format: the corners go through all stages, and `move_boxes` puts one box around them.
    - Masks: each pixel takes the value of the pixel that Pillow's NEAREST selects, whatever the dtype. A pixel from
      outside of the mask takes ``fill``.
    - Key points: they go where their pixel goes. They are not clamped, as in torchvision.

    Coordinates are computed in float64. Whole numbers are rounded once, at the end. A target that no operation of the
    plan moves comes back as an equal copy.

    Args:
        target: ``tv_tensors.BoundingBoxes`` [N, 4 | 5 | 8], ``tv_tensors.Mask`` [..., H, W], or
            ``tv_tensors.KeyPoints`` [..., 2]. With a plan of B ≠ 1 images, masks and key points have leading dimensions
            whose product is B. Boxes need a plan of one image. `check` says whether they do.
        plan: one row for all, or one for each image.
        fill: value of masks outside of the image, one number.

    Returns:
        Target of the same type, shape, dtype, device and metadata.

    Raises:
        ValueError: ``fill`` is more than one number, or no value of the mask's dtype.
    """
    plan = plan.to("cpu")
    affine = torch.tensor([isinstance(operation.kind, Affine) for operation in OPERATIONS.values()], device="cpu")
    moving = replace(plan, applied=plan.applied & affine[plan.operation])
    plain = target.as_subclass(Tensor)
    if isinstance(target, tv_tensors.Mask):
        result = _move_mask(plain, moving, fill)
    elif plain.numel() == 0 or not moving.applied.any():
        result = plain.clone()
    elif isinstance(target, tv_tensors.BoundingBoxes):
        (maps,) = _maps(moving, target.canvas_size, plain.device)
        result = move_boxes(
            plain.double(), maps, target.format, target.canvas_size, getattr(target, "clamping_mode", "soft")
        )
    else:
        rows = plain.double().reshape(len(plan), -1, 2)
        moved = [
            _move_key_points(*row) for row in zip(rows, _maps(moving, target.canvas_size, plain.device), strict=True)
        ]
        result = torch.stack(moved).reshape(plain.shape)
    if result.dtype != plain.dtype:
        result = (result if plain.is_floating_point() else result.round()).to(plain.dtype)
    return tv_tensors.wrap(result, like=target)


def _maps(plan: Plan, canvas_size: tuple[int, int], device: torch.device) -> list[list[Tensor]]:
    """For each image, the maps [3, 3] of its stages, each from the input of the stage to its output."""
    kinds = [operation.kind for operation in OPERATIONS.values()]
    rows = zip(plan.operation.tolist(), plan.parameter.tolist(), plan.applied.tolist(), strict=True)
    return [
        [
            torch.tensor(_inverse(kinds[operation].matrix(parameter, *canvas_size)), dtype=torch.float64, device=device)
            for operation, parameter, applied in zip(*row, strict=True)
            if applied
        ]
        for row in rows
    ]


def _inverse(matrix: Matrix) -> list[list[float]]:
    """The inverse of an affine map, as a matrix [3, 3]."""
    a, b, c, d, e, f = matrix
    determinant = a * e - b * d
    return [
        [e / determinant, -b / determinant, (b * f - c * e) / determinant],
        [-d / determinant, a / determinant, (c * d - a * f) / determinant],
        [0.0, 0.0, 1.0],
    ]


def _move_mask(mask: Tensor, plan: Plan, fill: Fill) -> Tensor:
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


def _move_key_points(points: Tensor, maps: Sequence[Tensor]) -> Tensor:
    """Key points [N, 2]. torchvision's affine takes their pixel indices for continuous coordinates; this does not."""
    points = points + 0.5
    for step in maps:
        points = move_points(points, step)
    return points - 0.5
