"""Train one network with one augmentation, and say what it does on the test images."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.search.data.images import ImageSet, baseline
from fasteraa_transforms.search.networks.table import find_network, make_network
from fasteraa_transforms.search.runtime.folder import RunFolder
from fasteraa_transforms.search.settings import computes_in_bfloat16

Augment = Callable[[Tensor], Tensor]
"""uint8 [B, C, H, W] -> the same."""


@dataclass(frozen=True)
class TrainingSettings:
    """How the networks of an evaluation are trained: the recipe of Fast AutoAugment, which the paper follows.

    SGD with Nesterov momentum 0.9, the learning rate rising linearly during the warm-up and falling as a cosine after.
    Augmentation first, then random crop and flip, normalisation, and Cutout. None means "as fits" dataset or model.

    Example:
        >>> TrainingSettings(epochs=20).batch_size
        128
    """

    model: str | None = None
    """small, compact, resnet9, wrn16_2, wrn40_2, wrn28_10, resnet50 or another of torchvision's, or module:callable
    taking the numbers of channels and of classes; none: small for digits, else by the size of the images: small up to
    16 pixels, wrn40_2 up to 64, else resnet50."""
    epochs: int = 200
    """Passes over the training images."""
    batch_size: int = 128
    """Images a step; the last images of an epoch that fill no batch are left out, others each time."""
    learning_rate: float | None = None
    """At its peak; none: as in Fast AutoAugment's repository, 0.05 for ResNet-50, 0.1 for WideResNet and all others."""
    weight_decay: float | None = None
    """None: as there, 2e-4 for WideResNet-40-2, 1e-4 for ResNet-50, 5e-4 for all others."""
    warmup_epochs: int = 5
    """Epochs in which the learning rate rises; at most half of all."""
    gradient_clip: float = 5.0
    """Largest norm of the gradient; 0: no limit."""
    cutout: int | None = None
    """Side in pixels of the square that Cutout blanks; none: 16, 20 for SVHN, 0 for ImageNet."""
    cutout_after: bool = True
    """Whether Cutout follows every augmentation, as in the paper, or is a control of its own only."""
    train_images: int | None = None
    """Train on a random subset of this size; none: all, or half of the images where there is no test split."""
    split_seed: int | None = 0
    """Of that subset: the images that a search with this seed and as many images works on; none: that of each
    training."""
    image_size: int | None = None
    """Side in pixels that images are resized and cropped to; none: their own size (32 for digits, 224 for ImageNet)."""
    padding: int | None = None
    """Zeros around an image before its random crop, in pixels; none: 4 (0 for ImageNet)."""
    flip: bool | None = None
    """Whether images are mirrored with chance 1/2; none: yes, but for digits."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: cuda where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network; auto: bfloat16 for all but small where the hardware computes in it, else float32."""
    compile: bool = False
    """Whether torch.compile compiles the network."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "train_images", "image_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} should be positive, but got {value} instead")
        for name in ("weight_decay", "warmup_epochs", "gradient_clip", "cutout", "split_seed", "padding"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} should not be negative, but got {value} instead")


@dataclass(frozen=True)
class Split:
    """What networks are trained on, and what they are tested on.

    Attributes:
        train: the training images.
        test: the test images, of the same classes.
        size: (height, width) of the random crop in training, and of the centre that is tested.
        padding: zeros on every side before the crop, in pixels.
        flip: whether training mirrors with chance 1/2.
    """

    train: ImageSet
    test: ImageSet
    size: tuple[int, int]
    padding: int = 0
    flip: bool = False


def resolve(settings: TrainingSettings, device: torch.device) -> tuple[float, float, bool]:
    """Learning rate, weight decay, and whether to compute in bfloat16, where ``settings`` leave them open.

    Example:
        >>> resolve(TrainingSettings(model="wrn40_2", precision="float32"), torch.device("cpu"))
        (0.1, 0.0002, False)
    """
    row = find_network(settings.model or "")
    rate, decay = (0.1, 5e-4) if row is None else (row.learning_rate, row.weight_decay)
    fast = (row is None or row.large) and computes_in_bfloat16(device)
    return (
        rate if settings.learning_rate is None else settings.learning_rate,
        decay if settings.weight_decay is None else settings.weight_decay,
        fast if settings.precision == "auto" else settings.precision == "bfloat16",
    )


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


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """The learning rate of a step, counted from 0, as a fraction of its peak: linear warm-up, then a cosine.

    Example:
        >>> [round(rate_factor(step, 6, 2), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


class Training:
    """One training, epoch by epoch, that continues where its checkpoint stands.

    The draws of an epoch depend on the seed and on its number alone, so that nothing of them has to be kept; the
    order, crop, flip and Cutout of the images, and the network's first weights, are the same for every augmentation.
    It seeds PyTorch's default generators: fork them around it (``torch.random.fork_rng``).

    Args:
        split: the images, on the device to train on.
        settings: with ``model`` and ``cutout`` set.
        build: makes the augmentation, given its source of draws on the device; None for none.
        cutout_side: of the Cutout that follows, 0 for none.
        seed: of weights and draws.
        checkpoint: file to continue from, if it is there, and to write after each epoch but the last.

    Raises:
        ValueError: unusable model, or one that gives no logits [B, classes].
    """

    def __init__(
        self,
        split: Split,
        settings: TrainingSettings,
        build: Callable[[torch.Generator], Augment | None],
        *,
        cutout_side: int,
        seed: int,
        checkpoint: Path | None = None,
    ) -> None:
        assert settings.model is not None
        self.split, self.settings, self.seed, self.checkpoint = split, settings, seed, checkpoint
        self.cutout_side = cutout_side
        device = split.train.images.device
        self.generator, policy_generator = torch.Generator(device), torch.Generator(device)
        self._generators = [torch.default_generator, self.generator, policy_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators.append(torch.cuda.default_generators[index])
        self.augment = build(policy_generator)

        channels = split.train.images.shape[1]
        statistics = split.train.images.transpose(0, 1).flatten(1).float() / 255
        self.normalise = Epilogue(
            mean=tuple(statistics.mean(1).tolist()),
            std=tuple(statistics.std(1).clamp(min=1e-3).tolist()),
            memory_format=torch.channels_last,
        )
        self._reseed(-1)
        network = make_network(settings.model, channels=channels, classes=split.train.classes)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if settings.compile:
            self.network.compile()
        self.rate, decay, self.bfloat16 = resolve(settings, device)
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=self.rate,
            momentum=0.9,
            nesterov=True,
            weight_decay=decay,
            fused=True,
        )
        self.batch_size = min(settings.batch_size, len(split.train.images))
        self.steps_per_epoch = len(split.train.images) // self.batch_size
        self.epoch = 0
        self.seconds = 0.0
        self.last: dict[str, float] = {}
        if checkpoint is not None and checkpoint.is_file():
            saved = torch.load(checkpoint, map_location=device, weights_only=True)
            self.network.load_state_dict(saved["network"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.epoch, self.seconds, self.last = saved["epoch"], saved["seconds"], saved["last"]

    def _reseed(self, epoch: int) -> None:
        """Give each generator the seed it has for this epoch; -1: for the first weights."""
        seeds = np.random.SeedSequence([self.seed, epoch + 1]).generate_state(len(self._generators), np.uint64)
        for generator, seed in zip(self._generators, seeds.tolist(), strict=True):
            generator.manual_seed(seed)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.network(images)
        classes = self.split.train.classes
        if not isinstance(logits, Tensor) or logits.shape != (len(images), classes):
            found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(
                f"{self.settings.model} should give logits [{len(images)}, {classes}], but gave {found} instead"
            )
        return logits.float()

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training images: the mean ``loss`` and ``accuracy``, and the last ``learning_rate``."""
        began = time.perf_counter()
        split, settings = self.split, self.settings
        self._reseed(self.epoch)
        self.network.train()
        device = split.train.images.device
        order = torch.randperm(len(split.train.images), generator=self.generator, device=device)
        steps = self.steps_per_epoch * settings.epochs
        warmup = self.steps_per_epoch * min(settings.warmup_epochs, settings.epochs // 2)
        measured: list[Tensor] = []
        rate = self.rate
        for step in range(self.steps_per_epoch):
            index = order[step * self.batch_size : (step + 1) * self.batch_size]
            images, labels = split.train.images[index], split.train.labels[index]
            if self.augment is not None:
                images = self.augment(images)
            images = baseline(images, size=split.size, padding=split.padding, flip=split.flip, generator=self.generator)
            images = self.normalise(images)
            if self.cutout_side:
                images = cutout(images, self.cutout_side, generator=self.generator)
            rate = self.rate * rate_factor(self.epoch * self.steps_per_epoch + step, steps, warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            logits = self._logits(images)
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            if settings.gradient_clip:
                nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_clip)
            self.optimizer.step()
            measured.append(torch.stack([loss.detach(), (logits.argmax(1) == labels).float().mean()]))
        mean_loss, accuracy = torch.stack(measured).mean(0).tolist()  # the one place that waits for the device
        self.last = {"loss": mean_loss, "accuracy": accuracy, "learning_rate": rate}
        self.epoch += 1
        self.seconds += time.perf_counter() - began
        if self.checkpoint is not None and self.epoch < settings.epochs:
            saved = {
                "network": self.network.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "epoch": self.epoch,
                "seconds": self.seconds,
                "last": self.last,
            }
            RunFolder(self.checkpoint.parent).replace(self.checkpoint, lambda file: torch.save(saved, file))
        return self.last

    @torch.no_grad()
    def test(self) -> tuple[float, float]:
        """Error, in [0, 1], and mean cross entropy of the network as it is, on the centres of the test images."""
        self.network.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.split.test.images.device)
        test = self.split.test
        for images, labels in zip(test.images.split(256), test.labels.split(256), strict=True):
            logits = self._logits(self.normalise(tv.center_crop(images, list(self.split.size))))
            wrong = (logits.argmax(1) != labels).sum()
            totals += torch.stack([wrong, F.cross_entropy(logits, labels, reduction="sum")]).double()
        error, loss = (totals / len(test.images)).tolist()
        return error, loss

    def row(self) -> dict[str, Any]:
        """What a finished training is worth, as it goes into ``rows.jsonl``."""
        error, loss = self.test()
        images = self.steps_per_epoch * self.batch_size * self.epoch
        return {
            "error": error,
            "loss": loss,
            "train_loss": self.last["loss"],
            "train_accuracy": self.last["accuracy"],
            "epochs": self.epoch,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(images / self.seconds, 1),
        }
