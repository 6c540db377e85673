"""webdataset: images are decoded in the workers, and augmented one by one there.

python examples/webdataset_shards.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
import webdataset
from torch import Tensor
from torchvision.transforms import v2

from fasteraa_transforms import FasterAutoAugment

transform = v2.Compose(
    [
        FasterAutoAugment.from_pretrained("imagenet"),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
)


def batches(
    urls: str, *, batch_size: int, workers: int = 0
) -> webdataset.WebLoader:
    """Batches of images and labels from shards with jpg and cls."""
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=100, empty_check=False)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, int)
        .batched(batch_size)
    )
    return webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)


def main() -> tuple[Tensor, Tensor]:
    """The first batch of a small shard."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train-000000.tar"
        with webdataset.TarWriter(str(shard)) as tar:
            for number in range(8):
                image = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                tar.write({"__key__": f"{number:06}", "jpg": image, "cls": number})
        images, labels = next(iter(batches(str(shard), batch_size=8)))
    return images, torch.as_tensor(labels)


if __name__ == "__main__":
    print([tuple(each.shape) for each in main()])
