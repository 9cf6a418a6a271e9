"""Everything a map says about one head, in the form that a page about it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from headscope.app.roles import error_of
from headscope.probes import HeadscopeError

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import ColumnInfo, HeadMap


@dataclass(frozen=True)
class Score:
    """One score of one head.

    Attributes:
        name, info: the column and what it means.
        value, error: as they stand in the columns; NaN where undefined.
        rank: its place among all heads, the highest score first; 0 where undefined.
        of: how many heads have the score.
    """

    name: str
    info: ColumnInfo
    value: float
    error: float
    rank: int
    of: int


@dataclass(frozen=True)
class Judged:
    """One condition of a role's rule, and what this head has.

    Attributes:
        words: the condition.
        value, error: of this head.
        holds: whether it meets the condition.
        close: whether the threshold lies within two standard errors.
    """

    words: str
    value: float
    error: float
    holds: bool
    close: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a head has a role, and why."""

    role: str
    has: bool
    conditions: tuple[Judged, ...]
    source: str


def row_of(headmap: HeadMap, layer: int, head: int) -> pd.Series:
    """The head's row of the map.

    Raises:
        HeadscopeError: the model has no such head.
    """
    g = headmap.meta.geometry
    if not (0 <= layer < g.layers and 0 <= head < g.heads):
        raise HeadscopeError(
            f"There is no head L{layer}H{head}: {headmap.meta.model} has layers 0 to {g.layers - 1} "
            f"and heads 0 to {g.heads - 1}."
        )
    frame = headmap.frame
    return frame[(frame["layer"] == layer) & (frame["head"] == head)].iloc[0]


def scores_of(headmap: HeadMap, layer: int, head: int) -> list[Score]:
    """Every score of a head, in the order of the map."""
    row = row_of(headmap, layer, head)
    return [_score(headmap, row, name, info) for name, info in headmap.meta.columns.items() if name in row]


def _score(headmap: HeadMap, row: pd.Series, name: str, info: ColumnInfo) -> Score:
    value, all_values = float(row[name]), headmap.frame[name].dropna()
    rank = int((all_values > value).sum()) + 1 if value == value else 0
    return Score(name, info, value, error_of(row, name), rank, len(all_values))


def verdicts(headmap: HeadMap, layer: int, head: int) -> list[Verdict]:
    """Every role's rule, held against this head; the roles it has come first."""
    row = row_of(headmap, layer, head)
    found = []
    for rule in headmap.meta.rules:
        judged = []
        for condition in rule.all_of:
            value, error = float(row[condition.column]), error_of(row, condition.column)
            holds = value >= condition.threshold if condition.op == ">=" else value <= condition.threshold
            close = abs(value - condition.threshold) <= 2 * error
            judged.append(Judged(str(condition), value, error, holds, close))
        found.append(Verdict(rule.role, bool(row[rule.column]), tuple(judged), rule.source))
    return sorted(found, key=lambda verdict: not verdict.has)


def group_of(headmap: HeadMap, layer: int, head: int) -> list[int]:
    """The heads that share this head's KV head, itself included."""
    g = headmap.meta.geometry
    return [h for h in range(g.heads) if g.kv_head(h) == g.kv_head(head)]


def neighbour(headmap: HeadMap, layer: int, head: int, step: int) -> tuple[int, int]:
    """The head `step` places on, in reading order, layer after layer; from the last to the first."""
    g = headmap.meta.geometry
    at = (layer * g.heads + head + step) % (g.layers * g.heads)
    return at // g.heads, at % g.heads
