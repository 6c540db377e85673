"""Uniform policies: the operations of a group, all alike, at several magnitudes."""

from collections.abc import Iterable, Mapping, Sequence

from fasteraa_transforms.operations import OPERATIONS
from fasteraa_transforms.policy import Candidate, Policy

GROUPS: dict[str, tuple[str, ...]] = {
    "all": tuple(OPERATIONS),
    "colour": ("posterize", "contrast", "color", "brightness", "sharpness", "auto_contrast", "equalize"),
    "geometry": ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
}
"""Groups of operations by name."""

MAGNITUDES = (0.1, 0.3, 0.5, 0.7, 0.9)


def stage_of(
    magnitudes: Mapping[str, Sequence[float]],  # of each operation; nothing for one without a magnitude
    probability: float,
) -> list[Candidate]:
    """A stage in which every operation is as likely as the others, and so is each magnitude of one operation."""
    return [
        Candidate(operation=name, weight=1 / max(len(values), 1), probability=probability, magnitude=value)
        for name, values in magnitudes.items()
        for value in (values or (None,))
    ]


def uniform(
    operations: Iterable[str],
    *,
    stages: int = 1,
    probability: float = 1.0,
    limits: Mapping[str, float] | None = None,
    name: str = "uniform",
) -> Policy:
    """The policy in which every operation is as likely as the others.

    Args:
        operations: names in `OPERATIONS`.
        stages: operations applied one after another.
        probability: of each stage to change the image, in [0, 1].
        limits: largest magnitude of some operations, in [0, 1]; their magnitudes are spread below it.
        name: of the policy.

    Example:
        >>> policy = uniform(["flip", "rotate"])
        >>> [(each.operation, each.magnitude) for each in policy.sub_policies[0][0]][:3]
        [('flip', None), ('rotate', 0.1), ('rotate', 0.3)]
    """
    limits = limits or {}
    chosen = {
        each: [limits.get(each, 1.0) * value for value in MAGNITUDES] if OPERATIONS[each].has_magnitude else []
        for each in operations
    }
    return Policy([[stage_of(chosen, probability)] * stages], name=name)
