"""The policy: which KV groups keep everything, under which limit, and what the file refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads import ColumnInfo, HeadMap, MapMeta, Policy, rank
from headscope.probes import BadFile, Geometry, HeadscopeError, UnknownName

LAYERS, HEADS, KV = 4, 6, 2


def planted(windows: tuple[int | None, ...] = (None,) * LAYERS, **columns: np.ndarray) -> HeadMap:
    """A map whose columns are given as [L, H] arrays."""
    layer, head = (axis.reshape(-1) for axis in np.indices((LAYERS, HEADS)))
    frame = pd.DataFrame({"layer": layer, "head": head, "kv_head": head // (HEADS // KV)})
    for name, values in columns.items():
        frame[name] = np.asarray(values, float).reshape(-1)
    geometry = Geometry(
        layers=LAYERS, heads=HEADS, kv_heads=KV, head_dim=8, value_dim=8, hidden=48, vocabulary=100,
        context=2048, windows=windows,
    )  # fmt: skip
    about = {name: ColumnInfo(about=name) for name in columns}
    return HeadMap(frame, MapMeta(model="planted", geometry=geometry, context=2048, columns=about))


def by_groups(scores: list[list[float]]) -> np.ndarray:
    """[L, Hkv] scores on every head of the group."""
    return np.repeat(np.asarray(scores), HEADS // KV, axis=1)


STEPS = [[8.0, 1.0], [7.0, 2.0], [6.0, 3.0], [5.0, 4.0]]


def errors(scores: list[list[float]] = STEPS, alone: float = 0.0) -> HeadMap:
    return planted(group_cut_error=by_groups(scores), cut_error=np.full((LAYERS, HEADS), alone))


def full(policy: Policy) -> set[tuple[int, int]]:
    return {(i, g) for i, row in enumerate(policy.retain) for g, span in enumerate(row) if span is None}


@pytest.mark.parametrize(
    ("limit", "kept"),
    [
        ({"ratio": 0.0}, set()),
        ({"ratio": 0.25}, {(0, 0), (1, 0)}),
        ({"ratio": 0.19}, {(0, 0), (1, 0)}),  # 1.52 groups, rounded
        ({"ratio": 1.0}, {(i, g) for i in range(LAYERS) for g in range(KV)}),
        ({"max_error": 6.0}, {(0, 0), (1, 0)}),
        ({"max_error": 100.0}, set()),
        ({"kv_budget": 0.25 + 0.75 * 320 / 2048}, {(0, 0), (1, 0)}),
    ],
    ids=str,
)
def test_the_highest_errors_stay_full_under_each_limit(limit: dict, kept: set) -> None:
    assert full(errors().policy(**limit)) == kept


@given(budget=st.floats(0.16, 1.0), context=st.integers(330, 100_000))
def test_a_budget_is_used_up_but_never_exceeded(budget: float, context: int) -> None:
    least = 320 / context
    if least > budget:
        with pytest.raises(HeadscopeError, match="sink \\+ recent"):
            errors().policy(kv_budget=budget, context=context)
        return
    policy = errors().policy(kv_budget=budget, context=context)
    one_more = (1 - least) / (LAYERS * KV)
    assert policy.kv_share(context) <= budget + 1e-9
    assert policy.full_share == 1 or policy.kv_share(context) + one_more > budget


def test_the_worst_head_guards_a_sum_that_cancels() -> None:
    alone = np.zeros((LAYERS, HEADS))
    alone[3, 4] = 9.0  # in group (3, 1), whose summed error is small
    headmap = planted(group_cut_error=by_groups(STEPS), cut_error=alone)
    assert full(headmap.policy(ratio=0.125)) == {(3, 1)}


def test_ties_fall_by_layer_and_head_and_unknown_groups_stay_full() -> None:
    level = errors([[1.0, 1.0]] * LAYERS).policy(ratio=0.375)
    assert full(level) == {(0, 0), (0, 1), (1, 0)}
    gap = [[1.0, np.nan], *STEPS[1:]]
    holes = planted(group_cut_error=by_groups(gap))
    assert (0, 1) in full(holes.policy(max_error=100.0))
    assert holes.policy(ratio=0.125).scores[0][1] is None


def test_layers_with_a_window_of_their_own_are_left_alone() -> None:
    headmap = planted((128, None, None, 1024), group_cut_error=by_groups([[0.0, 0.0]] * LAYERS))
    policy = headmap.policy(ratio=0.0)
    assert full(policy) == {(0, 0), (0, 1), (3, 0), (3, 1)}
    assert policy.kv_share(2048) == pytest.approx((128 + 1024 + 2 * 320) / (128 + 1024 + 2 * 2048))


def test_heads_of_a_full_group_stream_under_the_same_threshold() -> None:
    alone = np.zeros((LAYERS, HEADS))
    alone[0, :3] = [8.0, 1.5, 3.0]
    alone[1, :3] = [0.1, 0.2, 0.1]
    headmap = planted(group_cut_error=by_groups(STEPS), cut_error=alone)
    policy = headmap.policy(ratio=0.75, compute="head")  # streaming groups reach 2.0
    assert full(policy) == {(i, g) for i in range(LAYERS) for g in range(KV)} - {(0, 1), (1, 1)}
    assert [span is None for span in policy.compute[0]] == [True, False, True, False, False, False]
    assert [span is None for span in policy.compute[1][:3]] == [False, True, False]
    assert policy.windows(0) == ([0, 64, 0, 64, 64, 64], [-1, 256, -1, 256, 256, 256])


def test_rankings_read_the_best_head_of_a_group() -> None:
    scores = np.zeros((LAYERS, HEADS))
    scores[2, 5] = 0.7
    headmap = planted(retrieval=scores, gate=scores[::-1], anything=scores)
    assert rank(headmap, "retrieval")[2].tolist() == [0.0, 0.7]
    assert rank(headmap, "gate")[1].tolist() == [0.0, 0.7]
    assert rank(headmap, "anything")[2].tolist() == [0.0, 0.7]
    assert np.array_equal(rank(headmap, "random", seed=3), rank(headmap, "random", seed=3))
    assert not np.array_equal(rank(headmap, "random", seed=3), rank(headmap, "random", seed=4))


def test_razor_takes_both_lists_in_the_published_proportion() -> None:
    rng = np.random.default_rng(0)
    headmap = planted(induction=rng.random((LAYERS, HEADS)), echo=rng.random((LAYERS, HEADS)))
    scores, groups = rank(headmap, "razor"), LAYERS * KV
    induction, echo = rank(headmap, "induction"), rank(headmap, "echo")
    for m in (0.5, 1.0, 3.0, 5.0):
        for g in np.ndindex(LAYERS, KV):
            place = [(s >= s[g]).sum() / groups for s in (induction, echo)]
            assert (scores[g] >= -m) == (place[0] <= 0.14 * m or place[1] <= 0.01 * m)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({}, "Give exactly one of ratio, kv_budget and max_error, not none of them."),
        ({"ratio": 0.5, "max_error": 1.0}, "exactly one of ratio, kv_budget and max_error, not ratio, max_e"),
        ({"ratio": 1.5}, "ratio is 1.5; it is a share, 0 ... 1."),
        ({"ratio": float("nan")}, "ratio is nan; it is a share, 0 ... 1."),
        ({"kv_budget": -0.1}, "kv_budget is -0.1; it is a share, 0 ... 1."),
        ({"ratio": 0.5, "recent": 0}, "recent is 0; it counts keys, the query's own included: 1 or more."),
        ({"ratio": 0.5, "sink": -1}, "sink is -1; it counts keys, 0 or more."),
        ({"ratio": 0.5, "compute": "heads"}, "There is no compute level 'heads'. Did you mean 'head'?"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_limits_are_one_sentence(limits: dict, says: str) -> None:
    with pytest.raises(HeadscopeError) as error:
        errors().policy(**limits)
    assert says in str(error.value)


def test_an_unknown_ranking_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'razor'"):
        errors().policy(ratio=0.5, by="razer")


def test_a_saved_policy_comes_back_equal(tmp_path: Path) -> None:
    policy = errors().policy(ratio=0.3, compute="head")
    policy.save(tmp_path / "p.json")
    assert Policy.open(tmp_path / "p.json") == policy


def spoilt(policy: Policy, **changes: object) -> str:
    return json.dumps(json.loads(policy.model_dump_json()) | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"retain": [[None] * KV]}, "retain must have 4 layers of 2 entries"),
        ({"retain": [[None, {"sink": 4, "recent": 0}]] * LAYERS}, "greater than or equal to 1"),
        ({"retain": [[None, {"sink": 4, "recent": 9}]] * LAYERS}, "must keep what its heads read"),
        ({"scores": [[1.0, float("nan")]] * LAYERS}, "finite number"),
        ({"schema_version": 2}, "schema_version"),
        ({"format": "other"}, "format"),
        ({"more": 1}, "Extra inputs"),
    ],
    ids=lambda x: str(x)[:40],
)
def test_a_damaged_policy_is_refused(tmp_path: Path, changes: dict, says: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(spoilt(errors().policy(ratio=0.5), **changes))
    with pytest.raises(BadFile, match=says):
        Policy.open(path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with path.open("wb") as stream:
        stream.truncate(100 << 20)
    with pytest.raises(BadFile, match="no policy is that large"):
        Policy.open(path)


def test_an_imported_policy_may_know_its_model_only_in_part() -> None:
    known = errors().policy(ratio=0.25)
    part = known.geometry.model_copy(update={"head_dim": 0, "value_dim": 0, "hidden": 0})
    policy = known.model_copy(update={"geometry": part, "fingerprint": ""})
    assert policy.kv_share(2048) == known.kv_share(2048)
    with pytest.raises(HeadscopeError, match="does not know the width of its heads"):
        policy.kv_bytes(2048)
    model = SimpleNamespace(name="planted", geometry=known.geometry, fingerprint="x")
    policy.check(model)
    own = known.geometry.model_copy(update={"windows": (None, None, None, 512)})
    with pytest.raises(HeadscopeError, match="cuts layer 3, which has a sliding window of its own"):
        policy.check(SimpleNamespace(name="planted", geometry=own, fingerprint="x"))
