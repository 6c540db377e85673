"""The differentiable forms, on the device of the images: floats, and wider integers by way of them."""

import numpy as np
import torch
from torch import Tensor

from fasteraa_transforms.backends.epilogue import Epilogue, finish
from fasteraa_transforms.backends.schedule import by_operation, chosen
from fasteraa_transforms.operations.differentiable import finite
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.plan import Plan


def takes(images: Tensor, plan: Plan) -> bool:
    """Whether these are floats, on any device."""
    return images.is_floating_point()


def run(images: Tensor, plan: Plan, extras: Extras, epilogue: Epilogue | None) -> Tensor:
    """The differentiable forms on float [B, C, H, W]; half precision is computed in float32.

    An operation takes 0 for NaN and -∞, and 1 for ∞. An image that no operation reaches keeps them.
    """
    plan = plan.to("cpu")
    before = images if images.dtype.itemsize >= 4 else images.float()
    clean = finite(before)
    if clean is not before:
        reached = _send(torch.from_numpy((chosen(plan) >= 0).any(1)), images.device)
        clean = torch.where(reached[:, None, None, None], clean, before)
    after = through_stages(clean, plan, extras)
    return finish(images.clone() if after is clean else after.to(images.dtype), epilogue)


def takes_uint16(images: Tensor, plan: Plan) -> bool:
    """Whether these are uint16, on any device."""
    return images.dtype == torch.uint16


def run_uint16(images: Tensor, plan: Plan, extras: Extras, epilogue: Epilogue | None) -> Tensor:
    """The same on uint16 [B, C, H, W], computed as float64 in [0, 1], which gives unchanged values back exactly.

    The fill is in [0, 65535]; its fraction is dropped.
    """
    fill = tuple(int(value) / 65535 for value in extras.fill)
    after = through_stages(images.double() / 65535, plan.to("cpu"), extras._replace(fill=fill))
    return finish((after * 65535).round().to(torch.uint16), epilogue)


def through_stages(before: Tensor, plan: Plan, extras: Extras) -> Tensor:
    """Images [B, C, H, W] after all stages; themselves if no operation is applied.

    Args:
        before: floats without NaN and infinities; or any dtype, where every operation is an affine map and the
            interpolation NEAREST, which only selects pixels.
        plan: on the CPU.
        extras: interpolation and fill.
    """
    device, after = before.device, before
    # In a caller's autocast region the convolution of sharpness would run in 16 bits, and lose up to a level.
    with torch.autocast(device.type, enabled=False):
        for stage, groups in enumerate(by_operation(plan)):
            if not groups:
                continue
            untouched = np.ones(len(plan), dtype=bool)
            for _, rows in groups:
                untouched[rows] = False
            order = torch.from_numpy(np.concatenate([*(rows for _, rows in groups), untouched.nonzero()[0]]))
            # Sort the images by operation, so that each group is a slice. A stage then copies the batch twice, for any
            # number of operations, never waits for the device, and writes nothing in place.
            after = after[_send(order, device)]
            parameters, centres = _send(plan.parameter[order, stage], device), _send(plan.centre[order, stage], device)
            partners = _send(plan.partner[order, stage], device)
            outputs = []
            begin = 0
            for operation, rows in groups:
                group = slice(begin, begin + len(rows))
                begin = group.stop
                others = before[partners[group]] if "partner" in operation.takes else None
                given = Extras(extras.interpolation, extras.fill, centres[group], others)
                outputs.append(operation.differentiable(after[group], parameters[group], given))
            after = torch.cat([*outputs, after[begin:]])[_send(order.argsort(), device)]
    return after


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
