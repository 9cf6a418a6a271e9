"""Two head maps side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from scipy import stats

from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    from headscope.heads.headmap import HeadMap


@dataclass(frozen=True)
class Comparison:
    """What changed from map a to map b.

    Attributes:
        scores: per score column: `spearman` rank correlation over heads (-1 ... 1), `p_value`
            (two-sided, no correlation), `mean_difference` (b - a) and `max_difference`.
        labels: one row per head and role whose label changed: `layer`, `head`, `role`, `before`,
            `after`, the ranking score in both.
        difference: `layer`, `head` and b - a of every shared score.
    """

    scores: pd.DataFrame
    labels: pd.DataFrame
    difference: pd.DataFrame


def compare(a: HeadMap, b: HeadMap) -> Comparison:
    """Compare two maps of the same geometry; see `Comparison`.

    Raises:
        HeadscopeError: the models differ in layers or heads.
    """
    shape_a, shape_b = ((m.meta.geometry.layers, m.meta.geometry.heads) for m in (a, b))
    if shape_a != shape_b:
        raise HeadscopeError(
            f"{a.meta.model} has {shape_a[0]} x {shape_a[1]} heads and {b.meta.model} {shape_b[0]} x "
            f"{shape_b[1]}: only maps of the same shape can be compared head by head."
        )
    keys = ["layer", "head"]
    left = a.frame.sort_values(keys).reset_index(drop=True)
    right = b.frame.sort_values(keys).reset_index(drop=True)
    shared = [c for c in a.meta.columns if c in b.meta.columns and c in left and c in right]
    difference = left[keys].copy()
    rows = []
    for column in shared:
        gap = right[column] - left[column]
        difference[column] = gap
        both = left[column].notna() & right[column].notna()
        varied = left[column][both].nunique() > 1 and right[column][both].nunique() > 1
        rank = stats.spearmanr(left[column][both], right[column][both]) if varied else None
        rows.append({
            "score": column,
            "spearman": float(rank.statistic) if rank else float("nan"),
            "p_value": float(rank.pvalue) if rank else float("nan"),
            "mean_difference": gap.mean(),
            "max_difference": gap.abs().max(),
        })  # fmt: skip
    return Comparison(pd.DataFrame(rows), _changed(a, b, left, right), difference)


def _changed(a: HeadMap, b: HeadMap, left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for role in (r for r in a.roles if r in b.roles):
        rule = a.rule(role)
        moved = left[rule.column] != right[rule.column]
        part = left.loc[moved, ["layer", "head"]].assign(
            role=role, before=left[rule.column][moved], after=right[rule.column][moved],
            score_before=left[rule.score][moved], score_after=right[b.rule(role).score][moved],
        )  # fmt: skip
        parts.append(part)
    columns = ["layer", "head", "role", "before", "after", "score_before", "score_after"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
