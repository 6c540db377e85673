"""Time one step of the search against a straightforward implementation of the same step, side by side.

    python benchmarks/search_step.py [--rounds 5] [--threads 2] [--depth 40] [--json FILE]

The straightforward step computes the same losses (a test holds it to that): it loops over chunks of 8 images, each with
its own sub-policy, augments once for the critic and once more for the policy, computes in float32 with PyTorch's own
layers in their default memory layout, and runs one backward pass for each loss. The third row sends real and augmented
images through the critic by themselves, as the public reference does, which is less work and another objective (see
`loop`). Steps of all variants take turns, so that what else the machine does hits them alike.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasteraa_transforms.relaxed import Draw, RelaxedPolicy
from fasteraa_transforms.search.critic import Critic, WideResNet
from fasteraa_transforms.search.loop import Objective, SearchState
from fasteraa_transforms.search.second_order import SecondOrderBatchNorm2d, SecondOrderConv2d
from fasteraa_transforms.search.settings import computes_in_bfloat16

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
    objective: Objective,
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
    real, real_labels, labels = objective.normalise(images[half:]).contiguous(), labels[half:], labels[:half]
    mix = torch.rand(half) if mix is None else mix

    def augment() -> Tensor:
        augmented = []
        for i, chunk in enumerate(images[:half].split(CHUNK)):
            draw = policy.draw(len(chunk)) if draws is None else draws[i]
            augmented.append(policy(chunk, draw._replace(sub_policy=draw.sub_policy[:1].expand(len(chunk)))))
        return objective.normalise(torch.cat(augmented)).contiguous()

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


def make_state(depth: int, *, width: int = 2, channels_last: bool, seed: int = 0) -> SearchState:
    """Policy, critic and optimizers of the CIFAR settings."""
    torch.manual_seed(seed)
    policy = RelaxedPolicy()
    critic = Critic(WideResNet(depth, width), classes=10, image_shape=(3, 32, 32))
    critic = critic.to(memory_format=torch.channels_last) if channels_last else plain_layers(critic)
    adam = [
        torch.optim.Adam(module.parameters(), 1e-3, (0.0, 0.999), fused=channels_last) for module in (policy, critic)
    ]
    return SearchState(policy, critic, adam[0], adam[1], torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--depth", type=int, default=40, help="of the WideResNet")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--json", help="file to write the seconds to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    mean, std = torch.full((3,), 0.47), torch.full((3,), 0.25)
    precision = torch.bfloat16 if computes_in_bfloat16(torch.device("cpu")) else torch.float32
    ours, plain = Objective(mean, std, precision=precision), Objective(mean, std)
    states = [make_state(arguments.depth, channels_last=kind == 0) for kind in range(3)]
    variants: dict[str, Callable[[Tensor, Tensor], object]] = {
        "this package": lambda x, y: ours.step(states[0], x, y),
        "straightforward": lambda x, y: straightforward_step(plain, states[1], x, y),
        "straightforward, halves apart": lambda x, y: straightforward_step(plain, states[2], x, y, separate=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(arguments.rounds + 1):  # the first one warms up
        images, labels = torch.rand(arguments.batch, 3, 32, 32), torch.randint(10, (arguments.batch,))
        for name, step in variants.items():
            began = time.perf_counter()
            step(images, labels)
            if round_:
                seconds[name].append(time.perf_counter() - began)
    setting = (
        f"WRN-{arguments.depth}-2, batch {arguments.batch}, {arguments.threads} threads, {precision} for this package"
    )
    print(f"{setting}; torch {torch.__version__}, {platform.machine()}; median of {arguments.rounds} interleaved steps")
    base = statistics.median(seconds["this package"])
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:32} {median:7.2f} s  ({spread})  this package takes {base / median:.2f} of it")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"setting": setting, "torch": torch.__version__, "seconds": seconds}, file, indent=2)


if __name__ == "__main__":
    main()
