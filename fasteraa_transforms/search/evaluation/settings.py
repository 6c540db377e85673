"""How the networks of an evaluation are trained."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from fasteraa_transforms.fields import EVEN, FRACTION, NOT_NEGATIVE, POSITIVE, SEED, SIDE, check_fields
from fasteraa_transforms.search.networks.fit import Recipe
from fasteraa_transforms.search.networks.table import bfloat16_pays, find_network, fitting_critic


def fitting_model(size: tuple[int, int], device: torch.device) -> str:
    """Name of the network for images of (height, width): one that the device can pay.

    Example:
        >>> fitting_model((32, 32), torch.device("cpu")), fitting_model((32, 32), torch.device("cuda"))
        ('resnet9', 'wrn40_2')
    """
    name = fitting_critic(size)
    return "resnet9" if device.type == "cpu" and name != "small" else name


@dataclass(frozen=True)
class TrainingSettings:
    """How the networks of an evaluation are trained: the recipe of Fast AutoAugment, which the paper follows.

    SGD with Nesterov momentum 0.9. The learning rate rises linearly during the warm-up and falls as a cosine after it.
    The augmentation comes first, then random crop and flip, normalisation, and Cutout. None means "as fits" the data
    set or the model.

    Raises:
        ValueError: a number is out of its range.

    Example:
        >>> TrainingSettings(epochs=20).batch_size
        128
    """

    model: str | None = None
    """small, compact, resnet9, resnet9-WIDTH, wrn16_2, wrn40_2, wrn28_10, resnet50 or another of torchvision's, or
    module:callable taking the numbers of channels and of classes; none: small for digits and images of up to 16 pixels,
    for larger ones on a CPU resnet9, else wrn40_2 up to 64 pixels, then resnet50."""
    epochs: int = field(default=200, metadata=POSITIVE)
    """Passes over the training images."""
    batch_size: int = field(default=128, metadata=POSITIVE)
    """Images a step. An epoch leaves out the last images if they fill no batch; each epoch leaves out others."""
    learning_rate: float | None = field(default=None, metadata=POSITIVE)
    """At its peak; none: as in Fast AutoAugment's repository, 0.05 for ResNet-50, 0.1 for WideResNet and all others,
    whatever the size of the batch."""
    weight_decay: float | None = field(default=None, metadata=NOT_NEGATIVE)
    """None: as in that repository, 2e-4 for WideResNet-40-2, 1e-4 for ResNet-50, 5e-4 for all others."""
    warmup: float = field(default=0.025, metadata=FRACTION)
    """Share of the steps in which the learning rate rises."""
    gradient_clip: float = field(default=5.0, metadata=NOT_NEGATIVE)
    """Largest norm of the gradient; 0: no limit."""
    cutout: int | None = field(default=None, metadata=EVEN)
    """Side in pixels of the square that Cutout blanks; none: 16, 20 for SVHN, 0 for ImageNet."""
    cutout_after: bool = True
    """Whether Cutout follows every augmentation, as in the paper, or is a control of its own only."""
    train_images: int | None = field(default=None, metadata=POSITIVE)
    """Train on a random subset of this size; none: all, or half of the images where there is no test split."""
    split_seed: int | None = field(default=0, metadata=SEED)
    """Seed of the subset, see train_images. A search with the same seed and number of images works on the same subset.
    None: the seed of each training, so that each has its own subset."""
    image_size: int | Literal["own"] | None = field(default=None, metadata=SIDE)
    """Side in pixels that images are resized and cropped to; own: none, they keep their size. None: 32 for digits, 224
    for ImageNet; images of one's own, of several sizes or of more than 96×96 pixels, 64, or 32 where most are smaller
    than 64; all others keep their size."""
    padding: int | None = field(default=None, metadata=NOT_NEGATIVE)
    """Zeros around an image before its random crop, in pixels; none: 4 (0 for ImageNet)."""
    flip: bool | None = None
    """Whether images are mirrored with chance 1/2; none: yes, but for digits."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: cuda where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the network; auto: bfloat16 for all but small ones where the hardware computes in it, else float32."""
    compile: bool = False
    """Whether torch.compile compiles the network."""

    def __post_init__(self) -> None:
        check_fields(self)

    def recipe(self, device: torch.device, *, cutout: int = 0) -> Recipe:
        """How `networks.fit` trains a network of these settings on ``device``.

        Args:
            device: to train on.
            cutout: side of the square that Cutout blanks, in pixels; 0 for none.

        Example:
            >>> settings = TrainingSettings(model="wrn40_2", batch_size=64, precision="float32")
            >>> recipe = settings.recipe(torch.device("cpu"))
            >>> recipe.learning_rate, recipe.weight_decay, recipe.bfloat16
            (0.1, 0.0002, False)
        """
        row = find_network(self.model or "")
        fast = self.precision == "auto" and bfloat16_pays(self.model or "", device)
        rate, decay = (0.1, 5e-4) if row is None else (row.learning_rate, row.weight_decay)
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            # Not in proportion to the batch: on digits with batches of 50 that has more errors.
            learning_rate=rate if self.learning_rate is None else self.learning_rate,
            weight_decay=decay if self.weight_decay is None else self.weight_decay,
            warmup=self.warmup,
            gradient_clip=self.gradient_clip,
            cutout=cutout,
            bfloat16=fast or self.precision == "bfloat16",
        )
