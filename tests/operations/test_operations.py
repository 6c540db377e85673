"""The table, and the two exact forms of every operation: byte for byte what Pillow gives.

The reference is raw Pillow, written here from the meaning of each operation and not from the package's own code.
"""

import itertools
import math
import os
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import InterpolationMode

from fasteraa_transforms.backends import options, schedule
from fasteraa_transforms.operations import arithmetic as _arithmetic
from fasteraa_transforms.operations import differentiable as _differentiable
from fasteraa_transforms.operations import pillow as _pillow
from fasteraa_transforms.operations import sources as _sources
from fasteraa_transforms.operations import uint8 as _uint8
from fasteraa_transforms.operations import warp as _warp
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine
from fasteraa_transforms.operations.kinds import Levels
from fasteraa_transforms.operations.table import OPERATIONS

Pixels = NDArray[np.uint8]

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
RESAMPLING = {NEAREST: Image.Resampling.NEAREST, BILINEAR: Image.Resampling.BILINEAR}

# Name, parameter at magnitude 0, 0.5 and 1, signed, keywords.
TABLE: list[tuple[str, tuple[float, float, float] | None, bool, tuple[str, ...]]] = [
    ("shear_x", (0, 0.15, 0.3), True, ("interpolation", "fill")),
    ("shear_y", (0, 0.15, 0.3), True, ("interpolation", "fill")),
    ("translate_x", (0, 0.225, 0.45), True, ("interpolation", "fill")),
    ("translate_y", (0, 0.225, 0.45), True, ("interpolation", "fill")),
    ("rotate", (0, 15, 30), True, ("interpolation", "fill")),
    ("flip", None, False, ()),
    ("solarize", (256, 128, 0), False, ()),
    ("posterize", (8, 6, 4), False, ()),
    ("invert", None, False, ()),
    ("contrast", (1, 1.45, 1.9), True, ()),
    ("color", (1, 1.45, 1.9), True, ()),
    ("brightness", (1, 1.45, 1.9), True, ()),
    ("sharpness", (1, 1.45, 1.9), True, ()),
    ("auto_contrast", None, False, ()),
    ("equalize", None, False, ()),
    ("cutout", (0, 0.1, 0.2), False, ("centre",)),
    ("sample_pairing", (0, 0.2, 0.4), False, ("partner",)),
]
NAMES = [name for name, *_ in TABLE]
GEOMETRY = tuple(name for name, *_, takes in TABLE if "fill" in takes)

# Every operation, those of geometry once with each interpolation.
FORMS = [
    (name, interpolation) for name in NAMES for interpolation in ((NEAREST, BILINEAR) if name in GEOMETRY else (None,))
]
each_form = pytest.mark.parametrize(
    ("name", "interpolation"), FORMS, ids=[f"{name}-{mode.value}" if mode else name for name, mode in FORMS]
)

SHAPES = [(1, 1), (1, 9), (9, 1), (2, 2), (2, 7), (31, 1), (3, 3), (7, 5), (24, 17), (40, 33)]


# --- the reference ----------------------------------------------------------------------------------------------------


def reference(
    name: str,
    image: Image.Image,
    parameter: float,
    *,
    interpolation: InterpolationMode | None = None,
    fill: Any = 0,
    centre: tuple[float, float] = (0.5, 0.5),
    partner: Image.Image | None = None,
) -> Image.Image:
    """What Pillow makes of an L or RGB image, or of an RGBA image by an operation of geometry."""
    width, height = image.size

    def affine(*matrix: float) -> Image.Image:
        return image.transform(
            (width, height), Image.Transform.AFFINE, matrix, RESAMPLING[interpolation], fillcolor=fill
        )

    match name:
        case "shear_x":
            return affine(1, parameter, 0, 0, 1, 0)
        case "shear_y":
            return affine(1, 0, 0, parameter, 1, 0)
        case "translate_x":
            return affine(1, 0, int(parameter * width), 0, 1, 0)
        case "translate_y":
            return affine(1, 0, 0, 0, 1, int(parameter * height))
        case "rotate":
            return image.rotate(parameter, resample=RESAMPLING[interpolation], fillcolor=fill)
        case "flip":
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        case "solarize":
            return ImageOps.solarize(image, parameter)
        case "posterize":
            return ImageOps.posterize(image, int(parameter))
        case "invert":
            return ImageOps.invert(image)
        case "contrast":
            return ImageEnhance.Contrast(image).enhance(parameter)
        case "color":
            return ImageEnhance.Color(image).enhance(parameter)
        case "brightness":
            return ImageEnhance.Brightness(image).enhance(parameter)
        case "sharpness":
            return ImageEnhance.Sharpness(image).enhance(parameter)
        case "auto_contrast":
            return ImageOps.autocontrast(image, cutoff=0)
        case "equalize":
            return ImageOps.equalize(image)
        case "cutout":
            side = math.floor(parameter * width + 0.5)
            left, top = math.floor(centre[0] * width) - side // 2, math.floor(centre[1] * height) - side // 2
            box = (max(left, 0), max(top, 0), min(left + side, width), min(top + side, height))
            result = image.copy()
            result.paste((125, 123, 114) if image.mode == "RGB" else 124, box)
            return result
        case "sample_pairing":
            return Image.blend(image, partner, parameter)
    raise AssertionError(name)


def reference_array(name: str, pixels: Pixels, parameter: float, **takes: Any) -> Pixels:
    """`reference` for [C, H, W]: as RGB if C is 3, otherwise each channel as L."""
    channels = len(pixels)
    partner, fill = takes.pop("partner", None), takes.pop("fill", 0)
    if channels == 3:
        if partner is not None:
            takes["partner"] = to_image(partner)
        colour = fill if isinstance(fill, int) else tuple(fill)
        colour = (colour,) * 3 if isinstance(colour, int) else colour
        return to_array(reference(name, to_image(pixels), parameter, fill=colour, **takes))
    if name == "color":
        return pixels
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in pixels]
    if name == "contrast":
        grey = int(pixels.mean(dtype=np.float64) + 0.5)
        planes = [Image.blend(Image.new("L", plane.size, grey), plane, parameter) for plane in planes]
        return np.stack([np.asarray(plane) for plane in planes])
    fills = [fill] * channels if isinstance(fill, int) else list(fill)
    results = []
    for c, plane in enumerate(planes):
        if partner is not None:
            takes["partner"] = Image.fromarray(np.ascontiguousarray(partner[c]))
        results.append(np.asarray(reference(name, plane, parameter, fill=fills[c], **takes)))
    return np.stack(results)


def to_image(pixels: Pixels) -> Image.Image:  # [C, H, W]
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0) if len(pixels) > 1 else pixels[0]))


def to_array(image: Image.Image) -> Pixels:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# --- what the tests are made of ---------------------------------------------------------------------------------------


def magnitudes(name: str, count: int) -> torch.Tensor:
    """``count`` magnitudes, of both signs if the operation is signed, both ends and the middle included."""
    operation = OPERATIONS[name]
    if not operation.has_magnitude:
        return torch.zeros(1, dtype=torch.float64)
    return torch.linspace(-1 if operation.signed else 0, 1, count, dtype=torch.float64)


def parameters(name: str, count: int) -> NDArray[np.float64]:
    return OPERATIONS[name].parameter(magnitudes(name, count)).numpy()


def extras_of(
    name: str,
    interpolation: InterpolationMode | None = NEAREST,
    fill: Any = 0,
    centre: Any = None,
    partner: Any = None,
) -> Extras:
    """Extras with those fields that the operation takes, so that a form which reads another one fails."""
    every = Extras(interpolation, tuple(np.atleast_1d(fill).tolist()), centre, partner)
    return Extras(**{key: getattr(every, key) if key in OPERATIONS[name].takes else None for key in Extras._fields})


def batch_extras(name: str, images: Pixels, interpolation: InterpolationMode | None, fill: Any = 0) -> Extras:
    """The extras of the uint8 form, for a batch [N, C, H, W]."""
    rng = np.random.default_rng(len(images))
    centre, partner = rng.random((len(images), 2)), np.ascontiguousarray(images[..., ::-1, ::-1])
    return extras_of(name, interpolation, fill, centre, partner)


def of_one(name: str, extras: Extras, n: int) -> dict[str, Any]:
    """The keywords of the reference for image ``n`` of a batch."""
    every = {
        "interpolation": extras.interpolation,
        "fill": None if extras.fill is None else extras.fill if len(extras.fill) > 1 else extras.fill[0],
        "centre": None if extras.centre is None else tuple(np.asarray(extras.centre)[n].tolist()),
        "partner": None if extras.partner is None else extras.partner[n],
    }
    return {key: every[key] for key in OPERATIONS[name].takes}


def differing(found: Pixels, expected: Pixels) -> int:
    """How many bytes differ."""
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    return int(np.count_nonzero(found != expected))


def check_uint8(name: str, pixels: Pixels, values: NDArray[np.float64], mode: Any, fill: Any = 0) -> None:
    """The uint8 form of one image [C, H, W] at all ``values`` in one batch, against Pillow."""
    images = np.repeat(pixels[None], len(values), axis=0)
    extras = batch_extras(name, images, mode, fill)
    found = OPERATIONS[name].uint8(images, values, extras)
    for n, value in enumerate(values.tolist()):
        expected = reference_array(name, pixels, value, **of_one(name, extras, n))
        assert differing(found[n], expected) == 0, (name, mode, value, pixels.shape, fill)


def pictures(channels: int, height: int, width: int) -> dict[str, Pixels]:
    """Images [C, H, W] on which operations go wrong in different ways."""
    rng = np.random.default_rng(channels * 10000 + height * 100 + width)
    shape = (channels, height, width)
    return {
        "noise": rng.integers(0, 256, shape, dtype=np.uint8),
        "dark": rng.integers(3, 9, shape, dtype=np.uint8),
        "two levels": rng.choice(np.array([0, 255], dtype=np.uint8), shape),
        "skewed": (255 * rng.random(shape) ** 4).astype(np.uint8),
        "constant": np.full(shape, 77, dtype=np.uint8),
    }


# --- the table --------------------------------------------------------------------------------------------------------


def test_table_holds_the_rows_of_the_paper_in_its_order() -> None:
    assert list(OPERATIONS) == NAMES
    assert len(OPERATIONS) == 17
    assert [operation.name for operation in OPERATIONS.values()] == NAMES


@pytest.mark.parametrize(("name", "values", "signed", "takes"), TABLE, ids=NAMES)
def test_row(name: str, values: tuple[float, float, float] | None, signed: bool, takes: tuple[str, ...]) -> None:
    operation = OPERATIONS[name]
    assert operation.has_magnitude == (values is not None)
    assert operation.signed == signed
    assert operation.takes == takes
    assert bool(operation.unit) == operation.has_magnitude
    weakest, middle, severest = values or (0, 0, 0)
    found = operation.parameter(torch.tensor([0.0, 0.5, 1.0]))
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([weakest, middle, severest], rel=1e-15, abs=0)
    if signed:  # as far to the other side
        other = operation.parameter(torch.tensor([-0.5, -1.0]))
        assert other.tolist() == pytest.approx([2 * weakest - middle, 2 * weakest - severest], rel=1e-15, abs=0)


@pytest.mark.parametrize("name", NAMES)
def test_row_holds_the_functions_of_its_name(name: str) -> None:
    operation = OPERATIONS[name]
    for form, module in (("pillow", _pillow), ("uint8", _uint8), ("differentiable", _differentiable)):
        if hasattr(module, name) or not isinstance(operation.kind, Affine | Levels):
            assert getattr(operation, form) is getattr(module, name)


def test_posterize_keeps_8_minus_round_4_magnitude_bits() -> None:
    magnitude = torch.linspace(0, 1, 101, dtype=torch.float64)
    expected = [8 - round(4 * value) for value in magnitude.tolist()]
    assert OPERATIONS["posterize"].parameter(magnitude).tolist() == expected


def test_straight_through_where_the_map_is_discrete() -> None:
    assert [name for name in NAMES if OPERATIONS[name].straight_through] == ["solarize", "posterize", "cutout"]


# --- uint8: zero bytes differ from Pillow -----------------------------------------------------------------------------


@each_form
def test_uint8_equals_pillow_on_a_photograph(
    name: str, interpolation: InterpolationMode | None, photographs: list[Pixels]
) -> None:
    image = photographs[0].transpose(2, 0, 1)
    assert image.shape == (3, 427, 640)
    values = parameters(name, 21)
    for n, value in enumerate(values):  # one by one: a batch of this size is slower
        check_uint8(name, image, value[None], interpolation, (n, 2 * n, 255 - n))


@each_form
def test_uint8_equals_pillow_on_another_photograph(
    name: str, interpolation: InterpolationMode | None, photographs: list[Pixels]
) -> None:
    image = photographs[1].transpose(2, 0, 1)
    check_uint8(name, image, parameters(name, 4), interpolation, 128)


@pytest.mark.parametrize("channels", [1, 3, 5])
@each_form
def test_uint8_equals_pillow_on_every_shape(name: str, interpolation: InterpolationMode | None, channels: int) -> None:
    values = parameters(name, 21)
    for height, width in SHAPES:
        for image in pictures(channels, height, width).values():
            check_uint8(name, image, values, interpolation)


@pytest.mark.parametrize("channels", [1, 3, 5])
@each_form
def test_uint8_equals_pillow_at_many_magnitudes(
    name: str, interpolation: InterpolationMode | None, channels: int
) -> None:
    image = pictures(channels, 25, 34)["noise"]
    check_uint8(name, image, parameters(name, 201), interpolation)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR])
@pytest.mark.parametrize("name", GEOMETRY)
def test_uint8_fill(name: str, interpolation: InterpolationMode, channels: int) -> None:
    image = pictures(channels, 13, 12)["noise"]
    for fill in (0, 255, 93, [200], tuple(range(10, 10 + channels))):
        values = parameters(name, 9)
        check_uint8(name, image, values, interpolation, fill * channels if fill == [200] else fill)
        images = np.repeat(image[None], 9, axis=0)
        extras = Extras(interpolation, tuple(np.atleast_1d(fill).tolist()))
        same = Extras(interpolation, tuple(np.broadcast_to(fill, channels).tolist()))
        found, expected = (OPERATIONS[name].uint8(images, values, each) for each in (extras, same))
        assert differing(found, expected) == 0


def test_uint8_fill_reaches_every_channel_with_its_own_value() -> None:
    images = np.zeros((1, 5, 4, 10), dtype=np.uint8)
    result = OPERATIONS["translate_x"].uint8(images, np.array([0.45]), Extras(fill=(1, 2, 3, 4, 5)))
    assert result[0, :, 0, -1].tolist() == [1, 2, 3, 4, 5]
    assert result[0, :, 0, 0].tolist() == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("fill", [(1, 2), (1, 2, 3, 4), ()])
def test_fill_of_another_number_of_channels_is_refused(fill: tuple[int, ...]) -> None:
    images = np.zeros((1, 3, 4, 4), dtype=np.uint8)
    wording = r"fill should be one number or one for each of 3 channels, but got \(.*\) instead"
    with pytest.raises(ValueError, match=wording):
        OPERATIONS["rotate"].uint8(images, np.array([10.0]), Extras(fill=fill))
    with pytest.raises(ValueError, match=wording):
        OPERATIONS["rotate"].pillow(to_image(images[0]), 10.0, Extras(fill=fill))


@pytest.mark.parametrize("shape", [(1, 1, 40000), (1, 40000, 1), (3, 3, 33000)])
@each_form
def test_uint8_equals_pillow_beyond_its_fixed_point(
    name: str, interpolation: InterpolationMode | None, shape: tuple[int, int, int]
) -> None:
    # From 32768 pixels on, Pillow computes nearest coordinates in accumulated doubles.
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    check_uint8(name, image, parameters(name, 5), interpolation)


@pytest.mark.parametrize("long", [32760, 32767, 32768, 40000])
def test_uint8_takes_pillows_path_on_either_side_of_fixed_point(long: int) -> None:
    # Small magnitudes, at which a long image stays in view and the two paths differ by single pixels.
    image = np.random.default_rng(0).integers(0, 256, (1, long, 16), dtype=np.uint8)
    for name, pixels in (("shear_x", image), ("shear_y", image.transpose(0, 2, 1)), ("rotate", image)):
        values = OPERATIONS[name].parameter(torch.tensor([0.0011, -0.0017], dtype=torch.float64)).numpy()
        check_uint8(name, pixels, values, NEAREST)


@pytest.mark.parametrize("channels", [1, 3, 5])
@each_form
def test_uint8_batch_equals_one_by_one(name: str, interpolation: InterpolationMode | None, channels: int) -> None:
    values = parameters(name, 7)
    images = np.random.default_rng(0).integers(0, 256, (len(values), channels, 21, 18), dtype=np.uint8)
    extras = batch_extras(name, images, interpolation)
    found = OPERATIONS[name].uint8(images, values, extras)
    for n in range(len(values)):
        one = extras._replace(
            **{key: getattr(extras, key)[n : n + 1] for key in ("centre", "partner") if key in OPERATIONS[name].takes}
        )
        alone = OPERATIONS[name].uint8(images[n : n + 1], values[n : n + 1], one)
        assert differing(found[n : n + 1], alone) == 0


@each_form
def test_uint8_takes_an_empty_batch(name: str, interpolation: InterpolationMode | None) -> None:
    images = np.zeros((0, 3, 5, 4), dtype=np.uint8)
    result = OPERATIONS[name].uint8(images, np.zeros(0), batch_extras(name, images, interpolation))
    assert result.shape == images.shape
    assert result.dtype == np.uint8


@each_form
def test_uint8_takes_strided_images(name: str, interpolation: InterpolationMode | None) -> None:
    values = parameters(name, 3)
    channels_last = np.random.default_rng(0).integers(0, 256, (len(values), 21, 18, 3), dtype=np.uint8)
    strided = channels_last.transpose(0, 3, 1, 2)[..., ::-1]
    extras = batch_extras(name, strided, interpolation)
    found = OPERATIONS[name].uint8(strided, values, extras)
    assert differing(found, OPERATIONS[name].uint8(np.ascontiguousarray(strided), values, extras)) == 0


@pytest.mark.parametrize("channels", [1, 3])
@each_form
def test_uint8_leaves_its_input_alone(name: str, interpolation: InterpolationMode | None, channels: int) -> None:
    values = parameters(name, 5)
    images = np.random.default_rng(0).integers(0, 256, (len(values), channels, 9, 8), dtype=np.uint8)
    extras = batch_extras(name, images, interpolation)
    inputs = [images, values, *(value for value in extras if isinstance(value, np.ndarray))]
    copies = [array.copy() for array in inputs]
    for array in inputs:
        array.flags.writeable = False
    OPERATIONS[name].uint8(images, values, extras)
    for array, copy in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_color_is_the_identity_without_three_channels(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, channels, 8, 8), dtype=np.uint8)
    assert differing(_uint8.color(images, np.array([0.1, 1.5, 1.9]), Extras()), images) == 0


def test_contrast_without_three_channels_blends_with_the_mean_of_all() -> None:
    images = np.zeros((1, 2, 1, 2), dtype=np.uint8)
    images[0, 0], images[0, 1] = 10, 21  # mean 15.5, rounded half up to 16
    assert _uint8.contrast(images, np.array([0.0]), Extras()).tolist() == np.full((1, 2, 1, 2), 16).tolist()


def test_magnitude_zero_is_the_identity() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 16, 16), dtype=np.uint8)
    for name, interpolation in FORMS:
        operation = OPERATIONS[name]
        if operation.has_magnitude:
            value = operation.parameter(torch.zeros(1)).numpy()
            result = operation.uint8(images, value, batch_extras(name, images, interpolation))
            assert differing(result, images) == 0, name


# --- any image, any parameter -----------------------------------------------------------------------------------------


@st.composite
def _case(draw: st.DrawFn, name: str) -> dict[str, Any]:
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)))
    levels = draw(st.sampled_from([st.integers(0, 255), st.integers(0, 3), st.sampled_from([0, 254, 255])]))
    pixels = hnp.arrays(np.uint8, shape, elements=levels)
    fraction = st.floats(0, 1, exclude_max=True)
    operation = OPERATIONS[name]
    low = 0.0 if not operation.signed else -1.0
    magnitude = draw(st.floats(low, 1)) if operation.has_magnitude else 0.0
    fill = st.integers(0, 255) | st.tuples(*[st.integers(0, 255)] * shape[0])
    every = {
        "interpolation": st.sampled_from([NEAREST, BILINEAR]),
        "fill": fill,
        "centre": st.tuples(fraction, fraction),
        "partner": pixels,
    }
    return {
        "pixels": draw(pixels),
        "parameter": operation.parameter(torch.tensor(magnitude, dtype=torch.float64)).item(),
        "takes": {key: draw(every[key]) for key in operation.takes},
    }


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(data=st.data())
def test_uint8_equals_pillow_on_anything(name: str, data: st.DataObject) -> None:
    case = data.draw(_case(name))
    takes = dict(case["takes"])
    batched = {key: np.array(value)[None] if key in ("centre", "partner") else value for key, value in takes.items()}
    extras = extras_of(name, **batched)
    found = OPERATIONS[name].uint8(case["pixels"][None], np.array([case["parameter"]]), extras)
    assert differing(found[0], reference_array(name, case["pixels"], case["parameter"], **takes)) == 0


# --- Pillow -----------------------------------------------------------------------------------------------------------


def _modes(photograph: Pixels) -> list[Image.Image]:
    """L, LA, RGB and RGBA images: a piece of a photograph, noise, and the shapes at which things go wrong."""
    piece = np.ascontiguousarray(photograph[100:161, 200:283])
    alpha = np.random.default_rng(0).integers(0, 256, piece.shape[:2], dtype=np.uint8)
    images = [
        Image.fromarray(piece),
        Image.fromarray(piece).convert("L"),
        Image.fromarray(np.dstack([piece, alpha])),
        Image.fromarray(np.dstack([piece, alpha])).convert("LA"),
    ]
    for (height, width), channels in itertools.product(SHAPES, (1, 3, 4)):
        images += [to_image(pictures(channels, height, width)[kind]) for kind in ("noise", "dark", "constant")]
    return images


def _expected(name: str, image: Image.Image, parameter: float, **takes: Any) -> Image.Image:
    """`reference`, and for LA and RGBA: alpha follows geometry, and nothing else touches it."""
    if image.mode not in ("LA", "RGBA") or name in (*GEOMETRY, "flip"):
        return reference(name, image, parameter, **takes)
    if "partner" in takes:
        takes["partner"] = takes["partner"].convert(image.mode[:-1])
    colours = reference(name, image.convert(image.mode[:-1]), parameter, **takes)
    return Image.merge(image.mode, (*colours.split(), image.getchannel("A")))


@each_form
def test_pillow_form_equals_pillow(
    name: str, interpolation: InterpolationMode | None, photographs: list[Pixels]
) -> None:
    for image in _modes(photographs[0]):
        bands = len(image.getbands())
        values = parameters(name, 21)
        takes = {"interpolation": interpolation, "partner": image.transpose(Image.Transpose.ROTATE_180)}
        for n, value in enumerate(values.tolist()):
            takes["centre"] = (n / len(values), 1 - (n + 1) / len(values))
            fill = (n, 100, 200, 50)[:bands] if n % 2 else n
            fill_colour = fill[0] if isinstance(fill, tuple) and bands == 1 else fill
            every = {**takes, "fill": fill}
            found = OPERATIONS[name].pillow(image, value, extras_of(name, **every))
            every["fill"] = (fill_colour,) * bands if isinstance(fill_colour, int) and bands > 1 else fill_colour
            expected = _expected(name, image, value, **{key: every[key] for key in OPERATIONS[name].takes})
            assert found.mode == image.mode
            assert differing(np.asarray(found), np.asarray(expected)) == 0, (name, image.mode, image.size, value)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@each_form
def test_pillow_form_leaves_its_input_alone(name: str, interpolation: InterpolationMode | None, mode: str) -> None:
    image = to_image(pictures({"L": 1, "RGB": 3, "RGBA": 4}[mode], 12, 13)["noise"])
    partner = image.transpose(Image.Transpose.ROTATE_180)
    before, partner_before = image.tobytes(), partner.tobytes()
    every = {"interpolation": interpolation, "fill": 9, "centre": (0.4, 0.6), "partner": partner}
    result = OPERATIONS[name].pillow(image, parameters(name, 3)[-1].item(), extras_of(name, **every))
    assert result is not image
    result.paste(0, (0, 0, *result.size))  # nor do they share pixels
    assert image.tobytes() == before
    assert partner.tobytes() == partner_before


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("other", ["L", "LA", "RGB", "RGBA"])
def test_sample_pairing_takes_a_partner_of_another_mode(mode: str, other: str) -> None:
    image = to_image(pictures(4, 12, 13)["noise"]).convert(mode)
    partner = to_image(pictures(4, 12, 13)["skewed"]).convert(other)
    found = _pillow.sample_pairing(image, 0.3, Extras(partner=partner))
    colours = mode.removesuffix("A")
    expected = Image.blend(image.convert(colours), partner.convert(colours), 0.3)
    assert found.mode == mode
    assert differing(np.asarray(found.convert(colours)), np.asarray(expected)) == 0


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_check_mode_accepts(mode: str) -> None:
    options.check_image(Image.new(mode, (2, 2)))


@pytest.mark.parametrize("mode", ["P", "1", "PA", "La", "RGBa", "I", "I;16B", "CMYK", "YCbCr", "HSV", "LAB", "F"])
def test_check_mode_refuses_and_names_the_mode(mode: str) -> None:
    wording = (
        f"image mode should be one of L, LA, RGB, RGBA, I;16, but got {mode} instead; "
        r'convert it first, .*convert\("RGB"\), or wrap it as a tv_tensors.Mask if it is a mask'
    )
    with pytest.raises(TypeError, match=wording):
        options.check_image(Image.new(mode, (2, 2)))


@pytest.mark.parametrize("interpolation", ["nearest", InterpolationMode.BICUBIC, 0, None])
def test_check_interpolation_refuses(interpolation: object) -> None:
    options.check_interpolation(NEAREST)
    options.check_interpolation(BILINEAR)
    with pytest.raises(ValueError, match=r"interpolation should be .*NEAREST or .*BILINEAR, but got .* instead"):
        options.check_interpolation(interpolation)


# --- caches -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> _sources.SourceCache:
    """An empty cache in the place of the module's own, with room for ten images of 16 × 16."""
    cache = _sources.SourceCache(10 * (16 * 16 * 9 + _sources._OVERHEAD))
    monkeypatch.setattr(_warp, "sources", cache)
    return cache


def rotated(size: int, degrees: float) -> Pixels:
    image = pictures(3, size, size)["noise"]
    found = OPERATIONS["rotate"].uint8(image[None], [degrees], Extras())[0]
    assert differing(found, reference_array("rotate", image, degrees, interpolation=NEAREST)) == 0
    return found


def test_cache_stays_within_its_bytes_and_gives_the_same(sources: _sources.SourceCache) -> None:
    first = rotated(16, 1.0)
    for degrees in range(1, 31):
        rotated(16, float(degrees))
        assert sources.bytes <= sources.limit
    assert 10 <= len(sources) <= 11  # 9 bytes a pixel, 8 if no pixel lies outside
    assert differing(rotated(16, 1.0), first) == 0
    rotated(200, 5.0)  # larger than the whole cache: not kept, and nothing makes room for it
    assert len(sources) >= 10
    sources.clear()
    assert (len(sources), sources.bytes) == (0, 0)


def test_cache_keeps_what_was_used_last(sources: _sources.SourceCache) -> None:
    rotated(16, 1.0)
    for degrees in range(2, 25):
        rotated(16, float(degrees))
        rotated(16, 1.0)
    matrix_of = OPERATIONS["rotate"].kind.matrix
    assert sources.get((matrix_of, 1.0, 16, 16)) is not None
    assert sources.get((matrix_of, 2.0, 16, 16)) is None


def test_cache_tells_operations_and_sizes_apart(sources: _sources.SourceCache) -> None:
    image = pictures(1, 8, 12)["noise"]
    for name in ("shear_x", "shear_y", "rotate", "shear_x"):
        for pixels in (image, np.ascontiguousarray(image.transpose(0, 2, 1)), image[:, :6]):
            check_uint8(name, pixels, np.array([0.3, -0.3]), NEAREST)


def test_cache_is_shared_by_threads(sources: _sources.SourceCache) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: rotated(16, float(n % 15)), range(400)))
    for n, pixels in enumerate(found):
        assert differing(pixels, found[n % 15]) == 0
    assert sources.bytes == sum(source.bytes for source in sources._sources.values()) <= sources.limit


def test_cache_counts_what_its_entries_take() -> None:
    # Of images of one pixel, the key and the objects are nearly all that there is to hold.
    cache = _sources.SourceCache(2**20)
    matrix_of = OPERATIONS["rotate"].kind.matrix
    tracemalloc.start()
    for n in range(4000):
        degrees = n / 1000
        cache.put((matrix_of, degrees, 1, 1), _sources.nearest_source(matrix_of(degrees, 1, 1), 1, 1))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert 500 < len(cache) < 4000
    assert held <= cache.bytes <= cache.limit


@pytest.mark.parametrize("name", ["rotate", "translate_x", "brightness", "contrast"])
def test_no_parameter_and_no_size_makes_caches_grow_for_ever(name: str, sources: _sources.SourceCache) -> None:
    operation, rng = OPERATIONS[name], np.random.default_rng(0)
    low, high = sorted((operation.weakest, operation.severest))

    def use(count: int) -> None:
        for _ in range(count):
            shape = (1, int(rng.integers(1, 4)), *rng.integers(1, 9, 2).tolist())
            images, value = rng.integers(0, 256, shape, dtype=np.uint8), float(rng.uniform(low, high))
            operation.uint8(images, [value], Extras())
            operation.pillow(Image.new("L", (3, 3)), value, Extras())

    use(4500)
    tracemalloc.start()
    use(500)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 2**20  # what went in has pushed out as much, which was not traced


def test_rows_that_are_shifted_count_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images large enough to have their rows shifted; every magnitude and every size is another entry."""
    cache = _sources.SourceCache(2**18)
    monkeypatch.setattr(_warp, "sources", cache)
    tracemalloc.start()
    for n in range(400):
        images = np.zeros((1, 1, 64 + n % 7, 64 + n % 5), dtype=np.uint8)
        OPERATIONS["shear_x"].uint8(images, [0.3 * (n + 1) / 400], Extras())
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert any(isinstance(source, _sources.Shifts) for source in cache._sources.values())
    assert 50 < len(cache) < 400
    assert cache.bytes == sum(source.bytes for source in cache._sources.values())
    assert held <= cache.limit + 2**17  # the last result and what else was made on the way
    assert cache.bytes <= cache.limit


def test_caches_are_bounded() -> None:
    for module in (_arithmetic, _differentiable, _pillow, _uint8, _warp, options, schedule):
        for name, value in vars(module).items():
            if hasattr(value, "cache_info"):
                assert value.cache_info().maxsize is not None, name


def test_an_image_of_many_channels_is_not_remembered() -> None:
    before = _uint8._offsets.cache_info().currsize
    images = np.random.default_rng(0).integers(0, 256, (1, 70000, 2, 2), dtype=np.uint8)
    result = _uint8.equalize(images, [0.0], Extras())
    assert differing(result, images) == 0  # fewer than 256 pixels
    assert _uint8._offsets.cache_info().currsize == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_cache_survives_a_fork_while_a_thread_uses_it() -> None:
    # In a process of its own, which forks while another thread keeps taking the lock.
    code = """
import os, sys, threading, numpy as np
from fasteraa_transforms.operations import OPERATIONS, Extras
images = np.zeros((1, 1, 8, 8), np.uint8)
rotate = lambda: OPERATIONS['rotate'].uint8(images, [3.0], Extras())
done = threading.Event()
def use():
    while not done.is_set():
        rotate()
thread = threading.Thread(target=use)
thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        rotate()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
done.set()
thread.join()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("channels", [2, 4, 13])
@each_form
def test_uint8_equals_pillow_on_other_channels_and_layouts(
    name: str, interpolation: InterpolationMode | None, channels: int
) -> None:
    for height, width in ((1, 1), (2, 5), (3, 3), (9, 16), (70, 72)):
        image = pictures(channels, height, width)["noise"]
        values = parameters(name, 5)
        check_uint8(name, image, values, interpolation)
        check_uint8(name, np.asfortranarray(image), values, interpolation)
        images = np.asfortranarray(np.stack([image] * len(values)))
        extras = batch_extras(name, images, interpolation)
        found = OPERATIONS[name].uint8(images, values, extras)
        assert differing(found, OPERATIONS[name].uint8(np.ascontiguousarray(images), values, extras)) == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pillow_form_takes_an_image_that_is_not_loaded_yet(mode: str, tmp_path: Path) -> None:
    image = to_image(pictures({"L": 1, "RGB": 3, "RGBA": 4}[mode], 12, 13)["noise"])
    image.save(tmp_path / "image.png")
    for name in ("solarize", "posterize", "brightness", "invert", "equalize", "sharpness", "auto_contrast", "flip"):
        parameter = parameters(name, 3)[-1].item()
        with Image.open(tmp_path / "image.png") as lazy:
            found = OPERATIONS[name].pillow(lazy, parameter, Extras())
        assert differing(np.asarray(found), np.asarray(OPERATIONS[name].pillow(image, parameter, Extras()))) == 0, name


@pytest.mark.parametrize("size", [16, 80])
@each_form
def test_pillow_form_keeps_what_is_known_of_the_image(
    name: str, interpolation: InterpolationMode | None, size: int
) -> None:
    image = to_image(pictures(3, size, size)["noise"])
    image.info["dpi"] = (72, 72)
    every = {"interpolation": interpolation, "fill": 0, "centre": (0.5, 0.5), "partner": image}
    found = OPERATIONS[name].pillow(image, parameters(name, 3)[-1].item(), extras_of(name, **every))
    assert found.info == {"dpi": (72, 72)}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@each_form
def test_pillow_form_gives_an_image_of_pillows_own(
    name: str, interpolation: InterpolationMode | None, mode: str
) -> None:
    """Whatever pixels it was made of: of the mode of the input, also within Pillow, and one that can be drawn on."""
    image = to_image(pictures(3, 70, 72)["noise"]).convert(mode)
    every = {"interpolation": interpolation, "fill": 0, "centre": (0.5, 0.5), "partner": image}
    found = OPERATIONS[name].pillow(image, parameters(name, 3)[-1].item(), extras_of(name, **every))
    assert (found.mode, found.size) == (image.mode, image.size)
    Image.blend(found, image, 0.5)  # raises for unlike images
    colour = image.getpixel((0, 0))
    found.load()[3, 2] = colour
    assert found.getpixel((3, 2)) == colour


def test_luma_equals_pillow_on_every_colour() -> None:
    levels = np.arange(256, dtype=np.uint8)
    green, blue = np.meshgrid(levels, levels)
    for red in range(256):
        colours = np.stack([np.full_like(green, red), green, blue])
        found = _arithmetic._luma_band(colours[None].astype(np.float32))[0, 0]
        assert differing(found.astype(np.uint8), np.asarray(to_image(colours).convert("L"))) == 0
