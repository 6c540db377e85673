"""Every setting of a search, and the presets: this package's defaults and the paper's."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from fasteraa_transforms.fields import (
    FRACTION,
    HALVED,
    LABEL,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    SIDE,
    STRENGTH,
    check_fields,
)


@dataclass(frozen=True)
class Settings:
    """Settings of a search; `Settings.paper` has the paper's (section 5.2).

    None means "as fits the dataset": the paper's subset sizes, Fast AutoAugment's crop and flip.

    Example:
        >>> Settings().strengths, Settings.paper().strengths
        ((1.0, 0.5, 0.25), ())
    """

    contenders: tuple[str, ...] = (
        "none",
        "trivialaugment",
        "randaugment",
        "autoaugment-cifar10",
        "uniform",
        "uniform-2",
        "colour",
        "geometry",
        "calibrated",
    )
    """What is tried: names of `search.contenders.table`, adversarial (the paper's search), policy files, policy=NAME of
    a shipped one, or module:callable. None given, as in the paper: the adversarial search alone, without a race."""
    start: Literal["random", "calibrated"] = "random"
    """Start of the adversarial search. calibrated: the calibrated policy of the largest tolerance. random: as in the
    paper."""
    minutes: float | None = field(default=None, metadata=POSITIVE)
    """Minutes of the search; none: 10 on a CPU, 5 on a GPU. The adversarial search comes on top."""
    operations: tuple[str, ...] = ()
    """The only operations to use; none given: all 17."""
    exclude: tuple[str, ...] = ()
    """Operations to leave out."""
    max_magnitude: tuple[str, ...] = ()
    """Largest magnitudes of some operations, such as rotate=0.5."""
    network: str | None = None
    """Network of the race: resnet9-WIDTH or another of `search.networks.table`; none: a resnet9 as wide as the time
    allows."""
    race_epochs: int | None = field(default=None, metadata=POSITIVE)
    """Length of each training of the race; none: three times what it takes to fit the images."""
    race_images: int | None = field(default=None, metadata=POSITIVE)
    """Images that each network of the race is trained on; none: as many as the time allows."""
    replicates: int = field(default=16, metadata=POSITIVE)
    """Networks that one contender gets at most."""
    trainings: int | None = field(default=None, metadata=POSITIVE)
    """Networks that the race trains in all, every contender once at least; none: as many as the time allows."""
    processes: int | None = field(default=None, metadata=POSITIVE)
    """Trainings side by side; none: one for each thread of PyTorch's on a CPU."""
    epochs: int = field(default=30, metadata=POSITIVE)
    """Passes over the subset, divided among the strengths; the paper: 20."""
    batch_size: int = field(default=128, metadata=HALVED)
    """Images a step: half of them are augmented, the other half stay as the real sample."""
    sub_policies: int = field(default=10, metadata=POSITIVE)
    """L, the number of sub-policies."""
    stages: int = field(default=2, metadata=POSITIVE)
    """K, operations applied one after another in a sub-policy."""
    seed: int = field(default=0, metadata=SEED)
    """Of the subset, the start of policy and critic, and every draw."""
    num_images: int | None = field(default=None, metadata=POSITIVE)
    """Size of the random subset searched on; none: 4,000 (SVHN 1,000, ImageNet 6,000, all digits)."""
    balanced: bool = False
    """Draw num_images evenly from all classes, as far as they go; else as they come."""
    image_size: int | Literal["own"] | None = field(default=None, metadata=SIDE)
    """Side in pixels that images are resized and cropped to; own: none, they keep their size. None: 32 for digits, 224
    for ImageNet; images of one's own, of several sizes or of more than 96×96 pixels, 64, or 32 where most are smaller
    than 64; all others keep their size."""
    ignore_label: int = field(default=255, metadata=LABEL)
    """Value of the pixels of a mask that have no class."""
    skip_broken: bool = False
    """Go on without the images that cannot be read, and list them; else they are an error."""
    padding: int | None = field(default=None, metadata=NOT_NEGATIVE)
    """Zeros around an image before its random crop, in pixels; none: 4 (0 for ImageNet)."""
    objective: str = "wasserstein"
    """What the search lowers: wasserstein, the paper's; gradient-matching; or module:callable taking all settings and
    the tools of the run (see `search.algorithm.objective`)."""
    flip: bool | None = None
    """Whether the baseline preprocessing mirrors images; none: yes, but for digits."""
    critic: str | None = None
    """small, compact (for photographs on a CPU), wrn40_2, resnet50, or module:callable taking the number of
    channels; none: small for digits, else by the size of the images: small up to 16 pixels, wrn40_2 up to 64, else
    resnet50."""
    classifier_epochs: int = field(default=20, metadata=NOT_NEGATIVE)
    """Passes over the subset that train the classifier alone, before the search. A trained classifier guards the
    classes. The paper: 0."""
    strengths: tuple[float, ...] = field(default=(1.0, 0.5, 0.25), metadata=STRENGTH)
    """Strengths to hold the adversarial search at, one after another, as fractions of that of its start. Each gives a
    policy. In a race each of them is a contender; without contenders the policy of the first strength is kept. None
    given, as in the paper: nothing holds the strength."""
    multiplier_rate: float = field(default=0.05, metadata=POSITIVE)
    """How fast the multiplier of the strength rises: its change in a step where the policy has no strength at all."""
    policy_learning_rate: float = field(default=2e-2, metadata=POSITIVE)
    """Adam's, for weights, probabilities and magnitudes; the paper: 1e-3."""
    critic_learning_rate: float = field(default=1e-3, metadata=POSITIVE)
    """Adam's, for the critic and classifier."""
    betas: tuple[float, float] = field(default=(0.0, 0.999), metadata=FRACTION)
    """Adam's, for both."""
    classification_weight: float = field(default=1.0, metadata=NOT_NEGATIVE)
    """ε, the weight of the class losses; the paper: 0.1."""
    gradient_penalty_weight: float = field(default=10.0, metadata=NOT_NEGATIVE)
    """Weight of the gradient penalty."""
    penalty_every: int = field(default=1, metadata=POSITIVE)
    """Steps from one gradient penalty to the next; the penalty is multiplied by this number. Steps without it are
    cheaper. The paper: 1, a penalty in each step."""
    guard: Literal["shared", "own"] = "shared"
    """Network of the class loss on augmented images. shared, as in the paper: the critic's class head, which goes on
    learning. own: a classifier of its own, which learns the classes first and then stays fixed."""
    temperature: float = field(default=0.05, metadata=POSITIVE)
    """λ, of the relaxed Bernoulli gates."""
    selection_temperature: float = field(default=1.0, metadata=POSITIVE)
    """η, of the softmax over operations; the paper: 0.05. At 1 a stage starts with all operations nearly alike, and the
    search tilts the balance; at 0.05 it soon picks one operation."""
    sample_selection: bool | None = None
    """Whether each image draws one operation a stage (a relaxed categorical variable of temperature λ), in place of the
    sum of all operations; none: only for masks. The paper: no."""
    chunk_size: int = field(default=1, metadata=POSITIVE)
    """Consecutive images that share a sub-policy. 1: each image draws its own; the paper: 8 (16 for ImageNet)."""
    prune: float = field(default=0.01, metadata=FRACTION)
    """Candidates with a smaller selection probability are left out of the policy file."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: cuda where there is one."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the critic; auto: bfloat16 for wrn40_2 and resnet50 where the hardware computes in it, else float32."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """Whether steps are captured as CUDA graphs. auto: on a GPU; if the critic cannot be captured, a warning says why,
    and steps run plainly. on: a critic that cannot be captured is an error."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.guard == "own" and not self.classifier_epochs:
            raise ValueError("classifier_epochs should be positive for a guard of its own, but got 0 instead")
        if self.epochs < len(self.strengths):
            raise ValueError(
                f"epochs should be at least 1 for each of {len(self.strengths)} strengths, but got {self.epochs} "
                "instead"
            )

    @property
    def adversarial(self) -> bool:
        """Whether the adversarial search runs."""
        return not self.contenders or "adversarial" in self.contenders

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The paper's settings, with ``changes``."""
        settings: dict[str, Any] = {
            "contenders": (),
            "epochs": 20,
            "policy_learning_rate": 1e-3,
            "classification_weight": 0.1,
            "classifier_epochs": 0,
            "strengths": (),
            "selection_temperature": 0.05,
        }
        return cls(**settings | changes)


PRESETS = {"default": Settings(), "paper": Settings.paper()}


def find_callable(kind: str, name: str) -> Callable[..., Any]:
    """What ``module:callable`` names.

    Args:
        kind: what it is for, for messages.
        name: module, importable from where Python runs, and callable.

    Raises:
        ValueError: no such module or callable.

    Example:
        >>> find_callable("dataset", "fasteraa_transforms.search:Digits").__name__
        'Digits'
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ValueError(f"{kind} {name!r} was not found: {error}") from error
    if not callable(found):
        raise ValueError(f"{kind} {name!r} should be callable, but got {type(found).__name__} instead")
    return found
