"""What a policy is, from Python and back from its text."""

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from helpers import candidate, document, example
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fasteraa_transforms.operations.table import OPERATIONS
from fasteraa_transforms.policy import Candidate, Policy, PolicyError
from fasteraa_transforms.policy import schema as _schema

NAMES = list(OPERATIONS)
SCHEMA = Path(__file__).parents[2] / "docs" / "policy.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(_schema.schema_text()))


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


# --------------------------------------------------------------------------------------------------- the policy itself


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


def test_candidate_is_one_class_wherever_it_is_looked_for() -> None:
    import fasteraa_transforms
    from fasteraa_transforms.policy import schema

    assert fasteraa_transforms.Candidate is schema.Candidate is Candidate
    assert isinstance(example().sub_policies[0][0][0], fasteraa_transforms.Candidate)
    one = Candidate(operation="rotate", weight=1, probability=0.5, magnitude=0.4)
    assert pickle.loads(pickle.dumps(one)) == one
    assert repr(one) == "Candidate(operation='rotate', weight=1.0, probability=0.5, magnitude=0.4, sign=None)"
    with pytest.raises(AttributeError, match="has no attribute 'Stage'"):
        fasteraa_transforms.Stage  # noqa: B018
