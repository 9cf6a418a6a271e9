"""What predicts an ablation: agreement by hand, intervals that cover, and the whole way on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from headscope.app.cli import app
from headscope.heads import (
    Ablations,
    AblationsMeta,
    ColumnInfo,
    HeadMap,
    MapMeta,
    Preset,
    Removal,
    ablate_each,
    scan,
    truth_table,
)
from headscope.heads.presets import Portion
from headscope.heads.truth import agreement
from headscope.probes import Geometry, HeadscopeError, Model, Refused, UnknownName, load

LAYERS, HEADS = 10, 8
N = LAYERS * HEADS
PRESET = Preset(
    name="tiny", about="", context=64, sample=16,
    portions=(Portion(task="backcopy", fractions=(1.0,), per_length=2),),
)  # fmt: skip


def made_up(noise: float = 0.5, prompts: int = 8, seed: int = 0) -> tuple[HeadMap, Ablations]:
    """Effects of 80 heads, a score that follows them, one against them, one of chance, one with gaps."""
    rng = np.random.default_rng(seed)
    true = rng.exponential(size=N)
    layer, head = (a.reshape(-1) for a in np.indices((LAYERS, HEADS)))
    frame = pd.DataFrame({"layer": layer, "head": head, "kv_head": head})
    frame["good"], frame["against"], frame["chance"] = true + noise * rng.normal(size=N), -true, rng.random(N)
    frame["gaps"] = np.where(rng.random(N) < 0.3, np.nan, true)
    frame["constant"] = 1.0
    g = Geometry(
        layers=LAYERS, heads=HEADS, kv_heads=HEADS, head_dim=4, value_dim=4, hidden=32, vocabulary=9,
        context=64, windows=(None,) * LAYERS,
    )  # fmt: skip
    columns = {c: ColumnInfo(about="") for c in ("good", "against", "chance", "gaps", "constant")}
    rows = [
        pd.DataFrame({
            "layer": layer, "head": head, "kind": kind, "prompt": i,
            "effect": true + 0.2 * rng.normal(size=N),
        })
        for kind in ("answer", "text")
        for i in range(prompts)
    ]  # fmt: skip
    meta = AblationsMeta(model="m", fingerprint="", removal=Removal())
    # In any order: `of` puts heads and prompts in theirs.
    table = pd.concat(rows).sample(frac=1, random_state=0)
    return HeadMap(frame, MapMeta(model="m", geometry=g, columns=columns)), Ablations(table, meta)


def test_agreement_by_hand() -> None:
    effect = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert agreement(effect, effect, 2, low=False) == (pytest.approx(1), 1, 1)
    assert agreement(-effect, effect, 2, low=True) == (pytest.approx(-1), 1, 1)
    score = np.array([1.0, 9.0, 8.0, 0.0, 0.0, 0.0])
    rho, overlap, auc = agreement(score, effect, 2, low=False)
    assert rho == pytest.approx(stats.spearmanr(score, effect).statistic)
    assert overlap == 0.5 and auc == (3 + 4) / 8
    # Heads that the score cannot tell apart are no hits.
    assert agreement(np.array([1.0, 1, 1, 0, 0, 0]), effect, 2, low=False)[1] == 0.5


@given(seed=st.integers(0, 10**6), n=st.integers(4, 40), ties=st.booleans())
def test_the_area_is_the_chance_of_the_right_order(seed: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    score, effect = rng.random(n), rng.random(n)
    score = np.round(score, 1) if ties else score
    score[0] += 2
    k = int(rng.integers(1, n))
    top = np.argsort(-effect, kind="stable")[:k]
    rest = np.setdiff1d(np.arange(n), top)
    pairs = score[top][:, None] - score[rest]
    wanted = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    rho, overlap, auc = agreement(score, effect, k, low=False)
    assert auc == pytest.approx(wanted) and 0 <= overlap <= 1 and -1 <= rho <= 1


def test_scores_are_ranked_by_what_they_predict() -> None:
    headmap, found = made_up()
    table = truth_table(headmap, found, draws=200)
    rows = table.against[table.against["effect"] == "effect_answer"].set_index("score")
    assert set(rows.index) == {"good", "against", "chance", "gaps"} and table.k == 8
    assert list(rows.index)[-1] == "chance"
    assert rows.loc["against", "low"] and rows.loc["against", "spearman"] < -0.9
    assert rows.loc["against", "overlap"] > 0.7 and rows.loc["against", "auc"] > 0.9
    assert rows.loc["gaps", "heads"] == headmap.frame["gaps"].notna().sum()
    for name in ("spearman", "overlap", "auc"):
        assert (rows[f"{name}_low"] <= rows[name]).all() and (rows[name] <= rows[f"{name}_high"]).all()
    assert rows.loc["chance", "auc_low"] < 0.5 < rows.loc["chance", "auc_high"]
    effect = found.of("answer").mean(1)
    assert rows.loc["good", "spearman"] == pytest.approx(
        stats.spearmanr(headmap.frame["good"], effect).statistic
    )
    assert table.ceiling["spearman"].min() > 0.9
    pair = table.between.set_index(["a", "b"]).loc[("good", "against")]
    assert pair["spearman"] == pytest.approx(
        stats.spearmanr(headmap.frame["good"], headmap.frame["against"]).statistic
    )
    assert pair["spearman_low"] <= pair["spearman"] <= pair["spearman_high"]
    again = truth_table(headmap, found, draws=200)
    assert again.against.equals(table.against) and again.between.equals(table.between)


def test_intervals_cover_other_prompts_and_heads() -> None:
    point = []
    for seed in range(8):
        headmap, found = made_up(noise=1.0, seed=seed)
        row = truth_table(headmap, found, scores=["good"], draws=100, seed=seed).against.iloc[0]
        point.append((row["spearman"], row["spearman_low"], row["spearman_high"]))
    truth = np.mean([p for p, _, _ in point])
    held = sum(low <= truth <= high for _, low, high in point)
    assert held >= 6


def test_maps_beside_and_what_is_refused() -> None:
    headmap, found = made_up()
    gates = HeadMap(
        headmap.frame[["layer", "head", "kv_head"]].assign(gate=headmap.frame["good"]).iloc[::-1],
        headmap.meta.model_copy(update={"columns": {"gate": ColumnInfo(about="")}}),
    )
    table = truth_table(headmap, found, beside=[gates], draws=100)
    rows = table.against.set_index(["effect", "score"])
    same = ["spearman", "overlap", "auc"]
    assert rows.loc[("effect_text", "gate"), same].equals(rows.loc[("effect_text", "good"), same])
    with pytest.raises(UnknownName, match="good"):
        truth_table(headmap, found, scores=["goood"])
    with pytest.raises(HeadscopeError, match="share is 0"):
        truth_table(headmap, found, share=0.001)
    g = headmap.meta.geometry.model_copy(update={"layers": 20})
    other = HeadMap(gates.frame, gates.meta.model_copy(update={"geometry": g}))
    with pytest.raises(HeadscopeError, match="another shape"):
        truth_table(headmap, found, beside=[other])


@pytest.fixture(scope="module")
def toy() -> Model:
    return load("bigram-backcopy@800")


def test_ablations_are_resumed_and_written_into_the_map(
    toy: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    scan(toy, PRESET, run)
    monkeypatch.setattr("headscope.heads.ablating.answered", _asked)
    removal = Removal(prompts=2, texts=2, text_length=32, estimates=2)
    steps: list[tuple[int, int]] = []
    first = ablate_each(toy, run, removal, progress=lambda *at: steps.append(at))
    assert steps == [(i, 8) for i in range(1, 9)] and len(list((run / "ablations").iterdir())) == 8
    headmap = HeadMap.open(run)
    assert headmap.frame.loc[0, "effect_text"] == first.of("text").mean() != 0
    assert headmap.frame.loc[0, "estimate_text"] == first.of("text_estimate").mean()
    assert headmap.meta.columns["effect_answer"].prompts == 2
    monkeypatch.setitem(_measures(), "text", _never)
    assert ablate_each(toy, run, removal).table.equals(first.table)
    kept = Ablations.known(run, removal)
    assert kept is not None and kept.table.equals(first.table)
    assert Ablations.known(run, Removal()) is None and Ablations.known(run, removal, "other text") is None
    with pytest.raises(Refused, match="has other weights"):
        ablate_each(load("bigram-backcopy@50"), run, removal)


def _measures() -> dict[str, object]:
    from headscope.heads import ablating

    return ablating._MEASURES  # type: ignore[return-value]


def _never(*_: object) -> None:
    raise AssertionError("measured again")


def _asked(
    model: Model, trial: object, length: int, count: int, haystack: str | None
) -> tuple[list[object], int]:
    """Texts whose last tokens count as an answer: the toy cannot be asked for needles."""
    from headscope.probes import TASKS, Prompt

    made = TASKS["backcopy"].prompts(
        model.tokenizer,
        lengths=[40],
        per_length=count,
        seed=trial.seed,
        haystack=haystack,  # type: ignore[attr-defined]
    )
    return [Prompt("asked", p.ids, answer=(36, 40)) for p in made], count


def test_the_command_prints_writes_and_measures_once(tmp_path: Path) -> None:
    headmap, found = made_up()
    run = tmp_path / "run"
    run.mkdir()
    from headscope.heads.ablations import FILE, annotated
    from headscope.heads.storage import write_table

    estimates = [found.table.assign(kind=found.table["kind"] + "_estimate")]
    whole = Ablations(pd.concat([found.table, *estimates]), found.meta)
    annotated(headmap, whole).save(run / "headmap.parquet")
    write_table(run / FILE, whole.table, whole.meta)

    def said(*more: str) -> str:
        done = CliRunner().invoke(app, ["truth", str(run), "--draws", "100", *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    text = said("--out", str(tmp_path / "truth.md"))
    assert "What predicts the fall of an answer's log-probability" in text
    assert " finds the heads behind" in text
    page = (tmp_path / "truth.md").read_text()
    assert "| `−against` | 80 | −" in page and "## Scores against one another" in page
    content = json.loads(said("--json", "--score", "good", "--score", "chance"))
    assert {r["score"] for r in content["against"]} == {"good", "chance"} and content["k"] == 8
    done = CliRunner().invoke(app, ["truth", str(run), "--score", "goood"])
    assert done.exit_code == 2 and "good" in done.output
