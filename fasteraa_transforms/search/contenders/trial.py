"""One training of a race: a network, a contender and a replicate; and what it makes of images it has not seen."""

import base64
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.contenders.guard import measure_curves
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import IGNORED
from fasteraa_transforms.search.networks.fit import Fit, Recipe, fit, judged_at_once
from fasteraa_transforms.search.networks.table import make_network, make_pixel_network

TEMPERATURES = tuple(2 ** (i / 2) for i in range(-2, 9))
"""Temperatures among which a network's best is chosen: logits are divided by it."""


@dataclass(frozen=True)
class Arena:
    """What all trainings of a race share.

    Attributes:
        data: all images that may be trained on; a replicate holds some of them out.
        crop: the preprocessing after the augmentation.
        network: name, as `make_network` takes it.
        recipe: how networks are trained, and how long.
        train_images: how many images a network is trained on.
        held_out: at most so many of the others judge it.
        seed: of the replicates.
    """

    data: ImageSet
    crop: Crop
    network: str
    recipe: Recipe
    train_images: int
    held_out: int = 4000
    seed: int = 0

    def split(self, replicate: int) -> tuple[Tensor, Tensor]:
        """Indices of the images that are trained on and of those held out: stratified, other ones each replicate."""
        generator = torch.Generator().manual_seed(1000 * self.seed + replicate)
        order = torch.randperm(len(self.data), generator=generator)
        if not self.data.has_masks:
            order = _interleaved(order, self.data.labels.cpu())
        held = order[self.train_images :][: self.held_out]
        return order[: self.train_images], held


def _interleaved(order: Tensor, labels: Tensor) -> Tensor:
    """The order in which every stretch holds the classes in the proportions of the whole."""
    drawn = labels[order]
    counts = drawn.bincount()
    place = torch.zeros(len(order), dtype=torch.float64)
    for label in range(len(counts)):
        mine = (drawn == label).nonzero().flatten()
        place[mine] = (torch.arange(len(mine), dtype=torch.float64) + 0.5) / max(len(mine), 1)
    return order[place.argsort(stable=True)]


def run_trial(
    arena: Arena,
    contender: str,
    policy: Policy | None,
    replicate: int,
    *,
    curves_of: Iterable[str] = (),
    epochs: int | None = None,
) -> dict[str, Any]:
    """Train one network with one contender, and judge it by the images of its replicate that are held out.

    Args:
        arena: what all trainings share.
        contender: its name.
        policy: what it does; None for nothing.
        replicate: number of the split, of the first weights and of all draws.
        curves_of: operations of which the network, as a guard, tells what they do to held-out images.
        epochs: length of the training, in place of the recipe's.

    Returns:
        A row for a file: contender and replicate; error, in [0, 1], and loss (cross entropy at the best temperature, in
        nats) on the images held out; ``losses`` and ``errors`` of each of these images, float16 in base 64; accuracy
        and loss of the last epoch of training; epochs, images, seconds; and the curves, if asked for.
    """
    began = time.perf_counter()
    rest, held = arena.split(replicate)
    data = arena.data.subset(rest)
    make = make_pixel_network if data.has_masks else make_network
    recipe = arena.recipe if epochs is None else Recipe(**{**vars(arena.recipe), "epochs": epochs})
    with torch.random.fork_rng(devices=[data.images.device] if data.images.is_cuda else []):
        training = Fit(
            data,
            lambda: make(arena.network, channels=data.images.shape[1], classes=data.classes),
            recipe,
            arena.crop,
            augment=policy,
            seed=1000 * arena.seed + replicate,
        )
        means = fit(training)
    # A part at a time: all at once would be copies of most of the images.
    judged = [judge(training, arena.data.subset(part)) for part in held.split(judged_at_once(data, arena.crop))]
    wrong, losses = (torch.cat(parts) for parts in zip(*judged, strict=True))
    loss, temperature = at_best_temperature(losses)
    row: dict[str, Any] = {
        "contender": contender,
        "replicate": replicate,
        "error": wrong.mean().item(),
        "loss": loss.mean().item(),
        "temperature": temperature,
        "train_accuracy": means["accuracy"],
        "train_loss": means["loss"],
        "epochs": recipe.epochs,
        "train_images": len(rest),
        "held_out": len(held),
        "losses": _packed(loss),
        "errors": _packed(wrong),
        "seconds": time.perf_counter() - began,
    }
    if curves_of := tuple(curves_of):
        few = arena.data.subset(held[:400])
        curves = measure_curves(
            training.network, few, crop=arena.crop, normalise=training.normalise, operations=curves_of
        )
        row["curves"] = curves.to_json()
        row["seconds"] = time.perf_counter() - began
    return row


@torch.no_grad()
def judge(training: Fit, data: ImageSet) -> tuple[Tensor, Tensor]:
    """Error [N] and cross entropy [N, len(TEMPERATURES)] of each image, or the means over its labelled pixels."""
    network: nn.Module = training.network
    network.eval()
    wrong, losses = [], []
    size = judged_at_once(data, training.crop)
    for images, labels in zip(data.images.split(size), data.labels.split(size), strict=True):
        logits = training.logits(training.crop.centre(images))
        if not data.has_masks:
            wrong.append((logits.argmax(1) != labels).double())
            losses.append(torch.stack([F.cross_entropy(logits / t, labels, reduction="none") for t in TEMPERATURES], 1))
            continue
        labels = training.crop.centre(labels).long()
        kept = labels != IGNORED
        count = kept.sum((1, 2)).clamp(min=1)
        wrong.append((((logits.argmax(1) != labels) & kept).sum((1, 2)) / count).double())
        pixels = [
            F.cross_entropy(logits / t, labels, reduction="none", ignore_index=IGNORED).sum((1, 2)) / count
            for t in TEMPERATURES
        ]
        losses.append(torch.stack(pixels, 1))
    return torch.cat(wrong).cpu(), torch.cat(losses).cpu()


def at_best_temperature(losses: Tensor) -> tuple[Tensor, float]:
    """The cross entropy [N] at the temperature that suits the other half of the images, and the mean temperature.

    Args:
        losses: [N, len(TEMPERATURES)].
    """
    halves = torch.arange(len(losses)) % 2
    result = torch.empty(len(losses), dtype=losses.dtype)
    chosen = []
    for half in (0, 1):
        other = losses[halves != half] if len(losses) > 1 else losses
        best = int(other.mean(0).argmin())
        result[halves == half] = losses[halves == half, best]
        chosen.append(TEMPERATURES[best])
    return result, sum(chosen) / 2


def _packed(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype(np.float16).tobytes()).decode()


def values_of(row: Mapping[str, Any], key: str = "losses") -> np.ndarray[Any, np.dtype[np.float64]]:
    """The loss or error of each image held out, [N], as a row keeps it under ``key``: "losses" or "errors"."""
    return np.frombuffer(base64.b64decode(row[key]), dtype=np.float16).astype(np.float64)
