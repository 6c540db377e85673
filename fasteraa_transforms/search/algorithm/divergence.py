"""A search that diverges is ended before anything of the epoch is kept."""

from typing import NamedTuple

import torch
from torch import Tensor

from fasteraa_transforms.search.algorithm.state import SearchState

EXPLODED = 1e4
"""A gradient penalty above it, in the median step of an epoch, ends the search: a slope above 100 where 1 is wanted."""


class Measured(NamedTuple):
    """What the steps of an epoch measured."""

    names: tuple[str, ...]
    values: Tensor  # [steps, metrics], on the CPU

    def row(self, step: int) -> dict[str, float]:
        """What one step measured."""
        return dict(zip(self.names, self.values[step].tolist(), strict=True))

    def means(self) -> dict[str, float]:
        """The mean over the steps."""
        return dict(zip(self.names, self.values.mean(0).tolist(), strict=True))


def divergence(measured: Measured, state: SearchState, *, penalty_every: int = 1) -> tuple[int, str] | None:
    """The step after which a search cannot go on, counted from 0, and why; None where it can.

    Args:
        measured: in the steps of an epoch.
        state: after them.
        penalty_every: how many steps have one gradient penalty, which counts as many times.
    """
    names, values = measured
    finite = values.isfinite()
    if not finite.all():
        step = int((~finite.all(1)).nonzero()[0])
        return step, ", ".join(f"{name} is {values[step, i]:g}" for i, name in enumerate(names) if not finite[step, i])
    if "gradient_penalty" in names:
        penalty = values[:, names.index("gradient_penalty")]
        penalty = penalty / penalty_every
        taken = penalty[penalty != 0]
        if len(taken) and taken.median() > EXPLODED:
            step = int((penalty > EXPLODED).nonzero()[0])
            return step, f"the critic explodes, its slope is {1 + penalty[step].sqrt():.3g} where 1 is wanted"
    policy = state.policy
    parameters = [*state.critic.parameters(), policy.probabilities, policy.magnitudes]
    whole = [parameter.isfinite().all() for parameter in parameters]
    whole.append((policy.weights < torch.inf).all())  # -∞ leaves an operation out
    if not torch.stack(whole).all():
        return len(values) - 1, "it left parameters that are not finite"
    return None
