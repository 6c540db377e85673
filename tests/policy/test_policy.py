import copy
import errno
import io
import json
import math
import os
import pickle
import runpy
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy import Candidate, Policy, PolicyError, files
from fasteraa_transforms.policy import schema as _schema

NAMES = list(OPERATIONS)
LARGEST = 1 - 2.0**-53  # the largest number that torch.rand draws
SCHEMA = Path(__file__).parents[2] / "docs" / "policy.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(_schema.schema_text()))


def candidate(operation: str = "rotate", weight: Any = 1.0, probability: Any = 0.5, **magnitude: Any) -> dict[str, Any]:
    if OPERATIONS[operation].has_magnitude:
        magnitude.setdefault("magnitude", 0.4)
    return {"operation": operation, "weight": weight, "probability": probability, **magnitude}


def document(**changes: Any) -> dict[str, Any]:
    """A valid file of 2 sub-policies, 2 stages, 2 candidates."""
    stages = [
        [candidate("rotate", 0.83, 0.61, magnitude=0.44), candidate("flip", 0.17, 0.5)],
        [candidate("solarize", 0.5, 1.0), candidate("cutout", 0.5, 0.0)],
    ]
    content = {
        "format": "fasteraa-policy",
        "version": 1,
        "name": "cifar10",
        "sub_policies": [stages, copy.deepcopy(stages)],
        "provenance": {"seed": 3, "hardware": None, "losses": [0.1, 0.2]},
    }
    return {**content, **changes}


@st.composite
def stages(draw: st.DrawFn) -> list[dict[str, Any]]:
    unit = st.floats(0, 1)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5))
    weights = st.floats(1e-300, 1e300) | st.floats(0.01, 10) | st.integers(1, 100)
    stage = [candidate(name, draw(weights), draw(unit)) for name in names]
    largest = max(each["weight"] for each in stage)
    for each in stage:
        each["weight"] = max(each["weight"], largest * 1e-300)  # else it vanishes, which is tested elsewhere
        if "magnitude" in each:
            each["magnitude"] = draw(unit)
        if OPERATIONS[each["operation"]].signed:
            each["sign"] = draw(st.sampled_from([None, 1, -1]))
    return stage


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    k = draw(st.integers(1, 3))
    sub_policies = draw(st.lists(st.lists(stages(), min_size=k, max_size=k), min_size=1, max_size=3))
    provenance = draw(st.dictionaries(st.text(), json_values, max_size=3))
    return document(sub_policies=sub_policies, name=draw(st.text(min_size=1)), provenance=provenance)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def refused(content: Any, source: str = "cifar10.json") -> PolicyError:
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(PolicyError) as caught:
        Policy.from_json(text, source)
    return caught.value


# ---------------------------------------------------------------------------------------------------- what is refused

# (change of the document, path, found, expected, whether the JSON Schema refuses it too)
FIRST = "$.sub_policies[0][1][0]"
REFUSED: dict[str, tuple[Any, str, str, str, bool]] = {
    "probability above 1": (
        lambda d: d["sub_policies"][0][1][0].update(probability=1.5),
        f"{FIRST}.probability",
        "1.5",
        "a number in [0, 1]",
        True,
    ),
    "probability below 0": (
        lambda d: d["sub_policies"][0][1][0].update(probability=-0.25),
        f"{FIRST}.probability",
        "-0.25",
        "a number in [0, 1]",
        True,
    ),
    "probability a string": (
        lambda d: d["sub_policies"][0][1][0].update(probability="0.5"),
        f"{FIRST}.probability",
        "'0.5'",
        "a number in [0, 1]",
        True,
    ),
    "probability a boolean": (
        lambda d: d["sub_policies"][0][1][0].update(probability=True),
        f"{FIRST}.probability",
        "True",
        "a number in [0, 1]",
        True,
    ),
    "probability missing": (
        lambda d: d["sub_policies"][0][1][0].pop("probability"),
        f"{FIRST}.probability",
        "nothing",
        "a number in [0, 1]",
        True,
    ),
    "probability NaN": (
        lambda d: d["sub_policies"][0][1][0].update(probability=math.nan),
        f"{FIRST}.probability",
        "nan",
        "a number in [0, 1]",
        False,
    ),
    "magnitude above 1": (
        lambda d: d["sub_policies"][0][1][0].update(magnitude=2),
        f"{FIRST}.magnitude",
        "2",
        "a number in [0, 1]",
        True,
    ),
    "magnitude missing": (
        lambda d: d["sub_policies"][0][1][0].pop("magnitude"),
        f"{FIRST}.magnitude",
        "nothing",
        "a number in [0, 1], the magnitude of solarize",
        True,
    ),
    "magnitude null": (
        lambda d: d["sub_policies"][0][1][0].update(magnitude=None),
        f"{FIRST}.magnitude",
        "nothing",
        "a number in [0, 1], the magnitude of solarize",
        True,
    ),
    "magnitude of an operation without one": (
        lambda d: d["sub_policies"][1][0][1].update(magnitude=0.5),
        "$.sub_policies[1][0][1].magnitude",
        "0.5",
        "null or nothing, as flip has no magnitude",
        True,
    ),
    "sign neither 1 nor -1": (
        lambda d: d["sub_policies"][1][0][0].update(sign=0),
        "$.sub_policies[1][0][0].sign",
        "0",
        "1, -1 or null",
        True,
    ),
    "sign a boolean": (
        lambda d: d["sub_policies"][1][0][0].update(sign=True),
        "$.sub_policies[1][0][0].sign",
        "True",
        "1, -1 or null",
        True,
    ),
    "sign of an operation without one": (
        lambda d: d["sub_policies"][0][1][0].update(sign=-1),
        f"{FIRST}.sign",
        "-1",
        "null or nothing, as solarize has no sign",
        True,
    ),
    "weight 0": (
        lambda d: d["sub_policies"][0][1][0].update(weight=0),
        f"{FIRST}.weight",
        "0",
        "a positive number",
        True,
    ),
    "weight infinite": (
        lambda d: d["sub_policies"][0][1][0].update(weight=math.inf),
        f"{FIRST}.weight",
        "inf",
        "a positive number",
        False,
    ),
    "weight vanishes": (
        lambda d: d["sub_policies"][0][1][0].update(weight=5e-324) or d["sub_policies"][0][1][1].update(weight=1e300),
        f"{FIRST}.weight",
        "5e-324",
        "a weight that does not vanish beside 1e+300",
        False,
    ),
    "unknown operation": (
        lambda d: d["sub_policies"][0][1][0].update(operation="shearx"),
        f"{FIRST}.operation",
        "'shearx'",
        f"one of {', '.join(NAMES)}",
        True,
    ),
    "operation a list": (
        lambda d: d["sub_policies"][0][1][0].update(operation=["flip"]),
        f"{FIRST}.operation",
        "['flip']",
        f"one of {', '.join(NAMES)}",
        True,
    ),
    "unknown key of a candidate": (
        lambda d: d["sub_policies"][0][1][0].update(prob=0.5),
        f"{FIRST}.prob",
        "0.5",
        "no such key",
        True,
    ),
    "unknown key of the file": (lambda d: d.update({"a b": []}), "$['a b']", "[]", "no such key", True),
    "candidate a list": (
        lambda d: d["sub_policies"][0][1].__setitem__(0, ["rotate", 1, 0.5]),
        FIRST,
        "['rotate', 1, 0.5]",
        "a candidate: an object with operation, weight, probability and magnitude",
        True,
    ),
    "empty stage": (
        lambda d: d["sub_policies"][0].__setitem__(1, []),
        "$.sub_policies[0][1]",
        "[]",
        "a non-empty list of candidates",
        True,
    ),
    "empty sub-policy": (
        lambda d: d["sub_policies"].__setitem__(1, []),
        "$.sub_policies[1]",
        "[]",
        "a non-empty list of stages",
        True,
    ),
    "stage an object": (
        lambda d: d["sub_policies"][0].__setitem__(1, {}),
        "$.sub_policies[0][1]",
        "{}",
        "a non-empty list of candidates",
        True,
    ),
    "no sub-policies": (
        lambda d: d.update(sub_policies=[]),
        "$.sub_policies",
        "[]",
        "a non-empty list of sub-policies",
        True,
    ),
    "sub-policies a string": (
        lambda d: d.update(sub_policies="rotate"),
        "$.sub_policies",
        "'rotate'",
        "a non-empty list of sub-policies",
        True,
    ),
    "another number of stages": (
        lambda d: d["sub_policies"].append(d["sub_policies"][0][:1]),
        "$.sub_policies[2]",
        "1 stages",
        "2 stages, as in the first sub-policy",
        False,
    ),
    "another format": (lambda d: d.update(format="policy"), "$.format", "'policy'", "'fasteraa-policy'", True),
    "no format": (lambda d: d.pop("format"), "$.format", "nothing", "'fasteraa-policy'", True),
    "version of the future": (
        lambda d: d.update(version=2),
        "$.version",
        "2",
        "1; the file is newer than this release: upgrade fasteraa_transforms",
        True,
    ),
    "version 0": (lambda d: d.update(version=0), "$.version", "0", "1", True),
    "version a string": (lambda d: d.update(version="1"), "$.version", "'1'", "1", True),
    "version a boolean": (lambda d: d.update(version=True), "$.version", "True", "1", True),
    "empty name": (lambda d: d.update(name=""), "$.name", "''", "a non-empty string", True),
    "name a number": (lambda d: d.update(name=10), "$.name", "10", "a non-empty string", True),
    "provenance a list": (lambda d: d.update(provenance=[]), "$.provenance", "[]", "a JSON object", True),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    change, path, found, expected, by_schema = REFUSED[case]
    content = document()
    change(content)
    error = refused(content)
    assert (error.source, error.path, error.found, error.expected) == ("cifar10.json", path, found, expected)
    assert str(error) == f"cifar10.json: {path}: found {found}, expected {expected}"
    assert error.more == 0
    assert VALIDATOR.is_valid(content) is not by_schema


def test_the_valid_document_of_these_tests_is_valid() -> None:
    assert len(Policy.from_json(json.dumps(document()))) == 2
    VALIDATOR.validate(document())


def test_the_message_of_the_documentation() -> None:
    content = document()
    content["sub_policies"][0][1][0]["probability"] = 1.5
    message = "cifar10.json: $.sub_policies[0][1][0].probability: found 1.5, expected a number in [0, 1]"
    assert str(refused(content)) == message


def test_says_how_many_more_errors() -> None:
    content = document()
    content["sub_policies"][0][1][0]["probability"] = 1.5
    content["sub_policies"][1][0][1]["weight"] = "heavy"
    error = refused(content)
    assert error.path == "$.sub_policies[0][1][0].probability"
    assert str(error).endswith(", expected a number in [0, 1] (and 1 more error)")
    content["extra"] = 1
    assert str(refused(content)).endswith(" (and 2 more errors)")


def test_the_version_is_reported_before_what_follows_from_it() -> None:
    error = refused({"format": "fasteraa-policy", "version": 7, "policies": []})
    assert error.path == "$.version"
    assert "upgrade fasteraa_transforms" in str(error)


@pytest.mark.parametrize("whole", [3, None, [], "policy", True, 1.5])
def test_refuses_a_document_that_is_no_object(whole: Any) -> None:
    error = refused(json.dumps(whole))
    assert str(error) == f"cifar10.json: $: found {whole!r}, expected a JSON object"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("sub_policies: []", "expected value at line 1 column 1"),
        ('{"format": "fasteraa-policy", "version": [1', "EOF while parsing a list at line 1 column 43"),
        ("[" * 100_000, "recursion limit exceeded at line 1 column"),
        ('{"a":' * 100_000, "recursion limit exceeded at line 1 column"),
        ("1" * 10_000, "number out of range at line 1 column"),
    ],
)
def test_refuses_what_is_not_json(text: str, found: str) -> None:
    error = refused(text)
    assert (error.path, error.expected) == ("$", "valid JSON")
    assert error.found.startswith(found)


def test_refuses_every_truncation() -> None:
    text = json.dumps(document())
    for end in range(len(text)):
        assert refused(text[:end]).expected == "valid JSON"


def test_refuses_text_that_is_not_unicode() -> None:
    assert refused("\ud800").path == "$"
    assert refused(json.dumps(document(name="\ud800"))).expected == "valid JSON"


@pytest.mark.parametrize("value", ["x" * 1000, list(range(1000)), {"a" * 500: 1}, 10**300, "\n" * 500])
def test_what_was_found_is_shortened(value: Any) -> None:
    error = refused(document(format=value))
    assert len(error.found) <= 80
    assert "..." in error.found
    assert "\n" not in str(error)


def test_a_long_or_odd_key_keeps_the_message_short() -> None:
    assert len(str(refused(document(**{"k" * 100_000: 1})))) < 200
    assert refused(document(**{'"]\n': 1})).path == "$['\"]\\n']"


def test_thousands_of_errors_are_counted_instead_of_listed() -> None:
    error = refused(document(sub_policies=[[[1] * 20_000]]))
    assert error.path == "$"
    assert error.expected == "a policy"
    assert "errors" in error.found


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_refuses_what_is_not_finite(literal: str) -> None:
    for key in ("weight", "probability", "magnitude"):
        content = document()
        content["sub_policies"][1][0][0][key] = "HERE"
        error = refused(json.dumps(content).replace('"HERE"', literal))
        assert error.path == f"$.sub_policies[1][0][0].{key}"
        assert error.found in ("nan", "inf", "-inf")
    error = refused(json.dumps(document(provenance={"loss": ["HERE"]})).replace('"HERE"', literal))
    assert error.path == "$.provenance"
    assert error.expected.startswith("what JSON can hold")


def test_the_error_can_be_pickled() -> None:
    error = refused(document(name=""))
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error)
    assert (copied.path, copied.more) == (error.path, error.more)
    assert isinstance(error, ValueError)


# ------------------------------------------------------------------------------------------------------- from Python


def test_python_errors_name_the_policy() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy([[[candidate(probability=1.5)]]])
    assert str(caught.value) == (
        "<policy>: $.sub_policies[0][0][0].probability: found 1.5, expected a number in [0, 1]"
    )


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"sub_policies": None}, "$.sub_policies"),
        ({"sub_policies": []}, "$.sub_policies"),
        ({"sub_policies": [[[candidate()]], [[candidate()], [candidate()]]]}, "$.sub_policies[1]"),
        ({"sub_policies": [[[candidate(weight=10**400)]]]}, "$.sub_policies[0][0][0].weight"),
        ({"sub_policies": [[[candidate(weight=10**5000)]]]}, "$.sub_policies[0][0][0].weight"),
        (
            {"sub_policies": [[[candidate(probability=torch.tensor([0.5, 0.5]))]]]},
            "$.sub_policies[0][0][0].probability",
        ),
        ({"sub_policies": [[[dict([*candidate("flip").items(), (1, 2)])]]]}, "$.sub_policies[0][0][0][1]"),
        ({"sub_policies": [[["rotate"]]]}, "$.sub_policies[0][0][0]"),
        ({"name": ""}, "$.name"),
        ({"name": None}, "$.name"),
        ({"name": "\ud800"}, "$.name"),
        ({"provenance": []}, "$.provenance"),
        ({"provenance": {"when": object()}}, "$.provenance"),
        ({"provenance": {"loss": math.nan}}, "$.provenance"),
        ({"provenance": {"text": "\ud800"}}, "$.provenance"),
        ({"provenance": {"digits": 10**5000}}, "$.provenance"),
    ],
)
def test_refused_from_python(arguments: dict[str, Any], path: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(**{"sub_policies": [[[candidate()]]], **arguments})
    assert caught.value.source == "<policy>"
    assert caught.value.path == path


def test_refuses_provenance_without_end() -> None:
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for provenance in (circle, {"deep": deep}):
        with pytest.raises(PolicyError) as caught:
            Policy([[[candidate()]]], provenance=provenance)
        assert caught.value.path == "$.provenance"


def test_a_foreign_repr_that_fails() -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(PolicyError, match=r"\$\.sub_policies: found .*Odd"):
        Policy(Odd())  # type: ignore[arg-type]


def test_candidates_may_be_objects_or_dictionaries_in_lists_or_tuples() -> None:
    one = Candidate(operation="rotate", weight=1, probability=0.5, magnitude=0.4)
    assert Policy([[[one]]]) == Policy((((candidate(),),),)) == Policy([([candidate()],)])


def test_candidates_are_checked_again() -> None:
    wrong = Candidate(operation="rotate", weight=1, probability=0.5, magnitude=0.4).model_copy(
        update={"probability": 7}
    )
    with pytest.raises(PolicyError, match=r"probability: found 7, expected a number in \[0, 1\]"):
        Policy([[[wrong]]])


@pytest.mark.parametrize("name", NAMES)
def test_a_candidate_has_a_magnitude_if_its_operation_has(name: str) -> None:
    values = {"operation": name, "weight": 1.0, "probability": 0.5}
    right, wrong = (0.5, None) if OPERATIONS[name].has_magnitude else (None, 0.5)
    assert Candidate(**values, magnitude=right).magnitude == right  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="magnitude"):
        Candidate(**values, magnitude=wrong)  # type: ignore[arg-type]


def test_candidates_are_frozen() -> None:
    one = Candidate(operation="flip", weight=1, probability=0.5)
    with pytest.raises(ValidationError, match="frozen"):
        one.weight = 2.0  # type: ignore[misc]
    assert one == Candidate(operation="flip", weight=1, probability=0.5, magnitude=None)
    assert len({one, Candidate(operation="flip", weight=1, probability=0.5)}) == 1


# ----------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize(
    ("given_weights", "normalised"),
    [
        ([3, 1], [0.75, 0.25]),
        ([2.0], [1.0]),
        ([5e-324], [1.0]),
        ([1.7e308, 1.7e308], [0.5, 0.5]),
        ([2e-310, 2e-310, 4e-310], [0.25, 0.25, 0.5]),
        ([1e300, 1e-8], [1.0, 1e-308]),
    ],
)
def test_weights_are_normalised(given_weights: list[float], normalised: list[float]) -> None:
    stage = Policy([[[candidate(weight=weight) for weight in given_weights]]]).sub_policies[0][0]
    assert [each.weight for each in stage] == pytest.approx(normalised, rel=1e-9, abs=0)


@pytest.mark.parametrize("weights", [[1.0], [0.7, 0.2, 0.1], [0.5, 0.5 + 5e-10], [1 - 5e-10], [1.0, 1e-300]])
def test_weights_that_sum_to_1_stay_as_they_are(weights: list[float]) -> None:
    stage = Policy([[[candidate(weight=weight) for weight in weights]]]).sub_policies[0][0]
    assert [each.weight for each in stage] == weights


@given(stages())
def test_normalisation_is_idempotent(stage: list[dict[str, Any]]) -> None:
    once = Policy([[stage]])
    assert math.fsum(each.weight for each in once.sub_policies[0][0]) == pytest.approx(1, abs=1e-9)
    assert Policy(once.sub_policies).sub_policies == once.sub_policies


# -------------------------------------------------------------------------------------------------------- round trips


@settings(max_examples=50)
@given(documents())
def test_round_trip_is_exact(content: dict[str, Any]) -> None:
    policy = Policy.from_json(json.dumps(content))
    text = policy.to_json()
    again = Policy.from_json(text)
    assert again == policy
    assert again.to_json() == text  # equal floats may differ in the sign of 0
    assert again.name == content["name"]
    assert again.provenance == content["provenance"]
    VALIDATOR.validate(json.loads(text))


def test_magnitude_may_be_null_or_absent() -> None:
    absent = Policy([[[candidate("flip")]]])
    assert Policy([[[candidate("flip", magnitude=None)]]]) == absent
    assert "magnitude" not in absent.to_json()


def test_sign_may_be_null_or_absent() -> None:
    absent = Policy([[[candidate("rotate")]]])
    assert Policy([[[candidate("rotate", sign=None)]]]) == absent
    assert "sign" not in absent.to_json()
    assert Policy([[[candidate("rotate", sign=1)]]]) not in (absent, Policy([[[candidate("rotate", sign=-1)]]]))


def test_provenance_may_be_absent() -> None:
    content = document()
    del content["provenance"]
    assert Policy.from_json(json.dumps(content)).provenance == {}


def test_the_file_has_one_candidate_a_line() -> None:
    text = Policy.from_json(json.dumps(document(provenance={"note": "a\nb\u2028c"}))).to_json()
    assert sum("operation" in line for line in text.split("\n")) == 8
    assert '        {"operation": "rotate", "weight": 0.83, "probability": 0.61, "magnitude": 0.44},\n' in text
    assert text.startswith('{\n  "format": "fasteraa-policy",\n  "version": 1,\n  "name": "cifar10",\n')
    assert text.endswith("\n}\n")
    assert Policy.from_json(text).provenance == {"note": "a\nb\u2028c"}


def mutated(draw: Callable[..., Any], content: Any) -> Any:
    """The document with something, somewhere, replaced, removed or added."""
    if isinstance(content, dict | list) and content and draw(st.integers(0, 4)):  # mostly further down
        key: Any = draw(st.sampled_from(sorted(content) if isinstance(content, dict) else range(len(content))))
        content = copy.copy(content)
        action = draw(st.sampled_from(["descend", "descend", "descend", "remove", "add"]))
        if action == "descend":
            content[key] = mutated(draw, content[key])
        elif action == "remove":
            del content[key]
        elif isinstance(content, dict):
            content[draw(st.text())] = draw(json_values)
        else:
            content.insert(key, draw(json_values))
        return content
    return draw(json_values | st.sampled_from([0, 1, -1, 1.5, 5e-324, 1e308, "flip", "rotate", math.nan, math.inf]))


def accepted_or_refused(text: str) -> None:
    error = None
    try:
        policy = Policy.from_json(text, "mutated.json")
    except PolicyError as caught:
        error = caught
    if error is None:
        assert Policy.from_json(policy.to_json()) == policy
        VALIDATOR.validate(json.loads(text))
    else:
        assert error.path.startswith("$")
        assert str(error).startswith(f"mutated.json: {error.path}: found {error.found}, expected ")
        assert len(error.found) <= (100 if error.expected == "valid JSON" else 80)


@settings(max_examples=300)
@given(st.data())
def test_mutated_documents_raise_nothing_else(data: st.DataObject) -> None:
    accepted_or_refused(json.dumps(mutated(data.draw, document())))


@settings(max_examples=300)
@given(st.data())
def test_mutated_text_raises_nothing_else(data: st.DataObject) -> None:
    text = json.dumps(document())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 5, len(text))))
        text = (
            text[:start]
            + data.draw(st.text(max_size=3) | st.sampled_from(['"', "}", "]", "0", "-", "e9"]))
            + text[end:]
        )
    accepted_or_refused(text)


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(data)
    with pytest.raises(PolicyError):
        Policy.load(path)


# --------------------------------------------------------------------------------------------------------------- files


def test_save_and_load(tmp_path: Path) -> None:
    policy = Policy.from_json(json.dumps(document(name="größer")))
    policy.save(tmp_path / "policy.json")
    for path in (tmp_path / "policy.json", str(tmp_path / "policy.json")):
        loaded = Policy.load(path)
        assert loaded == policy
        assert (loaded.name, loaded.provenance) == (policy.name, policy.provenance)
    assert os.listdir(tmp_path) == ["policy.json"]


def test_save_into_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    policy = Policy([[[candidate()]]])
    policy.save("policy.json")
    policy.save("policy.json")
    assert Policy.load("policy.json") == policy
    assert os.listdir(tmp_path) == ["policy.json"]


def test_a_saved_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    Policy([[[candidate()]]]).save(tmp_path / "policy.json")
    assert (tmp_path / "policy.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_saving_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "policy.json")
    Policy([[[candidate()]]]).save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert Policy.load(tmp_path / "policy.json") == Policy([[[candidate()]]])


@pytest.mark.parametrize("step", ["replace", "fsync"])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("previous", [True, False])
def test_a_failed_save_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException, previous: bool
) -> None:
    path = tmp_path / "policy.json"
    if previous:
        Policy([[[candidate("flip")]]]).save(path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}
    seen: list[list[str]] = []

    def fail(*_: Any) -> None:
        seen.append(os.listdir(tmp_path))
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(failure)):
        Policy([[[candidate()]]]).save(path)
    assert len(seen[0]) == len(before) + 1  # the temporary file was there, in the same folder
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


def test_a_failed_write_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:
            written.append(super().write(data[: len(data) // 2]))
            raise OSError(errno.ENOSPC, "No space left on device")

    written: list[int] = []
    path = tmp_path / "policy.json"
    Policy([[[candidate("flip")]]]).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "open", lambda self, mode: FullDisk(self, mode))
    with pytest.raises(OSError, match="No space left"):
        Policy([[[candidate()]]]).save(path)
    assert written[0] > 0
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["policy.json"]


def test_save_says_what_the_system_says(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Policy([[[candidate()]]]).save(tmp_path / "missing" / "policy.json")
    with pytest.raises(IsADirectoryError):
        Policy([[[candidate()]]]).save(tmp_path)


def test_save_refuses_what_load_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 2**20)
    with pytest.raises(PolicyError, match="found more than 1 MiB, expected at most 1 MiB"):
        Policy([[[candidate()]]], provenance={"note": "x" * 2**20}).save(tmp_path / "policy.json")
    assert os.listdir(tmp_path) == []


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "missing.json", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
        (f"{tmp_path}/nul\0", "embedded null byte"),
    ):
        with pytest.raises(PolicyError) as caught:
            Policy.load(path)
        shown = str(path).replace("\0", r"\x00")
        assert str(caught.value) == f"{shown}: $: found nothing readable ({reason}), expected a policy file"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes(json.dumps(document(name="größer"), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert caught.value.found.startswith("byte 0xf6 at offset ")
    assert caught.value.expected == "UTF-8 text"
    path.write_bytes(json.dumps(document()).encode("utf-16"))
    with pytest.raises(PolicyError, match="expected UTF-8 text"):
        Policy.load(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse; reading it whole would fail
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert str(caught.value) == f"{path}: $: found more than 16 MiB, expected at most 16 MiB"


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    text = json.dumps(document())
    path.write_text(text + " " * (files.MAX_BYTES - len(text)))
    assert path.stat().st_size == files.MAX_BYTES
    assert Policy.load(path) == Policy.from_json(text)


def test_errors_of_a_file_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(document(version=2)))
    with pytest.raises(PolicyError) as caught:
        Policy.load(path)
    assert caught.value.source == str(path)
    assert str(caught.value).startswith(f"{path}: $.version: found 2, expected 1;")


# --------------------------------------------------------------------------------------------------------- the schema


@pytest.mark.skipif(not SCHEMA.parent.exists(), reason="a source distribution has no docs")
def test_the_published_schema_is_up_to_date() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == _schema.schema_text(), (
        "run: python -m fasteraa_transforms.policy.schema docs/policy.schema.json"
    )


def test_the_schema_is_written_by_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["_schema", str(tmp_path / "schema.json")])
    runpy.run_path(_schema.__file__, run_name="__main__")
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == _schema.schema_text()


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(_schema.schema_text()))


# --------------------------------------------------------------------------------------------------- the policy itself


def example() -> Policy:
    """2 sub-policies, 2 stages, unequal numbers of candidates."""
    return Policy(
        [
            [
                [candidate("rotate", 5, 0.3), candidate("flip", 3, 0.9), candidate("posterize", 2, 0.6)],
                [candidate("cutout", 1, 1.0)],
            ],
            [
                [candidate("solarize", 1, 0.0), candidate("brightness", 9, 0.5, magnitude=1.0)],
                [candidate("sample_pairing", 1, 0.5), candidate("invert", 1, 0.5)],
            ],
        ],
        name="example",
        provenance={"seed": 1},
    )


def test_attributes() -> None:
    policy = example()
    assert (len(policy), policy.stages, policy.name, policy.provenance) == (2, 2, "example", {"seed": 1})
    assert isinstance(policy.sub_policies[0][0][0], Candidate)
    assert Policy([[[candidate()]]]).name == "unnamed"
    assert Policy([[[candidate()]]]).provenance == {}


def test_a_policy_is_immutable() -> None:
    policy = example()
    for attribute in ("name", "provenance", "sub_policies", "stages", "anything"):
        with pytest.raises(AttributeError):
            setattr(policy, attribute, None)
    policy.provenance["seed"] = 2
    assert policy.provenance == {"seed": 1}
    assert isinstance(policy.sub_policies[0][0], tuple)


def test_the_arguments_may_change_afterwards() -> None:
    rotate, provenance = candidate(), {"losses": [1.0]}
    policy = Policy([[[rotate]]], provenance=provenance)
    rotate["probability"] = 7
    provenance["losses"].append(math.nan)
    assert policy.sub_policies[0][0][0].probability == 0.5
    assert policy.provenance == {"losses": [1.0]}


def test_equality_looks_at_the_sub_policies_only() -> None:
    policy = example()
    relabelled = Policy(policy.sub_policies, name="other", provenance={})
    assert policy == relabelled
    assert hash(policy) == hash(relabelled)
    assert policy != Policy(policy.sub_policies[::-1])
    assert policy != policy.sub_policies


def test_pickle_and_copy() -> None:
    policy = example()
    policy.sample(3)  # fills the tables, which are not part of the policy
    copies = [pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy), copy.copy(policy)]
    for copied in copies:
        assert copied == policy
        assert (copied.name, copied.provenance) == (policy.name, policy.provenance)
        seeds = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
        assert copied.sample(50, seeds[0]) == policy.sample(50, seeds[1])
    assert pickle.dumps(policy) == pickle.dumps(example())


def test_repr() -> None:
    assert repr(example()).splitlines() == [
        "Policy 'example': 2 sub-policies of 2 stages",
        "sub-policy  stage  operation       weight  probability  magnitude",
        "         0      0  rotate          0.5000        0.300      0.400",
        "                   flip            0.3000        0.900          -",
        "                   posterize       0.2000        0.600      0.400",
        "                1  cutout          1.0000        1.000      0.400",
        "         1      0  brightness      0.9000        0.500      1.000",
        "                   solarize        0.1000        0.000      0.400",
        "                1  sample_pairing  0.5000        0.500      0.400",
        "                   invert          0.5000        0.500          -",
    ]
    assert repr(Policy([[[candidate()]]])).startswith("Policy 'unnamed': 1 sub-policy of 1 stage\n")
    signs = repr(Policy([[[candidate(sign=1)], [candidate(sign=-1)]]])).splitlines()
    assert [line.split()[-1] for line in signs[2:]] == ["+0.400", "-0.400"]


def test_effective_share() -> None:
    share = example().effective_share()
    assert list(share) == NAMES
    expected = {
        "rotate": 0.5 * 0.3 / 4,
        "flip": 0.3 * 0.9 / 4,
        "posterize": 0.2 * 0.6 / 4,
        "cutout": 1.0 / 4,
        "brightness": 0.9 * 0.5 / 4,
        "sample_pairing": 0.25 / 4,
        "invert": 0.25 / 4,
    }
    assert share == pytest.approx({**dict.fromkeys(NAMES, 0.0), **expected})


def test_effective_share_counts_an_operation_once_per_candidate() -> None:
    policy = Policy([[[candidate(magnitude=0.1), candidate(magnitude=0.9)], [candidate("flip")]]])
    assert policy.effective_share()["rotate"] == pytest.approx(0.25)


# ------------------------------------------------------------------------------------------------------------ sampling


def drawn(values: list[list[float]], monkeypatch: pytest.MonkeyPatch, policy: Policy) -> Any:
    """The plan when torch.rand draws these values."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor(values, dtype=torch.float64))
    return policy.sample(len(values))


def test_every_column_means_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    #                  sub   choice gate  sign  x    y    other  choice gate  sign  x    y    other
    rows = [
        [0.00, 0.00, 0.29, 0.49, 0.1, 0.2, 0.00, 0.99, 0.99, 0.5, 0.3, 0.4, 0.99],
        [0.49, 0.50, 0.91, 0.50, 0.1, 0.2, 0.50, 0.00, 0.00, 0.5, 0.3, 0.4, 0.00],
        [0.50, 0.10, 0.49, 0.00, 0.1, 0.2, 0.99, 0.49, 0.50, 0.5, 0.3, 0.4, 0.49],
        [0.99, 0.09, 0.00, 0.99, 0.1, 0.2, 0.34, 0.50, 0.49, 0.5, 0.3, 0.4, 0.99],
    ]
    plan = drawn(rows, monkeypatch, example())
    names = [[NAMES[index] for index in row] for row in plan.operation.tolist()]
    assert names == [
        ["rotate", "cutout"],
        ["flip", "cutout"],
        ["brightness", "sample_pairing"],
        ["solarize", "invert"],
    ]
    assert plan.sub_policy.tolist() == [0, 0, 1, 1]
    assert plan.applied.tolist() == [[True, True], [False, True], [True, False], [False, True]]
    expected = [[-12.0, 0.08], [0.0, 0.08], [0.1, 0.16], [256 * 0.6, 0.0]]
    torch.testing.assert_close(plan.parameter, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-14)
    assert plan.centre.tolist() == [[[0.1, 0.2], [0.3, 0.4]]] * 4
    assert plan.partner.tolist() == [[1, 3], [3, 2], [1, 0], [1, 2]]


@pytest.mark.parametrize("value", [0.0, LARGEST])
@pytest.mark.parametrize("images", [0, 1, 2, 3, 1000])
@pytest.mark.parametrize("sub_policies", [1, 3, 49])
def test_the_ends_of_the_unit_interval_stay_inside(
    value: float, images: int, sub_policies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Weights of 1/49 sum to less than 1 in float64 and 3 * 1/3 to 1: the last candidate takes what is left.
    stage = [candidate(magnitude=index / 48) for index in range(49)]
    policy = Policy([[stage]] * sub_policies)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, value, dtype=torch.float64))
    plan = policy.sample(images)
    last = value > 0
    assert plan.sub_policy.tolist() == [(sub_policies - 1) * last] * images
    assert plan.parameter.abs().tolist() == [[30.0 * last]] * images
    expected = [(image + (images - 1 if last else 1)) % images for image in range(images)]
    assert plan.partner[:, 0].tolist() == (expected if images > 1 else [0] * images)


def test_one_draw_and_no_other_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    rand = torch.rand

    def counted(*size: int, **options: Any) -> torch.Tensor:
        calls.append((*size, options["dtype"], options["device"]))
        return rand(*size, **options)

    monkeypatch.setattr(torch, "rand", counted)
    generator, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    example().sample(7, generator)
    assert calls == [(7, 1 + 6 * 2, torch.float64, torch.device("cpu"))]
    rand(7, 13, dtype=torch.float64, generator=twin)
    assert torch.equal(generator.get_state(), twin.get_state())


def steps_of(plan: Any) -> list[tuple[int, float, tuple[float, float]]]:
    """What `sample_one` says of a plan of one image."""
    (operations,), (parameters,) = plan.operation.tolist(), plan.parameter.tolist()
    (applied,), (centres,) = plan.applied.tolist(), plan.centre.tolist()
    rows = zip(operations, parameters, map(tuple, centres), applied, strict=True)
    return [(operation, parameter, centre) for operation, parameter, centre, happens in rows if happens]


def test_one_image_draws_what_a_plan_of_one_draws() -> None:
    every = [
        candidate(name, weight=index + 1, **({"magnitude": 0.37} if OPERATIONS[name].has_magnitude else {}))
        for index, name in enumerate(NAMES)
    ]
    for policy in (example(), Policy([[every, every[:5]], [every[3:4], every], [every[::-1], every[7:]]])):
        generator, twin = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
        for _ in range(500):
            assert policy.sample_one(generator) == steps_of(policy.sample(1, twin))
        assert torch.equal(generator.get_state(), twin.get_state())
        torch.manual_seed(9)
        first = policy.sample_one()
        torch.manual_seed(9)
        assert first == steps_of(policy.sample(1))


def test_one_image_is_drawn_alike_in_every_mode_and_thread() -> None:
    policy, expected = example(), steps_of(example().sample(1, torch.Generator().manual_seed(5)))
    with torch.inference_mode():  # where the room for the numbers is made
        assert policy.sample_one(torch.Generator().manual_seed(5)) == expected
    assert policy.sample_one(torch.Generator().manual_seed(5)) == expected

    def draw(seed: int) -> list[Any]:
        generator = torch.Generator().manual_seed(seed)
        return [policy.sample_one(generator) for _ in range(300)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(24))) == [draw(seed) for seed in range(24)]


def test_a_policy_that_has_drawn_one_image_can_be_copied() -> None:
    policy = example()
    policy.sample_one()
    for copied in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert copied == policy
        assert copied.sample_one(torch.Generator().manual_seed(5)) == policy.sample_one(
            torch.Generator().manual_seed(5)
        )


@pytest.mark.parametrize("value", [0.0, LARGEST])
@pytest.mark.parametrize("sub_policies", [1, 3, 49])
def test_one_image_stays_inside_at_the_ends_of_the_unit_interval(
    value: float, sub_policies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy([[[candidate(magnitude=index / 48) for index in range(49)]]] * sub_policies)
    monkeypatch.setattr(torch, "rand", lambda *size, **_: torch.full(size, value, dtype=torch.float64))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda numbers, **_: numbers.fill_(value))
    assert policy.sample_one() == steps_of(policy.sample(1))


def test_without_a_generator_the_default_one_is_used() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        plan = example().sample(20)
    assert plan == example().sample(20, torch.Generator().manual_seed(3))


def test_the_default_dtype_and_device_do_not_matter() -> None:
    expected = example().sample(20, torch.Generator().manual_seed(3))
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"):
            plan = example().sample(20, torch.Generator().manual_seed(3))
    finally:
        torch.set_default_dtype(torch.float32)
    assert plan == expected


@pytest.mark.parametrize("images", [1, 2, 3, 15, 16, 17, 100])
def test_an_image_draws_the_same_in_a_batch_of_any_size(images: int) -> None:
    large = example().sample(1000, torch.Generator().manual_seed(11))[:images]
    small = example().sample(images, torch.Generator().manual_seed(11))
    for name in ("operation", "parameter", "applied", "centre", "sub_policy"):
        assert torch.equal(getattr(large, name), getattr(small, name)), name


def test_an_empty_batch() -> None:
    plan = example().sample(0)
    assert (len(plan), plan.stages) == (0, 2)
    with pytest.raises(ValueError, match="batch_size should be 0 or more, but got -1"):
        example().sample(-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("magnitude", [0.0, 0.3, 0.375, 1.0])
def test_parameters_are_those_of_the_table(name: str, magnitude: float) -> None:
    operation = OPERATIONS[name]
    values = {"magnitude": magnitude} if operation.has_magnitude else {}
    plan = Policy([[[candidate(name, **values)]]]).sample(64, torch.Generator().manual_seed(0))
    size = torch.tensor(magnitude if operation.has_magnitude else 0.0, dtype=torch.float64)
    expected = {float(operation.parameter(sign * size)) for sign in ((1, -1) if operation.signed else (1,))}
    assert set(plan.parameter.flatten().tolist()) == expected


COUNT = 40_000


def assert_share(found: torch.Tensor, expected: float) -> None:
    """A boolean tensor is true as often as expected, within five standard deviations."""
    deviation = math.sqrt(expected * (1 - expected) / found.numel())
    assert float(found.double().mean()) == pytest.approx(expected, abs=5 * deviation + 1e-12)


@pytest.fixture(scope="module")
def many() -> Any:
    return example().sample(COUNT, torch.Generator().manual_seed(2024))


def test_sub_policies_are_uniform(many: Any) -> None:
    assert_share(many.sub_policy == 0, 0.5)
    plan = Policy([[[candidate()]]] * 7).sample(COUNT, torch.Generator().manual_seed(1))
    for index in range(7):
        assert_share(plan.sub_policy == index, 1 / 7)


def test_candidates_follow_their_weights_and_gates_their_probabilities(many: Any) -> None:
    for index, sub_policy in enumerate(example().sub_policies):
        rows = many.sub_policy == index
        for k, stage in enumerate(sub_policy):
            for each in stage:
                chosen = many.operation[rows, k] == NAMES.index(each.operation)
                assert_share(chosen, each.weight)
                assert_share(many.applied[rows, k][chosen], each.probability)


def test_signs_are_even(many: Any) -> None:
    signed = many.operation == NAMES.index("rotate")
    assert_share(many.parameter[signed] > 0, 0.5)
    assert many.parameter[signed].abs().unique().tolist() == [12.0]
    unsigned = many.operation == NAMES.index("cutout")
    assert many.parameter[unsigned].unique().tolist() == pytest.approx([0.08])


@pytest.mark.parametrize("name", [name for name, operation in OPERATIONS.items() if operation.signed])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_fixed_sign_is_the_only_one(name: str, sign: int) -> None:
    stage = [candidate(name, sign=sign), candidate("flip"), candidate(name, magnitude=0.7)]
    plan = Policy([[stage]]).sample(400, torch.Generator().manual_seed(0))
    found = set(plan.parameter[plan.operation == NAMES.index(name)].tolist())
    fixed, drawn = torch.tensor(0.4, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    assert found == {float(OPERATIONS[name].parameter(each)) for each in (sign * fixed, drawn, -drawn)}


def test_a_fixed_sign_changes_no_other_draw() -> None:
    seeds = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    drawn = Policy([[[candidate()], [candidate("cutout")]]]).sample(100, seeds[0])
    fixed = Policy([[[candidate(sign=1)], [candidate("cutout")]]]).sample(100, seeds[1])
    assert torch.equal(fixed.parameter, drawn.parameter.abs())
    for name in ("operation", "applied", "centre", "partner", "sub_policy"):
        assert torch.equal(getattr(fixed, name), getattr(drawn, name)), name


def test_centres_are_uniform(many: Any) -> None:
    assert many.centre.min() >= 0
    assert many.centre.max() < 1
    for k in range(2):
        for axis in range(2):
            for tenth in range(10):
                assert_share((many.centre[:, k, axis] * 10).long() == tenth, 0.1)


def test_partners_are_uniform_over_the_others(many: Any) -> None:
    image = torch.arange(COUNT)[:, None]
    offset = (many.partner - image) % COUNT
    assert offset.min() >= 1
    assert many.partner.min() >= 0
    assert many.partner.max() < COUNT
    for tenth in range(10):
        assert_share((offset - 1) * 10 // (COUNT - 1) == tenth, 0.1)


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_partners_in_a_small_batch(images: int) -> None:
    generator = torch.Generator().manual_seed(0)
    partners = torch.stack([example().sample(images, generator).partner for _ in range(300)])  # [draws, B, K]
    for image in range(images):
        others = [other for other in range(images) if other != image] or [image]
        assert partners[:, image].unique().tolist() == others
        for other in others:
            assert_share(partners[:, image] == other, 1 / len(others))


def test_draws_are_independent(many: Any) -> None:
    # What a stage draws says nothing of what else is drawn: all pairs of yes-or-no questions are uncorrelated.
    answers = {
        "sub-policy": many.sub_policy == 0,
        "gate": many.applied[:, 1] & (many.sub_policy == 1),
        "x 0": many.centre[:, 0, 0] < 0.5,
        "y 0": many.centre[:, 0, 1] < 0.5,
        "x 1": many.centre[:, 1, 0] < 0.5,
        "partner 0": (many.partner[:, 0] - torch.arange(COUNT)) % COUNT < COUNT // 2,
        "partner 1": (many.partner[:, 1] - torch.arange(COUNT)) % COUNT < COUNT // 2,
    }
    questions = torch.stack(list(answers.values())).double()
    correlation = torch.corrcoef(questions)
    correlation[0, 1] = correlation[1, 0] = 0  # the gate was asked of one sub-policy only
    off_diagonal = correlation - torch.eye(len(answers), dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / math.sqrt(COUNT)


def test_a_sub_policy_keeps_its_stages_together(many: Any) -> None:
    for index, sub_policy in enumerate(example().sub_policies):
        rows = many.sub_policy == index
        for k, stage in enumerate(sub_policy):
            allowed = {NAMES.index(each.operation) for each in stage}
            assert set(many.operation[rows, k].tolist()) == allowed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_sampling_on_the_gpu() -> None:
    plan = example().sample(COUNT, torch.Generator("cuda").manual_seed(0))
    assert plan.operation.device.type == "cuda"
    assert plan == example().sample(COUNT, torch.Generator("cuda").manual_seed(0))
    plan = plan.to("cpu")
    assert_share(plan.sub_policy == 0, 0.5)
    assert_share(plan.operation[plan.sub_policy == 0, 0] == NAMES.index("rotate"), 0.5)
    assert_share(plan.applied[plan.operation == NAMES.index("rotate")], 0.3)
