"""The networks of a search and of an evaluation, in one table.

`NETWORKS` maps a name to its row; helps and error messages come from it. A backbone maps images [B, C, H, W] to
features [B, F], or to a feature map [B, F, h, w]; `make_network` puts a class head on it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fasteraa_transforms.search.networks.backbones import (
    ResNet9,
    WideResNet,
    compact,
    resnet50,
    shape_of_features,
    small,
)
from fasteraa_transforms.search.runtime.hardware import computes_in_bfloat16
from fasteraa_transforms.search.settings import find_callable


@dataclass(frozen=True)
class Network:
    """One row of `NETWORKS`.

    Attributes:
        backbone: ``(channels, feature_map=False) -> module``.
        summary: what it is, for helps.
        learning_rate: at its peak, for SGD with Nesterov momentum and batches of 128.
        weight_decay: that goes with it.
        large: whether bfloat16 pays on hardware that computes in it.
    """

    backbone: Callable[..., nn.Module]
    summary: str
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    large: bool = True


def _wide(depth: int, width: int) -> Callable[..., nn.Module]:
    return lambda channels, feature_map=False: WideResNet(depth, width, channels=channels, feature_map=feature_map)


def _resnet9(width: int, channels: int, *, feature_map: bool = False) -> nn.Module:
    return ResNet9(width, channels=channels, feature_map=feature_map)


# Learning rates and weight decays of the wide networks and of ResNet-50 are those of Fast AutoAugment's repository
# (confs/*.yaml), which the paper follows (section 5.1).
NETWORKS: dict[str, Network] = {
    "small": Network(small, "three convolutions, for images as simple as digits", large=False),
    "compact": Network(compact, "four convolutions with batch norm, a critic for a CPU", large=False),
    "resnet9": Network(
        partial(_resnet9, 32), "0.76 M parameters, fits thousands of small images; resnet9-WIDTH for others than 32"
    ),
    "wrn16_2": Network(_wide(16, 2), "WideResNet-16-2", weight_decay=2e-4),
    "wrn40_2": Network(_wide(40, 2), "WideResNet-40-2, the paper's critic for CIFAR and SVHN", weight_decay=2e-4),
    "wrn28_10": Network(_wide(28, 10), "WideResNet-28-10, for a GPU"),
    "resnet50": Network(resnet50, "ResNet-50, the paper's critic for ImageNet", 0.05, 1e-4),
}

_WIDTH = re.compile(r"resnet9-([1-9]\d{0,3})")


def find_network(name: str) -> Network | None:
    """The row called ``name``; also ``resnet9-WIDTH``. None for other networks, which have no row.

    Example:
        >>> import torch
        >>> find_network("resnet9-16").backbone(3)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 128])
    """
    if found := _WIDTH.fullmatch(name):
        width = int(found[1])
        return Network(partial(_resnet9, width), NETWORKS["resnet9"].summary, large=width >= 12)
    return NETWORKS.get(name)


def bfloat16_pays(name: str, device: torch.device) -> bool:
    """Whether a network is trained faster in bfloat16 on a device: a large one, where the hardware computes in it.

    On an AMD EPYC with AVX-512 BF16, resnet9-16 trained 1.7 times as many images a second, resnet9-24 1.8, and on grey
    images resnet9-16 1.4 and resnet9-8 1.1 (``benchmarks/race.py``). Networks that have no row count as large.
    """
    row = find_network(name)
    return (row is None or row.large) and computes_in_bfloat16(device)


def fitting_critic(size: tuple[int, int]) -> str:
    """Name of the critic for images of (height, width): small up to 16 pixels, wrn40_2 up to 64, else resnet50."""
    side = min(size)
    return "small" if side <= 16 else "wrn40_2" if side <= 64 else "resnet50"


def make_backbone(name: str, channels: int, *, feature_map: bool = False) -> nn.Module:
    """The backbone called ``name``, with new weights.

    Args:
        name: a key of `NETWORKS`, ``resnet9-WIDTH``, or ``module:callable``. The callable takes the number of channels.
            It returns a module from [B, C, H, W] to features [B, F], or to the feature map.
        channels: number of channels, C.
        feature_map: whether to map to a feature map [B, F, h, w] instead, for masks.

    Raises:
        ValueError: no such name, module or callable.

    Example:
        >>> import torch
        >>> make_backbone("small", 1)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 256])
    """
    row = find_network(name)
    if row is not None:
        return row.backbone(channels, feature_map=feature_map)
    if ":" not in name:
        raise ValueError(f"critic should be one of {', '.join(NETWORKS)} or module:callable, but got {name!r} instead")
    return find_callable("critic", name)(channels)


class _Grey(nn.Module):
    """Images of one channel as RGB ones, for networks that take only those."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def make_network(name: str, *, channels: int = 3, classes: int = 10) -> nn.Module:
    """The classifier called ``name``, with new weights.

    Args:
        name: a key of `NETWORKS`; ``resnet9-WIDTH``; a classification model of torchvision, such as resnet18 (grey
            images go in as three equal channels); or ``module:callable``, where the callable takes the numbers of
            channels and of classes and returns a module.
        channels: C of the images [B, C, H, W].
        classes: of the logits [B, classes].

    Raises:
        ValueError: no such name, module or callable, or a model of torchvision for neither grey nor RGB images.

    Source: Zagoruyko and Komodakis 2016 (wrn), He et al. 2016 (resnet50).

    Example:
        >>> import torch
        >>> make_network("wrn40_2")(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    row = find_network(name)
    if row is not None:
        backbone = row.backbone(channels)
        (width,) = shape_of_features(backbone, (channels, 32, 32))[1:]
        return nn.Sequential(backbone, nn.Linear(width, classes))
    if ":" in name:
        factory: Callable[[int, int], Any] = find_callable("model", name)
        return factory(channels, classes)
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"model should be one of {', '.join(NETWORKS)}, a classification model of torchvision such as resnet18, "
            f"or module:callable, but got {name!r} instead"
        )
    if channels not in (1, 3):
        raise ValueError(f"{name} takes images of 1 or 3 channels, but got {channels} instead")
    network = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return network if channels == 3 else nn.Sequential(_Grey(), network)


class PixelClassifier(nn.Module):
    """A backbone with a class for each pixel: a 1×1 convolution whose logits are upsampled bilinearly.

    Args:
        backbone: maps [B, C, H, W] to a feature map [B, F, h, w].
        classes: of the logits [B, classes, H, W].
        width: F.

    Source: Long, Shelhamer and Darrell 2015, FCN-32s.
    """

    def __init__(self, backbone: nn.Module, classes: int, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes, H, W] of images [B, C, H, W]."""
        logits = self.head(self.backbone(images))
        return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)


def make_pixel_network(name: str, *, channels: int = 3, classes: int = 2) -> nn.Module:
    """The network called ``name`` with a class for each pixel.

    Args:
        name: as for `make_backbone`.
        channels: C of the images [B, C, H, W].
        classes: of the logits [B, classes, H, W].

    Raises:
        ValueError: no such name, or a backbone without a feature map.

    Example:
        >>> import torch
        >>> make_pixel_network("resnet9-8", channels=1)(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 2, 32, 32])
    """
    backbone = make_backbone(name, channels, feature_map=True)
    shape = shape_of_features(backbone, (channels, 32, 32))
    if len(shape) != 4:
        raise ValueError(f"for masks {name} should give a feature map [B, F, h, w], but gave {list(shape)} instead")
    return PixelClassifier(backbone, classes, shape[1])
