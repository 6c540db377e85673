"""What a policy file may hold. Its checks and the published JSON Schema come from the models of this module.

The module needs pydantic, which takes longer to import than the rest of the package. So the package imports this module
when the first policy is checked.

``python -m fasteraa_transforms.policy.schema`` writes the JSON Schema to docs/policy.schema.json, or to the path given.
"""

import json
import math
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy.errors import PolicyError, json_path, shown
from fasteraa_transforms.policy.text import FORMAT, VERSION

MAX_ERRORS = 10_000  # beyond this, listing what is wrong costs more memory than it is worth
_WEIGHT_TOLERANCE = 1e-9


def _in_the_table(name: str) -> str:
    if name not in OPERATIONS:
        raise _refusal(found=shown(name), expected=_a_name())
    return name


def _a_name() -> str:
    """What is expected of the name of an operation, by the table as it is now."""
    return f"one of {', '.join(OPERATIONS)}"


def _name_schema(schema: dict[str, Any]) -> None:
    """What the JSON Schema says of the name of an operation."""
    schema["enum"] = list(OPERATIONS)


def _candidate_schema(schema: dict[str, Any]) -> None:
    """What the JSON Schema says of a candidate as a whole: which operations have a magnitude, and which a sign."""
    with_magnitude = [each.name for each in OPERATIONS.values() if each.has_magnitude]
    with_sign = [each.name for each in OPERATIONS.values() if each.signed]
    schema |= {
        "description": "One operation that a stage may choose",
        "if": {"properties": {"operation": {"enum": with_magnitude}}},
        "then": {"properties": {"magnitude": {"type": "number"}}, "required": ["magnitude"]},
        "else": {"properties": {"magnitude": {"type": "null"}}},
        "allOf": [
            {
                "if": {"properties": {"operation": {"enum": with_sign}}},
                "else": {"properties": {"sign": {"type": "null"}}},
            }
        ],
    }


class Candidate(BaseModel):
    """One operation that a stage may choose.

    Attributes:
        operation: a name in `OPERATIONS`.
        weight: positive; within the stages of a `Policy` the weights sum to 1.
        probability: in [0, 1]; how often the operation is applied once it is chosen.
        magnitude: in [0, 1]; None if and only if the operation has none.
        sign: the side that a signed operation goes to, 1 or -1. None draws the side with equal chance for each image.
            All other operations have None.

    Raises:
        pydantic.ValidationError: a value is refused. (A `Policy` refuses the same values with `PolicyError`.)

    Example:
        >>> Candidate(operation="rotate", weight=1, probability=0.6, magnitude=0.4)
        Candidate(operation='rotate', weight=1.0, probability=0.6, magnitude=0.4, sign=None)
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        revalidate_instances="always",  # `model_construct` and `model_copy` do not look at values
        json_schema_extra=_candidate_schema,
    )

    operation: Annotated[
        str,
        AfterValidator(_in_the_table),
        Field(description="Name of the operation", json_schema_extra=_name_schema),
    ]
    weight: Annotated[float, Field(gt=0, description="How often it is chosen, relative to the others of its stage")]
    probability: Annotated[float, Field(ge=0, le=1, description="How often it is applied once it is chosen")]
    magnitude: Annotated[
        Annotated[float, Field(ge=0, le=1)] | None,
        Field(validate_default=True, description="0 is the weakest, 1 the severest; null if the operation has none"),
    ] = None
    sign: Annotated[
        Annotated[int, Field(json_schema_extra={"enum": [-1, 1]})] | None,  # a Literal would take True for 1
        Field(description="Side of a signed operation; null draws it for each image, and is required of the others"),
    ] = None

    @field_validator("magnitude")
    @classmethod
    def _as_the_operation_has_it(cls, magnitude: float | None, info: ValidationInfo) -> float | None:
        name = info.data.get("operation")  # absent if it was refused itself
        if name is None or OPERATIONS[name].has_magnitude == (magnitude is not None):
            return magnitude
        if magnitude is None:
            raise _refusal(found="nothing", expected=f"a number in [0, 1], the magnitude of {name}")
        raise _refusal(found=shown(magnitude), expected=f"null or nothing, as {name} has no magnitude")

    @field_validator("sign")
    @classmethod
    def _of_a_signed_operation(cls, sign: int | None, info: ValidationInfo) -> int | None:
        name = info.data.get("operation")
        if sign not in (1, -1, None):
            raise _refusal(found=shown(sign), expected="1, -1 or null")
        if sign is not None and name is not None and not OPERATIONS[name].signed:
            raise _refusal(found=str(sign), expected=f"null or nothing, as {name} has no sign")
        return sign


def _refusal(found: str, expected: str, within: tuple[int | str, ...] = ()) -> PydanticCustomError:
    """An error for what types and ranges cannot say; ``within`` leads from the validated value to the wrong place."""
    context = {"found": found, "expected": expected, "within": within}
    return PydanticCustomError("refused", "found {found}, expected {expected}", context)


def _normalised(stage: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
    """The stage with weights that sum to 1; a stage whose weights do already stays bit for bit as it is."""
    weights = [candidate.weight for candidate in stage]
    shares = shares_of(weights)
    if shares is weights:
        return stage
    return tuple(candidate.model_copy(update={"weight": share}) for candidate, share in zip(stage, shares, strict=True))


def shares_of(weights: Sequence[float]) -> Sequence[float]:
    """The weights divided by their sum; the same object if they sum to 1.

    Raises:
        PydanticCustomError: a weight vanishes beside the largest one.
    """
    largest = max(weights)
    if largest < 2 and abs(math.fsum(weights) - 1) <= _WEIGHT_TOLERANCE:
        return weights
    # Dividing by the largest first keeps the sum of weights near the largest float from overflowing.
    total = math.fsum(weight / largest for weight in weights)
    shares = array("d", (weight / largest / total for weight in weights))
    if 0 in shares:
        index = shares.index(0)
        expected = f"a weight that does not vanish beside {largest!r}"
        raise _refusal(found=repr(weights[index]), expected=expected, within=(index, "weight"))
    return shares


def _same_stages(sub_policies: "tuple[_SubPolicy, ...]") -> "tuple[_SubPolicy, ...]":
    """Refuse sub-policies that differ in their number of stages."""
    stages = len(sub_policies[0])
    for index, sub_policy in enumerate(sub_policies):
        if len(sub_policy) != stages:
            raise _refusal(f"{len(sub_policy)} stages", f"{stages} stages, as in the first sub-policy", within=(index,))
    return sub_policies


def as_json(provenance: dict[str, Any]) -> dict[str, Any]:
    """A copy of the provenance, made as a file makes it: written as JSON and read back."""
    try:
        text = json.dumps({"provenance": provenance}, allow_nan=False, ensure_ascii=False)
        loaded: dict[str, Any] = from_json(text)["provenance"]
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(shown(provenance), f"what JSON can hold ({error})") from None
    return loaded


# Lists are as welcome as tuples; the values in them are checked strictly all the same.
_List = Field(min_length=1, strict=False)
_Stage = Annotated[tuple[Candidate, ...], _List, AfterValidator(_normalised)]
_SubPolicy = Annotated[tuple[_Stage, ...], _List]
_SubPolicies = Annotated[
    tuple[_SubPolicy, ...],
    _List,
    AfterValidator(_same_stages),
    Field(description="Each image draws one; all have the same number of stages; a stage is a list of candidates"),
]


class PolicyFile(BaseModel):
    """The policy file, version 1."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        title="Policy file of fasteraa_transforms",
        json_schema_extra={"description": "Weights are normalised within each stage when the file is read"},
    )

    # The version stands first: a file from the future may differ in everything that follows.
    format: Literal["fasteraa-policy"]
    version: Annotated[int, Field(ge=VERSION, le=VERSION)]
    name: Annotated[str, Field(min_length=1)]
    sub_policies: _SubPolicies
    provenance: Annotated[dict[str, Any], AfterValidator(as_json), Field(description="Where it comes from")] = {}


def checked(document: dict[str, Any] | bytes, source: str) -> PolicyFile:
    """The document of a policy, checked, with weights that sum to 1.

    Args:
        document: the file's fields, or its text, which `reading.read` has looked through.
        source: what errors call it.

    Raises:
        PolicyError: the document is refused.
    """
    try:
        if isinstance(document, bytes):
            return PolicyFile.model_validate_json(document)
        return PolicyFile.model_validate(document)
    except ValidationError as error:
        if error.error_count() > MAX_ERRORS:
            raise PolicyError(source, "$", f"{error.error_count()} errors", "a policy") from None
        details = _without_echoes(error)
        raise policy_error(source, details[0], len(details) - 1) from None


_EXPECTED = {
    "$": "a JSON object",
    "$.format": repr(FORMAT),
    "$.version": str(VERSION),
    "$.name": "a non-empty string",
    "$.sub_policies": "a non-empty list of sub-policies",
    "$.sub_policies[]": "a non-empty list of stages",
    "$.sub_policies[][]": "a non-empty list of candidates",
    "$.sub_policies[][][]": "a candidate: an object with operation, weight, probability and magnitude",
    "$.sub_policies[][][].weight": "a positive number",
    "$.sub_policies[][][].probability": "a number in [0, 1]",
    "$.sub_policies[][][].magnitude": "a number in [0, 1]",
    "$.sub_policies[][][].sign": "1, -1 or null",
    "$.provenance": "a JSON object",
}


def _without_echoes(error: ValidationError) -> list[ErrorDetails]:
    """The errors, but for a list that is called too short only because of a mistake inside of it."""
    details: list[ErrorDetails] = []
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        inner = details[-1]["loc"] if details else ()
        if not (detail["type"] == "too_short" and len(inner) > len(loc) and inner[: len(loc)] == loc):
            details.append(detail)
    return details


def policy_error(source: str, detail: ErrorDetails, more: int) -> PolicyError:
    """One of pydantic's errors in the words of `PolicyError`."""
    kind, context = detail["type"], detail.get("ctx", {})
    place = (*detail["loc"], *context.get("within", ()))
    pattern = "$" + "".join("[]" if isinstance(key, int) else f".{key}" for key in place)
    expected = _a_name() if pattern.endswith("[].operation") else _EXPECTED.get(pattern, detail["msg"])
    found = shown(detail["input"])
    if kind == "refused":
        found, expected = context["found"], context["expected"]
    elif kind == "missing":
        found = "nothing"
    elif kind in ("extra_forbidden", "invalid_key"):
        expected = "no such key"
    elif kind == "json_invalid":
        found, expected = context["error"], "valid JSON"
    elif kind == "less_than_equal" and pattern == "$.version":
        expected += "; the file is newer than this release: upgrade fasteraa_transforms"
    return PolicyError(source, json_path(place), found, expected, more)


def schema_text() -> str:
    """The JSON Schema of policy files.

    A JSON Schema cannot say that all sub-policies have the same number of stages.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **PolicyFile.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    (destination,) = sys.argv[1:] or ["docs/policy.schema.json"]
    Path(destination).write_text(schema_text(), encoding="utf-8")
