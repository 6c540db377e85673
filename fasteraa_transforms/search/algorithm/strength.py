"""The strength of a policy, held where it should be, whatever the objective.

The strength is the mean displacement E|S(X) - X| of the images. The paper's objective is best served by a policy that
does nothing. So, beyond the paper, the displacement may count in the policy's loss, with a multiplier. The multiplier
rises while the strength is below its target, and sinks to zero while it is not (dual ascent). The objective then
decides which changes are good, not whether to change.
"""

from dataclasses import dataclass

from torch import Tensor

PROPORTIONAL = 1.0
"""Added to the multiplier in a step, in proportion to the missing strength: this much where all of it is missing. It
damps."""


@dataclass(frozen=True)
class Strength:
    """A strength that the policy is kept at or above.

    Attributes:
        target: mean |S(X) - X| over pixels in [0, 1]. As a scalar tensor, on the device, it can be changed between
            steps that are captured.
        rate: how fast the multiplier rises, a step, where the policy has no strength at all.

    Example:
        >>> import torch
        >>> multiplier = torch.tensor(0.25)
        >>> Strength(0.1, rate=0.5).pull(multiplier, torch.tensor(0.05)), multiplier
        (tensor(0.7500), tensor(0.5000))
    """

    target: float | Tensor
    rate: float = 0.05

    def pull(self, multiplier: Tensor, displacement: Tensor) -> Tensor:
        """How much the displacement counts in this step's loss.

        Args:
            multiplier: scalar, at least 0; changed in place, in proportion to the missing displacement.
            displacement: scalar, of this step's images, not differentiable.

        Returns:
            Scalar, at least 0.
        """
        shortfall = 1 - displacement / self.target
        pull = (multiplier + PROPORTIONAL * shortfall).clamp(min=0)
        multiplier.copy_((multiplier + self.rate * shortfall).clamp(min=0))
        return pull
