"""Causal tests: sound controls, honest intervals, and what the default model shows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads import HeadMap, Preset, Proof, Trial, prove, random_heads, scan
from headscope.heads.intervals import mean, share, standard_error
from headscope.heads.presets import Portion
from headscope.heads.proof import HeadSet, Outcome, curves
from headscope.heads.prove import head_sets
from headscope.probes import HeadId, HeadscopeError, Model, Refused, UnknownName

PRESET = Preset(
    name="tiny", about="", context=256, sample=16,
    portions=(Portion(task="needle", fractions=(1.0,), per_length=3),),
)  # fmt: skip
TRIAL = Trial(
    roles=("retrieval",), ks=(1, 8), length=160, prompts=2, draws=2, head_length=160, head_prompts=1
)
heads = st.lists(st.builds(HeadId, st.integers(0, 3), st.integers(0, 7)), max_size=20, unique=True)


@given(chosen=heads, avoid=heads, seed=st.integers(0, 9))
def test_a_control_has_the_same_layers_and_none_of_the_heads(
    chosen: list[HeadId], avoid: list[HeadId], seed: int
) -> None:
    drawn = random_heads(chosen, 8, avoid, np.random.default_rng(seed))
    per_layer = {layer: [h for h in chosen if h.layer == layer] for layer in range(4)}
    if drawn is None:
        assert any(len(part) > 4 for part in per_layer.values())
        return
    assert not set(drawn) & set(chosen) and len(set(drawn)) == len(chosen)
    for layer, part in per_layer.items():
        mine = [h for h in drawn if h.layer == layer]
        free = 8 - len({h for h in [*part, *avoid] if h.layer == layer})
        assert len(mine) == len(part)
        assert sum(h in avoid for h in mine) == max(0, len(part) - free)


def test_intervals() -> None:
    assert share([True] * 10) == pytest.approx((0.6915, 1.0), abs=1e-4)  # 0.025 ** (1 / 10)
    assert share([False] * 4)[0] == 0
    low, high = mean(np.arange(100) / 99, seed=0)
    assert (low, high) == pytest.approx((0.5 - 0.0571, 0.5 + 0.0571), abs=0.01)  # 1.96 sd / 10
    assert np.isnan(mean([1.0, 1.0, 1.0], seed=0)).all()
    assert standard_error([1.0, 3.0]) == pytest.approx(1.0) and np.isnan(standard_error([1.0]))


def test_curves_pair_a_set_with_its_controls() -> None:
    wrong = np.array([True, True, False, True])
    first, second = np.array([True, False, False, False]), np.zeros(4, bool)
    zero = np.zeros(4)
    sets = [
        HeadSet("r", 2, None, (HeadId(0, 0), HeadId(1, 1)), 2),
        HeadSet("r", 2, 0, (HeadId(0, 1), HeadId(1, 0)), 0),
        HeadSet("r", 2, 1, (HeadId(0, 2), HeadId(1, 2)), 1),
        HeadSet("r", 9, None, (HeadId(0, 0),), 1),
    ]
    outcomes = [Outcome(w, zero + w, zero) for w in (wrong, first, second, wrong)]
    found = curves(sets, outcomes, seed=0).set_index("k")
    row = found.loc[2]
    assert (row["drop"], row["control_drop"], row["control_worst"]) == (0.75, 0.125, 0.25)
    assert row["difference"] == 0.625 and row["control_labelled"] == 0.25
    assert row["drop_low"] == pytest.approx(0.1941, abs=1e-4)  # exact binomial, 3 of 4
    assert row["logprob_drop"] == 0.75 and row["control_logprob_drop"] == 0.125
    assert np.isnan(found.loc[9, "control_drop"]) and found.loc[9, "draws"] == 0


@pytest.fixture(scope="module")
def run(smollm2: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    scan(smollm2, PRESET, folder)
    return folder


@pytest.mark.model
def test_retrieval_heads_are_causes(smollm2: Model, run: Path, tmp_path: Path) -> None:
    """Eight retrieval heads carry the answer, eight others of the same layers do not."""
    folder = shutil.copytree(run, tmp_path / "copy")
    before, steps = HeadMap.open(folder), []
    proof = prove(smollm2, folder, TRIAL, progress=lambda done, total: steps.append((done, total)))
    row = proof.curves.set_index("k").loc[8]
    assert row["drop"] == 1.0 and row["control_drop"] == 0.0
    assert row["logprob_drop"] > 2 > abs(row["control_logprob_drop"])
    assert abs(row["loss_rise"]) < 0.3
    assert steps == [(1, 3), (2, 3), (3, 3)]

    after = HeadMap.open(folder)
    pd.testing.assert_frame_equal(after.frame[before.frame.columns], before.frame)
    assert set(after.frame) - set(before.frame) == {"causal", "causal_se"}
    assert after.meta.columns["causal"].tasks == ("needle",)
    best = after.top("causal", 5).merge(before.top("retrieval", 20), on=["layer", "head"])
    assert len(best) >= 2  # the two rankings, one of attention and one of effect, agree at the top
    scan(smollm2, PRESET, folder)  # finished again from its parts
    pd.testing.assert_frame_equal(HeadMap.open(folder).frame[after.frame.columns], after.frame)
    assert HeadMap.open(folder).meta == after.meta
    again = Proof.open(folder)
    pd.testing.assert_frame_equal(again.curves, proof.curves)
    assert again.meta == proof.meta


@pytest.mark.model
def test_wrong_runs_are_refused(smollm2: Model, run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "copy")
    headmap = HeadMap.open(folder)
    with pytest.raises(UnknownName, match=r"no role 'retrival'\. Did you mean 'retrieval'"):
        head_sets(headmap, Trial(roles=("retrival",)))
    unlabelled = HeadMap(headmap.frame, headmap.meta.model_copy(update={"rules": ()}))
    with pytest.raises(HeadscopeError, match="there is no role to test"):
        head_sets(unlabelled, Trial())
    HeadMap(headmap.frame, headmap.meta.model_copy(update={"fingerprint": "0" * 16})).save(
        folder / "headmap.parquet"
    )
    with pytest.raises(Refused, match="has other weights"):
        prove(smollm2, folder, TRIAL)
    assert not (folder / "causal.parquet").exists()
