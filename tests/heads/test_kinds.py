"""Heads by kind of conflict."""

from __future__ import annotations

import numpy as np

from headscope.heads import Importance, by_kind
from headscope.probes import Effects, HeadId


def made_up_importance(balance: np.ndarray) -> Importance:
    """Importance with these values of the log-odds for each prompt. [P, L, H]"""
    none = np.zeros((3, len(balance)))
    return Importance(Effects("made up", none, none, -np.stack([balance] * 3)))


def test_a_head_that_swaps_sides_is_found_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    labels = ["home"] * 12 + ["food"] * 12 + ["rare"] * 2
    balance = rng.normal(0, 0.1, (26, 2, 2))
    balance[:, 0, 0] += 1
    balance[:12, 0, 1] += 1
    balance[12:, 0, 1] -= 1
    heads = [HeadId(i, j) for i in range(2) for j in range(2)]
    found = by_kind(made_up_importance(balance), labels, heads)
    assert found.kinds == ["food", "home"]
    assert found.swapped() == {"L0H1": (["home"], ["food"])}
    assert found.correlation[0, 1] < 0.5


def test_chance_swaps_no_head() -> None:
    named = 0
    for seed in range(40):
        balance = np.random.default_rng(seed).normal(size=(20, 3, 3))
        heads = [HeadId(i, j) for i in range(3) for j in range(3)]
        named += bool(by_kind(made_up_importance(balance), ["a", "b"] * 10, heads).swapped())
    assert named <= 2
