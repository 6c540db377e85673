"""The search on masks: a critic that classifies pixels, and the class loss of masks that the relaxed policy has moved.

The geometry of a policy moves the masks with their images (`RelaxedPolicy.move_masks`). It is differentiable for both,
so the loss sees what an operation does to the image and to its mask.

A *soft mask* is float [B, classes, H, W]: how much of each class a pixel has. It begins as the one-hot form of a mask.
The policy mixes the masks that its operations make. A pixel whose classes add up to less than 1 counts only in part: a
pixel without a class not at all, and a pixel from outside of the image by its share inside. The exact policy gives such
pixels the fill for masks.

On masks the relaxed policy draws one operation a stage for each image, by a relaxed categorical variable. Its
temperature is that of the gates (`RelaxedPolicy`, ``sample_selection``). The paper instead sums the images of all
operations (eq. 7), and so would sum their masks. A network sees mostly the strongest image of the sum, and cannot
predict the sum of masks. Every operation that moves masks would be punished.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasteraa_transforms.search.data.masks import IGNORED
from fasteraa_transforms.search.networks.backbones import shape_of_features
from fasteraa_transforms.search.networks.second_order import speed_up


def soft_targets(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Labels [B] as they are; masks uint8 [B, H, W] as soft masks [B, classes, H, W], where ignored pixels are all 0.

    Example:
        >>> soft_targets(torch.tensor([[[1, 255]]], dtype=torch.uint8), 2).tolist()
        [[[[0.0, 0.0]], [[1.0, 0.0]]]]
    """
    if labels.ndim == 1:
        return labels
    return (labels[:, None] == torch.arange(classes, device=labels.device)[:, None, None]).to(dtype)


def class_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy with `soft_targets`: the mean over images, or over pixels, weighted by how much they count.

    Args:
        logits: [B, classes], or [B, classes, H, W].
        targets: int64 [B], or soft masks [B, classes, H, W], to which the loss is differentiable too.

    Returns:
        Scalar, 0 where all is ignored.

    Example:
        >>> masks = torch.tensor([[[1, 255]]], dtype=torch.uint8)
        >>> logits = torch.tensor([[[[0.0, 9.0]], [[0.0, -9.0]]]])
        >>> class_loss(logits, soft_targets(masks, 2))  # ln 2: the second pixel is ignored
        tensor(0.6931)
    """
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return -(targets * logits.log_softmax(1)).sum() / targets.sum().clamp(min=1)


def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
    """Share of images whose likeliest class is right; or of pixels, weighted by how much they count."""
    if targets.ndim == 1:
        return (logits.argmax(1) == targets).float().mean()
    weight = targets.sum(1)  # [B, H, W]
    return (weight * (logits.argmax(1) == targets.argmax(1))).sum() / weight.sum().clamp(min=1)


def chance(masks: Tensor) -> float:
    """Pixel accuracy of always answering with the most frequent class of masks uint8 [N, H, W].

    Example:
        >>> chance(torch.tensor([[[0, 0, 0, 1, 255]]], dtype=torch.uint8))
        0.75
    """
    counts = torch.stack([mask.flatten().bincount(minlength=IGNORED + 1) for mask in masks]).sum(0)[:IGNORED]
    return (counts.max() / counts.sum()).item()


class SegmentationCritic(nn.Module):
    """A backbone with a class head for each pixel, and a two-layer critic head on the mean of its feature map.

    The class head is a 1×1 convolution whose logits are upsampled to the size of the images, bilinearly.

    Args:
        backbone: maps [B, C, H, W] to a feature map [B, F, h, w]; its layers are sped up in place, see `second_order`.
        classes: number of classes.
        image_shape: (C, H, W) of one image, to find F.

    Raises:
        ValueError: the backbone does not give a feature map [B, F, h, w].

    Source: the heads of `Critic`; Long, Shelhamer and Darrell 2015, FCN-32s.

    Example:
        >>> from fasteraa_transforms.search.networks.table import make_backbone
        >>> backbone = make_backbone("small", 1, feature_map=True)
        >>> critic = SegmentationCritic(backbone, classes=11, image_shape=(1, 32, 32))
        >>> score, logits = critic(torch.rand(4, 1, 32, 32))
        >>> score.shape, logits.shape
        (torch.Size([4]), torch.Size([4, 11, 32, 32]))
    """

    def __init__(self, backbone: nn.Module, *, classes: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        shape = shape_of_features(backbone, image_shape)
        if len(shape) != 4:
            raise ValueError(
                f"for masks the backbone should give a feature map [B, F, h, w], but gave {list(shape)} instead"
            )
        width = shape[1]
        self.classes = classes
        self.backbone = speed_up(backbone)
        self.class_head = nn.Conv2d(width, classes, 1)
        self.critic_head = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score [B], the higher the more real, and class logits [B, classes, H, W], of images [B, C, H, W]."""
        features = self.backbone(images)
        logits = F.interpolate(self.class_head(features), images.shape[2:], mode="bilinear", align_corners=False)
        return self.critic_head(features.mean((2, 3))).squeeze(1), logits
