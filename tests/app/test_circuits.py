"""Circuits from the command line to the run folder, the report and the figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner
from zoo import random_pairs, tiny

from headscope.app.circuitfigures import circuit_graph, faithfulness_curves, shown_graph
from headscope.app.cli import app
from headscope.app.report import write_report
from headscope.heads import HeadMap, keep_circuits, open_circuits, tasks_with_circuits
from headscope.probes import BadFile, Circuit, Refused, discover, load, plant


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model = plant("planted-deep")
    model.hf.save_pretrained(folder)
    assert model.tokenizer is not None
    model.tokenizer.save_pretrained(folder)
    return folder


def test_the_command_finds_keeps_and_reports(planted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["circuits", str(planted), "--task", "induction", "--method", "attribution,eap", "--prompts",
               "3", "--held", "2", "--edges", "--out", str(out)]  # fmt: skip
    first = CliRunner().invoke(app, [*command, "--json"])
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    methods = {"attribution", "eap", "difference", "layer", "random"}
    assert {Path(file).stem for file in said["circuits"]} == methods
    assert {(c["method"], c["grain"]) for c in said["curves"]} == (
        {(m, "heads") for m in methods} | {("eap", "edges"), ("random", "edges")}
    )
    headmap, kept = HeadMap.open(out), open_circuits(out, "induction")
    scores = kept.circuits["eap"].heads()
    np.testing.assert_array_equal(headmap.frame["circuit_induction_eap"], scores["score"])
    np.testing.assert_array_equal(headmap.frame["circuit_induction_eap_se"], scores["score_se"])
    assert "Which of them carry a task" in (out / "report.html").read_text()
    again = CliRunner().invoke(app, [*command, "--towards", "zero"])
    assert "Faithfulness of so many edges" in again.stdout
    assert open_circuits(out, "induction").circuits["eap"].settings == {"towards": "zero"}
    assert len(open_circuits(out, "induction").curves) == len(said["curves"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--method", "eap,aep"], "There is no circuit method 'aep'. Did you mean 'eap'?"),
        (["--task", "prose"], "A 'prose' prompt has no"),
        (["--task", "docstring"], "No 'docstring' prompt could be labelled"),
        (["--ablation", "noise"], "There is no ablation 'noise'. Known: counterfactual, mean, zero."),
        (["--towards", "noise"], "There is no ablation 'noise'. Known: counterfactual, mean, zero."),
    ],
)
def test_bad_wishes_are_one_sentence(planted: Path, tmp_path: Path, options: list[str], says: str) -> None:
    command = ["circuits", str(planted), "--task", "induction", "--prompts", "2", "--held", "1", "--out"]
    result = CliRunner().invoke(app, [*command, str(tmp_path), *options])
    assert result.exit_code == 2
    assert says in result.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_model_is_refused(tmp_path: Path) -> None:
    models, prompts = [load(tiny("llama", seed)) for seed in (0, 1)], random_pairs()
    found = [discover(model, "random", method="layer", prompts=prompts) for model in models]
    keep_circuits(tmp_path, found[:1], [])
    with pytest.raises(Refused, match="this circuit of"):
        keep_circuits(tmp_path, found[1:], [])
    assert tasks_with_circuits(tmp_path) == ["random"]
    with pytest.raises(BadFile, match="holds no circuits of 'other'"):
        open_circuits(tmp_path, "other")


@pytest.fixture(scope="module")
def eap() -> Circuit:
    return discover(load(tiny("llama")), "random", method="eap", prompts=random_pairs())


def test_the_graph_shows_only_what_leads_somewhere(eap: Circuit) -> None:
    graph = shown_graph(eap, 20)
    assert 2 <= len(graph) <= 23
    assert graph.number_of_edges() <= 60
    assert all(graph.degree(node) for node in graph)
    assert all(node == "logits" or graph.out_degree(node) for node in graph)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_thickness_is_the_score_and_nothing_points_back(eap: Circuit, theme: str) -> None:
    figure = circuit_graph(eap, edges=20, theme=theme)  # type: ignore[arg-type]
    lines = [t for t in figure.data if t.mode == "lines" and t.text]
    size = {str(t.text): t.line.width for t in lines}
    assert len(lines) == shown_graph(eap, 20).number_of_edges()
    assert all(t.x[0] <= t.x[-1] for t in lines)
    assert max(size.values()) == pytest.approx(9.0)
    assert {t.line.dash for t in lines} <= {"solid", "dot"}


def test_names_in_a_circuit_cannot_be_markup(eap: Circuit) -> None:
    nodes = tuple(n.model_copy(update={"id": "<img src=x>"} if n.id == "M0" else {}) for n in eap.nodes)
    sources = tuple("<img src=x>" if s == "M0" else s for s in eap.edges.source)
    hostile = eap.model_copy(
        update={"nodes": nodes, "edges": eap.edges.model_copy(update={"source": sources})}
    )
    assert "<img" not in circuit_graph(hostile, edges=300).to_json().replace("\\u003c", "<")


def test_a_report_of_a_run_with_circuits_draws_them(runs: Path, circuit_run: str) -> None:
    page = write_report(runs / circuit_run).read_text()
    assert 'id="circuit-random"' in page
    found = open_circuits(runs / circuit_run, "random")
    figure = faithfulness_curves(found.curves)
    assert [t.name for t in figure.data] == [c.method for c in found.curves]
    first = found.curves[0]
    assert list(figure.data[0].y) == [f for f, n in zip(first.f, first.count, strict=True) if n]
