"""`headscope gates`: a run on the default model, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headscope.app.cli import app
from headscope.heads import HeadMap
from headscope.probes import Model

TINY = ("--steps", 1, "--length", 400, "--sink", 16, "--recent", 64)


def run_cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gates", *(str(a) for a in arguments)])


@pytest.fixture
def loaded(smollm2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from headscope import probes

    monkeypatch.setattr(probes, "load", lambda *_, **__: smollm2)


@pytest.mark.model
@pytest.mark.usefixtures("loaded")
def test_a_training_ends_in_a_map_that_show_reads(tmp_path: Path) -> None:
    result = run_cli("smollm2", *TINY, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "30 x 3 gates, 1 steps on prompts of 160 to 400 tokens" in result.stderr
    assert "Gates: 1 of 1 steps" in result.stderr and "90 of 90 gates stay above 0.5" in result.stdout
    found = json.loads(run_cli("smollm2", *TINY, "--out", tmp_path, "--json").stdout)
    # At the start nothing differs from the untouched model, so only the penalty moves the gates.
    assert [len(row) for row in found["gates"]] == [3] * 30
    assert all(gate == pytest.approx(0.998) for row in found["gates"] for gate in row)
    assert HeadMap.open(tmp_path).meta.tasks == {"recital": 1}
    shown = CliRunner().invoke(app, ["show", str(tmp_path), "--role", "gate", "--json"])
    assert shown.exit_code == 0 and json.loads(shown.stdout)["top"][0]["gate"] == pytest.approx(0.998)


@pytest.mark.model
@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--length", 9000), "length is 9000 tokens, but 'smollm2' was built for at most 8192."),
        (("--length", 300), "Prompts of 300 tokens fit into sink + recent = 64 + 256 keys"),
        (("--length", 500, "--shortest", 600), "The shortest prompt is 600 tokens and the longest 500."),
        (("--lr", 2), "learning_rate is 2.0, but must be above 0 and at most 1."),
        (("--haystack", "/nowhere/text"), "No such file or directory"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments: tuple[Any, ...], sentence: str, tmp_path: Path) -> None:
    result = run_cli("smollm2", *arguments, "--out", tmp_path / "no")
    assert result.exit_code == 2 and result.stdout == ""
    assert sentence in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "no").exists()


@pytest.mark.model
@pytest.mark.usefixtures("loaded")
def test_a_stopped_training_says_that_it_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headscope import heads

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(heads, "train_gates", stop)
    result = run_cli("smollm2", *TINY, "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip().splitlines()[-1].startswith("Stopped; the same command goes on from")
