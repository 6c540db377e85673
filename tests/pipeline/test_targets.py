"""Boxes, masks and key points: they lie where their image went, whatever else is in the sample."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms import OPERATIONS, FasterAutoAugment, Plan, Policy, apply
from fasteraa_transforms.operations import Extras
from fasteraa_transforms.operations.geometry import Affine, Matrix

NAMES = list(OPERATIONS)
GEOMETRY = tuple(name for name, operation in OPERATIONS.items() if isinstance(operation.kind, Affine))
STEPS = [
    *((name, sign * m) for name in GEOMETRY if name != "flip" for m in (0.13, 0.6, 1.0) for sign in (1, -1)),
    ("flip", 0.0),
]
SIZES = [(60, 80), (51, 37)]


def policy_of(*stages: str, probability: float = 1.0, magnitude: float = 0.7) -> Policy:
    def candidate(name: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"operation": name, "weight": 1, "probability": probability}
        return fields | ({"magnitude": magnitude} if OPERATIONS[name].has_magnitude else {})

    return Policy([[[candidate(name)] for name in stages]], name="-".join(stages))


def plan_of(*rows: list[tuple[str, float]]) -> Plan:
    """By hand: for each image its operations with their signed magnitudes."""
    return Plan(
        operation=torch.tensor([[NAMES.index(name) for name, _ in row] for row in rows]),
        parameter=torch.stack(
            [torch.stack([OPERATIONS[name].parameter(torch.tensor(m)) for name, m in r]) for r in rows]
        ),
        applied=torch.ones(len(rows), len(rows[0]), dtype=torch.bool),
        centre=torch.full((len(rows), len(rows[0]), 2), 0.5, dtype=torch.float64),
        partner=torch.zeros(len(rows), len(rows[0]), dtype=torch.int64),
        sub_policy=torch.zeros(len(rows), dtype=torch.int64),
    )


def run(sample: Any, plan: Plan, **options: Any) -> Any:
    """The transform with its draw replaced by ``plan``."""
    transform = FasterAutoAugment(policy_of("flip"), **options)
    transform._draw = lambda count: plan  # type: ignore[method-assign]
    return transform(sample)


def boxes_of(data: Any, fmt: str, size: tuple[int, int], **options: Any) -> tv_tensors.BoundingBoxes:
    return tv_tensors.BoundingBoxes(data, format=fmt, canvas_size=size, **options)


def converted(boxes: Tensor, old: str, new: str) -> Tensor:
    old_format, new_format = tv_tensors.BoundingBoxFormat[old], tv_tensors.BoundingBoxFormat[new]
    return tv.convert_bounding_box_format(boxes, old_format=old_format, new_format=new_format)


def distance_inside(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Signed distance [H, W] of the centre of each pixel from the border of a rectangle [4, 2], positive inside."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    centre, distances = corners.mean(0), []
    for start, end in zip(corners, corners.roll(-1, 0), strict=True):
        along = end - start
        normal = torch.stack([-along[1], along[0]]) / along.norm()
        normal = normal * torch.sign(((centre - start) * normal).sum())
        distances.append((x - start[0]) * normal[0] + (y - start[1]) * normal[1])
    return torch.stack(distances).amin(0)


# --- boxes ------------------------------------------------------------------------------------------------------------


def extent(pixels: Tensor) -> Tensor:
    """The box [4] around the pixels of an image [H, W] that are not 0."""
    rows, columns = pixels.nonzero().T
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).double()


def painted(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """An image with one channel for each box [N, 4], which is white in it."""
    image = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for channel, (left, top, right, bottom) in zip(image, boxes.tolist(), strict=True):
        channel[top:bottom, left:right] = 255
    return image


def survivors(corners: Tensor, steps: list[tuple[str, float]], size: tuple[int, int], cut: bool = True) -> list[Tensor]:
    """Where points all over each parallelogram [N, 4, 2] go; without those that leave the image on the way."""
    u, v = torch.meshgrid(torch.linspace(0, 1, 61), torch.linspace(0, 1, 61), indexing="ij")
    results = []
    for corner, right, _, down in corners:
        points = corner + u.reshape(-1, 1) * (right - corner) + v.reshape(-1, 1) * (down - corner)
        for step in (None, *steps):
            if step is not None:
                a, b, c, d, e, f = matrix_of(*step, size)
                linear = torch.tensor([[a, b], [d, e]], dtype=torch.float64)
                points = torch.linalg.solve(linear, (points - points.new_tensor([c, f])).T).T
            inside = ((points > -1e-9) & (points < torch.tensor([size[1], size[0]]) + 1e-9)).all(-1)
            points = points[inside] if cut else points
        results.append(points)
    return results


def matrix_of(name: str, magnitude: float, size: tuple[int, int]) -> Matrix:
    operation = OPERATIONS[name]
    assert isinstance(operation.kind, Affine)
    return operation.kind.matrix(float(operation.parameter(torch.tensor(magnitude))), *size)


def rectangles(count: int, size: tuple[int, int], *, angle: float = 0.0) -> Tensor:
    """Boxes [N, 5] in the format CXCYWHR, some of which stick out of the image."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([size[1], size[0]])
    sides = 5 + 30 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([centres, sides, angle * (2 * torch.rand(count, 1, generator=generator) - 1)], 1)


STRONG = [*((name, sign * m) for name in GEOMETRY if name != "flip" for m in (0.5, 1.0) for sign in (1, -1)), STEPS[-1]]


@pytest.mark.parametrize("first", STRONG)
def test_the_pixels_of_an_object_touch_its_box_after_every_pair_of_stages(first: tuple[str, float]) -> None:
    size = (120, 160)
    given = torch.tensor([[50, 45, 110, 75], [75, 57, 85, 63], [0, 0, 30, 40], [120, 5, 150, 30], [0, 0, 160, 120]])
    image = painted(given, size)
    whole = 0
    for second in STRONG:
        plan = plan_of([first, second])
        seen, boxes = run((image, boxes_of(given, "XYXY", size, dtype=torch.float64)), plan)
        _, uncut = run((image, boxes_of(given, "XYXY", size, dtype=torch.float64, clamping_mode=None)), plan)
        for pixels, box, same in zip(seen, boxes.as_subclass(Tensor), (boxes == uncut).all(-1), strict=True):
            assert (box >= 0).all()
            assert (box <= torch.tensor([160, 120, 160, 120])).all()
            if not pixels.any():
                assert (box[2:] - box[:2]).amin() <= 0.5
                continue
            # Where the border of the image cuts a slanted side, the tip is too narrow for the centre of a pixel.
            assert (box - extent(pixels)).abs().amax() <= (1.25 if same else 4)
            whole += int(same)
    assert whole >= 6


def test_a_box_does_not_grow_from_stage_to_stage() -> None:
    size, given = (100, 200), torch.tensor([[70, 30, 130, 80]])
    steps = [("shear_x", 1.0), ("shear_x", -0.5)]
    boxes = boxes_of(given, "XYXY", size, dtype=torch.float64)
    seen, box = run((painted(given, size), boxes), plan_of(steps))
    assert (box[0] - extent(seen[0])).abs().amax() <= 1
    grown = torchvisions(torchvisions(boxes, *steps[0]), *steps[1])  # a box around a box
    torch.testing.assert_close((grown - box)[0], torch.tensor([-7.5, 0, 7.5, 0], dtype=torch.float64))


@pytest.mark.parametrize("fmt", ["XYXY", "XYWH", "CXCYWH"])
@pytest.mark.parametrize(("seed", "size"), list(enumerate(SIZES)))
def test_boxes_enclose_what_is_left_of_them(fmt: str, size: tuple[int, int], seed: int) -> None:
    given = converted(rectangles(12, size)[:, :4], "CXCYWH", "XYXY")
    corners = given[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    boxes = boxes_of(converted(given, "XYXY", fmt), fmt, size)
    counts = [0, 0]
    order = torch.randperm(len(STEPS), generator=torch.Generator().manual_seed(seed)).tolist()
    for n in range(0, 30, 2):
        steps = [STEPS[order[n]], STEPS[order[n + 1]], STEPS[order[n - 3]]][: 1 + n % 3]
        result = converted(run((torch.zeros(3, *size), boxes), plan_of(steps))[1].as_subclass(Tensor), fmt, "XYXY")
        for box, points in zip(result, survivors(corners, steps, size), strict=True):
            if len(points) < 3:
                assert (box[2:] - box[:2]).amin() < 0.5
                counts[0] += 1
                continue
            found = torch.cat([points.amin(0), points.amax(0)])
            assert ((box - found) * torch.tensor([1, 1, -1, -1]) <= 1e-6).all()  # nothing lies outside of the box
            assert (box - found).abs().amax() < 2.0
            counts[1] += 1
    assert counts[0] >= 5
    assert counts[1] >= 100


def test_what_has_left_the_image_does_not_come_back() -> None:
    size = (40, 100)
    there, back = [("translate_x", 1.0), ("translate_x", -1.0)], [("translate_x", -1.0), ("translate_x", 1.0)]
    for mode in ("soft", "hard"):
        boxes = boxes_of([[30, 5, 70, 15], [5, 5, 25, 15]], "XYXY", size, clamping_mode=mode)
        image = painted(boxes, size)
        seen, moved = run((image, boxes), plan_of(there))  # 45 pixels to the left and back again
        assert moved[0].tolist() == extent(seen[0]).tolist() == [45, 5, 70, 15]
        assert not seen[1].any()
        assert moved[1, 2] - moved[1, 0] == 0
        seen, moved = run((image, boxes), plan_of(back))
        assert moved.tolist() == [extent(one).tolist() for one in seen] == [[30, 5, 55, 15], [5, 5, 25, 15]]
    free = boxes_of([[30, 5, 70, 15], [5, 5, 25, 15]], "XYXY", size, clamping_mode=None)
    assert torch.equal(run((image, free), plan_of(there))[1], free)


@pytest.mark.parametrize(("seed", "size"), list(enumerate(SIZES)))
@pytest.mark.parametrize("fmt", ["XYWHR", "CXCYWHR", "XYXYXYXY"])
def test_rotated_boxes_enclose_what_is_left_of_them(fmt: str, size: tuple[int, int], seed: int) -> None:
    given = rectangles(12, size, angle=180)
    corners = converted(given, "CXCYWHR", "XYXYXYXY").reshape(-1, 4, 2)
    data, touched = converted(given, "CXCYWHR", fmt), 0
    order = torch.randperm(len(STEPS), generator=torch.Generator().manual_seed(seed)).tolist()
    for n in range(0, 24, 2):
        steps = [STEPS[order[n]], STEPS[order[n + 1]]][: 1 + n % 4 // 2]
        for mode in ("soft", None):
            boxes = boxes_of(data, fmt, size, clamping_mode=mode)
            result = run((torch.zeros(3, *size), boxes), plan_of(steps))[1].as_subclass(Tensor)
            result = converted(result, fmt, "XYXYXYXY").reshape(-1, 4, 2)
            for box, points in zip(result, survivors(corners, steps, size, mode is not None), strict=True):
                sides = torch.stack([box[1] - box[0], box[3] - box[0]])
                if len(points) < 3:
                    assert sides.norm(dim=-1).amin() < 0.5
                    continue
                assert abs(sides[0] @ sides[1]) < 1e-6 * sides.norm(dim=-1).prod()
                shares = (points - box[0]) @ sides.T / sides.norm(dim=-1) ** 2  # 0 to 1 within the rectangle
                assert shares.min() > -1e-6
                assert shares.max() < 1 + 1e-6
                gaps = torch.stack([shares.amin(0), 1 - shares.amax(0)]) * sides.norm(dim=-1)
                assert gaps.max() < 2.0
                touched += 1
    assert touched >= 150


def stays_rectangular(name: str, magnitude: float) -> bool:
    """Whether a right angle stays one."""
    operation = OPERATIONS[name]
    a, b, _, d, e, _ = operation.kind.matrix(float(operation.parameter(torch.tensor(magnitude))), 60, 80)
    return abs(a * b + d * e) < 1e-9


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fmt", ["XYWHR", "CXCYWHR", "XYXYXYXY"])
@pytest.mark.parametrize(("name", "magnitude"), [step for step in STEPS if stays_rectangular(*step)])
def test_rotated_boxes_cover_what_they_covered(name: str, magnitude: float, fmt: str, size: tuple[int, int]) -> None:
    height, width = size
    plan = plan_of([(name, magnitude)])
    for angle in (0.0, 17.0, -40.0, 100.0, 179.0):
        given = torch.tensor([[width / 2, height / 2, 18.0, 9.0, angle]], dtype=torch.float64)
        corners = converted(given, "CXCYWHR", "XYXYXYXY").reshape(4, 2)
        image = (distance_inside(corners, size) > 0).to(torch.uint8)[None] * 255
        boxes = boxes_of(converted(given, "CXCYWHR", fmt), fmt, size, clamping_mode=None)
        result = run((image, boxes), plan)[1].as_subclass(Tensor)
        distance = distance_inside(converted(result, fmt, "XYXYXYXY").reshape(4, 2), size)
        pixels = apply(image, plan)[0] > 0
        clear = distance.abs() > 1.0
        assert clear.float().mean() > 0.9
        assert pixels.any()
        assert torch.equal(pixels[clear], distance[clear] > 0)


WORDED = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate", "flip")  # what torchvision has a word for


def torchvisions(boxes: Any, name: str, magnitude: float) -> Any:
    """One stage in torchvision's words."""
    value, (height, width) = float(OPERATIONS[name].parameter(torch.tensor(magnitude))), boxes.canvas_size
    identity: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    degrees = math.degrees(math.atan(value))
    if name == "flip":
        return tv.horizontal_flip(boxes)
    if name == "rotate":
        return tv.rotate(boxes, angle=value)
    changed = {
        "shear_x": {"shear": [degrees, 0.0], "center": [0, 0]},
        "shear_y": {"shear": [0.0, degrees], "center": [0, 0]},
        "translate_x": {"translate": [-int(value * width), 0]},
        "translate_y": {"translate": [0, -int(value * height)]},
    }
    return tv.affine(boxes, **(identity | changed[name]))


@pytest.mark.parametrize("fmt", ["XYXY", "XYWH", "CXCYWH", "XYWHR", "CXCYWHR", "XYXYXYXY"])
def test_boxes_as_torchvisions_where_no_stage_cuts_them_or_slants_them(fmt: str) -> None:
    size, rotated = (60, 80), fmt.endswith("R") or len(fmt) == 8
    given = rectangles(30, size, angle=90) if rotated else rectangles(30, size)[:, :4]
    data = converted(given, "CXCYWHR" if rotated else "CXCYWH", fmt)
    boxes = boxes_of(data, fmt, size, clamping_mode=None)
    before = boxes.clone()
    # A rotated box stays a rectangle under all but shears. Another box is made anew by torchvision after each stage.
    worded = [step for step in STEPS if step[0] in WORDED]
    stays = [step for step in worded if stays_rectangular(*step)]
    plans = [[one, other] for one in stays for other in stays[::4]] if rotated else [[step] for step in worded]
    for steps in plans:
        result = run((torch.zeros(3, *size), boxes), plan_of(steps))[1]
        expected = boxes
        for step in steps:
            expected = torchvisions(expected, *step)
        if fmt.endswith("R"):  # an angle is the same after a whole turn
            result, expected = (torch.cat([b[:, :4], torch.deg2rad(b[:, 4:]).cos()], 1) for b in (result, expected))
        torch.testing.assert_close(result.as_subclass(Tensor), expected.as_subclass(Tensor))
    assert torch.equal(boxes, before)


@pytest.mark.parametrize("fmt", ["XYWHR", "CXCYWHR", "XYXYXYXY"])
def test_hard_clamping_of_rotated_boxes_is_torchvisions_once_at_the_end(fmt: str) -> None:
    size = (60, 80)
    data = converted(rectangles(30, size, angle=90), "CXCYWHR", fmt)
    for steps in ([step, STEPS[n - 5]] for n, step in enumerate(STEPS)):
        results = [
            run((torch.zeros(3, *size), boxes_of(data, fmt, size, clamping_mode=mode)), plan_of(steps))[1]
            for mode in ("hard", None)
        ]
        expected = tv.clamp_bounding_boxes(results[1], clamping_mode="hard")
        torch.testing.assert_close(results[0].as_subclass(Tensor), expected.as_subclass(Tensor), equal_nan=True)


@pytest.mark.parametrize("clamping_mode", [None, "soft", "hard"])
@pytest.mark.parametrize("fmt", ["XYXY", "XYWH", "CXCYWH", "XYWHR", "CXCYWHR", "XYXYXYXY"])
def test_boxes_keep_what_they_are(fmt: str, clamping_mode: str | None) -> None:
    size, numbers = (60, 80), {"XYXYXYXY": 8, "XYWHR": 5, "CXCYWHR": 5}.get(fmt, 4)
    whole_numbers = [torch.int64] if numbers == 4 else []  # torchvision has no rotated boxes of whole numbers
    for dtype in (torch.float16, torch.float32, torch.float64, *whole_numbers):
        for count in (0, 1, 3):
            data = torch.tensor([[30, 20, 40, 20, 40, 35, 30, 35]][: min(count, 1)] * max(count, 1), dtype=dtype)
            data = data.reshape(count, 8)[:, :numbers]
            boxes = boxes_of(data, fmt, size, clamping_mode=clamping_mode)
            result = run((torch.zeros(3, *size), boxes), plan_of([("rotate", 0.2), ("flip", 0.0)]))[1]
            assert (type(result), result.dtype, result.shape) == (tv_tensors.BoundingBoxes, dtype, (count, numbers))
            assert (result.format, result.canvas_size, result.clamping_mode) == (boxes.format, size, clamping_mode)


def test_boxes_without_area_stay_without() -> None:
    size = (60, 80)
    boxes = boxes_of([[30.0, 20, 30, 40], [10, 10, 10, 10], [-9, 5, -9, 25], [85, 70, 90, 80]], "XYXY", size)
    for steps in ([("flip", 0.0)], [("translate_y", 1.0), ("translate_x", 0.6)]):
        result = run((torch.zeros(3, *size), boxes), plan_of(steps))[1]
        assert result.isfinite().all()
        assert ((result[:, 2:] - result[:, :2]).amin(-1) == 0).all()
    turned = boxes_of(
        [[30.0, 20, 0, 0, 12], [30, 20, 0, 9, 12], [30, 20, 9, 0, 12]], "CXCYWHR", size, clamping_mode=None
    )
    result = run((torch.zeros(3, *size), turned), plan_of([("rotate", 0.5)]))[1]
    torch.testing.assert_close(result.as_subclass(Tensor), torchvisions(turned, "rotate", 0.5).as_subclass(Tensor))


def test_whole_numbers_are_rounded() -> None:
    size = (60, 80)

    def result(dtype: torch.dtype) -> tuple[Any, Any]:
        boxes = boxes_of([[12, 20, 25, 33], [40, 7, 30, 16]], "XYWH", size, dtype=dtype)
        points = tv_tensors.KeyPoints([[3, 50], [33, 7]], canvas_size=size, dtype=dtype)
        _, boxes, points = run((torch.zeros(1, *size), boxes, points), plan_of([("rotate", 0.5)]))
        assert boxes.dtype == points.dtype == dtype
        return boxes, points

    exact = result(torch.float64)
    assert any(not torch.equal(value, value.round()) for value in exact)
    for dtype in (torch.int64, torch.int32, torch.int16):
        for whole, value in zip(result(dtype), exact, strict=True):
            assert whole.tolist() == value.round().tolist()


def test_boxes_that_leave_are_sanitized_away() -> None:
    size = (40, 100)
    boxes = boxes_of([[0, 5, 20, 15], [60, 5, 80, 15], [30, 5, 50, 15]], "XYXY", size)
    image = tv_tensors.Image(torch.zeros(3, *size, dtype=torch.uint8))
    sample = {"image": image, "boxes": boxes, "labels": torch.tensor([1, 2, 3])}
    result = v2.SanitizeBoundingBoxes()(run(sample, plan_of([("translate_x", 1.0)])))  # 45 pixels to the left
    assert result["boxes"].tolist() == [[15, 5, 35, 15], [0, 5, 5, 15]]
    assert result["labels"].tolist() == [2, 3]


# --- key points -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "magnitude"), STEPS)
def test_key_points_go_where_a_dot_goes(name: str, magnitude: float, size: tuple[int, int]) -> None:
    plan = plan_of([(name, magnitude)])
    height, width = size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    seen = 0
    for x, y in [(x, y) for x in range(7, width - 7, 7) for y in range(7, height - 7, 9)]:
        disc = ((columns - x) ** 2 + (rows - y) ** 2 <= 25).double()[None]
        points = tv_tensors.KeyPoints([[float(x), float(y)]], canvas_size=size)
        # Bilinear, since nearest may move a small thing by half a pixel.
        result, point = run((disc, points), plan, interpolation="bilinear")
        new_x, new_y = point[0].tolist()
        if 8 <= new_x < width - 8 and 8 <= new_y < height - 8:  # else the disc is cut off
            seen += 1
            assert abs((result[0] * columns).sum() / result.sum() - new_x) < 0.02
            assert abs((result[0] * rows).sum() / result.sum() - new_y) < 0.02
    assert seen


def test_key_points_leave_the_image_and_go_back() -> None:
    points = tv_tensors.KeyPoints([[[3.0, 4.0], [0.0, 0.0]], [[79.0, 59.0], [40.0, 1.5]]], canvas_size=(60, 80))
    image = torch.zeros(1, 60, 80)
    for name, magnitude in STEPS[:-1]:
        _, away = run((image, points), plan_of([(name, magnitude)]))
        assert not torch.equal(away, points)
        _, back = run((image, points), plan_of([(name, magnitude), (name, -magnitude)]))
        torch.testing.assert_close(back, points)
        assert (type(back), back.canvas_size) == (tv_tensors.KeyPoints, (60, 80))
    _, out = run((image, points), plan_of([("translate_x", 1.0)]))
    assert out[0, 0].tolist() == [-33, 4]  # v2.SanitizeKeyPoints and v2.ClampKeyPoints are for that


# --- masks ------------------------------------------------------------------------------------------------------------

DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
]


def by_pillow(mask: Tensor, plan: Plan, row: int = 0, fill: int = 0) -> Tensor:
    image = Image.fromarray(mask.numpy())
    for stage in range(plan.stages):
        operation = OPERATIONS[NAMES[int(plan.operation[row, stage])]]
        if operation.name in GEOMETRY and plan.applied[row, stage]:
            image = operation.pillow(image, float(plan.parameter[row, stage]), Extras(fill=(fill,)))
    return torch.from_numpy(np.array(image))


EVERYTHING = Policy(
    [[*policy_of(name).sub_policies[0], *policy_of(NAMES[n - 4]).sub_policies[0]] for n, name in enumerate(NAMES)]
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_are_pillows_nearest(dtype: torch.dtype) -> None:
    levels = torch.randint(0, 2 if dtype == torch.bool else 120, (23, 31), dtype=torch.uint8)
    changed = 0
    for seed in range(30):
        plan = EVERYTHING.sample(1, torch.Generator().manual_seed(seed))
        mask = tv_tensors.Mask(levels.to(dtype))
        # The interpolation and the fill are those of images.
        image, result = run((torch.zeros(3, 23, 31, dtype=torch.uint8), mask), plan, interpolation="bilinear", fill=9)
        assert (type(result), result.dtype, result.shape) == (tv_tensors.Mask, dtype, (23, 31))
        assert torch.equal(result.as_subclass(Tensor), by_pillow(levels, plan).to(dtype))
        assert torch.equal(mask.as_subclass(Tensor), levels.to(dtype))
        assert result.data_ptr() != mask.data_ptr()
        changed += not torch.equal(result.long(), levels.long())
    assert 10 < changed < 28


def test_mask_values_are_moved_bit_by_bit() -> None:
    plan, image = plan_of([("translate_x", 1.0), ("flip", 0.0)]), torch.zeros(1, 2, 4)
    for highest in (torch.tensor(2**63 - 1), torch.tensor(2**64 - 1, dtype=torch.uint64), torch.tensor(math.nan)):
        mask = tv_tensors.Mask(highest.repeat(2, 4))
        _, result = run((image, mask), plan, fill={tv_tensors.Mask: 3})
        assert result[0, 0] == 3 if result.dtype != torch.uint64 else result[0, 0].item() == 3
        assert str(result[0, 3]) == str(mask[0, 0])


@pytest.mark.parametrize("leading", [(), (5,), (1,), (0,), (2, 3)])
def test_masks_of_any_shape(leading: tuple[int, ...]) -> None:
    plan = plan_of([("rotate", 0.8), ("shear_x", -1.0)])
    masks = torch.randint(0, 9, (*leading, 20, 24))
    _, result = run((torch.zeros(3, 20, 24), tv_tensors.Mask(masks)), plan)
    assert result.shape == masks.shape
    for mask, moved_mask in zip(masks.reshape(-1, 20, 24), result.reshape(-1, 20, 24), strict=True):
        assert torch.equal(moved_mask, by_pillow(mask.to(torch.uint8), plan).long())


def test_gradients_flow_to_soft_masks_and_key_points() -> None:
    size = (20, 24)
    mask, data = torch.rand(size, requires_grad=True), torch.tensor([[4.0, 5.0]], requires_grad=True)
    sample = (torch.zeros(3, *size), tv_tensors.Mask(mask), tv_tensors.KeyPoints(data, canvas_size=size))
    _, moved_mask, points = run(sample, plan_of([("rotate", 0.2), ("flip", 0.0)]))
    (gradient,) = torch.autograd.grad(moved_mask.sum(), mask)
    assert set(gradient.unique().tolist()) <= {0.0, 1.0, 2.0}
    assert gradient.sum() > 300
    assert torch.autograd.grad(points.sum(), data)[0].abs().sum() > 0


# --- whole samples ----------------------------------------------------------------------------------------------------


def targets(size: tuple[int, int]) -> list[Any]:
    return [
        boxes_of([[3, 4, 10, 12]], "XYXY", size),
        boxes_of([[8.0, 9.0, 6.0, 4.0, 30.0]], "CXCYWHR", size),
        tv_tensors.Mask(torch.randint(0, 5, size)),
        tv_tensors.KeyPoints([[3, 4], [10, 12]], canvas_size=size),
    ]


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(GEOMETRY)))
def test_all_but_geometry_leaves_targets_alone(name: str) -> None:
    size = (20, 24)
    plan = plan_of([(name, 1.0)] * 2)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    given = targets(size)
    _, *results = run((image, *given), plan)
    for before, after in zip(given, results, strict=True):
        assert type(after) is type(before)
        assert after is not before
        assert torch.equal(after, before)
    # And what an image skips, its targets skip.
    skipped = plan_of([("rotate", 1.0)] * 2)
    _, *results = run((image, *given), replace(skipped, applied=torch.zeros_like(skipped.applied)))
    assert all(torch.equal(before, after) for before, after in zip(given, results, strict=True))


@pytest.mark.parametrize("kind", ["tensor", "float", "image", "pil", "video", "batch of one"])
def test_targets_follow_every_kind_of_image(kind: str) -> None:
    size = (20, 24)
    plan = plan_of([("rotate", 0.9), ("translate_y", -0.5)])
    pixels = torch.zeros(1, *size, dtype=torch.uint8)
    pixels[:, 6:12, 5:15] = 1
    image = {
        "tensor": pixels,
        "float": pixels / 1.0,
        "image": tv_tensors.Image(pixels),
        "pil": Image.fromarray(pixels[0].numpy()),
        "video": tv_tensors.Video(pixels.repeat(4, 1, 1, 1)),
        "batch of one": pixels[None],
    }[kind]
    sample = {"deep": [tv_tensors.Mask(pixels[0]), {"boxes": boxes_of([[5, 6, 15, 12]], "XYXY", size)}], "image": image}
    result = run(sample, plan)
    mask, boxes = result["deep"][0], result["deep"][1]["boxes"]
    seen = np.asarray(result["image"]) if kind == "pil" else result["image"].numpy()
    assert (seen.reshape(-1, *size) == mask.numpy()).all()
    ((left, top, right, bottom),) = boxes.tolist()
    rows, columns = mask.nonzero().T
    assert abs(rows.min() - top) <= 1
    assert abs(rows.max() + 1 - bottom) <= 1
    assert abs(columns.min() - left) <= 1
    assert abs(columns.max() + 1 - right) <= 1


class Instances(tv_tensors.Mask):
    """A mask of somebody else's."""


def test_types_and_devices_are_kept() -> None:
    mask = torch.zeros(3, 20, 24).as_subclass(Instances)
    _, result = run((torch.zeros(3, 20, 24), mask), plan_of([("rotate", 0.9)]))
    assert type(result) is Instances


def test_each_of_two_sizes_has_its_own_targets() -> None:
    plan = plan_of([("translate_x", 0.7)])
    sample = [tv_tensors.Image(torch.zeros(3, *size)) for size in SIZES]
    sample += [tv_tensors.KeyPoints([[30.0, 10.0]], canvas_size=size) for size in SIZES]
    result = run(sample, plan)
    assert [points.tolist() for points in result[2:]] == [[[30.0 - int(0.315 * w), 10.0]] for _, w in SIZES]


@pytest.mark.parametrize("leading", [(6,), (2, 3), (0,)])
def test_targets_of_a_batch_follow_each_its_image(leading: tuple[int, ...]) -> None:
    count, size = math.prod(leading), (20, 24)
    plan = EVERYTHING.sample(count, torch.Generator().manual_seed(1))
    images = torch.randint(0, 256, (*leading, 3, *size), dtype=torch.uint8)
    masks, instances = torch.randint(0, 9, (*leading, *size)), torch.randint(0, 2, (*leading, 4, *size)) > 0
    points = torch.rand(*leading, 7, 2) * 20
    sample = (
        images,
        tv_tensors.Mask(masks),
        tv_tensors.Mask(instances),
        tv_tensors.KeyPoints(points, canvas_size=size),
        tv_tensors.KeyPoints(points[..., 0, :], canvas_size=size),
    )
    _, *results = run(sample, plan)
    assert [result.shape for result in results] == [value.shape for value in sample[1:]]
    moved_masks, moved_instances, moved_points, moved_first = (
        result.as_subclass(Tensor).flatten(0, len(leading) - 1) for result in results
    )
    for n in range(count):
        one = (
            torch.zeros(1, *size),
            tv_tensors.Mask(masks.reshape(-1, *size)[n]),
            tv_tensors.Mask(instances.reshape(-1, 4, *size)[n]),
            tv_tensors.KeyPoints(points.reshape(-1, 7, 2)[n], canvas_size=size),
        )
        _, mask, parts, alone = run(one, plan[n])
        assert torch.equal(moved_masks[n], mask)
        assert torch.equal(moved_instances[n], parts)
        assert torch.equal(moved_points[n], alone)
        assert torch.equal(moved_first[n], alone[0])


@pytest.mark.parametrize("layout", ["lists", "dicts", "tuples", "values"])
def test_targets_in_a_list_follow_each_its_image(layout: str) -> None:
    size, counts = (40, 60), [3, 0, 1, 3]
    plan = EVERYTHING.sample(4, torch.Generator().manual_seed(8))
    images = torch.randint(0, 256, (4, 3, *size), dtype=torch.uint8)
    each = [
        {
            "boxes": boxes_of(torch.rand(n, 4, dtype=torch.float64) * 20 + 5, "CXCYWH", size),
            "masks": tv_tensors.Mask(torch.randint(0, 2, (n, *size), dtype=torch.bool)),
            "points": tv_tensors.KeyPoints(torch.rand(n, 5, 2) * 30, canvas_size=size),
            "labels": torch.arange(n),
        }
        for n in counts
    ]
    expected = [run({"image": image, **one}, plan[n]) for n, (image, one) in enumerate(zip(images, each, strict=True))]
    names = list(each[0])
    if layout == "dicts":
        seen, result = run((tv_tensors.Image(images), each), plan)
        assert [list(one) for one in result] == [names] * 4
    elif layout == "tuples":  # as tuple(zip(*samples)) makes them
        sample = (tv_tensors.Image(images), tuple({"deep": (one, "text")} for one in each))
        seen, result = run(sample, plan)
        result = [one["deep"][0] for one in result]
    elif layout == "lists":
        sample = {"image": tv_tensors.Image(images)} | {name: [one[name] for one in each] for name in names}
        result = run(sample, plan)
        seen, result = result["image"], [{name: result[name][n] for name in names} for n in range(4)]
    else:
        seen, *result = run((images, *([one[name] for one in each] for name in names)), plan)
        result = [dict(zip(names, values, strict=True)) for values in zip(*result, strict=True)]
    moved = 0
    for n, (one, alone) in enumerate(zip(result, expected, strict=True)):
        assert torch.equal(seen[n], apply(images, plan)[n])
        assert one["labels"].tolist() == list(range(counts[n]))
        for name in ("boxes", "masks", "points"):
            assert type(one[name]) is type(alone[name])
            assert torch.equal(one[name], alone[name])
            moved += not torch.equal(one[name], each[n][name])
    assert moved >= 6


def test_a_list_with_another_number_of_entries_says_nothing() -> None:
    transform, images = FasterAutoAugment(policy_of("rotate")), torch.zeros(5, 3, 20, 24)
    boxes = targets((20, 24))[0]
    for listed in ([boxes] * 4, [boxes] * 6, [[boxes] * 5, [boxes] * 4], [boxes, boxes, boxes, boxes, None]):
        with pytest.raises(ValueError, match="BoundingBoxes do not say which image of a batch they belong to"):
            transform(images, listed)
    with pytest.raises(ValueError, match="height and width"):
        transform(images, [targets((24, 20))[0]] * 5)


def test_a_list_of_masks_of_whole_batches_is_what_it_was() -> None:
    plan, images = plan_of([("rotate", 0.9)], [("flip", 0.0)]), torch.zeros(2, 3, 20, 24)
    masks = [tv_tensors.Mask(torch.randint(0, 5, (2, 20, 24))) for _ in range(2)]
    _, results = run((images, masks), plan)
    for mask, result in zip(masks, results, strict=True):
        for n in range(2):
            assert torch.equal(result[n], run((images[n], tv_tensors.Mask(mask[n])), plan[n])[1])


def test_two_views_are_no_list_of_two_images() -> None:
    plan, images = plan_of([("flip", 0.0)], [("translate_x", 1.0)]), torch.zeros(2, 3, 20, 24)
    each = [boxes_of([[2, 4, 10, 12]], "XYXY", (20, 24)), boxes_of([[20, 4, 22, 12]], "XYXY", (20, 24))]
    views = [{"image": tv_tensors.Image(images), "boxes": each} for _ in range(2)]
    for view in run(views, plan):
        assert [boxes.tolist() for boxes in view["boxes"]] == [[[14, 4, 22, 12]], [[10, 4, 12, 12]]]


def test_masks_of_videos() -> None:
    plan = plan_of([("rotate", 0.9)], [("flip", 0.0)])
    videos = torch.randint(0, 2, (2, 5, 1, 20, 24), dtype=torch.uint8)
    sample = (tv_tensors.Video(videos), tv_tensors.Mask(videos[:, :, 0]))
    video, mask = run(sample, plan)
    assert torch.equal(video[:, :, 0], mask)
    assert not torch.equal(mask, videos[:, :, 0])


# --- fill -------------------------------------------------------------------------------------------------------------


def test_fill_by_type() -> None:
    plan = plan_of([("translate_x", 1.0)])
    white = torch.full((3, 10, 20), 255, dtype=torch.uint8)

    def corners(fill: Any) -> list[list[int]]:
        sample = [tv_tensors.Image(white), Image.new("RGB", (20, 10)), tv_tensors.Mask(white[0])]
        sample.append(tv_tensors.Video(white[None]))
        image, pil, mask, video = run(sample, plan, fill=fill)
        return [
            image[:, 0, 19].tolist(),
            list(pil.getpixel((19, 0))),
            [mask[0, 19].item()],
            video[0, :, 0, 19].tolist(),
        ]

    assert corners(7) == [[7] * 3, [7] * 3, [0], [7] * 3]
    assert corners((1, 2, 3)) == [[1, 2, 3], [1, 2, 3], [0], [1, 2, 3]]
    assert corners({tv_tensors.Mask: 250, "others": (1, 2, 3)}) == [[1, 2, 3], [1, 2, 3], [250], [1, 2, 3]]
    assert corners({tv_tensors.Image: 5, Image.Image: 6}) == [[5] * 3, [6] * 3, [0], [0] * 3]
    assert corners({"others": 4}) == [[4] * 3, [4] * 3, [4], [4] * 3]
    assert run(white, plan, fill={torch.Tensor: 8})[0, 0, 19] == 8


@pytest.mark.parametrize("fill", [256, -1, 0.5, (1, 2)])
def test_fills_that_a_mask_cannot_have(fill: Any) -> None:
    sample = (torch.zeros(3, 10, 20), tv_tensors.Mask(torch.zeros(10, 20, dtype=torch.uint8)))
    with pytest.raises(ValueError, match="fill of masks") as caught:
        run(sample, plan_of([("flip", 0.0)]), fill={tv_tensors.Mask: fill})
    assert str(caught.value) == (f"fill of masks should be one number, a value of torch.uint8, but got {fill} instead")


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", targets((20, 24)), ids=lambda target: type(target).__name__)
def test_targets_need_an_image_of_their_size(target: Any) -> None:
    transform = FasterAutoAugment(policy_of("rotate"))
    with pytest.raises(TypeError, match="should have an image") as missing:
        transform({"target": target})
    name = type(target).__name__
    assert str(missing.value) == (f"the sample should have an image (a PIL image or a tensor), but has only {name}")
    with pytest.raises(ValueError, match="height and width") as caught:
        transform([tv_tensors.Image(torch.zeros(3, 24, 20)), Image.new("L", (8, 9)), target])
    assert str(caught.value) == (
        f"{name} should have the height and width of an image of the sample, (9, 8) or (24, 20), "
        "but got (20, 24) instead"
    )


def test_targets_that_could_belong_to_any_image_of_a_batch() -> None:
    transform, images = FasterAutoAugment(policy_of("rotate")), torch.zeros(5, 3, 20, 24)
    with pytest.raises(ValueError, match="BoundingBoxes") as caught:
        transform(images, targets((20, 24))[0])
    assert str(caught.value) == (
        "BoundingBoxes do not say which image of a batch they belong to, so the sample should have one image, but got "
        "a batch of 5 instead; transform the images before they become a batch"
    )
    for target in (
        tv_tensors.Mask(torch.zeros(20, 24)),
        tv_tensors.Mask(torch.zeros(1, 5, 20, 24)),
        tv_tensors.KeyPoints(torch.zeros(4, 2), canvas_size=(20, 24)),
    ):
        with pytest.raises(ValueError, match="leading") as caught:
            transform(images, target)
        assert str(caught.value) == (
            f"{type(target).__name__} of a batch of 5 images should have its leading dimensions, but got the shape "
            f"{list(target.shape)} instead"
        )
