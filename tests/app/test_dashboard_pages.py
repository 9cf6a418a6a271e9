"""What the pages beyond map and head say: sinks, comparisons, policies, interventions, circuits, imports."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pages import text
from streamlit.testing.v1 import AppTest

from headscope.app import comparefigures, headfigures, policyfigures
from headscope.app.beforeafter import before_after
from headscope.app.dashboard import imports, live
from headscope.app.dashboard.exports import packed
from headscope.app.headview import neighbour, scores_of, verdicts
from headscope.app.policyview import facts, kept, votes
from headscope.heads import HeadMap, Policy, by_depth
from headscope.probes import BadFile, HeadscopeError, Model, fit

Open = Callable[..., AppTest]


def test_sinks_shows_layers_tokens_and_sleepers(page: Open) -> None:
    shown = text(page("sinks", run="tiny"))
    for words in ("Sink mass", "New measure", "carried by", "&#39;&lt;b&gt;&#39;", "Asleep or awake"):
        assert words in shown, words


def test_compare_counts_what_the_comparison_found(page: Open, runs: Path) -> None:
    shown = text(page("compare", run="tiny", **{"with": "other"}))
    a, b = HeadMap.open(runs / "tiny"), HeadMap.open(runs / "other")
    found = a.compare(b)
    assert f"{len(found.labels)} labels differ" in shown
    first = found.scores.iloc[0]
    assert f'title="{float(first["spearman"])!r}"' in shown


def test_maps_of_other_shapes_are_aligned_by_depth(page: Open, runs: Path) -> None:
    _gates(6, 2).save(runs / "gates.parquet")
    _gates(3, 2).save(runs / "short.parquet")
    shown = text(page("compare", run="gates.parquet", **{"with": "short.parquet"}))
    assert "aligned by depth" in shown and "Heads that changed role" not in shown
    assert "share no score" in text(page("compare", run="tiny", **{"with": "short.parquet"}))


def _gates(layers: int, heads: int) -> HeadMap:
    from headscope.heads.formats.duo_attention import GATE
    from headscope.heads.imported import Content, Known, Score, to_headmap

    geometry = Known(layers=layers, heads=heads).geometry(Path("gates"))
    gates = np.linspace(0, 1, layers * heads).reshape(layers, heads)
    return to_headmap(Content("gated", geometry, {"gate": Score(gates, GATE)}), "duo-attention")


def test_a_map_without_roles_has_every_page(page: Open, runs: Path) -> None:
    _gates(6, 2).save(runs / "gates.parquet")
    for name in ("atlas", "head", "sinks", "policy", "interventions", "circuits"):
        assert "hs-error" not in text(page(name, run="gates.parquet")), name
    assert "trained gate between streaming" in text(page("atlas", run="gates.parquet"))


def test_the_slider_decides_the_policy(page: Open, runs: Path) -> None:
    shown = text(page("policy", run="tiny", by="retrieval", ratio="0.5"))
    fewer = text(page("policy", run="tiny", by="retrieval", ratio="0.5", sink="4", recent="99"))
    assert "--ratio 0.5 --by retrieval --sink 4 --recent 99 --out" in fewer
    assert "--ratio 0.5 --by retrieval --out" in shown
    assert "6 of 12" in shown and "headscope verify" in shown and "headscope sweep" in shown
    assert "policy = headscope.heads.Policy.open('headscope.json')" in shown
    assert "12 of 12" in text(page("policy", run="tiny", by="retrieval", ratio="7"))
    assert "Did you mean &#39;retrieval&#39;" in text(page("policy", run="tiny", by="retreival"))


def test_a_downloaded_policy_is_the_same_policy(runs: Path, tmp_path: Path) -> None:
    policy = HeadMap.open(runs / "tiny").policy(ratio=0.25, by="retrieval")
    made, data, suffix, _ = packed(policy, "headscope")
    (tmp_path / "again.json").write_bytes(data)
    assert suffix == ".json" and Policy.open(tmp_path / "again.json") == policy
    assert not made.losses


def test_a_policy_in_the_run_is_shown_with_its_certificate(page: Open, runs: Path) -> None:
    policy = HeadMap.open(runs / "tiny").policy(ratio=0.25, by="retrieval")
    measured = {"value": 0.9, "low": 0.8, "high": 0.95, "count": 40}
    certificate = {
        "made": "2026-01-01T00:00:00+00:00", "device": "cpu", "dtype": "float32", "versions": {}, "seed": 0,
        "tasks": [{"task": "needle"} | dict.fromkeys(("full", "policy", "kept", "difference"), measured)],
    }  # fmt: skip
    Policy.model_validate(policy.model_dump() | {"certificate": certificate}).save(
        runs / "tiny" / "policy.json"
    )
    (runs / "tiny" / "other.json").write_text(json.dumps({"format": "headscope-policy"}))
    shown = text(page("policy", run="tiny", policy="policy.json"))
    assert "needle, answered right" in shown and "0.900 (0.800 to 0.950)" in shown


def test_policy_figures_agree_with_the_policy(runs: Path) -> None:
    headmap = HeadMap.open(runs / "tiny")
    two = {by: headmap.policy(ratio=0.25, by=by) for by in ("retrieval", "sink")}
    z = np.asarray(policyfigures.policy_map(two["sink"]).data[0].z)  # heads x layers
    assert (2 * kept(two["sink"]) == z[::2].T).all()
    assert votes(two).sum() == sum(kept(p).sum() for p in two.values())
    assert facts(two["sink"], headmap, 4096)[0].value == "3 of 12"


def test_interventions_and_circuits_say_what_they_have(page: Open) -> None:
    shown = text(page("interventions", run="tiny"))
    assert "remove what heads add" in shown and "not known which model" in shown
    assert "holds no circuit graph" in text(page("circuits", run="tiny"))


def test_circuits_of_a_run_are_shown(page: Open, runs: Path, circuit_run: str) -> None:
    made = page("circuits", run=circuit_run)
    shown = text(made)
    assert "hs-error" not in shown
    assert "Faithfulness of so many heads" in shown and "largest of 304 edges by eap" in shown
    assert "The 5 largest" in text(page("circuits", run=circuit_run, edges="5"))
    only = text(page("circuits", run=circuit_run, method="attribution"))
    assert "it scores no edges" in only


@pytest.mark.parametrize("layer_head_step", [(0, 0, -1), (5, 3, 1), (0, 0, -4)])
def test_neighbours_stay_in_the_model(headmap: HeadMap, layer_head_step: tuple[int, int, int]) -> None:
    layer, head = neighbour(headmap, *layer_head_step)
    assert 0 <= layer < 6 and 0 <= head < 4


def test_verdicts_and_ranks_follow_the_columns(headmap: HeadMap) -> None:
    found = {v.role: v for v in verdicts(headmap, 2, 1)}
    assert found["retrieval"].has and found["retrieval"].conditions[0].holds
    assert not found["nobody"].has
    scores = {s.name: s for s in scores_of(headmap, 2, 1)}
    assert (scores["retrieval"].rank, scores["retrieval"].of) == (1, 24)
    assert scores_of(headmap, 0, 0)[3].rank == 0  # made_up is undefined there
    figure = headfigures.standing(headmap, list(scores.values()))
    assert [line.at / 100 for line in figure.lines] == pytest.approx([s.value for s in scores.values()])
    middle = headmap.frame["sink"].quantile([0.25, 0.75])
    assert figure.lines[1].spread[1] == pytest.approx(tuple(100 * middle))
    assert figure.lines[0].error == pytest.approx(
        tuple(min(100, 100 * (scores["retrieval"].value + d * scores["retrieval"].error)) for d in (-2, 2))
    )


def test_bars_by_kind_of_text_begin_at_zero(headmap: HeadMap) -> None:
    row = headmap.frame.query("layer == 2 and head == 1").iloc[0]
    bars = headfigures.kind_bars(headmap, 2, 1, "sink_mass_")
    assert {line.name: line.at / 100 for line in bars.lines} == pytest.approx(
        {k: row[f"sink_mass_{k}"] for k in ("prose", "code")}
    )
    assert bars.zero == 0 and [word for _, word in bars.ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    for name in ("sink_mass_prose", "sink_mass_code"):  # a score of no fixed range
        headmap.meta.columns[name] = headmap.meta.columns[name].model_copy(update={"high": None})
    highest = max(row[f"sink_mass_{k}"] + 2 * row[f"sink_mass_{k}_se"] for k in ("prose", "code"))
    bars = headfigures.kind_bars(headmap, 2, 1, "sink_mass_")
    assert bars.lines[0].at == pytest.approx(100 * row["sink_mass_prose"] / highest)
    assert all(at == pytest.approx(100 * float(word) / highest) for at, word in bars.ticks)
    headmap.frame["sink_mass_code"] = -0.5
    bars = headfigures.kind_bars(headmap, 2, 1, "sink_mass_")
    assert bars.lines[1].at == 0 and 0 < bars.zero < 100 and bars.lines[0].at > bars.zero
    headmap.frame["sink_mass_code"] = np.nan
    assert [line.name for line in headfigures.kind_bars(headmap, 2, 1, "sink_mass_").lines] == ["prose"]


def test_depth_profiles_are_the_layers_means(headmap: HeadMap) -> None:
    table = by_depth(headmap, "sink")
    assert table["depth"].tolist() == [i / 5 for i in range(6)]
    assert np.allclose(table["mean"], headmap.frame.groupby("layer")["sink"].mean())
    figure = comparefigures.profiles({"a": table, "<b>": table}, "sink")
    assert "&lt;b&gt;" in figure.data[2].name
    assert len(comparefigures.against(headmap, headmap, "sink").data[1].x) == 24


def _upload(name: str, content: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, getvalue=lambda: content.encode())


def test_a_published_map_is_taken_in(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports.store, "root", lambda: runs)
    scores = _upload(
        "../llama.json", json.dumps({"0-0": [0.1, 0.3], "0-1": [0.5], "1-0": [0.0], "1-1": [1.0]})
    )
    made = imports.take_in([scores], "retrieval-heads", "", imports._UNKNOWN, "")
    assert made == "llama-retrieval-heads.parquet"
    assert HeadMap.open(runs / made).grid(next(iter(HeadMap.open(runs / made).meta.columns))).shape == (2, 2)
    with pytest.raises(HeadscopeError, match="is taken"):
        imports.take_in([scores], "retrieval-heads", "", imports._UNKNOWN, "")
    with pytest.raises(HeadscopeError, match="Choose the files"):
        imports.take_in([], "retrieval-heads", "", imports._UNKNOWN, "")
    with pytest.raises(BadFile):
        imports.take_in([_upload("x.json", "{")], "retrieval-heads", "", imports._UNKNOWN, "x")


@pytest.mark.model
def test_a_typed_text_is_read_as_eager_attention_reads_it(smollm2: Model) -> None:
    text = "The capital of France is Paris. The capital of Italy is Rome. The capital of France is"
    reading = live.read(smollm2, text, layer=18)
    rows = reading.rows(18, 6, 0, 1000)
    assert len(rows) == len(reading.tokens) == smollm2.encode(text).shape[1] and set(reading.keys) == set(
        range(30)
    )
    usual = smollm2.hf.config._attn_implementation
    smollm2.hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            full = smollm2.hf(smollm2.encode(text), output_attentions=True).attentions[18][0, 6]
    finally:
        smollm2.hf.set_attn_implementation(usual)
    for row, keys in rows.items():
        best = full[row].topk(min(8, row + 1))
        assert [m for _, m in keys[: row + 1]] == pytest.approx(best.values.tolist(), abs=1e-4)
    with pytest.raises(HeadscopeError, match="built for"):
        live.read(smollm2, "word " * 9000, layer=0)


@pytest.mark.model
def test_before_and_after_agree_where_nothing_is_changed(smollm2: Model) -> None:
    text = "The code is 7431. Remember it. The code is"
    same = before_after(smollm2, fit(smollm2, "zero", heads=["L18H6"], strength=1.0), text, length=4)
    assert same.before == same.after and same.kl == pytest.approx(0, abs=1e-5)
    assert all(t.before == pytest.approx(t.after, abs=1e-5) for t in same.tokens)
    heads = [f"L{layer}H{head}" for layer in (17, 18, 20, 23) for head in range(9)]
    changed = before_after(smollm2, fit(smollm2, "zero", heads=heads), text, length=4)
    assert changed.kl > 0.1 and changed.before == same.before
