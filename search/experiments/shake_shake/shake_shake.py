"""Shake-Shake, a network of the paper's table 4, for an evaluation.

    fasteraa evaluate cifar10 --model shake_shake:shake26_2x96d

takes it where this folder is on PYTHONPATH. `README.md` beside this file has the learning rates and the whole command.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shake(torch.autograd.Function):
    """α x + (1 - α) y forward, β and 1 - β backward; α and β are uniform and drawn for each image."""

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
    """Halves the image by two paths. One of them is shifted by a pixel, so that no pixel is lost."""

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


class _Block(nn.Module):
    """Two residual branches, mixed at random in training and by their mean in a test."""

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
        mixed = Shake.apply(first, second) if self.training else (first + second) / 2
        return mixed + (x if self.shortcut is None else self.shortcut(x))


class ShakeShake(nn.Module):
    """Shake-Shake 26 2×``width``d: two residual branches in each block, mixed at random, anew on the way back.

    The mixture is drawn for each image ("Shake-Shake-Image"), from PyTorch's default generator of the device.

    Args:
        width: channels of the first of the three groups of four blocks.
        channels: number of channels of the images, C.
        classes: number of classes.

    Source: Gastaldi 2017, table 1. The layers are those of Fast AutoAugment's repository (shake_resnet.py), where the
    first convolution has a bias and no normalisation.
    """

    def __init__(self, width: int, *, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, 1, 1)]
        channels_in = 16
        for group in range(3):
            for block in range(4):
                layers.append(_Block(channels_in, width * 2**group, 2 if group and not block else 1))
                channels_in = width * 2**group
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, classes] of images [B, C, H, W]."""
        return self.head(self.layers(images).relu().mean((2, 3)))


def shake26_2x32d(channels: int, classes: int) -> nn.Module:
    return ShakeShake(32, channels=channels, classes=classes)


def shake26_2x96d(channels: int, classes: int) -> nn.Module:
    return ShakeShake(96, channels=channels, classes=classes)


def shake26_2x112d(channels: int, classes: int) -> nn.Module:
    return ShakeShake(112, channels=channels, classes=classes)
