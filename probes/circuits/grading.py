"""Grades for scores of heads: against heads that are known to matter, and against themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from headscope.probes.circuits.circuit import Circuit
from headscope.probes.errors import HeadscopeError
from headscope.probes.geometry import HeadId


def roc_auc(circuit: Circuit, truth: Collection[HeadId]) -> float:
    """Chance that a head of the truth has a larger absolute score than one that is not; ties count half.

    Returns:
        0 ... 1, .5 for scores that know nothing.

    Raises:
        HeadscopeError: the truth is empty, or holds all heads.
    """
    size, known = _sizes(circuit, truth)
    inside = int(known.sum())
    if not 0 < inside < len(known):
        raise HeadscopeError(f"The truth holds {inside} of {len(known)} heads; it must hold some, not all.")
    ranks = stats.rankdata(size)[known].sum()
    return float((ranks - inside * (inside + 1) / 2) / (inside * (len(known) - inside)))


def recall(circuit: Circuit, truth: Collection[HeadId], count: int | None = None) -> float:
    """Share of the truth among the `count` largest scores; as many as the truth has without. 0 ... 1"""
    found = circuit.top(len(truth) if count is None else count)
    return len(set(found) & set(truth)) / len(truth)


def precision(circuit: Circuit, truth: Collection[HeadId], count: int) -> float:
    """Share of the `count` largest scores that belong to the truth. 0 ... 1"""
    return len(set(circuit.top(count)) & set(truth)) / count


def jaccard(sets: Iterable[Sequence[HeadId]]) -> float:
    """Mean overlap over union of all pairs of sets; NaN for fewer than two. 0 ... 1"""
    pairs = [(set(a), set(b)) for a, b in combinations(list(sets), 2)]
    return float(np.mean([len(a & b) / len(a | b) for a, b in pairs])) if pairs else float("nan")


def _sizes(circuit: Circuit, truth: Collection[HeadId]) -> tuple[np.ndarray, np.ndarray]:
    frame = circuit.heads()
    heads = [HeadId(int(a), int(b)) for a, b in zip(frame["layer"], frame["head"], strict=True)]
    return frame["score"].abs().to_numpy(), np.array([head in set(truth) for head in heads])
