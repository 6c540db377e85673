"""A row that is added to the table: of an affine operation or a map of levels, it is all that an operation needs.

Each row is compared with raw Pillow, by the matrix or the table that is written down here once more, in every form and
through every way that images and targets take. shear_diagonal is also compared with a loop over pixels.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from fasteraa_transforms import OPERATIONS, Operation, Plan, Policy, PolicyError, RelaxedPolicy, apply, functional
from fasteraa_transforms.backends import cpu
from fasteraa_transforms.operations import Affine, Extras, Levels, Mix, Term
from fasteraa_transforms.pipeline import targets

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
RESAMPLING = {NEAREST: Image.Resampling.NEAREST, BILINEAR: Image.Resampling.BILINEAR}

P, ONE = Term(parameter=1.0), Term(one=1.0)
SIGNED = {"severest": 0.3, "unit": "of something", "signed": True}
ROWS = [
    Operation(name="shear_diagonal", kind=Affine(b=P, d=P), **SIGNED),
    Operation(name="slant", kind=Affine(b=P, about_centre=True), **SIGNED),
    Operation(name="drift", kind=Affine(shift_x=1.0, shift_y=-0.5), **SIGNED),
    Operation(name="zoom", kind=Affine(a=Term(1.0, 1.0), e=Term(1.0, 1.0), about_centre=True), **SIGNED),
    Operation(name="squeeze", kind=Affine(a=Term(1.0, 0.7), e=Term(1.0, -0.3), shift_x=0.1), **SIGNED),
    Operation(name="mirror_vertically", kind=Affine(e=Term(-1.0), about_centre=True)),
    Operation(
        name="turn_and_shear",
        kind=Affine(a=Term(cosine=1.0), b=Term(sine=-1.0, parameter=0.01), d=Term(sine=1.0), e=Term(cosine=1.0)),
        severest=25.0,
        unit="degrees",
        signed=True,
    ),
]
NAMES = [row.name for row in ROWS]


def expected_matrix(name: str, p: float, height: int, width: int) -> tuple[float, ...]:
    """The numbers that raw Pillow gets."""
    x, y = width / 2, height / 2
    angle = math.radians(p % 360)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    return {
        "shear_diagonal": (1, p, 0, p, 1, 0),
        "slant": (1, p, -x + p * -y + x, 0, 1, 0),
        "drift": (1, 0, int(p * width), 0, 1, int(-0.5 * p * height)),
        "zoom": (1 + p, 0, (1 + p) * -x + x, 0, 1 + p, (1 + p) * -y + y),
        "squeeze": (1 + 0.7 * p, 0, int(0.1 * p * width), 0, 1 - 0.3 * p, 0),
        "mirror_vertically": (1, 0, 0, 0, -1, height),
        "turn_and_shear": (cos, 0.01 * p + -sin, 0, sin, cos, 0),
    }[name]


def by_pillow(name: str, image: Image.Image, p: float, mode: InterpolationMode, fill: Any) -> Image.Image:
    matrix = expected_matrix(name, p, image.height, image.width)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, RESAMPLING[mode], fillcolor=fill)


@pytest.fixture(autouse=True)
def _longer_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in ROWS:
        monkeypatch.setitem(OPERATIONS, row.name, row)


def parameters(name: str, count: int) -> list[float]:
    low = -1 if OPERATIONS[name].signed else 0
    return OPERATIONS[name].parameter(torch.linspace(low, 1, count, dtype=torch.float64)).tolist()


def plan_of(*rows: list[tuple[str, float]]) -> Plan:
    """A plan by hand: for each image a list of (name, parameter)."""
    names, shape = list(OPERATIONS), (len(rows), len(rows[0]))
    return Plan(
        operation=torch.tensor([[names.index(name) for name, _ in row] for row in rows]),
        parameter=torch.tensor([[parameter for _, parameter in row] for row in rows], dtype=torch.float64),
        applied=torch.ones(shape, dtype=torch.bool),
        centre=torch.full((*shape, 2), 0.5, dtype=torch.float64),
        partner=torch.zeros(shape, dtype=torch.int64),
        sub_policy=torch.zeros(len(rows), dtype=torch.int64),
    )


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (channels, height, width), dtype=np.uint8)


def to_pil(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image).transpose(2, 0, 1)


SIZES = [(1, 1), (2, 7), (24, 17), (41, 64)]
both_modes = pytest.mark.parametrize("mode", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
each_row = pytest.mark.parametrize("name", NAMES)


# --- images -----------------------------------------------------------------------------------------------------------


@each_row
@both_modes
def test_pil_images_and_bytes_are_raw_pillows(name: str, mode: InterpolationMode) -> None:
    operation = OPERATIONS[name]
    used = mode if operation.takes else NEAREST
    for height, width in SIZES:
        pixels, values = noise(height, width), parameters(name, 41)
        expected = np.stack([to_array(by_pillow(name, to_pil(pixels), p, used, (9, 0, 200))) for p in values])
        extras = Extras(mode, (9, 0, 200))
        batch = operation.uint8(np.repeat(pixels[None], 41, axis=0), values, extras)
        assert np.array_equal(batch, expected), (height, width)
        for p, one in zip(values, expected, strict=True):
            assert np.array_equal(to_array(operation.pillow(to_pil(pixels), p, extras)), one)
        plan, options = plan_of(*([(name, p)] for p in values)), {"interpolation": mode, "fill": (9, 0, 200)}
        images = torch.from_numpy(pixels).expand(41, -1, -1, -1)
        assert np.array_equal(apply(images, plan, **options).numpy(), expected)
        assert np.array_equal(to_array(apply(to_pil(pixels), plan[3], **options)), expected[3])


@each_row
@both_modes
def test_floats_are_within_a_level_of_raw_pillow(name: str, mode: InterpolationMode) -> None:
    used = mode if OPERATIONS[name].takes else NEAREST
    for height, width in SIZES:
        pixels, values = noise(height, width), parameters(name, 21)
        expected = np.stack([to_array(by_pillow(name, to_pil(pixels), p, used, (51, 51, 51))) for p in values])
        images = (torch.from_numpy(pixels) / 255).expand(21, -1, -1, -1)
        found = apply(images, plan_of(*([(name, p)] for p in values)), interpolation=mode, fill=0.2)
        apart = ((found * 255).round() - torch.from_numpy(expected)).abs().max()
        assert apart <= (0 if used is NEAREST else 1), (height, width)


def test_shear_diagonal_is_the_loop_over_pixels() -> None:
    pixels, p = noise(19, 23), 0.21
    expected = np.full_like(pixels, 7)
    for y in range(19):
        for x in range(23):
            x_in, y_in = math.floor(x + 0.5 + p * (y + 0.5)), math.floor(y + 0.5 + p * (x + 0.5))
            if 0 <= x_in < 23 and 0 <= y_in < 19:
                expected[:, y, x] = pixels[:, y_in, x_in]
    found = apply(torch.from_numpy(pixels), plan_of([("shear_diagonal", p)]), fill=7)
    assert np.array_equal(found.numpy(), expected)


def test_the_kernels_are_raw_pillow() -> None:
    kernels = pytest.importorskip("fasteraa_transforms.backends.cuda")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels = torch.from_numpy(noise(24, 17))
    for mode in (NEAREST, BILINEAR):
        rows = [[(name, p)] for name in NAMES for p in parameters(name, 5)]
        images = pixels.expand(len(rows), -1, -1, -1)
        taken = [n for n, row in enumerate(rows) if kernels.supports(images[n : n + 1], plan_of(row))]
        assert {rows[n][0][0] for n in taken} >= {"shear_diagonal", "slant", "drift", "mirror_vertically"}
        plan = plan_of(*(rows[n] for n in taken))
        images = images[: len(taken)].contiguous()
        found = kernels.apply_plan(images.to(device), plan.to(device), interpolation=mode, fill=(9,)).cpu()
        assert torch.equal(found, apply(images, plan, interpolation=mode, fill=9))


# --- gradients and the search -----------------------------------------------------------------------------------------


@each_row
@both_modes
def test_gradients_are_those_of_a_difference(name: str, mode: InterpolationMode) -> None:
    operation = OPERATIONS[name]
    if not operation.has_magnitude:
        return
    images = torch.rand(2, 3, 5, 6, dtype=torch.float64) / 2 + 0.25
    magnitude = torch.tensor([0.37, -0.83], dtype=torch.float64, requires_grad=True)
    if mode is BILINEAR and name != "drift" and name != "squeeze":  # which move by whole pixels
        assert torch.autograd.gradcheck(
            lambda mu: functional.apply_operation(name, images, mu, interpolation=BILINEAR, fill=0.7), (magnitude,)
        )
    result = functional.apply_operation(name, images, magnitude, interpolation=mode, fill=0.7)
    (gradient,) = torch.autograd.grad(result.square().sum(), magnitude)
    assert (gradient != 0).all()


def test_a_search_chooses_among_the_new_rows() -> None:
    policy = RelaxedPolicy(2, 2, operations=(*NAMES, "color"))
    images = torch.rand(4, 3, 12, 12)
    policy(images).square().sum().backward()
    assert policy.magnitudes.grad.abs().sum((0, 1))[0] > 0
    masks = policy.move_masks(torch.rand(4, 2, 12, 12), policy.draw(4))
    assert masks.shape == (4, 2, 12, 12)


def test_the_public_function_follows_from_the_row() -> None:
    images = torch.rand(3, 3, 9, 9)
    for name in NAMES:
        function: Callable[..., Tensor] = getattr(functional, name)
        assert function.__name__ == name
        arguments = inspect.signature(function).parameters
        has_magnitude = OPERATIONS[name].has_magnitude
        assert list(arguments) == ["images", *(["magnitude"] if has_magnitude else []), *OPERATIONS[name].takes]
        given = (images, 0.8) if has_magnitude else (images,)
        assert torch.equal(function(*given), functional.apply_operation(name, images, 0.8))
    with pytest.raises(TypeError, match="magnitude"):
        functional.shear_diagonal(images)
    with pytest.raises(TypeError, match="centre"):
        functional.shear_diagonal(images, 0.5, centre=None)
    with pytest.raises(AttributeError, match=r"module 'fasteraa_transforms.functional' has no attribute 'swirl'"):
        functional.swirl  # noqa: B018


# --- targets ----------------------------------------------------------------------------------------------------------


@each_row
def test_masks_are_raw_pillows(name: str) -> None:
    pixels = noise(24, 17, 1)[0]
    for p in parameters(name, 9):
        expected = np.asarray(by_pillow(name, Image.fromarray(pixels), p, NEAREST, 3))
        for dtype in (torch.uint8, torch.int64, torch.float32):
            mask = tv_tensors.Mask(torch.from_numpy(pixels).to(dtype))
            found = targets.transform(mask, plan_of([(name, p)]), fill=3)
            assert np.array_equal(found.numpy(), expected)


@each_row
def test_key_points_go_where_their_pixels_go(name: str) -> None:
    for p in parameters(name, 5):
        a, b, c, d, e, f = expected_matrix(name, p, 60, 80)
        where = torch.tensor([[31.0, 22.0], [40.0, 30.0], [25.0, 37.0]])
        points = tv_tensors.KeyPoints(where, canvas_size=(60, 80))
        found = targets.transform(points, plan_of([(name, p)])) + 0.5
        back = torch.stack([a * found[:, 0] + b * found[:, 1] + c, d * found[:, 0] + e * found[:, 1] + f], 1)
        torch.testing.assert_close(back.as_subclass(Tensor), where + 0.5, rtol=0, atol=1e-4)


@each_row
def test_boxes_touch_the_pixels_of_their_object(name: str) -> None:
    for p in parameters(name, 5):
        mask = torch.zeros(90, 120, dtype=torch.uint8)
        mask[35:55, 50:75] = 1
        plan = plan_of([(name, p)])
        rows, columns = targets.transform(tv_tensors.Mask(mask), plan).nonzero().unbind(1)
        box = tv_tensors.BoundingBoxes([[50.0, 35.0, 75.0, 55.0]], format="XYXY", canvas_size=(90, 120))
        found = targets.transform(box, plan)[0]
        expected = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (found.as_subclass(Tensor) - expected).abs().max() <= 1.5, (name, p)


# --- maps of levels ---------------------------------------------------------------------------------------------------


def gamma_table(exponent: float) -> bytes:
    return bytes(round(255 * (level / 255) ** exponent) for level in range(256))


def test_a_map_of_levels_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Operation(name="gamma", kind=Levels(gamma_table), weakest=1.0, severest=1.9, unit="exponent", signed=True)
    monkeypatch.setitem(OPERATIONS, "gamma", row)
    assert row.takes == ()
    assert row.straight_through
    values = parameters("gamma", 9)
    for channels in (1, 3, 4):
        pixels = noise(15, 22, channels)
        expected = np.stack([np.frombuffer(gamma_table(p), dtype=np.uint8)[pixels] for p in values])
        plan = plan_of(*([("gamma", p)] for p in values))
        images = torch.from_numpy(pixels).expand(9, -1, -1, -1)
        assert np.array_equal(apply(images, plan).numpy(), expected)
        found = apply(images / 255, plan)
        assert torch.equal((found * 255).round(), torch.from_numpy(expected).float())
        if channels == 3:
            assert np.array_equal(to_array(apply(to_pil(pixels), plan[2])), expected[2])
    image = Image.fromarray(np.dstack([noise(15, 22)[0], noise(16, 22)[0, :15]]), "LA")
    result = apply(image, plan_of([("gamma", 2.0)]))
    assert result.getchannel("A").tobytes() == image.getchannel("A").tobytes()
    assert result.getchannel("L").tobytes() == image.getchannel("L").point(list(gamma_table(2.0))).tobytes()

    images, magnitude = torch.rand(2, 3, 4, 4, requires_grad=True), torch.tensor([0.5, 0.7], requires_grad=True)
    functional.gamma(images, magnitude).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))  # straight through
    assert magnitude.grad.tolist() == [48.0, 48.0]  # eq. 6
    box = tv_tensors.BoundingBoxes([[2, 3, 5, 6]], format="XYXY", canvas_size=(9, 9))
    assert torch.equal(targets.transform(box, plan_of([("gamma", 2.0)])), box)


def test_an_operation_of_another_kind_needs_its_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"^pillow should be given for an operation of the kind Mix$"):
        Operation(name="mixture", kind=Mix(), severest=1.0)
    pairing = OPERATIONS["sample_pairing"]
    forms = {form: getattr(pairing, form) for form in ("pillow", "uint8", "differentiable")}
    monkeypatch.setitem(OPERATIONS, "mixture", Operation(name="mixture", kind=Mix(), severest=0.5, **forms))
    images = torch.from_numpy(np.stack([noise(5, 5), noise(6, 5)[:, :5]]))
    for dtype in (torch.uint8, torch.float64):
        plan = plan_of([("mixture", 0.5)], [("mixture", 0.5)])
        found = apply(images.to(dtype) / (1 if dtype == torch.uint8 else 255), plan)
        same = apply(
            images.to(dtype) / (1 if dtype == torch.uint8 else 255),
            plan_of([("sample_pairing", 0.5)] * 1, [("sample_pairing", 0.5)]),
        )
        assert torch.equal(found, same)


def test_a_plan_names_the_new_rows() -> None:
    plan = plan_of([("shear_diagonal", 0.25), ("mirror_vertically", 0.0)])
    assert repr(plan) == "Plan(1 image, 2 stages, cpu)\n  0: shear_diagonal(0.25 of something) → mirror_vertically"
    assert cpu.takes(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), plan)


def test_a_policy_names_the_new_rows() -> None:
    candidates = [
        {"operation": "shear_diagonal", "weight": 1, "probability": 0.5, "magnitude": 0.25},
        {"operation": "mirror_vertically", "weight": 1, "probability": 0.5},
    ]
    policy = Policy([[candidates]])
    assert Policy.from_json(policy.to_json()) == policy
    assert [each.operation for each in policy.sub_policies[0][0]] == ["shear_diagonal", "mirror_vertically"]
    with pytest.raises(PolicyError, match="as mirror_vertically has no magnitude"):
        Policy([[[candidates[1] | {"magnitude": 0.5}]]])
    with pytest.raises(PolicyError, match=r"expected one of shear_x, .*, shear_diagonal, .*, mirror_vertically, "):
        Policy([[[candidates[1] | {"operation": "mirror"}]]])
