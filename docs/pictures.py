"""Draw the pictures of the docs, on scikit-learn's two photographs.

    python docs/pictures.py

Writes docs/images/augmentations.jpg and docs/images/targets.png; those of all policies are made with the site.
"""

from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks, make_grid

from fasteraa_transforms import OPERATIONS, FasterAutoAugment, Policy, apply

SIDE = 256
SHOWN = (
    ("original", None), ("rotate", 1), ("shear_x", -1), ("solarize", None),
    ("original", None), ("invert", None), ("color", -1), ("brightness", 1),
)  # fmt: skip
TARGETS = ("rotate", "shear_x", "translate_x", "flip", "solarize")


def main() -> None:
    photographs = [torch.tensor(photograph).permute(2, 0, 1) for photograph in load_sample_images().images]
    images = torch.stack(
        [tv.resize(tv.center_crop(photograph, [427, 427]), [SIDE, SIDE]) for photograph in photographs]
    )
    augmentations(images).save(Path(__file__).parent / "images" / "augmentations.jpg", quality=88)
    targets(photographs[1]).save(Path(__file__).parent / "images" / "targets.png", optimize=True)


def augmentations(images: Tensor) -> Image.Image:
    """Each photograph and three of its augmentations, with captions for a narrow screen."""
    tile, line, gap = 256, 44, 8
    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 32)
    sheet = Image.new("RGB", (4 * tile + 3 * gap, 2 * (tile + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (name, sign) in enumerate(SHOWN):
        image = images[number // 4][None]
        if name != "original":
            candidate = {"operation": name, "weight": 1, "probability": 1, "sign": sign}
            if OPERATIONS[name].has_magnitude:
                candidate["magnitude"] = 0.8
            plan = Policy([[[candidate]]]).sample(1, generator=torch.Generator().manual_seed(2))
            image = apply(image, plan)
        left, top = number % 4 * (tile + gap), number // 4 * (tile + line)
        sheet.paste(tv.to_pil_image(image[0]).resize((tile, tile), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + tile + 1), name, "black", font=font)
    return sheet


def targets(photograph: Tensor) -> Image.Image:
    """A flower with its mask, its box, a box that is turned, and its centre, and the same after each operation."""
    image = tv_tensors.Image(photograph[:, 30:400, 85:530])
    size = image.shape[-2:]
    mask = tv_tensors.Mask((image[0].int() > image[2].int() + 40) & (image[0] > 120))
    mask[320:] = False  # another flower
    rows, columns = mask.nonzero().T
    left, top, right, bottom = (int(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    sample = {
        "image": image,
        "mask": mask,
        "boxes": tv_tensors.BoundingBoxes([[left, top, right, bottom]], format="XYXY", canvas_size=size),
        "turned": tv_tensors.BoundingBoxes([[150.0, 120.0, 150.0, 70.0, 40.0]], format="CXCYWHR", canvas_size=size),
        "points": tv_tensors.KeyPoints([[[222.0, 185.0]]], canvas_size=size),
    }

    def drawn(sample: dict[str, Tensor]) -> Tensor:
        picture = draw_segmentation_masks(sample["image"], sample["mask"], alpha=0.45, colors="blue")
        picture = draw_bounding_boxes(picture, sample["boxes"], colors="yellow", width=4)
        corners = tv.convert_bounding_box_format(sample["turned"], new_format="XYXYXYXY")
        picture = draw_bounding_boxes(picture, corners, colors="white", width=4)
        return draw_keypoints(picture, sample["points"], colors="red", radius=9)

    pictures = [drawn(sample)]
    for name in TARGETS:
        candidate = {"operation": name, "weight": 1, "probability": 1}
        if OPERATIONS[name].has_magnitude:
            candidate["magnitude"] = 0.6
        transform = FasterAutoAugment(Policy([[[candidate]]]), generator=torch.Generator().manual_seed(1))
        pictures.append(drawn(transform(sample)))
    grid = make_grid(torch.stack(pictures), nrow=3, padding=8, pad_value=255)
    return tv.to_pil_image(tv.resize(grid, [grid.shape[1] // 2, grid.shape[2] // 2]))


if __name__ == "__main__":
    main()
