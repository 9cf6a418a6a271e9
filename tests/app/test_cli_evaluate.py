"""`headscope evaluate`: tables, JSON, and one sentence for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from headscope.app.cli import app
from headscope.probes import fit, load


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_arms_are_compared_in_json_and_as_tables(tmp_path: Path) -> None:
    fit(load("shapes"), "vhr", positions="generated").save(tmp_path / "vhr.json")
    common = ("evaluate", "shapes", "--scenes", 2, "--seeds", 1, "--world", "breaking")
    result = run_cli(*common, "--with", tmp_path / "vhr.json", "--no-questions", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    arms = [row["arm"] for row in found["breaking"]["captions"]]
    assert arms == ["untouched", "vhr", "vhr opposite", "vhr random"]
    plain = run_cli(*common)
    assert plain.exit_code == 0 and "popular" in plain.stdout and "hallucination" in plain.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("facts",), "reads text alone"),
        (("shapes", "--world", "braking"), "braking"),
        (("shapes", "--with", "missing.json"), "missing.json"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    result = run_cli("evaluate", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr and len(result.stderr.strip().splitlines()) == 1
