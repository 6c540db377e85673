"""The search: Algorithm 2 of the paper, with its repairs.

Each batch is split in two halves. The first is augmented by the relaxed policy, the second stays as the real sample;
comparing a batch with itself would reward a policy that does nothing. First the critic takes a step (Wasserstein terms,
gradient penalty, class loss on the real images), then the policy takes one with the critic frozen (minus the critic's
mean on the augmented images, class loss on them).

Real and augmented images go through the critic in one batch. The public reference sends each half by itself, and a
critic with batch norm then normalises away what tells the two apart: it is not one function of which two means are
compared, and its Wasserstein estimate stays near zero.

Beyond the paper, where a target is given, the strength E|S(X) - X| of the policy is kept from falling below it. It
counts in the policy's loss, with a multiplier that rises while the strength falls short and sinks to zero while it does
not (dual ascent). The critic then decides which changes are plausible, not whether to change.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fasteraa_transforms.relaxed import Draw, RelaxedPolicy
from fasteraa_transforms.search.data.images import ImageSet, baseline_of_samples
from fasteraa_transforms.search.networks.critic import Critic, gradient_penalty
from fasteraa_transforms.search.networks.losses import SegmentationCritic, accuracy, class_loss, soft_targets
from fasteraa_transforms.search.runtime.world import World

STEP_METRICS = (
    "critic_loss",
    "wasserstein",
    "gradient_penalty",
    "class_loss_real",
    "accuracy_real",
    "policy_loss",
    "class_loss_augmented",
    "accuracy_augmented",
    "displacement",
    "multiplier",
)
"""What a step measures, in the order of the tensor it returns. Accuracies are of the class head, before its step;
the displacement is mean |S(X) - X| of the relaxed policy, over pixels in [0, 1]."""

PROPORTIONAL = 1.0
"""What the multiplier has on top of its own value in a step where the policy has no strength at all: it damps."""


@dataclass
class SearchState:
    """Everything a search changes, so that a checkpoint of it is a whole one.

    Attributes:
        policy: the relaxed policy.
        critic: the critic.
        policy_optimizer: of the policy.
        critic_optimizer: of the critic.
        generator: of all draws of the loop, on its device.
        epoch: how many epochs are done.
        multiplier: scalar, at least 0: of the strength in the policy's loss; on the device of the policy.
    """

    policy: RelaxedPolicy
    critic: Critic | SegmentationCritic
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    generator: torch.Generator
    epoch: int = 0
    multiplier: Tensor = field(default_factory=lambda: torch.zeros(()))

    def state_dict(self) -> dict[str, object]:
        """What `torch.save` writes and `load_state_dict` takes; the tensors are those of the state, not copies."""
        device = self.generator.device
        return {
            "policy": self.policy.state_dict(),
            "critic": self.critic.state_dict(),
            "policy_optimizer": self.policy_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "generator": self.generator.get_state(),
            # A critic of the user's may have dropout, which draws from the global generators.
            "default_generator": torch.get_rng_state(),
            "cuda_generator": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "epoch": self.epoch,
            "multiplier": self.multiplier,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.policy.load_state_dict(state["policy"])
        self.critic.load_state_dict(state["critic"])
        self.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        for group in (*self.policy_optimizer.param_groups, *self.critic_optimizer.param_groups):
            if "capturable" in group:  # the checkpoint has that of another device, or of before there were graphs
                group["capturable"] = self.generator.device.type == "cuda"
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["default_generator"].cpu())
        if state["cuda_generator"] is not None:
            torch.cuda.set_rng_state(state["cuda_generator"].cpu(), self.generator.device)
        self.epoch = state["epoch"]
        self.multiplier.copy_(state.get("multiplier", torch.zeros(())))


@dataclass(frozen=True)
class Objective:
    """One step of Algorithm 2 on a batch.

    Attributes:
        mean: [C], of the images, for the critic's input.
        std: [C].
        classification_weight: ε.
        gradient_penalty_weight: weight of the gradient penalty.
        chunk_size: consecutive images that share a sub-policy.
        precision: dtype of the critic's arithmetic.
        target: strength that the policy is kept at or above, mean |S(X) - X| over pixels in [0, 1]; a scalar tensor,
            on the device, can be changed between steps that are captured; None: it is free.
        multiplier_rate: how fast the multiplier rises, a step, where the policy has no strength at all.
        world: the processes that share each batch. All are given the whole of it, and generators in the same state.
    """

    mean: Tensor
    std: Tensor
    classification_weight: float = 0.1
    gradient_penalty_weight: float = 10.0
    chunk_size: int = 1
    precision: torch.dtype = torch.float32
    target: float | Tensor | None = None
    multiplier_rate: float = 0.05
    world: World = field(default_factory=World)

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """The context in which the critic runs."""
        # What the cache held would not outlive a capture, and little is in it: the convolutions convert by themselves.
        enabled = self.precision is not torch.float32
        return torch.autocast(device.type, self.precision, enabled=enabled, cache_enabled=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Zero mean and unit deviation per channel, in the memory layout that convolutions are fastest in."""
        images = (images - self.mean[:, None, None]) / self.std[:, None, None]
        return images.contiguous(memory_format=torch.channels_last)

    def classify(self, state: SearchState, images: Tensor, labels: Tensor) -> Tensor:
        """Let the classifier alone take one step on real images, as all that comes before the search proper.

        Args:
            state: changed in place.
            images: [B, C, H, W], float, in [0, 1].
            labels: int64 [B], or masks uint8 [B, H, W].

        Returns:
            Class loss and accuracy before the step, on the device of ``images``.
        """
        mine = self.world.share(len(images))
        images, labels = images[mine], soft_targets(labels[mine], state.critic.classes, images.dtype)
        state.critic.requires_grad_(True)
        with self.autocast(images.device):
            logits = state.critic(self.normalise(images))[1].float()
        loss = class_loss(logits, labels)
        state.critic_optimizer.zero_grad()
        loss.backward()
        self.world.average_gradients(state.critic_optimizer)
        state.critic_optimizer.step()
        return self.world.mean(torch.stack([loss.detach(), accuracy(logits, labels)]))

    def step(self, state: SearchState, images: Tensor, labels: Tensor) -> Tensor:
        """Let the critic, then the policy take one step.

        Args:
            state: changed in place.
            images: [B, C, H, W], float, in [0, 1], B even.
            labels: int64 [B], or masks uint8 [B, H, W].

        Returns:
            The values of `STEP_METRICS`, on the device of ``images``; nothing waits for it.
        """
        policy, critic = state.policy, state.critic
        drawn = len(images) // 2
        mine = self.world.share(drawn)  # of each half; what is drawn is drawn for the whole batch
        labels = soft_targets(labels, critic.classes, images.dtype)
        original, real, partners = images[:drawn][mine], images[drawn:][mine], images[:drawn]
        augmented_labels, real_labels = labels[:drawn][mine], labels[drawn:][mine]
        half = len(original)
        draw = policy.draw(drawn, generator=state.generator)
        if self.chunk_size > 1:
            shared = torch.arange(drawn, device=images.device) // self.chunk_size * self.chunk_size
            draw = draw._replace(sub_policy=draw.sub_policy[shared])
        draw = Draw(*(each[mine] for each in draw))
        changed = policy(original, draw, partners=partners)
        if augmented_labels.ndim == 4:
            augmented_labels = policy.move_masks(augmented_labels, draw)
        displacement = (changed - original).abs().mean()
        augmented = self.normalise(changed)
        real = self.normalise(real)
        mix = torch.rand(drawn, generator=state.generator, device=images.device)[mine]

        critic.requires_grad_(True)
        with self.autocast(images.device):
            scores, real_logits = critic(torch.cat([real, augmented.detach()]))
            penalty = gradient_penalty(lambda between: critic(between)[0], real, augmented, mix)
        scores, real_logits = scores.float(), real_logits[:half].float()
        wasserstein = scores[:half].mean() - scores[half:].mean()
        class_loss_real = class_loss(real_logits, real_labels)
        critic_loss = (
            -wasserstein + self.gradient_penalty_weight * penalty + self.classification_weight * class_loss_real
        )
        state.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.world.average_gradients(state.critic_optimizer)
        state.critic_optimizer.step()

        critic.requires_grad_(False)
        with self.autocast(images.device):
            scores, logits = critic(torch.cat([real, augmented]))
        scores, logits = scores[half:].float(), logits[half:].float()
        class_loss_augmented = class_loss(logits, augmented_labels)
        policy_loss = -scores.mean() + self.classification_weight * class_loss_augmented
        if self.target is not None:
            shortfall = 1 - self.world.mean(displacement.detach()) / self.target
            # What a critic of slope 1 changes by, at most, where the displacement is spread evenly over the image.
            unit = images[0].numel() ** 0.5 / self.std.mean()
            pull = (state.multiplier + PROPORTIONAL * shortfall).clamp(min=0)
            policy_loss = policy_loss - pull * unit * displacement
            state.multiplier.copy_((state.multiplier + self.multiplier_rate * shortfall).clamp(min=0))
        state.policy_optimizer.zero_grad()
        policy_loss.backward()
        self.world.average_gradients(state.policy_optimizer)
        state.policy_optimizer.step()
        policy.project_()

        accuracy_real, accuracy_augmented = (
            accuracy(output, target) for output, target in ((real_logits, real_labels), (logits, augmented_labels))
        )
        measured = torch.stack(
            [
                critic_loss,
                wasserstein,
                penalty,
                class_loss_real,
                accuracy_real,
                policy_loss,
                class_loss_augmented,
                accuracy_augmented,
                displacement,
                state.multiplier,
            ]
        ).detach()
        return self.world.mean(measured)


def batches(
    data: ImageSet, batch_size: int, *, size: tuple[int, int], padding: int, flip: bool, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of shuffled batches after the baseline preprocessing: images float [B, C, *size] in [0, 1], and labels.

    Labels are int64 [B], or masks uint8 [B, *size], cropped and flipped with their images. A last batch that would be
    smaller is left out.
    """
    device = data.images.device
    order = torch.randperm(len(data.images), generator=generator, device=device)
    for start in range(0, len(order) - batch_size + 1, batch_size):
        index = order[start : start + batch_size]
        images, labels = baseline_of_samples(
            data.images[index], data.labels[index], size=size, padding=padding, flip=flip, generator=generator
        )
        yield images.float() / 255, labels
