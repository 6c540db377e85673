"""Hugging Face datasets: every image draws for itself; the batch fits a Trainer.

python examples/hugging_face.py
"""

from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from fasteraa_transforms import FasterAutoAugment, augment_each

# A sample is a dict with a PIL image; everything else in it passes through.
transform = v2.Compose(
    [
        FasterAutoAugment.from_pretrained("cifar10"),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=[0.49, 0.48, 0.45], std=[0.25, 0.24, 0.26]),
    ]
)


def collate(samples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch as a Trainer takes it: Trainer(…, data_collator=collate)."""
    images = torch.stack([sample["image"] for sample in samples])
    labels = torch.tensor([sample["label"] for sample in samples])
    return {"pixel_values": images, "labels": labels}


def main() -> dict[str, Tensor]:
    """The first batch of a small data set."""
    noise = np.random.default_rng(0).integers(
        0, 256, (8, 32, 32, 3), dtype=np.uint8
    )
    dataset = Dataset.from_dict(
        {"image": list(noise), "label": list(range(8))},
        features=Features({"image": Image(), "label": Value("int64")}),
    )
    # set_transform hands over a dict of lists. A v2 transform would take it for one
    # sample, whose images share their draws; augment_each goes image by image.
    dataset.set_transform(augment_each(transform))
    # A Trainer would drop "image": TrainingArguments(remove_unused_columns=False).
    return next(iter(DataLoader(dataset, batch_size=8, collate_fn=collate)))


if __name__ == "__main__":
    print({name: tuple(value.shape) for name, value in main().items()})
