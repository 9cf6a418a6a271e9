"""Do tasks share heads? Overlap of head sets, against what chance makes of their layers.

Circuits of different tasks lie in the same middle layers, so that even unrelated ones overlap. The
null hypothesis here keeps that: heads are exchanged within their layer only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

_DRAWS = 10_000


@dataclass(frozen=True)
class Overlap:
    """What two tasks share.

    Attributes:
        shared: heads in both top sets.
        expected: the same by chance, heads exchanged within their layers.
        p: share of draws with at least as many shared heads; never 0.
        everywhere: shared heads expected if layers did not matter either.
        rank: Spearman correlation of all heads' absolute effects, -1 ... 1.
    """

    shared: int
    expected: float
    p: float
    everywhere: float
    rank: float


def overlap(a: ArrayLike, b: ArrayLike, top: int, *, draws: int = _DRAWS, seed: int = 0) -> Overlap:
    """Compare the heads with the largest absolute effects on two tasks.

    Args:
        a, b: effects of all heads. [L, H]
        top: size of the sets.
        draws: permutations.
        seed: of the permutations.
    """
    first, second = (np.abs(np.asarray(x, np.float64)) for x in (a, b))
    one, two = _largest(first, top), _largest(second, top)
    rng = np.random.default_rng(seed)
    chance = np.array([(one & rng.permuted(two, axis=1)).sum() for _ in range(draws)])
    shared = int((one & two).sum())
    return Overlap(
        shared, float(chance.mean()), float((1 + (chance >= shared).sum()) / (1 + draws)),
        top * top / first.size, float(stats.spearmanr(first.ravel(), second.ravel()).statistic),
    )  # fmt: skip


def _largest(size: NDArray[np.float64], top: int) -> NDArray[np.bool_]:
    """Which heads are among the `top` largest. [L, H]"""
    found = np.zeros(size.size, bool)
    found[np.argsort(-size, axis=None, kind="stable")[:top]] = True
    return found.reshape(size.shape)


def transfer(effects: Mapping[str, ArrayLike], top: int, *, seed: int = 0) -> pd.DataFrame:
    """`overlap` of every pair of tasks, one row each, most shared first.

    Columns `a`, `b`, the fields of `Overlap`, and `p_holm`, p corrected for the number of pairs.
    """
    rows = [
        {"a": a, "b": b, **vars(overlap(effects[a], effects[b], top, seed=seed))}
        for a, b in combinations(sorted(effects), 2)
    ]
    frame = pd.DataFrame(rows).sort_values("p", kind="stable").reset_index(drop=True)
    steps = len(frame) - np.arange(len(frame))
    frame["p_holm"] = np.minimum(1.0, np.maximum.accumulate(frame["p"].to_numpy() * steps))
    return frame.sort_values(["shared", "p"], ascending=[False, True], kind="stable").reset_index(drop=True)
