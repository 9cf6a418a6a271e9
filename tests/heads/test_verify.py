"""Certificates and sweeps: what they count, checked against full attention and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headscope.heads import (
    Check,
    Grid,
    HeadMap,
    MapMeta,
    Policy,
    Sweep,
    Window,
    attribute,
    loss_column,
    sweep,
    verify,
)
from headscope.heads.quality import mean, paired, share
from headscope.heads.sweeps import SweepMeta
from headscope.probes import HeadscopeError, Model, Refused

LENGTH, WINDOW = 320, Window(sink=8, recent=40)


def bare_map(model: Model) -> HeadMap:
    """A map of the real model with one made-up score, so that policies can be chosen."""
    g = model.geometry
    layer, head = (axis.reshape(-1) for axis in np.indices((g.layers, g.heads)))
    frame = pd.DataFrame({"layer": layer, "head": head, "kv_head": head // g.group_size})
    frame["group_cut_error"] = np.linspace(0, 1, len(frame))
    return HeadMap(
        frame, MapMeta(model=model.name, fingerprint=model.fingerprint, geometry=g, context=LENGTH)
    )


def policy(model: Model, ratio: float) -> Policy:
    return bare_map(model).policy(ratio=ratio, sink=WINDOW.sink, recent=WINDOW.recent)


@pytest.mark.model
def test_a_certificate_of_full_attention_says_nothing_is_lost(smollm2: Model) -> None:
    check = Check(tasks=("needle",), lengths=(LENGTH,), per_length=5, texts=2, costs=(), seed=1)
    found = verify(smollm2, policy(smollm2, 1.0), check).certificate
    assert found is not None
    assert [(q.length, q.depth, q.full.count) for q in found.tasks] == [
        (None, None, 5), (LENGTH, None, 5),
        (LENGTH, 0.0, 1), (LENGTH, 0.25, 1), (LENGTH, 0.5, 1), (LENGTH, 0.75, 2),
    ]  # fmt: skip
    assert all(q.difference.value == 0 and q.full == q.policy for q in found.tasks)
    assert found.tasks[0].difference.low < 0 < found.tasks[0].difference.high
    assert abs(found.text[0].kl.value) < 1e-5
    assert found.text[0].difference.value == pytest.approx(0, abs=1e-5)


@pytest.mark.model
def test_a_certificate_of_streaming_everything_shows_the_loss(smollm2: Model) -> None:
    check = Check(
        tasks=("needle",), lengths=(LENGTH,), per_length=4, texts=1, costs=(128,), repeats=2, decode=2
    )
    made = verify(smollm2, policy(smollm2, 0.0), check)
    found = made.certificate
    assert found is not None
    assert found.tasks[0].full.value > found.tasks[0].policy.value
    assert found.tasks[0].kept is not None
    assert found.tasks[0].kept.count == round(found.tasks[0].full.value * 4)
    assert found.text[0].kl.value > 0.01
    cost = found.cost[0]
    assert cost.kv_bytes_policy == made.kv_bytes(128, itemsize=4)
    assert cost.kv_bytes_policy / cost.kv_bytes_full == pytest.approx(WINDOW.keys / 128)
    assert cost.prefill_full.count == 2
    assert cost.decode_policy.value > 0


@pytest.mark.model
def test_attribution_goes_into_the_run_and_policies_rank_by_it(smollm2: Model, tmp_path: Path) -> None:
    before = bare_map(smollm2)
    before.save(tmp_path / "headmap.parquet")
    made = attribute(smollm2, tmp_path, WINDOW, lengths=(LENGTH,), prompts=2, steps=1)
    column = loss_column(WINDOW)
    again = HeadMap.open(tmp_path)
    pd.testing.assert_frame_equal(again.frame, made.frame)
    pd.testing.assert_frame_equal(again.frame[before.frame.columns], before.frame)
    assert again.meta.columns[column].prompts == 2
    chosen = again.policy(ratio=0.1)
    assert chosen.origin.by == "loss"
    best = again.top(column, 1).iloc[0]
    assert chosen.retain[int(best["layer"])][int(best["head"]) // smollm2.geometry.group_size] is None
    assert WINDOW in {span for row in chosen.retain for span in row}
    with pytest.raises(HeadscopeError, match=r"streaming_loss_64_256.*headscope attribute"):
        again.policy(ratio=0.1, by="loss", sink=64, recent=256)


@pytest.mark.model
def test_a_sweep_asks_every_way_the_same_prompts(smollm2: Model, tmp_path: Path) -> None:
    grid = Grid(
        by=("error", "random"), budgets=(0.3, 1.0), draws=2, length=LENGTH, prompts=3, sink=8, recent=40
    )
    found = sweep(smollm2, bare_map(smollm2), grid)
    assert found.points[["by", "draw", "budget"]].values.tolist() == [
        ["error", 0, 0.3], ["error", 0, 1.0], ["random", 0, 0.3], ["random", 0, 1.0],
        ["random", 1, 0.3], ["random", 1, 1.0],
    ]  # fmt: skip
    whole = found.points[found.points["budget"] == 1.0]
    assert (whole["kept"] == 1).all()
    assert whole["logprob_drop"].abs().max() < 1e-3
    assert (found.points["kv_share"] <= found.points["budget"] + 1e-9).all()
    found.save(tmp_path)
    pd.testing.assert_frame_equal(Sweep.open(tmp_path).points, found.points)


@pytest.mark.model
def test_what_cannot_be_measured_is_one_sentence(smollm2: Model, tmp_path: Path) -> None:
    full = policy(smollm2, 1.0)
    with pytest.raises(HeadscopeError, match="A length of 9000 tokens is asked, but 'smollm2'"):
        verify(smollm2, full, Check(lengths=(9000,)))
    with pytest.raises(HeadscopeError, match="made for other weights"):
        verify(smollm2, full.model_copy(update={"fingerprint": "0" * 16}))
    other = bare_map(smollm2)
    other.meta = other.meta.model_copy(update={"fingerprint": "0" * 16})
    with pytest.raises(Refused, match="has other weights"):
        sweep(smollm2, other)
    other.save(tmp_path / "headmap.parquet")
    with pytest.raises(Refused, match="has other weights"):
        attribute(smollm2, tmp_path)
    bare_map(smollm2).save(tmp_path / "headmap.parquet")
    with pytest.raises(HeadscopeError, match="sink \\+ recent cover 512: nothing would be lost"):
        attribute(smollm2, tmp_path, lengths=(500,))


def curve(kept: list[float], by: str = "error") -> Sweep:
    shares = np.linspace(0.2, 1.0, len(kept))
    points = pd.DataFrame({
        "by": by, "draw": 0, "budget": shares, "kv_share": shares, "full_share": shares, "kept": kept,
        "accuracy": kept, "logprob_drop": 0.0,
    })  # fmt: skip
    meta = SweepMeta(
        model="m", fingerprint="", task="needle", length=100, asked=10, right=10, accuracy=1, logprob=0,
        sink=1, recent=1, seed=0,
    )  # fmt: skip
    return Sweep(points, meta)


@pytest.mark.parametrize(
    ("kept", "knee", "enough"),
    [
        ([0.0, 0.9, 0.96, 0.98, 1.0], 0.4, 0.6),
        ([0.0, 0.25, 0.5, 0.75, 1.0], None, 1.0),
        ([0.96, 0.9, 0.99, 0.99, 1.0], 0.6, 0.6),
        ([0.0, 0.0, 0.0, 0.0, 0.5], None, None),
        ([1.0, 1.0, 1.0, 1.0, 1.0], None, 0.2),
    ],
    ids=["bends", "straight", "dips", "never", "flat"],
)
def test_the_knee_and_the_smallest_share_that_is_enough(
    kept: list[float], knee: float | None, enough: float | None
) -> None:
    assert curve(kept).knee("error") == (None if knee is None else pytest.approx(knee))
    assert curve(kept).enough("error") == (None if enough is None else pytest.approx(enough))


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_intervals_hold_their_estimates(pairs: list[tuple[bool, bool]]) -> None:
    full, cut = (list(side) for side in zip(*pairs, strict=True))
    for found in (share(full), paired(full, cut), mean([float(x) for x in cut])):
        assert found.low - 1e-12 <= found.value <= found.high + 1e-12
        assert found.count == len(pairs)
    flipped = paired(cut, full)
    assert flipped.value == -paired(full, cut).value
    assert flipped.low == pytest.approx(-paired(full, cut).high)


def test_the_paired_interval_agrees_with_a_worked_example() -> None:
    """b = 4 lost, c = 1 won of 20: Agresti & Min's Wald interval after adding 1/2 to each."""
    full = [True] * 10 + [False] * 10
    cut = [True] * 6 + [False] * 4 + [True] + [False] * 9
    b, c, n = 4.5, 1.5, 22
    centre, spread = (c - b) / n, 1.96 * math.sqrt((b + c) - (c - b) ** 2 / n) / n
    found = paired(full, cut)
    assert found.value == pytest.approx(-3 / 20)
    assert (found.low, found.high) == pytest.approx((centre - spread, centre + spread))
