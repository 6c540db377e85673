"""Draw the pictures of the docs: each shipped policy on scikit-learn's two photographs.

    python docs/pictures.py

Writes docs/images/NAME.png for each policy in the package.
"""

from importlib.resources import files
from pathlib import Path

import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2 import functional as tv

from fasteraa_transforms import Policy
from fasteraa_transforms._contact_sheet import contact_sheet

SIDE = 192


def main() -> None:
    photographs = [torch.tensor(photograph).permute(2, 0, 1) for photograph in load_sample_images().images]
    images = torch.stack(
        [tv.resize(tv.center_crop(photograph, [427, 427]), [SIDE, SIDE]) for photograph in photographs]
    )
    for entry in (files("fasteraa_transforms") / "policies").iterdir():
        policy = Policy.from_json(entry.read_text(), source=entry.name)
        sheet = contact_sheet(policy, images, samples=8, seed=1, tile=112)
        sheet.save(Path(__file__).parent / "images" / f"{policy.name}.png", optimize=True)


if __name__ == "__main__":
    main()
