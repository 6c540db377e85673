"""The relaxed policy: eq. 4 and eq. 7, gradients that stay alive, and that what is searched is what is exported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode

from fasteraa_transforms import functional
from fasteraa_transforms.backends import apply
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.pipeline import targets as _targets
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.relaxed import (
    PROBABILITY_MARGIN,
    Draw,
    RelaxedPolicy,
    relaxed_bernoulli,
    relaxed_categorical,
)

NEAREST, BILINEAR = InterpolationMode.NEAREST, InterpolationMode.BILINEAR
NAMES = list(OPERATIONS)
HAS_MAGNITUDE = torch.tensor([operation.has_magnitude for operation in OPERATIONS.values()])
GEOMETRY: dict[str, dict[str, Any]] = {
    name: {"interpolation": NEAREST, "fill": 0.0}
    for name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
} | {"flip": {}}
SIGNED = torch.tensor([operation.signed for operation in OPERATIONS.values()])


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def images_of_8_bits(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- relaxed Bernoulli ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
def test_relaxed_bernoulli_is_equation_4(temperature: float) -> None:
    probability = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)[:, None]
    uniform = torch.linspace(0.01, 0.99, 49, dtype=torch.float64).expand(50, 49)
    odds = torch.log(probability / (1 - probability)) + torch.log(uniform / (1 - uniform))
    expected = 1 / (1 + torch.exp(-odds / temperature))
    torch.testing.assert_close(relaxed_bernoulli(probability, uniform, temperature), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_relaxed_bernoulli_has_the_gradient_of_equation_4(temperature: float) -> None:
    probability = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, requires_grad=True)
    # Noise in the transition region; elsewhere the gradient vanishes at a low temperature.
    uniform = (1 - probability.detach() + torch.linspace(-0.01, 0.01, 19)).clamp(0.01, 0.99)
    assert torch.autograd.gradcheck(lambda p: relaxed_bernoulli(p, uniform, temperature), (probability,))
    relaxed_bernoulli(probability, uniform, temperature).sum().backward()
    assert (probability.grad > 0).all()


@pytest.mark.parametrize("probability", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
def test_relaxed_bernoulli_has_the_mean_of_bernoulli(probability: float) -> None:
    count = 200_000
    uniform = torch.rand(count, dtype=torch.float64, generator=seeded(0))
    sample = relaxed_bernoulli(torch.full((count,), probability, dtype=torch.float64), uniform, 0.05)
    assert sample.min() >= 0
    assert sample.max() <= 1
    deviation = max((probability * (1 - probability) / count) ** 0.5, PROBABILITY_MARGIN)
    assert sample.mean().item() == pytest.approx(probability, abs=4 * deviation + 0.001)
    # And is nearly always nearly 0 or 1.
    assert ((sample < 0.1) | (sample > 0.9)).double().mean() > 0.9
    # Whether it is above one half is Bernoulli exactly.
    assert torch.equal(sample > 0.5, uniform > 1 - min(max(probability, PROBABILITY_MARGIN), 1 - PROBABILITY_MARGIN))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("probability", "uniform"), [(0.0, 1 - PROBABILITY_MARGIN), (1.0, PROBABILITY_MARGIN)])
def test_relaxed_bernoulli_has_a_gradient_at_the_bounds(probability: float, uniform: float, dtype: torch.dtype) -> None:
    leaf = torch.tensor(probability, dtype=dtype, requires_grad=True)
    value = relaxed_bernoulli(leaf, torch.tensor(uniform, dtype=dtype), 0.05)
    value.backward()
    assert value.item() == pytest.approx(0.5, abs=0.01)
    assert torch.isfinite(leaf.grad)
    assert leaf.grad > 0


@pytest.mark.parametrize("uniform", [0.0, 1e-30, 0.5, 1 - 2**-24])
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_relaxed_bernoulli_is_finite_whatever_the_noise(probability: float, uniform: float) -> None:
    leaf = torch.tensor(probability, requires_grad=True)
    value = relaxed_bernoulli(leaf, torch.tensor(uniform), 0.05)
    value.backward()
    assert 0 <= value <= 1
    assert torch.isfinite(leaf.grad)


# --- drawing ----------------------------------------------------------------------------------------------------------


def test_shapes_and_start() -> None:
    policy = RelaxedPolicy(sub_policies=4, stages=3, generator=seeded(1))
    assert dict(policy.named_parameters()).keys() == {"weights", "probabilities", "magnitudes"}
    for parameter in policy.parameters():
        assert parameter.shape == (4, 3, 17)
        assert parameter.min() >= 0
        assert parameter.max() <= 1
        assert parameter.std() > 0.2
    again = RelaxedPolicy(sub_policies=4, stages=3, generator=seeded(1))
    for name, parameter in policy.state_dict().items():
        assert torch.equal(parameter, again.state_dict()[name])
    assert policy.selection.shape == (4, 3, 17)
    torch.testing.assert_close(policy.selection.sum(-1), torch.ones(4, 3))
    torch.testing.assert_close(policy.selection, torch.softmax(policy.weights / 0.05, -1))
    assert policy(noise(5, 3, 8, 9)).shape == (5, 3, 8, 9)
    assert RelaxedPolicy().weights.shape == (10, 2, 17)


def test_draw() -> None:
    policy = RelaxedPolicy(sub_policies=4, stages=3)
    draw = policy.draw(4000, generator=seeded(0))
    assert draw.sub_policy.shape == (4000,)
    assert draw.gate.shape == draw.sign.shape == (4000, 3, 17)
    assert draw.centre.shape == (4000, 3, 2)
    assert draw.partner.shape == (4000, 3)
    counts = draw.sub_policy.bincount()
    assert len(counts) == 4
    assert counts.min() > 850  # uniform: 1000 ± 27
    for uniform in (draw.gate, draw.centre):
        assert uniform.min() >= 0
        assert uniform.max() < 1
        assert uniform.mean().item() == pytest.approx(0.5, abs=0.02)
    assert (draw.sign[..., ~SIGNED] == 1).all()
    assert (draw.sign.abs() == 1).all()
    assert draw.sign[..., SIGNED].mean().abs() < 0.02
    assert (draw.partner != torch.arange(4000)[:, None]).all()
    assert draw.partner.min() >= 0
    assert draw.partner.max() < 4000


def test_every_other_image_can_be_the_partner() -> None:
    draw = RelaxedPolicy(sub_policies=1, stages=200).draw(4, generator=seeded(0))
    for image, partners in enumerate(draw.partner):
        assert partners.unique().tolist() == [other for other in range(4) if other != image]
    assert RelaxedPolicy().draw(1).partner.tolist() == [[0, 0]]
    assert RelaxedPolicy().draw(2).partner.tolist() == [[1, 1], [0, 0]]


def test_only_a_sampled_selection_draws_noise_for_it_and_after_all_else() -> None:
    summed, sampled = (RelaxedPolicy(3, 2, sample_selection=sample).draw(5, generator=seeded(0)) for sample in (0, 1))
    assert summed.choice.shape == (5, 2, 0)
    assert sampled.choice.shape == (5, 2, 17)
    for first, second in zip(summed[:-1], sampled[:-1], strict=True):
        assert torch.equal(first, second)


def test_an_empty_batch() -> None:
    policy = RelaxedPolicy(sub_policies=2, stages=2)
    assert policy.draw(0).partner.shape == (0, 2)
    assert policy(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_same_generator_same_images() -> None:
    policy, images = RelaxedPolicy(sub_policies=3, stages=2), noise(6, 3, 16, 16)
    draws = [policy.draw(6, generator=seeded(seed)) for seed in (5, 5, 6)]
    for first, second in zip(*draws[:2], strict=True):
        assert torch.equal(first, second)
    results = [policy(images, draw) for draw in draws]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    torch.manual_seed(3)
    once = policy(images)
    torch.manual_seed(3)
    assert torch.equal(policy(images), once)


# --- forward ----------------------------------------------------------------------------------------------------------


def slow(policy: RelaxedPolicy, images: Tensor, draw: Draw) -> Tensor:
    """Eq. 7, image by image and operation by operation."""
    results = []
    for b in range(len(images)):
        row = int(draw.sub_policy[b])
        image = images[b : b + 1]
        for stage in range(policy.weights.shape[1]):
            weights = torch.softmax(policy.weights[row, stage] / policy.selection_temperature, 0)
            total = torch.zeros_like(image)
            for n, name in enumerate(policy.operations):
                p, u = policy.probabilities[row, stage, n], draw.gate[b, stage, n]
                gate = torch.sigmoid((torch.log(p / (1 - p)) + torch.log(u / (1 - u))) / policy.temperature)
                takes: dict[str, Any] = {
                    "interpolation": policy.interpolation,
                    "fill": policy.fill,
                    "centre": draw.centre[b : b + 1, stage],
                    "partner": images[draw.partner[b, stage]][None],
                }
                magnitude = draw.sign[b, stage, n] * policy.magnitudes[row, stage, n]
                keywords = {key: takes[key] for key in OPERATIONS[name].takes}
                output = functional.apply_operation(name, image, magnitude, **keywords)
                total = total + weights[n] * (gate * output + (1 - gate) * image)
            image = total
        results.append(image)
    return torch.cat(results)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("interpolation", "fill"), [(NEAREST, 0.0), (BILINEAR, 0.6)])
def test_forward_is_equation_7(interpolation: InterpolationMode, fill: float, channels: int) -> None:
    policy = RelaxedPolicy(
        3, 2, temperature=0.4, selection_temperature=0.5, interpolation=interpolation, fill=fill, generator=seeded(2)
    ).double()
    with torch.no_grad():
        policy.probabilities.clamp_(0.01, 0.99)
    images = noise(7, channels, 13, 18, dtype=torch.float64)
    draw = policy.draw(7, generator=seeded(4))
    draw = draw._replace(gate=draw.gate.double())
    assert draw.sub_policy.unique().tolist() == [0, 1, 2]
    found, expected = policy(images, draw), slow(policy, images, draw)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

    direction = noise(7, channels, 18, 13, dtype=torch.float64).mT - 0.5
    for parameter, first, second in zip(
        ("weights", "probabilities", "magnitudes"),
        torch.autograd.grad((found * direction).sum(), list(policy.parameters())),
        torch.autograd.grad((expected * direction).sum(), list(policy.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-9, msg=lambda text, of=parameter: f"{of}: {text}")


def test_probability_0_is_the_identity() -> None:
    policy, images = RelaxedPolicy(sub_policies=2, stages=2), noise(6, 3, 12, 12)
    with torch.no_grad():
        policy.probabilities.zero_()
    draw = policy.draw(6, generator=seeded(0))._replace(gate=torch.full((6, 2, 17), 0.5))
    torch.testing.assert_close(policy(images, draw), images, rtol=0, atol=1e-6)


def test_operations_can_be_chosen() -> None:
    policy = RelaxedPolicy(2, 1, temperature=1e-6, selection_temperature=1e-6, operations=("invert", "flip"))
    with torch.no_grad():
        policy.weights.copy_(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
        policy.probabilities.fill_(1)
    images = noise(2, 3, 4, 4)
    draw = policy.draw(2)._replace(sub_policy=torch.tensor([0, 1]), gate=torch.full((2, 1, 2), 0.5))
    assert torch.equal(policy(images, draw), torch.cat([1 - images[:1], images[1:].flip(-1)]))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_batch_is_left_alone(channels: int) -> None:
    policy, images = RelaxedPolicy(sub_policies=3, stages=2), noise(6, channels, 12, 12)
    draw = policy.draw(6, generator=seeded(0))
    before = [tensor.clone() for tensor in (images, *draw, *policy.parameters())]
    with torch.no_grad():
        policy(images, draw).add_(1)
    for tensor, copy in zip((images, *draw, *policy.parameters()), before, strict=True):
        assert torch.equal(tensor, copy)


@pytest.mark.parametrize(
    ("arguments", "wording"),
    [
        ({"sub_policies": 0}, "should be positive"),
        ({"stages": 0}, "should be positive"),
        ({"operations": ()}, "should be positive"),
        ({"temperature": 0.0}, "should be positive"),
        ({"selection_temperature": -1.0}, "should be positive"),
        ({"operations": ("rotate", "swirl")}, r"operations should be among shear_x, .*, but got swirl instead"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], wording: str) -> None:
    with pytest.raises(ValueError, match=wording):
        RelaxedPolicy(**arguments)


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR])
def test_every_parameter_that_matters_has_a_gradient(interpolation: InterpolationMode) -> None:
    policy = RelaxedPolicy(3, 2, temperature=1.0, selection_temperature=1.0, interpolation=interpolation)
    with torch.no_grad():
        policy.magnitudes.clamp_(min=0.3)  # where hardly a pixel moves, the probability has no effect
    images, direction = noise(6, 3, 24, 25), noise(6, 3, 25, 24).mT - 0.3
    draw = policy.draw(6, generator=seeded(0))._replace(sub_policy=torch.arange(6) % 3)
    (policy(images, draw) * direction).sum().backward()
    for parameter in policy.parameters():
        assert parameter.grad.isfinite().all()
    assert (policy.weights.grad != 0).all()
    assert (policy.probabilities.grad != 0).all()
    assert (policy.magnitudes.grad[..., HAS_MAGNITUDE] != 0).all()
    assert (policy.magnitudes.grad[..., ~HAS_MAGNITUDE] == 0).all()


def test_sub_policies_that_were_not_drawn_have_gradient_0() -> None:
    policy, images = RelaxedPolicy(sub_policies=3, stages=2), noise(4, 3, 12, 12)
    draw = policy.draw(4)._replace(sub_policy=torch.ones(4, dtype=torch.int64))
    policy(images, draw).sum().backward()
    for parameter in policy.parameters():
        assert (parameter.grad[[0, 2]] == 0).all()
        assert (parameter.grad[1] != 0).any()


def test_project() -> None:
    policy = RelaxedPolicy(sub_policies=3, stages=2)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.copy_(torch.linspace(-0.5, 1.5, parameter.numel()).reshape(parameter.shape))
    before = {name: parameter.detach().clone() for name, parameter in policy.named_parameters()}
    assert policy.project_() is policy
    assert torch.equal(policy.weights, before["weights"])  # free
    assert torch.equal(policy.probabilities, before["probabilities"].clamp(0, 1))
    assert torch.equal(policy.magnitudes, before["magnitudes"].clamp(0, 1))
    assert all(parameter.requires_grad for parameter in policy.parameters())


@pytest.mark.parametrize("bound", [0.0, 1.0])
@pytest.mark.parametrize("learned", ["probabilities", "magnitudes"])
def test_no_parameter_freezes_at_a_bound(learned: str, bound: float) -> None:
    # Brightness at factor 1.9 μ brightens, so the sum of the pixels rises with probability and magnitude.
    policy = RelaxedPolicy(1, 1, operations=("brightness",))
    images = torch.full((4, 3, 6, 6), 0.3)
    with torch.no_grad():
        policy.probabilities.fill_(0.5)
        policy.magnitudes.fill_(0.5)
    parameter = getattr(policy, learned)
    gate = {"probabilities": 1 - PROBABILITY_MARGIN if bound == 0 else PROBABILITY_MARGIN, "magnitudes": 0.6}[learned]
    draw = policy.draw(4)._replace(gate=torch.full((4, 1, 1), gate), sign=torch.ones(4, 1, 1))
    optimizer = torch.optim.Adam([parameter], lr=0.01, betas=(0.0, 0.999))

    def step(upwards: bool) -> float:
        optimizer.zero_grad()
        loss = policy(images, draw).sum() * (-1 if upwards else 1)
        loss.backward()
        optimizer.step()
        policy.project_()
        return parameter.item()

    with torch.no_grad():  # beyond the bound, as after a step of the optimizer
        parameter.fill_(bound + (0.3 if bound else -0.3))
    policy.project_()
    assert parameter.item() == bound
    for _ in range(5):  # pushed outwards, it stays there
        assert step(upwards=bound == 1) == bound
    inside = step(upwards=bound == 0)  # and once the sign turns, it leaves at once
    assert inside == pytest.approx(abs(bound - 0.01), abs=1e-3)


# --- a sampled selection ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_relaxed_categorical_has_the_frequencies_of_its_logits(temperature: float) -> None:
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0])
    sample = relaxed_categorical(logits, torch.rand(20_000, 4, generator=seeded(0)), temperature)
    torch.testing.assert_close(sample.sum(-1), torch.ones(20_000))
    frequency = sample.argmax(-1).bincount() / 20_000
    torch.testing.assert_close(frequency, logits.softmax(0), rtol=0, atol=0.012)  # 3.4 deviations
    if temperature == 0.05:
        assert (sample.amax(-1) > 0.99).float().mean() > 0.75


def test_relaxed_categorical_of_two_choices_is_relaxed_bernoulli() -> None:
    # The difference of two Gumbel variables is logistic: the noise of eq. 4 that stands for both.
    noise = torch.rand(1000, 2, dtype=torch.float64, generator=seeded(1))
    probability = torch.rand(1000, dtype=torch.float64, generator=seeded(2)).clamp(0.01, 0.99)
    logits = torch.stack([probability, 1 - probability], -1).log()
    gumbel = -(-noise.log()).log()
    uniform = torch.sigmoid(gumbel[:, 0] - gumbel[:, 1])
    found = relaxed_categorical(logits, noise, 0.3)[:, 0]
    torch.testing.assert_close(found, relaxed_bernoulli(probability, uniform, 0.3), rtol=0, atol=1e-9)


@pytest.mark.parametrize("uniform", [0.0, 1e-30, 1 - 2**-24])
def test_relaxed_categorical_is_finite_whatever_the_noise(uniform: float) -> None:
    logits = torch.tensor([0.0, 3.0, -200.0], requires_grad=True)
    sample = relaxed_categorical(logits, torch.tensor([uniform, 0.5, 0.5]), 0.05)
    (gradient,) = torch.autograd.grad(sample[0], logits)
    assert sample.isfinite().all()
    assert gradient.isfinite().all()


def test_a_sampled_selection_is_one_operation_as_often_as_it_is_selected() -> None:
    policy = RelaxedPolicy(1, 1, selection_temperature=1.0, temperature=1e-4, sample_selection=True)
    with torch.no_grad():
        policy.weights.mul_(2)
        policy.probabilities.fill_(1)
        policy.magnitudes.fill_(0.7)
    images = noise(1, 3, 12, 12).expand(600, -1, -1, -1)
    draw = policy.draw(600, generator=seeded(0))
    draw = draw._replace(gate=torch.full_like(draw.gate, 0.5))
    chosen = (policy.weights[0] + -(-draw.choice.log()).log()).argmax(-1)[:, 0]
    with torch.no_grad():
        result = policy(images, draw)
        for n, name in enumerate(NAMES):
            rows = chosen == n
            takes: dict[str, Any] = {
                "interpolation": NEAREST,
                "fill": 0.0,
                "centre": draw.centre[rows, 0],
                "partner": images[rows],
            }
            keywords = {key: takes[key] for key in OPERATIONS[name].takes}
            expected = functional.apply_operation(name, images[rows], 0.7 * draw.sign[rows, 0, n], **keywords)
            near = torch.isclose(result[rows], expected, rtol=0, atol=1e-4).all((1, 2, 3))
            assert near.float().mean() > 0.97, name  # but for near ties
    torch.testing.assert_close(chosen.bincount(minlength=17) / 600, policy.selection[0, 0].detach(), rtol=0, atol=0.04)


# --- masks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("interpolation", [NEAREST, BILINEAR])
def test_the_mask_that_is_searched_is_the_mask_that_is_exported(
    interpolation: InterpolationMode, stages: int, seed: int
) -> None:
    policy = decided(stages, interpolation=interpolation)
    draw = drawn(policy, 34, seed)
    masks = torch.randint(0, 5, (34, 21, 23), dtype=torch.uint8, generator=seeded(seed))
    exported = _targets.transform(tv_tensors.Mask(masks), hard_plan(policy, draw), fill=255)
    with torch.no_grad():
        found = policy.move_masks((masks[:, None] == torch.arange(5)[:, None, None]).float(), draw)
    assert ((found == 0) | (found == 1)).all()
    assert torch.equal(torch.where(found.sum(1) == 1, found.argmax(1), 255), exported.long())
    assert (exported != masks).any()
    assert (exported == 255).any()


def test_masks_are_mixed_as_operations_are() -> None:
    policy = RelaxedPolicy(2, 1, temperature=1.0, selection_temperature=1.0, generator=seeded(0))
    masks = noise(3, 4, 9, 9)
    draw = policy.draw(3, generator=seeded(1))
    with torch.no_grad():
        found = policy.move_masks(masks, draw)
        for b, row in enumerate(draw.sub_policy.tolist()):
            gate = relaxed_bernoulli(policy.probabilities[row, 0], draw.gate[b, 0], 1.0)
            expected = torch.zeros_like(masks[:1])
            for n, name in enumerate(NAMES):
                moved = masks[b : b + 1]
                if name in GEOMETRY:
                    signed = draw.sign[b, 0, n] * policy.magnitudes[row, 0, n]
                    moved = functional.apply_operation(name, moved, signed, **GEOMETRY[name])
                expected += policy.selection[row, 0, n] * (gate[n] * moved + (1 - gate[n]) * masks[b : b + 1])
            torch.testing.assert_close(found[b : b + 1], expected, rtol=0, atol=1e-6)


def test_masks_have_gradients_where_geometry_has_parameters() -> None:
    policy = RelaxedPolicy(2, 2, temperature=1.0, selection_temperature=1.0, generator=seeded(0))
    with torch.no_grad():
        policy.magnitudes.fill_(0.6)  # enough to move a pixel
    found = policy.move_masks(noise(6, 3, 12, 12), policy.draw(6, generator=seeded(2)))
    (found * noise(6, 3, 12, 12).flip(-1)).sum().backward()
    moving = torch.tensor([name in GEOMETRY for name in NAMES])
    for parameter in policy.parameters():
        assert parameter.grad.isfinite().all()
    assert (policy.weights.grad != 0).all()
    assert (policy.probabilities.grad[..., moving] != 0).all()
    assert (policy.magnitudes.grad[..., moving & HAS_MAGNITUDE] != 0).all()
    assert (policy.probabilities.grad[..., ~moving] == 0).all()


def test_a_policy_without_geometry_leaves_masks_alone() -> None:
    policy = RelaxedPolicy(2, 2, operations=("invert", "cutout", "sample_pairing"))
    masks = noise(4, 3, 5, 5)
    assert torch.equal(policy.move_masks(masks, policy.draw(4)), masks)


# --- what is searched is what is exported -----------------------------------------------------------------------------


def decided(stages: int, temperature: float = 1e-6, **arguments: Any) -> RelaxedPolicy:
    """A policy of 17 sub-policies at a temperature near 0; every operation is the choice of some in every stage."""
    policy = RelaxedPolicy(
        17, stages, temperature=temperature, selection_temperature=temperature, generator=seeded(7), **arguments
    )
    with torch.no_grad():
        for row in range(17):
            for stage in range(stages):
                policy.weights[row, stage, (row * (3 * stage + 1) + stage) % 17] = 1.5
        policy.probabilities.clamp_(0.3, 0.9)
    return policy


def hard_plan(policy: RelaxedPolicy, draw: Draw) -> Plan:
    """The plan that the policy's draw amounts to, once each choice is hard."""
    choice = policy.weights[draw.sub_policy].argmax(-1)  # [B, K]

    def of_choice(values: Tensor) -> Tensor:  # [B, K, N] -> [B, K]
        return values.gather(-1, choice[..., None])[..., 0]

    magnitude = of_choice(draw.sign * policy.magnitudes[draw.sub_policy])
    parameter = torch.zeros(choice.shape, dtype=torch.float64)
    for n, name in enumerate(policy.operations):
        parameter = torch.where(choice == n, OPERATIONS[name].parameter(magnitude), parameter)
    index = torch.tensor([NAMES.index(name) for name in policy.operations])
    return Plan(
        operation=index[choice],
        parameter=parameter.detach(),
        applied=of_choice(draw.gate) > 1 - of_choice(policy.probabilities[draw.sub_policy]),
        centre=draw.centre.double(),
        partner=draw.partner,
        sub_policy=draw.sub_policy,
    )


def drawn(policy: RelaxedPolicy, batch: int, seed: int) -> Draw:
    """A draw in which every sub-policy occurs and no gate is undecided."""
    draw = policy.draw(batch, generator=seeded(seed))
    draw = draw._replace(sub_policy=torch.arange(batch) % len(policy.weights))
    gates = relaxed_bernoulli(policy.probabilities[draw.sub_policy], draw.gate, policy.temperature)
    assert ((gates == 0) | (gates == 1)).all()
    return draw


def by_hand(images: Tensor, plan: Plan, interpolation: InterpolationMode, fill: float) -> Tensor:
    """The differentiable forms, as the plan says; each on the whole batch, of which the rows that want it are taken."""
    result = images
    for stage in range(plan.stages):
        extras = Extras(interpolation, (fill,), plan.centre[:, stage], images[plan.partner[:, stage]])
        before = result
        for n, operation in enumerate(OPERATIONS.values()):
            chosen = plan.operation[:, stage] == n
            parameter = torch.where(chosen, plan.parameter[:, stage], operation.weakest)
            output = operation.differentiable(before, parameter, extras)
            rows = plan.applied[:, stage] & chosen
            result = torch.where(rows[:, None, None, None], output, result)
    return result


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize(("interpolation", "fill"), [(NEAREST, 0.0), (BILINEAR, 0.5)])
def test_searched_is_exported_for_floats(
    interpolation: InterpolationMode, fill: float, stages: int, channels: int, seed: int
) -> None:
    policy = decided(stages, interpolation=interpolation, fill=fill).double()
    images = images_of_8_bits(34, channels, 21, 23).double() / 255
    draw = drawn(policy, 34, seed)
    plan = hard_plan(policy, draw)
    assert plan.applied.any()
    assert not plan.applied.all()
    with torch.no_grad():
        found = policy(images, draw)
        assert torch.equal(found, by_hand(images, plan, interpolation, fill))
    # A convolution over some images of a batch need not give the same last bit as one over all.
    exported = apply(images, plan, interpolation=interpolation, fill=fill)
    torch.testing.assert_close(found, exported, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("interpolation", "fill"), [(NEAREST, 0), (BILINEAR, 128)])
def test_searched_is_exported_for_uint8(interpolation: InterpolationMode, fill: int, channels: int, seed: int) -> None:
    policy = decided(1, interpolation=interpolation, fill=fill / 255)
    images = images_of_8_bits(34, channels, 21, 23)
    draw = drawn(policy, 34, seed)
    exported = apply(images, hard_plan(policy, draw), interpolation=interpolation, fill=fill)
    with torch.no_grad():
        found = policy(images / 255, draw)
        assert torch.equal(found, by_hand(images / 255, hard_plan(policy, draw), interpolation, fill / 255))
    apart = ((found * 255).round() - exported).abs().amax((1, 2, 3))  # [B]
    assert apart.max() <= 1, [NAMES[n] for n in draw.sub_policy[apart > 1]]
    assert (exported != images).any()


def test_the_sampled_policy_does_what_the_relaxed_one_does_on_average() -> None:
    # The same operations as often, and pixels changed by as much.
    policy = decided(2, temperature=0.01)
    images = images_of_8_bits(1, 3, 16, 16).expand(2000, -1, -1, -1) / 255
    exported = policy.to_policy()
    with torch.no_grad():
        relaxed = policy(images, policy.draw(2000, generator=seeded(0)))
    sampled = apply(images, exported.sample(2000, generator=seeded(1)))
    assert (relaxed - images).abs().mean().item() == pytest.approx((sampled - images).abs().mean().item(), rel=0.05)
    torch.testing.assert_close(relaxed.mean(0), sampled.mean(0), rtol=0, atol=0.05)
    share = (policy.selection * policy.probabilities).mean((0, 1))
    for n, name in enumerate(NAMES):
        assert exported.effective_share()[name] == pytest.approx(share[n].item(), abs=1e-3)


# --- export -----------------------------------------------------------------------------------------------------------


def test_to_policy_holds_what_was_learned() -> None:
    relaxed = RelaxedPolicy(3, 2, generator=seeded(0))
    policy = relaxed.to_policy("mine", prune=1e-9, provenance={"seed": 0})
    assert policy.name == "mine"
    assert policy.provenance == {"seed": 0}
    assert len(policy) == 3
    assert policy.stages == 2
    for row, sub_policy in enumerate(policy.sub_policies):
        for stage, candidates in enumerate(sub_policy):
            assert sum(candidate.weight for candidate in candidates) == pytest.approx(1)
            for candidate in candidates:
                place = row, stage, NAMES.index(candidate.operation)
                assert candidate.weight == pytest.approx(relaxed.selection[place].item(), rel=1e-5)
                assert candidate.probability == relaxed.probabilities[place].item()
                if OPERATIONS[candidate.operation].has_magnitude:
                    assert candidate.magnitude == relaxed.magnitudes[place].item()
                else:
                    assert candidate.magnitude is None
    assert sum(len(stage) for sub_policy in policy.sub_policies for stage in sub_policy) == 3 * 2 * 17


def test_to_policy_leaves_out_what_is_hardly_chosen() -> None:
    relaxed = RelaxedPolicy(4, 2, generator=seeded(0))
    selection = relaxed.selection.detach()
    for prune in (0.01, 0.05, 0.3):
        policy = relaxed.to_policy(prune=prune)
        for row, sub_policy in enumerate(policy.sub_policies):
            for stage, candidates in enumerate(sub_policy):
                shares = selection[row, stage]
                kept = [name for n, name in enumerate(NAMES) if shares[n] >= prune or shares[n] == shares.max()]
                assert [candidate.operation for candidate in candidates] == kept
                total = sum(shares[NAMES.index(name)].item() for name in kept)
                for candidate in candidates:
                    share = shares[NAMES.index(candidate.operation)].item() / total
                    assert candidate.weight == pytest.approx(share, rel=1e-5)


def test_to_policy_keeps_the_likeliest_whatever_the_limit() -> None:
    relaxed = RelaxedPolicy(4, 2, generator=seeded(0))
    for row, sub_policy in enumerate(relaxed.to_policy(prune=1.0).sub_policies):
        for stage, (candidate,) in enumerate(sub_policy):
            assert candidate.operation == NAMES[relaxed.weights[row, stage].argmax()]
            assert candidate.weight == 1


def test_to_policy_knows_the_chosen_operations() -> None:
    relaxed = RelaxedPolicy(2, 1, operations=("invert", "rotate"), selection_temperature=10.0)
    for sub_policy in relaxed.to_policy().sub_policies:
        assert [candidate.operation for candidate in sub_policy[0]] == ["invert", "rotate"]
        assert sub_policy[0][0].magnitude is None
        assert sub_policy[0][1].magnitude is not None


def test_exported_file_is_read_back(tmp_path: Path) -> None:
    policy = RelaxedPolicy(3, 2, generator=seeded(0)).to_policy("mine", provenance={"data": "noise", "images": 12})
    policy.save(tmp_path / "policy.json")
    loaded = Policy.load(tmp_path / "policy.json")
    assert loaded == policy
    assert (loaded.name, loaded.provenance) == (policy.name, policy.provenance)
    assert loaded.sample(40, generator=seeded(3)) == policy.sample(40, generator=seeded(3))


def test_nothing_pruned_leaves_out_what_underflows() -> None:
    policy = RelaxedPolicy(1, 1)
    with torch.no_grad():
        policy.weights.fill_(0.0)
        policy.weights[..., 0] = 10.0
    exported = policy.to_policy(prune=0.0)
    assert [candidate.operation for candidate in exported.sub_policies[0][0]] == ["shear_x"]
