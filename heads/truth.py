"""Which cheap score predicts what a head's ablation does: every score of a map against the effects.

Three ways to agree, for every score and both effects of `ablations`: rank correlation over all heads,
overlap of the top heads, and the area under the ROC curve of finding those heads by the score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from headscope.heads.ablations import Ablations
from headscope.heads.headmap import HeadMap
from headscope.probes import HeadscopeError, unknown

EFFECTS = {"effect_answer": "answer", "effect_text": "text"}
SHARE = 0.1  # of all heads: those that matter
_LEAST = 20  # heads with a score, below which ranks say nothing
_QUANTILES = (0.025, 0.975)

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class TruthTable:
    """How scores agree with effects, and with one another. N heads.

    Attributes:
        against: one row per effect and score: `effect`, `score`, `heads` (that have the score),
            `spearman` (-1 ... 1), `overlap` (share of the k heads with the largest effect among the
            k that the score puts first, 0 ... 1), `auc` (chance that one of those k scores higher
            than one of the others, 0 ... 1, 0.5 by chance); each with a 95% interval `_low`,
            `_high`. Where `spearman` is negative the score is read from its low end (`low`):
            `overlap` and `auc` are those of its negative. Highest `auc` first.
        between: one row per pair of scores: `a`, `b`, `spearman` with its interval.
        ceiling: like `against`, of the effect measured on one half of the prompts against the
            other half: what a score could reach that knew the effect itself, as far as half of
            the prompts tell it.
        k: how many heads count as those that matter.
    """

    against: pd.DataFrame
    between: pd.DataFrame
    ceiling: pd.DataFrame
    k: int


def truth_table(
    headmap: HeadMap,
    found: Ablations,
    *,
    scores: Sequence[str] = (),
    beside: Sequence[HeadMap] = (),
    share: float = SHARE,
    draws: int = 1000,
    seed: int = 0,
) -> TruthTable:
    """Compare every score with the effects of ablation, and with every other score.

    Intervals are percentiles over draws in which heads and the effects' prompts are both drawn anew
    with replacement: they hold for other heads of the kind and other prompts, not for a score
    measured again (its own standard error says that).

    Args:
        headmap: the map of a run.
        found: the run's ablations.
        scores: which columns; all without any.
        beside: further maps of the same model, whose columns join (trained gates, say).
        share: which share of the heads counts as those that matter.
        draws: bootstrap draws.
        seed: of the draws.

    Raises:
        HeadscopeError: a map of another shape, or a share that leaves no head.
        UnknownName: no such score.
    """
    columns = _columns(headmap, beside)
    for name in scores:
        if name not in columns:
            raise unknown("score", name, columns)
    chosen = {n: c for n, c in columns.items() if (not scores or n in scores) and _ranks(c)}
    k = round(share * len(headmap.frame))
    if not 0 < k < len(headmap.frame):
        raise HeadscopeError(
            f"share is {share}, but must leave some of {len(headmap.frame)} heads and not all."
        )
    rng = np.random.default_rng(seed)
    effects = {name: found.of(kind) for name, kind in EFFECTS.items()}
    against, ceiling = [], []
    for name, values in effects.items():
        rivals = {n: c for n, c in chosen.items() if n != name}
        rows = pd.DataFrame(_against(rivals, values, k, draws, rng)).assign(effect=name)
        against.append(rows.sort_values("auc", ascending=False, kind="stable"))
        ceiling.append({"effect": name, "score": "the effect itself"} | _halves(values, k, draws, rng))
    between = _between(chosen, draws, rng)
    return TruthTable(pd.concat(against, ignore_index=True), between, pd.DataFrame(ceiling), k)


def _columns(headmap: HeadMap, beside: Sequence[HeadMap]) -> dict[str, Scores]:
    """Every score of the maps, heads in the order of layers and heads. [N] each"""
    found: dict[str, Scores] = {}
    for other in (headmap, *beside):
        if other.meta.geometry != headmap.meta.geometry:
            raise HeadscopeError(f"The map of {other.meta.model!r} beside the run has another shape.")
        ordered = other.frame.sort_values(["layer", "head"])
        for name in other.meta.columns:
            if name in ordered:
                found.setdefault(name, ordered[name].to_numpy(np.float64))
    return found


def _ranks(score: Scores) -> bool:
    known = score[np.isfinite(score)]
    return len(known) >= _LEAST and bool(np.ptp(known) > 0)


def agreement(score: Scores, effect: Scores, k: int, low: bool) -> tuple[float, float, float]:
    """Spearman's correlation, overlap of the top k, and AUC of finding the top k by the score.

    Ties in the score are broken against it where the top k is cut.

    Args:
        score, effect: over the same heads, no NaN. [n]
        k: of the effect's largest.
        low: whether the score is read from its low end, in overlap and AUC.
    """
    correlation = float(np.corrcoef(stats.rankdata(score), stats.rankdata(effect))[0, 1])
    top = np.zeros(len(effect), bool)
    top[np.argsort(-effect, kind="stable")[:k]] = True
    # A head of the top is put behind its equals.
    first = np.lexsort((top, score if low else -score))[:k]
    ranks = stats.rankdata(score)
    above = ranks[top].sum() - k * (k + 1) / 2
    area = float(above / (k * (len(score) - k)))
    return correlation, float(top[first].mean()), 1 - area if low else area


def _against(
    scores: Mapping[str, Scores], values: Scores, k: int, draws: int, rng: np.random.Generator
) -> list[dict[str, object]]:
    """Every score against the mean effect over prompts. values: [N, P]"""
    heads = [rng.integers(0, len(values), len(values)) for _ in range(draws)]
    drawn = [values[:, rng.integers(0, values.shape[1], values.shape[1])].mean(1) for _ in range(draws)]
    mean, rows = values.mean(1), []
    for name, score in scores.items():
        known = np.isfinite(score)
        low = float(np.corrcoef(stats.rankdata(score[known]), stats.rankdata(mean[known]))[0, 1]) < 0
        there = _scaled(k, known)
        point = agreement(score[known], mean[known], there, low)
        again = []
        for pick, effect in zip(heads, drawn, strict=True):
            pick = pick[known[pick]]
            if np.ptp(score[pick]) > 0:
                again.append(agreement(score[pick], effect[pick], _scaled(k, known), low))
        rows.append({"score": name, "heads": int(known.sum()), "low": low} | _row(point, again))
    return rows


def _scaled(k: int, known: NDArray[np.bool_]) -> int:
    """The same share of those heads that have a score."""
    return max(1, round(k * known.sum() / len(known)))


def _halves(values: Scores, k: int, draws: int, rng: np.random.Generator) -> dict[str, object]:
    """One half of the prompts against the other, over random halves and heads. values: [N, P]"""
    again, whole = [], []
    for _ in range(draws):
        order, half = rng.permutation(values.shape[1]), values.shape[1] // 2
        a, b = values[:, order[:half]].mean(1), values[:, order[half:]].mean(1)
        pick = rng.integers(0, len(values), len(values))
        whole.append(agreement(a, b, k, False))
        again.append(agreement(a[pick], b[pick], k, False))
    point = np.mean(whole, 0)
    return {"heads": len(values), "low": False} | _row(tuple(point), again)


def _row(point: Sequence[float], again: Sequence[Sequence[float]]) -> dict[str, object]:
    ends = np.quantile(np.array(again), _QUANTILES, axis=0)
    row: dict[str, object] = {}
    for i, name in enumerate(("spearman", "overlap", "auc")):
        row |= {name: float(point[i]), f"{name}_low": float(ends[0, i]), f"{name}_high": float(ends[1, i])}
    return row


def _between(scores: Mapping[str, Scores], draws: int, rng: np.random.Generator) -> pd.DataFrame:
    """Rank correlation of every two scores over the heads that have both; heads are drawn anew."""
    names, rows = list(scores), []
    table = np.stack([scores[n] for n in names], 1)
    correlations = np.stack(
        [_correlations(table)]
        + [_correlations(table[rng.integers(0, len(table), len(table))]) for _ in range(draws)]
    )
    with np.errstate(invalid="ignore"):
        ends = np.nanquantile(correlations[1:], _QUANTILES, axis=0)
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            rows.append({
                "a": b, "b": a, "spearman": correlations[0, j, i],
                "spearman_low": ends[0, j, i], "spearman_high": ends[1, j, i],
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["a", "b", "spearman", "spearman_low", "spearman_high"])


def _correlations(table: Scores) -> Scores:
    """Spearman's, pair by pair where both are known. [N, S] to [S, S]"""
    if np.isfinite(table).all() and len(table[0]) > 1:  # the usual case, a hundred times faster
        with np.errstate(invalid="ignore"):
            found: Scores = np.corrcoef(stats.rankdata(table, axis=0), rowvar=False)
        return found
    return pd.DataFrame(table).corr(method="spearman").to_numpy(np.float64)
