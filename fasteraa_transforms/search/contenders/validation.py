"""What a policy is worth to a small network on held-out images: it chooses among the strengths of a search."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.pipeline.transform import FasterAutoAugment
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import IGNORED
from fasteraa_transforms.search.networks.losses import class_loss, soft_targets

FOLDS = 3
BATCH = 50
LEARNING_RATE = 1e-2
AHEAD = 2**21  # values that are augmented at once: for small images much faster than batch by batch

Augment = Callable[..., Any]
"""uint8 [B, C, H, W] -> the same; of masks (uint8 [B, C, H, W], tv_tensors.Mask [B, H, W]) -> both."""


def train_small(
    data: ImageSet, augment: Augment | None, *, size: tuple[int, int], padding: int, flip: bool, steps: int, seed: int
) -> nn.Module:
    """Train a network of three convolutions: images are augmented first, then have the baseline crop and flip.

    Adam with a one-cycle learning rate up to 1e-2, batches of 50; the weights of the start, the order of the images and
    the crops are those of ``seed``.

    Args:
        data: images and labels or masks to train on.
        augment: `Augment`; None for none.
        size: (height, width) of the crop.
        padding: zeros on every side before the crop.
        flip: whether to mirror with chance 1/2.
        steps: of training, in shuffled passes over ``data``.
        seed: of all draws but those of ``augment``.

    Returns:
        A network in evaluation mode, from uint8 [B, C, *size] to logits [B, classes], for masks [B, classes, *size].
    """
    device, channels = data.images.device, data.images.shape[1]
    pixels = data.images.float() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=1e-3)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = (_SmallOfPixels if data.has_masks else _Small)(channels, data.classes, mean, std)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    ahead = max(1, AHEAD // (data.images[0].numel() * BATCH))
    prepared: list[tuple[Tensor, Tensor]] = []
    for _ in range(steps):
        if not prepared:
            passes = -(-ahead * BATCH // len(data.images))
            order = [torch.randperm(len(data.images), generator=generator, device=device) for _ in range(passes)]
            index = torch.cat(order)[: ahead * BATCH]
            images, labels = data.images[index], data.labels[index]
            if augment is not None and data.has_masks:
                images, labels = augment(images, tv_tensors.Mask(labels))
                labels = labels.as_subclass(Tensor)
            elif augment is not None:
                images = augment(images)
            images, labels = Crop(size, padding, flip).samples(images, labels, generator=generator)
            prepared = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
        images, labels = prepared.pop()
        loss = class_loss(network(images), soft_targets(labels, data.classes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


class _Small(nn.Module):
    def __init__(self, channels: int, classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        widths = (channels, 32, 64, 64)
        self.layers = nn.Sequential(
            *(_convolution(before, after) for before, after in itertools.pairwise(widths)),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * widths[-1], classes),
        )
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images.float() / 255 - self.mean) / self.std
        return self.layers(normalised.contiguous(memory_format=torch.channels_last))


class _SmallOfPixels(_Small):
    """The same without its pooling: the last convolution is dilated in place of its stride, logits are upsampled."""

    def __init__(self, channels: int, classes: int, mean: Tensor, std: Tensor) -> None:
        super().__init__(channels, classes, mean, std)
        self.layers = nn.Sequential(
            *self.layers[:2], _convolution(64, 64, stride=1, dilation=2), nn.Conv2d(64, classes, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(super().forward(images), images.shape[2:], mode="bilinear", align_corners=False)


def _convolution(channels_in: int, channels_out: int, stride: int = 2, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


@torch.no_grad()
def evaluate(network: nn.Module, data: ImageSet, *, size: tuple[int, int]) -> tuple[float, float]:
    """Error, in [0, 1], and mean cross entropy of ``network`` on the centres of images, or on their labelled pixels."""
    wrong = loss = count = 0.0
    at_once = BATCH if data.has_masks else 1000
    for images, labels in zip(data.images.split(at_once), data.labels.split(at_once), strict=True):
        logits = network(tv.center_crop(images, list(size)))
        ignored = -100  # no label of an image
        if data.has_masks:
            labels = tv.center_crop(labels, list(size)).long()
            ignored = IGNORED
        kept = labels != ignored
        wrong += ((logits.argmax(1) != labels) & kept).sum().item()
        loss += F.cross_entropy(logits, labels, reduction="sum", ignore_index=ignored).item()
        count += kept.sum().item()
    return wrong / max(count, 1), loss / max(count, 1)


def cross_validate(
    policy: Policy | None,
    data: ImageSet,
    *,
    size: tuple[int, int],
    padding: int,
    flip: bool,
    steps: int,
    seed: int,
) -> tuple[float, float]:
    """Error and cross entropy on held-out images of small networks trained with ``policy``.

    Each image is held out once: the data is split in 3 folds, and a network trained on two of them meets the third.
    Folds, starts and order are those of ``seed``, whatever the policy, so that policies are compared alike.

    Args:
        policy: to train with; None for no augmentation.
        data: images and labels or masks; what the policy moves in from outside of a mask is ignored.
        size: (height, width) of the crop.
        padding: zeros on every side before the crop.
        flip: whether the baseline mirrors with chance 1/2.
        steps: of each network's training.
        seed: of all draws.

    Returns:
        Error in [0, 1] and cross entropy, each the mean over all images; of masks, over their pixels within a fold.

    Example:
        >>> from fasteraa_transforms.search import Digits, load_images
        >>> data = load_images(Digits(), num_images=60)
        >>> error, loss = cross_validate(None, data, size=(8, 8), padding=0, flip=False, steps=2, seed=0)
        >>> 0 <= error <= 1 and loss > 0
        True
    """
    order = torch.randperm(len(data.images), generator=torch.Generator().manual_seed(seed)).to(data.images.device)
    folds = order.tensor_split(FOLDS)
    totals = [0.0, 0.0]
    for i, held_out in enumerate(folds):
        rest = torch.cat([fold for j, fold in enumerate(folds) if j != i])
        augment = None
        if policy is not None:
            augment = FasterAutoAugment(
                policy, fill={tv_tensors.Mask: IGNORED, "others": 0}, generator=torch.Generator().manual_seed(seed + i)
            )
        part = ImageSet(data.images[rest], data.labels[rest], data.classes)
        network = train_small(part, augment, size=size, padding=padding, flip=flip, steps=steps, seed=seed + i)
        unseen = ImageSet(data.images[held_out], data.labels[held_out], data.classes)
        for k, value in enumerate(evaluate(network, unseen, size=size)):
            totals[k] += value * len(held_out)
    return totals[0] / len(data.images), totals[1] / len(data.images)
