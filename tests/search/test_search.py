"""A run of the search: one step of Algorithm 2, the folder it leaves, that it repeats and resumes bit for bit."""

import copy
import dataclasses
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import STEP_METRICS, wasserstein
from PIL import Image
from torch import Tensor, nn

from fasteraa_transforms import FasterAutoAugment, Policy
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.relaxed import Draw, RelaxedPolicy
from fasteraa_transforms.search import Digits, SearchFailed, SearchInterrupted, Settings, load_images, search
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.algorithm.state import SearchState, adam
from fasteraa_transforms.search.algorithm.strength import Strength
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.table import make_backbone
from fasteraa_transforms.search.report import plots as pictures
from fasteraa_transforms.search.runtime.files import read_rows, to_row
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.runtime.hardware import computes_in_bfloat16, pick_device
from fasteraa_transforms.search.settings import PRESETS

SOURCE = {"dataset": "digits", "data_dir": "data"}
SMALL = Settings.paper(epochs=3, num_images=256, batch_size=64, image_size=12, padding=1)
STEPS_PER_EPOCH = 4
TINY = Settings.paper(epochs=2, batch_size=16, sub_policies=3, stages=1, num_images=32)
HELD = dataclasses.replace(
    TINY,
    epochs=3,
    policy_learning_rate=1e-2,
    classifier_epochs=2,
    strengths=(2.0, 1.5),  # more than there is in the beginning, so that the multiplier rises at once
    num_images=48,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib takes longer than the runs of some tests."""
    monkeypatch.setattr(pictures, "curves", lambda *args: None)
    monkeypatch.setattr(pictures, "curve_svg", lambda *args: "")


def own_images(count: int = 64, channels: int = 3, side: int = 12) -> list[tuple[Tensor, int]]:
    """A map-style dataset of somebody's own: a list of (uint8 [C, side, side], label)."""
    images = torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=seeded(1))
    images[::2] //= 4  # even labels are dark
    return [(image, i % 4) for i, image in enumerate(images)]


def without_time(provenance: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in provenance.items() if key != "seconds"}


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, but for the time they took."""
    return [without_time(row) for row in read_rows(folder / "metrics.jsonl")]


def interrupt_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Ctrl-C in the ``number``-th step from now, counted from 1."""
    step, calls = Wasserstein.step, []

    def interrupted(self: Wasserstein, *args: Any) -> dict[str, Tensor]:
        calls.append(None)
        if len(calls) == number:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Wasserstein, "step", interrupted)


# --- one step ---------------------------------------------------------------------------------------------------------


def make_state(*, critic_rate: float = 0.1, policy_rate: float = 0.1, backbone: str = "small") -> SearchState:
    """In float64, with plain gradient descent, so that a step can be calculated by hand."""
    torch.manual_seed(7)
    policy = RelaxedPolicy(4, 2, generator=seeded(3)).double()
    critic = Critic(make_backbone(backbone, 2), classes=3, image_shape=(2, 8, 8)).double()
    return SearchState(
        policy=policy,
        critic=critic,
        policy_optimizer=torch.optim.SGD(policy.parameters(), lr=policy_rate),
        critic_optimizer=torch.optim.SGD(critic.parameters(), lr=critic_rate),
        generator=seeded(11),
    )


def make_batch(count: int = 12) -> tuple[Tensor, Tensor]:
    images = torch.rand(count, 2, 8, 8, dtype=torch.float64, generator=seeded(5))
    return images, torch.randint(0, 3, (count,), generator=seeded(6))


def with_batch_norm(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )


MEAN, STD = torch.tensor([0.4, 0.6], dtype=torch.float64), torch.tensor([0.2, 0.5], dtype=torch.float64)


def values_of(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def plain_twin(critic: Critic) -> Critic:
    """A copy with PyTorch's own layers."""
    twin = copy.deepcopy(critic)
    for module in twin.modules():
        if isinstance(module, nn.Conv2d):
            module.__class__ = nn.Conv2d
        elif isinstance(module, nn.BatchNorm2d):
            module.__class__ = nn.BatchNorm2d
    return twin.requires_grad_(True)


@pytest.mark.parametrize("backbone", ["small", f"{__name__}:with_batch_norm"], ids=["small", "with batch norm"])
def test_a_step_is_that_of_algorithm_2(backbone: str) -> None:
    epsilon, weight = 0.3, 7.0
    objective = wasserstein(MEAN, STD, classification_weight=epsilon, gradient_penalty_weight=weight)
    state, (images, labels) = make_state(backbone=backbone), make_batch()
    policy, critic, half = copy.deepcopy(state.policy), plain_twin(state.critic), 6
    generator = seeded(11)
    draw = policy.draw(half, generator=generator)
    mix = torch.rand(half, generator=generator).double().view(half, 1, 1, 1)

    measured = objective.step(state, images, labels)

    # Critic: E[D(augmented)] - E[D(real)] + penalty + ε · class loss of the real half. Batch norm sees both halves.
    augmented = (policy(images[:half], draw) - MEAN.view(1, 2, 1, 1)) / STD.view(1, 2, 1, 1)
    real = (images[half:] - MEAN.view(1, 2, 1, 1)) / STD.view(1, 2, 1, 1)
    score, logits = critic(torch.cat([real, augmented.detach()]))
    between = (mix * real + (1 - mix) * augmented.detach()).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between)[0].sum(), between, create_graph=True)
    penalty = sum((each.square().sum().sqrt() - 1).square() for each in slope) / half
    distance = sum(score[:half]) / half - sum(score[half:]) / half
    real_logits = logits[:half]
    class_loss_real = -real_logits.log_softmax(1)[range(half), labels[half:]].mean()
    critic_loss = -distance + weight * penalty + epsilon * class_loss_real
    grads = torch.autograd.grad(critic_loss, list(critic.parameters()))
    with torch.no_grad():
        for parameter, grad in zip(critic.parameters(), grads, strict=True):
            parameter -= 0.1 * grad

    # Policy, with the critic as it is now: -E[D(augmented)] + ε · class loss of the augmented half.
    score, logits = (output[half:] for output in critic(torch.cat([real, augmented])))
    class_loss_augmented = -logits.log_softmax(1)[range(half), labels[:half]].mean()
    policy_loss = -score.mean() + epsilon * class_loss_augmented
    policy_grads = torch.autograd.grad(policy_loss, list(policy.parameters()))
    expected = {
        "critic_loss": critic_loss,
        "wasserstein": distance,
        "gradient_penalty": penalty,
        "class_loss_real": class_loss_real,
        "accuracy_real": (real_logits.argmax(1) == labels[half:]).double().mean(),
        "policy_loss": policy_loss,
        "class_loss_augmented": class_loss_augmented,
        "accuracy_augmented": (logits.argmax(1) == labels[:half]).double().mean(),
        "displacement": (policy(images[:half], draw) - images[:half]).abs().mean(),
        "multiplier": torch.zeros((), dtype=torch.float64),
    }
    assert list(measured) == list(expected) == list(STEP_METRICS)
    for name, value in expected.items():
        torch.testing.assert_close(measured[name].double(), value.detach(), rtol=1e-6, atol=1e-9, msg=name)
    # The step itself is in float64; what it returns has been through the float32 of a loss.
    for mine, parameter, grad in zip(state.critic.parameters(), critic.parameters(), grads, strict=True):
        torch.testing.assert_close(mine.detach(), parameter.detach(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(mine.grad, grad, rtol=1e-4, atol=1e-6)
    for name, mine, parameter, grad in zip(
        ("weights", "probabilities", "magnitudes"),
        state.policy.parameters(),
        policy.parameters(),
        policy_grads,
        strict=True,
    ):
        stepped = parameter.detach() - 0.1 * grad
        stepped = stepped if name == "weights" else stepped.clamp(0, 1)
        torch.testing.assert_close(mine.detach(), stepped, rtol=1e-5, atol=1e-7, msg=name)
        assert grad.abs().sum() > 0, name


@pytest.mark.parametrize("ratio", [0.5, 2.0, 4.0])
def test_the_multiplier_pulls_where_the_strength_falls_short(ratio: float) -> None:
    """Twice the same step, with a target and without: what is added to the policy's gradient, by hand."""
    free, held = make_state(critic_rate=0), make_state(critic_rate=0)
    batch = make_batch()
    draw = copy.deepcopy(free.policy).draw(6, generator=seeded(11))
    measured = wasserstein(MEAN, STD).step(free, *batch)
    displacement = measured["displacement"].item()
    held.multiplier = torch.tensor(0.3)
    objective = wasserstein(MEAN, STD, target=ratio * displacement, multiplier_rate=0.2)
    reference = copy.deepcopy(held.policy)
    measured = objective.step(held, *batch)

    shortfall = 1 - 1 / ratio
    expected = max(0.3 + 0.2 * shortfall, 0)
    assert held.multiplier.item() == pytest.approx(expected, rel=1e-5)
    assert measured["multiplier"].item() == pytest.approx(expected, rel=1e-5)
    images = batch[0][:6]
    strength = (reference(images, draw) - images).abs().mean()
    pull = max(0.3 + shortfall, 0) * (2 * 8 * 8) ** 0.5 / STD.mean()
    added = torch.autograd.grad(-pull * strength, list(reference.parameters()))
    for one, other, more in zip(free.policy.parameters(), held.policy.parameters(), added, strict=True):
        torch.testing.assert_close(other.grad, one.grad + more, rtol=1e-5, atol=1e-8)
    assert (added[0].abs().sum() > 0) == (ratio > 1)  # enough strength: nothing pulls


def test_the_multiplier_never_falls_below_zero() -> None:
    state = make_state()
    state.multiplier = torch.tensor(0.01)
    wasserstein(MEAN, STD, target=1e-4).step(state, *make_batch())
    assert state.multiplier.item() == 0


def test_the_strength_is_held() -> None:
    """Whatever the objective: here it is to change nothing, which takes all strength away where nothing holds it."""
    images, labels = torch.rand(64, 1, 8, 8, generator=seeded(2)), torch.zeros(64, dtype=torch.long)
    ends = []
    for target in (None, 0.1):
        state = SearchState(
            policy := RelaxedPolicy(4, 2, generator=seeded(3)),
            critic := Critic(make_backbone("small", 1), classes=2, image_shape=(1, 8, 8)),
            adam(policy, 0.02, (0.0, 0.999)),
            adam(critic, 0.02, (0.0, 0.999)),
            seeded(11),
        )
        strength = None if target is None else Strength(target, rate=0.2)
        tools = Tools(torch.tensor([0.5]), torch.tensor([0.3]), strength=strength)
        measured = []
        for _ in range(100):
            displacement = tools.halves(state, images, labels).displacement
            tools.step_policy(state, displacement, displacement, unit=1.0)
            measured.append(displacement.item())
        ends.append(sum(measured[-30:]) / 30)
    assert ends[0] < 0.02
    assert ends[1] == pytest.approx(0.1, rel=0.25)


def test_the_classifiers_step_is_that_of_its_loss_alone() -> None:
    state, twin, (images, labels) = make_state(), make_state(), make_batch()
    policy = values_of(state.policy)
    objective = wasserstein(MEAN, STD)
    loss, accuracy = objective.tools.classify(state, images, labels).values()
    logits = plain_twin(twin.critic)(objective.tools.normalise(images))[1]
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(loss.double(), expected.detach(), rtol=1e-5, atol=0)
    assert accuracy.item() == pytest.approx((logits.argmax(1) == labels).double().mean().item())
    assert all(map(torch.equal, policy, values_of(state.policy)))
    same = {
        name
        for (name, one), other in zip(state.critic.named_parameters(), twin.critic.parameters(), strict=True)
        if torch.equal(one, other)
    }
    assert same == {name for name, _ in state.critic.named_parameters() if name.startswith("critic_head")}


def test_a_gradient_penalty_every_few_steps_counts_as_many_times() -> None:
    """Against steps whose penalty weighs three times as much, or nothing."""
    for step, weight in ((0, 30.0), (1, 0.0), (2, 0.0), (3, 30.0)):
        lazy, plain = make_state(), make_state()
        lazy.step = step
        objective = wasserstein(MEAN, STD, penalty_every=3)
        assert objective.variant(lazy) is (weight > 0)
        measured = objective.step(lazy, *make_batch())
        expected = wasserstein(MEAN, STD, gradient_penalty_weight=weight).step(plain, *make_batch())
        torch.testing.assert_close(measured["critic_loss"], expected["critic_loss"])
        if weight:
            torch.testing.assert_close(measured["gradient_penalty"], 3 * expected["gradient_penalty"])
        else:
            assert measured["gradient_penalty"] == 0
        for part in ("critic", "policy"):
            ends = (values_of(getattr(state, part)) for state in (lazy, plain))
            torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-9)


def test_a_guard_of_its_own_gives_the_class_loss_of_augmented_images() -> None:
    state, (images, labels) = make_state(), make_batch()
    torch.manual_seed(8)
    state.guard = Critic(make_backbone(f"{__name__}:with_batch_norm", 2), classes=3, image_shape=(2, 8, 8)).double()
    state.guard_optimizer = torch.optim.SGD(state.guard.parameters(), lr=0.1)
    objective = wasserstein(MEAN, STD, classification_weight=0.7)

    critic, begin = values_of(state.critic), values_of(state.guard)
    objective.tools.classify(state, images, labels)
    assert all(map(torch.equal, critic, values_of(state.critic)))
    assert not all(map(torch.equal, begin, values_of(state.guard)))
    state.freeze_guard()

    guard, policy = plain_twin(state.guard), copy.deepcopy(state.policy)
    head, buffers = state.critic.class_head.weight.clone(), copy.deepcopy(state.guard.state_dict())
    measured = objective.step(state, images, labels)
    assert torch.equal(head, state.critic.class_head.weight)  # nothing asks for the critic's classes
    assert all(torch.equal(value, buffers[name]) for name, value in state.guard.state_dict().items())
    augmented = objective.tools.normalise(policy(images[:6], policy.draw(6, generator=seeded(11))))
    real = objective.tools.normalise(images[6:])
    for name, seen, answers in (("augmented", augmented, labels[:6]), ("real", real, labels[6:])):
        logits = guard(seen)[1]
        loss = torch.nn.functional.cross_entropy(logits, answers)
        torch.testing.assert_close(measured[f"class_loss_{name}"].double(), loss.detach(), rtol=1e-5, atol=1e-7)
        assert measured[f"accuracy_{name}"].item() == pytest.approx(
            (logits.argmax(1) == answers).double().mean().item()
        )
    scores = state.critic(torch.cat([real, augmented]))[0][6:]
    loss = -scores.mean() + 0.7 * torch.nn.functional.cross_entropy(guard(augmented)[1], labels[:6])
    expected = torch.autograd.grad(loss, list(policy.parameters()))
    for parameter, grad in zip(state.policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-4, atol=1e-7)


def test_a_step_writes_neither_into_the_batch_nor_keeps_a_graph() -> None:
    images, labels = make_batch()
    before, labels_before = images.clone(), labels.clone()
    measured = wasserstein(MEAN, STD).step(make_state(), images, labels)
    assert torch.equal(images, before)
    assert torch.equal(labels, labels_before)
    assert not any(value.requires_grad for value in measured.values())
    assert all(value.ndim == 0 for value in measured.values())


def test_the_critics_step_leaves_the_policy() -> None:
    state = make_state(policy_rate=0)
    policy, critic = values_of(state.policy), values_of(state.critic)
    wasserstein(MEAN, STD).step(state, *make_batch())
    assert all(map(torch.equal, policy, values_of(state.policy)))
    same = list(map(torch.equal, critic, values_of(state.critic)))
    names = [name for name, _ in state.critic.named_parameters()]
    # A bias of all scores changes neither their difference nor their slope.
    assert [name for name, kept in zip(names, same, strict=True) if kept] == ["critic_head.2.bias"]


def test_the_policys_step_leaves_the_critic() -> None:
    state = make_state(critic_rate=0)
    policy, critic = values_of(state.policy), values_of(state.critic)
    wasserstein(MEAN, STD).step(state, *make_batch())
    assert all(map(torch.equal, critic, values_of(state.critic)))
    assert not any(map(torch.equal, policy, values_of(state.policy)))


def test_the_two_halves_of_the_batch_are_different_images() -> None:
    state = make_state()
    augmented: list[Tensor] = []
    real: list[Tensor] = []
    state.policy.register_forward_pre_hook(lambda module, inputs: augmented.append(inputs[0].detach().clone()))
    state.critic.register_forward_pre_hook(lambda module, inputs: real.append(inputs[0].detach().clone()))
    images, labels = make_batch(10)
    objective = wasserstein(MEAN, STD)
    objective.step(state, images, labels)
    torch.testing.assert_close(augmented, [images[:5]], rtol=0, atol=0)
    torch.testing.assert_close(real[0][:5], objective.tools.normalise(images[5:]), rtol=0, atol=0)


def test_normalised_images_have_mean_0_and_deviation_1() -> None:
    images = torch.rand(64, 3, 8, 8) * torch.tensor([1.0, 0.5, 0.1])[:, None, None] + 0.2
    tools = Tools(images.mean((0, 2, 3)), images.std((0, 2, 3)))
    normalised = tools.normalise(images)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.std((0, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)
    assert normalised.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 100])
def test_images_of_a_chunk_share_the_sub_policy(chunk_size: int) -> None:
    state, (images, labels) = make_state(), make_batch(36)
    expected = copy.deepcopy(state.policy).draw(18, generator=seeded(11))
    draws: list[Draw] = []
    state.policy.register_forward_pre_hook(lambda module, inputs: draws.append(inputs[1]))
    wasserstein(MEAN, STD, chunk_size=chunk_size).step(state, images, labels)
    (draw,) = draws
    first_of_chunk = [i // chunk_size * chunk_size for i in range(18)]
    assert draw.sub_policy.tolist() == [expected.sub_policy.tolist()[i] for i in first_of_chunk]
    if chunk_size < 18:
        assert len(set(draw.sub_policy.tolist())) > 1
    for name in ("gate", "sign", "centre", "partner"):  # all else is each image's own
        assert torch.equal(getattr(draw, name), getattr(expected, name)), name


def test_parameters_stay_in_their_range_and_come_back_from_its_ends() -> None:
    objective, state = wasserstein(MEAN, STD), make_state(policy_rate=1e3)
    at_an_end, moved_back = 0, 0
    for step in range(4):
        before = values_of(state.policy)[1:]
        images, labels = make_batch(12)
        objective.step(state, images.roll(step, 0), labels.roll(step, 0))
        for old, parameter in zip(before, (state.policy.probabilities, state.policy.magnitudes), strict=True):
            assert parameter.min() >= 0
            assert parameter.max() <= 1
            ends = (old == 0) | (old == 1)
            at_an_end += int(ends.sum())
            moved_back += int((ends & (parameter != old)).sum())
    assert at_an_end > 20
    assert moved_back > 0
    assert state.policy.weights.abs().max() > 1  # which have no range


def test_a_step_draws_from_the_generator_alone() -> None:
    results = []
    for seed in (0, 1):
        state = make_state()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(wasserstein(MEAN, STD).step(state, *make_batch()))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def test_the_state_continues_where_it_was_saved(tmp_path: Path) -> None:
    objective, one, other = wasserstein(MEAN, STD), make_state(), make_state()
    one.critic_optimizer = torch.optim.Adam(one.critic.parameters(), fused=True)
    other.critic_optimizer = torch.optim.Adam(other.critic.parameters(), fused=True)
    objective.step(one, *make_batch())
    one.epoch = 5
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.epoch == 5
    assert objective.step(one, *make_batch()) == objective.step(other, *make_batch())
    assert all(map(torch.equal, values_of(one.critic), values_of(other.critic)))
    assert all(map(torch.equal, values_of(one.policy), values_of(other.policy)))


# --- batches ----------------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_shuffled_pass_over_the_images() -> None:
    images = torch.arange(1, 51, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 1, 4, 4).contiguous()
    data = load_images([(image, i % 2) for i, image in enumerate(images)], num_images=None)
    generator = seeded(0)

    def epoch() -> list[int]:
        seen = []
        for batch, labels in batches(data, 8, Crop((4, 4), padding=1, flip=True), generator=generator):
            assert batch.shape == (8, 1, 4, 4)
            assert batch.dtype == torch.float32
            numbers = (batch.amax((1, 2, 3)) * 255).round().long() - 1
            assert (numbers % 2 == labels).all()  # each label stays with its image
            seen += numbers.tolist()
        return seen

    first, second = epoch(), epoch()
    assert len(set(first)) == len(first) == 48  # the last 2 would make a smaller batch
    assert first != second
    assert batch_maximum(data) <= 1


def batch_maximum(data: Any) -> float:
    return max(batch.max().item() for batch, _ in batches(data, 10, Crop((4, 4)), generator=seeded(0)))


# --- settings ---------------------------------------------------------------------------------------------------------


def test_the_papers_settings() -> None:
    settings = Settings.paper()
    assert (settings.sub_policies, settings.stages, settings.epochs, settings.batch_size) == (10, 2, 20, 128)
    assert settings.policy_learning_rate == settings.critic_learning_rate == 1e-3
    assert settings.betas == (0.0, 0.999)
    assert (settings.classification_weight, settings.gradient_penalty_weight) == (0.1, 10.0)
    assert settings.temperature == settings.selection_temperature == 0.05
    assert (settings.classifier_epochs, settings.strengths) == (0, ())
    assert PRESETS["paper"] == settings
    assert PRESETS["default"] == Settings()
    assert Settings.paper(seed=3, epochs=1) == dataclasses.replace(settings, seed=3, epochs=1)


@pytest.mark.parametrize(
    "field",
    [
        "epochs",
        "batch_size",
        "sub_policies",
        "stages",
        "temperature",
        "selection_temperature",
        "chunk_size",
        "multiplier_rate",
        "penalty_every",
        "num_images",
    ],
)
@pytest.mark.parametrize("value", [0, -2])
def test_settings_that_should_be_positive(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field} should be positive, but got {value} instead$"):
        Settings(**{field: value})


@pytest.mark.parametrize("value", [1, 0, -2])
def test_an_image_size_of_less_than_two_pixels_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"^image_size should be at least 2 pixels, but got {value} instead$"):
        Settings(image_size=value)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match=r"^batch_size should be even \(half is augmented\), but got 7 instead$"):
        Settings(batch_size=7)
    with pytest.raises(ValueError, match=r"^padding should not be negative, but got -1 instead$"):
        Settings(padding=-1)
    assert Settings(padding=0).padding == 0
    with pytest.raises(ValueError, match=r"^classifier_epochs should not be negative, but got -2 instead$"):
        Settings(classifier_epochs=-2)
    with pytest.raises(ValueError, match=r"^guard should be shared or own, but got 'none' instead$"):
        Settings(guard="none")
    with pytest.raises(ValueError, match=r"^classifier_epochs should be positive for a guard of its own, but got 0 "):
        Settings.paper(guard="own")
    for strengths in ((0.5, -0.1), (0.5, 0.0)):
        shown = re.escape(str(strengths))
        with pytest.raises(ValueError, match=rf"^strengths should be positive, but got {shown} instead; no augment"):
            Settings(strengths=strengths)
    with pytest.raises(ValueError, match=r"^epochs should be at least 1 for each of 3 strengths, but got 2 instead$"):
        Settings(strengths=(0.5, 0.25, 0.1), epochs=2)


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ValueError, match=r"^device should be auto or one that PyTorch finds, but got 'gpu' \("):
        pick_device("gpu")
    absent = "cuda" if not torch.cuda.is_available() else f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=rf"^device should be auto or one that PyTorch finds, but got '{absent}' \("):
        pick_device(absent)


def test_bfloat16_on_the_cpu_is_what_the_processor_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("avx2 avx512_bf16 sse", True), ("amx_bf16", True), ("avx512f avx2", False)):
        monkeypatch.setattr(Path, "read_text", lambda self, flags=flags, **options: f"flags\t: {flags}\n")
        assert computes_in_bfloat16(torch.device("cpu")) is expected

    def missing(self: Path, **options: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert computes_in_bfloat16(torch.device("cpu")) is False


# --- a run and its folder ---------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Finished:
    folder: Path
    policy: Policy


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that nothing disturbed. Shared: look, do not touch."""
    folder = tmp_path_factory.mktemp("runs") / "deep" / "digits"
    policy = search(Digits(), SMALL, out=folder, progress=False, source=SOURCE)
    return Finished(folder, policy)


def test_the_folder_holds_the_whole_run(finished: Finished) -> None:
    assert {entry.name for entry in finished.folder.iterdir()} == {
        "checkpoint.previous.pt",
        "checkpoint.pt",
        "contact_sheet.png",
        "curves.png",
        "diagnosis.json",
        "metrics.jsonl",
        "policy.json",
        "report.html",
        "settings.json",
        "tensorboard",
    }


def test_the_policy_file_is_the_returned_policy(finished: Finished) -> None:
    loaded = Policy.load(finished.folder / "policy.json")
    assert loaded == finished.policy
    assert loaded.name == finished.policy.name == "digits"
    assert loaded.provenance == finished.policy.provenance
    assert (len(loaded), loaded.stages) == (SMALL.sub_policies, SMALL.stages)
    transform = FasterAutoAugment.from_pretrained(finished.folder / "policy.json")
    assert transform(Digits()[0][0]).shape == (1, 8, 8)


def test_provenance(finished: Finished) -> None:
    provenance = finished.policy.provenance
    assert provenance["dataset"] == "digits"
    assert provenance["images"] == 256
    assert provenance["images_available"] == 1797
    assert provenance["image_size"] == [12, 12]
    assert provenance["classes"] == 10
    assert provenance["epochs"] == 3
    assert provenance["steps"] == 3 * STEPS_PER_EPOCH
    assert provenance["settings"] == json.loads(json.dumps(dataclasses.asdict(SMALL)))
    assert provenance["recipe"]["critic"] == "small"
    assert provenance["recipe"]["image_size"] == [12, 12]
    assert provenance["precision"] == "float32"
    assert provenance["seconds"] > 0
    assert provenance["versions"].keys() == {"fasteraa_transforms", "torch", "torchvision", "pillow", "numpy"}
    assert provenance["last_epoch"].keys() == set(STEP_METRICS)
    assert provenance["diagnosis"].keys() >= {"drift", "share_start", "share_end", "strength_start", "strength_end"}


def test_metrics(finished: Finished) -> None:
    found = rows(finished.folder)
    steps = [row for row in found if row["kind"] == "step"]
    epochs = [row for row in found if row["kind"] == "epoch"]
    assert len(found) == len(steps) + len(epochs)
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert [row["epoch"] for row in steps] == [1] * 4 + [2] * 4 + [3] * 4
    assert [row["epoch"] for row in epochs] == [0, 1, 2, 3]
    assert [row["step"] for row in epochs] == [0, 4, 8, 12]
    for row in (*steps, *epochs[1:]):
        assert all(np.isfinite(row[name]) for name in STEP_METRICS)
        assert 0 <= row["accuracy_real"] <= 1
        assert row["gradient_penalty"] >= 0
    for row in epochs:
        assert 0 < row["strength"] < 1
        assert 0 <= row["drift"] < 1
        assert 0 < row["entropy"] < 1
        assert row["share"].keys() == OPERATIONS.keys()
        assert 0 < sum(row["share"].values()) < 1
    assert epochs[0]["drift"] == 0
    assert 0 < epochs[1]["drift"] < epochs[2]["drift"] < epochs[3]["drift"]
    for name in STEP_METRICS:  # an epoch's value is the mean of its steps
        mean = sum(row[name] for row in steps[8:]) / 4
        assert epochs[3][name] == pytest.approx(mean, rel=1e-5, abs=1e-6)


def test_settings_file(finished: Finished) -> None:
    saved = json.loads((finished.folder / "settings.json").read_text())
    assert RunFolder(finished.folder).load_settings() == SMALL
    assert saved["dataset"] == "digits"
    assert saved["source"] == SOURCE
    assert saved["recipe"]["critic"] == "small"
    assert saved["recipe"]["flip"] is False
    assert saved["recipe"]["padding"] == 1


def test_diagnosis_file(finished: Finished) -> None:
    saved = json.loads((finished.folder / "diagnosis.json").read_text())
    verdict = saved.pop("verdict")
    assert saved == finished.policy.provenance["diagnosis"]
    assert verdict[0].startswith("Close to the random start: ")  # as 12 steps are nothing
    last = rows(finished.folder)[-1]
    assert saved["share_end"] == last["share"]
    assert (saved["drift"], saved["strength_end"]) == (last["drift"], last["strength"])


def test_pictures(finished: Finished) -> None:
    for name, least in (("contact_sheet.png", 600), ("curves.png", 1000)):
        with Image.open(finished.folder / name) as picture:
            picture.load()
            assert picture.width >= least
            assert len(picture.convert("L").getcolors()) > 10  # not blank


def test_tensorboard(finished: Finished) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished.folder / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"step/{name}" for name in STEP_METRICS} <= tags
    assert {f"share/{name}" for name in OPERATIONS} <= tags
    assert {"epoch/strength", "epoch/drift", "epoch/entropy"} <= tags
    steps = [row for row in rows(finished.folder) if row["kind"] == "step"]
    read = events.Scalars("step/critic_loss")
    assert [scalar.step for scalar in read] == [row["step"] for row in steps]
    assert [scalar.value for scalar in read] == pytest.approx([row["critic_loss"] for row in steps], rel=1e-6)


def test_the_same_seed_gives_the_same_policy_bit_for_bit(finished: Finished) -> None:
    torch.manual_seed(123)  # whatever the caller has drawn before
    again = search(Digits(), SMALL, progress=False, source=SOURCE)
    assert again == finished.policy
    assert without_time(again.provenance) == without_time(finished.policy.provenance)


def test_another_seed_gives_another_policy() -> None:
    one, other = (search(own_images(), dataclasses.replace(TINY, seed=seed), progress=False) for seed in (0, 1))
    assert one != other


@pytest.mark.usefixtures("_no_curves")
def test_a_search_leaves_the_callers_random_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds devices that are not in use"))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002
    search(own_images(), TINY, out=tmp_path / "run", progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_equal(np.random.get_state(), before[2])  # noqa: NPY002


@pytest.mark.usefixtures("_no_curves")
def test_a_search_on_images_of_ones_own(tmp_path: Path) -> None:
    policy = search(own_images(), TINY, out=tmp_path / "run", progress=False)
    assert policy.name == "list"
    assert policy.provenance["images"] == 32
    assert policy.provenance["diagnosis"]["chance"] == 0.25
    recipe = policy.provenance["recipe"]
    assert (recipe["critic"], recipe["padding"], recipe["flip"]) == ("small", 4, True)
    assert (tmp_path / "run" / "contact_sheet.png").is_file()
    named = search(own_images(), TINY, name="mine", progress=False)
    assert named.name == "mine"
    assert named == policy


def test_images_of_five_channels(tmp_path: Path) -> None:
    policy = search(own_images(channels=5), TINY, out=tmp_path / "run", progress=False)
    assert len(policy) == 3
    assert not (tmp_path / "run" / "contact_sheet.png").exists()  # nobody could look at it
    assert (tmp_path / "run" / "curves.png").is_file()


def test_images_that_are_not_square_and_a_batch_norm_critic() -> None:
    images = [(image[:, :10], label) for image, label in own_images(side=20)]
    policy = search(images, dataclasses.replace(TINY, critic=f"{__name__}:with_dropout"), progress=False)
    assert policy.provenance["recipe"]["critic"].endswith(":with_dropout")
    assert all(np.isfinite(value) for value in policy.provenance["last_epoch"].values())


def test_bfloat16_gives_finite_values() -> None:
    policy = search(own_images(), dataclasses.replace(TINY, precision="bfloat16"), progress=False)
    assert policy.provenance["precision"] == "bfloat16"
    last = policy.provenance["last_epoch"]
    exact = search(own_images(), TINY, progress=False).provenance["last_epoch"]
    assert last != exact
    assert last["class_loss_real"] == pytest.approx(exact["class_loss_real"], abs=0.05)


def test_settings_reach_the_policy() -> None:
    settings = dataclasses.replace(TINY, prune=1e-9, selection_temperature=1.0)
    policy = search(own_images(), settings, progress=False)
    assert all(len(stage) == len(OPERATIONS) for sub_policy in policy.sub_policies for stage in sub_policy)


def test_too_few_images() -> None:
    with pytest.raises(ValueError, match=r"^batch_size is 16, but there are 10 images; lower it$"):
        search(own_images(10), TINY, progress=False)


@pytest.mark.parametrize("kept", ["checkpoint.pt", "policy.json"])
def test_a_folder_with_a_run_is_refused(tmp_path: Path, kept: str) -> None:
    (tmp_path / kept).write_text("precious")
    with pytest.raises(FileExistsError, match=r"holds a run already; resume it, or choose another folder$") as caught:
        search(own_images(), TINY, out=tmp_path, progress=False)
    assert str(tmp_path) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [kept]
    assert (tmp_path / kept).read_text() == "precious"


@pytest.mark.usefixtures("_no_curves")
def test_a_folder_with_other_files_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    search(own_images(), TINY, out=str(tmp_path), progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "policy.json").is_file()


# --- interrupted and resumed ------------------------------------------------------------------------------------------


def with_dropout(channels: int) -> nn.Module:
    """A critic whose randomness comes from PyTorch's default generator and whose state has buffers."""
    return nn.Sequential(with_batch_norm(channels), nn.Dropout(0.3))


@pytest.mark.usefixtures("_no_curves")
@pytest.mark.parametrize("interruptions", [(2,), (6,), (4, 7)], ids=["epoch 1", "epoch 2", "epochs 1 and 3"])
def test_a_resumed_run_is_the_uninterrupted_one(
    finished: Finished, interruptions: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    for i, number in enumerate(interruptions):
        with monkeypatch.context() as patch:
            interrupt_step(patch, number)
            with pytest.raises(SearchInterrupted) as caught:
                search(Digits(), SMALL, out=tmp_path / "run", resume=i > 0, progress=False, source=SOURCE)
        done += (number - 1) // STEPS_PER_EPOCH
        assert isinstance(caught.value, KeyboardInterrupt)
        assert f"interrupted in epoch {done + 1} of 3; {tmp_path / 'run'} keeps {done} whole epochs" in str(
            caught.value
        )
        assert f"fasteraa search --resume {tmp_path / 'run'}" in str(caught.value)
        kept = Policy.load(tmp_path / "run" / "policy.json")
        assert kept.provenance["epochs"] == done
        assert kept != finished.policy
    resumed = search(Digits(), SMALL, out=tmp_path / "run", resume=True, progress=False, source=SOURCE)
    assert resumed == finished.policy
    assert without_time(resumed.provenance) == without_time(finished.policy.provenance)
    assert Policy.load(tmp_path / "run" / "policy.json") == finished.policy
    assert rows(tmp_path / "run") == rows(finished.folder)
    for name in ("contact_sheet.png", "diagnosis.json"):
        assert (tmp_path / "run" / name).read_bytes() == (finished.folder / name).read_bytes()


@pytest.mark.usefixtures("_no_curves")
@pytest.mark.parametrize("stop", ["classifier", "classifier's second epoch", "second strength"])
def test_a_resumed_run_that_holds_the_strength_is_the_uninterrupted_one(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(own_images(), HELD, out=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        if stop == "second strength":
            interrupt_step(patch, 8)
        else:
            function, calls = Tools.classify, []
            last = 2 if stop == "classifier" else 5  # of 3 an epoch

            def interrupted(*args: Any, **keywords: Any) -> Any:
                calls.append(None)
                if len(calls) == last:
                    raise KeyboardInterrupt
                return function(*args, **keywords)

            patch.setattr(Tools, "classify", interrupted)
        with pytest.raises(SearchInterrupted) as caught:
            search(own_images(), HELD, out=tmp_path / "run", progress=False)
    where = {
        "classifier": "while training the classifier",
        "classifier's second epoch": "while training the classifier",
        "second strength": "in epoch 3 of 3",
    }
    assert f"interrupted {where[stop]}" in str(caught.value)
    if stop != "second strength":
        kept = 0 if stop == "classifier" else 1
        assert torch.load(tmp_path / "run" / "checkpoint.pt")["state"]["classifier_epoch"] == kept
    resumed = search(own_images(), HELD, out=tmp_path / "run", resume=True, progress=False)
    assert resumed == whole
    assert without_time(resumed.provenance) == without_time(whole.provenance)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    for fraction in ("2", "1.5"):
        name = f"strength-{fraction}.json"
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    one, other = (torch.load(tmp_path / name / "checkpoint.pt")["state"]["multiplier"] for name in ("run", "whole"))
    assert torch.equal(one, other)
    assert one > 0


@pytest.mark.usefixtures("_no_curves")
def test_a_resumed_run_with_a_guard_of_its_own_is_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = dataclasses.replace(
        TINY, guard="own", penalty_every=3, classifier_epochs=2, critic=f"{__name__}:with_batch_norm"
    )
    whole = search(own_images(), settings, progress=False)
    with monkeypatch.context() as patch:
        interrupt_step(patch, 4)
        with pytest.raises(SearchInterrupted):
            search(own_images(), settings, out=tmp_path, progress=False)
    resumed = search(own_images(), settings, out=tmp_path, resume=True, progress=False)
    assert resumed == whole
    assert without_time(resumed.provenance) == without_time(whole.provenance)
    penalties = [row["gradient_penalty"] for row in rows(tmp_path) if row["kind"] == "step"]
    assert [penalty > 0 for penalty in penalties] == [True, False, False, True]
    assert search(own_images(), dataclasses.replace(settings, guard="shared"), progress=False) != whole


@pytest.mark.usefixtures("_no_curves")
def test_without_contenders_the_policy_of_the_first_strength_is_kept(tmp_path: Path) -> None:
    policy = search(own_images(), HELD, out=tmp_path, progress=False)
    first, second = (Policy.load(tmp_path / f"strength-{fraction}.json") for fraction in ("2", "1.5"))
    assert policy == Policy.load(tmp_path / "policy.json") == first
    assert first != second
    found = policy.provenance["diagnosis"]
    assert found["held"] == pytest.approx(2 * found["strength_start"])
    epochs = [row for row in rows(tmp_path) if row["kind"] == "epoch"]
    # Of three epochs the first strength has two.
    assert policy.provenance["last_epoch"] == {name: epochs[2][name] for name in STEP_METRICS}
    assert found["strength_end"] == epochs[2]["strength"]
    alone = search(own_images(), dataclasses.replace(HELD, strengths=(2.0,), epochs=2), progress=False)
    assert alone == first


@pytest.mark.usefixtures("_no_curves")
def test_resuming_goes_on_with_the_critics_own_randomness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(TINY, critic=f"{__name__}:with_dropout")
    whole = search(own_images(), settings, out=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_step(patch, 4)
        with pytest.raises(SearchInterrupted):
            search(own_images(), settings, out=tmp_path / "run", progress=False)
    torch.manual_seed(99)
    assert search(own_images(), settings, out=tmp_path / "run", resume=True, progress=False) == whole
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


@pytest.mark.usefixtures("_no_curves")
def test_what_a_crash_leaves_in_the_metrics_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(own_images(), TINY, out=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        interrupt_step(patch, 4)
        with pytest.raises(SearchInterrupted):
            search(own_images(), TINY, out=tmp_path / "run", progress=False)
    # Killed while it appended epoch 2: rows that no checkpoint knows, the last one torn.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "epoch": 2, "step": 3, "critic_loss": 1.0}\n{"kind": "step", "epo')
    assert search(own_images(), TINY, out=tmp_path / "run", resume=True, progress=False) == whole
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


@pytest.mark.parametrize("torn", ["", '{"epoch": 2', '{"epoch": 2}\n', '{"epoch": 1, "x', "\n"])
def test_forgetting_rows_after_an_epoch(tmp_path: Path, torn: str) -> None:
    folder = RunFolder(tmp_path)
    known = "".join(map(to_row, [{"epoch": 0}, {"epoch": 1}, {"epoch": 1, "kind": "epoch"}]))
    folder.metrics.write_text(known + torn)
    folder.forget_after(1)
    assert folder.metrics.read_text() == known
    folder.forget_after(0)
    assert folder.rows() == [{"epoch": 0}]


def test_an_interrupted_run_without_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_step(monkeypatch, 3)
    message = r"^interrupted in epoch 2 of 2; nothing was kept, since no folder was given$"
    with pytest.raises(SearchInterrupted, match=message):
        search(own_images(), TINY, progress=False)


@pytest.mark.usefixtures("_no_curves")
def test_resuming_a_finished_run_gives_its_policy(tmp_path: Path) -> None:
    policy = search(own_images(), TINY, out=tmp_path, progress=False)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = search(own_images(), TINY, out=tmp_path, resume=True, progress=False)
    assert again == policy
    assert again.provenance == policy.provenance
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 3}, {"betas": (0.5, 0.9)}])
def test_resuming_with_other_settings_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint.touch()
    folder.replace_json(folder.settings, {"settings": dataclasses.asdict(TINY)})
    with pytest.raises(ValueError, match=r"resume with the same$") as caught:
        search(own_images(), dataclasses.replace(TINY, **change), out=tmp_path, resume=True, progress=False)
    (name, value) = next(iter(change.items()))
    assert f"{name}={getattr(TINY, name)}" in str(caught.value)
    assert f"{name}={value}" in str(caught.value)


def test_resuming_with_other_images_is_refused(tmp_path: Path) -> None:
    search(own_images(), TINY, out=tmp_path, progress=False)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    for change, wording in (
        (lambda image, label: (image // 2, label), "images were changed or replaced"),
        (lambda image, label: (image, 3 - label), "their labels or masks were changed"),
        (lambda image, label: (image, 4), "they have a new class, 4"),
    ):
        message = rf"^the images should be those that {tmp_path} was started with, but {wording}; give the same data, "
        images = [change(*each) for each in own_images()[:8]] + own_images()[8:]
        with pytest.raises(ValueError, match=message):
            search(images, TINY, out=tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match=r"their shape was 3×12×12 and is 1×12×12; give the same data"):
        search(own_images(channels=1), TINY, out=tmp_path, resume=True, progress=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_resuming_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing here holds no checkpoint to resume from$"):
        search(own_images(), TINY, out=tmp_path / "nothing here", resume=True, progress=False)
    assert not (tmp_path / "nothing here").exists()


@pytest.mark.usefixtures("_no_curves")
def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = search(own_images(), TINY, progress=False)
    write_bytes, kept = Path.write_bytes, []

    def disk_full(file: Path, data: Any) -> int:
        if len(kept) < 2:  # the start, then after epoch 1
            kept.append(bytes(data))
            return write_bytes(file, data)
        write_bytes(file, data[:1000])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", disk_full)
        with pytest.raises(SearchFailed, match=r"could not be written \(.*No space left.*keeps 1 whole epochs"):
            search(own_images(), TINY, out=tmp_path, progress=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == kept[1]
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]
    assert search(own_images(), TINY, out=tmp_path, resume=True, progress=False) == whole


@pytest.mark.parametrize("write", [lambda file: file.write_text("half"), lambda file: None])
def test_replacing_a_file_is_all_or_nothing(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    folder = RunFolder(tmp_path)
    folder.policy.write_text("old")

    def fail(file: Path) -> None:
        write(file)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        folder.replace(folder.policy, fail)
    assert folder.policy.read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder.policy]
    folder.replace(folder.policy, lambda file: file.write_text("new"))
    assert folder.policy.read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder.policy]


# --- the paper's search, bit for bit ----------------------------------------------------------------------------------


def test_the_papers_search_is_what_it_was() -> None:
    """Of the same machine it is so bit for bit; of others, rounding may turn the sign of single steps of Adam."""
    expected = json.loads((Path(__file__).parent / "paper_search.json").read_text("utf-8"))
    settings = Settings.paper(epochs=1, num_images=256, device="cpu", precision="float32")
    policy = search(Digits(), settings, progress=False)
    candidates = [each for sub_policy in policy.sub_policies for stage in sub_policy for each in stage]
    assert [each.operation for each in candidates] == expected["operations"]
    values = [(each.weight, each.probability, each.magnitude) for each in candidates]
    parameters = torch.tensor([value for each in values for value in each if value is not None])
    difference = (parameters - torch.tensor(expected["parameters"])).abs()
    assert (difference < 1e-5).double().mean() > 0.97  # a step is 1e-3
    assert difference.max() < 5e-3
    assert policy.provenance["last_epoch"] == pytest.approx(expected["last_epoch"], rel=1e-3, abs=1e-4)


# --- what a search finds ----------------------------------------------------------------------------------------------

SPOILING = ("invert", "solarize", "equalize")  # they turn a white digit on black into something else


@pytest.mark.slow
def test_on_digits_the_operations_that_spoil_them_lose_their_share() -> None:
    """The paper's settings on all digits, two seeds. Half of its 20 epochs are enough."""
    remaining = []
    for seed in range(2):
        policy = search(Digits(), Settings.paper(seed=seed, epochs=10), progress=False)
        found = policy.provenance["diagnosis"]
        start, end = found["share_start"], found["share_end"]
        assert end["invert"] <= 0.5 * start["invert"]
        remaining.append(sum(end[name] for name in SPOILING) / sum(start[name] for name in SPOILING))
    assert sum(remaining) / len(remaining) <= 0.5, remaining
