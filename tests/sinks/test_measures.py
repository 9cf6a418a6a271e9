"""Sink measures on observations written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headscope.probes import Observation, Prompt
from headscope.sinks import first_token_mass, hidden_sinks, kinds, layer_profile, sink_rate


def seen(kind: str = "prose", ids: tuple[int, ...] = tuple(range(20, 40)), **head: Any) -> Observation:
    """One layer of two heads; `head` overrides arrays."""
    arrays = {
        "prefix_first": np.array([[0.31, 0.29]]),
        "receiver_key": np.array([[[0, 7, 3], [2, 9, 5]]]),
        "receiver_mass": np.array([[[0.8, 0.2, 0.1], [0.5, 0.0, 0.3]]]),
        "value_norm_first": np.array([[0.1, 2.0]]),
        "value_norm_median": np.array([[1.0, 1.0]]),
    } | head
    layer = {
        "peak_token": np.array([[0, 7, 3]]), "peak_norm": np.array([[90.0, 3.0, 2.0]]),
        "peak_dim": np.array([[12, 5, 5]]), "median_norm": np.array([3.0]),
        "inf_norm": np.array([80.0]), "kurtosis": np.array([9.0]),
    }  # fmt: skip
    mean = {"first_1": np.array([[0.6, 0.2]])}
    var = {"first_1": np.array([[0.0, 0.04]])}
    return Observation(
        Prompt(kind, ids, meta={"kind": kind}), {}, np.arange(2), mean, var, arrays, layer,
        np.zeros(0, np.int64), np.zeros(0, np.float32),
    )  # fmt: skip


def test_sink_rate_counts_texts_above_epsilon() -> None:
    other = seen(prefix_first=np.array([[0.5, 0.9]]))
    assert sink_rate([seen(), other]).value.tolist() == [[1.0, 0.5]]
    assert sink_rate([seen(), other], epsilon=0.6).value.tolist() == [[0.0, 0.5]]


def test_first_token_mass_keeps_its_sampling_error() -> None:
    estimate = first_token_mass([seen(), seen()])
    assert estimate.value.tolist() == [[0.6, 0.2]]
    assert estimate.se[0].tolist() == pytest.approx([0.0, np.sqrt(0.08) / 2])


def test_hidden_sinks_are_past_the_first_four_keys() -> None:
    found = hidden_sinks([seen()])
    assert found.mass.value.tolist() == [[0.2, 0.3]]  # keys 7 and 5; keys 0, 2, 3 are not hidden
    assert found.position.tolist() == [[7, 5]]
    assert found.token.tolist() == [[27, 25]]


def test_kinds_leave_out_prompts_with_answers() -> None:
    asked = Observation(
        Prompt("needle", tuple(range(9)), {}, (5, 7), meta={"kind": "needle"}), {}, np.arange(2), {}, {},
        {}, {}, np.zeros(2, np.int64), np.zeros(2, np.float32),
    )  # fmt: skip
    assert list(kinds([seen("code"), asked, seen("prose"), seen("code")])) == ["code", "prose"]


def test_profile_names_the_extreme_tokens() -> None:
    profile = layer_profile(
        [seen("code", value_norm_first=np.array([[9.0, 9.0]])), seen()], lambda ids: [f"<{i}>" for i in ids]
    )
    row = profile.iloc[0]
    assert row["value_drain"] == pytest.approx((0.1 + 2.0) / 2)  # from the prose, not the code
    assert row["residual_peak"] == pytest.approx(30.0)
    assert row["peak_token"] == "'<20>', '<27>', '<23>'"
    assert row["peak_at"] == "'0', '7', '3'"
    assert row["peak_dims"] == "'5', '12'"
