"""The published JSON Schema."""

import json
import runpy
import sys
from pathlib import Path

import jsonschema
import pytest

from fasteraa_transforms.policy import schema as _schema

SCHEMA = Path(__file__).parents[2] / "docs" / "policy.schema.json"
VALIDATOR = jsonschema.Draft202012Validator(json.loads(_schema.schema_text()))


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
