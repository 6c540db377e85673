"""Write the JSON Schema of policy files: ``python -m fasteraa_transforms.policy.schema docs/policy.schema.json``."""

import json
import sys
from pathlib import Path

from fasteraa_transforms.policy.policy import PolicyFile


def schema_text() -> str:
    """The schema, made from the definition that files are checked with.

    It cannot say that all sub-policies have the same number of stages.
    """
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **PolicyFile.model_json_schema()}
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    (destination,) = sys.argv[1:]
    Path(destination).write_text(schema_text(), encoding="utf-8")
