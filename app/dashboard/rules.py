"""Thresholds that can be moved: they stand in the address, and every page judges by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import address
from headscope.app.dashboard.look import plain
from headscope.app.looks import title

if TYPE_CHECKING:
    from headscope.heads import HeadMap, Rule


def judged(headmap: HeadMap) -> HeadMap:
    """The map, its labels by the thresholds that the address asks for."""
    rules = [_moved(rule) for rule in headmap.meta.rules]
    return headmap if rules == list(headmap.meta.rules) else headmap.relabel(rules)


def moved(headmap: HeadMap) -> bool:
    """Whether some threshold is not the map's own."""
    return any(_moved(rule) != rule for rule in headmap.meta.rules)


def sliders(headmap: HeadMap, role: str) -> None:
    """One slider for every condition of a role."""
    for i, condition in enumerate(headmap.rule(role).all_of):
        info = headmap.meta.columns.get(condition.column)
        values = headmap.frame[condition.column].dropna()
        low = min(info.low if info and info.low is not None else float(values.min()), condition.threshold)
        high = info.high if info and info.high is not None else float(values.max())
        high = max(high, condition.threshold, low + 1e-6)
        label = f"{title(role)}: {condition.column} {'at least' if condition.op == '>=' else 'at most'}"
        address.slide(plain(label), _name(role, i), float(low), float(high), condition.threshold)


def reset(headmap: HeadMap) -> None:
    """A button that takes all thresholds back to the map's own."""
    if moved(headmap) and st.button("Back to the map's own thresholds", type="tertiary"):
        address.put(**{_name(r.role, i): None for r in headmap.meta.rules for i in range(len(r.all_of))})
        st.rerun()


def _name(role: str, i: int) -> str:
    return f"at.{role}.{i}"


def _moved(rule: Rule) -> Rule:
    conditions = tuple(
        c.model_copy(update={"threshold": address.number(_name(rule.role, i), c.threshold)})
        for i, c in enumerate(rule.all_of)
    )
    return rule.model_copy(update={"all_of": conditions})
