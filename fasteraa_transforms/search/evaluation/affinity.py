"""Affinity and diversity of a policy: how far it moves images from what a network knows, and how much it has to learn.

Source: Gontijo-Lopes, Smullin, Cubuk and Dyer 2020, "Affinity and Diversity: Quantifying Mechanisms of Data
Augmentation", https://arxiv.org/abs/2002.08973.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from fasteraa_transforms.backends import apply
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.networks.fit import Fit, Recipe, fit
from fasteraa_transforms.search.networks.table import make_network
from fasteraa_transforms.search.runtime.defaults import usual_defaults

HELD_OUT = 0.2  # of the images
NETWORK = "small"
NETWORKS = 3  # pairs of networks


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

    def with_more(self, more: "AffinityDiversity") -> "AffinityDiversity":
        """These values, and those of more networks behind them."""
        return AffinityDiversity(*(getattr(self, each.name) + getattr(more, each.name) for each in fields(self)))

    def to_json(self) -> dict[str, Any]:
        """All values, for files."""
        names = ("affinity", "diversity", "clean_accuracy", "augmented_accuracy", "clean_loss", "augmented_loss")
        return {name: list(getattr(self, name)) for name in names}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "AffinityDiversity":
        """What `to_json` gave."""
        return cls(**{each.name: tuple(value[each.name]) for each in fields(cls)})

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
    crop: Crop | None = None,
    networks: int = NETWORKS,
    epochs: int = 30,
    batch_size: int = 128,
    seed: int = 0,
    before: AffinityDiversity | None = None,
    keep: Callable[[AffinityDiversity], object] = lambda measured: None,
) -> AffinityDiversity:
    """Train small networks on ``data`` with and without ``policy``, and compare.

    A fifth of the images is held out, another one for each network. Training images have the baseline crop and flip,
    after the policy.

    Args:
        policy: the policy.
        data: images and labels, not masks, on the device to compute on.
        crop: the preprocessing; a crop of the whole image, without padding and flip, if None.
        networks: pairs of networks, each with its own split and start.
        epochs: passes over the training images.
        batch_size: images a step.
        seed: of splits, starts and draws.
        before: what was measured already, with the first pairs of the same networks.
        keep: called after each pair with what was measured by then.

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
    if len(data) < 1 / HELD_OUT:
        raise ValueError(f"data should hold 5 images or more, but got {len(data)} instead")
    if data.has_masks:
        raise ValueError("data should have a label for each image, but got masks instead")
    device = data.images.device
    crop = crop or Crop((data.images.shape[2], data.images.shape[3]))
    recipe = Recipe.of(NETWORK, epochs=epochs, batch_size=batch_size)
    measured = before
    with usual_defaults(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for number in range(0 if before is None else len(before.clean_accuracy), networks):
            generator = torch.Generator().manual_seed(seed + number)
            order = torch.randperm(len(data), generator=generator).to(device)
            held_out, kept = order.tensor_split([int(len(order) * HELD_OUT)])
            unseen, training_images = data.subset(held_out), data.subset(kept)
            clean, augmented = (
                Fit(training_images, _network_for(data), recipe, crop, augment=augment, seed=seed + number)
                for augment in (None, policy)
            )
            losses = [fit(training)["loss"] for training in (clean, augmented)]
            moved = ImageSet(
                apply(unseen.images, policy.sample(len(unseen), generator=generator)), unseen.labels, data.classes
            )
            accuracies = [1 - clean.test(shown)[0] for shown in (unseen, moved)]
            pair = AffinityDiversity(*((value,) for value in (*accuracies, *losses)))
            measured = pair if measured is None else measured.with_more(pair)
            keep(measured)
    assert measured is not None
    return measured


def _network_for(data: ImageSet) -> Callable[[], nn.Module]:
    return lambda: make_network(NETWORK, channels=data.images.shape[1], classes=data.classes)
