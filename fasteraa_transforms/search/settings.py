"""Every setting of a search, with the paper's values as defaults."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Settings:
    """Settings of a search; the defaults are the paper's (section 5.2) where it gives one.

    None means "as fits the dataset": the paper's subset sizes, Fast AutoAugment's crop and flip.
    """

    epochs: int = 20
    """Passes over the subset."""
    batch_size: int = 128
    """Images a step: half of them are augmented, the other half stay as the real sample."""
    sub_policies: int = 10
    """L, the number of sub-policies."""
    stages: int = 2
    """K, operations applied one after another in a sub-policy."""
    seed: int = 0
    """Of the subset, the start of policy and critic, and every draw."""
    num_images: int | None = None
    """Size of the random subset searched on; none: 4,000 (SVHN 1,000, ImageNet 6,000, all digits)."""
    balanced: bool = False
    """Draw num_images evenly from all classes, as far as they go; else as they come."""
    image_size: int | None = None
    """Side in pixels that images are resized and cropped to; none: their own size (32 for digits, 224 for ImageNet)."""
    padding: int | None = None
    """Zeros around an image before its random crop, in pixels; none: 4 (0 for ImageNet)."""
    flip: bool | None = None
    """Whether the baseline preprocessing mirrors images; none: yes, but for digits."""
    critic: str | None = None
    """small, wrn40_2, resnet50, or module:callable taking the number of channels; none: small for digits, else by the
    size of the images: small up to 16 pixels, wrn40_2 up to 64, else resnet50."""
    policy_learning_rate: float = 1e-3
    """Adam's, for weights, probabilities and magnitudes."""
    critic_learning_rate: float = 1e-3
    """Adam's, for the critic and classifier."""
    betas: tuple[float, float] = (0.0, 0.999)
    """Adam's, for both."""
    classification_weight: float = 0.1
    """ε, the weight of the class losses."""
    gradient_penalty_weight: float = 10.0
    """Weight of the gradient penalty."""
    temperature: float = 0.05
    """λ, of the relaxed Bernoulli gates."""
    selection_temperature: float = 0.05
    """η, of the softmax over operations."""
    chunk_size: int = 1
    """Consecutive images that share a sub-policy. 1: each image draws its own; the paper: 8 (16 for ImageNet)."""
    prune: float = 0.01
    """Candidates with a smaller selection probability are left out of the policy file."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: cuda where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the critic; auto: bfloat16 for wrn40_2 and resnet50 where the hardware computes in it, else float32."""

    def __post_init__(self) -> None:
        positive = (
            "epochs",
            "batch_size",
            "sub_policies",
            "stages",
            "temperature",
            "selection_temperature",
            "chunk_size",
        )
        for name in (*positive, "num_images", "image_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} should be positive, but got {value} instead")
        if self.padding is not None and self.padding < 0:
            raise ValueError(f"padding should not be negative, but got {self.padding} instead")
        if self.batch_size % 2:
            raise ValueError(f"batch_size should be even (half is augmented), but got {self.batch_size} instead")


def pick_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is CUDA where there is one.

    Raises:
        ValueError: no such device.
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


def find_callable(kind: str, name: str) -> Callable[..., Any]:
    """What ``module:callable`` names.

    Args:
        kind: what it is for, for messages.
        name: module, importable from where Python runs, and callable.

    Raises:
        ValueError: no such module or callable.

    Example:
        >>> find_callable("dataset", "fasteraa_transforms.search:Digits").__name__
        'Digits'
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{kind} {name!r} was not found: {error}") from error
    if not callable(found):
        raise ValueError(f"{kind} {name!r} should be callable, but got {type(found).__name__} instead")
    return found


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the hardware has bfloat16 arithmetic, so that it is faster than float32 and not only smaller."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
