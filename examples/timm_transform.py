"""timm: its transforms of an image, with a policy in the place of its auto_augment.

python examples/timm_transform.py
"""

import numpy as np
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision import transforms

from fasteraa_transforms import FasterAutoAugment


def training_transform(size: int, policy: str = "imagenet") -> transforms.Compose:
    """What create_transform makes, with the policy between crop and normalisation.

    Random erasing and everything else that create_transform takes stays as it is.
    """
    crop, _, to_tensor = create_transform(
        size, is_training=True, separate=True, re_prob=0.25, interpolation="bicubic"
    )
    return transforms.Compose(
        [crop, FasterAutoAugment.from_pretrained(policy), to_tensor]
    )


def main() -> Tensor:
    """One image."""
    noise = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    return training_transform(64)(Image.fromarray(noise))


if __name__ == "__main__":
    print(main().shape)
