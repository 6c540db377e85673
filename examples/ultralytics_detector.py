"""Ultralytics: the policy as transforms of albumentations, which move boxes too.

python examples/ultralytics_detector.py data.yaml   # trains on your data
python examples/ultralytics_detector.py             # shows one image
"""

import sys
from typing import Any

import numpy as np
from ultralytics import YOLO
from ultralytics.data.augment import Albumentations
from ultralytics.utils.instance import Instances

from fasteraa_transforms import FasterAutoAugment

SIZE = 640  # of the training images: a translation is a fraction of it


def transforms(policy: str = "imagenet") -> list[Any]:
    """The policy in a list, as Ultralytics takes its own augmentations.

    Ultralytics holds images as BGR. So color and contrast, which weigh the channels
    differently, are left out, and sample_pairing, which needs a second image.
    """
    found = FasterAutoAugment.from_pretrained(policy).policy
    leave_out = ["color", "contrast", "sample_pairing"]
    return list(
        found.to_albumentations((SIZE, SIZE), leave_out=leave_out).transforms
    )


def main(data: str | None = None) -> dict[str, Any]:
    """Train on a data set, or show what becomes of one image and its box."""
    if data is not None:
        YOLO("yolo11n.pt").train(data=data, imgsz=SIZE, augmentations=transforms())
        return {}
    sample = {
        "img": np.random.default_rng(0).integers(
            0, 256, (SIZE, SIZE, 3), dtype=np.uint8
        ),
        "cls": np.array([[0.0]]),
        "instances": Instances(
            np.array([[0.5, 0.5, 0.2, 0.2]], dtype=np.float32),
            np.zeros((0, 1000, 2), dtype=np.float32),
            bbox_format="xywh",
            normalized=True,
        ),
    }
    result: dict[str, Any] = Albumentations(p=1.0, transforms=transforms())(sample)
    return result


if __name__ == "__main__":
    print(main(*sys.argv[1:2]).get("instances"))
