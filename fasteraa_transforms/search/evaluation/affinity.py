"""Affinity and diversity of a policy: how far it moves images from what a network knows, and how much it has to learn.

Source: Gontijo-Lopes, Smullin, Cubuk and Dyer 2020, "Affinity and Diversity: Quantifying Mechanisms of Data
Augmentation", https://arxiv.org/abs/2002.08973.
"""

import statistics
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasteraa_transforms.backends.run import apply
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.search.data.images import ImageSet, baseline
from fasteraa_transforms.search.networks.table import make_backbone

HELD_OUT = 0.2  # of the images
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class AffinityDiversity:
    """Affinity and diversity of a policy, measured with several networks; a value a network.

    Attributes:
        clean_accuracy: on held-out images, of the network trained without the policy, in [0, 1].
        augmented_accuracy: of the same network on the same images, each augmented once.
        clean_loss: mean cross entropy over the last epoch of training without the policy.
        augmented_loss: the same of a second network, trained with the policy.
    """

    clean_accuracy: tuple[float, ...]
    augmented_accuracy: tuple[float, ...]
    clean_loss: tuple[float, ...]
    augmented_loss: tuple[float, ...]

    @property
    def affinity(self) -> tuple[float, ...]:
        """Accuracy on augmented minus that on clean held-out images: 0 if the policy moves nothing out of its class."""
        return tuple(a - c for a, c in zip(self.augmented_accuracy, self.clean_accuracy, strict=True))

    @property
    def diversity(self) -> tuple[float, ...]:
        """Final training loss with the policy: the larger, the more there is to learn."""
        return self.augmented_loss

    def to_json(self) -> dict[str, Any]:
        """All values, for files."""
        names = ("affinity", "diversity", "clean_accuracy", "augmented_accuracy", "clean_loss", "augmented_loss")
        return {name: list(getattr(self, name)) for name in names}

    def lines(self) -> list[str]:
        """Both in plain words, mean ± standard deviation over the networks."""

        def text(values: tuple[float, ...], scale: int = 1, sign: str = "") -> str:
            digits = 1 if scale > 1 else 3
            mean = f"{scale * statistics.fmean(values):{sign}.{digits}f}"
            return f"{mean} ± {scale * statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean

        return [
            f"Affinity {text(self.affinity, 100, '+')} points: a small network trained without the policy has "
            f"{text(self.clean_accuracy, 100)} % of held-out images right, {text(self.augmented_accuracy, 100)} % of "
            f"augmented ones (n = {len(self.affinity)}).",
            f"Diversity {text(self.diversity)}: the final training loss with the policy, {text(self.clean_loss)} "
            f"without (n = {len(self.diversity)}).",
        ]


def affinity_and_diversity(
    policy: Policy,
    data: ImageSet,
    *,
    size: tuple[int, int] | None = None,
    padding: int = 0,
    flip: bool = False,
    networks: int = 3,
    epochs: int = 30,
    batch_size: int = 128,
    seed: int = 0,
) -> AffinityDiversity:
    """Train small networks on ``data`` with and without ``policy``, and compare.

    A fifth of the images is held out, another one for each network. The network is the critic's "small" one with a
    linear class head; Adam, learning rate 1e-3. Training images have the baseline crop and flip, after the policy.

    Args:
        policy: the policy.
        data: images and labels, not masks, on the device to compute on.
        size: (height, width) of the crop; that of the images if None.
        padding: zeros on every side before the crop.
        flip: whether to mirror with chance 1/2.
        networks: pairs of networks, each with its own split and start.
        epochs: passes over the training images.
        batch_size: images a step.
        seed: of splits, starts and draws.

    Raises:
        ValueError: fewer than 5 images, of which none could be held out; or masks.

    Example:
        >>> from fasteraa_transforms.search import Digits, load_images
        >>> flip = {"operation": "flip", "weight": 1, "probability": 0}
        >>> found = affinity_and_diversity(
        ...     Policy([[[flip]]]), load_images(Digits(), num_images=100), networks=1, epochs=1
        ... )
        >>> found.affinity  # of a policy that does nothing
        (0.0,)
    """
    if len(data.images) < 1 / HELD_OUT:
        raise ValueError(f"data should hold 5 images or more, but got {len(data.images)} instead")
    if data.has_masks:
        raise ValueError("data should have a label for each image, but got masks instead")
    device = data.images.device
    size = size or (data.images.shape[2], data.images.shape[3])
    results: list[tuple[float, ...]] = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for number in range(networks):
            generator = torch.Generator().manual_seed(seed + number)
            order = torch.randperm(len(data.images), generator=generator).to(device)
            held_out, kept = order.tensor_split([int(len(order) * HELD_OUT)])
            options: dict[str, Any] = {"size": size, "padding": padding, "flip": flip}
            options |= {"epochs": epochs, "batch_size": batch_size, "seed": seed + number}
            training = ImageSet(data.images[kept], data.labels[kept], data.classes)
            network, clean_loss = _train(training, None, **options)
            _, augmented_loss = _train(training, policy, **options)
            images, labels = data.images[held_out], data.labels[held_out]
            accuracies = []
            for shown in (images, apply(images, policy.sample(len(images), generator=generator))):
                top, left = ((extent - side) // 2 for extent, side in zip(shown.shape[2:], size, strict=True))
                shown = shown[:, :, top : top + size[0], left : left + size[1]]
                with torch.no_grad():
                    outputs = torch.cat([network(batch.float() / 255) for batch in shown.split(batch_size)])
                accuracies.append((outputs.argmax(1) == labels).float().mean().item())
            results.append((*accuracies, clean_loss, augmented_loss))
    return AffinityDiversity(*zip(*results, strict=True))


def _train(
    data: ImageSet,
    policy: Policy | None,
    *,
    size: tuple[int, int],
    padding: int,
    flip: bool,
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[nn.Module, float]:
    """A network of images in [0, 1], and its mean loss over the last epoch."""
    device = data.images.device
    torch.default_generator.manual_seed(seed)
    channels = data.images.shape[1]
    backbone = make_backbone("small", channels)
    width = backbone(torch.zeros(1, channels, *size)).shape[1]
    pixels = data.images.transpose(0, 1).flatten(1).float() / 255
    normalise = _Normalise(pixels.mean(1), pixels.std(1).clamp(min=1e-3))
    network = nn.Sequential(normalise, backbone, nn.Linear(width, data.classes)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.Generator(device).manual_seed(seed)
    losses: list[Tensor] = []
    for _ in range(epochs):
        losses.clear()
        for index in torch.randperm(len(data.images), generator=generator).to(device).split(batch_size):
            images, labels = data.images[index], data.labels[index]
            if policy is not None:
                images = apply(images, policy.sample(len(images), generator=generator))
            images = baseline(images, size=size, padding=padding, flip=flip, generator=draws)
            loss = F.cross_entropy(network(images.float() / 255), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach() * len(index))
    return network, torch.stack(losses).sum().item() / len(data.images)


class _Normalise(nn.Module):
    """Zero mean and unit deviation a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
