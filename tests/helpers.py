"""What several test modules make in the same way."""

from typing import Any

from torch import Tensor

from fasteraa_transforms.search.algorithm.strength import Strength
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.algorithm.wasserstein import Wasserstein

STEP_METRICS = (
    "critic_loss",
    "wasserstein",
    "gradient_penalty",
    "class_loss_real",
    "accuracy_real",
    "policy_loss",
    "class_loss_augmented",
    "accuracy_augmented",
    "displacement",
    "multiplier",
)
"""What a step of the paper's objective measures, in this order."""


def wasserstein(
    mean: Tensor, std: Tensor, *, target: float | Tensor | None = None, multiplier_rate: float = 0.05, **options: Any
) -> Wasserstein:
    """The paper's objective, its strength held at ``target``; ``options`` of `Wasserstein` or of its tools."""
    weights = {name: options.pop(name) for name in Wasserstein.__dataclass_fields__ if name in options}
    strength = None if target is None else Strength(target, multiplier_rate)
    return Wasserstein(Tools(mean, std, strength=strength, **options), **weights)
