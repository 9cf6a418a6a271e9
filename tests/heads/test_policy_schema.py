"""The published schema of policy files is that of the code, and accepts what the code writes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from formats_zoo import policy

from headscope.heads import Window
from headscope.heads.policy import policy_schema

PUBLISHED = Path(__file__).parents[2] / "docs" / "policy.schema.json"


def test_the_published_schema_is_current() -> None:
    """`headscope schema --out docs/policy.schema.json` writes it anew."""
    assert PUBLISHED.read_text() == policy_schema()


def test_it_accepts_policies_and_refuses_others() -> None:
    schema = json.loads(PUBLISHED.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    rows = [[None, Window(sink=4, recent=16)]]
    content = json.loads(policy(rows, [[1.0, 0.5]]).model_dump_json())
    jsonschema.validate(content, schema)
    for change in ({"retain": [[{"sink": -1, "recent": 4}]]}, {"format": "other"}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | change, schema)
