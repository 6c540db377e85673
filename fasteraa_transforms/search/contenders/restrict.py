"""What the user allows: some operations only, some magnitudes only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fasteraa_transforms.operations import OPERATIONS
from fasteraa_transforms.policy import Candidate, Policy


@dataclass(frozen=True)
class Allowed:
    """The operations that contenders may use, and how strong.

    Attributes:
        operations: names in `OPERATIONS`, in the order of the table.
        limits: largest magnitude of some of them, in [0, 1].
    """

    operations: tuple[str, ...] = tuple(OPERATIONS)
    limits: Mapping[str, float] = field(default_factory=dict)

    @property
    def everything(self) -> bool:
        """Whether nothing is restricted."""
        return set(self.operations) == set(OPERATIONS) and all(limit >= 1 for limit in self.limits.values())

    def restrict(self, policy: Policy) -> Policy:
        """The policy without forbidden operations, and with magnitudes cut to their limits.

        A stage keeps how often it changes nothing: a candidate that is left out becomes one that is never applied.

        Example:
            >>> rotate = {"operation": "rotate", "weight": 1, "probability": 1, "magnitude": 0.8}
            >>> flip = {"operation": "flip", "weight": 1, "probability": 1}
            >>> kept = Allowed(("rotate",), {"rotate": 0.5}).restrict(Policy([[[rotate, flip]]]))
            >>> [(each.operation, each.probability, each.magnitude) for each in kept.sub_policies[0][0]]
            [('rotate', 1.0, 0.5), ('rotate', 0.0, 0.0)]
        """
        if self.everything:
            return policy
        sub_policies = [[[self._candidate(each) for each in stage] for stage in sub] for sub in policy.sub_policies]
        return Policy(sub_policies, name=policy.name, provenance=policy.provenance)

    def _candidate(self, candidate: Candidate) -> Candidate:
        name = candidate.operation
        if name not in self.operations:
            still = self.operations[0]
            return Candidate(
                operation=still,
                weight=candidate.weight,
                probability=0,
                magnitude=0.0 if OPERATIONS[still].has_magnitude else None,
            )
        limit = self.limits.get(name, 1.0)
        if candidate.magnitude is None or candidate.magnitude <= limit:
            return candidate
        return candidate.model_copy(update={"magnitude": limit})


def parse_allowed(
    operations: Sequence[str] = (), exclude: Sequence[str] = (), max_magnitude: Sequence[str] = ()
) -> Allowed:
    """What the command line says of operations.

    Args:
        operations: names to use; all if none are given.
        exclude: names to leave out.
        max_magnitude: such as ``rotate=0.5``.

    Raises:
        ValueError: an unknown operation, one that has no magnitude, a magnitude outside of [0, 1], or nothing is left.

    Example:
        >>> parse_allowed(exclude=["flip"], max_magnitude=["rotate=0.5"]).limits
        {'rotate': 0.5}
    """
    limits = {}
    for item in max_magnitude:
        name, equals, text = item.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not equals or not 0 <= value <= 1:
            raise ValueError(f"max_magnitude should be such as rotate=0.5, with a number in [0, 1], but got {item!r}")
        limits[name] = value
    for name in (*operations, *exclude, *limits):
        if name not in OPERATIONS:
            raise ValueError(f"operations should be among {', '.join(OPERATIONS)}, but got {name!r} instead")
    if without := [name for name in limits if not OPERATIONS[name].has_magnitude]:
        raise ValueError(f"max_magnitude should name operations with a magnitude, but {without[0]} has none")
    kept = tuple(name for name in OPERATIONS if (not operations or name in operations) and name not in exclude)
    if not kept:
        raise ValueError("operations and exclude should leave at least one operation, but leave none")
    return Allowed(kept, limits)
