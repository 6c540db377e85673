"""Where the kernels of `fasteraa_transforms.backends.cuda` run."""

import functools
import importlib.util

import torch


@functools.cache
def runs_kernels(device: torch.device) -> bool:
    """Whether this is a GPU of NVIDIA's that Triton has code for, and Triton is installed."""
    if device.type != "cuda" or torch.version.cuda is None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (7, 5)
