"""`headscope sae`: a training from text to a table, and the features it found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headscope.app.cli import app

RUN = CliRunner()


@pytest.mark.model
def test_train_and_show(tmp_path: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "saes"
    text.write_text("".join(f"In the year {i} the library lent {i % 7} books to Anna.\n" for i in range(60)))
    command = [
        "sae", "train", "facts", "--layer", "0", "--layer", "1", "--text", str(text), "--context", "12",
        "--tokens", "1280", "--batch", "64", "--features", "32", "--k", "4", "--windows", "4",
        "--examples", "8", "--buffer", "256", "--out", str(out),
    ]  # fmt: skip
    done = RUN.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "L0.z" in done.output and "L1.z" in done.output
    shown = RUN.invoke(app, ["sae", "show", str(out), "--json"])
    assert [x["site"] for x in json.loads(shown.stdout)["saes"]] == ["L0.z", "L1.z"]
    listed = RUN.invoke(app, ["sae", "show", str(out / "L1.z"), "--json"])
    assert json.loads(listed.stdout)["site"] == "L1.z"
    one = RUN.invoke(app, ["sae", "show", str(out / "L1.z"), "--feature", "3", "--json", "--top", "2"])
    found = json.loads(one.stdout)
    assert len(found["raises"]) == 2 and sum(h["share"] for h in found["heads"]) == pytest.approx(1)
    assert RUN.invoke(app, ["sae", "show", str(out / "L1.z"), "--feature", "3"]).exit_code == 0


def test_what_ships_is_listed_by_its_model() -> None:
    shown = RUN.invoke(app, ["sae", "show", "smollm2"])
    assert "L18.z" in shown.output and "headscope sae show smollm2/L18.z" in shown.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "facts", "--layer", "9"], "has layers 0 to 2"),
        (["train", "facts", "--layer", "0", "--site", "zz"], "There is no site 'zz'. Did you mean 'z'"),
        (["train", "facts", "--layer", "0", "--option", "k"], "write NAME=NUMBER"),
        (["train", "facts", "--layer", "0", "--head", "1", "--site", "mlp"], "mixes all heads"),
        (["show", "nowhere"], "no SAE's folder"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], words: str) -> None:
    done = RUN.invoke(app, ["sae", *arguments])
    assert done.exit_code == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
