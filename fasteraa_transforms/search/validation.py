"""What a policy is worth to a small network on held-out images: it chooses among the strengths of a search."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.critic import small
from fasteraa_transforms.search.data import ImageSet, baseline
from fasteraa_transforms.transform import FasterAutoAugment

FOLDS = 3
BATCH = 50
LEARNING_RATE = 3e-3

Augment = Callable[[Tensor], Tensor]


def train_small(
    data: ImageSet, augment: Augment | None, *, size: tuple[int, int], padding: int, flip: bool, epochs: int, seed: int
) -> nn.Module:
    """Train three convolutions and a linear layer: augmented images first, then the baseline crop and flip.

    Adam with a one-cycle learning rate up to 3e-3, batches of 50; the weights of the start, the order of the images and
    the crops are those of ``seed``.

    Args:
        data: images and labels to train on.
        augment: uint8 [B, C, H, W] -> the same; None for none.
        size: (height, width) of the crop.
        padding: zeros on every side before the crop.
        flip: whether to mirror with chance 1/2.
        epochs: passes over ``data``.
        seed: of all draws but those of ``augment``.

    Returns:
        A network in evaluation mode, from uint8 [B, C, *size] to logits [B, classes].
    """
    device, channels = data.images.device, data.images.shape[1]
    pixels = data.images.float() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=1e-3)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = _Small(channels, data.classes, mean, std, size)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * -(-len(data.images) // BATCH)
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(data.images), generator=generator, device=device).split(BATCH):
            images = data.images[index]
            images = images if augment is None else augment(images)
            images = baseline(images, size=size, padding=padding, flip=flip, generator=generator)
            loss = F.cross_entropy(network(images), data.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


class _Small(nn.Module):
    def __init__(self, channels: int, classes: int, mean: Tensor, std: Tensor, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone = small(channels)
        with torch.no_grad():
            width = self.backbone(torch.zeros(1, channels, *size)).shape[1]
        self.head = nn.Linear(width, classes)
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    mean: Tensor
    std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images.float() / 255 - self.mean) / self.std
        return self.head(self.backbone(normalised.contiguous(memory_format=torch.channels_last)))


@torch.no_grad()
def evaluate(network: nn.Module, data: ImageSet, *, size: tuple[int, int]) -> tuple[float, float]:
    """Error, in [0, 1], and mean cross entropy of ``network`` on the centres of images."""
    batches = zip(data.images.split(1000), data.labels.split(1000), strict=True)
    logits = [(network(tv.center_crop(images, list(size))), labels) for images, labels in batches]
    wrong = sum((each.argmax(1) != labels).sum().item() for each, labels in logits)
    loss = sum(F.cross_entropy(each, labels, reduction="sum").item() for each, labels in logits)
    return wrong / len(data.images), loss / len(data.images)


def cross_validate(
    policy: Policy | None,
    data: ImageSet,
    *,
    size: tuple[int, int],
    padding: int,
    flip: bool,
    epochs: int,
    seed: int,
) -> tuple[float, float]:
    """Error and cross entropy on held-out images of small networks trained with ``policy``.

    Each image is held out once: the data is split in 3 folds, and a network trained on two of them meets the third.
    Folds, starts and order are those of ``seed``, whatever the policy, so that policies are compared alike.

    Args:
        policy: to train with; None for no augmentation.
        data: images and labels.
        size: (height, width) of the crop.
        padding: zeros on every side before the crop.
        flip: whether the baseline mirrors with chance 1/2.
        epochs: passes over the images of each network.
        seed: of all draws.

    Returns:
        Error in [0, 1] and cross entropy, each the mean over all images.

    Example:
        >>> from fasteraa_transforms.search import Digits, load_images
        >>> data = load_images(Digits(), num_images=60)
        >>> error, loss = cross_validate(None, data, size=(8, 8), padding=0, flip=False, epochs=1, seed=0)
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
            augment = FasterAutoAugment(policy, generator=torch.Generator().manual_seed(seed + i))
        part = ImageSet(data.images[rest], data.labels[rest], data.classes)
        network = train_small(part, augment, size=size, padding=padding, flip=flip, epochs=epochs, seed=seed + i)
        unseen = ImageSet(data.images[held_out], data.labels[held_out], data.classes)
        for k, value in enumerate(evaluate(network, unseen, size=size)):
            totals[k] += value * len(held_out)
    return totals[0] / len(data.images), totals[1] / len(data.images)
