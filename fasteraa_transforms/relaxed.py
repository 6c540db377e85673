"""The relaxed policy: the differentiable stand-in of a `Policy`, whose parameters the search learns."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode

from fasteraa_transforms import functional
from fasteraa_transforms.backends.options import Fill, check_interpolation, fill_values
from fasteraa_transforms.operations.differentiable import finite
from fasteraa_transforms.operations.extras import Extras
from fasteraa_transforms.operations.geometry import Affine
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.policy import Policy

PROBABILITY_MARGIN = 1e-4  # keeps the logit finite; the gradient passes, so that a probability of 0 or 1 can come back


def relaxed_bernoulli(probability: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Sample of the relaxed Bernoulli distribution (eq. 4).

    Args:
        probability: any shape, in [0, 1].
        uniform: same shape, noise uniform in (0, 1).
        temperature: λ > 0; the lower, the closer to 0 or 1.

    Returns:
        Same shape, in [0, 1], differentiable w.r.t. ``probability``, at 0 and 1 too.

    Example:
        >>> relaxed_bernoulli(torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.5]), 0.05).round()
        tensor([0., 1.])
    """
    inner = probability.detach().clamp(PROBABILITY_MARGIN, 1 - PROBABILITY_MARGIN)
    inner = inner + (probability - probability.detach())
    return torch.sigmoid((inner.logit() + uniform.logit()) / temperature)


def relaxed_categorical(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """Sample of the relaxed categorical distribution, which at a low temperature is nearly one-hot.

    Args:
        logits: [..., N]; the n-th of N choices is the largest of the sample with probability softmax(logits)_n.
        uniform: same shape, noise uniform in [0, 1).
        temperature: λ > 0; the lower, the closer to one-hot.

    Returns:
        Same shape, in [0, 1], adding up to 1 along the last axis, differentiable w.r.t. ``logits``.

    Source: Maddison et al. 2017, Jang et al. 2017; eq. 4 is the same for two choices.

    Example:
        >>> relaxed_categorical(torch.tensor([0.2, 0.7, 0.1]).log(), torch.tensor([0.5, 0.5, 0.5]), 0.05).round()
        tensor([0., 1., 0.])
    """
    gumbel = -(-uniform.clamp(min=torch.finfo(uniform.dtype).tiny).log()).log()
    return ((logits + gumbel) / temperature).softmax(-1)


class Draw(NamedTuple):
    """Everything that is random in one pass of a relaxed policy over B images.

    Attributes:
        sub_policy: int64 [B], the sub-policy of each image.
        gate: [B, K, N], uniform in [0, 1), the noise of the relaxed Bernoulli variables.
        sign: [B, K, N], 1 or -1, the direction of signed operations; 1 for the others.
        centre: [B, K, 2], uniform in [0, 1), x and y of the centre of cutout.
        partner: int64 [B, K], another image of the batch, for sample_pairing. In a batch of one it is the image itself.
        choice: [B, K, N], uniform in [0, 1), the noise of the sampled selection; [B, K, 0] if none is sampled.
    """

    sub_policy: Tensor
    gate: Tensor
    sign: Tensor
    centre: Tensor
    partner: Tensor
    choice: Tensor


class RelaxedPolicy(nn.Module):
    """L sub-policies of K stages, each over all N operations. The output is differentiable w.r.t. all parameters.

    The output of a stage is the sum of the outputs of all operations, weighted by softmax(w / η) (eq. 7). Each
    operation is gated by a relaxed Bernoulli variable (eq. 4). Every image draws its own sub-policy. The parameters are
    gathered for each image, so that an operation runs once in a stage, on the whole batch. sample_pairing blends with
    the batch as it came in.

    Args:
        sub_policies: number of sub-policies, L.
        stages: number of stages, K.
        temperature: λ of the relaxed Bernoulli.
        selection_temperature: η of the softmax.
        operations: names of the operations to choose from; all if None.
        interpolation: NEAREST (as `FasterAutoAugment` does by default) or BILINEAR.
        fill: value outside of the image, in [0, 1], one number or one a channel; None is 0.
        sample_selection: whether each image draws one operation in each stage, by a relaxed categorical variable of
            temperature λ. Else the stage is the sum of all (eq. 7).
        generator: draws the first values of the parameters, uniform in [0, 1]; PyTorch's default if None.

    Attributes:
        weights: [L, K, N] selection weights w.
        probabilities: [L, K, N], in [0, 1].
        magnitudes: [L, K, N], in [0, 1]; those of operations without a magnitude are not used.

    Raises:
        TypeError: ``fill`` is neither a number nor a sequence of numbers.
        ValueError: an unknown operation or interpolation, or a count or temperature that is not positive.

    Source: the paper, section 4.1 and Algorithm 1.

    Example:
        >>> policy = RelaxedPolicy(sub_policies=2, stages=2)
        >>> policy(torch.rand(4, 3, 16, 16)).mean().backward()
        >>> policy.probabilities.grad.shape
        torch.Size([2, 2, 17])
        >>> _ = policy.project_()  # after each optimizer step
        >>> policy.to_policy("mine").stages
        2
    """

    def __init__(
        self,
        sub_policies: int = 10,
        stages: int = 2,
        *,
        temperature: float = 0.05,
        selection_temperature: float = 0.05,
        operations: tuple[str, ...] | None = None,
        interpolation: InterpolationMode = InterpolationMode.NEAREST,
        fill: Fill = 0.0,
        sample_selection: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.operations = tuple(OPERATIONS) if operations is None else tuple(operations)
        if unknown := [name for name in self.operations if name not in OPERATIONS]:
            raise ValueError(
                f"operations should be among {', '.join(OPERATIONS)}, but got {', '.join(unknown)} instead"
            )
        counts = (sub_policies, stages, len(self.operations))
        if not all(value > 0 for value in (*counts, temperature, selection_temperature)):  # NaN is not either
            raise ValueError("sub_policies, stages, operations and both temperatures should be positive")
        check_interpolation(interpolation)
        fill_values(fill)  # raises
        self.temperature = temperature
        self.selection_temperature = selection_temperature
        self.interpolation = interpolation
        self.fill = fill
        self.sample_selection = sample_selection
        shape = (sub_policies, stages, len(self.operations))
        self.weights, self.probabilities, self.magnitudes = (
            nn.Parameter(torch.rand(shape, generator=generator)) for _ in range(3)
        )
        signed = torch.tensor([OPERATIONS[name].signed for name in self.operations])
        self.register_buffer("_signed", signed, persistent=False)

    _signed: Tensor

    @property
    def selection(self) -> Tensor:
        """Selection probabilities softmax(w / η), [L, K, N]."""
        return (self.weights / self.selection_temperature).softmax(-1)

    def draw(self, batch: int, *, generator: torch.Generator | None = None) -> Draw:
        """Draw all that is random for ``batch`` images, on the parameters' device.

        Args:
            batch: number of images, B.
            generator: source of all draws, on the parameters' device; PyTorch's default if None.
        """
        device = self.weights.device
        sub_policies, stages, operations = self.weights.shape

        def uniform(*shape: int) -> Tensor:
            return torch.rand(batch, *shape, generator=generator, device=device)

        sub_policy = (uniform() * sub_policies).long().clamp(max=sub_policies - 1)
        gate = uniform(stages, operations)
        sign = torch.where(self._signed & (uniform(stages, operations) < 0.5), -1.0, 1.0)
        centre = uniform(stages, 2)
        step = 1 + (uniform(stages) * (batch - 1)).long().clamp(max=max(batch - 2, 0))
        partner = (torch.arange(batch, device=device)[:, None] + step) % max(batch, 1)
        choice = uniform(stages, operations if self.sample_selection else 0)
        return Draw(sub_policy, gate, sign, centre, partner, choice)

    def forward(self, images: Tensor, draw: Draw | None = None, *, partners: Tensor | None = None) -> Tensor:
        """Augment a batch.

        Args:
            images: [B, C, H, W], float, in [0, 1]; 0 is taken for NaN and -∞, and 1 for ∞.
            draw: what is random, from `draw`; drawn anew if None.
            partners: [P, C, H, W], the images that ``draw.partner`` counts in; ``images`` if None. For ``images`` that
                are a part of a batch.

        Returns:
            [B, C, H, W].
        """
        draw = self.draw(len(images)) if draw is None else draw
        amounts, magnitude = self._gather(draw)

        images = finite(images)
        partners = images if partners is None else finite(partners)
        result, fill = images, fill_values(self.fill)
        for stage in range(self.weights.shape[1]):
            # The only image of a batch is its own partner, and a blend with itself changes nothing.
            partner = partners[draw.partner[:, stage]] if len(partners) > 1 else result
            extras = Extras(self.interpolation, fill, draw.centre[:, stage], partner)
            amount = amounts[:, stage]
            mixed = (1 - amount.sum(1))[:, None, None, None] * result
            for n, name in enumerate(self.operations):
                output = functional.at_magnitude(OPERATIONS[name], result, magnitude[:, stage, n], extras)
                mixed = mixed + amount[:, n, None, None, None] * output
            result = mixed
        return result

    def move_masks(self, masks: Tensor, draw: Draw) -> Tensor:
        """Move masks as the forward pass with the same ``draw`` moves the pixels of their images.

        Masks are mixed by the weights that images are mixed by. Only affine operations move masks, as in
        `FasterAutoAugment`; with the weight of every other operation, a mask stays where it is. Masks are sampled by
        nearest, whatever the interpolation of the images, and are 0 outside.

        Args:
            masks: [B, M, H, W], float, in [0, 1]: one channel a class.
            draw: what was random for the images.

        Returns:
            [B, M, H, W], differentiable w.r.t. weights, probabilities and magnitudes.

        Example:
            >>> flip = RelaxedPolicy(1, 1, operations=("flip",))
            >>> _ = torch.nn.init.ones_(flip.probabilities)
            >>> flip.move_masks(torch.tensor([[[[0.0, 0, 1]]]]), flip.draw(1)).round().tolist()
            [[[[1.0, 0.0, 0.0]]]]
        """
        amounts, magnitude = self._gather(draw)
        rows = [OPERATIONS[name] for name in self.operations]
        masks = finite(masks)
        moving = [(n, row) for n, row in enumerate(rows) if isinstance(row.kind, Affine)]
        for stage in range(self.weights.shape[1]):
            mixed = masks
            for n, row in moving:
                output = functional.at_magnitude(row, masks, magnitude[:, stage, n], Extras())
                mixed = mixed + amounts[:, stage, n, None, None, None] * (output - masks)
            masks = mixed
        return masks

    def _gather(self, draw: Draw) -> tuple[Tensor, Tensor]:
        """The weight of each operation in each image, selection times gate, and its signed magnitude; [B, K, N]."""
        # index_select and not [...]: its backward adds in a fixed order on the CPU, whatever the batch's size.
        selection, probability, magnitude = (
            table.index_select(0, draw.sub_policy) for table in (self.selection, self.probabilities, self.magnitudes)
        )
        if self.sample_selection:
            logits = (self.weights / self.selection_temperature).index_select(0, draw.sub_policy)
            selection = relaxed_categorical(logits, draw.choice, self.temperature)
        gate = relaxed_bernoulli(probability, draw.gate, self.temperature)
        return selection * gate, draw.sign * magnitude

    @torch.no_grad()
    def project_(self) -> "RelaxedPolicy":
        """Clamp probabilities and magnitudes into [0, 1], in place. Call it after each step of the optimizer.

        A clamp in the forward pass has no gradient outside of the range. A parameter that left the range would stay
        outside.
        """
        self.probabilities.clamp_(0, 1)
        self.magnitudes.clamp_(0, 1)
        return self

    @torch.no_grad()
    def to_policy(
        self, name: str = "unnamed", *, prune: float = 0.01, provenance: dict[str, object] | None = None
    ) -> Policy:
        """The policy that samples what this one relaxes.

        Args:
            name: name of the policy.
            prune: candidates with a lower selection probability are left out, and the others renormalised. The
                likeliest candidate of a stage stays in any case.
            provenance: where the policy comes from. It goes into the policy's file.
        """
        selection = self.selection.double().cpu()
        kept = (selection >= max(prune, torch.finfo(torch.float32).tiny)) | (
            selection == selection.amax(-1, keepdim=True)
        )
        probabilities = self.probabilities.clamp(0, 1).tolist()
        magnitudes = self.magnitudes.clamp(0, 1).tolist()

        def candidate(*index: int) -> dict[str, Any]:
            row, stage, n = index
            operation = OPERATIONS[self.operations[n]]
            return {
                "operation": operation.name,
                "weight": selection[index].item(),
                "probability": probabilities[row][stage][n],
                "magnitude": magnitudes[row][stage][n] if operation.has_magnitude else None,
            }

        sub_policies, stages, operations = selection.shape
        return Policy(
            [
                [
                    [candidate(row, stage, n) for n in range(operations) if kept[row, stage, n]]
                    for stage in range(stages)
                ]
                for row in range(sub_policies)
            ],
            name=name,
            provenance=provenance or {},
        )

    def extra_repr(self) -> str:
        """What the repr shows."""
        sub_policies, stages, operations = self.weights.shape
        return (
            f"sub_policies={sub_policies}, stages={stages}, operations={operations}, temperature={self.temperature}, "
            f"selection_temperature={self.selection_temperature}, interpolation={self.interpolation.value}"
        )
