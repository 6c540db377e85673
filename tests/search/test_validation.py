"""Small networks on held-out images: what they are trained on, that folds are apart, that a bad policy shows."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fasteraa_transforms import FasterAutoAugment, Policy
from fasteraa_transforms.search import Digits, load_images
from fasteraa_transforms.search.contenders import validation
from fasteraa_transforms.search.contenders.validation import cross_validate, evaluate, train_small
from fasteraa_transforms.search.data.images import ImageSet

OPTIONS: dict[str, Any] = {"size": (16, 16), "padding": 2, "flip": False}


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_images(Digits(), num_images=240, size=(16, 16))


def test_a_trained_network_knows_the_digits(digits: ImageSet) -> None:
    others = load_images(Digits(), num_images=600, size=(16, 16))
    unseen = ImageSet(others.images[240:], others.labels[240:], 10)
    assert torch.equal(others.images[:240], digits.images)
    network = train_small(digits, None, **OPTIONS, steps=100, seed=0)
    error, loss = evaluate(network, unseen, size=(16, 16))
    assert error < 0.2
    assert 0 < loss < 1
    untrained = train_small(digits, None, **OPTIONS, steps=1, seed=0)
    assert evaluate(untrained, unseen, size=(16, 16))[0] > 0.6


def test_evaluation_by_hand(digits: ImageSet) -> None:
    larger = ImageSet(torch.nn.functional.pad(digits.images, (3, 3, 3, 3)), digits.labels, 10)
    network = train_small(digits, None, **OPTIONS, steps=20, seed=0)
    logits = network(digits.images)
    error, loss = evaluate(network, larger, size=(16, 16))  # the centre is what there was before the padding
    assert error == (logits.argmax(1) != digits.labels).double().mean().item()
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, digits.labels).item(), rel=1e-5)


def test_training_sees_the_augmented_images_and_all_of_them(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def augment(images: Tensor) -> Tensor:
        seen.append(images)
        return images

    monkeypatch.setattr(validation, "AHEAD", 6 * 50 * 16 * 16)
    plain = train_small(digits, None, **OPTIONS, steps=10, seed=3)
    watched = train_small(digits, augment, **OPTIONS, steps=10, seed=3)
    assert torch.equal(plain(digits.images), watched(digits.images))  # the identity is no augmentation, bit for bit
    assert list(map(len, seen)) == [300, 300]  # six batches at once
    one_pass = seen[0][:240].flatten(1)
    assert torch.equal(one_pass.unique(dim=0), digits.images.flatten(1).unique(dim=0))


def test_training_is_reproducible_and_leaves_the_callers_random_state(digits: ImageSet) -> None:
    def train(seed: int) -> Tensor:
        return train_small(digits, None, **OPTIONS, steps=5, seed=seed)(digits.images)

    before = torch.get_rng_state()
    one = train(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(train(0), one)
    assert not torch.equal(train(1), one)


def test_every_image_is_held_out_once(digits: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Tensor] = []
    tested: list[Tensor] = []

    def train(data: ImageSet, augment: Any, **options: Any) -> None:
        assert isinstance(augment, FasterAutoAugment)
        trained.append(data.images)

    def test(network: None, data: ImageSet, **options: Any) -> tuple[float, float]:
        tested.append(data.images)
        return (0.5, 1.0) if len(tested) == 1 else (0.0, 4.0)

    monkeypatch.setattr(validation, "train_small", train)
    monkeypatch.setattr(validation, "evaluate", test)
    data = ImageSet(torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1), torch.arange(10), 10)
    policy = Policy([[[{"operation": "flip", "weight": 1, "probability": 1}]]])
    error, loss = cross_validate(policy, data, size=(1, 1), padding=0, flip=False, steps=1, seed=5)
    assert [len(images) for images in tested] == [4, 3, 3]
    assert torch.cat(tested).flatten().sort().values.tolist() == list(range(10))
    for mine, others in zip(tested, trained, strict=True):
        assert set(mine.flatten().tolist()) | set(others.flatten().tolist()) == set(range(10))
        assert len(mine) + len(others) == 10
    assert error == pytest.approx(0.4 * 0.5)  # weighted by the images of a fold
    assert loss == pytest.approx(0.4 * 1 + 0.6 * 4)


def test_a_policy_that_destroys_the_images_shows(digits: ImageSet) -> None:
    destroys = Policy(
        [[[{"operation": "brightness", "weight": 1, "probability": 1, "magnitude": 1}]] * 6]
    )  # 0.1 or 1.9 of the brightness, six times
    nothing, spoilt = (cross_validate(policy, digits, **OPTIONS, steps=40, seed=0) for policy in (None, destroys))
    assert nothing == cross_validate(None, digits, **OPTIONS, steps=40, seed=0)
    assert spoilt[0] > nothing[0] + 0.1
    assert spoilt[1] > nothing[1]
