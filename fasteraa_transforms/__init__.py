"""Faster AutoAugment (Hataya et al., ECCV 2020) as torchvision-compatible transforms.

Example:
    >>> import torch
    >>> from fasteraa_transforms import FasterAutoAugment, Policy
    >>> rotate = {"operation": "rotate", "weight": 3, "probability": 0.6, "magnitude": 0.4}
    >>> flip = {"operation": "flip", "weight": 1, "probability": 0.5}
    >>> transform = FasterAutoAugment(Policy([[[rotate, flip], [flip]]], name="example"))
    >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)  # each of the 8 draws for itself
    >>> transform(images).shape
    torch.Size([8, 3, 32, 32])
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from fasteraa_transforms import functional
from fasteraa_transforms.backends import apply
from fasteraa_transforms.backends.epilogue import Epilogue
from fasteraa_transforms.operations.table import OPERATIONS, Operation
from fasteraa_transforms.pipeline.collate import AugmentCollate, augment_each
from fasteraa_transforms.pipeline.loader import DeviceLoader
from fasteraa_transforms.pipeline.transform import FasterAutoAugment
from fasteraa_transforms.plan import Plan
from fasteraa_transforms.policy.errors import PolicyError
from fasteraa_transforms.policy.origins import list_policies
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy

if TYPE_CHECKING:
    from fasteraa_transforms.policy.schema import Candidate

__all__ = [
    "OPERATIONS",
    "AugmentCollate",
    "Candidate",
    "DeviceLoader",
    "Epilogue",
    "FasterAutoAugment",
    "Operation",
    "Plan",
    "Policy",
    "PolicyError",
    "RelaxedPolicy",
    "apply",
    "augment_each",
    "functional",
    "list_policies",
]

try:
    __version__ = version("fasteraa_transforms")
except PackageNotFoundError:  # a bare checkout, not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "Candidate":  # on first use: it needs pydantic, whose import takes a while
        from fasteraa_transforms.policy.schema import Candidate

        return Candidate
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
