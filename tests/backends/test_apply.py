"""A plan applied to images: against Pillow stage by stage, a batch against its images one by one, and refusals."""

import tracemalloc
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from fasteraa_transforms import OPERATIONS, Epilogue, Plan, Policy, apply, backends
from fasteraa_transforms.backends import cpu
from fasteraa_transforms.backends.epilogue import finish
from fasteraa_transforms.operations import Extras

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
NAMES = list(OPERATIONS)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Photographs = list[NDArray[np.uint8]]


# --- images and plans -------------------------------------------------------------------------------------------------


def crops(photographs: Photographs, count: int, channels: int, height: int, width: int) -> Tensor:
    """``count`` different pieces of the photographs, uint8 [count, channels, height, width]."""
    rng = np.random.default_rng(height * width + channels)
    pieces = []
    for n in range(count):
        photograph = photographs[n % len(photographs)]
        step = int(rng.integers(1, 4))  # from close up to far away
        top = int(rng.integers(0, photograph.shape[0] - step * height + 1))
        left = int(rng.integers(0, photograph.shape[1] - step * width + 1))
        piece = photograph[top : top + step * height : step, left : left + step * width : step]
        bands = [*np.moveaxis(piece, 2, 0), np.asarray(Image.fromarray(np.ascontiguousarray(piece)).convert("L"))]
        pieces.append(np.stack(bands[-1:] if channels == 1 else bands[:channels]))
    return torch.from_numpy(np.stack(pieces))


def every_operation(stages: int = 3, seed: int = 0) -> Policy:
    """Random sub-policies over all 17 operations; their probabilities and magnitudes include 0 and 1."""
    rng = np.random.default_rng(seed)

    def candidate(name: str) -> dict[str, Any]:
        probability, magnitude = np.clip(rng.uniform(-0.2, 1.2, 2), 0, 1).tolist()
        candidate = {"operation": name, "weight": rng.uniform(0.5, 1), "probability": max(probability, 0.3)}
        return {**candidate, "magnitude": magnitude} if OPERATIONS[name].has_magnitude else candidate

    return Policy([[[candidate(name) for name in NAMES] for _ in range(stages)] for _ in range(8)])


def draw(count: int, stages: int = 3, seed: int = 0) -> Plan:
    return every_operation(stages, seed).sample(count, torch.Generator().manual_seed(seed))


def plan_of(*rows: list[tuple[Any, ...]]) -> Plan:
    """A plan by hand: for each image a list of (name, parameter = 0, partner = 0); the name None is no operation."""
    steps = [[(*step, *(0.0, 0)[len(step) - 1 :]) for step in row] for row in rows]
    shape = (len(steps), len(steps[0]))
    return Plan(
        operation=torch.tensor([[NAMES.index(name) if name else 0 for name, _, _ in row] for row in steps]),
        parameter=torch.tensor([[parameter for _, parameter, _ in row] for row in steps], dtype=torch.float64),
        applied=torch.tensor([[name is not None for name, _, _ in row] for row in steps]),
        centre=torch.full((*shape, 2), 0.5, dtype=torch.float64),
        partner=torch.tensor([[partner for _, _, partner in row] for row in steps]),
        sub_policy=torch.zeros(shape[0], dtype=torch.int64),
    )


def by_pillow(images: Tensor, plan: Plan, interpolation: InterpolationMode, fill: Any) -> Tensor:
    """Every image for itself through the Pillow forms, stage by stage, with the partners as they came in."""
    pictures = [to_pil_image(image) for image in images]
    results = []
    for n, result in enumerate(pictures):
        for stage in range(plan.stages):
            operation = OPERATIONS[NAMES[int(plan.operation[n, stage])]]
            extras = Extras(
                interpolation,
                fill if isinstance(fill, tuple) else (fill,),
                tuple(plan.centre[n, stage].tolist()),
                pictures[int(plan.partner[n, stage])],
            )
            if plan.applied[n, stage]:
                result = operation.pillow(result, plan.parameter[n, stage].item(), extras)
        results.append(pil_to_tensor(result))
    return torch.stack(results)


def one_by_one(images: Tensor, plan: Plan, **kwargs: Any) -> Tensor:
    """Each image with nothing but the partners it needs, which themselves are left alone."""
    results = []
    for n in range(len(images)):
        rows = [n, *plan.partner[n].tolist()]
        alone = plan[torch.tensor(rows)]
        applied, partner = alone.applied.clone(), alone.partner.clone()
        applied[1:] = False
        partner[0] = torch.arange(1, len(rows))
        partner[1:] = 0
        results.append(apply(images[rows], replace(alone, applied=applied, partner=partner), **kwargs)[0])
    return torch.stack(results)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("channels", "height", "width"), [(3, 32, 32), (1, 32, 32), (3, 23, 41), (1, 45, 19), (3, 111, 97), (3, 2, 5)]
)
def test_uint8_batch_equals_pillow(
    photographs: Photographs, channels: int, height: int, width: int, interpolation: InterpolationMode
) -> None:
    images = crops(photographs, 80, channels, height, width)
    plan = draw(80, seed=height)
    assert set(plan.operation[plan.applied].tolist()) == set(range(len(NAMES)))
    fill = 77 if channels == 1 else (10, 200, 77)
    result = apply(images, plan, interpolation=interpolation, fill=fill)
    assert torch.equal(result, by_pillow(images, plan, interpolation, fill))
    assert not torch.equal(result, images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_batch_equals_one_by_one(photographs: Photographs, channels: int, dtype: torch.dtype) -> None:
    images = torch.cat([crops(photographs, 60, n, 17, 29) for n in (1, 2, 3, 4, 4)], 1)[:, -channels:]
    images, plan = (images if dtype == torch.uint8 else (images.int() * 251).to(dtype)), draw(60)
    assert torch.equal(apply(images, plan), one_by_one(images, plan))


@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_float_batch_and_its_gradients_equal_one_by_one(
    photographs: Photographs, channels: int, interpolation: InterpolationMode
) -> None:
    plan = draw(50)
    weights = torch.rand(50, channels, 15, 18, dtype=torch.float64)
    results, gradients = [], []
    for form in (apply, one_by_one):
        images = (crops(photographs, 50, channels, 15, 18).double() / 255).requires_grad_()
        result = form(images, plan, interpolation=interpolation)
        (result * weights).sum().backward()
        results.append(result.detach())
        gradients.append(images.grad)
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-9)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pil_equals_tensor(
    photographs: Photographs, channels: int, mode: str, interpolation: InterpolationMode
) -> None:
    images, plan = crops(photographs, 40, channels, 31, 22), draw(40)
    for n, image in enumerate(images):
        result = apply(to_pil_image(image), plan[n], interpolation=interpolation, fill=9)
        assert (result.mode, result.size) == (mode, (22, 31))
        assert torch.equal(pil_to_tensor(result), apply(image, plan[n], interpolation=interpolation, fill=9))


@pytest.mark.parametrize("colours", ["L", "RGB"])
def test_alpha_follows_geometry_only(photographs: Photographs, colours: str) -> None:
    (image,) = crops(photographs, 1, 3, 26, 35)
    opaque = to_pil_image(image).convert(colours)
    alpha = to_pil_image(image).getchannel("G")
    image_with_alpha = opaque.copy()
    image_with_alpha.putalpha(alpha)
    for name, operation in OPERATIONS.items():
        parameter = float(operation.parameter(torch.tensor(0.8)))
        plan = plan_of([(name, parameter)])
        result = apply(image_with_alpha, plan)
        assert result.mode == colours + "A"
        assert result.convert(colours).tobytes() == apply(opaque, plan).tobytes(), name
        moved = "interpolation" in operation.takes or name == "flip"
        assert result.getchannel("A").tobytes() == (apply(alpha, plan) if moved else alpha).tobytes(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint16])
@pytest.mark.parametrize("channels", [1, 3, 13])
@pytest.mark.parametrize("name", NAMES)
def test_other_dtypes_are_within_a_level_of_uint8(
    photographs: Photographs, name: str, channels: int, dtype: torch.dtype
) -> None:
    operation = OPERATIONS[name]
    magnitude = torch.linspace(-1 if operation.signed else 0, 1, 24, dtype=torch.float64)
    images = torch.cat([crops(photographs, 24, n, 30, 43) for n in (3, 3, 3, 4)], 1)[:, :channels]
    white = 65535 if dtype == torch.uint16 else 1
    steps = [[(name, parameter, (n + 7) % 24)] for n, parameter in enumerate(operation.parameter(magnitude).tolist())]
    plan = plan_of(*steps)
    for interpolation in (NEAREST, BILINEAR) if "interpolation" in operation.takes else (NEAREST,):
        exact = apply(images, plan, interpolation=interpolation, fill=51)
        result = apply((images.double() / 255 * white).to(dtype), plan, interpolation=interpolation, fill=0.2 * white)
        assert result.dtype == dtype
        apart = ((result.double() / white * 255).round() - exact).abs()
        allowed = torch.ones_like(apart)
        if dtype == torch.float16 and name == "auto_contrast":  # also stretches what the half precision has rounded
            allowed += (255 / 8 / (images.amax((2, 3), True) - images.amin((2, 3), True)).clamp(min=1)).ceil()
        assert (apart <= allowed).all()


def test_half_precision_is_stretched_by_the_operations_that_the_page_names(photographs: Photographs) -> None:
    images, stretched = crops(photographs, 60, 3, 48, 48), {}
    for name, operation in OPERATIONS.items():
        magnitude = torch.linspace(-1 if operation.signed else 0, 1, 60, dtype=torch.float64)
        steps = zip(operation.parameter(magnitude).tolist(), range(60), strict=True)
        plan = plan_of(*([(name, parameter, (n + 7) % 60)] for parameter, n in steps))
        exact = apply(images.double() / 255, plan, interpolation=BILINEAR) * 255
        for dtype, rounding in ((torch.float16, 1 / 16), (torch.bfloat16, 1 / 2)):
            result = apply((images.double() / 255).to(dtype), plan, interpolation=BILINEAR).double() * 255
            apart = (result - exact).abs().max().item()
            if apart > 2 * rounding:  # when it comes in and when it goes out
                stretched[name, dtype] = apart / rounding
    assert {name for name, _ in stretched} == {"contrast", "color", "brightness", "sharpness", "auto_contrast"}
    for (name, dtype), apart in stretched.items():
        assert apart < (41 if name == "auto_contrast" else 3.8), (name, dtype)  # 1.9 of a pixel, 0.9 of luma, and 1


def test_uint16_is_float64_rounded(photographs: Photographs) -> None:
    images, plan = (crops(photographs, 60, 3, 16, 21).int() * 257 - 100).clamp(0).to(torch.uint16), draw(60)
    assert images.double().div(257).frac().count_nonzero() > images.numel() / 2
    smooth = apply(images.double() / 65535, plan, interpolation=BILINEAR, fill=1 / 65535)
    result = apply(images, plan, interpolation=BILINEAR, fill=1.9)
    assert torch.equal(result, (smooth * 65535).round().to(torch.uint16))
    assert torch.equal(apply(images, plan_of(*([(None,)] for _ in range(60)))), images)


@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
def test_pillows_16_bit_images_are_uint16_tensors(photographs: Photographs, interpolation: InterpolationMode) -> None:
    images, plan = (crops(photographs, 40, 1, 31, 22).int() * 251).to(torch.uint16), draw(40)
    for n, image in enumerate(images):
        result = apply(Image.fromarray(image[0].numpy()), plan[n], interpolation=interpolation, fill=50000)
        assert (result.mode, result.size) == ("I;16", (22, 31))
        expected = apply(image, plan[n], interpolation=interpolation, fill=50000)
        assert np.array_equal(np.asarray(result), expected[0].numpy())
    turned = Image.fromarray(images[0, 0].numpy()).rotate(20, fillcolor=50000)
    result = apply(Image.fromarray(images[0, 0].numpy()), plan_of([("rotate", 20.0)]), fill=50000)
    assert np.array_equal(np.asarray(result), np.asarray(turned))  # Pillow's own, where it has it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_floats_are_computed_in_float32(photographs: Photographs, dtype: torch.dtype) -> None:
    images, plan = (crops(photographs, 60, 3, 16, 21) / 255).to(dtype), draw(60)
    assert torch.equal(apply(images, plan), apply(images.float(), plan).to(dtype))


def test_autocast_changes_nothing(photographs: Photographs) -> None:
    images = crops(photographs, 20, 3, 16, 21) / 255
    plan = plan_of(*([("sharpness", 1.9), ("rotate", 10.0)] for _ in range(20)))
    expected = apply(images, plan, interpolation=BILINEAR)
    with torch.autocast("cpu", torch.bfloat16):
        result = apply(images, plan, interpolation=BILINEAR)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_number_of_images_at_a_time_changes_nothing(
    photographs: Photographs, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, plan = crops(photographs, 60, 3, 16, 21), draw(60)
    images = images if dtype == torch.uint8 else images / 255
    results = []
    for values in (1, 3000, 2**40):
        monkeypatch.setattr(cpu, "_CHUNK", values)
        results.append(apply(images, plan))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_many_large_images_need_little_more_memory_than_one() -> None:
    images = torch.randint(0, 256, (8, 3, 240, 320), dtype=torch.uint8)
    peaks = []
    for count in (1, 8):
        plan = plan_of(*([("rotate", 20.0)] for _ in range(count)))
        apply(images[:count], plan)
        tracemalloc.start()
        apply(images[:count], plan)
        peaks.append(tracemalloc.get_traced_memory()[1] - images[:count].numel())  # beyond the result
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("name", ["shear_x", "shear_y", "rotate"])
@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR])
def test_a_photograph_is_moved_in_the_memory_of_two_more(name: str, interpolation: InterpolationMode) -> None:
    image = torch.randint(0, 256, (3, 1200, 1600), dtype=torch.uint8)
    plan = plan_of([(name, 0.2 if name != "rotate" else 20.0)])
    tracemalloc.start()
    found = apply(image, plan, interpolation=interpolation, fill=(1, 2, 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 3 * image.numel()
    pil = to_pil_image(image)
    assert torch.equal(found, pil_to_tensor(apply(pil, plan, interpolation=interpolation, fill=(1, 2, 3))))


# Beyond images and result: some hundred KiB.
@pytest.mark.parametrize(
    ("count", "size", "interpolation"),
    [(128, 32, NEAREST), (128, 32, BILINEAR), (64, 224, NEAREST), (64, 224, BILINEAR)],
)
def test_a_batch_needs_at_most_three_times_its_memory(count: int, size: int, interpolation: InterpolationMode) -> None:
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    plan = draw(count, stages=2)
    apply(images, plan, interpolation=interpolation)
    tracemalloc.start()
    apply(images, plan, interpolation=interpolation)
    peak = images.numel() + tracemalloc.get_traced_memory()[1]  # the images themselves are the one thing not traced
    tracemalloc.stop()
    assert 2 * images.numel() < peak <= 3 * images.numel()


# --- sample pairing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64])
def test_partner_is_the_untouched_image(dtype: torch.dtype) -> None:
    scale = 1 if dtype == torch.uint8 else 255
    images = torch.tensor([10, 100], dtype=torch.float64).reshape(2, 1, 1, 1).expand(2, 1, 4, 4) / scale
    plan = plan_of(
        [("invert",), ("sample_pairing", 0.4, 1), ("sample_pairing", 0.4, 1)], [("invert",), ("invert",), ("invert",)]
    )
    result = apply(images.to(dtype), plan).double() * scale
    # 245 is blended with 100, not with the 155 that the partner has become.
    first = 245 + 0.4 * (100 - 245)
    assert abs(result[0] - (first + 0.4 * (100 - first))).max() < 1
    assert abs(result[1] - 155).max() < 1e-9


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_own_partner_changes_nothing(photographs: Photographs, dtype: torch.dtype) -> None:
    images = crops(photographs, 2, 3, 8, 9)
    images = images if dtype == torch.uint8 else images / 255
    plan = plan_of([("invert",), ("sample_pairing", 0.4, 0)], [(None,), (None,)])
    assert torch.equal(apply(images, plan)[0], apply(images, plan_of([("invert",)], [(None,)]))[0])


def test_one_image_has_no_partner(photographs: Photographs) -> None:
    (image,) = crops(photographs, 1, 3, 8, 9)
    for partner in (0, 5):  # 5: cut out of a larger plan
        plan = plan_of([("invert",), ("sample_pairing", 0.4, partner)])
        assert torch.equal(apply(image, plan), 255 - image)
        assert torch.equal(pil_to_tensor(apply(to_pil_image(image), plan)), 255 - image)
        assert torch.equal(apply(image / 255, plan), 1 - image / 255)


# --- NaN, infinities, and the ends of the range -----------------------------------------------------------------------

NOT_FINITE = {float("nan"): 0.0, float("inf"): 1.0, -float("inf"): 0.0}  # and what is taken in its place


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR], ids=["nearest", "bilinear"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_taken_for_0_or_1(
    photographs: Photographs, name: str, interpolation: InterpolationMode, dtype: torch.dtype
) -> None:
    operation = OPERATIONS[name]
    magnitudes = [-1.0, -0.5, 0.0, 0.4, 1.0] if operation.signed else [0.0, 0.2, 0.5, 0.7, 1.0]
    plan = plan_of(*([(name, float(operation.parameter(torch.tensor(m))), 1), ("invert",)] for m in magnitudes))
    for channels in (1, 3):
        clean = (crops(photographs, 5, channels, 13, 17) / 255).to(dtype)
        for value, instead in NOT_FINITE.items():
            images, expected = clean.clone(), clean.clone()
            for n in range(5):
                images[n, n % channels, 2 * n, 3 * n + 1], expected[n, n % channels, 2 * n, 3 * n + 1] = value, instead
            result = apply(images, plan, interpolation=interpolation)
            assert result.isfinite().all()
            assert torch.equal(result, apply(expected, plan, interpolation=interpolation))


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_image_that_nothing_happens_to_keeps_what_is_not_finite(dtype: torch.dtype) -> None:
    images = torch.tensor(list(NOT_FINITE), dtype=dtype).expand(3, 1, 1, 3)
    result = apply(images, plan_of([(None,)], [("invert",)], [("sample_pairing", 0.4, 2)]))
    for n in (0, 2):
        assert torch.equal(result[n].nan_to_num(7.0, 8.0, 9.0), torch.tensor([[[7.0, 8.0, 9.0]]], dtype=dtype))
    assert result[1].flatten().tolist() == [1.0, 0.0, 1.0]
    assert apply(images, plan_of(*[[(None,)]] * 3)).isnan().sum() == 3


def test_gradients_of_what_is_not_finite_are_0() -> None:
    images = torch.rand(17, 3, 6, 7)
    images[:, 1, 2, 3] = torch.nan
    images.requires_grad_()
    plan = plan_of(*([(name, 0.6, 0)] for name in NAMES))
    apply(images, plan, interpolation=BILINEAR).square().sum().backward()
    assert images.grad.isfinite().all()
    assert (images.grad[:, 1, 2, 3] == 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_bilinear_stays_in_the_range_of_the_image(dtype: torch.dtype) -> None:
    angles = torch.linspace(-30, 30, 64, dtype=torch.float64).tolist()
    plan = plan_of(*([("rotate", angle), ("shear_x", angle / 100)] for angle in angles))
    for low, high in ((1.0, 1.0), (0.0, 1.0), (0.3, 0.7)):
        images = (low + (high - low) * (torch.rand(64, 3, 32, 32) < 0.1)).to(dtype).requires_grad_()
        for given in (images, images.detach()):
            result = apply(given, plan, interpolation=BILINEAR, fill=high)
            assert result.min() >= images.min()
            assert result.max() <= images.max()
    result.sum()
    (gradient,) = torch.autograd.grad(apply(images, plan, interpolation=BILINEAR, fill=0.0).double().sum(), images)
    assert gradient.min() >= 0
    assert gradient.mean() > 0.5


# --- layout, memory, metadata -----------------------------------------------------------------------------------------

LAYOUTS = {
    "channels-last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "transposed": lambda images: images.transpose(2, 3).contiguous().transpose(2, 3),
    "every-other": lambda images: torch.stack([images, 255 - images], dim=1)[:, 0],
    "wide": lambda images: torch.cat([images, images], dim=3)[..., : images.shape[3]],
    "expanded": lambda images: images[:1].expand(len(images), -1, -1, -1),
}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_changes_nothing(photographs: Photographs, layout: str, dtype: torch.dtype) -> None:
    images, plan = crops(photographs, 40, 3, 14, 19), draw(40)
    images = LAYOUTS[layout](images if dtype == torch.uint8 else images / 255)
    assert not images.is_contiguous()
    torch.testing.assert_close(apply(images, plan), apply(images.contiguous(), plan), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, *FLOATS])
@pytest.mark.parametrize("channels", [1, 3])
def test_input_is_not_written_and_not_shared(photographs: Photographs, channels: int, dtype: torch.dtype) -> None:
    # 2 × 3 pixels, one channel: where color and sharpness are the identity and may hand back what they are given.
    for height, width in ((2, 3), (12, 13)):
        images = crops(photographs, 30, channels, height, width)
        images = images if dtype == torch.uint8 else (images / 255).to(dtype)
        for plan in (draw(30), *(plan_of(*([(name, 1.0, 1)] for _ in range(30))) for name in (None, *NAMES))):
            before = images.clone()
            result = apply(images, plan)
            assert torch.equal(images, before)
            assert (result.shape, result.dtype, result.device) == (images.shape, images.dtype, images.device)
            result.fill_(1)
            assert torch.equal(images, before)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pil_input_is_not_written_and_not_shared(photographs: Photographs, mode: str) -> None:
    image = Image.fromarray(photographs[0][:20, :30]).convert(mode)
    before = image.tobytes()
    for name in (None, *NAMES):
        result = apply(image, plan_of([(name, 1.0)]))
        assert (result.mode, result.size) == (mode, (30, 20))
        assert result is not image
        result.paste(0, (0, 0, 30, 20))
        assert image.tobytes() == before


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("leading", [(), (1,), (24,), (2, 12), (2, 3, 4)])
def test_leading_dimensions_are_flattened(
    photographs: Photographs, leading: tuple[int, ...], dtype: torch.dtype
) -> None:
    count = int(np.prod(leading))
    images, plan = crops(photographs, count, 3, 11, 12), draw(count)
    images = images if dtype == torch.uint8 else images / 255
    result = apply(images.reshape(*leading, 3, 11, 12), plan)
    assert result.shape == (*leading, 3, 11, 12)
    assert torch.equal(result.reshape(images.shape), apply(images, plan))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 3, 8, 8), (4, 3, 0, 8), (4, 3, 8, 0), (4, 0, 8, 8)])
def test_nothing_to_do(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    images = torch.zeros(shape, dtype=dtype)
    result = apply(images, draw(int(np.prod(shape[:-3]))))
    assert (result.shape, result.dtype) == (images.shape, images.dtype)


def test_nothing_to_do_pil() -> None:
    assert apply(Image.new("RGB", (0, 7)), draw(1)).size == (0, 7)


def test_nothing_to_do_passes_gradients() -> None:
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    apply(images, plan_of([(None,)], [(None,)])).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "names"), [(NEAREST, ("nearest", 0, Image.Resampling.NEAREST)), (BILINEAR, ("bilinear", 2))]
)
def test_interpolation_as_torchvision_takes_it(
    photographs: Photographs, mode: InterpolationMode, names: tuple[str | int, ...]
) -> None:
    images, plan = crops(photographs, 1, 3, 20, 20), plan_of([("rotate", 17.0)])
    expected = apply(images, plan, interpolation=mode)
    for name in names:
        assert torch.equal(apply(images, plan, interpolation=name), expected)
    assert not torch.equal(apply(images, plan, interpolation=NEAREST), apply(images, plan, interpolation=BILINEAR))


def test_fill_is_in_the_range_of_the_image() -> None:
    images = torch.full((1, 3, 10, 10), 255, dtype=torch.uint8)
    plan = plan_of([("translate_x", 0.3)])
    colour = torch.tensor([51, 102, 0], dtype=torch.uint8)[:, None, None]
    for fill in ((51, 102, 0), [51, 102.0, 0.9]):
        assert (apply(images, plan, fill=fill)[0, :, :, 7:] == colour).all()
        assert (pil_to_tensor(apply(to_pil_image(images[0]), plan, fill=fill))[:, :, 7:] == colour).all()
    smooth = apply(images / 255, plan, fill=(0.2, 0.4, 0))
    torch.testing.assert_close(smooth[0, :, :, 7:], (colour / 255).expand(3, 10, 3))
    assert (apply(images, plan, fill=7)[..., 7:] == 7).all()
    assert (apply(images, plan, fill=[7])[..., 7:] == 7).all()
    assert (apply(images, plan)[..., 7:] == 0).all()
    assert (apply(images, plan)[..., :7] == 255).all()


def test_no_fill_is_a_fill_of_0(photographs: Photographs) -> None:
    images, plan = crops(photographs, 1, 3, 20, 20), plan_of([("rotate", 17.0)])
    for given in (images, images / 255, to_pil_image(images[0]), (images * 257).to(torch.uint16)):
        found, expected = apply(given, plan, fill=None), apply(given, plan, fill=0)
        assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected


# --- backends ---------------------------------------------------------------------------------------------------------


def test_a_backend_is_a_module_and_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for images of 7 × 7 bytes, that inverts them and asks no operation."""
    module = types.ModuleType("sevens")
    module.takes = lambda images, plan: images.dtype == torch.uint8 and images.shape[-2:] == (7, 7)
    module.run = lambda images, plan, extras, epilogue: finish(255 - images, epilogue)
    monkeypatch.setattr(backends, "BACKENDS", [backends.Backend(module.takes, module.run), *backends.BACKENDS])

    small, large = (torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8) for size in (7, 8))
    plan = plan_of([("flip",)], [("flip",)])
    assert torch.equal(apply(small, plan), 255 - small)
    assert torch.equal(apply(small, plan, epilogue=Epilogue()), Epilogue()(255 - small))
    assert torch.equal(apply(large, plan), large.flip(-1))
    assert torch.equal(apply(small / 255, plan), small.flip(-1) / 255)
    with pytest.raises(ValueError, match="the plan should have one row for each image, but has 2 for 1"):
        apply(small[:1], plan)  # options are checked before any backend is asked


# --- refusals ---------------------------------------------------------------------------------------------------------

IMAGE = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
PICTURE = Image.new("RGB", (8, 8))
IDLE = plan_of([(None,)])


@pytest.mark.parametrize(
    ("images", "plan", "options", "error", "message"),
    [
        (
            IMAGE.to(torch.int64),
            IDLE,
            {},
            TypeError,
            "the dtype of images should be one of torch.uint8, torch.uint16, torch.float16, torch.bfloat16, "
            "torch.float32, torch.float64, but got torch.int64 instead",
        ),
        (IMAGE.numpy(), IDLE, {}, TypeError, "images should be a PIL image or a tensor, but got ndarray instead"),
        (
            Image.new("P", (8, 8)),
            IDLE,
            {},
            TypeError,
            "image mode should be one of L, LA, RGB, RGBA, I;16, but got P instead; convert it first, for example with "
            'image.convert("RGB"), or wrap it as a tv_tensors.Mask if it is a mask',
        ),
        (IMAGE[0, 0], IDLE, {}, ValueError, "images should have the shape [..., C, H, W], but got [8, 8] instead"),
        (
            IMAGE,
            plan_of([(None,)], [(None,)]),
            {},
            ValueError,
            "the plan should have one row for each image, but has 2 for 1",
        ),
        (
            PICTURE,
            plan_of([(None,)], [(None,)]),
            {},
            ValueError,
            "the plan should have one row for each image, but has 2 for 1",
        ),
        (
            IMAGE[:0],
            IDLE,
            {},
            ValueError,
            "the plan should have one row for each image, but has 1 for 0",
        ),
        (
            IMAGE,
            IDLE,
            {"interpolation": InterpolationMode.BICUBIC},
            ValueError,
            "interpolation should be InterpolationMode.NEAREST or InterpolationMode.BILINEAR, but got "
            "<InterpolationMode.BICUBIC: 'bicubic'> instead",
        ),
        (
            IMAGE,
            IDLE,
            {"interpolation": "nearest-exact"},
            ValueError,
            "interpolation should be InterpolationMode.NEAREST or InterpolationMode.BILINEAR, but got "
            "'nearest-exact' instead",
        ),
        (
            IMAGE,
            IDLE,
            {"fill": (1, 2)},
            ValueError,
            "fill should be one number or one for each of 3 channels, but got (1, 2) instead",
        ),
        (
            Image.new("L", (8, 8)),
            IDLE,
            {"fill": (1, 2, 3)},
            ValueError,
            "fill should be one number or one for each of 1 channels, but got (1, 2, 3) instead",
        ),
        (
            IMAGE,
            IDLE,
            {"fill": 256},
            ValueError,
            "fill should be in [0, 255], the range of the images, but got (256,) instead",
        ),
        (
            IMAGE / 255,
            IDLE,
            {"fill": 128},
            ValueError,
            "fill should be in [0, 1], the range of the images, but got (128,) instead",
        ),
        (
            IMAGE,
            IDLE,
            {"fill": "grey"},
            TypeError,
            "fill should be a number or a sequence with one number per channel, but got 'grey' instead",
        ),
        (
            IMAGE.expand(2, -1, -1, -1),
            plan_of([("sample_pairing", 0.1, 2)], [(None,)]),
            {},
            ValueError,
            "plan.partner should be in [0, 1], but got [2] instead",
        ),
        (
            IMAGE,
            replace(IDLE, operation=torch.tensor([[17]])),
            {},
            ValueError,
            "plan.operation should be in [0, 16], but got [17] instead",
        ),
    ],
)
def test_refusals(images: Any, plan: Plan, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        apply(images, plan, **options)
    assert str(caught.value) == message


# --- GPU --------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_device_changes_nothing(photographs: Photographs, dtype: torch.dtype) -> None:
    images, plan = crops(photographs, 60, 3, 33, 21), draw(60)
    images = images if dtype == torch.uint8 else images / 255
    result = apply(images.cuda(), plan.to("cuda"))
    assert result.device.type == "cuda"
    torch.testing.assert_close(result.cpu(), apply(images, plan), rtol=0, atol=1e-5)
