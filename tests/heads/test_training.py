"""Several checkpoints as one training: resumable, joined, refused where they do not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from zoo import tiny

from headscope.heads import HeadMap, Preset, Training, scan, scan_checkpoints
from headscope.heads.presets import Portion
from headscope.probes import BadFile, Checkpoint, HeadscopeError, UnknownName, checkpoints, load
from headscope.probes.toys.bigram_backcopy import tokenizer_of

PRESET = Preset(
    name="tiny", about="", context=64, sample=32,
    portions=(
        Portion(task="backcopy", fractions=(1.0,), per_length=3),
        Portion(task="bigram", fractions=(1.0,), per_length=2),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    chosen = [c for c in checkpoints(["bigram-backcopy"]) if c.step in (0, 100, 8000)]
    return scan_checkpoints(chosen, PRESET, tmp_path_factory.mktemp("training"))


def test_every_checkpoint_is_an_ordinary_run(training: Training) -> None:
    assert training.steps == [0, 100, 8000]
    alone = scan(load("bigram-backcopy@100"), PRESET)
    there = HeadMap.open(training.path / "step-100")
    assert there.frame.equals(alone.frame)
    values = training.over("sink_mass_bigram")
    assert list(values.index) == training.steps and list(values.columns) == [(0, 0)]
    assert values.loc[100, (0, 0)] == there.frame.loc[0, "sink_mass_bigram"]
    # The sink emerges.
    assert values[0, 0].is_monotonic_increasing and values.loc[8000, (0, 0)] > 0.95
    assert training.counts()["active_dormant"].tolist() == [0, 1, 1]
    assert training.layers.groupby("step").size().tolist() == [1, 1, 1]
    assert set(training.frame["step"]) == {0, 100, 8000}
    with pytest.raises(UnknownName, match="sink_mass_bigram"):
        training.over("sink_mass_bigrams")


def test_a_stopped_training_goes_on(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    before = training.frame
    part = next((training.path / "step-100" / "parts").iterdir())
    part.unlink()
    seen: list[tuple[int, str]] = []
    fresh = scan_checkpoints(
        [Checkpoint(s, f"bigram-backcopy@{s}") for s in (100, 400)], PRESET, training.path,
        loaded=lambda c, m: seen.append((c.step, m.name)),
    )  # fmt: skip
    assert part.exists() and seen == [(100, "bigram-backcopy@100"), (400, "bigram-backcopy@400")]
    assert fresh.steps == [0, 100, 400, 8000]
    kept = fresh.frame[fresh.frame["step"] != 400].reset_index(drop=True)
    assert kept.equals(before)


def test_what_does_not_belong_together_is_refused(training: Training, tmp_path: Path) -> None:
    other = tmp_path / "step-9"
    tiny("gpt2").save_pretrained(other)
    tokenizer_of().save_pretrained(other)
    sources = [Checkpoint(0, "bigram-backcopy@0"), Checkpoint(9, str(other))]
    with pytest.raises(HeadscopeError, match="checkpoints of one model agree"):
        scan_checkpoints(sources, PRESET, tmp_path / "mixed")
    with pytest.raises(HeadscopeError, match="holds the scan of one model"):
        scan_checkpoints(sources[:1], PRESET, training.path / "step-100")
    with pytest.raises(HeadscopeError, match="holds another scan"):
        scan_checkpoints(sources[:1], PRESET, training.path, seed=1)


@pytest.mark.parametrize("run", ["../step-0", "gone", "", ".."])
def test_an_index_that_leads_elsewhere_is_refused(run: str, tmp_path: Path) -> None:
    (tmp_path / "step-0").mkdir()
    entry = {"step": 0, "source": "x", "run": run}
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "checkpoints.json").write_text(
        json.dumps({"schema_version": 1, "checkpoints": [entry]})
    )
    with pytest.raises(BadFile, match="no folder beside it"):
        Training.open(tmp_path / "in")


def test_maps_are_read_in_the_order_of_steps(training: Training) -> None:
    assert training.last.meta.model == "bigram-backcopy@8000"
    assert np.isfinite(training.over("active_dormant_se").to_numpy()).all()
    assert torch.is_grad_enabled()
