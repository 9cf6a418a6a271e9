"""What a head map says about one role, in the form that every view needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headscope.app.looks import story

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import ColumnInfo, HeadMap, Rule

_NOTES = {"active_dormant": ("wakes_on",)}


@dataclass(frozen=True)
class Entry:
    """One head in a list of top heads.

    Attributes:
        layer, head, kv_head: which head.
        score, error: the ranking score and its standard error, as they stand in the columns.
        labelled: whether the role's rule holds.
        notes: further columns about this role, by name.
    """

    layer: int
    head: int
    kv_head: int
    score: float
    error: float
    labelled: bool
    notes: dict[str, Any]

    @property
    def name(self) -> str:
        return f"L{self.layer}H{self.head}"


@dataclass(frozen=True)
class Role:
    """A role in a map.

    Attributes:
        name: the role.
        rule: the rule behind its label.
        info: what its ranking score means, if the map says so.
        count: how many heads have the label.
        layers: the first and last layer of the middle 80% of them; None where there are none.
        top: the heads with the best scores, whether labelled or not.
        best: those that have the label.
    """

    name: str
    rule: Rule
    info: ColumnInfo | None
    count: int
    layers: tuple[int, int] | None
    top: tuple[Entry, ...]
    best: tuple[Entry, ...]


def role_of(headmap: HeadMap, name: str, k: int = 10) -> Role:
    """Sum up one role.

    Raises:
        UnknownName: the map has no such role.
    """
    rule = headmap.rule(name)
    labelled = headmap.frame[headmap.frame[rule.column].astype(bool)]
    ranked = headmap.top(name, len(headmap.frame))
    return Role(
        name=name,
        rule=rule,
        info=headmap.meta.columns.get(rule.score),
        count=len(labelled),
        layers=_middle(labelled["layer"].tolist()),
        top=tuple(_entries(headmap, name, ranked.head(k))),
        best=tuple(_entries(headmap, name, ranked[ranked[rule.column].astype(bool)].head(k))),
    )


def roles_of(headmap: HeadMap, k: int = 10) -> list[Role]:
    """Every role of the map in the order of a story; those that no head has come last."""
    found = [role_of(headmap, name, k) for name in story(headmap.roles)]
    return sorted(found, key=lambda role: role.count == 0)


def entries(headmap: HeadMap, name: str, k: int) -> list[Entry]:
    """The top heads of a role, or of any score column (which labels nothing); `HeadMap.top`'s order."""
    return _entries(headmap, name, headmap.top(name, k))


def _entries(headmap: HeadMap, name: str, best: pd.DataFrame) -> list[Entry]:
    rule = headmap.rule(name) if name in headmap.roles else None
    score, label = (rule.score, rule.column) if rule else (name, "")
    notes = _notes(headmap, name) if rule else []
    rows = best[["layer", "head"]].merge(headmap.frame, on=["layer", "head"], how="left")
    return [_entry(row, score, label, notes) for _, row in rows.iterrows()]


def error_of(row: pd.Series, column: str) -> float:
    """The standard error that goes with a score; NaN where the map has none."""
    return float(row.get(f"{column}_se", float("nan")))


def _entry(row: pd.Series, score: str, label: str, notes: Sequence[str]) -> Entry:
    return Entry(
        layer=int(row["layer"]),
        head=int(row["head"]),
        kv_head=int(row["kv_head"]),
        score=float(row[score]),
        error=error_of(row, score),
        labelled=bool(row[label]) if label else False,
        notes={name: row[name] for name in notes},
    )


def _notes(headmap: HeadMap, role: str) -> list[str]:
    """Columns that are no scores but belong to the role: by its name, or known to."""
    scores = set(headmap.meta.columns) | {f"{c}_se" for c in headmap.meta.columns}
    own = [c for c in headmap.frame if str(c).startswith(f"{role}_") and c not in scores]
    return [str(c) for c in own] + [c for c in _NOTES.get(role, ()) if c in headmap.frame]


def _middle(layers: Sequence[int]) -> tuple[int, int] | None:
    if not layers:
        return None
    ordered, cut = sorted(layers), len(layers) // 10
    return ordered[cut], ordered[-1 - cut]
