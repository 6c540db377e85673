"""Time whole searches, and their steps against a straightforward implementation: one command, one file.

    python benchmarks/search_run.py --json FILE [--device cuda] [--repeats 3] [--rounds 10]

The searches are those of the paper's table 2 on small images, at its settings: 4,000 images of CIFAR-10's size and
1,000 of SVHN's, 20 epochs, WideResNet-40-2; and CIFAR-10's at the defaults of this package. What the images show does
not matter to the time, so they are made up, and nothing is downloaded. The first search compiles and captures what
later ones have to as well, so all repeats are given. The steps are those of `search_step`, in turns, in the same run.
The paper gives 0.23 and 0.061 GPU hours for its searches, on another machine.
"""

import argparse
import dataclasses
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from search_step import hardware, measure
from torch import Tensor

from fasteraa_transforms.search import Settings, search

SEARCHES: dict[str, tuple[str, Settings]] = {
    "CIFAR-10, the paper's settings": ("cifar10", Settings.paper()),
    "SVHN, the paper's settings": ("svhn", Settings.paper()),
    "CIFAR-10, the adversarial search's default settings": (
        "cifar10",
        Settings(contenders=(), strengths=(1.0, 0.5, 0.25)),
    ),
}


def made_up(count: int, side: int = 32) -> list[tuple[Tensor, int]]:
    """Images of 10 classes: a colour for each class, and noise."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(10, 3, 1, 1, generator=generator)
    noise = torch.rand(count, 3, side, side, generator=generator)
    labels = torch.arange(count) % 10
    images = ((colours[labels] + noise) / 2 * 255).to(torch.uint8)
    return list(zip(images, labels.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="file to write")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3, help="searches of each kind")
    parser.add_argument("--rounds", type=int, default=10, help="timed turns of each kind of step")
    parser.add_argument("--steps", type=int, default=10, help="steps of a turn")
    parser.add_argument("--searches", nargs="+", default=list(SEARCHES), choices=list(SEARCHES))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs; times mean nothing")
    arguments = parser.parse_args()
    name = "cuda" if arguments.device == "auto" and torch.cuda.is_available() else arguments.device
    device = torch.device("cpu" if name == "auto" else name)
    smoke: dict[str, Any] = {"num_images": 16, "batch_size": 8, "epochs": 3, "critic": "small", "classifier_epochs": 1}
    found: dict[str, Any] = {}
    for kind in arguments.searches:
        recipe, settings = SEARCHES[kind]
        settings = dataclasses.replace(settings, device=str(device), **(smoke if arguments.smoke else {}))
        dataset = made_up(16 if arguments.smoke else 4000)
        runs = []
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            provenance: Any = search(dataset, settings, name=recipe, progress=False).provenance
            whole = time.perf_counter() - began
            runs.append({"seconds": provenance["seconds"], "with_loading_and_report": whole})
        measured = [run["seconds"] for run in runs]
        found[kind] = {"runs": runs, "steps": provenance["steps"], "precision": provenance["precision"]}
        print(f"{kind}: {statistics.median(measured):.1f} s ({min(measured):.1f} to {max(measured):.1f})", flush=True)
    sizes = {"depth": 10, "batch": 8} if arguments.smoke else {"depth": 40, "batch": 128}
    steps = measure(device, **sizes, rounds=arguments.rounds, steps=arguments.steps)
    for kind, seconds in steps.items():
        print(f"a step, {kind}: {statistics.median(seconds):.4f} s", flush=True)
    document = {
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "versions": {each: version(each) for each in ("torch", "torchvision")},
        "smoke": arguments.smoke,
        "searches": found,
        "seconds_per_step": {**sizes, "steps_a_turn": arguments.steps, "variants": steps},
    }
    arguments.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
