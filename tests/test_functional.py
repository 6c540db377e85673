"""The differentiable form: its values against the exact form, its gradients against finite differences and eq. 6."""

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from fasteraa_transforms import functional
from fasteraa_transforms.operations import differentiable as _differentiable
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.table import OPERATIONS

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
GEOMETRY = tuple(name for name, operation in OPERATIONS.items() if "fill" in operation.takes)
ENHANCE = ("contrast", "color", "brightness", "sharpness")
STRAIGHT_THROUGH = ("solarize", "posterize", "cutout")
WITH_MAGNITUDE = [name for name, operation in OPERATIONS.items() if operation.has_magnitude]

# Every operation, the five of geometry once with each interpolation.
FORMS = [(name, mode) for name in OPERATIONS for mode in ((NEAREST, BILINEAR) if name in GEOMETRY else (None,))]
each_form = pytest.mark.parametrize(
    ("name", "interpolation"), FORMS, ids=[f"{name}-{mode.value}" if mode else name for name, mode in FORMS]
)
# Nothing in these is rounded to 8 bits, so the two forms agree to the last bit of the level.
EXACT = {"flip", "solarize", "posterize", "invert", "equalize", "cutout"}


def magnitudes(name: str, count: int) -> Tensor:
    """``count`` magnitudes, [count], of both signs if the operation is signed, the ends and the middle included."""
    return torch.linspace(-1 if OPERATIONS[name].signed else 0, 1, count, dtype=torch.float64)


def keywords(name: str, images: Tensor, interpolation: InterpolationMode | None, fill: Any = 0.0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(len(images))
    every = {
        "interpolation": interpolation,
        "fill": fill,
        "centre": torch.rand(len(images), 2, dtype=torch.float64, generator=generator),
        "partner": images.detach().flip(2, 3),
    }
    return {key: every[key] for key in OPERATIONS[name].takes}


def of_one(takes: dict[str, Any], n: int) -> dict[str, Any]:
    return {key: value[n : n + 1] if isinstance(value, Tensor) else value for key, value in takes.items()}


def noise(*shape: int, dtype: torch.dtype = torch.float32, low: float = 0.0, high: float = 1.0) -> Tensor:
    return low + (high - low) * torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def pictures(channels: int, height: int, width: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(channels * 10000 + height * 100 + width)
    shape = (channels, height, width)
    return [
        rng.integers(0, 256, shape, dtype=np.uint8),
        rng.integers(3, 9, shape, dtype=np.uint8),
        (255 * rng.random(shape) ** 4).astype(np.uint8),
        np.full(shape, 77, dtype=np.uint8),
    ]


def public(name: str, images: Tensor, magnitude: Any, **takes: Any) -> Tensor:
    """The public function of this name, called as a user does."""
    arguments = (images, magnitude) if OPERATIONS[name].has_magnitude else (images,)
    return getattr(functional, name)(*arguments, **takes)


# --- values -----------------------------------------------------------------------------------------------------------


def check_values(name: str, interpolation: InterpolationMode | None, pixels: NDArray[np.uint8], count: int) -> None:
    """The differentiable form of one 8-bit image [C, H, W] at ``count`` magnitudes, against the uint8 form."""
    operation = OPERATIONS[name]
    batch = np.repeat(pixels[None], count, axis=0)
    images = torch.from_numpy(batch) / 255
    magnitude = magnitudes(name, count)
    fill = 9
    takes = keywords(name, images, interpolation, fill / 255)
    found = public(name, images, magnitude, **takes)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert found.min() >= 0
    assert found.max() <= 1
    centre = takes["centre"].numpy() if "centre" in takes else None
    extras = Extras(interpolation, (fill,), centre, batch[..., ::-1, ::-1])
    expected = torch.from_numpy(operation.uint8(batch, operation.parameter(magnitude).numpy(), extras).copy())
    apart = ((found * 255).round() - expected).abs().max().item()
    assert apart <= (0 if name in EXACT or interpolation is NEAREST else 1), (name, interpolation, pixels.shape)


@pytest.mark.parametrize("channels", [1, 3, 5])
@each_form
def test_values_are_those_of_the_exact_form(name: str, interpolation: InterpolationMode | None, channels: int) -> None:
    for height, width in [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (7, 5), (31, 24)]:
        for pixels in pictures(channels, height, width):
            check_values(name, interpolation, pixels, 21)


@each_form
def test_values_on_a_photograph(
    name: str, interpolation: InterpolationMode | None, photographs: list[NDArray[np.uint8]]
) -> None:
    check_values(name, interpolation, np.ascontiguousarray(photographs[0][::2, ::2].transpose(2, 0, 1)), 5)


@each_form
def test_magnitude_zero_is_the_identity(name: str, interpolation: InterpolationMode | None) -> None:
    images = (noise(2, 3, 29, 28) * 255).round() / 255
    if OPERATIONS[name].has_magnitude:
        result = public(name, images, 0.0, **keywords(name, images, interpolation))
        torch.testing.assert_close(result, images, rtol=0, atol=1e-5)
    else:
        assert not torch.equal(public(name, images, 0.0), images)


@pytest.mark.parametrize("channels", [1, 3])
@each_form
def test_a_magnitude_an_image_equals_one_by_one(
    name: str, interpolation: InterpolationMode | None, channels: int
) -> None:
    magnitude = magnitudes(name, 7)
    images = noise(7, channels, 12, 15)
    takes = keywords(name, images, interpolation)
    found = public(name, images, magnitude, **takes)
    for n in range(7):
        alone = public(name, images[n : n + 1], magnitude[n : n + 1], **of_one(takes, n))
        torch.testing.assert_close(found[n : n + 1], alone, rtol=0, atol=1e-6)
        number = public(name, images[n : n + 1], magnitude[n].item(), **of_one(takes, n))
        assert torch.equal(number, alone)


@pytest.mark.parametrize("channels", [1, 3])
@each_form
def test_gradients_of_a_batch_equal_those_one_by_one(
    name: str, interpolation: InterpolationMode | None, channels: int
) -> None:
    images, magnitude = noise(5, channels, 12, 15, dtype=torch.float64), magnitudes(name, 5) * 0.97
    takes = keywords(name, images, interpolation)
    direction = noise(5, channels, 12, 15, dtype=torch.float64, low=-1).flip(0)

    def gradients(rows: slice, takes: dict[str, Any]) -> tuple[Tensor, Tensor]:
        image, mu = images[rows].clone().requires_grad_(), magnitude[rows].clone().requires_grad_()
        functional.apply_operation(name, image, mu, **takes).mul(direction[rows]).sum().backward()
        return image.grad, torch.zeros_like(mu) if mu.grad is None else mu.grad

    together = gradients(slice(None), takes)
    for n in range(5):
        for whole, alone in zip(together, gradients(slice(n, n + 1), of_one(takes, n)), strict=True):
            torch.testing.assert_close(whole[n : n + 1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 9])
@each_form
def test_the_input_is_left_alone(name: str, interpolation: InterpolationMode | None, side: int, channels: int) -> None:
    images, magnitude = noise(3, channels, side, side), magnitudes(name, 3).requires_grad_()
    takes = keywords(name, images, interpolation)
    inputs = [images, magnitude, *(value for value in takes.values() if isinstance(value, Tensor))]
    copies = [tensor.detach().clone() for tensor in inputs]
    with torch.no_grad():
        result = public(name, images, magnitude, **takes)
        result.add_(1)  # nor do the two share memory
    for tensor, copy in zip(inputs, copies, strict=True):
        assert torch.equal(tensor, copy)


@each_form
def test_an_empty_batch(name: str, interpolation: InterpolationMode | None) -> None:
    images, magnitude = torch.zeros(0, 3, 5, 4), torch.zeros(0, requires_grad=True)
    result = public(name, images, magnitude, **keywords(name, images, interpolation))
    assert result.shape == images.shape


# Half precision holds 8-bit levels to 1/16 of a level, bfloat16 to 1/2 and adds up such errors.
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float16, 0.5), (torch.bfloat16, 3.0)])
@each_form
def test_half_precision(
    name: str,
    interpolation: InterpolationMode | None,
    dtype: torch.dtype,
    levels: float,
    photographs: list[NDArray[np.uint8]],
) -> None:
    piece = torch.from_numpy(photographs[1][:, ::2].transpose(2, 0, 1)[None].copy())
    images = (piece / 255).to(dtype)[..., :319].repeat(3, 1, 1, 1)
    magnitude = torch.tensor([0.2, 0.71, 1.0], requires_grad=True)
    leaf = images.clone().requires_grad_()
    found = public(name, leaf, magnitude, **keywords(name, images, interpolation))
    assert found.dtype == dtype
    with torch.no_grad():
        wide = public(name, images.float(), magnitude, **keywords(name, images.float(), interpolation))
    assert ((found.float() - wide).abs().max() * 255).item() <= levels

    found.float().mean().backward()
    assert leaf.grad.isfinite().all()
    if OPERATIONS[name].has_magnitude:
        assert magnitude.grad.isfinite().all()


def test_float64_stays_float64() -> None:
    images = noise(2, 3, 8, 8, dtype=torch.float64)
    for name, interpolation in FORMS:
        assert public(name, images, 0.5, **keywords(name, images, interpolation)).dtype == torch.float64


# --- gradients of the smooth maps -------------------------------------------------------------------------------------


# Values and magnitudes at which no pixel is clamped; for geometry, no pixel lies on the border of the image to 1e-6.
SMOOTH = [
    ("shear_x", (0.31, -0.83), BILINEAR),
    ("shear_y", (0.47, -0.92), BILINEAR),
    ("rotate", (0.23, -0.78), BILINEAR),
    ("contrast", (0.6, -0.9), None),
    ("color", (0.6, -0.9), None),
    ("brightness", (0.6, -0.9), None),
    ("sharpness", (0.6, -0.9), None),
    ("sample_pairing", (0.3, 0.9), None),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "values", "interpolation"), SMOOTH, ids=[name for name, *_ in SMOOTH])
def test_gradcheck(
    name: str, values: tuple[float, float], interpolation: InterpolationMode | None, channels: int
) -> None:
    images = noise(2, channels, 5, 6, dtype=torch.float64, low=0.25, high=0.5).requires_grad_()
    magnitude = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    takes = keywords(name, images, interpolation, 0.7)

    def function(images: Tensor, magnitude: Tensor) -> Tensor:
        return functional.apply_operation(name, images, magnitude, **takes)

    assert torch.autograd.gradcheck(function, (images, magnitude))
    function(images, magnitude).mul(noise(2, channels, 5, 6, dtype=torch.float64)).sum().backward()
    if name != "color" or channels == 3:
        assert (magnitude.grad != 0).all()


def test_gradcheck_of_the_partner() -> None:
    images, partner = (noise(2, 3, 4, size, dtype=torch.float64, low=0.2, high=0.8)[..., :5] for size in (5, 6))
    magnitude = torch.tensor([0.3, 0.9], dtype=torch.float64)
    partner.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: functional.sample_pairing(images, magnitude, partner=p), (partner,))


@pytest.mark.parametrize("name", ["flip", "invert", *GEOMETRY])
def test_gradcheck_of_the_images_where_the_map_is_linear(name: str) -> None:
    images = noise(2, 3, 5, 6, dtype=torch.float64).requires_grad_()
    magnitude = torch.tensor([0.6, -0.9], dtype=torch.float64)
    for interpolation in (NEAREST, BILINEAR):
        takes = keywords(name, images, interpolation)
        assert torch.autograd.gradcheck(lambda x, t=takes: public(name, x, magnitude, **t), (images,))


def _shifted(rows: Tensor, shift: float, fill: float) -> Tensor:
    """``rows`` [..., W] read at x + ``shift``, linearly between pixel centres, held at the ends, ``fill`` outside."""
    width = rows.shape[-1]
    result = torch.full_like(rows, fill)
    for x in range(width):
        position = x + 0.5 + shift
        if 0 <= position < width:
            left = math.floor(position - 0.5)
            part = position - 0.5 - left
            first, second = min(max(left, 0), width - 1), min(max(left + 1, 0), width - 1)
            result[..., x] = (1 - part) * rows[..., first] + part * rows[..., second]
    return result


@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR])
@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
@pytest.mark.parametrize("value", [0.013, 0.29, -0.29, 0.96, -0.777])
def test_translate_has_the_gradient_of_the_unrounded_shift(
    name: str, interpolation: InterpolationMode, value: float
) -> None:
    images, direction = noise(1, 3, 10, 13, dtype=torch.float64), noise(1, 3, 13, 10, dtype=torch.float64).mT
    magnitude = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    result = public(name, images, magnitude, interpolation=interpolation, fill=0.4)
    (gradient,) = torch.autograd.grad((result * direction).sum(), magnitude)

    across = name == "translate_x"
    pixels, weights = (images, direction) if across else (images.mT, direction.mT)
    width = pixels.shape[-1]

    def smooth(mu: float) -> float:
        return (_shifted(pixels, 0.45 * mu * width, 0.4) * weights).sum().item()

    step = 1e-6
    expected = (smooth(value + step) - smooth(value - step)) / (2 * step)
    assert gradient.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert gradient.item() != 0
    # Going forward, the shift is one of whole pixels.
    whole = _shifted(pixels, int(0.45 * value * width), 0.4)
    torch.testing.assert_close(result.detach(), whole if across else whole.mT, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", GEOMETRY)
def test_nearest_has_the_magnitude_gradient_of_bilinear(name: str, channels: int) -> None:
    images, direction = noise(9, channels, 14, 11), noise(9, channels, 11, 14).mT
    gradients = []
    for interpolation in (NEAREST, BILINEAR):
        magnitude = magnitudes(name, 9).requires_grad_()
        (public(name, images, magnitude, interpolation=interpolation) * direction).sum().backward()
        gradients.append(magnitude.grad)
    assert torch.equal(*gradients)
    assert (gradients[0] != 0).all()


# --- straight through -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 9, 7), (4, 1, 1, 1), (4, 5, 2, 30)])
@pytest.mark.parametrize("name", STRAIGHT_THROUGH)
def test_every_pixel_has_gradient_1_with_respect_to_the_magnitude(name: str, shape: tuple[int, ...]) -> None:
    images = noise(*shape)
    magnitude = torch.tensor([0.0, 0.3, 0.8, 1.0], requires_grad=True)
    public(name, images, magnitude, **keywords(name, images, None)).sum().backward()
    assert magnitude.grad.tolist() == [math.prod(shape[1:])] * 4

    # And with respect to its own image's alone.
    one = torch.tensor([0.0, 0.3, 0.8, 1.0], requires_grad=True)
    public(name, images, one, **keywords(name, images, None))[2, -1, -1, 0].backward()
    assert one.grad.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("name", ["equalize", "auto_contrast", "posterize", "solarize"])
def test_every_pixel_has_gradient_1_with_respect_to_the_image(name: str) -> None:
    for images in (noise(3, 3, 40, 30), torch.full((3, 3, 8, 8), 0.3), noise(3, 3, 1, 1)):
        leaf = images.clone().requires_grad_()
        direction = noise(*images.shape).flip(-1)
        public(name, leaf, torch.tensor([0.0, 0.6, 1.0])).mul(direction).sum().backward()
        assert torch.equal(leaf.grad, direction)


def test_cutout_has_gradient_0_in_its_hole_and_1_outside() -> None:
    images = noise(1, 3, 10, 10).requires_grad_()
    functional.cutout(images, 1.0, centre=torch.tensor([[0.5, 0.5]])).sum().backward()
    expected = torch.ones(10, 10)
    expected[4:6, 4:6] = 0
    assert torch.equal(images.grad, expected.expand(1, 3, 10, 10))


@each_form
def test_gradients_leave_the_value_alone_to_the_last_bit(name: str, interpolation: InterpolationMode | None) -> None:
    for images in (noise(21, 3, 19, 23), noise(21, 1, 1, 1), torch.full((21, 3, 8, 8), 0.3)):
        takes = keywords(name, images, interpolation)
        extras = Extras(**{**takes, "fill": (0.0,)})
        plain = OPERATIONS[name].differentiable(images, OPERATIONS[name].parameter(magnitudes(name, 21)), extras)
        magnitude = magnitudes(name, 21).requires_grad_()
        traced = public(name, images.clone().requires_grad_(), magnitude, **takes)
        assert traced.requires_grad
        assert torch.equal(traced, plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_straight_through_is_exact(dtype: torch.dtype) -> None:
    # Cubes, as all that `rand` gives are multiples of one number, whose sums are exact.
    value, source = ((noise(2, 1000, dtype=torch.float64) ** 3).to(dtype)).unbind(0)
    leaf = source.clone().requires_grad_()
    result = _differentiable.straight_through(value, leaf)
    assert torch.equal(result, value)
    assert not torch.equal(leaf + (value - leaf), value)  # as eq. 5 would have it, were it not for rounding
    result.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))


@pytest.mark.parametrize("name", ["posterize", "equalize"])
def test_discrete_maps_give_the_very_values_of_the_levels(name: str) -> None:
    levels = torch.arange(256) / 255
    images, magnitude = noise(1, 3, 32, 32).requires_grad_(), torch.tensor([0.3], requires_grad=True)
    assert torch.isin(public(name, images, magnitude).detach(), levels).all()


@pytest.mark.parametrize("channels", [1, 3, 5])
@each_form
def test_gradients_are_finite(name: str, interpolation: InterpolationMode | None, channels: int) -> None:
    for height, width in [(1, 1), (1, 6), (6, 1), (2, 2), (9, 8)]:
        shape = (3, channels, height, width)
        for images in (noise(*shape), *(torch.full(shape, value) for value in (0.0, 0.5, 1.0))):
            for values in (
                [0.0, 0.0, 0.0],
                [1.0, 1.0, 1.0],
                [-1.0, 0.0, 1.0] if OPERATIONS[name].signed else [0, 0.5, 1],
            ):
                leaf, magnitude = images.clone().requires_grad_(), torch.tensor(values, requires_grad=True)
                result = public(name, leaf, magnitude, **keywords(name, images, interpolation))
                result.square().sum().backward()
                assert result.isfinite().all()
                assert leaf.grad.isfinite().all()
                assert (magnitude.grad is not None) == OPERATIONS[name].has_magnitude
                assert magnitude.grad is None or magnitude.grad.isfinite().all()


@pytest.mark.parametrize("name", WITH_MAGNITUDE)
def test_float32_magnitudes_get_float32_gradients(name: str) -> None:
    images, magnitude = noise(2, 3, 8, 8), torch.tensor([0.25, 0.5], requires_grad=True)
    public(name, images, magnitude).sum().backward()
    assert magnitude.grad.dtype == torch.float32


# --- the public functions ---------------------------------------------------------------------------------------------


def test_public_names_are_those_of_the_table() -> None:
    assert sorted(functional.__all__) == sorted((*OPERATIONS, "apply_operation"))
    for name in OPERATIONS:
        assert getattr(functional, name).__name__ == name


@pytest.mark.parametrize("name", OPERATIONS)
def test_signature_follows_the_table(name: str) -> None:
    operation = OPERATIONS[name]
    arguments = inspect.signature(getattr(functional, name)).parameters
    expected = ["images", *(["magnitude"] if operation.has_magnitude else []), *operation.takes]
    assert list(arguments) == expected
    assert all(arguments[key].kind is inspect.Parameter.KEYWORD_ONLY for key in operation.takes)
    assert arguments.get("interpolation") is None or arguments["interpolation"].default is NEAREST
    assert arguments.get("fill") is None or arguments["fill"].default == 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_public_function_is_apply_operation_of_its_name(name: str) -> None:
    images, magnitude = noise(3, 3, 16, 16), torch.tensor([0.2, 0.6, 1.0])
    takes = keywords(name, images, BILINEAR, (0.1, 0.2, 0.3))
    expected = functional.apply_operation(name, images, magnitude, **takes)
    assert torch.equal(public(name, images, magnitude, **takes), expected)


def test_fill_has_a_value_a_channel() -> None:
    images = noise(1, 3, 4, 10)
    result = functional.translate_x(images, 1.0, fill=(0.1, 0.2, 0.3))
    torch.testing.assert_close(result[0, :, 2, -1], torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(functional.translate_x(images, 1.0, fill=0.5)[0, :, 2, -1], torch.full((3,), 0.5))


def test_cutout_draws_its_centre_anew_for_each_image() -> None:
    images = torch.zeros(64, 1, 20, 20)
    holes = functional.cutout(images, 1.0).ne(0).flatten(1)
    assert (holes.sum(1) >= 4).all()  # a quarter of 4 × 4 where the border clips it
    assert (holes.sum(1) <= 16).all()
    assert len(holes.unique(dim=0)) > 30


def test_sample_pairing_takes_the_predecessor_by_default() -> None:
    images = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None]
    result = functional.sample_pairing(images, 1.0).flatten()
    torch.testing.assert_close(result, torch.tensor([0.4, 0.3, 0.8]))
    assert torch.equal(functional.sample_pairing(images[1:2], 1.0), images[1:2])


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "torch.int64"),
        (np.zeros((1, 3, 4, 4)), "ndarray"),
        ([0.5], "list"),
    ],
)
def test_what_is_no_float_tensor_is_refused(images: Any, found: str) -> None:
    wording = rf"^images should be a float tensor with values in \[0, 1\], but got {found} instead$"
    with pytest.raises(TypeError, match=wording):
        functional.invert(images)
    with pytest.raises(TypeError, match=wording):
        functional.apply_operation("rotate", images, 0.5, interpolation=NEAREST, fill=0.0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_function_refuses_what_is_no_float_tensor(name: str) -> None:
    for images, found in (
        (Image.new("RGB", (4, 4)), "Image"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "torch.uint8"),
    ):
        with pytest.raises(TypeError, match=rf"^images should be a float tensor .*, but got {found} instead$"):
            public(name, images, 0.5)
    with pytest.raises(ValueError, match=r"^images should have the shape \[B, C, H, W\], but got \[3, 4, 4\] instead$"):
        public(name, torch.zeros(3, 4, 4), 0.5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@each_form
def test_what_is_not_finite_is_taken_for_0_or_1(
    name: str, interpolation: InterpolationMode | None, dtype: torch.dtype
) -> None:
    clean, magnitude = noise(3, 3, 9, 8).to(dtype), magnitudes(name, 3)
    for value, instead in ((math.nan, 0.0), (math.inf, 1.0), (-math.inf, 0.0)):
        images, expected = clean.clone(), clean.clone()
        images[:, 1, 4, 5], expected[:, 1, 4, 5] = value, instead
        takes = keywords(name, images, interpolation)
        leaf, slope = images.requires_grad_(), magnitude.clone().requires_grad_()
        found = public(name, leaf, slope, **takes)
        if "partner" in takes:
            takes["partner"] = expected.flip(2, 3)
        assert torch.equal(found, public(name, expected, magnitude, **takes))
        found.float().square().sum().backward()
        assert leaf.grad.isfinite().all()
        assert slope.grad is None or slope.grad.isfinite().all()


def test_no_fill_is_a_fill_of_0() -> None:
    images = noise(1, 3, 9, 9)
    assert torch.equal(functional.rotate(images, 0.5, fill=None), functional.rotate(images, 0.5))
    assert torch.equal(functional.rotate(images, 0.5, fill=[0.2]), functional.rotate(images, 0.5, fill=0.2))
    with pytest.raises(TypeError, match=r"^fill should be a number or a sequence .*, but got 'grey' instead$"):
        functional.rotate(images, 0.5, fill="grey")


@pytest.mark.parametrize("shape", [[], [4], [3, 4, 4], [1, 2, 3, 4, 4]])
def test_another_shape_is_refused(shape: list[int]) -> None:
    found = ", ".join(map(str, shape))
    wording = rf"^images should have the shape \[B, C, H, W\], but got \[{found}\] instead$"
    with pytest.raises(ValueError, match=wording):
        functional.solarize(torch.zeros(shape), 0.5)


@pytest.mark.parametrize("shape", [[1], [3], [2, 1], [2, 1, 1, 1]])
def test_another_shape_of_the_magnitude_is_refused(shape: list[int]) -> None:
    found = ", ".join(map(str, shape))
    wording = rf"^magnitude should have the shape \[\] or \[2\], but got \[{found}\] instead$"
    with pytest.raises(ValueError, match=wording):
        functional.brightness(torch.zeros(2, 3, 4, 4), torch.zeros(shape))


@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR])
def test_another_number_of_fills_is_refused(interpolation: InterpolationMode) -> None:
    wording = r"^fill should be one number or one for each of 3 channels, but got \(0.1, 0.2\) instead$"
    with pytest.raises(ValueError, match=wording):
        functional.rotate(torch.zeros(2, 3, 4, 4), 0.5, interpolation=interpolation, fill=(0.1, 0.2))


@pytest.mark.parametrize("interpolation", ["nearest", InterpolationMode.BICUBIC, None])
def test_another_interpolation_is_refused(interpolation: Any) -> None:
    with pytest.raises(ValueError, match=r"^interpolation should be .*NEAREST or .*BILINEAR, but got .* instead$"):
        functional.rotate(torch.zeros(2, 3, 4, 4), 0.5, interpolation=interpolation)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(KeyError, match="swirl"):
        functional.apply_operation("swirl", torch.zeros(2, 3, 4, 4), 0.5)
