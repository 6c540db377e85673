"""Networks that map images to features: what a class head, and the head of a critic, stand on."""

from collections import OrderedDict

import torch
import torchvision
from torch import Tensor, nn


class WideResNet(nn.Module):
    """Wide residual network without its classifier: [B, C, H, W] -> [B, 64 width], or [B, 64 width, H / 4, W / 4].

    Args:
        depth: 6 n + 4 layers.
        width: widening factor.
        channels: number of channels, C.
        feature_map: whether to leave out the mean over the image.

    Raises:
        ValueError: ``depth`` is not 6 n + 4.

    Source: Zagoruyko and Komodakis 2016, figure 1 and table 1.

    Example:
        >>> WideResNet(10, 1, channels=3)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 64])
    """

    def __init__(self, depth: int = 40, width: int = 2, *, channels: int = 3, feature_map: bool = False) -> None:
        super().__init__()
        self.feature_map = feature_map
        blocks, remainder = divmod(depth - 4, 6)
        if remainder or blocks < 1:
            raise ValueError(f"depth should be 6 n + 4, but got {depth} instead")
        layers: list[nn.Module] = [nn.Conv2d(channels, 16, 3, 1, 1, bias=False)]
        channels_in = 16
        for group in range(3):
            channels_out = 16 * width * 2**group
            for block in range(blocks):
                layers.append(_WideBlock(channels_in, channels_out, 2 if group and not block else 1))
                channels_in = channels_out
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels_in)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        """Features of images [B, C, H, W]."""
        features = self.norm(self.layers(images)).relu()
        return features if self.feature_map else features.mean((2, 3))


class _WideBlock(nn.Module):
    """Pre-activation block of two 3×3 convolutions."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        same = channels_in == channels_out and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.norm1(x).relu()
        residual = self.conv2(self.norm2(self.conv1(activated)).relu())
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class ResNet9(nn.Module):
    """A small residual network that fits thousands of images within minutes on a CPU.

    3×3 convolutions with batch norm and ReLU: width, 2 width, a residual pair, 4 width, a residual pair, 8 width; 2×2
    max pooling before each convolution that widens, and the maximum over the image at the end. Width 32 has 0.76 M
    parameters and takes 53 M multiplications for an image of 32×32.

    Args:
        width: channels of the first convolution.
        channels: number of channels of the images, C.
        feature_map: whether to leave out the maximum over the image; then the last pooling is left out, too.

    Source: the small residual networks of the DAWNBench entries on CIFAR-10 (Page 2018, "How to train your ResNet").

    Example:
        >>> ResNet9(16, channels=1)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 128])
    """

    def __init__(self, width: int = 32, *, channels: int = 3, feature_map: bool = False) -> None:
        super().__init__()
        last = [] if feature_map else [nn.MaxPool2d(2)]
        self.layers = nn.Sequential(
            _convolution(channels, width),
            nn.MaxPool2d(2),
            _convolution(width, 2 * width),
            _ResidualPair(2 * width),
            nn.MaxPool2d(2),
            _convolution(2 * width, 4 * width),
            _ResidualPair(4 * width),
            *last,
            _convolution(4 * width, 8 * width),
        )
        self.feature_map = feature_map

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 8 width] of images [B, C, H, W], or the feature map [B, 8 width, H / 4, W / 4]."""
        features = self.layers(images)
        return features if self.feature_map else features.amax((2, 3))


class _ResidualPair(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_convolution(channels, channels), _convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, 1, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


def small(channels: int, *, feature_map: bool = False) -> nn.Module:
    """Three convolutions without normalisation, for images as simple or as small as scikit-learn's digits.

    Its feature map has a quarter of the image's side: the last convolution is dilated in place of its stride.
    """
    stride, dilation = (1, 2) if feature_map else (2, 1)
    layers = [
        nn.Conv2d(channels, 32, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 64, 3, stride, dilation, dilation),
        nn.LeakyReLU(0.2),
    ]
    return nn.Sequential(*layers, *([] if feature_map else [nn.AdaptiveAvgPool2d(2), nn.Flatten()]))


def compact(channels: int, *, feature_map: bool = False) -> nn.Module:
    """Four convolutions with batch norm, for photographs on a CPU: 1/60 of the arithmetic of WideResNet-40-2.

    Its feature map has a quarter of the image's side: the third convolution is dilated in place of its stride.
    """
    stride, dilation = (1, 2) if feature_map else (2, 1)
    layers: list[nn.Module] = []
    for width, step, spread in ((32, 2, 1), (64, 2, 1), (128, stride, dilation), (128, 1, dilation)):
        layers.append(nn.Conv2d(channels, width, 3, step, spread, spread, bias=False))
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, *([] if feature_map else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]))


def resnet50(channels: int, *, feature_map: bool = False) -> nn.Module:
    """torchvision's ResNet-50 without its classifier, the paper's critic for ImageNet.

    Its feature map has an eighth of the image's side: dilated convolutions stand for the last two strides, as in
    torchvision's fcn_resnet50.
    """
    dilation = [False, feature_map, feature_map]
    network = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=dilation)
    if channels != 3:
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    if feature_map:
        return nn.Sequential(OrderedDict(list(network.named_children())[:-2]))  # without avgpool and fc
    network.fc = nn.Identity()
    return network


def shape_of_features(backbone: nn.Module, image_shape: tuple[int, int, int]) -> torch.Size:
    """Shape of what ``backbone`` makes of one image of shape (C, H, W)."""
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, *image_shape))
    backbone.train(training)
    return features.shape
