"""What a policy file is refused for, in which words, and at what cost."""

import copy
import json
import math
import pickle
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from helpers import document
from hypothesis import given, settings
from hypothesis import strategies as st

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy import Policy, PolicyError, schema

NAMES = list(OPERATIONS)
SCHEMA = Path(__file__).parents[2] / "docs" / "policy.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(schema.schema_text()))


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


# ------------------------------------------------------------------------------------------- whatever else it may be


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


def mutated_text(data: st.DataObject) -> str:
    text = json.dumps(document())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(start + 5, len(text))))
        text = (
            text[:start]
            + data.draw(st.text(max_size=3) | st.sampled_from(['"', "}", "]", "0", "-", "e9"]))
            + text[end:]
        )
    return text


@settings(max_examples=300)
@given(st.data())
def test_mutated_text_raises_nothing_else(data: st.DataObject) -> None:
    accepted_or_refused(mutated_text(data))


@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(data)
    with pytest.raises(PolicyError):
        Policy.load(path)


def whole(text: str) -> tuple[Any, ...] | None:
    """The error of the models alone, without looking through the text first; None if they accept it."""
    try:
        schema.checked(text.encode(), "mutated.json")
    except PolicyError as error:
        return facts(error)
    return None


def facts(error: PolicyError) -> tuple[Any, ...]:
    """An error without the words that differ: which syntax error it is, and which number is not finite."""
    if error.expected == "valid JSON":
        return error.path, error.expected
    if error.expected.startswith("what JSON can hold"):
        return error.path, error.found, error.more
    return error.path, error.found, error.expected, error.more


@settings(max_examples=300)
@given(st.data())
def test_looking_through_a_text_finds_what_the_models_find(data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        text = json.dumps(mutated(data.draw, document()), ensure_ascii=data.draw(st.booleans()))
    else:
        text = mutated_text(data)
    found = None
    try:
        Policy.from_json(text, "mutated.json")
    except PolicyError as error:
        found = facts(error)
    assert found == whole(text)


BOMBS = ["{}", "[]", "[", "]", "{", '{"a":', "1,", '"a":1,', '"weight":2,', "0", "{},", '"', "\\", "é", "[{}],"]


@settings(max_examples=200)
@given(st.data())
def test_refusing_costs_at_most_20_times_the_text(data: st.DataObject) -> None:
    text = json.dumps(document(), ensure_ascii=False)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.sampled_from(BOMBS)) * data.draw(st.sampled_from([50, 3000])) + text[place:]
    start = time.perf_counter()
    tracemalloc.start()
    try:
        Policy.from_json(text)
    except PolicyError:
        assert tracemalloc.get_traced_memory()[1] <= 20 * len(text.encode()) + 2**18
    finally:
        tracemalloc.stop()
    assert time.perf_counter() - start < 30  # on a machine that does other things as well


def assert_cheap(size: int, folder: Path) -> None:
    script = Path(__file__).with_name("hostile.py")
    process = subprocess.run(
        [sys.executable, script, str(size), folder], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert process.returncode == 0, process.stderr
    wide, *rows = map(json.loads, process.stdout.splitlines())
    assert wide["error"] is None
    assert wide["memory"] <= 40 * wide["size"]  # loaded and drawn from; padded tables would take 1.2 GB
    assert len(rows) > 30
    for row in rows:
        assert row["error"] is not None, row["name"]
        assert row["memory"] <= min(20 * row["size"], 64 * 2**20), row
        assert row["seconds"] < 60, row


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process from /proc")


@linux
def test_hostile_files_are_refused_at_little_cost(tmp_path: Path) -> None:
    assert_cheap(150_000, tmp_path)


@linux
@pytest.mark.slow
def test_the_largest_hostile_files_are_refused_at_little_cost(tmp_path: Path) -> None:
    assert_cheap(16_700_000, tmp_path)


def test_a_provenance_of_very_many_values_is_refused() -> None:
    error = refused(document(provenance={"losses": [0] * 100_001}))
    assert str(error) == "cifar10.json: $.provenance: found more than 100000 values, expected at most 100000"
    many = {"losses": [0.5] * 50_000, "text": "a, b, [c" * 100_000}
    assert Policy.from_json(json.dumps(document(provenance=many))).provenance == many


def test_a_candidate_as_long_as_a_file_is_refused() -> None:
    text = json.dumps(document()).replace('"weight": 0.83', f'"weight": 0.83{"0" * 5000}', 1)
    error = refused(text)
    assert error.path == "$.sub_policies[0][0][0]"
    assert error.expected == "a candidate: an object of at most 4096 characters"
    assert error.found == "5079 characters"


def test_of_a_key_that_occurs_twice_the_last_value_counts() -> None:
    text = json.dumps(document()).replace('"version": 1', '"version": 7, "version": 1')
    text = text.replace('"weight": 0.83', '"weight": -1, "weight": 0.83')
    assert Policy.from_json(text) == Policy.from_json(json.dumps(document()))
    assert refused(text.replace('"version": 1', '"version": 1, "version": 2')).path == "$.version"
