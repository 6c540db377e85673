"""Images per second of an ImageNet-style DataLoader, with the policy and with torchvision's in the same place.

    python benchmarks/loader.py [--rounds 5] [--images 512] [--json benchmarks/loader.json]

JPEG files of 500 × 375 pixels, pieces of scikit-learn's photographs, are decoded, cropped (RandomResizedCrop to 224),
flipped, augmented, turned into tensors and normalised by two workers. Epochs of the variants take turns.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import augment
import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fasteraa_transforms import FasterAutoAugment

WORKERS, BATCH = 2, 64


class Files(Dataset[Tensor]):
    """JPEG files, decoded and transformed."""

    def __init__(self, paths: list[Path], transform: Callable[[Any], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


def write_files(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{n}.jpg" for n in range(count)]
    for path, photograph in zip(paths, itertools.cycle(load_sample_images().images), strict=False):
        top, left = (int(rng.integers(0, photograph.shape[axis] - size + 1)) for axis, size in ((0, 375), (1, 500)))
        Image.fromarray(photograph[top : top + 375, left : left + 500]).save(path, quality=90)
    return paths


def pipeline(policy: list[Any]) -> v2.Compose:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    before = [v2.RandomResizedCrop(224), v2.RandomHorizontalFlip()]
    return v2.Compose([*before, *policy, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    augment.one_thread()
    policies: dict[str, list[Any]] = {
        augment.OURS: [FasterAutoAugment(augment.policy())],
        augment.BASE: [v2.AutoAugment()],
        "no policy": [],
    }
    rates: dict[str, list[float]] = {name: [] for name in policies}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder), arguments.images)
        loaders = {
            name: DataLoader(Files(paths, pipeline(policy)), BATCH, num_workers=WORKERS, persistent_workers=True)
            for name, policy in policies.items()
        }
        for round_ in range(arguments.rounds + 1):  # the first one starts the workers and warms up
            for name, loader in loaders.items():
                began = time.perf_counter()
                count = sum(len(batch) for batch in loader)
                if round_:
                    rates[name].append(count / (time.perf_counter() - began))
    results = {name: {"median": statistics.median(values), "all": values} for name, values in rates.items()}
    print(f"images/s, {WORKERS} workers, median of {arguments.rounds} epochs of {arguments.images} images")
    for name, result in results.items():
        print(f"  {name:30} {result['median']:7.1f}  ({min(result['all']):.1f} to {max(result['all']):.1f})")
    if arguments.json:
        document = {
            "setting": augment.setting(),
            "workers": WORKERS,
            "images": arguments.images,
            "rounds": arguments.rounds,
            "results": results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
