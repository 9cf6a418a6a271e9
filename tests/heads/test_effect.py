"""An intervention is shown next to nothing, its opposite, and the same on random heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner
from zoo import tiny

from headscope.app.cli import app
from headscope.heads import effect
from headscope.probes import HeadId, HeadscopeError, Model, Prompt, Spec, answers, elsewhere, fit, load

HEADS = ["L1H0", "L2H3", "L1H5"]


def made_up(n: int, seed: int, answer: bool = True) -> Prompt:
    ids = torch.randint(3, 96, (n,), generator=torch.Generator().manual_seed(seed))
    return Prompt("made_up", tuple(ids.tolist()), answer=(n - 2, n) if answer else None)


PROMPTS = [made_up(20, seed) for seed in range(3)]
TEXTS = [made_up(20, seed, answer=False) for seed in (7, 8)]


def test_the_rows_are_what_they_say() -> None:
    model = load(tiny("llama"))
    spec = fit(model, "zero", heads=HEADS)
    found = effect(model, spec, PROMPTS, TEXTS, draws=2).set_index("what")
    assert list(found.index) == ["untouched", "intervention", "opposite", "random"]
    doubled = fit(model, "scale", heads=HEADS, strength=2.0)
    expected = answers(model, PROMPTS, [(), (spec,), (doubled,)]).logprob
    np.testing.assert_allclose(found["logprob"].iloc[:3], expected.mean(1))
    change = expected[1] - expected[0]
    assert found.loc["intervention", "change"] == pytest.approx(change.mean())
    assert found.loc["intervention", "change_se"] == pytest.approx(change.std(ddof=1) / np.sqrt(3))
    assert found.loc["untouched", ["change", "loss_change"]].tolist() == [0, 0]


def test_nothing_changes_at_strength_one() -> None:
    model = load(tiny("llama"))
    spec = fit(model, "uniform", heads=HEADS, strength=1.0)
    found = effect(model, spec, PROMPTS, TEXTS)
    assert found[["change", "loss_change"]].abs().to_numpy().max() < 1e-5


def test_elsewhere_takes_the_layers_strengths_along() -> None:
    model = load(tiny("llama"))
    spec = fit(model, "mean", heads=HEADS, prompts=TEXTS)
    spec = spec.with_strength([0.1, 0.3, 0.2])
    with pytest.raises(HeadscopeError, match="without a tokenizer"):
        elsewhere(model, spec, [HeadId(0, 0)])
    zero = fit(model, "zero", heads=HEADS).with_strength([0.1, 0.3, 0.2])
    other = elsewhere(model, zero, [HeadId(2, 0), HeadId(1, 1), HeadId(1, 2)])
    assert other.heads == (HeadId(1, 1), HeadId(1, 2), HeadId(2, 0))
    assert other.strengths == (0.1, 0.2, 0.3)


def test_no_control_where_there_are_no_other_heads() -> None:
    model = load(tiny("llama"))
    spec = fit(model, "zero", heads=[HeadId(1, h) for h in range(4)])
    assert list(effect(model, spec, PROMPTS)["what"]) == ["untouched", "intervention", "opposite"]


def cli(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.model
def test_from_fitting_to_generating(smollm2: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubling and silencing two retrieval heads; the spec then works in another command."""
    monkeypatch.setattr("headscope.probes.load", lambda *_, **__: smollm2)
    file = tmp_path / "zero.json"
    common = ("intervene", "zero", "smollm2", "--head", "L18H6", "--head", "L17H3")
    found = json.loads(cli(*common, "--length", 160, "--prompts", 2, "--draws", 1, "--out", file, "--json"))
    assert [row["what"] for row in found["effect"]] == ["untouched", "intervention", "opposite", "random"]
    assert found["effect"][1]["change"] < -0.05  # nats per token, from two heads of 270
    assert Spec.open(file).model_dump(mode="json") == found["spec"]

    question = "What is the capital of France?"
    said = json.loads(cli("generate", "smollm2", question, "--with", file, "--max-new-tokens", 8, "--json"))
    assert "Paris" in said["untouched"] and said["with"]
    assert cli("generate", "smollm2", question, "--max-new-tokens", 8).strip() == said["untouched"].strip()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mena", "smollm2"], "Did you mean 'mean'?"),
        (["zero", "smollm2", "--head", "L1H1", "--run", "x"], "not from both"),
        (["zero", "smollm2", "--head", "1-1"], "heads are written like L18H6"),
        (["zero", "smollm2", "--set", "beta"], "it is written NAME=VALUE"),
        (["zero", "smollm2", "--positions", "al"], "Did you mean 'all'?"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["intervene", *arguments])
    assert result.exit_code == 2 and sentence in result.stderr
