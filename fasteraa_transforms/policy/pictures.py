"""Contact sheets: images in a grid, with what was done to each written below."""

from collections.abc import Mapping, Sequence
from functools import cache

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fasteraa_transforms.backends import apply
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy.policy import Policy

_SIZES = (10, 9, 8)  # of captions, the first that fits below a tile
_MOST_PIXELS = 10**8  # of a sheet, which then takes 300 MB
_GAP, _LINE = 6, 13  # pixels between tiles, and from one line of text to the next

Cell = tuple[Tensor, Sequence[str]]  # uint8 [C, H, W], and the lines below it


def describe(plan: Plan, index: int) -> list[str]:
    """What is done to image ``index``, a line a stage: the operation and its parameter, "-" where it is skipped."""
    lines = []
    operations = list(OPERATIONS.values())
    for stage in range(plan.stages):
        operation = operations[int(plan.operation[index, stage])]
        if not plan.applied[index, stage]:
            lines.append("-")
        elif operation.has_magnitude:
            lines.append(f"{operation.name} {plan.parameter[index, stage].item():.3g}")
        else:
            lines.append(operation.name)
    return lines


def contact_sheet(policy: Policy, images: Tensor, *, samples: int = 8, seed: int = 0, tile: int = 96) -> Image.Image:
    """Originals in the first column, ``samples`` augmentations of each beside it with their operations below.

    Args:
        policy: the policy.
        images: uint8 [N, C, H, W], C 1 or 3.
        samples: augmented images in a row.
        seed: of the draws.
        tile: side in pixels that images are shown at.

    Returns:
        An RGB image, N rows of 1 + ``samples`` tiles.
    """
    count = len(images)
    plan = policy.sample(count * samples, generator=torch.Generator().manual_seed(seed))
    augmented = apply(images.repeat(samples, 1, 1, 1), plan)  # sample by sample, so that partners are mostly others
    rows: list[list[Cell]] = [[(image, ["original"])] for image in images]
    for index, image in enumerate(augmented):
        rows[index % count].append((image, describe(plan, index)))
    return _grid(rows, policy.stages, tile)


def sub_policy_sheet(
    policy: Policy, images: Tensor, *, samples: int = 8, seed: int = 0, tile: int = 96, limit: int | None = None
) -> Image.Image:
    """A row of ``samples`` augmentations for each sub-policy, below a row of originals.

    Args:
        policy: the policy.
        images: uint8 [N, C, H, W], C 1 or 3; column j shows image j mod N.
        samples: columns.
        seed: of the draws.
        tile: side in pixels that images are shown at.
        limit: so many sub-policies, the first ones; None shows all.

    Returns:
        An RGB image, 1 + L rows of ``samples`` tiles.
    """
    shown = {f"sub-policy {i}": Policy([each]) for i, each in enumerate(policy.sub_policies[:limit])}
    return policies_sheet(shown, images, samples=samples, seed=seed, tile=tile)


def policies_sheet(
    policies: Mapping[str, Policy], images: Tensor, *, samples: int = 8, seed: int = 0, tile: int = 96
) -> Image.Image:
    """A row of ``samples`` augmentations for each policy, with its name, below a row of originals.

    Args:
        policies: by name, at least one.
        images: uint8 [N, C, H, W], C 1 or 3; column j shows image j mod N.
        samples: columns.
        seed: of the draws.
        tile: side in pixels that images are shown at.

    Returns:
        An RGB image, 1 + L rows of ``samples`` tiles for L policies.
    """
    batch = images[torch.arange(samples) % len(images)]
    generator = torch.Generator().manual_seed(seed)
    rows: list[list[Cell]] = [[(image, ["original"]) for image in batch]]
    for name, policy in policies.items():
        plan = policy.sample(samples, generator=generator)
        lines = [[name, *describe(plan, column)] for column in range(samples)]
        rows.append(list(zip(apply(batch, plan), lines, strict=True)))
    return _grid(rows, 1 + max(policy.stages for policy in policies.values()), tile)


def check_sheet(rows: int, columns: int, side: int, lines: int) -> None:
    """Raise ValueError for a sheet that would take too much memory.

    Args:
        rows: of tiles.
        columns: of tiles.
        side: of a tile, in pixels.
        lines: of text below a tile.
    """
    pixels = rows * columns * (side + _GAP) * (side + _GAP + _LINE * lines)
    if pixels > _MOST_PIXELS:
        raise ValueError(
            f"a sheet should have at most {_MOST_PIXELS:,} pixels, but {rows} × {columns} tiles of {side} pixels "
            f"would have {pixels:,}"
        )


def tile(image: Tensor, side: int) -> Image.Image:
    """A uint8 image [C, H, W], C 1 or 3, as a square RGB picture of ``side`` pixels."""
    array = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
    enlarge = picture.width < side
    return picture.resize((side, side), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def _grid(rows: Sequence[Sequence[Cell]], lines: int, side: int) -> Image.Image:
    """All tiles are ``side`` pixels square, with room for ``lines`` lines below each."""
    width, height = side + _GAP, side + _LINE * lines + 2 + _GAP
    sheet = Image.new("RGB", (len(rows[0]) * width + _GAP, len(rows) * height + _GAP), "white")
    text = ImageDraw.Draw(sheet)
    for row, cells in enumerate(rows):
        for column, (image, caption) in enumerate(cells):
            left, top = _GAP + column * width, _GAP + row * height
            sheet.paste(tile(image, side), (left, top))
            for i, line in enumerate(caption):
                shown, font = _fitted(line, side + 2)
                text.text((left, top + side + 1 + _LINE * i), shown, fill="black", font=font)
    return sheet


_Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@cache
def _font(size: int) -> _Font:
    return ImageFont.load_default(size=size)


def _fitted(line: str, width: int) -> tuple[str, _Font]:
    """A line and its font so that it is no wider than ``width`` pixels: smaller, and at last cut off."""
    for size in _SIZES:
        font = _font(size)
        if font.getlength(line) <= width:
            return line, font
    while len(line) > 1 and font.getlength(f"{line}…") > width:
        line = line[:-1]
    return f"{line}…", font
