"""Policies of others: what they mean there is what they do here, and what means something else is refused."""

import json
import math
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_images
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

from fasteraa_transforms import OPERATIONS, Plan, Policy, PolicyError, apply

NAMES = list(OPERATIONS)
PHOTOGRAPHS = [Image.fromarray(each) for each in load_sample_images().images]


def resized(width: int, height: int) -> list[Image.Image]:
    return [photograph.resize((width, height)) for photograph in PHOTOGRAPHS]


def one_plan(operation: str, parameter: float) -> Plan:
    return Plan(
        operation=torch.tensor([[NAMES.index(operation)]]),
        parameter=torch.tensor([[parameter]], dtype=torch.float64),
        applied=torch.tensor([[True]]),
        centre=torch.full((1, 1, 2), 0.5, dtype=torch.float64),
        partner=torch.zeros(1, 1, dtype=torch.int64),
        sub_policy=torch.zeros(1, dtype=torch.int64),
    )


def parameters(policy: Policy) -> set[float]:
    """Every parameter that a policy of one candidate draws."""
    plan = policy.sample(64, torch.Generator().manual_seed(0))
    return set(plan.parameter.flatten().tolist())


def refused(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> tuple[str, str, str]:
    with pytest.raises(PolicyError) as caught:
        call(*arguments, **keywords)
    return caught.value.path, caught.value.found, caught.value.expected


# --------------------------------------------------------------------------------------------------------- torchvision


def both(
    monkeypatch: pytest.MonkeyPatch,
    policy: AutoAugmentPolicy,
    index: int,
    negative: bool,
    image: Image.Image,
    mode: InterpolationMode,
) -> tuple[Image.Image, Image.Image]:
    """Sub-policy ``index`` of torchvision and of ours on one image, whatever can be applied applied."""
    ours = Policy.from_autoaugment(policy)
    sign = 0.25 if negative else 0.75
    theirs: list[float] = []  # what torchvision draws: whether, and if so, and if there are sides, which
    reversed_there = {"translate_x", "translate_y"}  # no matter, as both are as likely
    row = [(index + 0.5) / len(ours)]
    for (candidate,) in ours.sub_policies[index]:
        gate = 0.0 if candidate.probability else 0.5
        theirs.append(gate)
        if OPERATIONS[candidate.operation].signed and not gate:
            theirs.append(1 - sign if candidate.operation in reversed_there else sign)
        row += [0.0, gate, sign, 0.5, 0.5, 0.5]

    def rand(*size: Any, **_: Any) -> torch.Tensor:
        return torch.tensor(theirs.pop(0) if size == ((),) else [row], dtype=torch.float64)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        patch.setattr(torch, "randint", lambda *_, **__: torch.tensor(index))
        expected = v2.AutoAugment(policy, interpolation=mode)(image)
        plan = ours.sample(1)
    assert not theirs
    return apply(image, plan, interpolation=mode), expected


@pytest.mark.parametrize("policy", AutoAugmentPolicy)
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(("width", "height", "mode"), [(32, 32, "nearest"), (97, 75, "nearest"), (75, 97, "bilinear")])
def test_autoaugment_gives_the_pixels_of_torchvision(
    policy: AutoAugmentPolicy, negative: bool, width: int, height: int, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At these sizes 0.45 and 150/331 of the sides are the same whole pixels.
    for image in resized(width, height):
        for index in range(25):
            ours, theirs = both(monkeypatch, policy, index, negative, image, InterpolationMode(mode))
            candidates = [stage[0] for stage in Policy.from_autoaugment(policy).sub_policies[index]]
            apart = np.abs(np.asarray(ours).astype(int) - np.asarray(theirs))
            # The severest shear there is the float32 next above 0.3, which shows between two levels.
            severest = any(each.operation.startswith("shear") and each.magnitude == 1 for each in candidates)
            assert apart.max() <= (mode == "bilinear" and severest), candidates


@pytest.mark.parametrize("policy", AutoAugmentPolicy)
def test_autoaugment_lists_what_torchvision_lists(policy: AutoAugmentPolicy) -> None:
    ours = Policy.from_autoaugment(policy)
    theirs = v2.AutoAugment(policy)._policies
    assert len(ours) == len(theirs) == 25
    for mine, other in zip(ours.sub_policies, theirs, strict=True):
        names = [stage[0].operation.title().replace("_", "") for stage in mine]
        assert names == [name for name, _, _ in other]
        assert [stage[0].probability for stage in mine] == [probability for _, probability, _ in other]
        assert all(len(stage) == 1 and stage[0].sign is None for stage in mine)


def test_the_severest_translation_is_shorter_than_that_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    # Sub-policy 24 is TranslateY 9, AutoContrast; 0.45 of 224 pixels are 100, 150/331 of them 101.
    image = Image.new("L", (1, 224), 255)
    ours, theirs = both(monkeypatch, AutoAugmentPolicy.CIFAR10, 24, False, image, InterpolationMode.NEAREST)
    assert [int((np.asarray(each) == 0).sum()) for each in (ours, theirs)] == [100, 101]
    differences = Policy.from_autoaugment("cifar10").provenance["differences"]
    assert [text.split(":")[0] for text in differences] == ["translate_x", "translate_y"]
    assert Policy.from_autoaugment("svhn").provenance["differences"] == []


def test_autoaugment_takes_the_value_of_the_policy_too() -> None:
    assert Policy.from_autoaugment("imagenet") == Policy.from_autoaugment(AutoAugmentPolicy.IMAGENET)
    assert Policy.from_autoaugment("imagenet").name == "autoaugment-imagenet"
    expected = "policy should be an AutoAugmentPolicy or one of imagenet, cifar10, svhn, but got 'cifar100' instead"
    with pytest.raises(ValueError, match=expected):
        Policy.from_autoaugment("cifar100")


# ---------------------------------------------------------------------------------------------------- Fast AutoAugment

LEVELS = [i / 20 for i in range(21)] + [0.1952646403453232, 0.5251302162680564, 0.895546498237044]


def affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


def blend(enhance: Any) -> Callable[[Image.Image, float], Image.Image]:
    return lambda image, value: enhance(image).enhance(value)


# What the published code does with Pillow: from level 0 to level 1, and whether it mirrors the value.
FAST: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, float, bool]] = {
    "ShearX": (lambda image, v: affine(image, 1, v, 0, 0, 1, 0), -0.3, 0.3, True),
    "ShearY": (lambda image, v: affine(image, 1, 0, 0, v, 1, 0), -0.3, 0.3, True),
    "TranslateX": (lambda image, v: affine(image, 1, 0, v * image.width, 0, 1, 0), -0.45, 0.45, True),
    "TranslateY": (lambda image, v: affine(image, 1, 0, 0, 0, 1, v * image.height), -0.45, 0.45, True),
    "Rotate": (lambda image, v: image.rotate(v), -30, 30, True),
    "AutoContrast": (lambda image, _: ImageOps.autocontrast(image), 0, 1, False),
    "Invert": (lambda image, _: ImageOps.invert(image), 0, 1, False),
    "Equalize": (lambda image, _: ImageOps.equalize(image), 0, 1, False),
    "Solarize": (lambda image, v: ImageOps.solarize(image, v), 0, 256, False),
    "Posterize": (lambda image, v: ImageOps.posterize(image, int(v)), 4, 8, False),
    "Contrast": (blend(ImageEnhance.Contrast), 0.1, 1.9, False),
    "Color": (blend(ImageEnhance.Color), 0.1, 1.9, False),
    "Brightness": (blend(ImageEnhance.Brightness), 0.1, 1.9, False),
    "Sharpness": (blend(ImageEnhance.Sharpness), 0.1, 1.9, False),
}


def fast(name: str, level: float) -> Policy:
    return Policy.from_fast_autoaugment([[(name, 0.7, level)]])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", [name for name in FAST if not name.startswith("Translate")])
def test_fast_autoaugment_gives_the_pixels_of_its_code(name: str, level: float) -> None:
    function, low, high, mirrored = FAST[name]
    value = level * (high - low) + low
    policy = fast(name, level)
    ((candidate,),) = policy.sub_policies[0]
    assert (candidate.weight, candidate.probability) == (1.0, 0.7)
    for image in resized(53, 40):
        expected = {function(image, v).tobytes() for v in ((value, -value) if mirrored else (value,))}
        found = {apply(image, one_plan(candidate.operation, v)).tobytes() for v in parameters(policy)}
        assert found == expected


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
@pytest.mark.parametrize("level", LEVELS)
def test_fast_autoaugment_translates_as_far_up_to_a_pixel(name: str, level: float) -> None:
    function, low, high, _ = FAST[name]
    image = Image.new("L", (101, 101), 255)
    lost = (np.asarray(function(image, abs(level * (high - low) + low))) == 0).mean() * 101
    policy = fast(name, level)
    largest = max(parameters(policy), key=abs)
    assert abs(largest) == pytest.approx(abs(level * (high - low) + low))
    ((candidate,),) = policy.sub_policies[0]
    found = (np.asarray(apply(image, one_plan(candidate.operation, largest))) == 0).mean() * 101
    assert abs(found - lost) <= 1 + 1e-9
    assert "rounded there" in policy.provenance["differences"][0]


def test_fast_autoaugment_cutout_and_sample_pairing() -> None:
    policy = Policy.from_fast_autoaugment([[["Cutout", 0.5, 0.25], ["SamplePairing", 1, 0.5]]])
    (cutout,), (pairing,) = policy.sub_policies[0]
    assert (cutout.operation, cutout.magnitude) == ("cutout", 0.25)  # 0.2 level of the width, both
    assert (pairing.operation, pairing.magnitude) == ("sample_pairing", 0.5)  # 0.4 level of the partner, both
    assert [text.split(":")[0] for text in policy.provenance["differences"]] == ["cutout", "sample_pairing"]


ARCHIVE = """
from __future__ import absolute_import
import os


def autoaug2arsaug(f):
    return f


@autoaug2arsaug
def autoaug_policy():
    return [[('Invert', 0.1, 7), ('Contrast', 0.2, 6)]]


def arsaug_policy():
    \"\"\"Two experiments.\"\"\"
    exp0_0 = [
        [('Solarize', 0.66, 0.34), ('Equalize', 0.56, 0.61)]]
    exp0_1 = [[('TranslateY', 0.88, 0.96), ('TranslateY', 0.53, 0.79)]]

    return exp0_0 + exp0_1 + exp0_0


def fa_reduced_cifar10():
    p = [[["Contrast", 0.83, 0.29], ["Color", 0.43, 0.12]]]
    return p


def harmful():
    os.remove("archive.py")
    return []


def computed():
    return [[('Invert', 0.1, 7 * 0.1)]]


def endless():
    p = [[('Invert', 0.1, 0.7)]]
    p = p + p
{doubled}
    return p
""".replace("{doubled}", "    p = p + p\n" * 60)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archive.py"
    path.write_text(ARCHIVE)
    return path


def test_fast_autoaugment_reads_the_archive(archive: Path) -> None:
    policy = Policy.from_fast_autoaugment(archive, function="fa_reduced_cifar10")
    assert policy == Policy.from_fast_autoaugment([[["Contrast", 0.83, 0.29], ["Color", 0.43, 0.12]]])
    assert (policy.name, policy.provenance["converted_from"]) == ("fa_reduced_cifar10", "Fast AutoAugment, archive.py")
    added = Policy.from_fast_autoaugment(str(archive), function="arsaug_policy")
    names = [[stage[0].operation for stage in sub_policy] for sub_policy in added.sub_policies]
    assert names == [["solarize", "equalize"], ["translate_y", "translate_y"], ["solarize", "equalize"]]


@pytest.mark.parametrize(
    ("function", "found", "expected"),
    [
        (
            None,
            "the functions autoaug2arsaug, autoaug_policy, arsaug_policy, fa_reduced_cifar10, harmful, computed, "
            "endless",
            "the name of one as `function`",
        ),
        ("autoaug_policy", "a decorated autoaug_policy", "a function without a decorator"),
        ("harmful", "line 30 of harmful", "lists, named and added up, and a return"),
        ("missing", "no function or list missing", "one that returns or is the policy"),
        ("endless", "no list ('more than 100000 sub-policies')", "a list of sub-policies"),
    ],
)
def test_fast_autoaugment_refuses_functions(function: str | None, found: str, expected: str, archive: Path) -> None:
    assert refused(Policy.from_fast_autoaugment, archive, function=function) == ("$", found, expected)
    assert archive.exists()


def test_fast_autoaugment_computes_nothing(archive: Path) -> None:
    path, found, expected = refused(Policy.from_fast_autoaugment, archive, function="computed")
    assert (path, expected) == ("$", "a list of sub-policies")
    assert found.startswith("no list ('malformed node or string")


# As the published genotypes of DADA: one list a line, with two names each.
GENOTYPES = """
CIFAR10 = augmented_10 = [[('ShearX', 0.52, 0.58), ('Rotate', 0.57, 0.53)], [('Color', 0.5, 0.46), ('Flip', 0.5, 0)]]
SVHN = [[('Solarize', 0.61, 0.53), ('Brightness', 0.64, 0.5)]]
BOTH = SVHN + CIFAR10
SEED, NAME = 7, 'dada'
COUNT = len(SVHN)

# OLD = [[('Invert', 0.5, 0.5)]]
"""


def test_fast_autoaugment_reads_lists_by_their_names(tmp_path: Path) -> None:
    path = tmp_path / "genotype.py"
    path.write_text(GENOTYPES, encoding="utf-8")
    policy = Policy.from_fast_autoaugment(path, function="CIFAR10")
    assert policy == Policy.from_fast_autoaugment(path, function="augmented_10")
    assert policy == Policy.from_fast_autoaugment(
        [[("ShearX", 0.52, 0.58), ("Rotate", 0.57, 0.53)], [("Color", 0.5, 0.46), ("Flip", 0.5, 0)]]
    )
    assert (policy.name, policy.provenance["converted_from"]) == ("CIFAR10", "Fast AutoAugment, genotype.py")
    assert len(Policy.from_fast_autoaugment(path, function="BOTH")) == 3
    found = "the lists CIFAR10, augmented_10, SVHN, BOTH"
    assert refused(Policy.from_fast_autoaugment, path) == ("$", found, "the name of one as `function`")
    for name in ("OLD", "SEED", "NAME", "COUNT"):
        assert refused(Policy.from_fast_autoaugment, path, function=name)[1] == f"no function or list {name}"


@pytest.mark.parametrize(
    "text",
    [
        "import os\nDADA = [[('Invert', 0.5, 0.1)]]\nSEED = 3",
        "DADA: list = [[('Invert', 0.5, 0.1)]]",
        "DADA = dada = [[('Invert', 0.5, 0.1)]]\nSAME = dada",
    ],
)
def test_fast_autoaugment_reads_the_only_list_of_a_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "genotype.py"
    path.write_text(text, encoding="utf-8")
    for function in (None, "DADA"):
        policy = Policy.from_fast_autoaugment(path, function=function)
        assert policy == Policy.from_fast_autoaugment([[("Invert", 0.5, 0.1)]])


@pytest.mark.parametrize(
    "text", ['[[["Invert", 0.5, 0.1]]]', "[[('Invert', 0.5, 0.1)]]", "# mine\n[\n[('Invert',.5,.1)],\n]"]
)
def test_fast_autoaugment_reads_literals(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    policy = Policy.from_fast_autoaugment(path)
    assert policy == Policy.from_fast_autoaugment([[("Invert", 0.5, 0.1)]])
    assert policy.name == "mine"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1 +",
        "__import__('os').system('true')",
        "[" * 100_000,
        "-" * 100_000 + "1",
        "x" * (2**20 + 1),
        "import os",
        "[[('Invert', 0.5, 0.1)]]; 2",
        "'[[]]'",
        "\0",
    ],
    ids=lambda text: text[:20],
)
def test_fast_autoaugment_refuses_texts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert refused(Policy.from_fast_autoaugment, path)[0] == "$"


@pytest.mark.parametrize(
    ("source", "path", "found", "expected"),
    [
        ([[("Posterize2", 0.5, 0.5)]], "$[0][0][0]", "'Posterize2'", "(it keeps 0 to 4 bits, posterize 4 to 8)"),
        (
            [[("CutoutAbs", 0.5, 0.5)]],
            "$[0][0][0]",
            "'CutoutAbs'",
            "(it counts in pixels, cutout in fractions of the width)",
        ),
        ([[("Blur", 0.5, 0.5)]], "$[0][0][0]", "'Blur'", "one of ShearX, ShearY, TranslateX, "),
        ([[("Invert", 0.5, 0.5)], [("Rotate", 0.5, 7)]], "$[1][0][2]", "7", "a number in [0, 1]"),
        ([[("Rotate", True, 0.5)]], "$[0][0][1]", "True", "a number in [0, 1]"),
        ([[("Rotate", 0.5, float("nan"))]], "$[0][0][2]", "nan", "a number in [0, 1]"),
        ([[("Rotate", 0.5)]], "$[0][0]", "('Rotate', 0.5)", "(name, probability, level)"),
        ([[["Rotate", 0.5, 1], "Invert"]], "$[0][1]", "'Invert'", "(name, probability, level)"),
        (["Rotate"], "$[0]", "'Rotate'", "a list of (name, probability, level)"),
        ({}, "$", "{}", "a list of sub-policies"),
        ([], "$.sub_policies", "()", "a non-empty list of sub-policies"),
        (
            [[("Invert", 0.5, 0.5)], [("Invert", 0.5, 0.5)] * 2],
            "$.sub_policies[1]",
            "2 stages",
            "1 stages, as in the first sub-policy",
        ),
    ],
)
def test_fast_autoaugment_refuses(source: Any, path: str, found: str, expected: str) -> None:
    where, what, wanted = refused(Policy.from_fast_autoaugment, source)
    assert (where, what.replace("[]", "()")) == (path, found)
    assert expected in wanted


def test_fast_autoaugment_takes_a_function_for_files_only() -> None:
    with pytest.raises(TypeError, match="function should be None unless source is a file, but got 'f' instead"):
        Policy.from_fast_autoaugment([], function="f")


# -------------------------------------------------------------------------------------------------------- AutoAlbument

MODULE = "albumentations.augmentations.transforms."


def transform(name: str, p: float, **fields: Any) -> dict[str, Any]:
    return {"__class_fullname__": MODULE + name, "always_apply": False, "p": p, **fields}


def composition(name: str, p: float, *transforms: Any) -> dict[str, Any]:
    return {"__class_fullname__": f"albumentations.core.composition.{name}", "p": p, "transforms": list(transforms)}


def noop(p: float) -> dict[str, Any]:
    return {"__class_fullname__": "albumentations.core.transforms_interface.NoOp", "always_apply": False, "p": p}


def scaled(p: float, contrast: float, brightness: float = 0) -> dict[str, Any]:
    limits = {"brightness_limit": [brightness, brightness], "contrast_limit": [contrast, contrast]}
    return transform("RandomBrightnessContrast", p, **limits, brightness_by_max=True)


def moved(p: float, rotate: float = 0, x: float = 0, y: float = 0, scale: float = 0.0) -> dict[str, Any]:
    limits = {"shift_limit_x": x, "shift_limit_y": y, "scale_limit": scale, "rotate_limit": rotate}
    border = {"interpolation": 1, "border_mode": 4, "value": None, "mask_value": None}
    return transform("ShiftScaleRotate", p, **{key: [value, value] for key, value in limits.items()}, **border)


SHIFT = {"r_shift_limit": [-211, -211], "g_shift_limit": [-0.0, 0.0], "b_shift_limit": [-0.0, 0.0]}


def autoalbument(*stages: Any, share: float = 0.5, largest: Any = 255) -> dict[str, Any]:
    """Two sub-policies: the given stages, and one of as many stages that flip."""
    flips = [composition("OneOf", 1, transform("HorizontalFlip", 0.3), noop(0.7)) for _ in stages]
    policy = composition("OneOf", 1, composition("Sequential", 0.5, *stages), composition("Sequential", share, *flips))
    normalize = transform("Normalize", 1.0, mean=[0.5] * 3, std=[0.2] * 3, max_pixel_value=largest)
    tensor = {"__class_fullname__": "albumentations.pytorch.transforms.ToTensorV2", "always_apply": True, "p": 1.0}
    resize = transform("Resize", 1.0, height=32, width=32)
    return {"__version__": "0.5.2", "transform": composition("Compose", 1.0, resize, policy, normalize, tensor)}


def saved(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "latest.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_autoalbument_keeps_the_shares(tmp_path: Path) -> None:
    stage = composition(
        "OneOf",
        1,
        transform("HorizontalFlip", 0.1),
        transform("Solarize", 0.2, threshold=[64, 64]),
        scaled(0.05, 0.45),
        scaled(0.15, -0.9),
        transform("RGBShift", 0.0, **SHIFT),
        noop(0.5),
    )
    policy = Policy.from_autoalbument(saved(tmp_path, autoalbument(stage)))
    assert (len(policy), policy.stages, policy.name) == (2, 1, "latest")
    (found,) = policy.sub_policies[0]
    assert [each.operation for each in found] == ["flip", "solarize", "brightness", "brightness"]
    assert [each.weight * each.probability for each in found] == pytest.approx([0.1, 0.2, 0.05, 0.15])
    assert [each.magnitude for each in found] == [None, 0.75, pytest.approx(0.5), pytest.approx(1.0)]
    assert [each.sign for each in found] == [None, None, 1, -1]
    assert policy.effective_share()["flip"] == pytest.approx((0.1 + 0.3) / 2)
    assert policy.provenance == {
        "converted_from": "AutoAlbument, latest.json",
        "left_out": ["Resize", "Normalize", "ToTensorV2"],
        "pruned_below": 0.0,
    }


def test_autoalbument_prunes(tmp_path: Path) -> None:
    stages = [
        composition("OneOf", 1, transform("RGBShift", 0.009, **SHIFT), transform("HorizontalFlip", 0.2), noop(0.791)),
        composition("OneOf", 1, transform("HorizontalFlip", 1e-9), noop(1.0)),
    ]
    path = saved(tmp_path, autoalbument(*stages))
    assert refused(Policy.from_autoalbument, path)[1] == "RGBShift"
    policy = Policy.from_autoalbument(path, prune=0.01)
    (first,), (second,) = policy.sub_policies[0]
    assert (first.operation, first.probability) == ("flip", pytest.approx(0.2))
    assert second.probability == 0.0  # nothing is left of the stage
    assert policy.provenance["pruned_below"] == 0.01
    for prune in (-0.1, 1, "a", True):
        with pytest.raises(ValueError, match=r"prune should be a number in \[0, 1\), but got"):
            Policy.from_autoalbument(path, prune=prune)  # type: ignore[arg-type]


def test_autoalbument_thresholds_of_float_images(tmp_path: Path) -> None:
    stage = composition("OneOf", 1, transform("Solarize", 0.5, threshold=[0.25, 0.25]), noop(0.5))
    policy = Policy.from_autoalbument(saved(tmp_path, autoalbument(stage, largest=1.0)))
    assert parameters(Policy([policy.sub_policies[0]])) == {63.75}


def test_autoalbument_solarizes_and_multiplies_as_pillow_does(tmp_path: Path) -> None:
    # What the versions of albumentations that AutoAlbument ran with compute, in numpy.
    stage = composition("OneOf", 1, transform("Solarize", 0.5, threshold=[94, 94]), scaled(0.5, -0.27))
    policy = Policy.from_autoalbument(saved(tmp_path, autoalbument(stage)))
    solarize, brightness = (Policy([[[each]]]) for each in policy.sub_policies[0][0])
    for image in resized(40, 30):
        pixels = np.asarray(image)
        found = apply(image, one_plan("solarize", *parameters(solarize)))
        assert np.array_equal(np.asarray(found), np.where(pixels >= 94, 255 - pixels, pixels))
        table = (np.arange(256, dtype=np.float32) * np.float32(1 - 0.27)).clip(0, 255).astype(np.uint8)
        found = apply(image, one_plan("brightness", *parameters(brightness)))
        assert np.array_equal(np.asarray(found), table[pixels])


PLACE = "$.transform.transforms[1].transforms[0].transforms[0]"


@pytest.mark.parametrize(
    ("each", "path", "found", "expected"),
    [
        (transform("RGBShift", 0.5, **SHIFT), "", "RGBShift", "(it shifts single channels)"),
        (transform("VerticalFlip", 0.5), "", "VerticalFlip", "(it mirrors top to bottom)"),
        (moved(0.5, scale=5.1), ".scale_limit", "[5.1, 5.1]", "0: nothing here scales"),
        (moved(0.5, rotate=-49.8), ".rotate_limit", "-49.8", "at most 30, the severest rotate"),
        (moved(0.5, x=0.9), ".shift_limit_x", "0.9", "at most 0.45, the severest translate_x"),
        (moved(0.5, rotate=3, y=0.1), "", "rotate_limit and shift_limit_y", "one of them"),
        (transform("ShiftScaleRotate", 0.5), ".scale_limit", "nothing", "a policy as AutoAlbument saves it"),
        (transform("CoarseDropout", 0.5), "", "CoarseDropout", "(its holes are black, lie wholly inside"),
        (transform("Blur", 0.5), "", "Blur", "RandomBrightnessContrast, ShiftScaleRotate or NoOp"),
        (scaled(0.5, 0.0, 0.3), ".brightness_limit", "[0.3, 0.3]", "0: it adds, brightness here multiplies"),
        (scaled(0.5, 2.0), ".contrast_limit", "a factor of 3", "a factor in [0.1, 1.9], the range of brightness"),
        (transform("Solarize", 0.5, threshold=[0, 255]), ".threshold", "[0, 255]", "twice the same number"),
        (transform("Solarize", 0.5, threshold=[300, 300]), ".threshold", "300 of 255", "a threshold in [0, 256]"),
        (transform("Solarize", 0.5, threshold=[10**400] * 2), ".threshold", None, "twice the same number"),
        (transform("Solarize", 0.5), ".threshold", "nothing", "a policy as AutoAlbument saves it"),
        (transform("HorizontalFlip", 1.5), ".p", "1.5", "a number in [0, 1]"),
        (transform("HorizontalFlip", float("nan")), ".p", "nan", "a number in [0, 1]"),
        ({"p": 0.5}, ".__class_fullname__", "nothing", "a policy as AutoAlbument saves it"),
        ({"p": 0.5, "__class_fullname__": 3}, ".__class_fullname__", "3", "the name of a transform"),
        (7, "", "7", "an object"),
        (composition("Sequential", 0.5), "", "Sequential", "HorizontalFlip, Solarize"),
    ],
)
def test_autoalbument_refuses_transforms(
    each: Any, path: str, found: str | None, expected: str, tmp_path: Path
) -> None:
    document = autoalbument(composition("OneOf", 1, each, noop(0.5)))
    where, what, wanted = refused(Policy.from_autoalbument, saved(tmp_path, document))
    assert where == f"{PLACE}.transforms[0]{path}"
    assert what == found or found is None
    assert expected in wanted
    name = each.get("__class_fullname__", "") if isinstance(each, dict) else ""
    if isinstance(name, str) and name.startswith(MODULE) and not path.endswith(".p"):
        name = name.removeprefix(MODULE)
        assert wanted.endswith(f"; or {name} in leave_out")
        policy = Policy.from_autoalbument(saved(tmp_path, document), leave_out=[name, "Unused"])
        assert policy.sub_policies[0][0][0].probability == 0
        assert policy.provenance["shares_left_out"] == {name: pytest.approx(0.25)}  # half of one of two sub-policies


@pytest.mark.parametrize(
    ("limits", "operation"),
    [
        ({"rotate": 8.77}, "rotate"),
        ({"rotate": -18.79}, "rotate"),
        ({"x": 0.294}, "translate_x"),
        ({"x": -0.015}, "translate_x"),
        ({"y": 0.343}, "translate_y"),
        ({"y": -0.263}, "translate_y"),
        ({}, "rotate"),
    ],
)
def test_autoalbument_moves_as_opencv_does(limits: dict[str, float], operation: str, tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    policy = Policy.from_autoalbument(
        saved(tmp_path, autoalbument(composition("OneOf", 1, moved(0.5, **limits), noop(0.5))))
    )
    ((candidate,),) = policy.sub_policies[0]
    assert (candidate.operation, candidate.probability) == (operation, pytest.approx(0.5))
    (parameter,) = parameters(Policy([[[candidate]]]))
    # What the versions of albumentations that AutoAlbument ran with do, with a border of one colour.
    width, height = 96, 64
    matrix = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), limits.get("rotate", 0), 1.0)
    matrix[0, 2] += limits.get("x", 0) * width
    matrix[1, 2] += limits.get("y", 0) * height
    for image in resized(width, height):
        theirs = cv2.warpAffine(np.asarray(image), matrix, (width, height), flags=cv2.INTER_LINEAR)
        ours = np.asarray(apply(image, one_plan(operation, parameter), interpolation=InterpolationMode.BILINEAR))
        other = np.asarray(apply(image, one_plan(operation, -parameter), interpolation=InterpolationMode.BILINEAR))
        apart = np.abs(ours.astype(int) - theirs).mean()
        assert apart < 12  # whole pixels here, and fractions of them there
        assert not parameter or apart < np.abs(other.astype(int) - theirs).mean() / 2
    differences = policy.provenance["differences"]
    assert [text.partition(":")[0] for text in differences] == [operation]
    assert "reflected there" in differences[0]


def published(rng: np.random.Generator) -> dict[str, Any]:
    """A stage as in the files that AutoAlbument's authors published: all of its operations, one after the other."""
    hole = {"max_holes": 16, "min_holes": 16, "fill_value": 0, "mask_fill_value": None}
    shares = rng.dirichlet(np.full(15, 0.1)).tolist()
    return composition(
        "OneOf",
        1,
        *(transform("RGBShift", p, **SHIFT) for p in shares[:3]),
        scaled(shares[3], 0.0, rng.uniform(-1, 1)),
        scaled(shares[4], rng.uniform(0, 10)),
        transform("Solarize", shares[5], threshold=[94, 94]),
        transform("HorizontalFlip", shares[6]),
        transform("VerticalFlip", shares[7]),
        moved(shares[8], rotate=rng.uniform(-180, 180)),
        moved(shares[9], x=rng.uniform(-1, 1)),
        moved(shares[10], y=rng.uniform(-1, 1)),
        moved(shares[11], scale=rng.uniform(0, 10)),
        transform("CoarseDropout", shares[12], max_height=31, max_width=31, min_height=31, min_width=31, **hole),
        transform("CoarseDropout", shares[13], max_height=2, max_width=2, min_height=2, min_width=2, **hole),
        noop(shares[14]),
    )


def test_autoalbument_says_what_was_left_out_and_its_share(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stages = [[published(rng) for _ in range(4)] for _ in range(25)]
    members = [composition("Sequential", 0.04, *row) for row in stages]
    document = {"__version__": "0.5.2", "transform": composition("Compose", 1.0, composition("OneOf", 1, *members))}
    path = saved(tmp_path, document)
    with pytest.raises(PolicyError, match="in leave_out"):
        Policy.from_autoalbument(path)
    names = {"RGBShift", "RandomBrightnessContrast", "VerticalFlip", "ShiftScaleRotate", "CoarseDropout"}
    policy = Policy.from_autoalbument(path, leave_out=names)
    assert (len(policy), policy.stages) == (25, 4)
    shares = policy.provenance["shares_left_out"]
    assert set(shares) == names
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    each = [transform for row in stages for stage in row for transform in stage["transforms"]]
    rgb = math.fsum(one["p"] for one in each if one["__class_fullname__"].endswith("RGBShift")) / 100
    nothing = math.fsum(one["p"] for one in each if one["__class_fullname__"].endswith("NoOp")) / 100
    assert shares["RGBShift"] == pytest.approx(rgb)
    # What is converted, what is left out and what does nothing are all draws.
    converted = policy.effective_share()
    assert math.fsum(converted.values()) + math.fsum(shares.values()) + nothing == pytest.approx(1)
    assert {name for name, share in converted.items() if share} == {
        *("flip", "solarize", "brightness", "rotate", "translate_x", "translate_y")
    }
    assert Policy.from_json(policy.to_json()).provenance == policy.provenance


def test_autoalbument_takes_names_to_leave_out(tmp_path: Path) -> None:
    path = saved(tmp_path, autoalbument(composition("OneOf", 1, transform("HorizontalFlip", 0.5), noop(0.5))))
    policy = Policy.from_autoalbument(path, leave_out=["HorizontalFlip"])
    assert policy == Policy.from_autoalbument(path)  # what has an equal is converted all the same
    assert "shares_left_out" not in policy.provenance
    for wrong in ("RGBShift", [3]):
        with pytest.raises(ValueError, match="leave_out should hold names of transforms, but got"):
            Policy.from_autoalbument(path, leave_out=wrong)  # type: ignore[arg-type]


def test_autoalbument_with_millions_of_values_is_refused_at_little_cost(tmp_path: Path) -> None:
    path = saved(tmp_path, '{"transform": [' + "{}," * 500_000 + "{}]}")
    tracemalloc.start()
    found = refused(Policy.from_autoalbument, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ("$", "more than 250000 values", "at most 250000")
    assert peak < 3 * path.stat().st_size


ROOT = "$.transform.transforms"
NOTHING = composition("OneOf", 1, noop(1))


@pytest.mark.parametrize(
    ("document", "path", "found", "expected"),
    [
        ("{", "$", None, "valid JSON"),
        ("[" * 100_000, "$", None, "valid JSON"),
        ("[]", "$", "[]", "an object"),
        ({}, "$.transform", "nothing", "a policy as AutoAlbument saves it"),
        ({"transform": composition("OneOf", 1, noop(1))}, "$.transform", "OneOf", "Compose"),
        ({"transform": composition("Compose", 1)}, ROOT, "[]", "a non-empty list"),
        ({"transform": composition("Compose", 1, noop(1))}, ROOT, "0 OneOf", "one, the policy"),
        ({"transform": composition("Compose", 1, NOTHING, NOTHING)}, ROOT, "2 OneOf", "one, the policy"),
        ({"transform": composition("Compose", 1, NOTHING)}, f"{ROOT}[0].transforms[0]", "NoOp", "Sequential"),
        ({"transform": composition("Compose", 0.5, NOTHING)}, "$.transform.p", "0.5", "1"),
        (autoalbument(NOTHING, share=0.1), f"{ROOT}[1].transforms", "shares from 0.1 to 0.5", None),
        (autoalbument(NOTHING, largest=65535), f"{ROOT}[2].max_pixel_value", "65535", "1 or 255"),
        (autoalbument(noop(1)), PLACE, "NoOp", "OneOf"),
        (autoalbument(composition("OneOf", 1, noop(0))), PLACE, "no share above 0", "one at least"),
        (autoalbument(composition("OneOf", 0.5, noop(1))), f"{PLACE}.p", "0.5", "1"),
        (autoalbument(), f"{ROOT}[1].transforms[0].transforms", "[]", "a non-empty list"),
    ],
)
def test_autoalbument_refuses(
    document: Any, path: str, found: str | None, expected: str | None, tmp_path: Path
) -> None:
    where, what, wanted = refused(Policy.from_autoalbument, saved(tmp_path, document))
    assert where == path
    assert what == found or found is None
    assert wanted == expected or expected is None


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for read in (Policy.from_autoalbument, Policy.from_fast_autoaugment):
        with pytest.raises(PolicyError, match="found nothing readable"):
            read(tmp_path / "missing.json")
        with pytest.raises(PolicyError, match="expected UTF-8 text"):
            read(tmp_path / "binary")


# ------------------------------------------------------------------------------------------------------ albumentations


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # importing it asks PyPI for its newest version otherwise
    return pytest.importorskip("albumentations", minversion="2.0")


def single(operation: str, magnitude: float | None, sign: int | None = None, probability: float = 1.0) -> Policy:
    candidate = {"operation": operation, "weight": 1, "probability": probability, "magnitude": magnitude, "sign": sign}
    return Policy([[[candidate]]])


def difference(
    operation: str,
    magnitude: float | None,
    sign: int | None,
    image: Image.Image,
    mode: str = "nearest",
    **keywords: Any,
) -> np.ndarray[Any, Any]:
    """Absolute difference [H, W, 3] of what the export and the policy do."""
    policy = single(operation, magnitude, sign)
    (parameter,) = parameters(policy)
    mode = InterpolationMode(mode)
    ours = np.asarray(apply(image, one_plan(operation, parameter), interpolation=mode, **keywords))
    exported = policy.to_albumentations((image.height, image.width), interpolation=mode, **keywords)
    pixels = np.array(image)
    theirs = exported(image=pixels)["image"]
    assert np.array_equal(pixels, np.asarray(image)), "the export wrote into the image"
    return np.abs(ours.astype(int) - theirs)


MAGNITUDES = [0.0, 0.003, 0.1, 0.37, 0.5, 0.8, 1.0]


def cases(*operations: str) -> list[tuple[str, float | None, int | None]]:
    return [
        (name, magnitude, sign)
        for name in operations
        for magnitude in (MAGNITUDES if OPERATIONS[name].has_magnitude else [None])
        for sign in ((1, -1) if OPERATIONS[name].signed else (None,))
    ]


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize(("operation", "magnitude", "sign"), cases(*(name for name in OPERATIONS if name != "cutout")))
def test_the_export_gives_the_same_pixels(
    operation: str, magnitude: float | None, sign: int | None, mode: str, library: Any
) -> None:
    for image in [*resized(61, 40), *resized(32, 32)]:
        assert not difference(operation, magnitude, sign, image, mode, fill=(10, 20, 30)).any()


@pytest.mark.parametrize("magnitude", MAGNITUDES)
def test_the_exported_cutout_is_cut_where_it_was_drawn(magnitude: float, library: Any) -> None:
    ((transform,),) = [
        [each for each in stage.transforms if not isinstance(each, library.NoOp)]
        for stage in single("cutout", magnitude).to_albumentations((50, 70)).transforms[0].transforms[0]
    ]
    image = resized(70, 50)[0]
    centres = []
    for _ in range(20):
        found = transform(image=np.array(image), force_apply=True)["image"]
        centre = transform.params["centre"]
        plan = one_plan("cutout", transform.parameter)
        plan.centre[:] = torch.tensor(centre, dtype=torch.float64)
        assert np.array_equal(found, np.asarray(apply(image, plan)))
        centres.append(centre)
    assert len(set(centres)) == 20
    assert np.array(centres).min() < 0.3 < 0.7 < np.array(centres).max()


def test_every_operation_is_exported(library: Any) -> None:
    image = np.random.default_rng(0).integers(20, 200, (32, 32, 3), dtype=np.uint8)
    for name, operation in OPERATIONS.items():
        policy = single(name, 0.9 if operation.has_magnitude else None)
        changed = (policy.to_albumentations((32, 32))(image=image)["image"] != image).any()
        assert changed == (name != "sample_pairing"), name
        left_out = policy.to_albumentations((32, 32), leave_out={name})
        assert np.array_equal(left_out(image=image)["image"], image)


MOVEMENTS = [name for name in OPERATIONS if name.startswith("shear") or name == "rotate"]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", MOVEMENTS)
def test_exported_movements_move_masks_boxes_and_points(name: str, sign: int, library: Any) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:35, 25:50] = 255
    exported = single(name, 0.7, sign).to_albumentations((60, 80))
    pipeline = library.Compose(
        [exported.transforms[0]],
        bbox_params=library.BboxParams("pascal_voc", label_fields=["labels"]),
        keypoint_params=library.KeypointParams("xy"),
    )
    mask = np.where(image[..., 0] > 0, -7, 0).astype(np.int32)
    layers = np.stack([mask, 2 * mask], -1).astype(np.float64)
    found = pipeline(
        image=image, mask=mask, masks=[layers], bboxes=[[25, 20, 50, 35]], labels=[3], keypoints=[[25, 20], [49, 34]]
    )
    inside = found["image"][..., 0] > 0
    assert inside.any()
    assert np.array_equal(found["mask"], np.where(inside, -7, 0))
    assert found["mask"].dtype == np.int32
    assert np.array_equal(found["masks"][0], np.where(inside, -7, 0)[..., None] * [1, 2])
    rows, columns = np.nonzero(inside)
    ((left, top, right, bottom),) = found["bboxes"]
    around = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    assert np.abs(np.array([left, top, right, bottom]) - around).max() <= 1
    assert found["labels"] == [3]
    for x, y in found["keypoints"]:  # corners of what is white stay at its border
        near = inside[max(round(y) - 1, 0) : round(y) + 2, max(round(x) - 1, 0) : round(x) + 2]
        assert near.any()
        assert not near.all()


def test_exported_adjustments_leave_targets_alone(library: Any) -> None:
    image = np.array(resized(32, 32)[0])
    found = single("equalize", None).to_albumentations((32, 32))(image=image, mask=image[..., 0])
    assert (found["image"] != image).any()
    assert np.array_equal(found["mask"], image[..., 0])


def test_exported_transforms_refuse_what_they_do_not_know(library: Any) -> None:
    from fasteraa_transforms.policy.interchange import exact

    for transform in (exact.ExactOperation, exact.ExactMovement):
        with pytest.raises(ValueError, match=r"operation should be one of shear_x, .*, but got 'blur' instead"):
            transform("blur", 1.0)
    with pytest.raises(ValueError, match="operation should move pixels, but got 'equalize' instead"):
        exact.ExactMovement("equalize", 0.0)
    with pytest.raises(TypeError, match="an exported policy takes uint8 images, but got float32 instead"):
        exact.ExactOperation("equalize", 0.0, p=1)(image=np.zeros((4, 4, 3), np.float32))


def test_exported_transforms_take_grey_images(library: Any) -> None:
    from fasteraa_transforms.policy.interchange import exact

    grey = np.array(resized(32, 24)[0].convert("L"))
    expected = np.asarray(apply(Image.fromarray(grey), one_plan("rotate", 20.0)))
    for image in (grey, grey[..., None]):
        found = exact.ExactMovement("rotate", 20.0, p=1)(image=image)["image"]
        assert np.array_equal(found, expected.reshape(image.shape))


def test_the_export_keeps_the_shares(library: Any) -> None:
    policy = Policy(
        [
            [
                [
                    {"operation": "rotate", "weight": 3, "probability": 0.5, "magnitude": 0.4},
                    {"operation": "contrast", "weight": 1, "probability": 0.8, "magnitude": 0.4, "sign": -1},
                    {"operation": "posterize", "weight": 1, "probability": 1.0, "magnitude": 0.01},
                ],
                [{"operation": "invert", "weight": 1, "probability": 1.0}],
            ],
            [
                [{"operation": "flip", "weight": 1, "probability": 0.0}],
                [{"operation": "flip", "weight": 1, "probability": 0.3}],
            ],
        ]
    )
    (choice,) = policy.to_albumentations((32, 32)).transforms
    assert choice.transforms_ps == [0.5, 0.5]

    def key(each: Any) -> tuple[str, Any, Any]:
        arguments = each.get_transform_init_args()
        return type(each).__name__, arguments.get("operation"), arguments.get("parameter")

    stages = [stage for sub_policy in choice.transforms for stage in sub_policy.transforms]
    shares = [{key(each): p for each, p in zip(stage, stage.transforms_ps, strict=True)} for stage in stages]
    assert shares == [
        {
            ("ExactMovement", "rotate", 12.0): pytest.approx(0.15),
            ("ExactMovement", "rotate", -12.0): pytest.approx(0.15),
            ("ExactOperation", "contrast", 0.64): pytest.approx(0.16),
            ("NoOp", None, None): pytest.approx(0.54),  # posterize keeps all 8 bits
        },
        {("InvertImg", None, None): 1.0},
        {("NoOp", None, None): 1.0},
        {("HorizontalFlip", None, None): pytest.approx(0.3), ("NoOp", None, None): pytest.approx(0.7)},
    ]


def test_the_export_runs_as_often(library: Any) -> None:
    policy = Policy(
        [
            [[{"operation": "invert", "weight": 1, "probability": 0.3}]],
            [[{"operation": "flip", "weight": 1, "probability": 1.0}]],
        ]
    )
    exported = policy.to_albumentations((2, 2))
    exported.set_random_seed(0)
    image = np.array([[[1] * 3, [2] * 3]] * 2, dtype=np.uint8)
    outcomes = [int(exported(image=image)["image"][0, 0, 0]) for _ in range(2000)]
    assert outcomes.count(254) == pytest.approx(300, abs=80)
    assert outcomes.count(2) == pytest.approx(1000, abs=112)


def test_the_export_can_be_saved(library: Any) -> None:
    policy = Policy.from_autoaugment("cifar10")
    exported = policy.to_albumentations((32, 32), interpolation=InterpolationMode.BILINEAR, fill=(1, 2, 3))
    again = library.from_dict(json.loads(json.dumps(library.to_dict(exported))))
    assert library.to_dict(again) == library.to_dict(exported)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for each in (exported, again):
        each.set_random_seed(3)
    for _ in range(20):
        assert np.array_equal(exported(image=image)["image"], again(image=image)["image"])
    copied = pickle.loads(pickle.dumps(exported))
    assert library.to_dict(copied) == library.to_dict(exported)


def test_a_saved_export_is_read_in_another_process(library: Any, tmp_path: Path) -> None:
    library.save(single("rotate", 0.5, 1).to_albumentations((32, 32)), tmp_path / "policy.json")
    image = np.array(resized(32, 32)[0])
    np.save(tmp_path / "image.npy", image)
    code = (
        "import albumentations, numpy, sys, fasteraa_transforms.policy.interchange.exact\n"
        "pipeline = albumentations.load(sys.argv[1] + '/policy.json')\n"
        "numpy.save(sys.argv[1] + '/found.npy', pipeline(image=numpy.load(sys.argv[1] + '/image.npy'))['image'])\n"
    )
    process = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    expected = np.asarray(apply(Image.fromarray(image), one_plan("rotate", 15.0)))
    assert np.array_equal(np.load(tmp_path / "found.npy"), expected)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((0, 4), {}, r"size should be a positive height and width, but got \(0, 4\) instead"),
        ((4, 4.0), {}, r"size should be a positive height and width, but got \(4, 4.0\) instead"),
        ((4, 4), {"leave_out": ["blur"]}, r"leave_out should hold names of operations, but got \['blur'\] instead"),
        ((4, 4), {"interpolation": InterpolationMode.BICUBIC}, "interpolation should be InterpolationMode.NEAREST or"),
    ],
)
def test_the_export_refuses_arguments(arguments: Any, keywords: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        single("flip", None).to_albumentations(arguments, **keywords)


def test_the_export_needs_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(
        ImportError, match=r'needs albumentations .*: pip install "fasteraa_transforms\[albumentations\]"'
    ):
        single("flip", None).to_albumentations((4, 4))


def test_the_export_needs_a_new_library(monkeypatch: pytest.MonkeyPatch) -> None:
    old = type(sys)("albumentations")
    old.__version__ = "1.4.24"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "albumentations", old)
    with pytest.raises(ImportError, match=r"albumentations should be 2 or newer, but is 1\.4\.24"):
        single("flip", None).to_albumentations((4, 4))
