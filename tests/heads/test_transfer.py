"""Shared heads against chance."""

from __future__ import annotations

import numpy as np
import pytest

from headscope.heads import overlap, transfer


def effects(layers: int = 12, heads: int = 8, seed: int = 0) -> np.ndarray:
    """Large effects in the middle layers, as circuits have them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(layers, heads)) * np.exp(-((np.arange(layers)[:, None] - 6) ** 2) / 8)


def test_a_task_shares_everything_with_itself() -> None:
    found = overlap(effects(), -effects(), 5, draws=2000)
    assert found.shared == 5
    assert found.rank == pytest.approx(1.0)
    assert found.p < 0.01


def test_chance_keeps_the_layers() -> None:
    """Sets that lie in the same layers overlap by chance far more than sets that lie anywhere."""
    found = overlap(effects(seed=1), effects(seed=2), 20, draws=2000)
    assert found.everywhere == pytest.approx(20 * 20 / 96)
    assert found.expected > 1.5 * found.everywhere
    one, two = (np.abs(effects(seed=s)) for s in (1, 2))
    count = [(x >= np.sort(x.ravel())[-20]).sum(1) for x in (one, two)]
    assert found.expected == pytest.approx((count[0] * count[1] / 8).sum(), abs=0.15)


def test_p_is_uniform_where_nothing_is_shared() -> None:
    p = [overlap(effects(seed=s), effects(seed=1000 + s), 20, draws=200).p for s in range(60)]
    assert np.mean(np.array(p) <= 0.05) <= 0.12
    assert 0.4 <= np.mean(p) <= 0.7


def test_every_pair_is_compared_and_corrected() -> None:
    tasks = {name: effects(seed=i) for i, name in enumerate("abcd")} | {"twin of a": effects(seed=0)}
    found = transfer(tasks, 6)
    assert len(found) == 10
    assert tuple(found.loc[0, ["a", "b"]]) == ("a", "twin of a")
    assert (found["p_holm"] >= found["p"]).all()
    assert found.loc[0, "p_holm"] <= 10 * found.loc[0, "p"] + 1e-12
    assert (found["p_holm"] <= 1).all()
