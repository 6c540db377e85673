"""Steps that all objectives share: halve and augment a batch, show images to a network, update the policy."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fasteraa_transforms.relaxed import Draw
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.strength import Strength
from fasteraa_transforms.search.networks.losses import accuracy, class_loss, soft_targets
from fasteraa_transforms.search.runtime.world import World


class Halves(NamedTuple):
    """The two halves of a batch: b images that the policy has changed, and b others as they are.

    Comparing a batch with itself would reward a policy that does nothing.
    """

    augmented: Tensor  # float [b, C, H, W], in [0, 1], differentiable w.r.t. the policy
    augmented_targets: Tensor  # int64 [b], or soft masks [b, classes, H, W], moved as their images are
    real: Tensor  # float [b, C, H, W], in [0, 1]
    real_targets: Tensor  # int64 [b], or soft masks [b, classes, H, W]
    displacement: Tensor  # scalar: mean |S(X) - X| of the augmented half, differentiable


@dataclass(frozen=True)
class Tools:
    """What an objective works with.

    Attributes:
        mean: [C], of the images, for the input of the networks.
        std: [C].
        precision: dtype of the networks' arithmetic.
        chunk_size: consecutive images that share a sub-policy.
        strength: at which the policy is held; None: its strength is free.
        world: the processes that share each batch. All are given the whole of it, and generators in the same state.
    """

    mean: Tensor
    std: Tensor
    precision: torch.dtype = torch.float32
    chunk_size: int = 1
    strength: Strength | None = None
    world: World = field(default_factory=World)

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """The context in which a network runs."""
        # A cached weight would not outlive a capture. The cache would hold little anyway: convolutions convert by
        # themselves.
        enabled = self.precision is not torch.float32
        return torch.autocast(device.type, self.precision, enabled=enabled, cache_enabled=False)

    def normalise(self, images: Tensor) -> Tensor:
        """Zero mean and unit deviation per channel, in the memory layout that convolutions are fastest in."""
        images = (images - self.mean[:, None, None]) / self.std[:, None, None]
        return images.contiguous(memory_format=torch.channels_last)

    def halves(self, state: SearchState, images: Tensor, labels: Tensor) -> Halves:
        """Augment the first half of a batch, and leave the second as it is; returns this rank's share of each.

        Args:
            state: whose policy and generator are used.
            images: [B, C, H, W], float, in [0, 1], B even.
            labels: int64 [B], or masks uint8 [B, H, W].
        """
        policy = state.policy
        drawn = len(images) // 2
        mine = self.world.share(drawn)  # of each half; what is drawn is drawn for the whole batch
        targets = soft_targets(labels, state.critic.classes, images.dtype)
        original, real, partners = images[:drawn][mine], images[drawn:][mine], images[:drawn]
        augmented_targets, real_targets = targets[:drawn][mine], targets[drawn:][mine]
        draw = policy.draw(drawn, generator=state.generator)
        if self.chunk_size > 1:
            shared = torch.arange(drawn, device=images.device) // self.chunk_size * self.chunk_size
            draw = draw._replace(sub_policy=draw.sub_policy[shared])
        draw = Draw(*(each[mine] for each in draw))
        augmented = policy(original, draw, partners=partners)
        if augmented_targets.ndim == 4:
            augmented_targets = policy.move_masks(augmented_targets, draw)
        return Halves(augmented, augmented_targets, real, real_targets, (augmented - original).abs().mean())

    def descend(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """Let an optimizer take one step down a loss, by the mean of all ranks' gradients."""
        optimizer.zero_grad()
        loss.backward()
        self.world.average_gradients(optimizer)
        optimizer.step()

    def step_policy(self, state: SearchState, loss: Tensor, displacement: Tensor, *, unit: float | Tensor) -> Tensor:
        """Let the policy take one step down a loss, with its strength held.

        Args:
            state: changed in place.
            loss: scalar.
            displacement: scalar, from `halves`.
            unit: what the loss changes by, at most, where the displacement changes by 1.

        Returns:
            The loss with what holds the strength.
        """
        if self.strength is not None:
            pull = self.strength.pull(state.multiplier, self.world.mean(displacement.detach()))
            loss = loss - pull * unit * displacement
        self.descend(state.policy_optimizer, loss)
        state.policy.project_()
        return loss

    def classify(self, state: SearchState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Let the classifier alone take one step on real images: the guard, else the critic's class head.

        Args:
            state: changed in place.
            images: [B, C, H, W], float, in [0, 1].
            labels: int64 [B], or masks uint8 [B, H, W].

        Returns:
            ``loss`` and ``accuracy`` before the step, on the device of ``images``.
        """
        mine = self.world.share(len(images))
        images, targets = images[mine], soft_targets(labels[mine], state.critic.classes, images.dtype)
        network, optimizer = state.critic, state.critic_optimizer
        if state.guard is not None and state.guard_optimizer is not None:
            network, optimizer = state.guard, state.guard_optimizer
        network.requires_grad_(True)
        with self.autocast(images.device):
            logits = network(self.normalise(images))[1].float()
        loss = class_loss(logits, targets)
        self.descend(optimizer, loss)
        return self.measured({"loss": loss, "accuracy": accuracy(logits, targets)})

    def measured(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars that a step measured, averaged over the ranks, without their graph; nothing waits for them."""
        if self.world.size == 1:
            return {name: value.detach().clone() for name, value in values.items()}
        means = self.world.mean(torch.stack(list(values.values())))
        return dict(zip(values, means.unbind(), strict=True))
