"""Bytes on a GPU, through the kernels of `fasteraa_transforms.backends.cuda`."""

import functools
import importlib.util

import torch
from torch import Tensor

from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.backends.schedule import chosen
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.plan import Plan


@functools.cache
def runs_kernels(device: torch.device) -> bool:
    """Whether this is a GPU of NVIDIA's that Triton has code for, and Triton is installed."""
    if device.type != "cuda" or torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (7, 5)


def takes(images: Tensor, plan: Plan) -> bool:
    """Whether these are bytes on such a GPU, of a size and with parameters that the kernels are exact for."""
    if images.dtype != torch.uint8 or not runs_kernels(images.device):
        return False
    from fasteraa_transforms.backends import cuda  # on first use: it needs Triton

    if plan.operation.device.type == "cpu":
        chosen(plan)  # raises
    return cuda.supports(images, plan)


def run(images: Tensor, plan: Plan, extras: Extras, epilogue: Epilogue | None) -> Tensor:
    """The kernels on uint8 [B, C, H, W]; the epilogue costs no pass of its own."""
    from fasteraa_transforms.backends import cuda

    plan = plan.to(images.device)
    if epilogue is None:
        return cuda.apply_plan(images, plan, interpolation=extras.interpolation, fill=extras.fill)
    return cuda.apply_plan(
        images,
        plan,
        interpolation=extras.interpolation,
        fill=extras.fill,
        epilogue=epilogue.levels(images.shape[1], images.device),
        memory_format=epilogue.memory_format,
    )
