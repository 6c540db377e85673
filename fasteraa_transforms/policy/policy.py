"""The policy: data that can be read, written and sampled.

A policy is L sub-policies of K stages; a stage is a list of candidates. The JSON file, the checks that a file has to
pass and the published JSON Schema all come from the pydantic models below.
"""

import json
import math
import os
import reprlib
import secrets
import threading
from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError, from_json
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode

from fasteraa_transforms.backends.device import runs_kernels
from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.plan import Plan

FORMAT = "fasteraa-policy"
VERSION = 1
MAX_BYTES = 16 * 2**20  # a searched policy has some 30 kB
_MAX_ERRORS = 10_000  # beyond this, listing what is wrong costs more memory than it is worth
_WEIGHT_TOLERANCE = 1e-9

if TYPE_CHECKING:
    OperationName = str
else:
    OperationName = Literal[tuple(OPERATIONS)]


class PolicyError(ValueError):
    """A policy that is refused: where, what was found there, and what was expected.

    Attributes:
        source: the file, "<string>" for text, "<policy>" for a policy built in Python.
        path: JSON path of the place, such as ``$.sub_policies[0][1][0].probability``; ``$`` is the whole document.
        found: what is there, shortened to about 80 characters.
        expected: what should be there.
        more: how many more errors the same document has.

    Example:
        >>> try:
        ...     Policy([[[{"operation": "flip", "weight": 1, "probability": 1.5}]]])
        ... except PolicyError as error:
        ...     print(error)
        <policy>: $.sub_policies[0][0][0].probability: found 1.5, expected a number in [0, 1]
    """

    def __init__(self, source: str, path: str, found: str, expected: str, more: int = 0) -> None:
        super().__init__(source, path, found, expected, more)  # the arguments as they are, so that it can be pickled
        self.source, self.path, self.found, self.expected, self.more = source, path, found, expected, more

    def __str__(self) -> str:
        more = f" (and {self.more} more error{'s' * (self.more > 1)})" if self.more else ""
        return f"{self.source}: {self.path}: found {self.found}, expected {self.expected}{more}"


class Candidate(BaseModel):
    """One operation that a stage may choose.

    Attributes:
        operation: a name in `OPERATIONS`.
        weight: positive; within the stages of a `Policy` the weights sum to 1.
        probability: in [0, 1]; how often the operation is applied once it is chosen.
        magnitude: in [0, 1]; None if and only if the operation has none.
        sign: the side that a signed operation goes to, 1 or -1; None draws it with equal chance for each image, and is
            what all others have.

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
        json_schema_extra={
            "description": "One operation that a stage may choose",
            "if": {"properties": {"operation": {"enum": [o.name for o in OPERATIONS.values() if o.has_magnitude]}}},
            "then": {"properties": {"magnitude": {"type": "number"}}, "required": ["magnitude"]},
            "else": {"properties": {"magnitude": {"type": "null"}}},
            "allOf": [
                {
                    "if": {"properties": {"operation": {"enum": [o.name for o in OPERATIONS.values() if o.signed]}}},
                    "else": {"properties": {"sign": {"type": "null"}}},
                }
            ],
        },
    )

    operation: Annotated[OperationName, Field(description="Name of the operation")]
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
    """The stage with weights that sum to 1; bit for bit the same stage if they do already."""
    weights = [candidate.weight for candidate in stage]
    largest = max(weights)
    if largest < 2 and abs(math.fsum(weights) - 1) <= _WEIGHT_TOLERANCE:
        return stage
    # Dividing by the largest first keeps the sum of weights near the largest float from overflowing.
    scaled = [weight / largest for weight in weights]
    total = math.fsum(scaled)
    for index, weight in enumerate(scaled):
        if weight / total == 0:
            expected = f"a weight that does not vanish beside {largest!r}"
            raise _refusal(found=repr(weights[index]), expected=expected, within=(index, "weight"))
    return tuple(
        candidate.model_copy(update={"weight": weight / total}) for candidate, weight in zip(stage, scaled, strict=True)
    )


def _same_stages(sub_policies: "tuple[_SubPolicy, ...]") -> "tuple[_SubPolicy, ...]":
    """Refuses sub-policies that differ in their number of stages."""
    stages = len(sub_policies[0])
    for index, sub_policy in enumerate(sub_policies):
        if len(sub_policy) != stages:
            raise _refusal(f"{len(sub_policy)} stages", f"{stages} stages, as in the first sub-policy", within=(index,))
    return sub_policies


def _as_json(provenance: dict[str, Any]) -> dict[str, Any]:
    """What will be read back once it is written; a copy, so that the caller's dictionary can change."""
    try:
        text = json.dumps({"provenance": provenance}, allow_nan=False, ensure_ascii=False)
        loaded: dict[str, Any] = from_json(text)["provenance"]
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(shown(provenance), f"what JSON can hold ({error})") from None
    return loaded


# Lists are as welcome as tuples here; what is in them is checked strictly all the same.
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
    """The policy file, version 1; the JSON Schema is made from this."""

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
    provenance: Annotated[dict[str, Any], AfterValidator(_as_json), Field(description="Where it comes from")] = {}


_EXPECTED = {
    "$": "a JSON object",
    "$.format": repr(FORMAT),
    "$.version": str(VERSION),
    "$.name": "a non-empty string",
    "$.sub_policies": "a non-empty list of sub-policies",
    "$.sub_policies[]": "a non-empty list of stages",
    "$.sub_policies[][]": "a non-empty list of candidates",
    "$.sub_policies[][][]": "a candidate: an object with operation, weight, probability and magnitude",
    "$.sub_policies[][][].operation": f"one of {', '.join(OPERATIONS)}",
    "$.sub_policies[][][].weight": "a positive number",
    "$.sub_policies[][][].probability": "a number in [0, 1]",
    "$.sub_policies[][][].magnitude": "a number in [0, 1]",
    "$.sub_policies[][][].sign": "1, -1 or null",
    "$.provenance": "a JSON object",
}


def shown(value: object) -> str:
    """repr, at most 80 characters, whatever the value."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = 80
    try:
        text = short.repr(value)
    except Exception:  # a foreign __repr__ may raise anything, and so do integers of more than 4300 digits
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else text[:77] + "..."


def json_path(place: Iterable[int | str]) -> str:
    """Such as ``$.sub_policies[0][1]``, from the keys and indices that lead there."""

    def step(key: int | str) -> str:
        plain = isinstance(key, str) and key.isidentifier() and len(key) <= 40
        return f".{key}" if plain else f"[{shown(key)}]"

    return "$" + "".join(map(step, place))


def _policy_error(source: str, error: ValidationError) -> PolicyError:
    """The first of pydantic's errors in the words of `PolicyError`."""
    if error.error_count() > _MAX_ERRORS:
        return PolicyError(source, "$", f"{error.error_count()} errors", "a policy")
    details: list[ErrorDetails] = []
    for detail in error.errors(include_url=False):
        # pydantic calls a list too short as well if it refuses what is in it
        loc = detail["loc"]
        inner = details[-1]["loc"] if details else ()
        if not (detail["type"] == "too_short" and len(inner) > len(loc) and inner[: len(loc)] == loc):
            details.append(detail)

    first, more = details[0], len(details) - 1
    kind, context = first["type"], first.get("ctx", {})
    place = (*first["loc"], *context.get("within", ()))
    pattern = "$" + "".join("[]" if isinstance(key, int) else f".{key}" for key in place)
    expected = _EXPECTED.get(pattern, first["msg"])
    found = shown(first["input"])
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


@dataclass(frozen=True)
class _Tables:
    """A policy as arrays to look things up in, all on one device. Stages with fewer than N candidates are padded."""

    cumulative: Tensor  # float64 [L, K, N], upper ends of the candidates' shares of [0, 1); inf from the last one on
    operation: Tensor  # int64 [L, K, N]
    probability: Tensor  # float64 [L, K, N]
    parameter: Tensor  # float64 [2, L, K, N], physical parameter: as the sign says, and with the other sign if drawn


# The candidates of one stage, for drawing one image: upper ends of their shares, without the last; and for each its
# operation, probability, and parameters with positive and negative sign.
_StageRow = tuple[list[float], list[tuple[int, float, float, float]]]


class Policy:
    """L sub-policies of K stages, each a choice among candidates; immutable.

    Two policies are equal if their sub-policies are: name and provenance are labels.

    Args:
        sub_policies: lists (or tuples) of stages, which are lists of candidates, which are `Candidate` or dictionaries
            of its fields. All have the same number of stages. The weights of a stage are normalised to sum 1.
        name: a label, not empty.
        provenance: where the policy comes from; whatever JSON can hold.

    Raises:
        PolicyError: something is refused; it says where, what was found and what was expected.

    Example:
        >>> rotate = {"operation": "rotate", "weight": 3, "probability": 0.6, "magnitude": 0.4}
        >>> flip = {"operation": "flip", "weight": 1, "probability": 0.5}
        >>> policy = Policy([[[rotate, flip], [flip]]], name="example")
        >>> policy
        Policy 'example': 1 sub-policy of 2 stages
        sub-policy  stage  operation       weight  probability  magnitude
                 0      0  rotate          0.7500        0.600      0.400
                           flip            0.2500        0.500          -
                        1  flip            1.0000        0.500          -
        >>> policy.sub_policies[0][0][1].weight
        0.25
        >>> Policy.from_json(policy.to_json()) == policy
        True
    """

    __slots__ = ("_name", "_provenance", "_room", "_rows", "_sub_policies", "_tables")

    def __init__(
        self,
        sub_policies: Sequence[Sequence[Sequence[Candidate | dict[str, Any]]]],
        name: str = "unnamed",
        provenance: dict[str, Any] | None = None,
    ) -> None:
        document = {"format": FORMAT, "version": VERSION, "name": name, "sub_policies": sub_policies}
        if provenance is not None:
            document["provenance"] = provenance
        try:
            checked = PolicyFile.model_validate(document)
        except ValidationError as error:
            raise _policy_error("<policy>", error) from None
        self._sub_policies = checked.sub_policies
        self._name = checked.name
        self._provenance = checked.provenance
        self._tables: dict[torch.device, _Tables] = {}
        self._rows: list[list[_StageRow]] | None = None
        self._room = threading.local()

    @property
    def sub_policies(self) -> tuple[tuple[tuple[Candidate, ...], ...], ...]:
        """L x K x candidates, weights normalised."""
        return self._sub_policies

    @property
    def name(self) -> str:
        """The label."""
        return self._name

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the policy comes from; a copy."""
        return _as_json(self._provenance)

    @property
    def stages(self) -> int:
        """Number of stages K."""
        return len(self._sub_policies[0])

    def __len__(self) -> int:
        """Number of sub-policies L."""
        return len(self._sub_policies)

    def __eq__(self, other: object) -> bool:
        """Whether the sub-policies are the same; name and provenance do not count."""
        return self._sub_policies == other._sub_policies if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._sub_policies)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._sub_policies, self._name, self._provenance)  # the tables are made anew

    def __repr__(self) -> str:
        sub_policies = "1 sub-policy" if len(self) == 1 else f"{len(self)} sub-policies"
        lines = [f"Policy {self._name!r}: {sub_policies} of {self.stages} stage{'s' * (self.stages != 1)}"]
        lines.append("sub-policy  stage  operation       weight  probability  magnitude")
        for index, sub_policy in enumerate(self._sub_policies):
            for k, stage in enumerate(sub_policy):
                for rank, candidate in enumerate(sorted(stage, key=lambda candidate: -candidate.weight)):
                    place = f"{index if k == rank == 0 else '':>10}  {k if rank == 0 else '':>5}"
                    sign = {1: "+", -1: "-", None: ""}[candidate.sign]
                    magnitude = "-" if candidate.magnitude is None else f"{sign}{candidate.magnitude:.3f}"
                    shares = f"{candidate.weight:.4f}  {candidate.probability:>11.3f}  {magnitude:>9}"
                    lines.append(f"{place}  {candidate.operation:14}  {shares}")
        return "\n".join(lines)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Policy":
        """Read a policy file: UTF-8 JSON of at most 16 MiB, version 1.

        Raises:
            PolicyError: the file cannot be read or is refused.

        Example:
            >>> try:
            ...     Policy.load("missing.json")
            ... except PolicyError as error:
            ...     print(error)
            missing.json: $: found nothing readable (No such file or directory), expected a policy file
        """
        source = os.fspath(path)
        return cls.from_json(read_text(source), source)

    @classmethod
    def from_json(cls, text: str, source: str = "<string>") -> "Policy":
        """Read the text of a policy file.

        Args:
            text: JSON.
            source: what errors call it.

        Raises:
            PolicyError: the text is refused.
        """
        try:
            checked = PolicyFile.model_validate_json(text)
        except ValidationError as error:
            raise _policy_error(source, error) from None
        return cls(checked.sub_policies, checked.name, checked.provenance)

    @classmethod
    def from_autoaugment(cls, policy: AutoAugmentPolicy | str) -> "Policy":
        """AutoAugment's published policies, with the pixels that torchvision's ``AutoAugment`` makes of PIL images.

        25 sub-policies of two stages with one candidate each. Chances and signs are drawn as torchvision draws them,
        but each image of a batch draws for itself. The severest TranslateX and TranslateY (in the cifar10 policy),
        150/331 = 0.453 of the size there, are 0.45 of it here. On tensors torchvision's pixels differ from Pillow's,
        which are those of this package on tensors too.

        Args:
            policy: ``AutoAugmentPolicy.IMAGENET``, ``CIFAR10`` or ``SVHN``, or its value, such as "imagenet".

        Raises:
            ValueError: there is no such policy.

        Source: Cubuk et al. 2019, AutoAugment, appendix A; ``torchvision.transforms.v2.AutoAugment``.

        Example:
            >>> Policy.from_autoaugment("imagenet").sub_policies[0][1]
            (Candidate(operation='rotate', weight=1.0, probability=0.6, magnitude=1.0, sign=None),)
        """
        from fasteraa_transforms.policy.interchange import convert as interchange

        return interchange.from_autoaugment(policy)

    @classmethod
    def from_fast_autoaugment(
        cls, source: Sequence[Any] | str | os.PathLike[str], function: str | None = None
    ) -> "Policy":
        """A policy of Fast AutoAugment: a list of sub-policies, which are lists of (name, probability, level).

        The factors of Contrast, Color, Brightness and Sharpness are not mirrored there, so these candidates have a
        `Candidate.sign`. Where the operation is the same in all but a detail (TranslateX, TranslateY, Cutout and
        SamplePairing), the provenance says what differs. Levels of operations that have none are dropped.

        Args:
            source: the list, or the path of a file with it: as a Python or JSON literal, or the published
                ``archive.py``. Files are read as data, never executed; 1 MiB at most.
            function: for ``archive.py``, the function that returns the policy, such as "fa_reduced_cifar10".

        Raises:
            PolicyError: the file cannot be read, or something is refused; Posterize2, TranslateXAbs, TranslateYAbs and
                CutoutAbs are, since nothing here is equal to them.
            TypeError: ``function`` is given with a list.

        Source: Lim et al. 2019, Fast AutoAugment; ``augmentations.py`` and ``archive.py`` of its authors.

        Example:
            >>> Policy.from_fast_autoaugment([[("Contrast", 0.8, 0.3), ("Invert", 0.1, 0.6)]])
            Policy 'fast-autoaugment': 1 sub-policy of 2 stages
            sub-policy  stage  operation       weight  probability  magnitude
                     0      0  contrast        1.0000        0.800     -0.400
                            1  invert          1.0000        0.100          -
        """
        from fasteraa_transforms.policy.interchange import convert as interchange

        return interchange.from_fast_autoaugment(source, function)

    @classmethod
    def from_autoalbument(cls, path: str | os.PathLike[str], prune: float = 0.0) -> "Policy":
        """A policy that AutoAlbument searched, from the JSON file that it saves (``policy/latest.json``).

        HorizontalFlip, Solarize, and RandomBrightnessContrast without brightness (which multiplies the pixels, as
        brightness does here) have an equal; RGBShift, brightness by addition, VerticalFlip, ShiftScaleRotate (which
        reflects at the border) and CoarseDropout have none and are refused. AutoAlbument keeps every operation in every
        stage, the unused ones with next to no share; ``prune`` leaves these out. What stands beside the policy in the
        file, preprocessing and normalisation, is not converted; the provenance names it.

        Args:
            path: the file, at most 16 MiB.
            prune: an operation that a stage applies less often than this is left out; in its share of the draws nothing
                happens. In [0, 1); at 0 only operations that are never applied are left out.

        Raises:
            PolicyError: the file cannot be read, or something in it is refused.
            ValueError: ``prune`` is out of range.

        Source: albumentations-team/autoalbument, ``policy_model.py`` and ``policy_operations.py``.
        """
        from fasteraa_transforms.policy.interchange import convert as interchange

        return interchange.from_autoalbument(path, prune)

    def to_albumentations(
        self,
        size: tuple[int, int],
        *,
        interpolation: InterpolationMode = InterpolationMode.NEAREST,
        fill: float | Sequence[float] = 0,
        leave_out: Collection[str] = (),
    ) -> Any:
        """The policy as an ``albumentations.Compose`` for uint8 RGB images [H, W, 3]; needs albumentations 2.

        A choice (OneOf) among sub-policies (Sequential), whose stages are choices among transforms with fixed
        parameters. Shares and signs are the same. The pixels are the same for flip, invert, solarize, posterize,
        brightness and translate; for the others `docs/policies-of-others.md` says, operation by operation, how far they
        differ. sample_pairing does nothing, as it does here on an image alone. Sharpness is exported where its sign is
        fixed to 1, and refused otherwise: nothing in albumentations softens as Pillow does.

        Args:
            size: height and width of the images; albumentations wants pixels where the policy has fractions.
            interpolation: NEAREST or BILINEAR, for shear, translate and rotate. Masks are always moved by nearest.
            fill: value outside of the image, one number or one a channel, in [0, 255].
            leave_out: names of operations to export as doing nothing.

        Raises:
            ImportError: albumentations is not installed, or older than 2.
            PolicyError: an operation has no equal and is not in ``leave_out``.
            ValueError: ``size`` is not positive, ``interpolation`` another mode, a name in ``leave_out`` unknown.
        """
        from fasteraa_transforms.policy.interchange import albumentations as _albumentations

        return _albumentations.export(self, size, interpolation=interpolation, fill=fill, leave_out=leave_out)

    def to_json(self) -> str:
        """The text of the policy file, one candidate a line; `from_json` gives the same policy bit for bit.

        Example:
            >>> print(Policy([[[{"operation": "flip", "weight": 1, "probability": 0.5}]]]).to_json(), end="")
            {
              "format": "fasteraa-policy",
              "version": 1,
              "name": "unnamed",
              "sub_policies": [
                [
                  [
                    {"operation": "flip", "weight": 1.0, "probability": 0.5}
                  ]
                ]
              ],
              "provenance": {}
            }
        """

        def line(candidate: Candidate) -> str:
            return json.dumps(candidate.model_dump(exclude_none=True))

        def block(items: Iterable[str]) -> str:
            return "[\n  " + ",\n".join(items).replace("\n", "\n  ") + "\n]"

        sub_policies = block(
            block(block(line(candidate) for candidate in stage) for stage in sub_policy)
            for sub_policy in self._sub_policies
        )
        entries = {
            "format": json.dumps(FORMAT),
            "version": json.dumps(VERSION),
            "name": json.dumps(self._name, ensure_ascii=False),
            "sub_policies": sub_policies,
            "provenance": json.dumps(self._provenance, ensure_ascii=False, indent=2),
        }
        lines = ",\n".join(f'"{key}": {text}' for key, text in entries.items())
        return "{\n  " + lines.replace("\n", "\n  ") + "\n}\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy file, whole or not at all: if it fails, a previous file stays as it was.

        Raises:
            OSError: the file cannot be written.
            PolicyError: it would be larger than `load` accepts, 16 MiB.

        Example:
            >>> import tempfile
            >>> policy = Policy([[[{"operation": "flip", "weight": 1, "probability": 0.5}]]])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     policy.save(f"{folder}/policy.json")
            ...     Policy.load(f"{folder}/policy.json") == policy
            True
        """
        data = self.to_json().encode()
        _check_size(data, os.fspath(path))
        target = Path(path).resolve()  # a symbolic link stays one
        # Not `tempfile`, whose files nobody else may read; these get the rights of any new file.
        temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def effective_share(self) -> dict[str, float]:
        """How often each operation is applied, in [0, 1]: mean of weight × probability over the L·K stages.

        All operations, in the order of `OPERATIONS`; 0.0 for those that do not occur. The sum is the share of stages in
        which something is applied.

        Example:
            >>> flip = {"operation": "flip", "weight": 1, "probability": 0.5}
            >>> invert = {"operation": "invert", "weight": 1, "probability": 1}
            >>> share = Policy([[[flip, invert], [flip]]]).effective_share()
            >>> share["flip"], share["invert"], share["rotate"]
            (0.375, 0.25, 0.0)
        """
        terms: dict[str, list[float]] = {name: [] for name in OPERATIONS}
        for sub_policy in self._sub_policies:
            for stage in sub_policy:
                for candidate in stage:
                    terms[candidate.operation].append(candidate.weight * candidate.probability)
        return {name: math.fsum(values) / (len(self) * self.stages) for name, values in terms.items()}

    def sample(self, batch_size: int, generator: torch.Generator | None = None) -> Plan:
        """Draw the plan of a batch.

        Each image draws a sub-policy (uniform) and in each stage a candidate (by weight), whether it is applied (by its
        probability), the sign (+ or - with equal chance, if the operation is signed and the candidate does not fix it),
        the centre of cutout (uniform) and the partner of sample_pairing (uniform over the other images of the batch; an
        image alone is its own).

        One call of `torch.rand` draws it all, [batch_size, 1 + 6 K]. So on the CPU the same seed gives image i the same
        plan in a batch of any size, except for ``partner``.

        Args:
            batch_size: number of images B, 0 or more.
            generator: its device is where the plan is drawn and lies; None is the default generator of the CPU. One of
                a GPU draws other numbers than one of the CPU does from the same seed, and image i other ones in a batch
                of another size; what becomes of the numbers is the same.

        Returns:
            Plan of B images and K stages.

        Raises:
            ValueError: batch_size is negative.

        Example:
            >>> flip = {"operation": "flip", "weight": 1, "probability": 1}
            >>> Policy([[[flip]]]).sample(2)
            Plan(2 images, 1 stage, cpu)
              0: flip
              1: flip
        """
        if batch_size < 0:
            raise ValueError(f"batch_size should be 0 or more, but got {batch_size}")
        device = torch.device("cpu") if generator is None else generator.device
        tables = self._tables_on(device)
        stages = self.stages
        uniform = torch.rand(batch_size, 1 + 6 * stages, dtype=torch.float64, generator=generator, device=device)
        if runs_kernels(device):
            from fasteraa_transforms.backends import cuda  # on first use: it needs Triton

            return cuda.draw_plan(uniform, vars(tables))
        choice, gate, sign, x, y, other = uniform[:, 1:].reshape(batch_size, stages, 6).unbind(-1)  # [B, K] each

        sub_policy = _whole(uniform[:, 0], len(self))  # [B]
        candidate = (choice[..., None] >= tables.cumulative[sub_policy]).sum(-1)  # [B, K]
        # Into the flattened tables: one index for all of them.
        place = (sub_policy[:, None] * stages + torch.arange(stages, device=device)) * tables.operation.shape[-1]
        place += candidate
        image = torch.arange(batch_size, device=device)[:, None]  # [B, 1]
        return Plan(
            operation=tables.operation.take(place),
            parameter=tables.parameter.take(place + (sign < 0.5) * tables.operation.numel()),
            applied=gate < tables.probability.take(place),
            centre=torch.stack((x, y), -1),
            partner=(image + 1 + _whole(other, batch_size - 1)) % max(batch_size, 1),
            sub_policy=sub_policy,
        )

    def sample_one(self, generator: torch.Generator | None = None) -> list[tuple[int, float, tuple[float, float]]]:
        """Draw for one image what ``sample(1)`` draws, in Python numbers: several times as fast.

        Args:
            generator: as for `sample`.

        Returns:
            For each stage that is applied, in their order: the operation, as its index in ``list(OPERATIONS)``, the
            physical parameter, and the centre of cutout.

        Example:
            >>> flip = {"operation": "flip", "weight": 1, "probability": 1}
            >>> [(index, parameter)] = [step[:2] for step in Policy([[[flip]]]).sample_one()]
            >>> list(OPERATIONS)[index], parameter
            ('flip', 0.0)
        """
        if self._rows is None:
            self._rows = self._made_rows()
        if generator is None or generator.device.type == "cpu":
            try:
                room, numbers = self._room.uniform
            except AttributeError:  # in this thread for the first time
                room, numbers = self._room.uniform = self._made_room()
            room.uniform_(generator=generator)  # as torch.rand does, in half the time, as it makes no tensor
            uniform = numbers.tolist()
        else:
            columns = 1 + 6 * self.stages
            uniform = torch.rand(columns, dtype=torch.float64, generator=generator, device=generator.device).tolist()
        steps = []
        last, place = len(self._rows) - 1, 1
        for ends, candidates in self._rows[min(int(uniform[0] * (last + 1)), last)]:
            choice, gate, sign, x, y, _ = uniform[place : place + 6]
            place += 6
            operation, probability, positive, negative = candidates[bisect_right(ends, choice)]
            if gate < probability:
                steps.append((operation, negative if sign < 0.5 else positive, (x, y)))
        return steps

    def _made_room(self) -> tuple[Tensor, NDArray[np.float64]]:
        """Where a thread draws the numbers of one image, [1 + 6 K]; as an array too, which is faster to read."""
        with torch.inference_mode(False):  # else nobody could write into it outside of that mode
            room = torch.empty(1 + 6 * self.stages, dtype=torch.float64, device="cpu")
        return room, room.numpy()

    def _made_rows(self) -> list[list[_StageRow]]:
        tables = self._tables_on(torch.device("cpu"))
        columns = (tables.operation.tolist(), tables.probability.tolist(), *tables.parameter.tolist())
        return [
            [(ends[:-1], list(zip(*stage, strict=True))) for ends, *stage in zip(*sub_policy, strict=True)]
            for sub_policy in zip(tables.cumulative.tolist(), *columns, strict=True)
        ]

    def _tables_on(self, device: torch.device) -> _Tables:
        if device not in self._tables:
            with torch.device("cpu"):  # whatever the default device is
                tables = self._made_tables()
            self._tables[device] = _Tables(**{name: tensor.to(device) for name, tensor in vars(tables).items()})
        return self._tables[device]

    def _made_tables(self) -> _Tables:
        index = {name: i for i, name in enumerate(OPERATIONS)}
        widest = max(len(stage) for sub_policy in self._sub_policies for stage in sub_policy)
        shape = (len(self), self.stages, widest)
        cumulative = torch.full(shape, math.inf, dtype=torch.float64)
        operation = torch.zeros(shape, dtype=torch.int64)
        probability = torch.zeros(shape, dtype=torch.float64)
        parameter = torch.zeros(2, *shape, dtype=torch.float64)
        for i, sub_policy in enumerate(self._sub_policies):
            for k, stage in enumerate(sub_policy):
                n = len(stage)
                # The last end stays inf: rounding may leave the sum below 1 and a draw above it.
                weights = torch.tensor([candidate.weight for candidate in stage], dtype=torch.float64)
                cumulative[i, k, : n - 1] = weights.cumsum(0)[:-1]
                for j, candidate in enumerate(stage):
                    row = OPERATIONS[candidate.operation]
                    drawn = row.signed and candidate.sign is None
                    magnitude = (candidate.magnitude or 0.0) * (candidate.sign or 1)
                    signed = torch.tensor([magnitude, -magnitude if drawn else magnitude], dtype=torch.float64)
                    operation[i, k, j] = index[candidate.operation]
                    probability[i, k, j] = candidate.probability
                    parameter[:, i, k, j] = row.parameter(signed)
        return _Tables(cumulative=cumulative, operation=operation, probability=probability, parameter=parameter)


def read_text(source: str) -> str:
    """The text of a file, UTF-8 and at most 16 MiB; anything else is a `PolicyError`."""
    try:
        # One bounded read instead of asking for the size: it holds for pipes and growing files too.
        with open(source, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        found = f"nothing readable ({getattr(error, 'strerror', None) or error})"
        raise PolicyError(source, "$", found, "a policy file") from error
    _check_size(data, source)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x} at offset {error.start}"
        raise PolicyError(source, "$", found, "UTF-8 text") from None


def _whole(uniform: Tensor, count: int) -> Tensor:
    """Whole numbers in [0, count), int64, from numbers in [0, 1); 0 if count < 1. Any shape."""
    # The product may round up to count.
    return (uniform * count).long().clamp(min=0, max=max(count - 1, 0))


def _check_size(data: bytes, source: str) -> None:
    if len(data) > MAX_BYTES:
        size = f"more than {MAX_BYTES // 2**20} MiB"
        raise PolicyError(source, "$", size, f"at most {MAX_BYTES // 2**20} MiB")
