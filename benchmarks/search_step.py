"""Time one step of the search against a straightforward implementation of the same step, side by side.

    python benchmarks/search_step.py [--device cuda] [--rounds 5] [--threads 2] [--depth 40] [--profile] [--json FILE]

The straightforward step computes the same losses and gradients (tests hold it to that): it loops over chunks of 8
images, each with its own sub-policy, augments once for the critic and once more for the policy, computes in float32
with PyTorch's own layers in their default memory layout, and runs one backward pass for each loss. Another row sends
real and augmented images through the critic by themselves, as the public reference does, which is less work and
another objective (see `wasserstein`). On a GPU this package replays a CUDA graph, and a row shows it without. Steps of
all variants take turns, so that what else the machine does hits them alike.

With --profile, what the parts of a step take, one by one, beside what they should: the multiplications and additions of
their convolutions at the rate of the convolutions of a forward pass, measured by themselves, plus the bytes that all
other operations read and write, at the rate of a copy.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fasteraa_transforms.relaxed import Draw, RelaxedPolicy
from fasteraa_transforms.search.algorithm.loop import batches
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.backbones import WideResNet
from fasteraa_transforms.search.networks.critic import Critic, gradient_penalty
from fasteraa_transforms.search.networks.second_order import SecondOrderBatchNorm2d, SecondOrderConv2d
from fasteraa_transforms.search.runtime.graph import CudaCapture, GraphedStep
from fasteraa_transforms.search.runtime.hardware import computes_in_bfloat16, device_name

CHUNK = 8  # the paper's, for CIFAR


def plain_layers(critic: Critic) -> Critic:
    """The same network of PyTorch's own layers."""
    for module in critic.modules():
        if type(module) is SecondOrderConv2d:
            module.__class__ = nn.Conv2d
        elif type(module) is SecondOrderBatchNorm2d:
            module.__class__ = nn.BatchNorm2d
    return critic


def straightforward_step(
    objective: Wasserstein,
    state: SearchState,
    images: Tensor,
    labels: Tensor,
    *,
    draws: Sequence[Draw] | None = None,
    mix: Tensor | None = None,
    separate: bool = False,
) -> tuple[Tensor, ...]:
    """One step, written as it comes to mind.

    Args:
        objective: for its weights and the normalisation.
        state: changed in place.
        images: [B, C, H, W], float, in [0, 1].
        labels: int64 [B].
        draws: of each chunk, for both passes of the policy; drawn anew for each if None.
        mix: [B / 2], of the gradient penalty; drawn if None.
        separate: whether the two halves go through the critic by themselves.

    Returns:
        Wasserstein estimate, gradient penalty, class loss on real and on augmented images.
    """
    policy, critic = state.policy, state.critic
    half = len(images) // 2
    real, real_labels, labels = objective.tools.normalise(images[half:]).contiguous(), labels[half:], labels[:half]
    mix = torch.rand(half, device=images.device) if mix is None else mix

    def augment() -> Tensor:
        augmented = []
        for i, chunk in enumerate(images[:half].split(CHUNK)):
            draw = policy.draw(len(chunk)) if draws is None else draws[i]
            augmented.append(policy(chunk, draw._replace(sub_policy=draw.sub_policy[:1].expand(len(chunk)))))
        return objective.tools.normalise(torch.cat(augmented)).contiguous()

    def score(augmented: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if separate:
            return *critic(real), *critic(augmented)
        scores, logits = critic(torch.cat([real, augmented]))
        return scores[:half], logits[:half], scores[half:], logits[half:]

    critic.requires_grad_(True)
    state.critic_optimizer.zero_grad()
    with torch.no_grad():
        augmented = augment()
    real_score, real_logits, fake_score, _ = score(augmented)
    class_loss = F.cross_entropy(real_logits, real_labels)
    (objective.classification_weight * class_loss).backward(retain_graph=True)
    (-real_score.mean()).backward(retain_graph=True)
    fake_score.mean().backward()
    weight = mix[:, None, None, None]
    between = (weight * real + (1 - weight) * augmented).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between)[0].sum(), between, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    (objective.gradient_penalty_weight * penalty).backward()
    state.critic_optimizer.step()

    critic.requires_grad_(False)
    state.policy_optimizer.zero_grad()
    augmented = augment()
    if separate:
        scores, logits = critic(augmented)
    else:
        _, _, scores, logits = score(augmented)
    augmented_loss = F.cross_entropy(logits, labels)
    (objective.classification_weight * augmented_loss).backward(retain_graph=True)
    (-scores.mean()).backward()
    state.policy_optimizer.step()
    policy.project_()
    wasserstein = real_score.mean() - fake_score.mean()
    return wasserstein.detach(), penalty.detach(), class_loss.detach(), augmented_loss.detach()


def make_state(
    depth: int, *, width: int = 2, channels_last: bool, seed: int = 0, device: torch.device | str = "cpu"
) -> SearchState:
    """Policy, critic and optimizers of the CIFAR settings."""
    torch.manual_seed(seed)
    device = torch.device(device)
    policy = RelaxedPolicy().to(device)
    critic = Critic(WideResNet(depth, width), classes=10, image_shape=(3, 32, 32)).to(device)
    critic = critic.to(memory_format=torch.channels_last) if channels_last else plain_layers(critic)
    capturable = channels_last and device.type == "cuda"
    adam = [
        torch.optim.Adam(module.parameters(), 1e-3, (0.0, 0.999), fused=channels_last, capturable=capturable)
        for module in (policy, critic)
    ]
    generator = torch.Generator(device).manual_seed(0)
    return SearchState(policy, critic, adam[0], adam[1], generator, multiplier=torch.zeros((), device=device))


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(device: torch.device) -> str:
    return device_name(device)


def objectives(device: torch.device) -> tuple[Wasserstein, Wasserstein]:
    """That of this package, in bfloat16 where the hardware computes in it, and one in float32."""
    mean, std = torch.full((3,), 0.47, device=device), torch.full((3,), 0.25, device=device)
    precision = torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    return Wasserstein(Tools(mean, std, precision=precision)), Wasserstein(Tools(mean, std))


def measure(device: torch.device, *, depth: int, batch: int, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a step of each variant, in ``rounds`` turns of ``steps`` steps each, after one that warms up."""
    ours, plain = objectives(device)

    def state(fast: bool) -> SearchState:
        return make_state(depth, channels_last=fast, device=device)

    variants: dict[str, Callable[[Tensor, Tensor], object]] = {
        "this package": functools.partial(ours.step, state(True)),
        "straightforward": functools.partial(straightforward_step, plain, state(False)),
        "straightforward, halves apart": functools.partial(straightforward_step, plain, state(False), separate=True),
    }
    if device.type == "cuda":
        variants["this package, without graphs"] = variants["this package"]
        captured = state(True)
        step = functools.partial(ours.step, captured)
        variants["this package"] = GraphedStep(step, CudaCapture(captured.generator), required=True)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    images, labels = torch.rand(batch, 3, 32, 32, device=device), torch.randint(10, (batch,), device=device)
    for step in variants.values():
        for _ in range(5 if device.type == "cuda" else 1):  # a graph is captured in the 4th
            step(images, labels)
    for _ in range(rounds):
        for name, step in variants.items():
            wait_for(device)
            began = time.perf_counter()
            for _ in range(steps):
                step(images, labels)
            wait_for(device)
            seconds[name].append((time.perf_counter() - began) / steps)
    return seconds


# --- profile ----------------------------------------------------------------------------------------------------------


class Work(TorchDispatchMode):
    """Counts floating-point operations of convolutions, and bytes that other operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "convolution" in func.overloadpacket.__name__:
            self.operations += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=result)
        elif not func.is_view:
            tensors = {id(each): each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)}
            self.bytes += sum(each.numel() * each.element_size() for each in tensors.values())
        return result


def parts(objective: Wasserstein, state: SearchState, data: ImageSet, batch: int) -> dict[str, Callable[[], object]]:
    """What a step consists of, and reading a batch; each by itself."""
    policy, critic, half = state.policy, state.critic, batch // 2
    crop = Crop((32, 32), padding=4, flip=True)
    images, labels = next(batches(data, batch, crop, generator=state.generator))
    real = objective.tools.normalise(images[half:])
    augmented = objective.tools.normalise(policy(images[:half]).detach())
    both, mix = torch.cat([real, augmented]), torch.rand(half, device=images.device)
    device = images.device

    def mixture() -> None:
        changed = policy(images[:half], policy.draw(half, generator=state.generator))
        objective.tools.normalise(changed).mean().backward()

    def discriminate() -> None:
        critic.requires_grad_(True)
        with objective.tools.autocast(device):
            scores, logits = critic(both)
        (scores.float().mean() + F.cross_entropy(logits[:half].float(), labels[half:])).backward()

    def penalty() -> None:
        critic.requires_grad_(True)
        with objective.tools.autocast(device):
            value = gradient_penalty(lambda between: critic(between)[0], real, augmented, mix)
        value.backward()

    def judge() -> None:
        critic.requires_grad_(False)
        wanted = augmented.detach().requires_grad_()
        with objective.tools.autocast(device):
            scores, logits = critic(torch.cat([real, wanted]))
        (scores[half:].float().mean() + F.cross_entropy(logits[half:].float(), labels[:half])).backward()

    def optimize() -> None:
        state.critic_optimizer.step()
        state.policy_optimizer.step()
        policy.project_()

    return {
        "batch: crop, flip": lambda: next(batches(data, batch, crop, generator=state.generator)),
        "policy: draws, mixture, its backward pass": mixture,
        "critic: real and augmented, forward and backward": discriminate,
        "critic: gradient penalty": penalty,
        "critic for the policy: forward, backward to the images": judge,
        "optimizers, projection": optimize,
        "the whole step": lambda: objective.step(state, images, labels),
    }


def convolution_rate(objective: Wasserstein, critic: Critic, images: Tensor) -> float:
    """Floating-point operations a second of the convolutions of a forward pass, each repeated by itself."""
    inputs: list[tuple[nn.Conv2d, Tensor]] = []
    convolutions = [module for module in critic.modules() if isinstance(module, nn.Conv2d)]
    hooks = [each.register_forward_pre_hook(lambda module, x: inputs.append((module, x[0]))) for each in convolutions]
    with torch.no_grad(), objective.tools.autocast(images.device):
        critic(images)
        for hook in hooks:
            hook.remove()
        work = Work()
        with work:
            for convolution, x in inputs:
                convolution(x)
        best = timed(lambda: [convolution(x) for convolution, x in inputs], images.device, 5)
    return work.operations / min(best)


def timed(function: Callable[[], object], device: torch.device, rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        wait_for(device)
        began = time.perf_counter()
        function()
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def profile(device: torch.device, *, depth: int, batch: int, rounds: int) -> dict[str, Any]:
    """Of each part: median seconds, counted work, and the seconds that the work should take at the measured rates."""
    objective, _ = objectives(device)
    state = make_state(depth, channels_last=True, device=device)
    images = torch.randint(0, 256, (4 * batch, 3, 32, 32), dtype=torch.uint8, device=device)
    data = ImageSet(images, torch.randint(10, (4 * batch,), device=device), 10)
    rate = convolution_rate(objective, state.critic, objective.tools.normalise(images[:batch].float() / 255))
    values = torch.rand(16 * 2**20, device=device)  # 64 MiB, more than a cache holds
    copied = torch.empty_like(values)
    bandwidth = 2 * values.numel() * 4 / min(timed(lambda: copied.copy_(values), device, 5))
    rows = {}
    for name, function in parts(objective, state, data, batch).items():
        work = Work()
        with work:
            function()
        seconds = statistics.median(timed(function, device, rounds))
        predicted = [work.operations / rate, work.bytes / bandwidth]
        rows[name] = {"seconds": seconds, "operations": work.operations, "bytes": work.bytes, "predicted": predicted}
    return {"operations_per_second": rate, "bytes_per_second": bandwidth, "parts": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each variant, or of each part")
    parser.add_argument("--steps", type=int, help="steps of a turn; 1, on a GPU 10")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--depth", type=int, default=40, help="of the WideResNet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--profile", action="store_true", help="time the parts of a step, not the variants")
    parser.add_argument("--json", help="file to write the seconds to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    where = "" if device.type == "cuda" else f"{arguments.threads} threads, "
    precision = objectives(device)[0].tools.precision
    setting = f"WRN-{arguments.depth}-2, batch {arguments.batch}, {where}{precision} for this package"
    print(f"{setting}; torch {torch.__version__}, {hardware(device)}; median of {arguments.rounds}")
    measured: dict[str, Any]
    if arguments.profile:
        measured = profile(device, depth=arguments.depth, batch=arguments.batch, rounds=arguments.rounds)
        rates = measured["operations_per_second"] / 1e9, measured["bytes_per_second"] / 1e9
        print("convolutions at {:.1f} GFLOP/s, copies at {:.1f} GB/s".format(*rates))
        for name, row in measured["parts"].items():
            predicted = "{:.4f} + {:.4f} s".format(*row["predicted"])
            print(f"{name:56} {row['seconds']:8.4f} s  of convolutions + bytes {predicted}")
    else:
        steps = arguments.steps or (10 if device.type == "cuda" else 1)
        measured = measure(device, depth=arguments.depth, batch=arguments.batch, rounds=arguments.rounds, steps=steps)
        base = statistics.median(measured["this package"])
        for name, values in measured.items():
            median = statistics.median(values)
            spread = f"{min(values):.4f} to {max(values):.4f}"
            print(f"{name:32} {median:9.4f} s  ({spread})  this package takes {base / median:.2f} of it")
    if arguments.json:
        with open(arguments.json, "w") as file:
            document = {"setting": setting, "torch": torch.__version__, "hardware": hardware(device)}
            json.dump({**document, "profile" if arguments.profile else "seconds": measured}, file, indent=2)


if __name__ == "__main__":
    main()
