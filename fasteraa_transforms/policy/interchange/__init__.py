"""Policies of other libraries, in and out.

A module for each library. What means the same is converted; what does not is refused with `PolicyError`, which names it
and says why. Where an operation differs in a detail, the provenance lists it under "differences". Files are read as
data, never executed. Each ``convert`` returns the arguments of `Policy`.
"""

from typing import Any, TypedDict

from fasteraa_transforms.operations.table import OPERATIONS

NAMES = {name.title().replace("_", ""): name for name in OPERATIONS}
"""AutoAugment's names of the operations, such as ShearX, which Fast AutoAugment uses too."""


class Converted(TypedDict):
    """The arguments of `Policy`."""

    sub_policies: list[list[list[dict[str, Any]]]]  # sub-policies of stages of candidates
    name: str
    provenance: dict[str, Any]


def is_number(value: object) -> bool:
    """Whether a value is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
