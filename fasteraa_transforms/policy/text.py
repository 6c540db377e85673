"""A policy as text: the JSON of its file, and the table that its repr shows."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.errors import printable

if TYPE_CHECKING:  # it needs pydantic
    from fasteraa_transforms.policy.schema import Candidate

FORMAT = "fasteraa-policy"
VERSION = 1

SubPolicies = tuple[tuple[tuple["Candidate", ...], ...], ...]  # L sub-policies of K stages of candidates


def json_text(name: str, sub_policies: SubPolicies, provenance: dict[str, Any]) -> str:
    """The text of the policy file, one candidate a line."""

    def line(candidate: "Candidate") -> str:
        return json.dumps(candidate.model_dump(exclude_none=True))

    def block(items: Iterable[str]) -> str:
        return "[\n  " + ",\n".join(items).replace("\n", "\n  ") + "\n]"

    entries = {
        "format": json.dumps(FORMAT),
        "version": json.dumps(VERSION),
        "name": json.dumps(name, ensure_ascii=False),
        "sub_policies": block(
            block(block(line(candidate) for candidate in stage) for stage in sub_policy) for sub_policy in sub_policies
        ),
        "provenance": json.dumps(provenance, ensure_ascii=False, indent=2),
    }
    lines = ",\n".join(f'"{key}": {text}' for key, text in entries.items())
    return "{\n  " + lines.replace("\n", "\n  ") + "\n}\n"


def table(name: str, sub_policies: SubPolicies) -> str:
    """The policy for people: a line for each candidate, the heaviest of a stage first."""
    count, stages = len(sub_policies), len(sub_policies[0])
    numbers = "1 sub-policy" if count == 1 else f"{count} sub-policies"
    lines = [f"Policy {printable(repr(name))}: {numbers} of {stages} stage{'s' * (stages != 1)}"]
    lines.append("sub-policy  stage  operation       weight  probability  magnitude")
    for index, sub_policy in enumerate(sub_policies):
        for k, stage in enumerate(sub_policy):
            for rank, candidate in enumerate(sorted(stage, key=lambda candidate: -candidate.weight)):
                place = f"{index if k == rank == 0 else '':>10}  {k if rank == 0 else '':>5}"
                shares = f"{candidate.weight:.4f}  {candidate.probability:>11.3f}  {magnitude_text(candidate):>9}"
                lines.append(f"{place}  {candidate.operation:14}  {shares}")
    return "\n".join(lines)


def magnitude_text(candidate: "Candidate") -> str:
    """The magnitude with the sign that the candidate fixes; "-" for an operation that has no magnitude."""
    sign = {1: "+", -1: "-", None: ""}[candidate.sign]
    return "-" if candidate.magnitude is None else f"{sign}{candidate.magnitude:.3f}"


def physical_text(candidate: "Candidate") -> str:
    """What the magnitude stands for, in the unit of the operation; "-" for an operation that has no magnitude.

    Example:
        >>> from fasteraa_transforms.policy.schema import Candidate
        >>> physical_text(Candidate(operation="rotate", weight=1, probability=1, magnitude=0.4))
        '± 12 degrees'
    """
    operation = OPERATIONS[candidate.operation]
    if candidate.magnitude is None:
        return "-"
    weakest, value = (operation.parameter(torch.tensor(at)).item() for at in (0.0, candidate.magnitude))
    if not operation.signed:
        text = f"{value:.3g}"
    elif candidate.sign is None:
        text = f"{weakest:g} ± {value - weakest:.2g}" if weakest else f"± {value:.3g}"
    else:
        text = f"{weakest + candidate.sign * (value - weakest):.3g}"
    return f"{text} {operation.unit}"
