"""AutoAugment's published policies, as torchvision has them. The public name is `Policy.from_autoaugment`."""

from typing import Any

import torch
from torchvision.transforms import AutoAugmentPolicy

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.interchange import NAMES, Converted

# Cubuk et al. 2019, AutoAugment, appendix A, as torchvision has it: twice an operation, probability and magnitude bin.
_AUTOAUGMENT = {
    AutoAugmentPolicy.IMAGENET: """
        Posterize 0.4 8  Rotate 0.6 9
        Solarize 0.6 5  AutoContrast 0.6 -
        Equalize 0.8 -  Equalize 0.6 -
        Posterize 0.6 7  Posterize 0.6 6
        Equalize 0.4 -  Solarize 0.2 4
        Equalize 0.4 -  Rotate 0.8 8
        Solarize 0.6 3  Equalize 0.6 -
        Posterize 0.8 5  Equalize 1.0 -
        Rotate 0.2 3  Solarize 0.6 8
        Equalize 0.6 -  Posterize 0.4 6
        Rotate 0.8 8  Color 0.4 0
        Rotate 0.4 9  Equalize 0.6 -
        Equalize 0.0 -  Equalize 0.8 -
        Invert 0.6 -  Equalize 1.0 -
        Color 0.6 4  Contrast 1.0 8
        Rotate 0.8 8  Color 1.0 2
        Color 0.8 8  Solarize 0.8 7
        Sharpness 0.4 7  Invert 0.6 -
        ShearX 0.6 5  Equalize 1.0 -
        Color 0.4 0  Equalize 0.6 -
        Equalize 0.4 -  Solarize 0.2 4
        Solarize 0.6 5  AutoContrast 0.6 -
        Invert 0.6 -  Equalize 1.0 -
        Color 0.6 4  Contrast 1.0 8
        Equalize 0.8 -  Equalize 0.6 -
    """,
    AutoAugmentPolicy.CIFAR10: """
        Invert 0.1 -  Contrast 0.2 6
        Rotate 0.7 2  TranslateX 0.3 9
        Sharpness 0.8 1  Sharpness 0.9 3
        ShearY 0.5 8  TranslateY 0.7 9
        AutoContrast 0.5 -  Equalize 0.9 -
        ShearY 0.2 7  Posterize 0.3 7
        Color 0.4 3  Brightness 0.6 7
        Sharpness 0.3 9  Brightness 0.7 9
        Equalize 0.6 -  Equalize 0.5 -
        Contrast 0.6 7  Sharpness 0.6 5
        Color 0.7 7  TranslateX 0.5 8
        Equalize 0.3 -  AutoContrast 0.4 -
        TranslateY 0.4 3  Sharpness 0.2 6
        Brightness 0.9 6  Color 0.2 8
        Solarize 0.5 2  Invert 0.0 -
        Equalize 0.2 -  AutoContrast 0.6 -
        Equalize 0.2 -  Equalize 0.6 -
        Color 0.9 9  Equalize 0.6 -
        AutoContrast 0.8 -  Solarize 0.2 8
        Brightness 0.1 3  Color 0.7 0
        Solarize 0.4 5  AutoContrast 0.9 -
        TranslateY 0.9 9  TranslateY 0.7 9
        AutoContrast 0.9 -  Solarize 0.8 3
        Equalize 0.8 -  Invert 0.1 -
        TranslateY 0.7 9  AutoContrast 0.9 -
    """,
    AutoAugmentPolicy.SVHN: """
        ShearX 0.9 4  Invert 0.2 -
        ShearY 0.9 8  Invert 0.7 -
        Equalize 0.6 -  Solarize 0.6 6
        Invert 0.9 -  Equalize 0.6 -
        Equalize 0.6 -  Rotate 0.9 3
        ShearX 0.9 4  AutoContrast 0.8 -
        ShearY 0.9 8  Invert 0.4 -
        ShearY 0.9 5  Solarize 0.2 6
        Invert 0.9 -  AutoContrast 0.8 -
        Equalize 0.6 -  Rotate 0.9 3
        ShearX 0.9 4  Solarize 0.3 3
        ShearY 0.8 8  Invert 0.7 -
        Equalize 0.9 -  TranslateY 0.6 6
        Invert 0.9 -  Equalize 0.6 -
        Contrast 0.3 3  Rotate 0.8 4
        Invert 0.8 -  TranslateY 0.0 2
        ShearY 0.7 6  Solarize 0.4 8
        Invert 0.6 -  Rotate 0.8 4
        ShearY 0.3 7  TranslateX 0.9 3
        ShearX 0.1 6  Invert 0.6 -
        Solarize 0.7 2  TranslateY 0.6 7
        ShearY 0.8 4  Invert 0.8 -
        ShearX 0.7 9  TranslateY 0.8 3
        ShearY 0.8 5  AutoContrast 0.7 -
        ShearX 0.7 2  Invert 0.1 -
    """,
}


def convert(policy: AutoAugmentPolicy | str) -> Converted:
    """See `Policy.from_autoaugment`."""
    try:
        policy = AutoAugmentPolicy(policy)
    except ValueError:
        known = f"an AutoAugmentPolicy or one of {', '.join(each.value for each in AutoAugmentPolicy)}"
        raise ValueError(f"policy should be {known}, but got {policy!r} instead") from None
    rows = [line.split() for line in _AUTOAUGMENT[policy].strip().splitlines()]
    return Converted(
        sub_policies=[[[_candidate(*row[:3])], [_candidate(*row[3:])]] for row in rows],
        name=f"autoaugment-{policy.value}",
        provenance={
            "converted_from": f"AutoAugmentPolicy.{policy.name} of torchvision",
            "differences": [
                f"{NAMES[name]}: the severest is 0.45 of the size here and 150/331 there"
                for name in ("TranslateX", "TranslateY")
                if any(row[i] == name and row[i + 2] == "9" for row in rows for i in (0, 3))
            ],
        },
    )


def _candidate(name: str, probability: str, magnitude_bin: str) -> dict[str, Any]:
    candidate = {"operation": NAMES[name], "weight": 1.0, "probability": float(probability)}
    row = OPERATIONS[NAMES[name]]
    if not row.has_magnitude:
        return candidate
    index = int(magnitude_bin)
    if name == "Solarize":
        # 255 at bin 0, not 256: it is a fraction of the largest value there.
        magnitude = 1 - 255 * _bins(1, 0)[index] / 256
    elif name == "Posterize":
        magnitude = round(index * 4 / 9) / 4
    elif name.startswith("Translate"):
        # In float64: the bins there are pixels, in which a fraction in float32 is not their float32 either.
        magnitude = index / 9 * 150 / 331 / row.severest
    else:
        magnitude = _bins(0, row.severest - row.weakest)[index] / (row.severest - row.weakest)
    return {**candidate, "magnitude": min(magnitude, 1.0)}


def _bins(first: float, last: float) -> list[float]:
    """The ten parameters that torchvision's bins mean, in its float32, so that all pixels are the same."""
    bins: list[float] = torch.linspace(first, last, 10, dtype=torch.float32, device="cpu").tolist()
    return bins
