"""The critic: one network that classifies images and tells augmented from real ones.

`Critic` puts a class head and a two-layer critic head on a backbone of `networks.table` (paper, section 4.2).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fasteraa_transforms.search.networks.backbones import shape_of_features
from fasteraa_transforms.search.networks.second_order import inputs_only, speed_up


class Critic(nn.Module):
    """A backbone with a class head and a two-layer critic head.

    Args:
        backbone: maps [B, C, H, W] to features [B, F]; its layers are sped up in place, see `second_order`.
        classes: number of classes.
        image_shape: (C, H, W) of one image, to find F.

    Raises:
        ValueError: the backbone does not give features [B, F].

    Example:
        >>> from fasteraa_transforms.search.networks.table import make_backbone
        >>> critic = Critic(make_backbone("small", 1), classes=10, image_shape=(1, 8, 8))
        >>> score, logits = critic(torch.rand(4, 1, 8, 8))
        >>> score.shape, logits.shape
        (torch.Size([4]), torch.Size([4, 10]))
    """

    def __init__(self, backbone: nn.Module, *, classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        shape = shape_of_features(backbone, image_shape)
        if len(shape) != 2:
            raise ValueError(f"the backbone should give features [B, F], but gave {list(shape)} instead")
        width = shape[1]
        self.classes = classes
        self.backbone = speed_up(backbone)
        self.class_head = nn.Linear(width, classes)
        self.critic_head = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score [B], the higher the more real, and class logits [B, classes], of normalised images [B, C, H, W]."""
        features = self.backbone(images)
        return self.critic_head(features).squeeze(1), self.class_head(features)


def gradient_penalty(score: Callable[[Tensor], Tensor], real: Tensor, augmented: Tensor, mix: Tensor) -> Tensor:
    """Penalty on the slope of the critic: mean over samples of (‖∂ score / ∂ image‖ - 1)².

    The norm is taken over the whole image, one per sample (Gulrajani et al. 2017, Algorithm 1). The public reference
    of the paper takes it over the channels at each pixel, which is another, weaker condition.

    Args:
        score: maps images [B, C, H, W] to scores [B].
        real: [B, C, H, W].
        augmented: [B, C, H, W].
        mix: [B], uniform in [0, 1): where between the two each sample lies.

    Returns:
        Scalar, differentiable w.r.t. the parameters of ``score``.

    Example:
        >>> images = torch.rand(4, 3, 2, 2)
        >>> gradient_penalty(lambda x: x.sum((1, 2, 3)), images, images, torch.rand(4))  # slope √12 at each sample
        tensor(6.0718)
    """
    weight = mix[:, None, None, None]
    between = (weight * real + (1 - weight) * augmented).detach().requires_grad_()
    total = score(between).sum()
    with inputs_only():
        (slope,) = torch.autograd.grad(total, between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
