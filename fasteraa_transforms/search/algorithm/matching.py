"""Gradient matching: augmented images should teach a network what other images would teach it.

The policy turns the network's gradient on augmented images towards its gradient on held-out real images. Both are
gradients of the last layer, which have a closed form: (softmax - one hot) ⊗ features. The network is the critic without
its critic head. It learns the classes of the augmented images.

Source: Deep AutoAugment (Zheng et al. 2022), without its greedy stages.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.networks.critic import Critic
from fasteraa_transforms.search.networks.losses import accuracy, class_loss
from fasteraa_transforms.search.settings import Settings


@dataclass(frozen=True)
class GradientMatching:
    """One step of gradient matching on a batch, whose second half the network never learns from.

    Attributes:
        tools: see `Tools`.
        holds_out: tells the loop to draw the two halves of each batch from two parts of the images.
    """

    tools: Tools
    holds_out: bool = True

    def step(self, state: SearchState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Let the policy, then the network take one step; see `Objective.step`.

        Raises:
            ValueError: the labels are masks.
        """
        tools, network = self.tools, state.critic
        if not isinstance(network, Critic):
            raise ValueError("gradient matching takes a label for each image, but got masks instead")
        halves = tools.halves(state, images, labels)
        targets = halves.augmented_targets

        network.requires_grad_(False).eval()
        features, logits = _last_layer(network, tools, halves.real)
        error = _residual(logits, halves.real_targets)
        wanted = tools.world.sum(error.T @ features)  # [classes, F]
        wanted = wanted / wanted.norm().clamp(min=1e-8)
        real = {"class_loss_real": class_loss(logits, halves.real_targets)}
        real["accuracy_real"] = accuracy(logits, halves.real_targets)
        features, logits = _last_layer(network, tools, halves.augmented)
        error = _residual(logits, targets)
        length = (error.norm(dim=1) * features.norm(dim=1)).detach().mean().clamp(min=1e-8)
        alignment = ((error @ wanted) * features).sum(1).mean() / length
        unit = 1 if tools.strength is None else 1 / tools.strength.target
        policy_loss = tools.step_policy(state, -alignment, halves.displacement, unit=unit)

        network.requires_grad_(True).train()
        features, logits = _last_layer(network, tools, halves.augmented.detach())
        learned = class_loss(logits, targets)
        tools.descend(state.critic_optimizer, learned)
        augmented = {"class_loss_augmented": learned, "accuracy_augmented": accuracy(logits, targets)}
        moved = {"displacement": halves.displacement, "multiplier": state.multiplier}
        return tools.measured({"policy_loss": policy_loss, "alignment": alignment} | real | augmented | moved)


def _last_layer(network: Critic, tools: Tools, images: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into the class head [b, F], and what comes out [b, classes], of images in [0, 1]."""
    with tools.autocast(images.device):
        features = network.backbone(tools.normalise(images))
        logits = network.class_head(features)
    return features.float(), logits.float()


def _residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's cross entropy w.r.t. its logits, [b, classes]."""
    one_hot = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    return logits.softmax(1) - one_hot.to(logits.dtype)


def make(settings: Settings, tools: Tools) -> GradientMatching:
    """The objective of a search with these settings.

    Raises:
        ValueError: the settings ask for a guard of its own, which this objective has no place for.
    """
    if settings.guard != "shared":
        raise ValueError(f"guard should be shared for gradient matching, but got {settings.guard} instead")
    return GradientMatching(tools)
