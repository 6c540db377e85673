"""The evaluation of policies: networks, one training, the comparison, its statistics, resuming, the command line."""

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
import tyro
from hypothesis import given
from hypothesis import settings as settings_of_examples
from hypothesis import strategies as st
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torchvision.transforms import v2

from fasteraa_transforms import FasterAutoAugment, Policy, RelaxedPolicy
from fasteraa_transforms.search import __main__ as search_cli
from fasteraa_transforms.search import evaluate, load_images
from fasteraa_transforms.search.contenders.uniform import GROUPS
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import IGNORED
from fasteraa_transforms.search.data.opening import open_splits
from fasteraa_transforms.search.evaluate import main
from fasteraa_transforms.search.evaluation.compare import compare
from fasteraa_transforms.search.evaluation.conclusions import conclusions
from fasteraa_transforms.search.evaluation.controls import CONTROLS, Augmentation, Case, parse_augmentations
from fasteraa_transforms.search.evaluation.record import Record
from fasteraa_transforms.search.evaluation.settings import TrainingSettings
from fasteraa_transforms.search.evaluation.statistics import Interval, paired_interval, seeds_to_tell
from fasteraa_transforms.search.evaluation.table import errors_of, format_table
from fasteraa_transforms.search.networks import table as models
from fasteraa_transforms.search.networks.fit import Fit, Recipe, cutout, fit, rate_factor
from fasteraa_transforms.search.networks.table import NETWORKS, make_network, make_pixel_network
from fasteraa_transforms.search.runtime.files import read_rows
from fasteraa_transforms.search.runtime.world import World

ROOT = Path(__file__).parents[2]
DO_NOTHING = Policy([[[{"operation": "invert", "weight": 1, "probability": 0}]]], name="nothing")
MIRROR = Policy([[[{"operation": "flip", "weight": 1, "probability": 1}]]], name="mirror")
TIMES = ("seconds", "images_per_second")


class Halves:
    """Grey images [1, 8, 8] of two classes: bright above or bright below, under noise."""

    def __init__(self, count: int = 64, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.targets = [index % 2 for index in range(count)]
        self.images = torch.randint(0, 100, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
        for image, label in zip(self.images, self.targets, strict=True):
            image[:, 4 * label : 4 * label + 4] += 100

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


SETTINGS = TrainingSettings(
    model="small", epochs=3, batch_size=8, learning_rate=0.1, padding=1, flip=False, cutout=4, train_images=32
)


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def recorded(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "rows.jsonl")


def run(text: str, settings: TrainingSettings = SETTINGS, **options: Any) -> list[dict[str, Any]]:
    return compare(
        Halves(), parse_augmentations(text), settings, **{"seeds": 1, "name": "halves", "progress": False} | options
    )


def augmented_run(policy: Policy, settings: TrainingSettings = SETTINGS, **options: Any) -> list[dict[str, Any]]:
    takes = {"seeds": 1, "name": "halves", "progress": False} | options
    return compare(Halves(), [Augmentation("mine", policy)], settings, **takes)


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes", "millions"),
    [
        ("wrn40_2", 10, 2.2),  # Zagoruyko and Komodakis 2016, table 4
        ("wrn28_10", 10, 36.5),
        ("wrn16_2", 10, 0.7),  # Zagoruyko and Komodakis 2017, "Paying more attention to attention", table 1
        ("resnet50", 1000, 25.6),  # torchvision's table of weights
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, classes: int, millions: float) -> None:
    with torch.device("meta"):
        network = make_network(name, classes=classes)
    assert round(sum(each.numel() for each in network.parameters()) / 1e6, 1) == millions


def test_the_default_network_has_as_many_parameters_as_its_summary_says() -> None:
    millions = sum(each.numel() for each in make_network("resnet9").parameters()) / 1e6
    assert f"{millions:.2f} M parameters" in NETWORKS["resnet9"].summary


@pytest.mark.parametrize(
    "name", ["small", "compact", "resnet9", "resnet9-8", "wrn16_2", "wrn40_2", "resnet50", "squeezenet1_1"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_give_logits(name: str, channels: int) -> None:
    network = make_network(name, channels=channels, classes=7).eval()
    images = torch.rand(2, channels, 32, 32)
    logits = network(images)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(network(images[1:]), logits[1:], rtol=1e-4, atol=1e-5)


def test_a_network_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "mine", lambda channels, classes: nn.Conv2d(channels, classes, 1), raising=False)
    network = make_network(f"{models.__name__}:mine", channels=2, classes=5)
    assert (network.in_channels, network.out_channels) == (2, 5)


@pytest.mark.parametrize(
    ("name", "channels", "message"),
    [
        (
            "vgg",
            3,
            f"model should be one of {', '.join(NETWORKS)}, a classification model of torchvision such as resnet18, or "
            "module:callable, but got 'vgg' instead",
        ),
        ("no_such_module:net", 3, "model 'no_such_module:net' was not found: No module named 'no_such_module'"),
        ("resnet18", 2, "resnet18 takes images of 1 or 3 channels, but got 2 instead"),
    ],
)
def test_unusable_networks(name: str, channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_network(name, channels=channels)


# --- one training -----------------------------------------------------------------------------------------------------


def halves(train: int = 32, test: int = 32) -> tuple[ImageSet, ImageSet]:
    """Training and test images."""
    data = load_images(Halves(train + test))
    return data.subset(torch.arange(train)), data.subset(torch.arange(train, train + test))


def training_of(
    data: ImageSet, *, crop: Crop | None = None, augment: Any = None, network: str = "small", **changes: Any
) -> Fit:
    recipe = Recipe(**{"epochs": 3, "batch_size": 8} | changes)
    make = partial(make_network, network, channels=1, classes=2)
    return Fit(data, make, recipe, crop or Crop((8, 8)), augment=augment)


@pytest.fixture
def _forked() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def test_cutout_blanks_a_square_clipped_at_the_borders() -> None:
    ones = torch.ones(400, 2, 12, 10)
    blanked = cutout(ones, 4, generator=torch.Generator().manual_seed(0)) == 0
    assert torch.equal(blanked[:, 0], blanked[:, 1])  # all channels
    rows, columns = blanked[:, 0].any(2).sum(1), blanked[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, blanked[:, 0].sum((1, 2)))  # a rectangle
    assert set(rows.tolist()) == set(columns.tolist()) == {2, 3, 4}  # whole, or clipped down to half
    # Centres are uniform: 9 of 12 rows leave the square whole.
    assert (rows == 4).float().mean().item() == pytest.approx(9 / 12, abs=0.07)
    assert blanked.any(0)[0].all()
    assert ones.min() == 1


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:11] == pytest.approx([*(i / 10 for i in range(1, 11)), 1.0])
    assert factors[55] == pytest.approx(0.5)
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 1e-3


@pytest.mark.usefixtures("_forked")
def test_a_network_learns_and_is_tested_on_the_test_images() -> None:
    train, test = halves()
    training = training_of(train, epochs=15)
    before = training.test(test)[0]
    rates = [training.train_epoch()["learning_rate"] for _ in range(15)]
    assert rates.index(max(rates)) in (2, 3)  # a fifth of the steps
    assert max(rates) == pytest.approx(0.1)
    error, loss = training.test(test)
    assert before > 0.2
    assert error == 0
    with torch.no_grad():
        logits = training.network(training.normalise(test.images))
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, test.labels).item())
    assert training.test(ImageSet(test.images, 1 - test.labels, 2))[0] == 1
    larger = ImageSet(nn.functional.pad(test.images, (2, 2, 2, 2)), test.labels, 2)
    assert training.test(larger) == (error, loss)  # the centre is what there was before the padding


@pytest.mark.usefixtures("_forked")
def test_augmentation_comes_first_then_crop_normalisation_and_cutout() -> None:
    met: list[Tensor] = []
    seen: list[Tensor] = []

    def augment(images: Tensor) -> Tensor:
        met.append(images)
        return torch.full_like(images, 255)

    train, _ = halves()
    training = training_of(train, crop=Crop((8, 8), padding=2), augment=lambda generator: augment, cutout=4)
    training.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    training.train_epoch()
    white = training.normalise(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)).item()
    black = training.normalise(torch.zeros((1, 1, 1, 1), dtype=torch.uint8)).item()
    assert {images.dtype for images in met} == {torch.uint8}
    assert sorted(image.sum().item() for images in met for image in images) == sorted(
        image.sum().item() for image in train.images
    )  # each image once an epoch, as it is
    # White from the augmentation, black from the padding of the crop, zero from Cutout, which is after normalisation.
    assert torch.cat(seen).unique().tolist() == pytest.approx([black, 0.0, white])


@pytest.mark.usefixtures("_forked")
def test_a_network_of_pixels_is_tested_on_its_labelled_pixels() -> None:
    train, test = halves()
    masks = (test.images[:, 0] > 120).to(torch.uint8)
    half = masks.clone()
    half[:, :4] = IGNORED
    make = partial(make_pixel_network, "small", channels=1, classes=2)
    training = Fit(ImageSet(test.images, masks, 2), make, Recipe(epochs=2, batch_size=8), Crop((8, 8)))
    fit(training)
    with torch.no_grad():
        logits = training.network(training.normalise(test.images))[:, :, 4:]
    error, loss = training.test(ImageSet(test.images, half, 2))
    assert error == pytest.approx((logits.argmax(1) != masks[:, 4:]).double().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, masks[:, 4:].long()).item(), rel=1e-5)


@pytest.mark.usefixtures("_forked")
def test_settings_become_a_recipe() -> None:
    recipe = dataclasses.replace(SETTINGS, learning_rate=None, warmup=0.1).recipe(torch.device("cpu"), cutout=6)
    assert recipe == Recipe(
        epochs=3, batch_size=8, learning_rate=0.1, weight_decay=5e-4, warmup=0.1, gradient_clip=5, cutout=6
    )


def test_a_network_may_compute_in_bfloat16() -> None:
    (exact,), (rough,) = (
        run("none", dataclasses.replace(SETTINGS, precision=each)) for each in ("float32", "bfloat16")
    )
    assert rough["train_loss"] != exact["train_loss"]
    assert rough["train_loss"] == pytest.approx(exact["train_loss"], rel=0.02)


@pytest.mark.usefixtures("_forked")
def test_a_model_that_gives_no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "mine", lambda channels, classes: nn.Conv2d(channels, 5, 8), raising=False)
    train, test = halves()
    training = training_of(train, network=f"{models.__name__}:mine")
    message = r"^the network should give logits \[32, 2\], but gave \[32, 5, 1, 1\] instead$"
    with pytest.raises(ValueError, match=message):
        training.test(test)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs should be positive, but got 0 instead"),
        ({"learning_rate": 0.0}, "learning_rate should be positive, but got 0.0 instead"),
        ({"cutout": -1}, "cutout should not be negative, but got -1 instead"),
        ({"learning_rate": math.nan}, "learning_rate should be positive, but got nan instead"),
        ({"warmup": 1.0}, "warmup should be in [0, 1), but got 1.0 instead"),
    ],
)
def test_unusable_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TrainingSettings(**changes)


# --- what is compared -------------------------------------------------------------------------------------------------


def test_the_names_of_augmentations(tmp_path: Path) -> None:
    MIRROR.save(tmp_path / "policy.json")
    path = str(tmp_path / "policy.json")
    found = parse_augmentations(f"none, random,cifar10 ,{path},mine={path}")
    assert [each.label for each in found] == ["none", "random", "cifar10", path, "mine"]
    assert [each.policy for each in found[:2]] == [None, None]
    assert found[2].policy == FasterAutoAugment.from_pretrained("cifar10").policy
    assert found[3].policy == found[4].policy == MIRROR


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "none,trivial",
            f"policies should be among {', '.join(CONTROLS)}; or unknown "
            "policy 'trivial'; known: .*; or give the path of a policy file",
        ),
        ("none,none", "labels should differ, but got none more than once; give one with label="),
        ("mine=cutout", "a control has its own name, but got 'mine=cutout'; leave out the label"),
        ("random=cifar10", "a policy should not be called as a control is, but got 'random=cifar10'; choose .*"),
        (" ,", "policies should name at least one augmentation, but got none"),
    ],
)
def test_unusable_augmentations(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        parse_augmentations(text)


def test_uniform_controls_draw_every_operation_of_their_group_alike() -> None:
    for control, group in (("uniform", "all"), ("colour", "colour"), ("geometry", "geometry")):
        names = GROUPS[group]
        policy = CONTROLS[control].make(Case("halves", seed=0))
        assert isinstance(policy, Policy)
        (stage,) = policy.sub_policies[0]
        share = Counter[str]()
        for candidate in stage:
            assert candidate.probability == 1
            share[candidate.operation] += candidate.weight
        total = sum(share.values())
        assert {name: each / total for name, each in share.items()} == pytest.approx(
            dict.fromkeys(names, 1 / len(names))
        )
        assert {each.magnitude for each in stage} <= {None, 0.1, 0.3, 0.5, 0.7, 0.9}


def test_every_control_trains() -> None:
    rows = run(",".join(CONTROLS), dataclasses.replace(SETTINGS, epochs=1))
    assert [row["augmentation"] for row in rows] == list(CONTROLS)
    assert len({row["train_loss"] for row in rows}) == len(CONTROLS)  # no two of them are the same


def test_trainings_differ_in_the_augmentation_alone() -> None:
    none, cut = run("none,cutout")
    plain = dataclasses.replace(SETTINGS, cutout_after=False)
    measured = ("error", "loss", "train_loss", "train_accuracy")
    # A policy that does nothing: the same weights, order, crops and, where it follows, Cutout.
    for reference, settings in ((none, plain), (cut, SETTINGS)):
        (row,) = augmented_run(DO_NOTHING, settings)
        assert {key: row[key] for key in measured} == {key: reference[key] for key in measured}
    assert none["train_loss"] != cut["train_loss"]
    assert augmented_run(MIRROR, plain)[0]["train_loss"] != none["train_loss"]


def test_each_seed_draws_its_own_random_policy_the_start_of_a_search() -> None:
    first, second = run("random", dataclasses.replace(SETTINGS, epochs=1), seeds=2)
    assert first["policy"] != second["policy"]
    # The shape is that of the policy beside it.
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    for shape, beside in (((10, 2), []), ((1, 1), [Augmentation("mine", MIRROR)])):
        rows = compare(Halves(), [Augmentation("random"), *beside], epoch, seeds=2, name="halves", progress=False)
        for row in rows:
            if row["augmentation"] == "random":
                start = RelaxedPolicy(*shape, generator=torch.Generator().manual_seed(row["seed"])).to_policy()
                (expected,) = augmented_run(start, epoch)
                assert row["policy"] == expected["policy"]


def test_autoaugment_is_that_of_the_dataset() -> None:
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    for name, kind in (("halves", "CIFAR10"), ("svhn", "SVHN")):
        (row,) = run("autoaugment", epoch, name=name)
        (expected,) = augmented_run(Policy.from_autoaugment(v2.AutoAugmentPolicy[kind]), epoch)
        assert row["policy"] == expected["policy"]


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run("random", dataclasses.replace(SETTINGS, epochs=1))
    assert torch.equal(torch.rand(3), expected)


# --- images -----------------------------------------------------------------------------------------------------------


def test_without_a_test_split_the_rest_is_tested(tmp_path: Path) -> None:
    run("none", out=tmp_path / "a")
    run("none", dataclasses.replace(SETTINGS, train_images=None), out=tmp_path / "b")
    counts = [json.loads((tmp_path / each / "settings.json").read_text()) for each in "ab"]
    assert [(each["train_images"], each["test_images"]) for each in counts] == [(32, 32), (32, 32)]
    with pytest.raises(ValueError, match=r"^train_images should be at most 63, but got 64 instead$"):
        run("none", dataclasses.replace(SETTINGS, train_images=64))


def test_the_subset_is_fixed_or_each_trainings_own(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[Tensor] = []
    start = Fit.__init__

    def noted(self: Fit, data: ImageSet, *args: Any, **options: Any) -> None:
        met.append(data.images)
        start(self, data, *args, **options)

    monkeypatch.setattr(Fit, "__init__", noted)
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    run("none,cutout", epoch, seeds=2)
    expected = load_images(Halves(), num_images=32, seed=0).images  # what a search of seed 0 works on
    assert all(torch.equal(images, expected) for images in met)
    met.clear()
    run("none,cutout", dataclasses.replace(epoch, split_seed=None), seeds=2)
    assert torch.equal(met[0], expected)
    assert torch.equal(met[0], met[1])
    assert torch.equal(met[2], load_images(Halves(), num_images=32, seed=1).images)


def test_an_official_test_split_is_used_whole(tmp_path: Path) -> None:
    (row,) = run("none", test=Halves(20, seed=1), out=tmp_path)
    saved = json.loads((tmp_path / "settings.json").read_text())
    assert (saved["train_images"], saved["test_images"]) == (32, 20)
    assert row["error"] * 20 == pytest.approx(round(row["error"] * 20))
    three = Halves(20)
    three.targets[0] = 2
    message = "test images should have the classes and channels of the training images, 2 and 1, but got 3 and 1"
    with pytest.raises(ValueError, match=message):
        run("none", test=three)


def test_a_policy_that_was_searched_on_test_images_is_called_out(tmp_path: Path) -> None:
    def searched(images: int, seed: int, dataset: str = "halves") -> Policy:
        origin = {"dataset": dataset, "images": images, "settings": {"seed": seed}}
        return Policy(MIRROR.sub_policies, name="searched", provenance=origin)

    epoch = dataclasses.replace(SETTINGS, epochs=1)
    for policy, expected in (
        (searched(32, 0), 0),
        (searched(64, 3), 32),
        (searched(64, 3, "cifar10"), 0),
        (MIRROR, None),
    ):
        (row,) = augmented_run(
            policy, epoch, out=tmp_path / str(expected) / policy.name / str(len(str(policy.provenance)))
        )
        assert row["searched_test_images"] == expected
    (table,) = (tmp_path / "32").rglob("table.md")
    assert "**mine was searched on 32 of the test images.**" in table.read_text()
    assert all("was searched on" not in each.read_text() for each in (tmp_path / "0").rglob("table.md"))
    (row,) = augmented_run(searched(64, 3), epoch, test=Halves(20, seed=1))
    assert row["searched_test_images"] == 0  # all of its images were training images


def test_folders_with_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 2)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("L", (8, 8), 30 * i).save(tmp_path / split / name / f"{i}.png")
    train, test = open_splits(str(tmp_path))
    assert test is not None
    assert (len(train), len(test)) == (12, 4)
    assert open_splits(str(tmp_path / "train"))[1] is None
    assert open_splits("digits")[1] is None
    (tmp_path / "val" / "cat").rename(tmp_path / "val" / "cow")
    with pytest.raises(ValueError, match=r"^train and val of .* should have the same classes, but they differ$"):
        open_splits(str(tmp_path))


def test_the_test_split_has_to_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[open_splits.__module__], "open_dataset", lambda *args, **options: Halves())
    with pytest.raises(ValueError, match=r"^the test images of svhn were not found in '.*' \(Dataset not found.*\)$"):
        open_splits("svhn", data_dir=tmp_path)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_the_interval_of_paired_differences() -> None:
    # Differences 1, 2, 3: mean 2, deviation 1; Student's t of 2 degrees of freedom at 97.5 % is 4.302653.
    found = paired_interval([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert (found.mean, found.n) == (2, 3)
    assert found.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert not found.decided
    # Five pairs, 4 degrees of freedom: 2.776445 at 97.5 %, 2.131847 at 95 %.
    values = [-1.0, -2.0, -3.0, -2.0, -2.0]
    deviation = math.sqrt(0.5)
    assert paired_interval(values, [0.0] * 5).half_width == pytest.approx(2.776445 * deviation / math.sqrt(5), rel=1e-6)
    assert found.deviation == pytest.approx(1)
    ninety = paired_interval(values, [0.0] * 5, confidence=0.9)
    assert ninety.half_width == pytest.approx(2.131847 * deviation / math.sqrt(5), rel=1e-6)
    assert ninety.decided
    assert math.isinf(paired_interval([1.0], [0.0]).half_width)
    with pytest.raises(ValueError, match=r"^values and control should be equally many, at least 1, but got 2 and 1$"):
        paired_interval([1.0, 2.0], [1.0])


def test_differences_that_are_all_alike_have_an_interval_of_no_width() -> None:
    found = paired_interval([2.0, 3.0, 4.0], [1.0, 2.0, 3.0])
    assert (found.mean, found.half_width, found.decided) == (1, 0, True)


def test_how_many_seeds_would_tell() -> None:
    # Differences of deviation 1 and mean 1. With 10 seeds the quantiles are t(9) = 2.262 and 0.883: (3.145)² = 9.9.
    assert seeds_to_tell(Interval(-1.0, 2.0, 3, deviation=1.0)) == 10
    assert seeds_to_tell(Interval(-1.0, 2.0, 3, deviation=0.01)) == 2
    assert seeds_to_tell(Interval(0.01, 2.0, 3, deviation=1.0)) is None  # some 80,000
    assert seeds_to_tell(Interval(0.0, 2.0, 3, deviation=1.0)) is None
    assert seeds_to_tell(paired_interval([1.0], [2.0])) is None
    # So many seeds are enough in four cases of five.
    generator = torch.Generator().manual_seed(0)
    decided = [
        paired_interval((torch.randn(10, generator=generator) - 1).tolist(), [0.0] * 10).decided for _ in range(200)
    ]
    assert sum(decided) / 200 == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        (
            {"none": (9.0, 9.2, 9.1), "trivialaugment": (8.0, 8.1, 7.9), "mine": (6.9, 7.1, 7.0)},
            "mine has fewer errors than trivialaugment, the best of the controls: 7.00 % against 8.00 % (paired "
            "difference −1.00 ± 0.25 points, 3 seeds).",
        ),
        (
            {"none": (9.0, 9.2, 9.1), "mine": (9.9, 10.1, 10.0)},
            "mine has more errors than none, the only control: 10.00 % against 9.10 % (paired difference +0.90 ± 0.00 "
            "points, 3 seeds).",
        ),
        (
            {"none": (9.0, 8.0, 9.0), "mine": (8.0, 8.0, 9.0)},
            "Undecided between mine and none, the only control: 8.33 % against 8.67 % (paired difference −0.33 ± 1.43 "
            "points, 3 seeds); about 26 seeds would tell.",
        ),
        (
            {"none": (9.0,), "mine": (8.0,)},
            "Undecided between mine and none, the only control: 8.00 % against 9.00 % (paired difference −1.00 points, "
            "1 seed); one seed has no interval, 3 or more have.",
        ),
        (
            {"none": (9.0, 8.0), "mine": (8.0, 9.0)},
            "Undecided between mine and none, the only control: 8.50 % against 8.50 % (paired difference +0.00 ± 12.71 "
            "points, 2 seeds); not even 1,000 seeds would tell so small a difference.",
        ),
        (
            {"none": (9.0, 9.1), "cutout": (8.0, 8.1), "random": (8.5, 8.6)},
            "cutout has fewer errors than none: 8.05 % against 9.05 % (paired difference −1.00 ± 0.00 points, "
            "2 seeds).",
        ),
        ({"mine": (9.0, 9.1)}, "mine has 9.05 % errors, and nothing to be compared with."),
    ],
)
def test_the_verdict(errors: dict[str, tuple[float, ...]], expected: str) -> None:
    by_seed = {label: dict(enumerate(values)) for label, values in errors.items()}
    assert conclusions(by_seed, CONTROLS.keys()) == [expected]


def test_of_several_policies_each_has_a_sentence_the_best_one_first() -> None:
    lines = conclusions({"worse": {0: 9.0}, "none": {0: 8.0}, "better": {0: 7.0}}, ["none"])
    assert [line.split(" and none")[0] for line in lines] == ["Undecided between better", "Undecided between worse"]


def test_the_table_pairs_by_seed() -> None:
    errors = {"none": {0: 0.10, 1: 0.20, 2: 0.30}, "mine": {2: 0.27, 0: 0.09, 1: 0.18}}
    rows = [
        {"augmentation": label, "seed": seed, "error": error}
        for label, by_seed in errors.items()
        for seed, error in by_seed.items()
    ]
    assert format_table(rows, paper={"none": 5.3}).splitlines() == [
        "| augmentation | seeds | error, % | − none | paper, % |",
        "|---|---:|---:|---:|---:|",
        "| none | 3 | 20.00 ± 10.00 |  | 5.3 |",
        "| mine | 3 | 18.00 ± 9.00 | −2.00 ± 2.48 |  |",
    ]
    # Seeds that the control does not have yet are left out of the difference.
    assert "| mine | 3 | 18.00 ± 9.00 | −1.50 ± 6.35 |" in format_table([row for row in rows if row != rows[2]])
    assert "| mine | 3 | 18.00 ± 9.00 | −1.00 |" in format_table([rows[0], *rows[3:]])


def test_a_label_cannot_break_the_table() -> None:
    (*_, line) = format_table([{"augmentation": "a|b", "seed": 0, "error": 0.5}]).splitlines()
    assert line == r"| a\|b | 1 | 50.00 |"


# --- the folder -------------------------------------------------------------------------------------------------------


def test_all_augmentations_of_a_seed_come_before_the_next(tmp_path: Path) -> None:
    rows = run("none,cutout,random", dataclasses.replace(SETTINGS, epochs=1), seeds=2, out=tmp_path)
    assert recorded(tmp_path) == rows
    assert [(row["augmentation"], row["seed"]) for row in rows] == [
        ("none", 0),
        ("cutout", 0),
        ("random", 0),
        ("none", 1),
        ("cutout", 1),
        ("random", 1),
    ]
    assert format_table(rows) in (tmp_path / "table.md").read_text()
    assert not list((tmp_path / "checkpoints").iterdir())
    assert len(list((tmp_path / "tensorboard").iterdir())) == 6
    for name, pictures in (("none", []), ("random", ["augmented"])):
        events = EventAccumulator(str(tmp_path / "tensorboard" / f"{name}-seed0")).Reload()
        assert events.Tags()["images"] == pictures
        assert "test/error" in events.Tags()["scalars"]
    (sentence,) = conclusions(errors_of(rows), CONTROLS.keys())
    assert (tmp_path / "table.md").read_text().startswith(sentence)
    page = (tmp_path / "evaluation.html").read_text(encoding="utf-8")
    assert f"<p>{sentence}</p>" in page
    assert page.index(sentence) < page.index("<svg") < page.index("<table")
    assert ElementTree.parse(tmp_path / "evaluation.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("text", ["none,cutout,randaugment,cifar10"])
def test_a_resumed_evaluation_is_bit_for_bit_the_uninterrupted_one(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(text, seeds=2, out=tmp_path / "whole")
    train_epoch, calls = Fit.train_epoch, []

    def counted(self: Fit) -> dict[str, float]:
        calls.append(None)
        if len(calls) in (6, 13):  # in the second and in the fourth training, each 3 epochs long
            raise KeyboardInterrupt
        return train_epoch(self)

    monkeypatch.setattr(Fit, "train_epoch", counted)
    for attempt in range(3):
        if attempt < 2:
            with pytest.raises(KeyboardInterrupt):
                run(text, seeds=2, out=tmp_path / "cut")
            assert len(list((tmp_path / "cut" / "checkpoints").iterdir())) == 1
        else:
            rows = run(text, seeds=2, out=tmp_path / "cut")
    assert timeless(rows) == timeless(whole)
    assert timeless(recorded(tmp_path / "cut")) == timeless(whole)
    assert len(calls) == 8 * 3 + 2  # nothing but the two interrupted epochs was done again


@contextlib.contextmanager
def interrupted_in_the_third_epoch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    train_epoch = Fit.train_epoch

    def interrupted(self: Fit) -> dict[str, float]:
        if self.epoch == 2:
            raise KeyboardInterrupt
        return train_epoch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield


def test_a_dropout_network_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(channels: int, classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))

    monkeypatch.setattr(models, "mine", make, raising=False)
    settings = dataclasses.replace(SETTINGS, model=f"{models.__name__}:mine")
    (whole,) = run("none", settings)
    with interrupted_in_the_third_epoch(monkeypatch):
        run("none", settings, out=tmp_path)
    torch.rand(7)
    assert timeless(run("none", settings, out=tmp_path)) == timeless([whole])


def test_finished_trainings_stay_and_others_may_be_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    first = run("none", epoch, out=tmp_path)
    done = []
    train_epoch = Fit.train_epoch
    monkeypatch.setattr(Fit, "train_epoch", lambda self: done.append(None) or train_epoch(self))
    rows = run("none,cutout", epoch, seeds=2, out=tmp_path)
    assert rows[0] == first[0]
    assert len(done) == 3
    assert [(row["augmentation"], row["seed"]) for row in rows] == [
        ("none", 0),
        ("cutout", 0),
        ("none", 1),
        ("cutout", 1),
    ]
    with pytest.raises(ValueError, match=r"trained with epochs=1, but got 2 instead; choose another folder$"):
        run("none", dataclasses.replace(SETTINGS, epochs=2), out=tmp_path)


def test_a_label_stays_with_its_policy(tmp_path: Path) -> None:
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    augmented_run(MIRROR, epoch, out=tmp_path)
    renamed = Policy(MIRROR.sub_policies, name="another name", provenance={"who": "cares"})
    assert len(augmented_run(renamed, epoch, out=tmp_path)) == 1
    with pytest.raises(
        ValueError, match=r"was trained with another policy called mine; choose another label or folder$"
    ):
        augmented_run(DO_NOTHING, epoch, out=tmp_path)


def test_a_checkpoint_stays_with_its_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with interrupted_in_the_third_epoch(monkeypatch):
        augmented_run(MIRROR, out=tmp_path)
    assert timeless(augmented_run(DO_NOTHING, out=tmp_path)) == timeless(augmented_run(DO_NOTHING))


def test_a_folder_is_refused_for_other_images(tmp_path: Path) -> None:
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    run("none", epoch, out=tmp_path)
    before = (tmp_path / "rows.jsonl").read_bytes()
    others, relabelled = Halves(), Halves()
    others.images[3, 0, 0, 0] ^= 1
    relabelled.targets[5] = 1 - relabelled.targets[5]
    replaced = (
        r"^the images should be those that .* was started with, but images were changed or replaced; give the same"
    )
    for changed, message in (
        (others, replaced),
        (Halves(seed=1), replaced),
        (relabelled, "was started with, but their labels or masks were changed"),
        (Halves(65), "was started with, but they were drawn from 64 images and now are from 65"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(changed, parse_augmentations("none"), epoch, out=tmp_path, seeds=1, name="halves", progress=False)
    run("none", epoch, test=Halves(32, seed=2), out=tmp_path / "split")
    with pytest.raises(ValueError, match=r"that the test of .* was started with, but images were changed or replaced"):
        run("none", epoch, test=Halves(32, seed=3), out=tmp_path / "split")
    assert (tmp_path / "rows.jsonl").read_bytes() == before
    run("none", epoch, out=tmp_path)


def test_a_folder_is_for_one_evaluation_at_a_time(tmp_path: Path) -> None:
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    with Record(tmp_path).claim(World()), pytest.raises(FileExistsError, match=f"{tmp_path} is in use by process "):
        run("none", epoch, out=tmp_path)
    assert len(run("none", epoch, out=tmp_path)) == 1
    assert not (tmp_path / ".claim").exists()


@pytest.mark.parametrize("name", ["rows.jsonl", "settings.json"])
def test_damaged_files_are_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["digits", *TINY, "--out", str(tmp_path)]
    assert main(arguments) == 0
    path = tmp_path / name
    whole = path.read_bytes()
    wrong = [b"\xff" * 50 + b"\n", whole[: len(whole) // 2] + b"\n", b"[]\n", b"{}\n", b"null\n", b"[" * 100_000]
    if name == "rows.jsonl":
        wrong.append(whole.replace(b'"error": ', b'"error": "x", "was": '))
    for damage in wrong:
        path.write_bytes(damage + (b"{}\n" if name == "rows.jsonl" else b""))
        capsys.readouterr()
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {path} "), line
    path.write_bytes(whole)
    assert main(arguments) == 0


def test_a_torn_last_row_is_trained_again(tmp_path: Path) -> None:
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    rows = run("none,cutout", epoch, out=tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert timeless(run("none,cutout", epoch, out=tmp_path)) == timeless(rows)


def test_a_damaged_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with interrupted_in_the_third_epoch(monkeypatch):
        run("none", out=tmp_path)
    (path,) = (tmp_path / "checkpoints").iterdir()
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[:500] + b"\0" + whole[501:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"^{path} is damaged .*; remove it to train this network anew$"):
            run("none", out=tmp_path)
    path.unlink()
    assert timeless(run("none", out=tmp_path)) == timeless(run("none"))


def test_rows_are_json_whatever_a_training_comes_to(tmp_path: Path) -> None:
    diverging = dataclasses.replace(SETTINGS, learning_rate=1e30, gradient_clip=0)
    (row,) = run("none", diverging, out=tmp_path)
    assert row["train_loss"] is None
    assert row["loss"] is None
    assert 0 <= row["error"] <= 1
    (line,) = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == row | {"checksum": json.loads(line)["checksum"]}
    assert run("none", diverging, out=tmp_path) == [row]


def six_trainings(out: Path) -> None:
    run("none,cutout,random", dataclasses.replace(SETTINGS, epochs=6), seeds=2, out=out)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that are there at once, with all that has to be imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_an_evaluation_that_is_killed_again_and_again_has_the_same_rows(processes: Any, tmp_path: Path) -> None:
    six_trainings(tmp_path / "whole")
    draw = random.Random(0)
    out = tmp_path / "killed"
    killed = 0
    while killed < 8:
        process = processes.Process(target=six_trainings, args=(out,))
        process.start()
        process.join(draw.uniform(0.1, 1.5))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        if process.exitcode == 0:
            assert timeless(recorded(out)) == timeless(recorded(tmp_path / "whole"))
            shutil.rmtree(out)
    six_trainings(out)
    assert timeless(recorded(out)) == timeless(recorded(tmp_path / "whole"))
    left = [
        {path.name for path in each.rglob("*.*") if "tfevents" not in path.name} for each in (out, tmp_path / "whole")
    ]
    assert left[0] == left[1]


@pytest.mark.slow
def test_of_two_evaluations_in_one_folder_one_is_refused(processes: Any, tmp_path: Path) -> None:
    both = [processes.Process(target=six_trainings, args=(tmp_path / "both",)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert sorted(process.exitcode for process in both) in ([0, 1], [0, 0])  # or one began after the other's end
    assert len(recorded(tmp_path / "both")) == 6


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    run("none,cutout", dataclasses.replace(SETTINGS, epochs=1), out=folder)
    return folder


@given(data=st.data())
@settings_of_examples(max_examples=60)
def test_a_damaged_folder_never_ends_in_a_traceback(done: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["rows.jsonl", "settings.json"]))
    path = done / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    try:
        path.write_bytes(damaged)
        rows = run("none,cutout", dataclasses.replace(SETTINGS, epochs=1), out=done)
        assert {row["augmentation"] for row in rows} >= {"none", "cutout"}
        recorded(done)
    except ValueError as error:
        said = str(error)
    else:
        said = str(done)
    finally:
        shutil.rmtree(done / "tensorboard", ignore_errors=True)
        path.write_bytes(whole)
    assert str(done) in said
    assert "\n" not in said


def test_random_policies_keep_their_shape_when_a_policy_is_added(tmp_path: Path) -> None:
    epoch = dataclasses.replace(SETTINGS, epochs=1)
    (random,) = run("random", epoch, out=tmp_path)
    augmentations = [Augmentation("mine", MIRROR), *parse_augmentations("random")]
    rows = compare(Halves(), augmentations, epoch, out=tmp_path, seeds=2, name="halves", progress=False)
    first, second = (row for row in rows if row["augmentation"] == "random")
    assert first == random
    start = RelaxedPolicy(10, 2, generator=torch.Generator().manual_seed(1)).to_policy()
    assert second["policy"] == augmented_run(start, epoch)[0]["policy"]
    assert json.loads((tmp_path / "settings.json").read_text())["random_shape"] == [10, 2]


# --- the command line -------------------------------------------------------------------------------------------------

TINY = shlex.split(
    "--train-images 64 --epochs 1 --seeds 1 --policies none,cutout --image-size 8 --padding 1 --cutout 4"
)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["digits", *TINY, "--paper", "none", "5.3", "--out", str(tmp_path)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    table = (tmp_path / "table.md").read_text()
    assert "| − none | − cutout | paper, % |" in printed.out
    said, printed_table, _ = printed.out.split("\n\n")
    assert said in table
    assert said.startswith(("cutout has", "none has", "Undecided between"))
    assert printed_table in table
    assert f"    fasteraa evaluate {shlex.join(arguments)}" in table
    assert "digits: 64 training images, 1733 test images; small, 1 epochs" in table
    assert main(["digits", *TINY, "--epochs", "2", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path} was trained with epochs=1, but got 2 instead")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnist"], "dataset should be one of digits, .*, but got 'mnist' instead"),
        (["--policies", "magic"], "policies should be among none, .*; or unknown policy 'magic'; known: .*"),
        (["--model", "vgg"], "model should be one of small, .*, but got 'vgg' instead"),
        (["--seeds", "0"], "seeds should be positive, but got 0 instead"),
        (["--cutout", "0"], "cutout should be positive for the control cutout, but got 0 instead"),
    ],
)
def test_unusable_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, *arguments, "--out", str(tmp_path / "run")]) == 2
    assert re.search(f"error: {message}\n$", capsys.readouterr().err)
    assert not (tmp_path / "run" / "rows.jsonl").exists()


def test_an_interrupted_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Fit) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fit, "train_epoch", interrupted)
    assert main([*TINY, "--out", str(tmp_path)]) == 130
    assert f"interrupted; {tmp_path} keeps what is done, and the same command continues it" in capsys.readouterr().err


def test_the_module_runs() -> None:
    command = [sys.executable, "-W", "error::RuntimeWarning", "-m", evaluate.__name__, "--help"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr
    assert all(name in process.stdout for name in CONTROLS)


def test_the_help_names_every_network_and_the_default() -> None:
    command = [sys.executable, "-m", evaluate.__name__, "--help"]
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ | {"COLUMNS": "200"}
    )
    shown = re.sub(r"[\s│]+", " ", process.stdout)
    assert all(name in shown for name in NETWORKS)
    assert "for larger ones on a CPU resnet9" in shown


# --- recipes ----------------------------------------------------------------------------------------------------------

RECIPES = sorted((ROOT / "search" / "experiments" / "recipes").glob("*.sh"))


@pytest.mark.parametrize("scale", ["paper", "digits"])
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_commands_that_parse(path: Path, scale: str, tmp_path: Path) -> None:
    """Run the script with a `python` that writes down its arguments, then parse them as the command lines do."""
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$(IFS='|'; echo \"$*\")\" >> {tmp_path}/calls\n")
    stub.chmod(0o755)
    environment = {"PATH": f"{stub.parent}:/usr/bin:/bin", "RUNS": str(tmp_path / "runs"), "SCALE": scale}
    subprocess.run(["bash", str(path)], check=True, env=environment, cwd=tmp_path)
    searches, evaluations = [], []
    for line in (tmp_path / "calls").read_text().splitlines():
        match line.split("|"):
            case ["-m", "fasteraa_transforms.search", *arguments]:
                searches.append(search_cli._parse(arguments))
            case ["-m", "fasteraa_transforms.search.evaluate", *arguments]:
                evaluations.append(tyro.cli(evaluate.Command, args=arguments))
            case ["-c", *_]:
                pass
            case _:
                pytest.fail(f"neither a search nor an evaluation: {line}")
    assert searches
    assert len(evaluations) == 1
    (command,) = evaluations
    items = [item.partition("=") for item in command.policies.split(",")]
    made = {str(search.out / "policy.json") for search in searches}
    for label, _, file in items:
        assert label in CONTROLS or file in made or "-10-of-80" in file
    assert set(command.paper) <= {label for label, _, _ in items}
    assert bool(command.paper) == (scale == "paper")
    assert command.dataset == {"paper": "cifar10"}.get(scale, scale)
    assert command.settings.model == "small" or scale == "paper"
    assert "Not run" in path.read_text().splitlines()[1]


def test_images_that_can_only_be_iterated_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[open_splits.__module__], "open_dataset", lambda *args, **options: iter(()))
    with pytest.raises(ValueError, match="own:images should be a map-style dataset, but got a tuple_iterator"):
        open_splits("own:images")
