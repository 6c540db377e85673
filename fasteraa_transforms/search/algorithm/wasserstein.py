"""The paper's objective, Algorithm 2, with its repairs: augmented images should be as likely as real ones.

First the critic takes a step: Wasserstein terms, gradient penalty, class loss on the real images. Then the policy takes
one with the critic frozen: minus the critic's mean on the augmented images, class loss on them.

Real and augmented images go through the critic in one batch. The public reference sends each half by itself. A critic
with batch norm then normalises the two halves differently, and so removes the difference between them. Its Wasserstein
estimate stays near zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.networks.critic import gradient_penalty
from fasteraa_transforms.search.networks.losses import accuracy, class_loss
from fasteraa_transforms.search.settings import Settings


@dataclass(frozen=True)
class Wasserstein:
    """One step of Algorithm 2 on a batch.

    Attributes:
        tools: see `Tools`.
        classification_weight: ε, the weight of the class losses.
        gradient_penalty_weight: weight of the gradient penalty.
        penalty_every: steps from one gradient penalty to the next, which counts as many times.
    """

    tools: Tools
    classification_weight: float = 0.1
    gradient_penalty_weight: float = 10.0
    penalty_every: int = 1

    def variant(self, state: SearchState) -> bool:
        """Whether the step that comes next has the gradient penalty."""
        return state.step % self.penalty_every == 0

    def step(self, state: SearchState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Let the critic, then the policy take one step.

        Args:
            state: changed in place.
            images: [B, C, H, W], float, in [0, 1], B even.
            labels: int64 [B], or masks uint8 [B, H, W].

        Returns:
            What the step measured, scalars on the device of ``images``; nothing waits for them. Accuracies are of the
            classifier, before its step. The gradient penalty is multiplied by ``penalty_every``, and 0 in steps without
            it, so that its mean over steps is right.
        """
        tools, critic, guard, epsilon = self.tools, state.critic, state.guard, self.classification_weight
        halves = tools.halves(state, images, labels)
        augmented, real, half = tools.normalise(halves.augmented), tools.normalise(halves.real), len(halves.real)
        drawn = len(images) // 2
        mix = torch.rand(drawn, generator=state.generator, device=images.device)[tools.world.share(drawn)]

        critic.requires_grad_(True)
        with tools.autocast(images.device):
            scores, real_logits = critic(torch.cat([real, augmented.detach()]))
            penalty = real.new_zeros(())
            if self.variant(state):
                slopes = gradient_penalty(lambda between: critic(between)[0], real, augmented, mix)
                penalty = self.penalty_every * slopes
        scores, real_logits = scores.float(), real_logits[:half].float()
        wasserstein = scores[:half].mean() - scores[half:].mean()
        critic_loss = -wasserstein + self.gradient_penalty_weight * penalty
        if guard is not None:
            with torch.no_grad(), tools.autocast(images.device):
                real_logits = guard(real)[1].float()
        class_loss_real = class_loss(real_logits, halves.real_targets)
        if guard is None:
            critic_loss = critic_loss + epsilon * class_loss_real
        tools.descend(state.critic_optimizer, critic_loss)

        critic.requires_grad_(False)
        with tools.autocast(images.device):
            scores, logits = critic(torch.cat([real, augmented]))
            logits = logits[half:] if guard is None else guard(augmented)[1]
        scores, logits = scores[half:].float(), logits.float()
        class_loss_augmented = class_loss(logits, halves.augmented_targets)
        policy_loss = -scores.mean() + epsilon * class_loss_augmented
        # The largest change of a critic of slope 1 per unit of displacement, if that is spread evenly over the image.
        unit = images[0].numel() ** 0.5 / tools.std.mean()
        policy_loss = tools.step_policy(state, policy_loss, halves.displacement, unit=unit)

        return tools.measured(
            {
                "critic_loss": critic_loss,
                "wasserstein": wasserstein,
                "gradient_penalty": penalty,
                "class_loss_real": class_loss_real,
                "accuracy_real": accuracy(real_logits, halves.real_targets),
                "policy_loss": policy_loss,
                "class_loss_augmented": class_loss_augmented,
                "accuracy_augmented": accuracy(logits, halves.augmented_targets),
                "displacement": halves.displacement,
                "multiplier": state.multiplier,
            }
        )


def make(settings: Settings, tools: Tools) -> Wasserstein:
    """The objective of a search with these settings."""
    return Wasserstein(
        tools,
        classification_weight=settings.classification_weight,
        gradient_penalty_weight=settings.gradient_penalty_weight,
        penalty_every=settings.penalty_every,
    )
