"""Pictures of a search: a contact sheet of what the policy does, and the curves of the run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fasteraa_transforms.apply import apply
from fasteraa_transforms.operations import OPERATIONS
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy import Policy


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
    font = ImageFont.load_default(size=10)
    gap, caption = 6, 13 * policy.stages + 2
    height, width = tile + caption + gap, tile + gap
    sheet = Image.new("RGB", ((samples + 1) * width + gap, len(images) * height + gap), "white")
    text = ImageDraw.Draw(sheet)

    def place(image: Tensor, row: int, column: int, lines: Sequence[str]) -> None:
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).convert("RGB")
        enlarge = picture.width < tile
        picture = picture.resize((tile, tile), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)
        left, top = gap + column * width, gap + row * height
        sheet.paste(picture, (left, top))
        for i, line in enumerate(lines):
            text.text((left, top + tile + 1 + 13 * i), line, fill="black", font=font)

    count = len(images)
    plan = policy.sample(count * samples, generator=torch.Generator().manual_seed(seed))
    augmented = apply(images.repeat(samples, 1, 1, 1), plan)  # sample by sample, so that partners are mostly others
    for row in range(count):
        place(images[row], row, 0, ["original"])
        for sample in range(samples):
            index = sample * count + row
            place(augmented[index], row, sample + 1, describe(plan, index))
    return sheet


def curves(metrics: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Plot a run: losses a step, accuracies and strength, and the effective share of each operation an epoch.

    Args:
        metrics: the rows of ``metrics.jsonl``.
        path: of the PNG to write.
    """
    from matplotlib.figure import Figure

    steps = [row for row in metrics if row["kind"] == "step"]
    epochs = [row for row in metrics if row["kind"] == "epoch"]
    figure = Figure(figsize=(12, 8), layout="constrained")
    losses, guard, strengths, shares = figure.subplots(2, 2).flat
    x = [row["step"] for row in steps]
    for name in ("wasserstein", "gradient_penalty", "class_loss_real", "class_loss_augmented"):
        losses.plot(x, [row[name] for row in steps], label=name, linewidth=0.8)
    losses.set(title="losses", xlabel="step", yscale="symlog")
    for name in ("accuracy_real", "accuracy_augmented"):
        guard.plot([row["epoch"] for row in epochs], [row.get(name) for row in epochs], label=name)
    guard.set(title="accuracy of the class head", xlabel="epoch", ylim=(0, 1))
    x = [row["epoch"] for row in epochs]
    strengths.plot(x, [row["strength"] for row in epochs], label="strength: mean |S(X) - X|")
    strengths.plot(x, [row["drift"] for row in epochs], label="drift from the start (1: another random start)")
    strengths.plot(x, [row["entropy"] for row in epochs], label="selection entropy (1: all alike)")
    strengths.set(title="the policy", xlabel="epoch", ylim=(0, None))
    names = list(epochs[0]["share"])
    for i, name in enumerate(names):
        style = ("-", "--", ":")[i // 6]
        shares.plot(x, [row["share"][name] for row in epochs], style, color=f"C{i % 6}", label=name)
    shares.set(title="effective share (selection × probability)", xlabel="epoch", ylim=(0, None))
    for axes in (losses, guard, strengths):
        axes.legend(fontsize=8)
    shares.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=100)
