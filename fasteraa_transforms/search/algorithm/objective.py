"""What a search lowers: the objectives by name, and what an objective of one's own has to do."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from fasteraa_transforms.search.algorithm import matching, wasserstein
from fasteraa_transforms.search.algorithm.state import SearchState
from fasteraa_transforms.search.algorithm.tools import Tools
from fasteraa_transforms.search.settings import Settings, find_callable


class Objective(Protocol):
    """What a search lowers, one step on a batch at a time.

    `Tools` has what most objectives need. A step that changes its tensors in place and never waits for the device can
    be captured as a CUDA graph.

    An objective may also have an attribute ``holds_out``. Where it is true, the two halves of each batch are drawn from
    two fixed halves of the images. And it may have a method ``variant(state)``, for steps of several kinds. Its value
    says which kind of step comes next. Each kind is captured by itself.
    """

    def step(self, state: SearchState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Let the policy, and the networks that judge it, take one step.

        Args:
            state: changed in place.
            images: [B, C, H, W], float, in [0, 1], B even.
            labels: int64 [B], or masks uint8 [B, H, W].

        Returns:
            What the step measured, by name: scalars, of the same names in each step, that need no gradient. The
            diagnosis of a search asks for ``accuracy_real`` and ``accuracy_augmented``.
        """


OBJECTIVES: dict[str, Callable[[Settings, Tools], Objective]] = {
    "wasserstein": wasserstein.make,
    "gradient-matching": matching.make,
}
"""Makes each objective, given all settings and the tools of the run."""


def make_objective(name: str, settings: Settings, tools: Tools) -> Objective:
    """The objective called ``name``.

    Args:
        name: a key of `OBJECTIVES`, or ``module:callable``, where the callable takes the settings and the tools.
        settings: of the search.
        tools: of the run.

    Raises:
        ValueError: no such name, module or callable.

    Example:
        >>> import torch
        >>> tools = Tools(mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
        >>> make_objective("wasserstein", Settings.paper(), tools).classification_weight
        0.1
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name](settings, tools)
    if ":" not in name:
        known = ", ".join(OBJECTIVES)
        raise ValueError(f"objective should be one of {known} or module:callable, but got {name!r} instead")
    made: Objective = find_callable("objective", name)(settings, tools)
    return made
