"""Time the training of an evaluation against a plain loop, in images a second, side by side.

    python benchmarks/training.py [--device cuda] [--model wrn40_2] [--rounds 5] [--steps 20] [--threads 2]

Both train the same network with the same policy, crop, flip, normalisation and Cutout, by the same optimizer, on images
made up in memory. The plain loop is the usual one: a `DataLoader` with as many workers as are given applies torchvision
transforms to one image at a time, on the CPU, and batches are copied to the device; float32, default memory layout. In
the training of this package images and policy are on the device and batches are augmented whole. Epochs take turns; the
first of each warms up and is not counted.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from search_step import hardware, wait_for
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fasteraa_transforms import FasterAutoAugment
from fasteraa_transforms.search.data.crop import Crop
from fasteraa_transforms.search.data.images import ImageSet
from fasteraa_transforms.search.evaluation.settings import TrainingSettings
from fasteraa_transforms.search.networks.fit import Fit, cutout
from fasteraa_transforms.search.networks.table import make_network

CUTOUT = 16


def made_up(count: int, device: torch.device) -> ImageSet:
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return ImageSet(images.to(device), (torch.arange(count) % 10).to(device), 10)


class Transformed(Dataset[tuple[Tensor, int]]):
    """What a training script makes of CIFAR-10: images as they lie in memory, transformed when they are asked for."""

    def __init__(self, data: ImageSet) -> None:
        self.images, self.labels = data.images.cpu(), data.labels.tolist()
        self.transform = v2.Compose(
            [
                FasterAutoAugment.from_pretrained("cifar10-paper"),
                v2.RandomCrop(32, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return cutout(self.transform(self.images[index])[None], CUTOUT)[0], self.labels[index]


def plain_loop(data: ImageSet, settings: TrainingSettings, device: torch.device, workers: int) -> Callable[[], object]:
    """An epoch of the usual loop."""
    assert settings.model is not None
    network = make_network(settings.model, channels=3, classes=10).to(device)
    recipe = settings.recipe(device)
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.learning_rate, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
    )
    loader = DataLoader(
        Transformed(data),
        settings.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
    )

    def epoch() -> None:
        for images, labels in loader:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            loss = F.cross_entropy(network(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_clip)
            optimizer.step()

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="wrn40_2")
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs of each")
    parser.add_argument("--steps", type=int, default=20, help="of an epoch")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=0, help="of the plain loop")
    parser.add_argument("--compile", action="store_true", help="add a row of this package with the network compiled")
    parser.add_argument("--json", help="file to write the images a second to")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    data = made_up(arguments.steps * arguments.batch, device)
    settings = TrainingSettings(model=arguments.model, batch_size=arguments.batch, epochs=arguments.rounds + 2)

    def training(compiled: bool) -> Callable[[], object]:
        return Fit(
            data,
            lambda: make_network(arguments.model, channels=3, classes=10),
            settings.recipe(device, cutout=CUTOUT),
            Crop((32, 32), padding=4, flip=True),
            augment=FasterAutoAugment.from_pretrained("cifar10-paper").policy,
            compile=compiled,
        ).train_epoch

    epochs = {"this package": training(False), "plain loop": plain_loop(data, settings, device, arguments.workers)}
    if arguments.compile:
        epochs["this package, compiled"] = training(True)
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for round_ in range(arguments.rounds + 1):
        for name, epoch in epochs.items():
            wait_for(device)
            began = time.perf_counter()
            epoch()
            wait_for(device)
            if round_:
                rates[name].append(len(data.images) / (time.perf_counter() - began))
    precision = "bfloat16" if settings.recipe(device).bfloat16 else "float32"
    where = "" if device.type == "cuda" else f", {arguments.threads} threads"
    setting = f"{arguments.model}, batch {arguments.batch}{where}, {precision} for this package"
    print(f"{setting}; torch {torch.__version__}, {hardware(device)}; median of {arguments.rounds} epochs")
    base = statistics.median(rates["plain loop"])
    for name, values in rates.items():
        median = statistics.median(values)
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"{name:24} {median:9.1f} images/s  ({spread})  {median / base:.2f} times the plain loop")
    if arguments.json:
        with open(arguments.json, "w") as file:
            document = {"setting": setting, "torch": torch.__version__, "hardware": hardware(device)}
            json.dump({**document, "images_per_second": rates}, file, indent=2)


if __name__ == "__main__":
    main()
