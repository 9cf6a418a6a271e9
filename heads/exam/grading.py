"""Grading a head map against what is known of every head."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from headscope.heads.headmap import HeadMap
from headscope.heads.rules import Condition, Rule
from headscope.probes import HeadId, HeadscopeError, Truth

UNIFORM = Rule(
    role="uniform", score="entropy", all_of=(Condition(column="entropy", op=">=", threshold=0.9),),
    source="the exam's own, since the entropy detector labels nothing",
)  # fmt: skip


class Grade(BaseModel):
    """How one role of one planted model was found.

    Attributes:
        model: the planted model.
        role: the role.
        planted: heads that have it.
        labelled: heads that were said to have it.
        precision: share of the labelled heads that have it; 1 where none was labelled.
        recall: share of the heads that have it that were labelled; 1 where there is none.
        margin: how far the score that comes closest to its threshold is on the right side of it,
            over all heads; below 0 where it is on the wrong one. A head with the role is as far as
            its closest condition, another as far as the condition it fails most clearly. Conditions
            on numbers of kinds count no distance. None where no score decides.
        closest: the head of that margin and its circuit.
        missed, invented: heads labelled wrongly, by name and circuit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    role: str
    planted: int
    labelled: int
    precision: float
    recall: float
    margin: float | None
    closest: str
    missed: tuple[str, ...] = ()
    invented: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return self.precision == 1.0 and self.recall == 1.0


def grade(headmap: HeadMap, truth: Truth) -> list[Grade]:
    """A grade for every role that the map labels or the model has.

    A role that the map could not label, because no prompt allowed it, was found nowhere.

    Raises:
        HeadscopeError: the map is of another model's heads.
    """
    frame = headmap.frame
    if [(h.layer, h.head) for h in truth.heads] != list(zip(frame["layer"], frame["head"], strict=True)):
        raise HeadscopeError(f"The map of {headmap.meta.model!r} is not of the heads of {truth.model!r}.")
    rules = {rule.role: rule for rule in (*headmap.meta.rules, UNIFORM)}
    there = dict.fromkeys(role for head in truth.heads for role in head.roles)
    return [_grade(headmap, truth, role, rules.get(role)) for role in sorted({*rules, *there})]


def _grade(headmap: HeadMap, truth: Truth, role: str, rule: Rule | None) -> Grade:
    frame = headmap.frame
    names = np.array([f"{HeadId(h.layer, h.head)} {h.circuit}" for h in truth.heads])
    expected = np.array([role in h.roles for h in truth.heads])
    usable = rule is not None and all(c.column in frame for c in rule.all_of)
    found = rule.apply(frame).to_numpy(bool) if rule and usable else np.zeros(len(names), bool)
    both = int((found & expected).sum())
    margins = _margins(headmap, rule, expected) if rule and usable else np.full(len(names), np.nan)
    at = None if np.isnan(margins).all() else int(np.nanargmin(margins))
    return Grade(
        model=truth.model, role=role, planted=int(expected.sum()), labelled=int(found.sum()),
        precision=both / found.sum() if found.any() else 1.0,
        recall=both / expected.sum() if expected.any() else 1.0,
        margin=None if at is None else round(float(margins[at]), 6),
        closest="" if at is None else str(names[at]),
        missed=tuple(names[expected & ~found]), invented=tuple(names[found & ~expected]),
    )  # fmt: skip


def _margins(headmap: HeadMap, rule: Rule, expected: np.ndarray) -> np.ndarray:
    """Distance of every head to its threshold, positive on the right side. [L * H]"""
    held = np.stack(list(_distances(headmap.frame, rule, headmap.meta.columns)))
    # A head that some number of kinds keeps from the role may meet every score's threshold.
    counts = [c for c in rule.all_of if c.column not in headmap.meta.columns]
    kept_out = np.zeros(len(expected), bool)
    for condition in counts:
        kept_out |= ~condition.holds(headmap.frame).to_numpy(bool)
    margins = np.where(expected, held.min(0), (-held).max(0))
    margins[~expected & kept_out & (margins <= 0)] = math.nan
    return margins


def _distances(frame: pd.DataFrame, rule: Rule, scores: object) -> Iterator[np.ndarray]:
    """How far each score of a rule is inside its condition; negative outside."""
    for condition in rule.all_of:
        if condition.column in scores:  # type: ignore[operator]
            away = frame[condition.column].to_numpy(float) - condition.threshold
            yield away if condition.op == ">=" else -away
