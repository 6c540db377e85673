"""The transfer of batches to a device."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from torchvision import tv_tensors


def check_callable(name: str, value: object) -> None:
    """Raise TypeError, naming an argument, if its value cannot be called."""
    if not callable(value):
        raise TypeError(f"{name} should be callable, but got {value!r} instead")


def move(batch: Any, device: torch.device, caller: str) -> Any:
    """The batch with its tensors on the device; to CUDA from pinned memory, without waiting.

    Raises:
        RuntimeError: there is no such CUDA device. The message names ``caller``.
    """
    with explained(device, caller):
        return tree_map_only(Tensor, partial(_move_tensor, device=device), batch)


@contextmanager
def explained(device: torch.device, caller: str) -> Iterator[None]:
    """An error of PyTorch for a missing CUDA device becomes a RuntimeError that says what to do."""
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type != "cuda" or (device.index or 0) < count:
            raise
        found = f"finds {count} of them, counted from 0" if count else "finds no CUDA device"
        raise RuntimeError(
            f'{caller} should run on {device}, but PyTorch {found}; without a GPU, pass device="cpu"'
        ) from error


def _move_tensor(tensor: Tensor, device: torch.device) -> Tensor:
    # Without waiting in this direction only: from the GPU to the CPU it would hand out memory still to be written.
    to_cuda = device.type == "cuda"
    moved = tensor.pin_memory() if to_cuda and tensor.device.type == "cpu" else tensor
    moved = moved.to(device, non_blocking=to_cuda)
    return tv_tensors.wrap(moved, like=tensor) if isinstance(tensor, tv_tensors.TVTensor) else moved
