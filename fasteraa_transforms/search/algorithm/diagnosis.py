"""What a search did to its policy, in numbers and in plain words.

Two hazards can make a searched policy worthless, and neither shows in the losses. The policy may end near its random
start. Or it may end at the identity, the optimum of the paper's objective. `Diagnosis` names both.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fasteraa_transforms.backends import apply
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy

CLOSE_TO_START = 0.5  # of the distance between two independent random starts
COLLAPSED = 0.5  # of the strength at the start
_AT_ONCE = 2**21  # values whose displacement is taken at a time: large images, all at once, take much memory
GUARD_MARGIN = 4 / 3  # the guard counts as untrained where its error is above the chance error divided by this


def effective_share(policy: RelaxedPolicy) -> dict[str, float]:
    """Selection probability × probability of each operation, mean over all stages; 1 would be "always this one".

    Example:
        >>> shares = effective_share(RelaxedPolicy())
        >>> 0 < sum(shares.values()) < 1
        True
    """
    share = (policy.selection * policy.probabilities.clamp(0, 1)).mean((0, 1))
    return dict(zip(policy.operations, share.tolist(), strict=True))


def selection_entropy(policy: RelaxedPolicy) -> float:
    """Mean over stages of the selection's entropy as a fraction of its maximum: 0 picks one operation, 1 all alike."""
    entropy = torch.special.entr(policy.selection.detach()).sum(-1).mean()
    return (entropy / math.log(len(policy.operations))).item()


def strength(policy: Policy, images: Tensor, *, seed: int = 0) -> float:
    """Mean displacement E|S(X) - X| over pixels, in [0, 1], of the policy as it is exported, with fixed draws.

    Args:
        policy: the exact policy.
        images: uint8 [N, C, H, W].
        seed: of the draws.
    """
    images, total = images.cpu(), 0
    generator = torch.Generator().manual_seed(seed)
    for part in images.split(max(1, _AT_ONCE // max(1, images[:1].numel()))):
        moved = apply(part, policy.sample(len(part), generator=generator))
        total += int((moved.short() - part.short()).abs().sum())
    return total / max(1, images.numel()) / 255


@dataclass(frozen=True)
class Distance:
    """How far the parameters of one relaxed policy lie from those of another.

    Attributes:
        selection: total variation distance of the selections, in [0, 1], mean over stages.
        probability: mean absolute difference.
        magnitude: mean absolute difference, over operations that have a magnitude.
    """

    selection: float
    probability: float
    magnitude: float

    @classmethod
    def between(cls, one: RelaxedPolicy, other: RelaxedPolicy) -> "Distance":
        """The distance of ``one`` from ``other``, of the same shape."""
        with torch.no_grad():
            has_magnitude = torch.tensor([OPERATIONS[name].has_magnitude for name in one.operations])
            magnitude = (one.magnitudes.cpu() - other.magnitudes.cpu()).abs()[..., has_magnitude]
            return cls(
                selection=((one.selection.cpu() - other.selection.cpu()).abs().sum(-1) / 2).mean().item(),
                probability=(one.probabilities.cpu() - other.probabilities.cpu()).abs().mean().item(),
                magnitude=magnitude.mean().item() if magnitude.numel() else 0.0,
            )


def random_distance(policy: RelaxedPolicy, *, pairs: int = 20) -> Distance:
    """Mean distance between independent random starts of the shape and temperature of ``policy``: the yardstick."""
    generator = torch.Generator().manual_seed(0)
    sub_policies, stages, _ = policy.weights.shape

    def start() -> RelaxedPolicy:
        return RelaxedPolicy(
            sub_policies,
            stages,
            selection_temperature=policy.selection_temperature,
            operations=policy.operations,
            generator=generator,
        )

    distances = [Distance.between(start(), start()) for _ in range(pairs)]
    return Distance(
        *(
            sum(getattr(distance, field) for distance in distances) / pairs
            for field in ("selection", "probability", "magnitude")
        )
    )


class Reference:
    """The start of a search, by which a policy is judged.

    Args:
        policy: the relaxed policy at the start; copied.
        images: uint8 [N, C, H, W], whose displacement is the strength.
        prune: candidates with a smaller selection probability are left out of the exported policy.
        chance: as in `Diagnosis`.
        counted: as ``of`` in `Diagnosis`.

    Attributes:
        policy: the start, on the CPU.
        strength: of the start, in [0, 1].
        yardstick: the distance between two random starts.
    """

    def __init__(
        self, policy: RelaxedPolicy, images: Tensor, *, prune: float, chance: float, counted: str = "images"
    ) -> None:
        self.policy = copy.deepcopy(policy).cpu()
        self.images, self.prune, self.chance, self.counted = images, prune, chance, counted
        self.yardstick = random_distance(self.policy)
        self.strength = self.strength_of(self.policy)

    def strength_of(self, policy: RelaxedPolicy) -> float:
        """Strength of a policy as it is exported, in [0, 1]."""
        return strength(policy.to_policy(prune=self.prune), self.images)

    def drift(self, distance: Distance) -> float:
        """A distance from the start as a fraction of that of two random starts."""
        fractions = [
            getattr(distance, each) / whole
            for each in ("selection", "probability", "magnitude")
            if (whole := getattr(self.yardstick, each)) > 0
        ]
        return sum(fractions) / len(fractions)

    def diagnose(
        self,
        policy: RelaxedPolicy,
        means: Mapping[str, float],
        *,
        classifier: Mapping[str, float] | None = None,
        held: float | None = None,
    ) -> "Diagnosis":
        """What became of the start.

        Args:
            policy: what the search made of it.
            means: what the last epoch measured.
            classifier: what the last epoch of the classifier's own training measured.
            held: as in `Diagnosis`.
        """
        distance = Distance.between(policy, self.policy)
        return Diagnosis(
            drift=self.drift(distance),
            distance=distance,
            strength_start=self.strength,
            strength_end=self.strength_of(policy),
            entropy_start=selection_entropy(self.policy),
            entropy_end=selection_entropy(policy),
            share_start=effective_share(self.policy),
            share_end=effective_share(policy),
            accuracy_clean=means.get("accuracy_real", 0.0),
            accuracy_augmented=means.get("accuracy_augmented", 0.0),
            chance=self.chance,
            of=self.counted,
            accuracy_classifier=None if classifier is None else classifier["accuracy"],
            held=held,
        )


@dataclass(frozen=True)
class Diagnosis:
    """What a search did to its policy.

    Attributes:
        drift: distance of the parameters from their start, as a fraction of the distance between two random starts;
            the mean of the three fractions of selection, probability and magnitude.
        distance: the three distances from the start themselves.
        strength_start: mean displacement of the images under the start, in [0, 1].
        strength_end: the same under the end.
        entropy_start: selection entropy of the start, in [0, 1].
        entropy_end: the same of the end.
        share_start: effective share of each operation at the start.
        share_end: the same at the end.
        accuracy_clean: of the class head on real images, training mode, mean over the last epoch.
        accuracy_augmented: the same on augmented images.
        chance: accuracy of guessing, 1 / classes; of pixels, the share of the most frequent class.
        accuracy_classifier: of the class head on real images in the last epoch of its own training, which comes before
            the search; None if it had none.
        held: the strength that the policy was held at, in [0, 1]; None where nothing held it.
        of: what accuracies and errors count, "images" or the "pixels" of masks.
    """

    drift: float
    distance: Distance
    strength_start: float
    strength_end: float
    entropy_start: float
    entropy_end: float
    share_start: dict[str, float]
    share_end: dict[str, float]
    accuracy_clean: float
    accuracy_augmented: float
    chance: float
    accuracy_classifier: float | None = None
    held: float | None = None
    of: str = "images"

    @property
    def close_to_start(self) -> bool:
        """Whether the policy ended near its random start; one that lost its strength did not."""
        return self.drift < CLOSE_TO_START and not self.collapsed

    @property
    def collapsed(self) -> bool:
        """Whether the policy lost most of its strength, or of the one that it was to be held at."""
        wanted = self.strength_start if self.held is None else self.held
        return self.strength_end < COLLAPSED * wanted

    @property
    def guard_untrained(self) -> bool:
        """Whether the classifier that is to guard the classes has hardly learned them."""
        return 1 - self.accuracy_clean > (1 - self.chance) / GUARD_MARGIN

    def verdict(self) -> str:
        """The diagnosis in plain words, several lines."""
        lines = []
        moved = f"{self.drift:.0%} of the distance between two random starts"
        if self.close_to_start:
            lines.append(f"Close to the random start: the parameters moved {moved}.")
        else:
            lines.append(f"The parameters moved {moved}.")
        change = f"mean displacement of the images {self.strength_start:.3f} at the start, {self.strength_end:.3f} now"
        if self.collapsed:
            lines.append(f"Collapsed to the identity: {change}. The objective is best served by doing nothing.")
        else:
            lines.append(f"Strength held: {change}.")
        of = "" if self.of == "images" else f"the {self.of} of "
        clean = f"{self.accuracy_clean:.0%} of {of}clean images right (chance {self.chance:.0%})"
        if self.guard_untrained:
            lines.append(f"The classifier has hardly learned the classes: {clean}; it guards next to nothing.")
        else:
            lines.append(f"The classifier has {clean}, {self.accuracy_augmented:.0%} of augmented ones.")
        lines.append(
            f"Selection entropy {self.entropy_start:.2f} at the start, {self.entropy_end:.2f} now (1: all alike)."
        )
        changes = {name: self.share_end[name] - share for name, share in self.share_start.items()}
        ranked = sorted(changes, key=lambda name: changes[name])
        lost = [name for name in ranked if changes[name] < 0][:3]
        gained = [name for name in reversed(ranked) if changes[name] > 0][:3]
        for verb, names in (("Lost", lost), ("Gained", gained)):
            if names:
                lines.append(f"{verb} most share: {', '.join(map(self._change, names))}.")
        lines.append("Whether the policy helps training is not measured by a search; compare it with a random one.")
        return "\n".join(lines)

    def _change(self, name: str) -> str:
        return f"{name} {self.share_start[name]:.3f} → {self.share_end[name]:.3f}"
