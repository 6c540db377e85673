"""The kinds of contenders, in one table, and the contenders of a list of names.

Adding a kind is adding a row. A kind is found by its name, or as ``module:callable``; the callable takes a `Material`
and returns a list of `Contender`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fasteraa_transforms.pipeline.transform import FasterAutoAugment
from fasteraa_transforms.search.contenders import Contender
from fasteraa_transforms.search.contenders.calibrated import calibrated
from fasteraa_transforms.search.contenders.guard import Curves
from fasteraa_transforms.search.contenders.published import PUBLISHED
from fasteraa_transforms.search.contenders.restrict import Allowed
from fasteraa_transforms.search.contenders.uniform import GROUPS, uniform
from fasteraa_transforms.search.settings import find_callable

TOLERANCES = (0.1, 0.25)
"""Fractions of the accuracy that calibrated policies may lose; 1 would be the uniform policy."""


@dataclass(frozen=True)
class Material:
    """What contenders are made of.

    Attributes:
        allowed: operations and magnitudes that may be used.
        curves: what a guard saw, by the contender that the guard was trained with: "none" or "uniform".
        tolerances: of the calibrated policies.
    """

    allowed: Allowed = field(default_factory=Allowed)
    curves: Mapping[str, Curves] = field(default_factory=dict)
    tolerances: tuple[float, ...] = TOLERANCES


Make = Callable[[Material], list[Contender]]


@dataclass(frozen=True)
class ContenderKind:
    """One row of `CONTENDERS`.

    Attributes:
        make: makes the contenders of the kind.
        summary: what they are, for helps.
        guards: contenders whose networks serve as guards, so have to be trained before.
    """

    make: Make
    summary: str
    guards: tuple[str, ...] = ()


def _none(material: Material) -> list[Contender]:
    return [Contender("none", None, "no augmentation")]


def _published(name: str, material: Material) -> list[Contender]:
    row = PUBLISHED[name]
    return [Contender(name, material.allowed.restrict(row.make()), row.summary)]


def _uniform(name: str, group: str, stages: int, probability: float, material: Material) -> list[Contender]:
    chosen = [each for each in GROUPS[group] if each in material.allowed.operations]
    if not chosen:
        return []
    policy = uniform(chosen, stages=stages, probability=probability, limits=material.allowed.limits, name=name)
    return [Contender(name, policy, f"{len(chosen)} operations, all alike; {stages} an image")]


def _calibrated(guard: str, material: Material) -> list[Contender]:
    curves = material.curves[guard].only(material.allowed.operations)
    suffix = "" if guard == "none" else f" ({guard} guard)"
    result: list[Contender] = []
    for tolerance in material.tolerances:
        name = f"calibrated {tolerance:g}{suffix}"
        policy = calibrated(curves, tolerance, limits=material.allowed.limits, name=name)
        if policy is not None and all(policy != each.policy for each in result):
            origin = f"operations that lose at most {tolerance:.0%} of a classifier's accuracy on your images"
            result.append(Contender(name, policy, origin, searched=True))
    return result


CONTENDERS: dict[str, ContenderKind] = {
    "none": ContenderKind(_none, "no augmentation"),
    **{name: ContenderKind(partial(_published, name), row.summary) for name, row in PUBLISHED.items()},
    "uniform": ContenderKind(partial(_uniform, "uniform", "all", 1, 1.0), "one operation of all, all alike"),
    "uniform-2": ContenderKind(
        partial(_uniform, "uniform-2", "all", 2, 0.7), "two operations of all, each applied with 0.7"
    ),
    "colour": ContenderKind(
        partial(_uniform, "colour", "colour", 1, 1.0), "one operation of those that change colours"
    ),
    "geometry": ContenderKind(
        partial(_uniform, "geometry", "geometry", 1, 1.0), "one operation of those that move pixels"
    ),
    "calibrated": ContenderKind(
        partial(_calibrated, "none"), "operations up to the magnitude at which a classifier loses them", ("none",)
    ),
    "calibrated-uniform": ContenderKind(
        partial(_calibrated, "uniform"), "the same, by a classifier that was trained with uniform", ("uniform",)
    ),
}
"""Kinds of contenders by name."""


def find_kind(name: str) -> ContenderKind:
    """The kind called ``name``.

    Args:
        name: a key of `CONTENDERS`, a policy file, a shipped policy as ``policy=NAME``, or ``module:callable``.

    Raises:
        ValueError: no such kind, file, module or callable.

    Example:
        >>> find_kind("none").make(Material())[0].origin
        'no augmentation'
    """
    if name in CONTENDERS:
        return CONTENDERS[name]
    if name.startswith("policy=") or Path(name).suffix == ".json":
        source = name.removeprefix("policy=")
        policy = FasterAutoAugment.from_pretrained(source).policy
        label = policy.name if name.startswith("policy=") else Path(source).stem
        return ContenderKind(
            lambda material: [Contender(label, material.allowed.restrict(policy), f"the policy {source}")], source
        )
    if ":" in name:
        return ContenderKind(find_callable("contender", name), name)
    known = ", ".join(CONTENDERS)
    raise ValueError(
        f"contenders should be among {known}; a policy file, policy=NAME or module:callable; but got {name!r} instead"
    )


def gather(kinds: Sequence[str], material: Material) -> list[Contender]:
    """The contenders of all kinds whose guards have been trained, each name once.

    Args:
        kinds: names, as `find_kind` takes them.
        material: what they are made of.

    Example:
        >>> [each.name for each in gather(["none", "uniform", "calibrated"], Material())]
        ['none', 'uniform']
    """
    result: dict[str, Contender] = {}
    for name in kinds:
        kind = find_kind(name)
        if all(guard in material.curves for guard in kind.guards):
            for contender in kind.make(material):
                result.setdefault(contender.name, contender)
    return list(result.values())
