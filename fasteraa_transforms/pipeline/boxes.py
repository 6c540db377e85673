"""Bounding boxes: one box around what is left of an object after all stages.

The corners of a box go through all stages, and one box is put around them at the end. A box that is made anew after
each stage would grow beyond its object.

A stage may move a part of the object out of the image. That part is lost: no later stage brings it back. So what is
left of a box lies inside the image before the first stage and after each stage. Seen in the output, the image of each
stage is a parallelogram, and so is the box. The intersection of all these parallelograms is what is left of the box.
"""

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv
from torchvision.tv_tensors import BoundingBoxFormat

_HAS_MODES = "clamping_mode" in inspect.signature(tv.clamp_bounding_boxes).parameters  # from torchvision 0.24 on
_TOLERANCE = 1e-6  # A corner so few pixels outside of the image lies on its border.


def move_boxes(
    boxes: Tensor,  # float64 [N, 4 | 5 | 8]
    maps: Sequence[Tensor],  # float64 [3, 3] each
    format: BoundingBoxFormat,
    canvas_size: tuple[int, int],
    clamping_mode: str | None,
) -> Tensor:
    """Put boxes around what they hold after the maps.

    A format without rotation gets the smallest box around what is left. A format with rotation gets the smallest
    rectangle that lies along the longer side of the moved box, as in torchvision.

    Args:
        boxes: the boxes in their format, float64 [N, 4], [N, 5] or [N, 8].
        maps: for each stage, the map from its input to its output, float64 [3, 3].
        format: the format of the boxes.
        canvas_size: height and width of the image.
        clamping_mode: None keeps what lies outside of the image. "soft" cuts it off. "hard" does the same to boxes
            without rotation; rotated ones are clamped by torchvision, once, at the end.

    Returns:
        The moved boxes, of the same shape. A box of which nothing is left has no area.

    Example:
        >>> mirror = torch.tensor([[-1.0, 0, 32], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
        >>> box = torch.tensor([[2.0, 4, 10, 8]], dtype=torch.float64)
        >>> move_boxes(box, [mirror], BoundingBoxFormat.XYXY, (32, 32), "soft").tolist()
        [[22.0, 4.0, 30.0, 8.0]]
    """
    rotated = format.value not in ("XYXY", "XYWH", "CXCYWH")  # torchvision has others from 0.23 on
    working = BoundingBoxFormat.XYXYXYXY if rotated else BoundingBoxFormat.XYXY
    numbers = tv.convert_bounding_box_format(boxes, old_format=format, new_format=working)
    corners = (numbers if rotated else numbers[:, [0, 1, 2, 1, 2, 3, 0, 3]]).reshape(-1, 4, 2)

    height, width = canvas_size
    canvas = corners.new_tensor([[0, 0], [width, 0], [width, height], [0, height]])
    images, inside = canvas[None], _inside(corners, canvas)
    for step in maps:
        corners = move_points(corners, step)
        images = torch.cat([move_points(images, step), canvas[None]])  # the image of each stage, seen in the last one
        inside &= _inside(corners, canvas)

    if rotated and torch.stack(tuple(maps)).det().prod() < 0:
        corners = corners[:, [1, 0, 3, 2]]  # A mirror turns around the order that the corners are listed in.
    axes = _axes(corners) if rotated else torch.eye(2).to(corners)[None].expand(len(corners), 2, 2)
    lowest, highest = _extents(corners, axes)
    hard = rotated and clamping_mode == "hard"
    if clamping_mode is not None and not hard and not inside.all():
        cut = ~inside
        left = _extents_of_what_is_left(corners[cut], images, axes[cut])
        lowest, highest = lowest.index_put((cut,), left[0]), highest.index_put((cut,), left[1])

    numbers = _rectangles(lowest, highest, axes) if rotated else torch.cat([lowest, highest], -1)
    if clamping_mode is not None and (hard or not rotated):
        numbers = tv.clamp_bounding_boxes(numbers, working, canvas_size, *((clamping_mode,) if _HAS_MODES else ()))
    return tv.convert_bounding_box_format(numbers, old_format=working, new_format=format).reshape(boxes.shape)


def move_points(points: Tensor, step: Tensor) -> Tensor:
    """Points [..., 2] after an affine map [3, 3]."""
    return points @ step[:2, :2].mT + step[:2, 2]


def _inside(corners: Tensor, canvas: Tensor) -> Tensor:
    """Whether all corners of a box [N, 4, 2] lie in the image whose corners are ``canvas`` [4, 2]; bool [N]."""
    lowest, highest = canvas[0] - _TOLERANCE, canvas[2] + _TOLERANCE
    return ((corners >= lowest) & (corners <= highest)).all(-1).all(-1)


def _axes(corners: Tensor) -> Tensor:
    """For each parallelogram [N, 4, 2], the unit vectors along its width and its height once it is a rectangle.

    The longer side keeps its direction. The other direction is perpendicular to it, on the side where the parallelogram
    lies.

    Returns:
        [N, 2, 2]: vectors, each (x, y).
    """
    width, height = corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0]
    wide = (width.norm(dim=-1) >= height.norm(dim=-1))[:, None]
    longer, shorter = torch.where(wide, width, height), torch.where(wide, height, width)
    longer = torch.where((longer == 0).all(-1, keepdim=True), longer.new_tensor([1.0, 0.0]), longer)  # a point
    longer = longer / longer.norm(dim=-1, keepdim=True)
    across = torch.stack([-longer[:, 1], longer[:, 0]], -1)
    # A parallelogram without area gets the direction in which corners are listed: width to height is a turn of +90°.
    expected = torch.where(wide, 1.0, -1.0)
    side = (across * shorter).sum(-1, keepdim=True)
    across = across * torch.where(side == 0, expected, side.sign())
    return torch.stack([torch.where(wide, longer, across), torch.where(wide, across, longer)], 1)


def _extents(points: Tensor, axes: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The lowest and the highest coordinate [N, 2] of points [N, P, 2] along two axes [N, 2, 2].

    Only ``valid`` points [N, P] count. Without any, the lowest is infinite.
    """
    coordinates = points @ axes.mT
    if valid is None:
        return coordinates.amin(1), coordinates.amax(1)
    ignored = ~valid[..., None]
    return coordinates.masked_fill(ignored, torch.inf).amin(1), coordinates.masked_fill(ignored, -torch.inf).amax(1)


def _extents_of_what_is_left(corners: Tensor, images: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """The extents of the intersection of boxes [N, 4, 2] and all images [S, 4, 2]; the last image is the output."""
    points, valid = _common_corners(corners, images)
    lowest, highest = _extents(points, axes, valid)
    # If the intersection is empty, the box shrinks onto the border of the image, to a line or to a point.
    canvas = images[-1]
    nothing_low, nothing_high = _extents(torch.minimum(torch.maximum(corners, canvas[0]), canvas[2]), axes)
    has_area = (nothing_low < nothing_high).all(-1, keepdim=True)
    middle = (nothing_low + nothing_high) / 2
    nothing = lowest.isinf().any(-1, keepdim=True)
    lowest = torch.where(nothing, torch.where(has_area, middle, nothing_low), lowest)
    highest = torch.where(nothing, torch.where(has_area, middle, nothing_high), highest)
    return lowest, highest


def _common_corners(corners: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The corners of the intersection of each box [N, 4, 2] with all images [S, 4, 2].

    Box and images are convex, so each is the intersection of four half-planes. A corner of the whole intersection is a
    point where the borders of two half-planes cross, and which lies in all half-planes.

    Returns:
        All points where two borders cross, [N, P, 2], and whether they are such a corner, [N, P].
    """
    shapes = torch.cat([corners[:, None], images.expand(len(corners), -1, -1, -1)], 1)  # [N, 1 + S, 4, 2]
    edges = shapes.roll(-1, -2) - shapes
    turn = _cross(edges[..., :1, :], edges[..., 1:2, :]).sign()[..., None]
    normals = torch.stack([-edges[..., 1], edges[..., 0]], -1) * turn / edges.norm(dim=-1, keepdim=True)
    offsets = (normals * shapes).sum(-1).flatten(1)  # [N, L], of L = 4 (1 + S) half-planes
    normals = normals.flatten(1, 2)  # [N, L, 2], to the inside
    first, second = torch.triu_indices(offsets.shape[1], offsets.shape[1], 1, device=corners.device)
    a, b, to_a, to_b = normals[:, first], normals[:, second], offsets[:, first, None], offsets[:, second, None]
    rotated = (to_a * b - to_b * a) / _cross(a, b)[..., None]  # infinite or NaN where they are parallel
    points = torch.stack([rotated[..., 1], -rotated[..., 0]], -1)
    inside = points @ normals.mT - offsets[:, None] >= -_TOLERANCE  # [N, P, L]
    return points, inside.all(-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """The cross product of vectors [..., 2]."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _rectangles(lowest: Tensor, highest: Tensor, axes: Tensor) -> Tensor:
    """The four corners [N, 8] of rectangles with these extents [N, 2] along their axes [N, 2, 2]."""
    (left, top), (right, bottom) = lowest.unbind(-1), highest.unbind(-1)
    corners = torch.stack([left, top, right, top, right, bottom, left, bottom], -1).reshape(-1, 4, 2)
    return (corners @ axes).reshape(-1, 8)
