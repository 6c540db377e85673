"""Images per second of a DataLoader, with the policy and with other libraries' in the same place.

    python benchmarks/loader.py [--rounds 5] [--images 512] [--json benchmarks/loader.json]

Two workers, and epochs of the variants take turns. Once ImageNet-style: JPEG files of 500 × 375 pixels, pieces of
scikit-learn's photographs, are decoded, cropped (RandomResizedCrop to 224), flipped, augmented, turned into tensors and
normalised. Once where augmentation is the cost: decoded images of 224 × 224 pixels in a memory-mapped file are
augmented, and that is all.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import importlib.util
import itertools
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


class Decoded(Dataset[Tensor]):
    """Images [N, ...] in a memory-mapped file of uint8."""

    def __init__(self, path: Path, shape: tuple[int, ...], transform: Callable[[Any], Tensor]) -> None:
        self.path, self.shape, self.transform = path, shape, transform

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        images = np.memmap(self.path, np.uint8, "c", shape=self.shape)
        return self.transform(images[index])


def decoded(folder: Path, count: int) -> dict[str, Dataset[Tensor]]:
    """The variants where augmentation is the cost: tensors [3, H, W], for albumentations arrays [H, W, 3]."""
    images = augment.photographs(224, count).numpy()
    planar, interleaved = folder / "planar", folder / "interleaved"
    images.tofile(planar)
    images.transpose(0, 2, 3, 1).tofile(interleaved)

    def of_tensors(transform: Callable[[Any], Tensor]) -> Dataset[Tensor]:
        return Decoded(planar, images.shape, v2.Compose([torch.from_numpy, transform]))

    found = {
        augment.OURS: of_tensors(FasterAutoAugment(augment.policy())),
        augment.HARDER: of_tensors(FasterAutoAugment(augment.policy(harder=True))),
        augment.BASE: of_tensors(v2.AutoAugment()),
        "torchvision TrivialAugment": of_tensors(v2.TrivialAugmentWide()),
        "no policy": of_tensors(torch.clone),
    }
    if importlib.util.find_spec("albumentations"):
        transform = augment.albumentations_trivialaugment(augment.Row(224, "tensor", 1, 1.0, 1.0))
        steps = v2.Compose([transform, torch.from_numpy])
        shape = (count, *images.shape[2:], 3)
        found["albumentations, as TrivialAugment"] = Decoded(interleaved, shape, steps)
    return found


def rates(variants: dict[str, Dataset[Tensor]], rounds: int) -> dict[str, Any]:
    """Images per second of each variant: the median over the epochs, and all of them."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    loaders = {
        name: DataLoader(variant, BATCH, num_workers=WORKERS, persistent_workers=True)
        for name, variant in variants.items()
    }
    for round_ in range(rounds + 1):  # the first one starts the workers and warms up
        for name, loader in loaders.items():
            began = time.perf_counter()
            count = sum(len(batch) for batch in loader)
            if round_:
                found[name].append(count / (time.perf_counter() - began))
    return {name: {"median": statistics.median(values), "all": values} for name, values in found.items()}


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
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_files(folder, arguments.images)
        files = {name: Files(paths, pipeline(policy)) for name, policy in policies.items()}
        results = {
            "results": rates(files, arguments.rounds),
            "decoded": rates(decoded(folder, arguments.images), arguments.rounds),
        }
    for kind, found in results.items():
        print(f"{kind}: images/s, {WORKERS} workers, median of {arguments.rounds} epochs of {arguments.images} images")
        for name, result in found.items():
            print(f"  {name:50} {result['median']:7.1f}  ({min(result['all']):.1f} to {max(result['all']):.1f})")
    if arguments.json:
        sizes = {"workers": WORKERS, "images": arguments.images, "rounds": arguments.rounds}
        augment.keep(arguments.json, {"setting": augment.setting(), **sizes, **results})


if __name__ == "__main__":
    main()
