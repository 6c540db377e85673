"""The critic: one network that classifies images and tells augmented from real ones.

A backbone maps images [B, C, H, W] to features [B, F]; `Critic` puts a class head and a two-layer critic head on it
(paper, section 4.2). Backbones are found by name, or as ``module:callable``.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from fasteraa_transforms.search.networks.second_order import inputs_only, speed_up
from fasteraa_transforms.search.settings import find_callable


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


def wrn40_2(channels: int, *, feature_map: bool = False) -> nn.Module:
    """WideResNet-40-2, the paper's critic for CIFAR and SVHN; its feature map has a quarter of the image's side."""
    return WideResNet(40, 2, channels=channels, feature_map=feature_map)


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
    """Four convolutions with batch norm, for photographs on a CPU: 1/60 of the arithmetic of `wrn40_2`.

    Its feature map has a quarter of the image's side: the third convolution is dilated in place of its stride.
    """
    stride, dilation = (1, 2) if feature_map else (2, 1)
    layers: list[nn.Module] = []
    for width, step, spread in ((32, 2, 1), (64, 2, 1), (128, stride, dilation), (128, 1, dilation)):
        layers.append(nn.Conv2d(channels, width, 3, step, spread, spread, bias=False))
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, *([] if feature_map else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]))


BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "small": small,
    "compact": compact,
    "wrn40_2": wrn40_2,
    "resnet50": resnet50,
}


def fitting_backbone(size: tuple[int, int]) -> str:
    """Name of the backbone for images of (height, width): small up to 16 pixels, wrn40_2 up to 64, else resnet50."""
    side = min(size)
    return "small" if side <= 16 else "wrn40_2" if side <= 64 else "resnet50"


def make_backbone(name: str, channels: int, *, feature_map: bool = False) -> nn.Module:
    """The backbone called ``name``, for images of ``channels`` channels.

    Args:
        name: a key of `BACKBONES`, or ``module:callable`` where the callable takes the number of channels and returns a
            module that maps [B, C, H, W] to features [B, F], or to the feature map.
        channels: number of channels, C.
        feature_map: whether to map to a feature map [B, F, h, w] instead, for masks.

    Raises:
        ValueError: no such name, module or callable.

    Example:
        >>> make_backbone("small", 1)(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 256])
    """
    if name in BACKBONES:
        return BACKBONES[name](channels, feature_map=feature_map)
    if ":" not in name:
        raise ValueError(f"critic should be one of {', '.join(BACKBONES)} or module:callable, but got {name!r} instead")
    return find_callable("critic", name)(channels)


def shape_of_features(backbone: nn.Module, image_shape: tuple[int, int, int]) -> torch.Size:
    """Shape of what ``backbone`` makes of one image of shape (C, H, W)."""
    training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, *image_shape))
    backbone.train(training)
    return features.shape


class Critic(nn.Module):
    """A backbone with a class head and a two-layer critic head.

    Args:
        backbone: maps [B, C, H, W] to features [B, F]; its layers are sped up in place, see `second_order`.
        classes: number of classes.
        image_shape: (C, H, W) of one image, to find F.

    Raises:
        ValueError: the backbone does not give features [B, F].

    Example:
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
