"""Masks of segmentation data: how they are found, read, and held as uint8 [N, H, W]."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fasteraa_transforms.pipeline.image_files import SIXTEEN_BITS, open_image
from fasteraa_transforms.search.data.folders import ImageFiles, find_splits_of_files, image_files, listed

IGNORED = 255
"""Class of the pixels that a held mask leaves out: those that the dataset does, and those outside of the image."""

_LEFT_OUT = 2**16 - 1  # the same in a mask that was read but is not held yet
_MODES = ("1", "L", "P", "I", *SIXTEEN_BITS)


def is_mask(target: Any) -> bool:
    """Whether the target of a sample is a mask and not a label: a PIL image, or an array or tensor of 2 or more axes.

    An array of one element is a label, whatever its axes.

    Example:
        >>> is_mask(torch.zeros(4, 4)), is_mask(torch.tensor(3))
        (True, False)
    """
    return isinstance(target, Image.Image) or (getattr(target, "ndim", 0) >= 2 and math.prod(target.shape) != 1)


def extent_of_mask(mask: Any) -> tuple[int, int]:
    """(height, width) of a mask as `is_mask` takes it."""
    return (mask.height, mask.width) if isinstance(mask, Image.Image) else tuple(mask.shape[-2:])


def read_mask(mask: Any, name: str, *, size: tuple[int, int], ignore_label: int) -> Tensor:
    """One sample's mask as int32 [H, W], 65535 where it is ignored.

    Args:
        mask: whole numbers, PIL image of mode 1, L, P, I or I;16, or array or tensor [H, W] or
            [1, H, W].
        name: of the sample, for messages.
        size: (height, width) of its image.
        ignore_label: value of pixels without a class.

    Raises:
        ValueError: a mask of another kind, shape or size, or a class that is negative or above 65534.
    """
    if isinstance(mask, Image.Image) and mask.mode not in _MODES:
        raise ValueError(
            f"the mask of {name} should hold classes (a PIL image of mode {', '.join(_MODES[:5])}), "
            f"but got one of mode {mask.mode} instead"
        )
    array = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if array.dtype.kind not in "bui":
        raise ValueError(f"the mask of {name} should hold whole numbers, but got {array.dtype} instead")
    if array.ndim == 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 2:
        raise ValueError(f"the mask of {name} should have the shape [H, W], but got {list(array.shape)} instead")
    if array.shape != size:
        raise ValueError(
            f"the mask of {name} should have the height and width of its image, {size}, "
            f"but got {tuple(array.shape)} instead"
        )
    array = array.astype(np.int64)
    classes = array[array != ignore_label]
    if len(classes) and not 0 <= classes.min() <= classes.max() < _LEFT_OUT:
        found = classes.min() if classes.min() < 0 else classes.max()
        raise ValueError(
            f"the mask of {name} should have classes from 0 to {_LEFT_OUT - 1}, but got {found} instead; "
            f"ignore_label (now {ignore_label}) says which value is no class"
        )
    return torch.from_numpy(np.where(array == ignore_label, _LEFT_OUT, array).astype(np.int32))


def hold_masks(masks: Sequence[Tensor], *, ignore_label: int) -> tuple[Tensor, list[int]]:
    """Masks uint8 [N, H, W] with classes numbered from 0, and the value that each class had before.

    Args:
        masks: int32 [H, W] each, from `read_mask`.
        ignore_label: for messages.

    Raises:
        ValueError: fewer than 2 classes, or more than 255.

    Example:
        >>> read = [torch.tensor([[7, 65535, 3]], dtype=torch.int32)]
        >>> hold_masks(read, ignore_label=255)
        (tensor([[[  1, 255,   0]]], dtype=torch.uint8), [3, 7])
    """
    present = torch.zeros(_LEFT_OUT + 1, dtype=torch.bool)
    for mask in masks:
        present[mask.flatten().long()] = True
    classes = present[:_LEFT_OUT].nonzero().flatten()
    if not 2 <= len(classes) <= IGNORED:
        got = f"{len(classes)} in {len(masks)} masks" if len(classes) != 1 else f"only class {classes.item()}"
        raise ValueError(
            f"masks should hold from 2 to {IGNORED} classes, but got {got} instead; "
            f"the value {ignore_label} (ignore_label) is no class"
        )
    table = torch.full((_LEFT_OUT + 1,), IGNORED, dtype=torch.uint8)
    table[classes] = torch.arange(len(classes), dtype=torch.uint8)
    return torch.stack([table[mask.long()] for mask in masks]), classes.tolist()


class MaskFolder(ImageFiles):
    """Images in ``images/`` and their masks in ``masks/``: files of the same name but for its ending.

    Samples are (RGB image, PIL image whose values are classes). Folders within the two are looked into as well; where
    they are splits, as in ``images/train`` and ``images/val``, the training split is taken. Hidden files are left out.

    Args:
        root: folder that holds both.

    Attributes:
        samples: the files, (image, mask), in the order of their names.
        notes: what was left out.

    Raises:
        ValueError: no image, one without its mask or the other way round, or several of one name.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.notes = []
        left_out: list[str] = []
        parts = [Path(root) / part for part in ("images", "masks")]
        splits = [find_splits_of_files(part) for part in parts]
        if splits[0] is not None and splits[1] is not None:
            parts = [part.train for part in splits if part is not None]
            left_out += [f"{part.name}/{folder.name}" for part in (Path("images"),) for folder in splits[0].test]
        images, masks = (_by_name(part, left_out) for part in parts)
        if alone := sorted(images.keys() ^ masks.keys()):
            where = "images" if alone[0] in images else "masks"
            raise ValueError(
                f"each file in images/ and masks/ of {str(root)!r} should have its other half, but {len(alone)} have "
                f"none, such as {alone[0]!r} of {where}/"
            )
        if not images:
            raise ValueError(f"images/ of {str(root)!r} should hold images, but got none")
        self.samples = [(images[name], masks[name]) for name in sorted(images)]
        if left_out:
            self.notes.append(f"left out of {root}: {listed(left_out)}")

    def read(self, index: int, *, at_least: tuple[int, int] | None = None) -> tuple[Image.Image, Image.Image]:
        """The sample ``index``; its image is decoded whole, as its mask is, and turned only if it fits the mask so."""
        image_file, mask_file = self.samples[index]
        with Image.open(mask_file) as mask:
            mask.load()
        image = open_image(image_file, upright=True, beside=(mask.height, mask.width))
        return image.convert("RGB"), mask


def _by_name(folder: Path, left_out: list[str]) -> dict[str, str]:
    """The images in a folder by their names without ending, relative to it."""
    paths: dict[str, str] = {}
    for path in sorted(image_files(folder, left_out), key=Path):
        name = Path(path).relative_to(folder).with_suffix("").as_posix()
        if name in paths:
            both = f"{Path(paths[name]).name} and {Path(path).name}"
            raise ValueError(f"names in {str(folder)!r} should differ, but got {both}")
        paths[name] = path
    return paths
