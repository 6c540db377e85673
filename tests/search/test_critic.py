"""The critic: backbones, heads, the gradient penalty, and the layers whose second derivatives are written out."""

import copy
import itertools
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fasteraa_transforms.search.networks.backbones import WideResNet
from fasteraa_transforms.search.networks.critic import Critic, gradient_penalty
from fasteraa_transforms.search.networks.second_order import (
    SecondOrderBatchNorm2d,
    SecondOrderConv2d,
    inputs_only,
    speed_up,
)
from fasteraa_transforms.search.networks.table import NETWORKS, fitting_critic, make_backbone


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


# --- backbones --------------------------------------------------------------------------------------------------------


def parameters_of_wide_resnet(depth: int, width: int, channels: int) -> int:
    """From table 1 of Zagoruyko and Komodakis: convolutions k² a b without bias, batch norms 2 a, 1×1 shortcuts a b."""
    blocks = (depth - 4) // 6
    total = 9 * channels * 16
    wide = [16, 16 * width, 32 * width, 64 * width]
    for a, b in itertools.pairwise(wide):
        shortcut = a * b if a != b else 0  # at width 1, the second and third group change width as well, the first not
        first = 2 * a + 9 * a * b + 2 * b + 9 * b * b + shortcut
        other = 2 * b + 9 * b * b + 2 * b + 9 * b * b
        total += first + (blocks - 1) * other
    return total + 2 * wide[-1]


@pytest.mark.parametrize(("depth", "width", "channels"), [(40, 2, 3), (40, 2, 1), (28, 10, 3), (10, 1, 3), (16, 4, 5)])
def test_wide_resnet_has_the_parameters_of_its_architecture(depth: int, width: int, channels: int) -> None:
    with torch.device("meta"):
        network = WideResNet(depth, width, channels=channels)
    assert count(network) == parameters_of_wide_resnet(depth, width, channels)


def test_wrn_40_2_and_28_10_have_the_parameters_of_the_literature() -> None:
    with torch.device("meta"):
        assert count(WideResNet(40, 2)) + count(nn.Linear(128, 10)) == 2_243_546  # "2.2M", table 4
        assert count(WideResNet(28, 10)) + count(nn.Linear(640, 10)) == 36_479_194  # "36.5M", table 4


@pytest.mark.parametrize("depth", [40, 16])
def test_wide_resnet_has_as_many_layers_as_its_depth(depth: int) -> None:
    with torch.device("meta"):
        network = WideResNet(depth, 2)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert (
        len(convolutions) == depth
    )  # "total number of convolutional layers", those of 1×1 in three shortcuts included
    assert sum(module.kernel_size == (1, 1) for module in convolutions) == 3


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (17, 40)])
def test_wide_resnet_gives_one_feature_vector_an_image(size: tuple[int, int]) -> None:
    network = WideResNet(10, 2, channels=3).eval()
    shapes = []
    network.norm.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    images = noise(3, 3, *size, dtype=torch.float32)
    features = network(images)
    assert features.shape == (3, 128)
    assert (features >= 0).all()
    assert shapes == [(3, 128, -(-size[0] // 4), -(-size[1] // 4))]  # two of the three groups halve the size
    torch.testing.assert_close(network(images[1:2]), features[1:2])


@pytest.mark.parametrize("depth", [4, 9, 39, 41, 0])
def test_wide_resnet_refuses_other_depths(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"^depth should be 6 n \+ 4, but got {depth} instead$"):
        WideResNet(depth, 1)


@pytest.mark.parametrize(
    ("name", "features", "size"),
    [
        ("small", 256, 8),
        ("small", 256, 13),
        ("compact", 128, 9),
        ("resnet9", 256, 9),
        ("resnet9-24", 192, 32),
        ("wrn16_2", 128, 16),
        ("wrn40_2", 128, 16),
        ("wrn28_10", 640, 16),
        ("resnet50", 2048, 32),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_backbones_by_name(name: str, features: int, size: int, channels: int) -> None:
    with torch.device("meta"):
        backbone = make_backbone(name, channels).eval()
        assert backbone(torch.rand(2, channels, size, size)).shape == (2, features)


def test_every_named_backbone_is_tested() -> None:
    assert set(NETWORKS) == {"small", "compact", "resnet9", "wrn16_2", "wrn40_2", "wrn28_10", "resnet50"}


def test_resnet_50_is_torchvisions_without_the_classifier() -> None:
    with torch.device("meta"):
        assert count(make_backbone("resnet50", 3)) + count(nn.Linear(2048, 1000)) == 25_557_032


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("backbones_of_mine")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_backbone_of_the_users_own(own_module: Any) -> None:
    asked = []

    def tiny(channels: int) -> nn.Module:
        asked.append(channels)
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(7))

    own_module.tiny = tiny
    backbone = make_backbone("backbones_of_mine:tiny", 2)
    assert asked == [2]
    assert backbone(torch.rand(3, 2, 4, 4)).shape == (3, 7)


@pytest.mark.parametrize("name", ["wrn", "", "WRN40_2", "torchvision.models.resnet18"])
def test_unknown_backbone(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"^critic should be one of {', '.join(NETWORKS)} or module:callable, "
    ) as caught:
        make_backbone(name, 3)
    assert str(caught.value).endswith(f"but got {name!r} instead")


def test_backbone_in_a_module_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"^critic 'no_such_module_here:net' was not found: No module named 'no_such"):
        make_backbone("no_such_module_here:net", 3)


def test_backbone_that_the_module_does_not_have(own_module: Any) -> None:
    with pytest.raises(ValueError, match=r"^critic 'backbones_of_mine:net' was not found: .* has no attribute 'net'$"):
        make_backbone("backbones_of_mine:net", 3)


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((8, 8), "small"),
        ((16, 16), "small"),
        ((16, 200), "small"),
        ((17, 17), "wrn40_2"),
        ((32, 32), "wrn40_2"),
        ((64, 64), "wrn40_2"),
        ((65, 65), "resnet50"),
        ((224, 224), "resnet50"),
    ],
)
def test_fitting_critic(size: tuple[int, int], name: str) -> None:
    assert fitting_critic(size) == name


# --- critic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "classes", "channels"), [(5, 10, 1), (1, 2, 3), (4, 120, 2)])
def test_critic_gives_a_score_and_logits_an_image(batch: int, classes: int, channels: int) -> None:
    critic = Critic(make_backbone("small", channels), classes=classes, image_shape=(channels, 12, 12))
    images = noise(batch, channels, 12, 12, dtype=torch.float32)
    score, logits = critic(images)
    assert score.shape == (batch,)
    assert logits.shape == (batch, classes)
    features = critic.backbone(images)
    torch.testing.assert_close(logits, features @ critic.class_head.weight.T + critic.class_head.bias)
    first, _, last = critic.critic_head  # the paper's two-layer perceptron
    hidden = features @ first.weight.T + first.bias
    hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
    torch.testing.assert_close(score, (hidden @ last.weight.T + last.bias)[:, 0])


def test_the_heads_have_no_batch_norm() -> None:
    critic = Critic(make_backbone("small", 1), classes=10, image_shape=(1, 8, 8))
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in critic.modules())


@pytest.mark.parametrize("training", [True, False])
def test_making_a_critic_leaves_the_backbones_mode_and_statistics(training: bool) -> None:
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone.train(training)
    before = copy.deepcopy(backbone.state_dict())
    critic = Critic(backbone, classes=2, image_shape=(1, 8, 8))
    assert all(module.training is training for module in critic.backbone.modules())
    for name, value in critic.backbone.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_backbone_without_feature_vectors_is_refused() -> None:
    message = r"^the backbone should give features \[B, F\], but gave \[1, 4, 6, 6\] instead$"
    with pytest.raises(ValueError, match=message):
        Critic(nn.Conv2d(1, 4, 3), classes=10, image_shape=(1, 8, 8))


def test_a_critic_is_sped_up() -> None:
    critic = Critic(make_backbone("wrn40_2", 3), classes=10, image_shape=(3, 8, 8))
    kinds = {type(module) for module in critic.modules()}
    assert {SecondOrderConv2d, SecondOrderBatchNorm2d} <= kinds
    assert not {nn.Conv2d, nn.BatchNorm2d} & kinds


# --- gradient penalty -------------------------------------------------------------------------------------------------


def penalty_over_channels(score: Callable[[Tensor], Tensor], real: Tensor, augmented: Tensor, mix: Tensor) -> Tensor:
    """What the paper's public reference does: a norm over the channels at each pixel, then the mean over all pixels."""
    weight = mix[:, None, None, None]
    between = (weight * real + (1 - weight) * augmented).detach().requires_grad_()
    (slope,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
    return (slope.norm(2, dim=1) - 1).square().mean()


@pytest.mark.parametrize("shape", [(4, 3, 5, 7), (2, 1, 8, 8), (1, 2, 1, 1)])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_penalty_of_a_linear_critic(shape: tuple[int, ...], scale: float) -> None:
    # The slope of <w, x> is w at every sample, so the penalty is (‖w‖ - 1)² whatever the images are.
    w = scale * noise(*shape[1:])
    real, augmented, mix = noise(*shape), noise(*shape).flip(0), torch.rand(shape[0], dtype=torch.float64)

    def score(images: Tensor) -> Tensor:
        return (images * w).sum((1, 2, 3))

    expected = (w.square().sum().sqrt() - 1).square()
    torch.testing.assert_close(gradient_penalty(score, real, augmented, mix), expected, rtol=1e-12, atol=1e-14)
    if shape[2] * shape[3] > 1:  # at a single pixel the two norms are one
        wrong = penalty_over_channels(score, real, augmented, mix)
        assert abs(wrong - expected) > 0.1 * expected


def test_penalty_of_unit_slope_is_zero_and_that_over_channels_is_not() -> None:
    w = noise(3, 4, 4)
    w = w / w.norm()
    real, augmented, mix = noise(5, 3, 4, 4), noise(5, 3, 4, 4), torch.rand(5, dtype=torch.float64)

    def score(images: Tensor) -> Tensor:
        return (images * w).sum((1, 2, 3))

    assert gradient_penalty(score, real, augmented, mix) < 1e-25
    assert penalty_over_channels(score, real, augmented, mix) > 0.3


def test_penalty_has_one_norm_for_each_sample() -> None:
    # The slope of ‖x‖²/2 is x itself: samples of norm 1, 2, 3, 4 have the penalties 0, 1, 4, 9.
    images = noise(4, 3, 6, 6)
    images = images / images.flatten(1).norm(dim=1)[:, None, None, None]
    images = images * torch.arange(1.0, 5.0, dtype=torch.float64)[:, None, None, None]
    penalty = gradient_penalty(lambda x: x.square().sum((1, 2, 3)) / 2, images, images, torch.rand(4).double())
    torch.testing.assert_close(penalty, torch.tensor((0 + 1 + 4 + 9) / 4, dtype=torch.float64))


def test_penalty_is_taken_between_real_and_augmented_images() -> None:
    seen = []

    def score(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return images.square().sum((1, 2, 3))

    real, augmented = torch.ones(3, 2, 2, 2), torch.zeros(3, 2, 2, 2)
    gradient_penalty(score, real, augmented, torch.tensor([0.0, 0.25, 1.0]))
    expected = torch.tensor([0.0, 0.25, 1.0])[:, None, None, None].expand(3, 2, 2, 2)
    torch.testing.assert_close(seen, [expected])


def test_penalty_leaves_the_images_out_of_the_graph() -> None:
    real, augmented = noise(3, 2, 4, 4).requires_grad_(), noise(3, 2, 4, 4).requires_grad_()
    w = noise(2, 4, 4).requires_grad_()
    penalty = gradient_penalty(lambda x: (x.square() * w).sum((1, 2, 3)), real, augmented, torch.rand(3).double())
    penalty.backward()
    assert real.grad is None
    assert augmented.grad is None
    assert w.grad.abs().sum() > 0


def test_penalty_of_a_flat_critic_has_finite_gradients() -> None:
    w = torch.zeros(2, 4, 4, requires_grad=True)
    images = torch.rand(3, 2, 4, 4)
    penalty = gradient_penalty(lambda x: (x * w).sum((1, 2, 3)), images, images, torch.rand(3))
    penalty.backward()
    assert penalty.item() == 1
    assert w.grad.isfinite().all()


def test_penalty_differentiates_by_the_critics_parameters() -> None:
    torch.manual_seed(3)
    backbone = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Softplus(),  # smooth, so that finite differences cross no kink
        nn.Conv2d(4, 3, 3, 2),
        nn.Softplus(),
        nn.Flatten(),
    )
    critic = Critic(backbone, classes=2, image_shape=(2, 7, 7))
    critic.critic_head[1] = nn.Softplus()
    critic = critic.double()
    real, augmented, mix = noise(3, 2, 7, 7), noise(3, 2, 7, 7).flip(0), torch.rand(3, dtype=torch.float64)

    def penalty() -> Tensor:
        return gradient_penalty(lambda x: critic(x)[0], real, augmented, mix)

    penalty().backward()
    step = 1e-5
    checked = 0
    for name, parameter in critic.named_parameters():
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for index in torch.randperm(parameter.numel())[:6].tolist():
            flat = parameter.detach().view(-1)
            kept = flat[index].item()
            flat[index] = kept + step
            above = penalty().item()
            flat[index] = kept - step
            below = penalty().item()
            flat[index] = kept
            slope = (above - below) / (2 * step)
            assert grad.view(-1)[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8), name
            checked += abs(slope) > 1e-6
    assert checked > 20  # the class head and the last biases have no part in it, all others do


# --- layers with second derivatives -----------------------------------------------------------------------------------

CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "3×3": {"kernel_size": 3},
    "padding": {"kernel_size": 3, "padding": 1},
    "no bias": {"kernel_size": 3, "padding": 1, "bias": False},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride that leaves a rest": {"kernel_size": 2, "stride": 3},
    "stride and padding by axis": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (2, 0)},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "groups": {"kernel_size": 3, "groups": 2},
    "depthwise": {"kernel_size": 3, "groups": 4, "stride": 2, "bias": False},
    "1×1": {"kernel_size": 1},
    "1×1 stride": {"kernel_size": 1, "stride": 2, "bias": False},
    "7×7 stride": {"kernel_size": 7, "stride": 2, "padding": 3},
}


def objective_of_slope(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, slope w.r.t. ``x``, first derivatives, and the gradients of a function of output and slope."""
    x = x.clone().requires_grad_()
    parameters = list(network.parameters())
    output = network(x)
    weighting = noise(*output.shape)
    total = (output * weighting).sum() + output.square().sum() / 2
    first = torch.autograd.grad(total, [x, *parameters], retain_graph=True)
    (slope,) = torch.autograd.grad(total, x, create_graph=True)
    value = (slope.flatten(1).norm(dim=1) - 1).square().sum() + output.sin().sum()
    second = torch.autograd.grad(value, [x, *parameters])
    return [output.detach(), slope.detach(), *first, *second]


def assert_same_derivatives(plain: nn.Module, x: Tensor) -> None:
    plain = plain.double()
    fast = speed_up(copy.deepcopy(plain))
    for mine, reference in zip(objective_of_slope(fast, x), objective_of_slope(plain, x), strict=True):
        scale = reference.abs().max().item()
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11 * max(scale, 1))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("size", [(9, 8), (7, 11)])
def test_convolution_has_the_derivatives_of_torchs(name: str, size: tuple[int, int]) -> None:
    plain = nn.Conv2d(4, 8, **CONVOLUTIONS[name])
    assert_same_derivatives(plain, noise(3, 4, *size))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_network_has_the_derivatives_of_torchs(memory_format: torch.memory_format) -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 6, 3, stride=2, groups=3),
        nn.BatchNorm2d(6, eps=1e-2, momentum=0.3),
        nn.Tanh(),
        nn.Conv2d(6, 2, 1),
    )
    assert_same_derivatives(plain.to(memory_format=memory_format), noise(4, 3, 8, 8).to(memory_format=memory_format))


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (2, 3, 1, 1), (7, 1, 3, 2)])
def test_batch_norm_in_training_has_the_derivatives_of_torchs(shape: tuple[int, ...]) -> None:
    plain = nn.BatchNorm2d(shape[1], eps=1e-3)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    assert_same_derivatives(plain, 2 + 3 * noise(*shape))


def test_batch_norm_in_evaluation_has_the_derivatives_of_torchs() -> None:
    plain = nn.BatchNorm2d(3)
    nn.init.normal_(plain.weight)
    nn.init.uniform_(plain.running_var, 0.5, 2)
    nn.init.normal_(plain.running_mean)
    assert_same_derivatives(plain.eval(), noise(4, 3, 5, 6))


def test_a_wide_resnet_has_the_derivatives_of_torchs() -> None:
    torch.manual_seed(1)
    assert_same_derivatives(WideResNet(10, 1, channels=2), noise(3, 2, 8, 8))


@pytest.mark.parametrize("name", ["padding", "stride", "dilation", "groups"])
def test_convolution_passes_gradcheck(name: str) -> None:
    layer = speed_up(nn.Sequential(nn.Conv2d(2, 2, **CONVOLUTIONS[name]).double()))
    x = noise(2, 2, 5, 5).requires_grad_()
    weights = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]
    names = [name for name, _ in layer.named_parameters()]

    def output(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *weights))
    # Where nothing but the input asks for a gradient, all second derivatives there are, are implemented.
    assert torch.autograd.gradgradcheck(lambda x: output(x, *(w.detach() for w in weights)).square(), (x,))


def test_batch_norm_passes_gradcheck() -> None:
    layer = speed_up(nn.Sequential(nn.BatchNorm2d(2).double()))
    nn.init.normal_(layer[0].weight)
    x = noise(3, 2, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,))
    layer.requires_grad_(False)
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), (x,))


def test_inputs_only_leaves_out_the_gradients_of_weights() -> None:
    network = speed_up(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 3)).double())
    x = noise(2, 2, 6, 6).requires_grad_()
    network(x).sum().backward()
    whole = x.grad.clone()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())

    x.grad = None
    network.zero_grad()
    with inputs_only():
        network(x).sum().backward()
    torch.testing.assert_close(x.grad, whole, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in network.parameters())

    network(x).sum().backward()  # only within
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_inputs_only_ends_with_an_error_too_and_can_be_nested() -> None:
    layer = speed_up(nn.Sequential(nn.Conv2d(1, 1, 2)))
    images = torch.rand(1, 1, 3, 3)
    with inputs_only(), inputs_only():
        pass
    with pytest.raises(KeyError), inputs_only():
        raise KeyError
    layer(images).sum().backward()
    assert layer[0].weight.grad is not None


def test_inputs_only_runs_the_backward_pass_on_this_thread() -> None:
    # An accelerator's backward pass has a thread of its own, which does not see the context variable.
    assert torch._C._is_multithreading_enabled()
    with inputs_only():
        assert not torch._C._is_multithreading_enabled()
    assert torch._C._is_multithreading_enabled()


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3), nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(2)])
def test_second_derivatives_through_the_gradient_of_weights_are_refused(layer: nn.Module) -> None:
    layer = speed_up(nn.Sequential(copy.deepcopy(layer)))
    kind = "a convolution" if type(layer[0]) is SecondOrderConv2d else "batch norm"
    (grad,) = torch.autograd.grad(layer(torch.rand(2, 2, 4, 4)).square().sum(), layer[0].weight, create_graph=True)
    message = rf"^second derivatives through the gradient of {kind}'s weights are not implemented$"
    with pytest.raises(RuntimeError, match=message):
        grad.sum().backward()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"eps": 0.1}, {"track_running_stats": False}])
def test_batch_norm_keeps_the_statistics_that_torchs_keeps(options: dict[str, Any]) -> None:
    plain = nn.BatchNorm2d(3, **options)
    fast = speed_up(nn.Sequential(copy.deepcopy(plain)))[0]
    assert type(fast) is SecondOrderBatchNorm2d
    for step in range(3):
        x = 2 + 3 * noise(4, 3, 5, 5 + step, dtype=torch.float32)
        torch.testing.assert_close(fast(x), plain(x))
    assert fast.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fast.state_dict()[name], value)
    if "track_running_stats" not in options:
        assert fast.num_batches_tracked == 3
    x = noise(2, 3, 4, 4, dtype=torch.float32)
    before = copy.deepcopy(fast.state_dict())
    torch.testing.assert_close(fast.eval()(x), plain.eval()(x))
    for name, value in before.items():
        torch.testing.assert_close(fast.state_dict()[name], value, rtol=0, atol=0)


def test_speeding_up_keeps_parameters_and_state_dict() -> None:
    network = WideResNet(10, 1)
    state, parameters = network.state_dict(), [id(parameter) for parameter in network.parameters()]
    fast = speed_up(network)
    assert fast is network
    assert [id(parameter) for parameter in fast.parameters()] == parameters
    assert list(fast.state_dict()) == list(state)
    WideResNet(10, 1).load_state_dict(fast.state_dict())
    classes = [type(module) for module in fast.modules()]
    assert [type(module) for module in speed_up(fast).modules()] == classes


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_sped_up_network_can_be_copied(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    network = speed_up(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).double())
    network(noise(3, 2, 5, 5))
    twin = duplicate(network)
    assert [type(module) for module in twin] == [SecondOrderConv2d, SecondOrderBatchNorm2d]
    x = noise(2, 2, 6, 6)
    torch.testing.assert_close(objective_of_slope(twin, x), objective_of_slope(network, x), rtol=0, atol=0)
    with torch.no_grad():
        twin[0].weight.zero_()
    assert network[0].weight.abs().sum() > 0


class OwnConv2d(nn.Conv2d):
    """A layer of somebody's own, whose forward pass must stay."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.Conv2d(2, 2, 3, padding="valid"),
        nn.BatchNorm2d(2, affine=False),
        nn.BatchNorm2d(2, momentum=None),
        nn.ConvTranspose2d(2, 2, 3),
        nn.Conv1d(2, 2, 3),
        nn.BatchNorm1d(2),
        OwnConv2d(2, 2, 3),
    ],
    ids=str,
)
def test_other_layers_are_left_alone(layer: nn.Module) -> None:
    kind = type(layer)
    assert type(speed_up(nn.Sequential(layer))[0]) is kind


def test_a_second_order_layer_behind_one_left_alone() -> None:
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 2, 3)
    )
    assert_same_derivatives(plain, noise(2, 2, 6, 6))


def network_for_bfloat16() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 8, 3, 2, 1, bias=False),
        nn.Flatten(),
    )


def test_bfloat16_autocast_on_the_cpu() -> None:
    found = {}
    for precision in (torch.float32, torch.bfloat16):
        critic = Critic(network_for_bfloat16(), classes=4, image_shape=(3, 12, 12))
        critic.to(memory_format=torch.channels_last)
        real, augmented = (noise(16, 3, 12, 12, dtype=torch.float32) * sign for sign in (1, -1))
        with torch.autocast("cpu", precision, enabled=precision is not torch.float32):
            score, logits = critic(real)
            penalty = gradient_penalty(lambda x, net=critic: net(x)[0], real, augmented, torch.linspace(0, 1, 16))
        assert score.dtype == logits.dtype == precision
        assert penalty.dtype == torch.float32
        (penalty + score.float().mean() + logits.float().square().mean()).backward()
        for name, parameter in critic.named_parameters():
            assert parameter.dtype == parameter.grad.dtype == torch.float32, name
            assert parameter.grad.isfinite().all(), name
        grads = torch.cat([parameter.grad.flatten() for parameter in critic.parameters()])
        found[precision] = penalty.item(), grads, critic.backbone[1].running_var
    (penalty, grads, variance), (penalty16, grads16, variance16) = found.values()
    assert penalty16 == pytest.approx(penalty, rel=0.05)
    assert torch.nn.functional.cosine_similarity(grads, grads16, dim=0) > 0.98
    torch.testing.assert_close(variance16, variance, rtol=0.02, atol=0.01)
