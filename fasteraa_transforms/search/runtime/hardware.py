"""Facts about the machine: its processor, the device of a run, what the device computes fast."""

import os
import platform
from pathlib import Path

import torch


def processor() -> str:
    """Model name of the processor, as Linux tells it.

    Example:
        >>> processor() != ""
        True
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} threads" if names else platform.machine()


def device_name(device: torch.device) -> str:
    """What ``device`` is called: the model of the GPU, or that of the processor.

    Example:
        >>> device_name(torch.device("cpu")) == processor()
        True
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is CUDA where there is one.

    Raises:
        ValueError: no such device.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(". ")[0].splitlines()[0]
        raise ValueError(f"device should be auto or one that PyTorch finds, but got {name!r} ({reason})") from error
    return device


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 arithmetic, so that it is faster than float32 and not only smaller."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def memory() -> int | None:
    """Bytes of the machine's memory; None where the system does not tell.

    Example:
        >>> memory() is None or memory() > 2**28
        True
    """
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
