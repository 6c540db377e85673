"""What a policy is compared with, and the augmentations of a command line.

`CONTROLS` maps a name to its row. Helps, messages and the table come from it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms import v2

from fasteraa_transforms.pipeline.transform import FasterAutoAugment
from fasteraa_transforms.policy import Policy
from fasteraa_transforms.relaxed import RelaxedPolicy
from fasteraa_transforms.search.contenders.uniform import GROUPS, uniform
from fasteraa_transforms.search.data.table import find_dataset
from fasteraa_transforms.search.runtime.output import readable


@dataclass(frozen=True)
class Case:
    """What a control may depend on.

    Attributes:
        dataset: name of the data set.
        seed: of the training.
        shape: sub-policies and stages of a random policy.
    """

    dataset: str
    seed: int
    shape: tuple[int, int] = (10, 2)


Transform = Callable[[Tensor], Tensor]
"""uint8 [C, H, W] -> the same, one draw a call."""


@dataclass(frozen=True)
class Control:
    """One row of `CONTROLS`.

    Attributes:
        make: makes the augmentation of a case: a policy, a transform of one image, or None for none.
        summary: what it is, for helps.
        cutout: whether Cutout follows: after every augmentation, as the settings have it; always; never.
        compared: whether it is in an evaluation by default, and a column of the table.
    """

    make: Callable[[Case], Policy | Transform | None]
    summary: str
    cutout: Literal["as set", "always", "never"] = "as set"
    compared: bool = True


def _nothing(case: Case) -> None:
    return None


def _random(case: Case) -> Policy:
    generator = torch.Generator().manual_seed(case.seed)
    return RelaxedPolicy(*case.shape, generator=generator).to_policy(f"random-{case.seed}")


def _autoaugment(case: Case) -> Policy:
    kind = find_dataset(case.dataset).autoaugment
    return Policy.from_autoaugment(getattr(v2.AutoAugmentPolicy, kind))


def _uniform(name: str, group: str) -> Callable[[Case], Policy]:
    return lambda case: uniform(GROUPS[group], name=name)


CONTROLS: dict[str, Control] = {
    "none": Control(_nothing, "crop and flip, as everywhere, and nothing else", cutout="never"),
    "cutout": Control(_nothing, "Cutout alone (DeVries and Taylor 2017)", cutout="always"),
    "random": Control(_random, "another random policy for each seed: the start of the paper's search"),
    "trivialaugment": Control(
        lambda case: v2.TrivialAugmentWide(), "torchvision's TrivialAugmentWide (Müller and Hutter 2021)"
    ),
    "randaugment": Control(lambda case: v2.RandAugment(), "torchvision's RandAugment (Cubuk et al. 2020)"),
    "autoaugment": Control(_autoaugment, "the policy its authors published for CIFAR-10; for SVHN and ImageNet theirs"),
    "uniform": Control(
        _uniform("uniform", "all"), "one of all 17 operations, all alike, at magnitudes from 0.1 to 0.9"
    ),
    "colour": Control(_uniform("colour", "colour"), "the same of the operations that change colours", compared=False),
    "geometry": Control(_uniform("geometry", "geometry"), "the same of those that move pixels", compared=False),
}
"""What every policy should be compared with; those that need no search."""


@dataclass(frozen=True)
class Augmentation:
    """One row of an evaluation: a control by its name, or a policy.

    Attributes:
        label: what the table calls it.
        policy: of a policy; None for a control, whose name is the label.

    Example:
        >>> Augmentation("autoaugment").made(Case("svhn", seed=0)).name
        'autoaugment-svhn'
    """

    label: str
    policy: Policy | None = None

    def made(self, case: Case) -> Policy | Transform | None:
        """What a network of ``case`` is trained with."""
        return self.policy if self.policy is not None else CONTROLS[self.label].make(case)

    def cutout(self, side: int, after: bool) -> int:
        """Side of the square that Cutout blanks after this augmentation, 0 for none.

        Args:
            side: where it follows.
            after: whether it follows every augmentation.
        """
        kind = "as set" if self.policy is not None else CONTROLS[self.label].cutout
        return side if kind == "always" or (kind == "as set" and after) else 0


def parse_augmentations(text: str) -> list[Augmentation]:
    """The augmentations of a list such as "none,cutout,mine=runs/mine/policy.json".

    Args:
        text: names of controls, names of shipped policies and policy files, separated by commas; ``label=`` in front of
            one names it in the table; without a label its own text is its name.

    Raises:
        ValueError: an unknown name, a label that is there twice, or no augmentation.
        PolicyError: a file cannot be read or is refused.

    Example:
        >>> [each.label for each in parse_augmentations("none, cutout, shipped=cifar10")]
        ['none', 'cutout', 'shipped']
    """
    augmentations = [_parse(item) for item in filter(None, (part.strip() for part in text.split(",")))]
    labels = [each.label for each in augmentations]
    if not labels:
        raise ValueError("policies should name at least one augmentation, but got none")
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        raise ValueError(f"labels should differ, but got {', '.join(repeated)} more than once; give one with label=")
    return augmentations


def _parse(item: str) -> Augmentation:
    label, equals, given = item.partition("=")
    given = given if equals else label
    if given in CONTROLS:
        if equals:
            raise ValueError(f"a control has its own name, but got {item!r}; leave out the label")
        return Augmentation(given)
    if label in CONTROLS:
        raise ValueError(f"a policy should not be called as a control is, but got {item!r}; choose another label")
    try:
        return Augmentation(readable(label), FasterAutoAugment.from_pretrained(given).policy)
    except ValueError as error:
        if not str(error).startswith("unknown policy"):
            raise
        raise ValueError(f"policies should be among {', '.join(CONTROLS)}; or {error}") from None
