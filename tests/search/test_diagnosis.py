"""What a search says about itself: shares, entropy, strength, distances, the verdict in words, and the pictures."""

import copy
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import STEP_METRICS
from PIL import Image
from torch import Tensor

from fasteraa_transforms.backends import apply
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.pictures import contact_sheet, describe
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import Digits
from fasteraa_transforms.search.algorithm.diagnosis import (
    Diagnosis,
    Distance,
    effective_share,
    random_distance,
    selection_entropy,
    strength,
)
from fasteraa_transforms.search.report.plots import curves

NAMES = list(OPERATIONS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def relaxed(seed: int = 0, **options: Any) -> RelaxedPolicy:
    return RelaxedPolicy(5, 2, generator=seeded(seed), **options)


@torch.no_grad()
def choosing(policy: RelaxedPolicy, name: str) -> RelaxedPolicy:
    """The policy, made to choose one operation in every stage."""
    policy.weights.zero_()
    policy.weights[..., policy.operations.index(name)] = 100
    return policy


def single(name: str, probability: float = 1.0, magnitude: float = 1.0) -> Policy:
    has_magnitude = OPERATIONS[name].has_magnitude
    return Policy(
        [
            [
                [
                    {
                        "operation": name,
                        "weight": 1,
                        "probability": probability,
                        "magnitude": magnitude if has_magnitude else None,
                    }
                ]
            ]
        ]
    )


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_effective_share_is_weight_times_probability() -> None:
    policy = relaxed()
    share = effective_share(policy)
    assert list(share) == NAMES
    for n, name in enumerate(NAMES):
        total = 0.0
        for row in range(5):
            for stage in range(2):
                exponents = [math.exp(w / policy.selection_temperature) for w in policy.weights[row, stage].tolist()]
                total += exponents[n] / math.fsum(exponents) * policy.probabilities[row, stage, n].item()
        assert share[name] == pytest.approx(total / 10, rel=1e-4)


def test_effective_share_is_that_of_the_exported_policy() -> None:
    policy = relaxed(1)
    exported = policy.to_policy(prune=0).effective_share()
    assert effective_share(policy) == pytest.approx(exported, rel=1e-4)


def test_effective_share_of_one_operation() -> None:
    policy = choosing(relaxed(), "invert")
    with torch.no_grad():
        policy.probabilities.fill_(0.25)
    share = effective_share(policy)
    assert share.pop("invert") == pytest.approx(0.25)
    assert max(share.values()) == 0


def test_effective_share_of_a_choice_of_operations() -> None:
    assert list(effective_share(relaxed(operations=("flip", "rotate")))) == ["flip", "rotate"]


def test_selection_entropy() -> None:
    policy = relaxed()
    assert 0 < selection_entropy(policy) < 1
    with torch.no_grad():
        policy.weights.fill_(0.3)
    assert selection_entropy(policy) == pytest.approx(1)
    assert selection_entropy(choosing(policy, "rotate")) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():  # two alike, of 17
        policy.weights[..., NAMES.index("flip")] = 100
    assert selection_entropy(policy) == pytest.approx(math.log(2) / math.log(17))
    with torch.no_grad():  # one stage of ten with everything alike, the others with one operation
        choosing(policy, "rotate").weights[3, 1] = 0
    assert selection_entropy(policy) == pytest.approx(0.1)


def test_strength() -> None:
    black = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
    images = Digits().images[:64]
    assert strength(single("invert"), black) == 1
    assert strength(single("invert", probability=0), images) == 0
    assert strength(single("rotate", magnitude=0), images) == 0
    inverted = (255 - 2 * images.double()).abs().mean().item() / 255
    assert strength(single("invert"), images) == pytest.approx(inverted, rel=1e-6)
    half = strength(single("invert", probability=0.5), black.repeat(64, 1, 1, 1))
    assert half == pytest.approx(0.5, abs=0.07)  # 1,024 draws
    assert strength(single("rotate", magnitude=0.1), images) < strength(single("rotate"), images)


def test_strength_has_fixed_draws_and_leaves_the_images() -> None:
    policy, images = relaxed().to_policy(), Digits().images[:64].clone()
    before = images.clone()
    torch.manual_seed(1)
    one = strength(policy, images)
    torch.manual_seed(2)
    assert strength(policy, images) == one
    assert strength(policy, images, seed=1) != one
    assert torch.equal(images, before)


def test_distance_of_a_policy_from_itself_is_zero() -> None:
    policy = relaxed()
    assert Distance.between(policy, copy.deepcopy(policy)) == Distance(0, 0, 0)


def test_distance_by_hand() -> None:
    one, other = choosing(relaxed(), "rotate"), choosing(relaxed(1), "flip")
    with torch.no_grad():
        for policy, probability, magnitude in ((one, 0.25, 0.5), (other, 0.5, 0.875)):
            policy.probabilities.fill_(probability)
            policy.magnitudes.fill_(magnitude)
        for n, operation in enumerate(OPERATIONS.values()):
            if not operation.has_magnitude:  # what they hold there means nothing
                one.magnitudes[..., n] = 0
    found = Distance.between(one, other)
    assert found.selection == pytest.approx(1)  # nothing in common
    assert found.probability == pytest.approx(0.25)
    assert found.magnitude == pytest.approx(0.375)
    assert Distance.between(other, one) == found


def test_distance_of_operations_without_magnitude() -> None:
    names = ("flip", "invert")
    assert Distance.between(relaxed(operations=names), relaxed(1, operations=names)).magnitude == 0


def test_random_distance() -> None:
    policy = relaxed()
    found = random_distance(policy)
    torch.manual_seed(77)
    assert random_distance(policy) == found  # a yardstick, always the same
    assert random_distance(relaxed(5)) == found  # of the shape, whatever the parameters
    assert found.probability == pytest.approx(1 / 3, abs=0.02)  # E|u - v| of two uniform variables
    assert found.magnitude == pytest.approx(1 / 3, abs=0.02)
    assert 0.7 < found.selection < 0.95
    mild = random_distance(relaxed(selection_temperature=10.0))
    assert mild.selection < 0.05  # hot selections are all alike
    single_pair = Distance.between(relaxed(21), relaxed(22))
    assert single_pair.selection == pytest.approx(found.selection, abs=0.15)


# --- verdict ----------------------------------------------------------------------------------------------------------


def diagnosis(start: RelaxedPolicy, end: RelaxedPolicy, **changes: Any) -> Diagnosis:
    """As a run makes it."""
    images = Digits().images[:256]
    distance, yardstick = Distance.between(end, start), random_distance(start)
    fractions = [
        getattr(distance, name) / getattr(yardstick, name) for name in ("selection", "probability", "magnitude")
    ]
    values: dict[str, Any] = {
        "drift": sum(fractions) / 3,
        "distance": distance,
        "strength_start": strength(start.to_policy(), images),
        "strength_end": strength(end.to_policy(), images),
        "entropy_start": selection_entropy(start),
        "entropy_end": selection_entropy(end),
        "share_start": effective_share(start),
        "share_end": effective_share(end),
        "accuracy_clean": 0.9,
        "accuracy_augmented": 0.85,
        "chance": 0.1,
    }
    return Diagnosis(**values | changes)


def test_a_policy_that_did_not_move_is_called_close_to_its_start() -> None:
    start = relaxed()
    found = diagnosis(start, copy.deepcopy(start))
    assert found.close_to_start
    assert not found.collapsed
    lines = found.verdict().splitlines()
    assert lines[0] == "Close to the random start: the parameters moved 0% of the distance between two random starts."
    assert lines[1].startswith("Strength held: mean displacement of the images 0.")
    assert "Collapsed" not in found.verdict()


def test_a_policy_that_does_nothing_is_called_collapsed() -> None:
    start = relaxed()
    end = copy.deepcopy(start)
    with torch.no_grad():
        end.probabilities.zero_()
    found = diagnosis(start, end)
    assert found.collapsed
    line = found.verdict().splitlines()[1]
    assert line.startswith("Collapsed to the identity: mean displacement of the images 0.")
    assert "at the start, 0.000 now" in line


def test_a_policy_that_moved_and_kept_its_strength() -> None:
    found = diagnosis(relaxed(), relaxed(1))  # as far as another random start
    assert found.drift == pytest.approx(1, abs=0.2)
    assert not found.close_to_start
    assert not found.collapsed
    text = found.verdict()
    assert text.startswith(f"The parameters moved {found.drift:.0%} of the distance between two random starts.\n")
    assert "Strength held" in text
    assert "Close to the random start" not in text
    assert "Collapsed" not in text


@pytest.mark.parametrize(
    ("field", "change", "value", "expected"),
    [
        ("close_to_start", "drift", 0.49, True),
        ("close_to_start", "drift", 0.51, False),
        ("collapsed", "strength_end", 0.049, True),
        ("collapsed", "strength_end", 0.051, False),
        ("guard_untrained", "accuracy_clean", 0.32, True),  # an error of 0.68, above 3/4 of the error of guessing
        ("guard_untrained", "accuracy_clean", 0.33, False),
    ],
)
def test_thresholds(field: str, change: str, value: float, expected: bool) -> None:
    found = diagnosis(relaxed(), relaxed(1), strength_start=0.1, strength_end=0.1)
    assert getattr(dataclasses.replace(found, **{change: value}), field) is expected


def test_the_guard() -> None:
    found = diagnosis(relaxed(), relaxed(1), accuracy_clean=0.21, accuracy_augmented=0.2)
    (sentence,) = (line for line in found.verdict().splitlines() if "hardly" in line)
    assert sentence == (
        "The classifier has hardly learned the classes: 21% of clean images right (chance 10%); "
        "it guards next to nothing."
    )
    found = diagnosis(relaxed(), relaxed(1), accuracy_clean=0.93, accuracy_augmented=0.81)
    assert "The classifier has 93% of clean images right (chance 10%), 81% of augmented ones." in found.verdict()
    assert "hardly" not in found.verdict()


def test_the_strength_is_judged_by_the_one_it_was_held_at() -> None:
    """A quarter of the start's strength is no collapse where it was asked for."""
    strengths = {"strength_start": 0.12, "strength_end": 0.028}
    assert diagnosis(relaxed(), relaxed(1), **strengths).collapsed
    found = diagnosis(relaxed(), relaxed(1), **strengths, held=0.03)
    assert not found.collapsed
    lines = found.verdict().splitlines()
    assert lines[1] == "Strength held: mean displacement of the images 0.120 at the start, 0.028 now."
    assert lines[-1].startswith("Whether the policy helps training is not measured by a search")
    fallen = diagnosis(relaxed(), relaxed(1), strength_start=0.12, strength_end=0.01, held=0.03)
    assert fallen.collapsed


def test_the_verdict_names_what_lost_and_what_gained() -> None:
    start = dict.fromkeys(NAMES, 0.02)
    end = start | {"invert": 0.001, "solarize": 0.002, "equalize": 0.003, "rotate": 0.1, "shear_x": 0.09, "flip": 0.08}
    lines = diagnosis(relaxed(), relaxed(1), share_start=start, share_end=end).verdict().splitlines()
    assert "Lost most share: invert 0.020 → 0.001, solarize 0.020 → 0.002, equalize 0.020 → 0.003." in lines
    assert "Gained most share: rotate 0.020 → 0.100, shear_x 0.020 → 0.090, flip 0.020 → 0.080." in lines
    assert lines[-1].startswith("Whether the policy helps training is not measured by a search")

    end = dict.fromkeys(NAMES, 0.0)
    verdict = diagnosis(relaxed(), relaxed(1), share_start=start, share_end=end).verdict()
    assert "Lost most share: " in verdict
    assert "Gained" not in verdict


# --- pictures ---------------------------------------------------------------------------------------------------------


def tile_at(sheet: Image.Image, row: int, column: int, stages: int, tile: int) -> Tensor:
    """The picture of a tile, [tile, tile, 3]."""
    left, top = 6 + column * (tile + 6), 6 + row * (tile + 13 * stages + 2 + 6)
    crop = sheet.crop((left, top, left + tile, top + tile))
    return torch.from_numpy(np.array(crop))


@pytest.mark.parametrize(("channels", "side", "tile"), [(1, 8, 24), (3, 12, 24), (3, 24, 24)])
def test_contact_sheet(channels: int, side: int, tile: int) -> None:
    images = torch.randint(0, 256, (3, channels, side, side), dtype=torch.uint8, generator=seeded())
    policy = relaxed().to_policy()
    before = images.clone()
    sheet = contact_sheet(policy, images, samples=4, tile=tile, seed=9)
    assert sheet.mode == "RGB"
    caption = 2 * 13 + 2
    assert sheet.size == (6 + 5 * (tile + 6), 6 + 3 * (tile + caption + 6))
    assert torch.equal(images, before)

    def enlarged(image: Tensor) -> Tensor:
        scale = tile // side
        large = image.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        return large.expand(3, -1, -1).permute(1, 2, 0)

    plan = policy.sample(12, generator=seeded(9))
    augmented = apply(images.repeat(4, 1, 1, 1), plan)
    for row in range(3):
        assert torch.equal(tile_at(sheet, row, 0, 2, tile), enlarged(images[row]))
        for column in range(4):
            assert torch.equal(tile_at(sheet, row, column + 1, 2, tile), enlarged(augmented[3 * column + row]))
    again = contact_sheet(policy, images, samples=4, tile=tile, seed=9)
    assert again.tobytes() == sheet.tobytes()
    assert contact_sheet(policy, images, samples=4, tile=tile, seed=10).tobytes() != sheet.tobytes()


def test_contact_sheet_of_large_images() -> None:
    images = torch.full((2, 3, 200, 200), 77, dtype=torch.uint8)
    sheet = contact_sheet(single("flip"), images, samples=1, tile=32)
    assert (tile_at(sheet, 1, 0, 1, 32) == 77).all()


def test_descriptions_say_what_is_done() -> None:
    policy = Policy(
        [
            [
                [{"operation": "solarize", "weight": 1, "probability": 1, "magnitude": 0.25}],
                [{"operation": "invert", "weight": 1, "probability": 1}],
                [{"operation": "rotate", "weight": 1, "probability": 0, "magnitude": 1}],
                [{"operation": "contrast", "weight": 1, "probability": 1, "magnitude": 0.5}],
            ]
        ]
    )
    plan = policy.sample(8, generator=seeded())
    described = [describe(plan, index) for index in range(8)]
    assert {tuple(lines[:3]) for lines in described} == {("solarize 192", "invert", "-")}
    assert {lines[3] for lines in described} == {"contrast 1.45", "contrast 0.55"}


def metrics(epochs: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs + 1):
        if epoch:
            rows += [
                {"kind": "step", "epoch": epoch, "step": 2 * epoch - 1 + i} | dict.fromkeys(STEP_METRICS, 0.5 / epoch)
                for i in range(2)
            ]
        means = dict.fromkeys(STEP_METRICS, 0.5 / epoch) if epoch else {}
        share = {name: 0.01 * n + 0.01 * epoch for n, name in enumerate(NAMES)}
        rows.append(
            {"kind": "epoch", "epoch": epoch, "step": 2 * epoch, "seconds": 1.0, "strength": 0.1, "drift": 0.1 * epoch}
            | {"entropy": 0.4, "share": share, **means}
        )
    return rows


@pytest.mark.parametrize("epochs", [0, 3])
def test_curves(epochs: int, tmp_path: Path) -> None:
    curves(metrics(epochs), tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        picture.load()
        assert picture.format == "PNG"
        assert picture.size == (1200, 800)
        assert len(picture.convert("L").getcolors()) > 10  # not blank
    # No window that a program with windows of its own would notice.
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
