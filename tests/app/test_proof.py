"""A causal test reads the same in the report, the terminal and the figure."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from headscope.app import proof_curve, write_report
from headscope.app.cli import app
from headscope.app.proof import about, cells
from headscope.app.tables_causal import print_proof
from headscope.heads import ColumnInfo, HeadMap, Proof, ProofMeta, Trial
from headscope.heads.proof import HeadSet, Outcome, curves
from headscope.probes import HeadId

META = ProofMeta(
    model="tiny <b>model</b>", fingerprint="0123456789abcdef", method="mean", positions="generated",
    task="needle", length=2048, seed=0, asked=5, prompts=4, draws=1, texts=2, text_length=128, loss=3.25,
)  # fmt: skip


def made_up() -> Proof:
    """Ablating one retrieval head costs three of four answers; at k = 3 there is no control."""
    zero, none = np.zeros(4), np.zeros(4, bool)
    sets = [
        HeadSet("retrieval", 1, None, (HeadId(2, 1),), 1),
        HeadSet("retrieval", 1, 0, (HeadId(2, 0),), 0),
        HeadSet("retrieval", 3, None, (HeadId(2, 1), HeadId(2, 2), HeadId(2, 3)), 3),
    ]
    wrong = np.array([True, True, False, True])
    outcomes = [
        Outcome(wrong, zero + 2, np.array([0.25, 0.5])),
        Outcome(none, zero, np.zeros(2)),
        Outcome(~none, zero + 4, np.ones(2)),
    ]
    return Proof(curves(sets, outcomes, seed=0), META)


@pytest.fixture
def proven(run: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(run, tmp_path / "run")
    made_up().save(folder)
    return folder


def test_the_report_shows_it_when_it_is_there(run: Path, proven: Path, tmp_path: Path) -> None:
    without = write_report(run, tmp_path / "without.html").read_text()
    assert 'id="proof"' not in without
    section = write_report(proven).read_text().split('<section class="wide" id="proof">')[1]
    section = section.split("</section>")[0]
    assert "4 needle prompts of 2,048 tokens" in section and "asked 5" in section
    assert re.findall(r"<td>(\d+%)[ <]", section) == ["75%", "0%", "0%", "75%", "100%"]
    assert "none where a layer has too few other heads" in section
    figure = json.loads(re.search(r'data-for="proof-retrieval">(.*?)</script>', section, re.S)[1])  # type: ignore[index]
    assert [trace["name"] for trace in figure["data"]] == ["random heads", "retrieval heads"]


def test_a_further_role_joins_a_test_of_the_same_settings(proven: Path) -> None:
    first = made_up()
    other = first.curves.assign(role="induction")
    assert Proof(other, META).joined(proven).curves["role"].tolist() == ["retrieval"] * 2 + ["induction"] * 2
    again = Proof(first.curves.iloc[:1].assign(drop=0.5), META).joined(proven).curves.set_index("k")
    assert again["drop"].to_dict() == {3: 1.0, 1: 0.5}
    elsewhere = Proof(other, META.model_copy(update={"positions": "all"}))
    assert elsewhere.joined(proven) is elsewhere
    (proven / "causal.parquet").write_bytes(b"nothing of the kind")
    assert Proof(other, META).joined(proven).curves is other


def test_the_figure_has_the_tables_numbers(headmap: HeadMap) -> None:
    proof = made_up()
    control, chosen = proof_curve(proof, "retrieval", headmap=headmap).data
    assert list(chosen.x) == ["1", "3"] and list(chosen.y) == [0.25, 0.0]
    row = proof.curves.iloc[0]
    assert chosen.customdata[0].tolist() == [1 - row["drop_high"], 1 - row["drop_low"]]
    assert control.y[0] == 1.0 and np.isnan(control.y[1])


def test_the_terminal_has_them_too(headmap: HeadMap) -> None:
    about = ColumnInfo(about="what causal means", tasks=("needle",), prompts=3)
    frame = headmap.frame.assign(causal=headmap.frame["retrieval"], causal_se=0.01)
    meta = headmap.meta.model_copy(update={"columns": headmap.meta.columns | {"causal": about}})
    console = Console(width=200, record=True, file=io.StringIO())
    print_proof(console, HeadMap(frame, meta), made_up())
    text = console.export_text()
    for part in ("75%", "19…99%", "+0.375 ± 0.125", "L2H1", "0.877", "what causal means", "3.250 nats"):
        assert part in text


def test_random_heads_with_the_role_are_owned_up_to() -> None:
    proof = made_up()
    mixed = proof.curves.assign(control_labelled=[0.5, float("nan")], labelled=[1, 2])
    assert "same layers without the role;" in about(proof)
    assert "without the role as far as a layer has such" in about(Proof(mixed, META))
    assert [cells(row)[2:6:3] for _, row in mixed.iterrows()] == [["1", "50%"], ["2", "–"]]


def test_a_misspelt_role_is_found_out_before_the_model_loads(run: Path) -> None:
    result = CliRunner().invoke(app, ["prove", str(run), "--role", "retrival"])
    assert result.exit_code == 2
    assert "Did you mean 'retrieval'?" in result.stderr


def test_the_command_writes_the_report_and_says_the_curves(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test itself is replaced by its result; what is asked of it is looked at."""
    folder, asked = shutil.copytree(run, tmp_path / "run"), []

    def test(model: object, where: Path, trial: Trial, **more: Any) -> Proof:
        headmap = HeadMap.open(where)
        about = ColumnInfo(about="what causal means", tasks=("needle",), prompts=3)
        frame = headmap.frame.assign(causal=headmap.frame["retrieval"], causal_se=0.01)
        meta = headmap.meta.model_copy(update={"columns": headmap.meta.columns | {"causal": about}})
        HeadMap(frame, meta).save(where / "headmap.parquet")
        made_up().save(where)
        more["progress"](1, 1)
        asked.append(trial)
        return made_up()

    monkeypatch.setattr("headscope.probes.load", lambda *_, **__: None)
    monkeypatch.setattr("headscope.heads.prove", test)
    options = ["--role", "retrieval", "--k", "3", "--k", "1", "--everywhere", "--prompts", "4"]
    result = CliRunner().invoke(app, ["prove", str(folder), *options, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["drop"] for row in found["curves"]] == [0.75, 1.0]
    assert found["curves"][1]["control_drop"] is None and found["meta"]["loss"] == 3.25
    (trial,) = asked
    assert (trial.roles, trial.ks, trial.positions, trial.prompts) == (("retrieval",), (1, 3), "all", 4)
    assert 'id="proof"' in (folder / "report.html").read_text()
    text = CliRunner().invoke(app, ["prove", str(folder)]).stdout
    assert "75%" in text and "Heads that matter most alone" in text and asked[1].roles == ()
