"""torchvision's reference training, with a policy in the place of --auto-augment.

The order is that of references/classification/presets.py and train.py: crop, flip,
policy, normalisation, random erasing of each image; MixUp or CutMix of each batch.

python examples/torchvision_reference.py
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torchvision.transforms import v2

from fasteraa_transforms import FasterAutoAugment


def preset(size: int, policy: str = "imagenet") -> v2.Compose:
    """ClassificationPresetTrain with a policy."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            FasterAutoAugment.from_pretrained(policy),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
            v2.RandomErasing(p=0.1),
        ]
    )


def mixed(classes: int) -> v2.Transform:
    """MixUp or CutMix of a batch, as train.py has them in its collate_fn."""
    mixup, cutmix = (
        v2.MixUp(alpha=0.2, num_classes=classes),
        v2.CutMix(num_classes=classes),
    )
    return v2.RandomChoice([mixup, cutmix])


def main() -> tuple[Tensor, Tensor]:
    """The first batch: images, and labels that are mixed."""
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (80, 100, 3), dtype=np.uint8))
        for _ in range(8)
    ]
    transform, mix = preset(64), mixed(10)
    samples = [
        (transform(picture), number) for number, picture in enumerate(pictures)
    ]
    loader = DataLoader(
        samples, batch_size=8, collate_fn=lambda batch: mix(default_collate(batch))
    )
    images, labels = next(iter(loader))
    return images, labels


if __name__ == "__main__":
    print([tuple(each.shape) for each in main()])
