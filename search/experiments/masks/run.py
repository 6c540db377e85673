"""Which augmentation for masks: a race on animals whose pixels have the class of the animal.

    python search/experiments/masks/run.py --data FOLDER [--images 1000] [--minutes 10]

FOLDER/silhouettes/train holds a folder of silhouettes for each animal. Of each image a mask is made: pixels of the
animal have the animal's class, the others are background. Then the default search runs on images and masks. What it
keeps and where its contenders stand is a row of rows.jsonl beside this file.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from fasteraa_transforms.search import Settings, open_dataset, search
from fasteraa_transforms.search.runtime.hardware import device_name

HERE = Path(__file__).parent
ROWS = HERE / "rows.jsonl"
INK = 128
"""Pixels of this value or more show the animal."""


class Masks:
    """Silhouettes with a mask each: 0 is background, a pixel of the animal has its class, counted from 1."""

    def __init__(self, silhouettes: Any) -> None:
        self.silhouettes = silhouettes

    def __len__(self) -> int:
        return len(self.silhouettes)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        image, label = self.silhouettes[index]
        grey = image.convert("L")
        return grey, grey.point([0] * INK + [label + 1] * (256 - INK))


def main() -> None:
    """Search, and keep a row of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dataset = Masks(open_dataset(str(options.data / "silhouettes" / "train")))
    settings = Settings(num_images=options.images, minutes=options.minutes, seed=options.seed, flip=False, padding=4)
    out = Path("runs") / "masks" / str(options.seed)
    began = time.perf_counter()
    policy = search(dataset, settings, out=out, name="masks", resume=(out / "checkpoint.pt").exists())
    policy.save(HERE / f"policy-{options.seed}.json")
    origin = policy.provenance
    row = {
        "kind": "search",
        "data": "silhouettes as masks",
        "seed": options.seed,
        "images": options.images,
        "minutes": options.minutes,
        "kept": origin["kept"],
        "seconds": round(time.perf_counter() - began),
        "plan": origin["plan"],
        "standings": origin["standings"],
        "hardware": device_name(torch.device("cpu")),
    }
    with ROWS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
