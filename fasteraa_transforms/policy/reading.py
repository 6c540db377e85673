"""Reading the text of a policy file without spending memory on a file that is refused.

The models of `schema` decide what a policy is. But they make an object of every value before they check the first one,
and an error object of every mistake. So `read` first checks the text candidate by candidate, and keeps none of them.
Refusing a file then costs little more memory than its text. The models only get a text that they accept.
"""

import math
from array import array
from collections.abc import Iterator

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError, from_json

from fasteraa_transforms.policy.errors import PolicyError, shown
from fasteraa_transforms.policy.json_text import JsonText
from fasteraa_transforms.policy.schema import MAX_ERRORS, Candidate, PolicyFile, checked, policy_error, shares_of

_LONGEST = 4096  # bytes of a value that is parsed to be checked by itself; a candidate has some 80
_MOST_FACTS = 100_000  # values in the provenance
_LISTED_KEYS = 100  # unknown keys that are kept; the others are counted

_KNOWN = ("format", "version", "name", "sub_policies", "provenance")
_VALID = [[[{"operation": "flip", "weight": 1, "probability": 1}]]]  # sub-policies that nothing is wrong with

_Place = tuple[int | str, ...]


def read(data: bytes, source: str) -> PolicyFile:
    """The policy file of a text.

    Args:
        data: JSON, UTF-8.
        source: what errors call it.

    Raises:
        PolicyError: the text is refused.
    """
    _look_through(JsonText(data, source))
    return checked(data, source)


class _Errors:
    """The first error of a document, and the number of all of them."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.first: ErrorDetails | None = None
        self.count = 0

    def add(self, detail: ErrorDetails, count: int = 1) -> None:
        """Count an error, or several of which ``detail`` is the first."""
        self.first = self.first or detail
        self.count += count
        if self.count > MAX_ERRORS:
            raise PolicyError(self.source, "$", f"more than {MAX_ERRORS} errors", "a policy")

    def refuse(self, place: _Place, found: str, expected: str) -> None:
        """Count an error in the words of `PolicyError`."""
        context = {"found": found, "expected": expected}
        self.add(ErrorDetails(type="refused", loc=place, msg="", input=None, ctx=context))


def _look_through(text: JsonText) -> None:
    """Raise PolicyError if something in a document is wrong."""
    errors = _Errors(text.source)
    begin = text.place
    if text.first() != b"{":
        text.skip()
        text.end()
        errors.add(ErrorDetails(type="model_type", loc=(), msg="", input=text.shortened(begin, text.place)))
    else:
        known, unknown, others = _fields(text)
        details = _header_errors(text, known, unknown)
        for detail in (each for each in details if each["loc"][0] in _KNOWN[:3]):
            errors.add(detail)
        if "sub_policies" in known:
            text.place = known["sub_policies"][0]
            _check_sub_policies(text, errors)
        if "provenance" in known:
            _check_provenance(text, *known["provenance"], errors)
        for detail in (each for each in details if each["loc"][0] not in _KNOWN[:3]):
            errors.add(detail)
        if others:
            errors.add(details[-1], count=others)
    if errors.first is not None:
        raise policy_error(text.source, errors.first, errors.count - 1)


_Extent = tuple[int, int]  # where a value begins and ends


def _fields(text: JsonText) -> tuple[dict[str, _Extent], dict[bytes, _Extent], int]:
    """The known fields of the document, the first unknown ones by their raw key, and the number of other unknown ones.

    If a key occurs twice, its last value counts, as for Python's parsers of JSON.
    """
    known: dict[str, _Extent] = {}
    unknown: dict[bytes, _Extent] = {}
    others = 0
    for key in text.members():
        begin = text.place
        text.skip()
        extent = begin, text.place
        name = from_json(key) if len(key) < 100 else ""
        if name in _KNOWN:
            known[name] = extent
        elif key in unknown or len(unknown) < _LISTED_KEYS:
            unknown[key] = extent
        else:
            others += 1
    text.end()
    return known, unknown, others


def _header_errors(text: JsonText, known: dict[str, _Extent], unknown: dict[bytes, _Extent]) -> list[ErrorDetails]:
    """What the model says of the document with valid sub-policies and no facts in its provenance."""
    document = {name: text.shortened(begin, end) for name, (begin, end) in known.items()}
    if "sub_policies" in known:
        document["sub_policies"] = _VALID
    if "provenance" in known and text.data[known["provenance"][0]] == ord("{"):
        document["provenance"] = {}
    for key, (begin, end) in unknown.items():
        name = from_json(key) if len(key) <= _LONGEST else key[:200].decode("utf-8", "replace")
        document[name] = text.shortened(begin, end)
    try:
        PolicyFile.model_validate(document)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _check_provenance(text: JsonText, begin: int, end: int, errors: _Errors) -> None:
    place = ("provenance",)
    if text.is_long(begin, end, _MOST_FACTS):
        errors.refuse(place, f"more than {_MOST_FACTS} values", f"at most {_MOST_FACTS}")
    elif not all(math.isfinite(float(number)) for number in text.numbers(begin, end)):
        errors.refuse(place, shown(text.shortened(begin, end)), "what JSON can hold (a number is not finite)")


def _check_sub_policies(text: JsonText, errors: _Errors) -> None:
    """Check what stands in the place of the sub-policies, which is JSON."""
    before, stages, other = errors.count, 0, None
    for i in _elements(text, ("sub_policies",), errors):
        count = 0
        for k in _elements(text, ("sub_policies", i), errors):
            _check_stage(text, ("sub_policies", i, k), errors)
            count += 1
        stages = stages or count
        if count != stages and other is None:
            other = i, count
    if other is not None and errors.count == before:
        expected = f"{stages} stages, as in the first sub-policy"
        errors.refuse(("sub_policies", other[0]), f"{other[1]} stages", expected)


def _check_stage(text: JsonText, place: _Place, errors: _Errors) -> None:
    weights = array("d")
    before = errors.count
    for n in _elements(text, place, errors):
        begin = text.place
        text.skip()
        if text.place - begin > _LONGEST:
            expected = f"a candidate: an object of at most {_LONGEST} characters"
            errors.refuse((*place, n), f"{text.place - begin} characters", expected)
            continue
        try:
            weights.append(Candidate.model_validate_json(text.data[begin : text.place]).weight)
        except ValidationError as error:
            detail = errors.first or error.errors(include_url=False)[0]  # making them takes longer than counting them
            if errors.first is None:
                detail["loc"] = (*place, n, *detail["loc"])
            errors.add(detail, error.error_count())
    if weights and errors.count == before:
        try:
            shares_of(weights)
        except PydanticCustomError as error:
            errors.add(ErrorDetails(type=error.type, loc=place, msg="", input=None, ctx=error.context or {}))


def _elements(text: JsonText, place: _Place, errors: _Errors) -> Iterator[int]:
    """Go through the list in a place; anything but a list with something in it is an error."""
    begin = text.place
    if text.first() == b"[":
        index = -1
        for index in text.elements():
            yield index
        kind = "too_short" if index < 0 else ""
    else:
        text.skip()
        kind = "tuple_type"
    if kind:
        errors.add(ErrorDetails(type=kind, loc=place, msg="", input=text.shortened(begin, text.place)))
