"""The exact forms, on the CPU: one PIL image, one image of bytes, or a batch of bytes."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fasteraa_transforms.backends.epilogue import Epilogue, finish
from fasteraa_transforms.backends.schedule import Step, by_image, by_operation
from fasteraa_transforms.backends.threads import for_each
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.table import OPERATIONS, Operation
from fasteraa_transforms.plan import Plan

Pixels = NDArray[np.uint8]  # [N, C, H, W]

# The uint8 forms compute this many values at a time, or one image if it has more. More values at a time are no faster.
# So wider intermediates stay within a few MiB for any batch, or within those of one large image.
_CHUNK = 2**16

# Images with at least this many values are shared among threads. Two threads took 0.67 of the time of one at 3 × 512 ×
# 512, but 1.05 of it at 3 × 224 × 224 (docs/benchmarks.md). The bound is a round number between the two.
_THREADED = 2**19


def pillow_image(image: Image.Image, steps: Sequence[Step], extras: Extras) -> Image.Image:
    """A PIL image after all steps, always a new one. It has no partner, so that nothing is blended with it."""
    operations = tuple(OPERATIONS.values())
    result = image
    for index, parameter, centre in steps if 0 not in image.size else ():
        operation = operations[index]
        takes = operation.takes
        if "partner" not in takes:
            given = extras if "centre" not in takes else Extras(centre=centre)
            result = operation.pillow(result, parameter, given)
    return image.copy() if result is image else result


def uint8_image(image: Pixels, steps: Sequence[Step], extras: Extras) -> Pixels:
    """An image [1, C, H, W] after all steps; itself if nothing changes it. It has no partner either."""
    operations = tuple(OPERATIONS.values())
    for index, parameter, centre in steps:
        operation = operations[index]
        takes = operation.takes
        if "partner" not in takes:
            given = extras if "centre" not in takes else Extras(centre=(centre,))
            image = operation.uint8(image, (parameter,), given)
    return image


def takes(images: Tensor, plan: Plan) -> bool:
    """Whether these are bytes, on any device."""
    return images.dtype == torch.uint8


def run(images: Tensor, plan: Plan, extras: Extras, epilogue: Epilogue | None) -> Tensor:
    """The exact forms on uint8 [B, C, H, W]. The result lies where the images do."""
    before = np.ascontiguousarray(images.cpu().numpy())
    size = _CHUNK // before[0].size
    plan = plan.to("cpu")
    after = _one_by_one(before, plan, extras) if size < 2 else _together(before, plan, extras, size)
    return finish(torch.from_numpy(after).to(images.device), epilogue)


def _one_by_one(before: Pixels, plan: Plan, extras: Extras) -> Pixels:
    """Large images: each goes through all stages at once, so that it stays in the cache of the processor."""
    operations = tuple(OPERATIONS.values())
    after = np.empty_like(before)
    images = by_image(plan)

    def work(n: int) -> None:
        image = before[n, None]
        for (index, parameter, centre), partner in images[n]:
            operation = operations[index]
            given = _with(extras, operation, (centre,), before[partner, None])
            image = operation.uint8(image, (parameter,), given)
        after[n] = image[0]

    if before[0].size >= _THREADED:
        for_each(work, range(len(before)))
    else:
        for n in range(len(before)):
            work(n)
    return after


def _together(before: Pixels, plan: Plan, extras: Extras, size: int) -> Pixels:
    """Small images: stage by stage, up to ``size`` at a time that have the same operation."""
    after = before.copy()
    parameter, centre, partner = plan.parameter.numpy(), plan.centre.numpy(), plan.partner.numpy()
    for stage, groups in enumerate(by_operation(plan)):
        for operation, rows in groups:
            for start in range(0, len(rows), size):
                index = rows[start : start + size]
                others = before[partner[index, stage]] if "partner" in operation.takes else None
                given = _with(extras, operation, centre[index, stage], others)
                images = after.take(index, axis=0)  # in two thirds of the time of after[index]
                after[index] = operation.uint8(images, parameter[index, stage].tolist(), given)
    return after


def _with(extras: Extras, operation: Operation, centre: object, partner: object) -> Extras:
    """The extras, with centre and partner if the operation takes one of them."""
    if "centre" in operation.takes or "partner" in operation.takes:
        return Extras(extras.interpolation, extras.fill, centre, partner)
    return extras
