"""A training in the report, in figures and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from headscope.app import training_layers, training_lines, write_report
from headscope.app.cli import app
from headscope.heads import HeadMap, Training
from headscope.heads.storage import write_json, write_table
from headscope.heads.training import Scanned, TrainingIndex

STEPS = (0, 10, 100, 1000)


@pytest.fixture
def training(run: Path, tmp_path: Path) -> Path:
    """Four copies of the made-up run, in which the sinks grow."""
    folder = tmp_path / "training"
    headmap = HeadMap.open(run)
    for i, step in enumerate(STEPS):
        mine = folder / f"step-{step}"
        mine.mkdir(parents=True)
        HeadMap(headmap.frame.assign(sink=headmap.frame["sink"] * i / 3), headmap.meta).save(
            mine / "headmap.parquet"
        )
        layers = pd.DataFrame({"layer": range(6), "sink_mass": np.linspace(0, i / 3, 6)})
        write_table(mine / "layers.parquet", layers, headmap.meta)
    entries = tuple(Scanned(step=s, source=f"m@{s}", run=f"step-{s}") for s in STEPS)
    write_json(folder / "checkpoints.json", TrainingIndex(checkpoints=entries))
    return folder


def test_the_report_shows_the_training(training: Path) -> None:
    text = write_report(training).read_text()
    assert 'id="training"' in text and "4 checkpoints" in text
    assert 'id="training-sink"' in text and 'id="training-layers-sink_mass"' in text
    assert "the highest goes from 0.000 at step 0" in text
    assert 'id="training"' not in write_report(training / "step-10").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_over_steps(training: Path, theme: str) -> None:
    found = Training.open(training)
    figure = training_lines(found, "sink", role="sink", theme=theme)  # type: ignore[arg-type]
    lines = [t for t in figure.data if t.mode == "lines+markers"]
    assert lines[0].name == "median" and len(lines) == 6  # and the five that end highest
    best = found.last.top("sink", 5)
    assert [t.name for t in lines[1:]] == [
        f"L{a}H{b}" for a, b in zip(best["layer"], best["head"], strict=True)
    ]
    assert lines[1].y[-1] == best["sink"].iloc[0]
    assert list(lines[1].customdata) == list(STEPS)
    assert np.all(np.diff(lines[1].x) > 0) and figure.layout.xaxis.ticktext == ("0", "10", "100", "1k")
    layers = training_layers(found, "sink_mass", theme=theme)  # type: ignore[arg-type]
    assert len([t for t in layers.data if t.mode == "lines+markers"]) == 6


def test_show_knows_a_training(training: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["show", str(training), *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    found = Training.open(training)
    assert "over training" in said() and "1,000" in said()
    column = json.loads(said("--role", "sink", "--json"))
    assert column["steps"] == list(STEPS) and column["score"] == "sink"
    assert column["heads"]["L2H1"] == found.over("sink")[2, 1].tolist()
    assert json.loads(said("--json"))["labelled"]["sink"] == found.counts()["sink"].tolist()
    best = found.last.top("sink", 1).iloc[0]
    assert f"L{int(best['layer'])}H{int(best['head'])}" in said("--role", "sink")
    assert "mean" in said("--role", "made_up")


def test_several_models_need_to_be_checkpoints() -> None:
    result = CliRunner().invoke(app, ["scan", "a-1", "b-2"])
    assert result.exit_code == 2 and "scan takes one model, not 2, unless with --checkpoints" in result.output
