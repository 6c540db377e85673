"""The networks that augmentations are compared with: those of the paper, torchvision's, and one's own."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fasteraa_transforms.search.networks.critic import WideResNet, small


class _Shake(torch.autograd.Function):
    """α x + (1 - α) y forward, β and 1 - β backward, α and β uniform and drawn for each image."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.lerp(y, x, _weights(x))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        beta = _weights(gradients[0])
        return beta * gradients[0], (1 - beta) * gradients[0]


def _weights(x: Tensor) -> Tensor:
    return torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype)


class _Shortcut(nn.Module):
    """Halves the image by two paths, one of them shifted by a pixel, so that no pixel is lost."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels_in, channels_out // 2, 1, bias=False)
        self.conv2 = nn.Conv2d(channels_in, channels_out // 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        x = x.relu()
        shifted = F.pad(x, (-1, 1, -1, 1))
        paths = [self.conv1(x[..., :: self.stride, :: self.stride])]
        paths.append(self.conv2(shifted[..., :: self.stride, :: self.stride]))
        return self.norm(torch.cat(paths, 1))


class _ShakeBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
                nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels_out),
            )
            for _ in range(2)
        )
        self.shortcut = None if channels_in == channels_out else _Shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        first, second = (branch(x) for branch in self.branches)
        mixed = _Shake.apply(first, second) if self.training else (first + second) / 2
        return mixed + (x if self.shortcut is None else self.shortcut(x))


class ShakeShake(nn.Module):
    """Shake-Shake 26 2×``width``d: two residual branches in each block, mixed at random, anew on the way back.

    The mixture is drawn for each image ("Shake-Shake-Image"), from PyTorch's default generator of the device.

    Args:
        width: channels of the first of the three groups of four blocks.
        channels: number of channels, C.
        classes: number of classes.

    Source: Gastaldi 2017, table 1; the layers are those of Fast AutoAugment's repository (shake_resnet.py), where the
    first convolution has a bias and no normalisation.

    Example:
        >>> ShakeShake(8, channels=3, classes=10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, width: int, *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, 1, 1)]
        channels_in = 16
        for group in range(3):
            for block in range(4):
                layers.append(_ShakeBlock(channels_in, width * 2**group, 2 if group and not block else 1))
                channels_in = width * 2**group
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        return self.head(self.layers(images).relu().mean((2, 3)))


class _Colour(nn.Module):
    """Grey images for a network that was made for three channels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def _wide(depth: int, width: int) -> Callable[[int, int], nn.Module]:
    return lambda channels, classes: nn.Sequential(
        WideResNet(depth, width, channels=channels), nn.Linear(64 * width, classes)
    )


def _shake(width: int) -> Callable[[int, int], nn.Module]:
    return lambda channels, classes: ShakeShake(width, channels=channels, classes=classes)


MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "small": lambda channels, classes: nn.Sequential(small(channels), nn.Linear(256, classes)),
    "wrn40_2": _wide(40, 2),
    "wrn28_10": _wide(28, 10),
    "shake26_2x32d": _shake(32),
    "shake26_2x96d": _shake(96),
    "shake26_2x112d": _shake(112),
}


def make_model(name: str, *, channels: int = 3, classes: int = 10) -> nn.Module:
    """The network called ``name``, with new weights.

    Args:
        name: a key of `MODELS`; a classification model of torchvision, such as resnet50 (grey images go in as three
            equal channels); or ``module:callable``, where the callable takes the numbers of channels and of classes
            and returns a module.
        channels: C of the images [B, C, H, W] it takes.
        classes: of the logits [B, classes] it gives.

    Raises:
        ValueError: no such name, module or callable, or a model of torchvision for neither grey nor RGB images.

    Source: Zagoruyko and Komodakis 2016 (wrn), Gastaldi 2017 (shake), He et al. 2016 (resnet50).

    Example:
        >>> make_model("wrn40_2")(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if name in MODELS:
        return MODELS[name](channels, classes)
    module, _, attribute = name.partition(":")
    if attribute:
        try:
            factory = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"model {name!r} was not found: {error}") from error
        return factory(channels, classes)
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(
            f"model should be one of {', '.join(MODELS)}, a classification model of torchvision such as resnet50, "
            f"or module:callable, but got {name!r} instead"
        )
    if channels not in (1, 3):
        raise ValueError(f"{name} takes images of 1 or 3 channels, but got {channels} instead")
    network = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return network if channels == 3 else nn.Sequential(_Colour(), network)
