"""The second objective, gradient matching; objectives by name, and of one's own; a search from a given policy."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search import Digits, Settings, search
from fasteraa_transforms.search.algorithm.diagnosis import effective_share
from fasteraa_transforms.search.algorithm.loop import adversarial_search, batches
from fasteraa_transforms.search.algorithm.matching import GradientMatching, make
from fasteraa_transforms.search.algorithm.objective import OBJECTIVES, make_objective
from fasteraa_transforms.search.algorithm.state import SearchState, adam
from fasteraa_transforms.search.algorithm.strength import Strength
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.losses import SegmentationCritic
from fasteraa_transforms.search.networks.table import make_backbone
from fasteraa_transforms.search.runtime.recorder import Recorder
from fasteraa_transforms.search.task import load_task

MODULE = "fasteraa_transforms.search.algorithm.matching:make"
TINY = Settings(
    contenders=(),
    epochs=2,
    num_images=64,
    batch_size=16,
    sub_policies=2,
    stages=1,
    classifier_epochs=1,
    strengths=(1.0, 0.5),
    image_size=16,
    padding=1,
    device="cpu",
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bright_and_dark(count: int = 64) -> tuple[Tensor, Tensor]:
    """Images of two classes that inverting turns into each other, and flipping leaves."""
    labels = torch.arange(count) % 2
    return (torch.rand(count, 1, 8, 8, generator=seeded(2)) + labels[:, None, None, None]) / 2, labels


def make_state(backbone: str = "small", channels: int = 1, **options: Any) -> SearchState:
    torch.manual_seed(7)
    policy = RelaxedPolicy(2, 1, selection_temperature=1.0, generator=seeded(3), **options)
    critic = Critic(make_backbone(backbone, channels), classes=2, image_shape=(channels, 8, 8))
    optimizers = adam(policy, 0.02, (0.0, 0.999)), adam(critic, 1e-2, (0.0, 0.999))
    return SearchState(policy, critic, *optimizers, seeded(11))


TOOLS = Tools(torch.tensor([0.5]), torch.tensor([0.3]))


def test_a_step_turns_the_gradient_of_augmented_images_towards_that_of_others() -> None:
    """With the gradients of PyTorch, of the class head's weights."""
    state, (images, labels) = make_state(), bright_and_dark(12)
    before = copy.deepcopy(state.policy), copy.deepcopy(state.critic)
    measured = GradientMatching(TOOLS).step(state, images, labels)

    policy, network = before
    augmented = policy(images[:6], policy.draw(6, generator=seeded(11)))
    features, gradients = [], []
    for half, answers in ((images[6:], labels[6:]), (augmented, labels[:6])):
        features.append(network.backbone(TOOLS.normalise(half)))
        loss = torch.nn.functional.cross_entropy(network.class_head(features[-1]), answers)
        gradients.append(torch.autograd.grad(loss, network.class_head.weight, create_graph=True)[0])
    wanted, mine = gradients[0].detach() / gradients[0].norm().detach(), gradients[1]
    error = network.class_head(features[1]).softmax(1) - torch.nn.functional.one_hot(labels[:6], 2)
    length = (error.norm(dim=1) * features[1].norm(dim=1)).mean().detach()
    alignment = (wanted * mine).sum() / length
    torch.testing.assert_close(measured["alignment"], alignment.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(measured["policy_loss"], -measured["alignment"])
    expected = torch.autograd.grad(-alignment, list(policy.parameters()))
    for name, parameter, grad in zip(("w", "p", "m"), state.policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-3, atol=1e-6, msg=name)
    assert expected[0].abs().sum() > 0


def test_the_network_learns_from_the_augmented_half_alone() -> None:
    ends = []
    for value in (0.0, 1.0):
        state, (images, labels) = make_state("compact"), bright_and_dark(16)
        state.policy_optimizer = torch.optim.SGD(state.policy.parameters(), 0.0)
        images[8:] = value
        GradientMatching(TOOLS).step(state, images, labels)
        assert state.critic.training
        ends.append({**state.critic.state_dict(), **dict(state.critic.backbone.named_buffers())})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def after_60_steps(strength: Strength | None) -> tuple[dict[str, float], float]:
    """Shares of inverting and flipping, which begin at 0.4 each, and the displacement, of the last 20 steps."""
    state, (images, labels) = make_state(operations=("invert", "flip"), sample_selection=True), bright_and_dark()
    state.critic_optimizer = adam(state.critic, 1e-3, (0.9, 0.999))
    with torch.no_grad():
        state.policy.probabilities.fill_(0.8)
    objective = GradientMatching(Tools(torch.tensor([0.5]), torch.tensor([0.3]), strength=strength))
    measured = [objective.step(state, images, labels)["displacement"] for _ in range(60)]
    return effective_share(state.policy), torch.stack(measured[-20:]).mean().item()


def test_what_turns_classes_into_each_other_loses() -> None:
    share, _ = after_60_steps(None)
    assert share["invert"] < 0.15
    assert share["invert"] < 0.3 * share["flip"]


def test_the_strength_is_held_here_too() -> None:
    free, held = (after_60_steps(strength)[1] for strength in (None, Strength(0.3, rate=0.2)))
    assert free < 0.15
    assert 0.2 < held < 0.4


def test_masks_are_refused() -> None:
    critic = SegmentationCritic(make_backbone("small", 1, feature_map=True), classes=2, image_shape=(1, 8, 8))
    state = make_state()
    state.critic = critic
    with pytest.raises(ValueError, match=r"^gradient matching takes a label for each image, but got masks instead$"):
        GradientMatching(TOOLS).step(state, torch.rand(4, 1, 8, 8), torch.zeros(4, 8, 8, dtype=torch.uint8))


def test_the_halves_of_a_batch_come_from_two_parts() -> None:
    def numbered(first: int, last: int) -> ImageSet:
        numbers = torch.arange(first, last)
        images = numbers.to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
        return ImageSet(images, numbers, 64)

    learned, held_out, generator = numbered(0, 21), numbered(32, 53), seeded(0)
    seen = []
    for _ in range(3):
        for images, labels in batches(learned, 8, Crop((4, 4)), generator=generator, held_out=held_out):
            assert torch.equal((images[:, 0, 0, 0] * 255).round().long(), labels)
            assert (labels[:4] < 21).all()
            assert (labels[4:] >= 32).all()
            seen += labels.tolist()
    assert len(seen) == 3 * 5 * 8
    assert len(set(seen)) > 36


# --- by name ----------------------------------------------------------------------------------------------------------


def test_a_search_by_gradient_matching(tmp_path: Any) -> None:
    settings = Settings(**{**vars(TINY), "objective": "gradient-matching"})
    policy = search(Digits(), settings, out=tmp_path, progress=False)
    last: Any = policy.provenance["last_epoch"]
    assert "alignment" in last
    assert "wasserstein" not in last
    assert 0 < last["accuracy_real"] <= 1
    assert '"alignment"' in (tmp_path / "metrics.jsonl").read_text()
    assert (tmp_path / "curves.png").is_file()
    assert "gradient-matching" in (tmp_path / "report.html").read_text("utf-8")
    by_callable = search(Digits(), Settings(**{**vars(TINY), "objective": MODULE}), progress=False)
    assert by_callable == policy
    assert search(Digits(), TINY, progress=False) != policy


def test_objectives_by_name() -> None:
    settings = Settings.paper()
    assert set(OBJECTIVES) == {"wasserstein", "gradient-matching"}
    assert type(make_objective(MODULE, settings, TOOLS)) is type(make(settings, TOOLS)) is GradientMatching
    message = r"^objective should be one of wasserstein, gradient-matching or module:callable, but got 'likeli"
    with pytest.raises(ValueError, match=message):
        make_objective("likelihood", settings, TOOLS)
    with pytest.raises(ValueError, match=r"^guard should be shared for gradient matching, but got own instead$"):
        make(Settings(guard="own"), TOOLS)
    with pytest.raises(ValueError, match=r"^objective 'nowhere:make' was not found: No module named 'nowhere'$"):
        search(Digits(), Settings(**{**vars(TINY), "objective": "nowhere:make"}), progress=False)


# --- from a policy that is given --------------------------------------------------------------------------------------


def test_a_search_begins_from_a_given_policy() -> None:
    settings = Settings.paper(
        epochs=1, num_images=64, batch_size=16, image_size=8, device="cpu", policy_learning_rate=1e-6
    )
    task = load_task(Digits(), settings, name="digits")
    start = RelaxedPolicy(3, 1, operations=("rotate", "shear_x", "invert"), generator=seeded(5))
    with torch.no_grad():
        start.weights[..., 2] = -torch.inf  # left out
        start.probabilities.fill_(0.4)
    before = copy.deepcopy(start.state_dict())
    result = adversarial_search(task, settings, Recorder(), start=start)
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())
    (end,) = result.ends
    for name, value in end.policy.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-5)
    assert not torch.equal(end.policy["magnitudes"], before["magnitudes"])
    assert torch.equal(result.reference.policy.weights, before["weights"])
    found = result.reference.diagnose(result.state.policy, end.means)
    assert found.drift < 1e-3
    assert list(found.share_end) == ["rotate", "shear_x", "invert"]
    assert found.share_end["invert"] == 0
    other = adversarial_search(task, settings, Recorder())
    assert other.ends[0].policy["weights"].shape == (10, 2, 17)
