"""The one loop that trains networks which judge augmentations: for the race, the guard and the evaluation.

The draws of an epoch depend on the seed and on the number of the epoch alone. So an interrupted training needs only its
weights and optimizer to go on. And every augmentation gets the same order, crops and first weights, so that differences
are paired.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import tv_tensors

from fasteraa_transforms.fields import EVEN, FRACTION, NOT_NEGATIVE, POSITIVE, check_fields
from fasteraa_transforms.pipeline.transform import FasterAutoAugment
from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.data.masks import IGNORED
from fasteraa_transforms.search.networks.losses import accuracy, class_loss, soft_targets
from fasteraa_transforms.search.networks.table import find_network

Augment = Callable[..., Any]
"""uint8 [B, C, H, W] -> the same; of masks (uint8 [B, C, H, W], tv_tensors.Mask [B, H, W]) -> both."""

_JUDGED_PIXELS = 2**18  # 64 images of 64×64: in the first layers of a network they take some 20 MB a layer
_AHEAD = 2**21  # values that are augmented at once: for small images much faster than batch by batch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """SGD with Nesterov momentum 0.9 and one cycle of the learning rate: a linear rise, then half a cosine to 0.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step; the last images of an epoch that fill no batch are left out, others each time.
        learning_rate: at its peak.
        weight_decay: of all parameters.
        warmup: share of the steps in which the learning rate rises, in [0, 1).
        gradient_clip: largest norm of the gradient; 0 for no limit.
        cutout: side in pixels of the square that Cutout blanks after normalisation, even; 0 for none.
        bfloat16: whether the network computes in bfloat16.

    Raises:
        ValueError: a number is out of its range.
    """

    epochs: int = field(metadata=NOT_NEGATIVE)
    batch_size: int = field(default=64, metadata=POSITIVE)
    learning_rate: float = field(default=0.1, metadata=POSITIVE)
    weight_decay: float = field(default=5e-4, metadata=NOT_NEGATIVE)
    warmup: float = field(default=0.2, metadata=FRACTION)
    gradient_clip: float = field(default=0.0, metadata=NOT_NEGATIVE)
    cutout: int = field(default=0, metadata=EVEN)
    bfloat16: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def of(cls, name: str, *, epochs: int, batch_size: int = 64, **changes: Any) -> "Recipe":
        """The recipe of a network, its learning rate scaled to the size of the batch.

        Example:
            >>> Recipe.of("wrn40_2", epochs=10, batch_size=64).learning_rate
            0.05
        """
        row = find_network(name)
        rate, decay = (0.1, 5e-4) if row is None else (row.learning_rate, row.weight_decay)
        options = {"learning_rate": rate * batch_size / 128, "weight_decay": decay} | changes
        return cls(epochs=epochs, batch_size=batch_size, **options)


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """The learning rate of a step, counted from 0, as a fraction of its peak: linear warm-up, then a cosine.

    Example:
        >>> [round(rate_factor(step, 6, 2), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def cutout(images: Tensor, side: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Set a square of each image to zero, which is the mean of normalised images; clipped at the borders.

    Args:
        images: float [B, C, H, W], normalised.
        side: of the square, in pixels, even; its centre is uniform in the image.
        generator: of the draws, on the device of ``images``.

    Returns:
        [B, C, H, W].

    Source: DeVries and Taylor 2017.

    Example:
        >>> cutout(torch.ones(2, 3, 32, 32), 16).mean().item() < 1
        True
    """
    batch, _, *extents = images.shape
    draw = torch.rand(2, batch, 1, generator=generator, device=images.device)
    inside = []
    for centre, extent in zip(draw, extents, strict=True):
        start = (centre * extent).long() - side // 2
        position = torch.arange(extent, device=images.device)
        inside.append((position >= start) & (position < start + side))  # [B, extent]
    return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


def judged_at_once(data: ImageSet, crop: Crop) -> int:
    """How many images a network judges at once: fewer on a CPU where they are large, which costs no time there.

    Example:
        >>> data = ImageSet(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), 2)
        >>> judged_at_once(data, Crop((64, 64))), judged_at_once(data, Crop((32, 32)))
        (64, 256)
    """
    if data.has_masks:
        return 32
    height, width = crop.size
    return 256 if data.images.is_cuda else max(8, min(256, _JUDGED_PIXELS // (height * width)))


class Fit:
    """One training, epoch by epoch, that can be saved and continued.

    It seeds PyTorch's default generators: fork them around it (``torch.random.fork_rng``).

    Args:
        data: what is trained on, on the device to train on.
        make: makes the network, once the generators have the seed of the first weights.
        recipe: how it is trained.
        crop: the preprocessing after the augmentation.
        augment: makes the augmentation, given its source of draws; a policy; or None for none.
        seed: of weights and draws.
        compile: whether `torch.compile` compiles the network.

    Attributes:
        network: float [B, C, H, W], normalised -> logits.
        epoch: how many epochs are done.
    """

    def __init__(
        self,
        data: ImageSet,
        make: Callable[[], nn.Module],
        recipe: Recipe,
        crop: Crop,
        *,
        augment: Policy | Callable[[torch.Generator], Augment | None] | None = None,
        seed: int = 0,
        compile: bool = False,
    ) -> None:
        self.data, self.recipe, self.crop, self.seed = data, recipe, crop, seed
        device = data.images.device
        self.generator, augment_generator = torch.Generator(device), torch.Generator(device)
        self._generators = [torch.default_generator, self.generator, augment_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators.append(torch.cuda.default_generators[index])
        self.augment = _augmentation(augment, augment_generator)
        self.normalise = data.normaliser()
        self._reseed(-1)
        self.network = make().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compile:
            self.network.compile()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.learning_rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.batch_size = min(recipe.batch_size, len(data.images))
        self.steps_per_epoch = len(data.images) // self.batch_size
        self.epoch = 0

    def _reseed(self, epoch: int) -> None:
        """Give each generator the seed it has for this epoch; -1: for the first weights."""
        seeds = np.random.SeedSequence([self.seed, epoch + 1]).generate_state(len(self._generators), np.uint64)
        for generator, seed in zip(self._generators, seeds.tolist(), strict=True):
            generator.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` continues from; its tensors are those of the training, not copies."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch = state["epoch"]

    def logits(self, images: Tensor) -> Tensor:
        """Logits, float32, of uint8 images [B, C, *crop.size]."""
        return self._forward(self.normalise(images))

    def _forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.bfloat16):
            logits = self.network(images)
        classes = self.data.classes
        pixels = images.shape[2:] if self.data.has_masks else ()
        if not isinstance(logits, Tensor) or logits.shape != (len(images), classes, *pixels):
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            wanted = [len(images), classes, *pixels]
            raise ValueError(f"the network should give logits {wanted}, but gave {found} instead")
        return logits.float()

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training images: the mean ``loss`` and ``accuracy``, and the last ``learning_rate``."""
        recipe = self.recipe
        self._reseed(self.epoch)
        self.network.train()
        steps = self.steps_per_epoch * recipe.epochs
        warmup = int(recipe.warmup * steps)
        measured: list[Tensor] = []
        rate = recipe.learning_rate
        for images, labels in self._batches():
            rate = recipe.learning_rate * rate_factor(self.epoch * self.steps_per_epoch + len(measured), steps, warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            images = self.normalise(images)
            if recipe.cutout:
                images = cutout(images, recipe.cutout, generator=self.generator)
            targets = soft_targets(labels, self.data.classes)
            logits = self._forward(images)
            loss = class_loss(logits, targets)
            self.optimizer.zero_grad()
            loss.backward()
            if recipe.gradient_clip:
                nn.utils.clip_grad_norm_(self.network.parameters(), recipe.gradient_clip)
            self.optimizer.step()
            measured.append(torch.stack([loss.detach(), accuracy(logits.detach(), targets)]))
        mean_loss, mean_accuracy = torch.stack(measured).mean(0).tolist()  # the one place that waits for the device
        self.epoch += 1
        return {"loss": mean_loss, "accuracy": mean_accuracy, "learning_rate": rate}

    @torch.no_grad()
    def test(self, data: ImageSet) -> tuple[float, float]:
        """Error in [0, 1] and mean cross entropy on the centres of images, or over their labelled pixels.

        Leaves the network in evaluation mode.

        Args:
            data: images that were not trained on, on the same device.
        """
        self.network.eval()
        totals = torch.zeros(3, dtype=torch.float64, device=data.images.device)
        at_once = judged_at_once(data, self.crop)
        for images, labels in zip(data.images.split(at_once), data.labels.split(at_once), strict=True):
            logits = self.logits(self.crop.centre(images))
            if data.has_masks:
                labels = self.crop.centre(labels).long()
            labelled = labels != IGNORED if data.has_masks else torch.ones_like(labels, dtype=torch.bool)
            wrong = ((logits.argmax(1) != labels) & labelled).sum()
            ignored = IGNORED if data.has_masks else -100
            loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=ignored)
            totals += torch.stack([wrong, loss, labelled.sum()]).double()
        wrong, loss, count = totals.tolist()
        return wrong / max(count, 1), loss / max(count, 1)

    def _batches(self) -> Any:
        """The batches of an epoch, augmented and cropped: uint8 [B, C, *crop.size] and their labels."""
        data, size = self.data, self.batch_size
        order = torch.randperm(len(data.images), generator=self.generator, device=data.images.device)
        order = order[: self.steps_per_epoch * size]
        ahead = max(1, _AHEAD // (data.images[0].numel() * size)) * size
        for index in order.split(ahead):
            images, labels = data.images[index], data.labels[index]
            if self.augment is not None and data.has_masks:
                images, labels = self.augment(images, tv_tensors.Mask(labels))
                labels = labels.as_subclass(Tensor)
            elif self.augment is not None:
                images = self.augment(images)
            images, labels = self.crop.samples(images, labels, generator=self.generator)
            yield from zip(images.split(size), labels.split(size), strict=True)


def fit(training: Fit, each_epoch: Callable[[dict[str, float]], object] = lambda means: None) -> dict[str, float]:
    """Train to the end of the recipe, and leave the network in evaluation mode; the means of the last epoch.

    Args:
        training: continued from where it stands.
        each_epoch: called after each epoch with its means.
    """
    means: dict[str, float] = {}
    while training.epoch < training.recipe.epochs:
        means = training.train_epoch()
        each_epoch(means)
    training.network.eval()
    return means


def _augmentation(
    augment: Policy | Callable[[torch.Generator], Augment | None] | None, generator: torch.Generator
) -> Augment | None:
    if isinstance(augment, Policy):
        fill = {tv_tensors.Mask: IGNORED, "others": 0}
        return FasterAutoAugment(augment, fill=fill, generator=generator)
    return None if augment is None else augment(generator)
