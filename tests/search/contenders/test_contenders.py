"""The kinds of contenders: what they draw, what restricts them, and what a guard makes of them."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from fasteraa_transforms import OPERATIONS, FasterAutoAugment, Policy, apply
from fasteraa_transforms.search import Settings
from fasteraa_transforms.search.algorithm.setup import draws_one_operation
from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.adversarial import relaxed_start
from fasteraa_transforms.search.contenders.calibrated import PARTS, calibrated
from fasteraa_transforms.search.contenders.guard import Curves, Point, measure_curves
from fasteraa_transforms.search.contenders.published import PUBLISHED, randaugment, trivialaugment
from fasteraa_transforms.search.contenders.restrict import Allowed, parse_allowed
from fasteraa_transforms.search.contenders.screening import design, effects, policies, screened
from fasteraa_transforms.search.contenders.table import CONTENDERS, Material, find_kind, gather
from fasteraa_transforms.search.contenders.uniform import GROUPS, MAGNITUDES, uniform
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet

CURVES = Curves(
    clean=0.9,
    points={
        "rotate": (Point(0.5, 0.9, 0.1), Point(1.0, 0.7, 0.2)),
        "shear_x": (Point(0.5, 0.9, 0.004), Point(1.0, 0.9, 0.009)),  # changes nothing
        "solarize": (Point(0.5, 0.4, 0.1), Point(1.0, 0.1, 0.5)),
        "invert": (Point(None, 0.1, 0.5),),
        "flip": (Point(None, 0.89, 0.2),),
    },
    images=100,
)


# --- published --------------------------------------------------------------------------------------------------------


def test_trivialaugment_draws_each_of_fourteen_alike() -> None:
    policy = trivialaugment()
    (stage,) = policy.sub_policies[0]
    weight: dict[str, float] = {}
    for each in stage:
        weight[each.operation] = weight.get(each.operation, 0.0) + each.weight
    assert len(weight) == 14
    assert all(value == pytest.approx(1 / 14) for value in weight.values())
    assert [each.probability for each in stage if each.operation == "flip"] == [0.0]
    rotations = sorted(each.magnitude for each in stage if each.operation == "rotate")
    assert rotations == pytest.approx(np.linspace(0, 1, 31).tolist())


@pytest.mark.parametrize("name", ["rotate", "shear_x", "translate_x", "brightness", "posterize", "solarize"])
@pytest.mark.parametrize("level", [3, 9, 30])
def test_levels_are_those_of_torchvision(name: str, level: int) -> None:
    theirs = {
        "rotate": "Rotate",
        "shear_x": "ShearX",
        "translate_x": "TranslateX",
        "brightness": "Brightness",
        "posterize": "Posterize",
        "solarize": "Solarize",
    }[name]
    magnitudes, _ = v2.RandAugment._AUGMENTATION_SPACE[theirs]
    values = magnitudes(31, 331, 331)
    expected = float(values[level])
    (stage,) = randaugment(operations=1, level=level).sub_policies[0]
    (mine,) = [each for each in stage if each.operation == name]
    parameter = float(OPERATIONS[name].parameter(torch.tensor(mine.magnitude)))
    if name == "solarize" and expected <= 1:  # as a fraction of 255 in newer versions
        expected *= 255
    if name == "brightness":
        parameter -= 1
    if name == "translate_x":
        parameter *= 331
    assert parameter == pytest.approx(expected, abs=1.1 if level == 30 and name == "translate_x" else 1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_policies_augment(name: str) -> None:
    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    result = FasterAutoAugment(PUBLISHED[name].make(), generator=torch.Generator().manual_seed(0))(images)
    changed = (result != images).flatten(1).any(1).float().mean().item()
    assert 0.4 < changed <= 1


# --- uniform ----------------------------------------------------------------------------------------------------------


def test_uniform_has_every_operation_alike_below_its_limit() -> None:
    policy = uniform(GROUPS["all"], stages=2, probability=0.7, limits={"rotate": 0.5})
    assert policy.stages == 2
    share = policy.effective_share()
    assert all(value == pytest.approx(0.7 / 17) for value in share.values())
    rotations = [each.magnitude for each in policy.sub_policies[0][0] if each.operation == "rotate"]
    assert rotations == pytest.approx([0.5 * value for value in MAGNITUDES])


# --- the guard --------------------------------------------------------------------------------------------------------


def test_largest_magnitude_within_a_tolerance() -> None:
    assert CURVES.largest("rotate", 0.1) == pytest.approx(0.5 + 0.5 * (0.9 - 0.81) / 0.2)
    assert CURVES.largest("rotate", 0.25) == 1.0
    assert CURVES.largest("solarize", 0.1) == pytest.approx(0.5 * 0.09 / 0.5)
    assert CURVES.largest("invert", 0.25) is None
    assert CURVES.largest("flip", 0.1) == 1.0


def test_words() -> None:
    assert CURVES.words("shear_x", 0.1) == "changes nothing here"
    assert CURVES.words("invert", 0.1) == "breaks the classes"
    assert CURVES.words("flip", 0.1) == "keeps the classes"
    assert CURVES.words("rotate", 0.1) == "keeps the classes up to magnitude 0.72"


def test_curves_are_read_back_and_averaged() -> None:
    assert Curves.from_json(CURVES.to_json()) == CURVES
    worse = Curves(
        0.6,
        {name: tuple(Point(p.magnitude, 0.0, p.displacement) for p in row) for name, row in CURVES.points.items()},
        300,
    )
    mean = Curves.mean([CURVES, worse])
    assert mean.clean == pytest.approx(0.25 * 0.9 + 0.75 * 0.6)
    assert mean.points["rotate"][0].accuracy == pytest.approx(0.25 * 0.9)
    assert mean.images == 400


class _Corner(torch.nn.Module):
    """Class 1 where the left half of the image is the brighter one."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        width = images.shape[-1]
        left, right = images[..., : width // 2].mean((1, 2, 3)), images[..., width // 2 :].mean((1, 2, 3))
        return torch.stack([right, left], 1)


def test_curves_tell_what_breaks_the_classes_and_what_changes_nothing() -> None:
    left = torch.zeros(64, 1, 16, 16, dtype=torch.uint8)
    labels = torch.arange(64) % 2
    left[labels == 1, :, :, :8] = 200
    left[labels == 0, :, :, 8:] = 200
    curves = measure_curves(
        _Corner(),
        ImageSet(left, labels, 2),
        crop=Crop((16, 16)),
        normalise=lambda images: images.float(),
        operations=("flip", "color", "brightness", "rotate"),
    )
    assert curves.clean == 1.0
    assert curves.words("flip", 0.1) == "breaks the classes"
    assert curves.points["flip"][0].accuracy == 0.0
    assert curves.words("color", 0.1) == "changes nothing here"
    assert curves.words("brightness", 0.1) == "keeps the classes"
    assert curves.words("rotate", 0.1) == "keeps the classes"  # at most 30 degrees


def test_calibrated_keeps_what_changes_images_and_keeps_classes() -> None:
    policy = calibrated(CURVES, 0.1)
    assert policy is not None
    assert policy.stages == 2
    names = {each.operation for each in policy.sub_policies[0][0]}
    assert names == {"rotate", "solarize", "flip"}
    assert {each.probability for each in policy.sub_policies[0][0]} == {0.7}
    solarize = [each.magnitude for each in policy.sub_policies[0][0] if each.operation == "solarize"]
    assert solarize == pytest.approx([0.09 * part for part in PARTS])
    assert all(value == pytest.approx(0.7 / 3) for name, value in policy.effective_share().items() if name in names)


def test_calibrated_is_none_where_nothing_is_left() -> None:
    assert calibrated(Curves(0.9, {"invert": (Point(None, 0.1, 0.5),)}, 10), 0.1) is None


def test_calibrated_obeys_limits() -> None:
    policy = calibrated(CURVES, 0.25, limits={"rotate": 0.2})
    assert policy is not None
    assert max(each.magnitude for each in policy.sub_policies[0][0] if each.operation == "rotate") == 0.2


# --- restrictions -----------------------------------------------------------------------------------------------------


def test_restricted_policies_draw_nothing_else() -> None:
    allowed = parse_allowed(exclude=["flip", "invert"], max_magnitude=["rotate=0.5"])
    material = Material(allowed, {"none": CURVES, "uniform": CURVES})
    for name in CONTENDERS:
        for contender in find_kind(name).make(material):
            if contender.policy is None:
                continue
            applied = [
                each for sub in contender.policy.sub_policies for stage in sub for each in stage if each.probability > 0
            ]
            assert not {"flip", "invert"} & {each.operation for each in applied}, contender.name
            assert all(each.magnitude <= 0.5 for each in applied if each.operation == "rotate"), contender.name


def test_restricting_keeps_how_often_nothing_happens() -> None:
    allowed = Allowed(("rotate",))
    before, after = trivialaugment(), allowed.restrict(trivialaugment())
    assert after.effective_share()["rotate"] == pytest.approx(before.effective_share()["rotate"])
    assert sum(after.effective_share().values()) == pytest.approx(1 / 14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operations": ["rotat"]}, "operations should be among"),
        ({"max_magnitude": ["rotate"]}, "max_magnitude should be such as rotate=0.5"),
        ({"max_magnitude": ["rotate=2"]}, "max_magnitude should be such as rotate=0.5"),
        ({"max_magnitude": ["flip=0.5"]}, "flip has none"),
        ({"operations": ["flip"], "exclude": ["flip"]}, "should leave at least one operation"),
    ],
)
def test_refused_restrictions(arguments: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_allowed(**arguments)


# --- the table --------------------------------------------------------------------------------------------------------


def test_default_kinds_are_in_the_table() -> None:
    assert set(Settings().contenders) <= set(CONTENDERS)


def test_kinds_wait_for_their_guards() -> None:
    assert [each.name for each in gather(["none", "calibrated"], Material())] == ["none"]
    found = gather(["none", "calibrated"], Material(curves={"none": CURVES}))
    assert [each.name for each in found][:2] == ["none", "calibrated 0.1"]
    assert all(each.searched for each in found if each.name != "none")


def test_contenders_of_files_and_callables(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    uniform(["flip"]).save(path)
    (mine,) = gather([str(path)], Material())
    assert mine.name == "mine"
    assert mine.policy == uniform(["flip"])
    (own,) = gather([f"{__name__}:own"], Material())
    assert own.name == "own"


def own(material: Material) -> list[Contender]:
    return [Contender("own", uniform(["invert"]), "a test")]


def test_unknown_contender() -> None:
    with pytest.raises(ValueError, match="contenders should be among none, "):
        find_kind("trivial")


# --- screening --------------------------------------------------------------------------------------------------------


def test_design_is_balanced_and_orthogonal() -> None:
    matrix = design(19)
    assert np.array_equal(matrix.T @ matrix, 20 * np.eye(19))
    assert np.array_equal(matrix.sum(0), np.zeros(19))
    pairs = {tuple(row) for row in matrix[:, :2].tolist()}
    assert pairs == set(itertools.product((1, -1), repeat=2))


def test_effects_of_a_linear_response_are_found_with_their_intervals() -> None:
    names = list(OPERATIONS)
    true = np.zeros(17)
    true[[2, 5]] = -0.3, 0.2
    losses = 1 + design(17) @ true / 2
    found = effects(names, losses.tolist())
    by_name = {each.operation: each for each in found}
    assert by_name[names[2]].effect == pytest.approx(-0.3)
    assert by_name[names[5]].effect == pytest.approx(0.2)
    assert found[0].operation == names[2]
    assert all(each.half_width == pytest.approx(0, abs=1e-9) for each in found)


def test_intervals_of_effects_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        found = effects(list(OPERATIONS), generator.normal(1, 0.1, 20).tolist(), deviation=0.1)
        covered += [abs(each.effect) <= each.half_width for each in found]
    assert 0.93 < np.mean(covered) < 0.97


def test_policies_of_the_design_use_half_of_the_operations() -> None:
    found = policies(list(OPERATIONS), {})
    assert len(found) == 20
    sizes = [len({each.operation for each in policy.sub_policies[0][0]}) for policy in found.values() if policy]
    assert sum(sizes) == 17 * 10
    assert list(found.values())[-1] is None


def test_screened_keeps_what_helps() -> None:
    names = list(OPERATIONS)
    true = np.full(17, 0.1)
    true[3] = -0.2
    policy = screened(effects(names, (1 + design(17) @ true / 2).tolist()), {})
    assert policy is not None
    assert {each.operation for each in policy.sub_policies[0][0]} == {names[3]}


def test_trivialaugment_is_applied_exactly() -> None:
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    policy: Policy = trivialaugment()
    plan = policy.sample(20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(apply(images, plan), apply(images, plan))
    assert plan.stages == 1


# --- adversarial ------------------------------------------------------------------------------------------------------


def test_an_adversarial_search_starts_from_what_a_calibrated_policy_uses() -> None:
    start = calibrated(CURVES, 0.1)
    settings = Settings(sub_policies=20, stages=2)
    relaxed = relaxed_start(start, Allowed(limits={"rotate": 0.5}), settings)
    assert relaxed.operations == ("rotate", "flip", "solarize")
    assert relaxed.weights.shape == (20, 2, 3)
    assert (relaxed.probabilities == 0.7).all()
    magnitudes = relaxed.magnitudes[..., 0]
    largest = max(each.magnitude for each in start.sub_policies[0][0] if each.operation == "rotate")
    assert largest > 0.5
    assert magnitudes.max() <= 0.5
    assert magnitudes.max() > 0.4  # spread below the limit, of 40 draws
    alone = relaxed_start(start, Allowed(), settings).magnitudes[..., 0]
    assert 0.8 * largest < alone.max() <= largest
    assert not relaxed.sample_selection
    assert relaxed_start(start, Allowed(), settings, one_operation=True).sample_selection


def test_a_random_start_has_the_allowed_operations() -> None:
    relaxed = relaxed_start(None, Allowed(("flip", "rotate"), {"rotate": 0.1}), Settings())
    assert relaxed.operations == ("flip", "rotate")
    assert relaxed.magnitudes[..., 1].max() <= 0.1
    assert relaxed.probabilities.unique().numel() > 2


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize(("given", "expected"), [(None, None), (True, True), (False, False)])
def test_for_masks_each_image_draws_one_operation_a_stage(
    masks: bool, given: bool | None, expected: bool | None
) -> None:
    task = SimpleNamespace(data=SimpleNamespace(has_masks=masks))
    assert draws_one_operation(task, Settings(sample_selection=given)) is (masks if expected is None else expected)
