"""Published augmentations as policies of this package, so that their pixels are exact, too."""

from collections.abc import Callable
from dataclasses import dataclass

from torchvision.transforms import AutoAugmentPolicy

from fasteraa_transforms.operations import OPERATIONS
from fasteraa_transforms.policy import Candidate, Policy

# The operations that TrivialAugment and RandAugment choose among; "identity" is the fourteenth.
_RANDAUGMENT = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "auto_contrast",
    "equalize",
)
_BINS = 31
_TRANSLATE = 150 / 331  # of the width, at the severest


def _magnitude(operation: str, level: int) -> float:
    """Our magnitude of one of RandAugment's 31 levels, from 0 to 30."""
    part = level / (_BINS - 1)
    match operation:
        case "translate_x" | "translate_y":
            return part * _TRANSLATE / OPERATIONS[operation].severest
        case "posterize":
            return round(4 * part) / 4
        case "solarize":
            return (1 + 255 * part) / 256  # a threshold of 255 (1 - part)
        case _:
            return part


def _stage(levels: range) -> list[Candidate]:
    # An operation that changes nothing: a flip that is never applied.
    stage = [Candidate(operation="flip", weight=1, probability=0)]
    for operation in _RANDAUGMENT:
        if not OPERATIONS[operation].has_magnitude:
            stage.append(Candidate(operation=operation, weight=1, probability=1))
            continue
        for level in levels:
            value = min(_magnitude(operation, level), 1.0)
            stage.append(Candidate(operation=operation, weight=1 / len(levels), probability=1, magnitude=value))
    return stage


def trivialaugment() -> Policy:
    """TrivialAugment over RandAugment's ranges: one operation of 14, at one of 31 magnitudes.

    The "wide" ranges of torchvision's `TrivialAugmentWide` exceed those of Table 2 and have no magnitude here. The
    severest translation is 0.45 of the width where torchvision's is 0.453.

    Source: Müller and Hutter 2021, algorithm 1 and table 1 ("RA" space); ranges as in torchvision's `RandAugment`.

    Example:
        >>> trivialaugment().stages
        1
    """
    return Policy([[_stage(range(_BINS))]], name="trivialaugment")


def randaugment(*, operations: int = 2, level: int = 9) -> Policy:
    """RandAugment: so many operations, one after another, all at one level.

    Args:
        operations: N of the paper; stages.
        level: M of the paper, from 0 to 30.

    Source: Cubuk et al. 2020; ranges and defaults as in torchvision's `RandAugment`.

    Example:
        >>> randaugment().stages
        2
    """
    return Policy([[_stage(range(level, level + 1))] * operations], name="randaugment")


@dataclass(frozen=True)
class Published:
    """One row of `PUBLISHED`.

    Attributes:
        make: makes the policy.
        summary: what it is, for helps.
    """

    make: Callable[[], Policy]
    summary: str


PUBLISHED: dict[str, Published] = {
    "trivialaugment": Published(trivialaugment, "one operation of 14 at a random magnitude (Müller and Hutter 2021)"),
    "randaugment": Published(randaugment, "two operations of 14 at magnitude 9 of 30 (Cubuk et al. 2020)"),
    "autoaugment-cifar10": Published(
        lambda: Policy.from_autoaugment(AutoAugmentPolicy.CIFAR10),
        "AutoAugment's policy of CIFAR-10 (Cubuk et al. 2019)",
    ),
    "autoaugment-imagenet": Published(
        lambda: Policy.from_autoaugment(AutoAugmentPolicy.IMAGENET),
        "AutoAugment's policy of ImageNet (Cubuk et al. 2019)",
    ),
    "autoaugment-svhn": Published(
        lambda: Policy.from_autoaugment(AutoAugmentPolicy.SVHN), "AutoAugment's policy of SVHN (Cubuk et al. 2019)"
    ),
}
"""Published augmentations by name."""
