"""Do heads keep their side? Importance for memory and context, kind of conflict by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from headscope.heads.ph3 import Importance
from headscope.probes import HeadId

_LEAST = 4  # prompts of a kind below which nothing is said about it


@dataclass(frozen=True)
class Kinds:
    """Importance by kind of conflict.

    Attributes:
        heads: one row per head and kind: `head`, `kind`, `prompts`, `balance` (nats of log-odds of
            memory over context that the head is worth), its `se`, and `p` that it is 0 (t-test).
        correlation: of all heads' balance between every two kinds, -1 ... 1. [kinds, kinds]
        kinds: in the order of `correlation`.
    """

    heads: pd.DataFrame
    correlation: NDArray[np.float64]
    kinds: list[str]

    def swapped(self, level: float = 0.05) -> dict[str, tuple[list[str], list[str]]]:
        """Heads that serve memory in some kinds and the context in others, beyond chance.

        Holm's correction over all rows of `heads` keeps the chance of naming any head wrongly
        below `level`.

        Returns:
            For each such head the kinds in which it serves memory, and those for the context.
        """
        order = self.heads["p"].to_numpy().argsort(kind="stable")
        steps = len(order) - np.arange(len(order))
        holm = np.maximum.accumulate(self.heads["p"].to_numpy()[order] * steps)
        sure = self.heads.iloc[order][holm < level]
        found = {}
        for head, rows in sure.groupby("head", sort=False):
            memory = sorted(rows.loc[rows["balance"] > 0, "kind"])
            context = sorted(rows.loc[rows["balance"] < 0, "kind"])
            if memory and context:
                found[str(head)] = (memory, context)
        return found


def by_kind(importance: Importance, labels: Sequence[str], heads: Sequence[HeadId]) -> Kinds:
    """Take the importance apart by kind of conflict.

    Args:
        importance: of P prompts.
        labels: the kind of each; kinds with fewer than four prompts are left out. [P]
        heads: whose sides to test.
    """
    each = -importance.effects.change[0]  # [P, L, H]
    kind = np.asarray(labels)
    kinds = [k for k in sorted(set(labels)) if (kind == k).sum() >= _LEAST]
    rows = []
    for head in heads:
        for k in kinds:
            values = each[kind == k, head.layer, head.head]
            mean, se = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
            p = float(2 * stats.t.sf(abs(mean) / se, len(values) - 1)) if se else float(mean == 0)
            rows.append(
                {"head": str(head), "kind": k, "prompts": len(values), "balance": mean, "se": se, "p": p}
            )
    means = [each[kind == k].mean(0).ravel() for k in kinds]
    return Kinds(pd.DataFrame(rows), np.atleast_2d(np.corrcoef(means)), kinds)
