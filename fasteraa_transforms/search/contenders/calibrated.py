"""Calibrated policies: operations that change images and keep the classes, each up to its own largest magnitude."""

from collections.abc import Mapping

from fasteraa_transforms.operations import OPERATIONS
from fasteraa_transforms.policy import Policy
from fasteraa_transforms.search.contenders.guard import Curves
from fasteraa_transforms.search.contenders.uniform import stage_of

PARTS = (0.4, 0.7, 1.0)
"""Of its largest magnitude: the magnitudes of an operation."""

WEAKEST = 0.05
"""An operation that breaks the classes at a smaller magnitude than this is left out."""


def calibrated(
    curves: Curves,
    tolerance: float,
    *,
    stages: int = 2,
    probability: float = 0.7,
    limits: Mapping[str, float] | None = None,
    name: str = "calibrated",
) -> Policy | None:
    """The policy of all operations that change images and lose at most ``tolerance`` of the accuracy.

    Args:
        curves: what the guard saw; of the operations that may be used.
        tolerance: fraction of the clean accuracy that may be lost, in [0, 1].
        stages: operations applied one after another.
        probability: of each stage to change the image.
        limits: largest magnitude of some operations, in [0, 1].
        name: of the policy.

    Returns:
        The policy; None where no operation is left.

    Example:
        >>> from fasteraa_transforms.search.contenders.guard import Point
        >>> rotate = (Point(0.5, 0.9, 0.1), Point(1.0, 0.7, 0.2))
        >>> curves = Curves(0.9, {"rotate": rotate, "invert": (Point(None, 0.1, 0.5),)}, images=100)
        >>> [round(each.magnitude, 2) for each in calibrated(curves, 0.1).sub_policies[0][0]]
        [0.29, 0.51, 0.72]
    """
    limits = limits or {}
    chosen: dict[str, list[float]] = {}
    for operation in curves.points:
        reached = curves.largest(operation, tolerance)
        if reached is None or reached < WEAKEST or curves.still(operation):
            continue
        largest = min(reached, limits.get(operation, 1.0))
        chosen[operation] = [part * largest for part in PARTS] if OPERATIONS[operation].has_magnitude else []
    if not chosen:
        return None
    return Policy([[stage_of(chosen, probability)] * stages], name=name)
