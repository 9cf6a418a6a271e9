"""Circuits: heads that known circuits are made of, as the map has them; nothing here tests an edge."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.dashboard import look, pick, rules, store
from headscope.app.roles import entries

if TYPE_CHECKING:
    from headscope.heads import HeadMap

# What a circuit's heads are labelled, from the first layers to the last; where it was described.
_KNOWN = {
    "Induction": (
        ("previous_token", "induction"),
        "A head that looks one token back tells the next layers what came before; an induction head then "
        "finds what followed last time (Olsson et al. 2022).",
    ),
    "Retrieval": (
        ("retrieval", "streaming"),
        "Few heads copy the answer out of a long context; most lose nothing when cut to the first and the "
        "most recent tokens (Wu et al. 2024; Xiao et al. 2024).",
    ),
}
_SHOWN = 8


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    headmap = rules.judged(store.headmap(run))
    look.install(headmap)
    with left:
        look.heading("Circuits", eyebrow=f"{headmap.meta.model}: which heads work together")
    look.empty(
        "This run holds no circuit graph",
        "Circuits are found by patching: running a prompt and its counterfactual, and exchanging what heads "
        "say. No scan does that yet. Until a run holds graphs, here are the heads that known circuits are "
        "made of, as the map has them; the right order is no proof that one feeds the other.",
    )
    for name, (roles, about) in _KNOWN.items():
        if all(role in headmap.roles for role in roles):
            _candidates(headmap, name, roles, about)


def _candidates(headmap: HeadMap, name: str, roles: tuple[str, ...], about: str) -> None:
    look.section(name, about)
    for column, role in zip(st.columns(len(roles), gap="large"), roles, strict=True):
        with column:
            best = [e for e in entries(headmap, role, _SHOWN) if e.labelled]
            if not best:
                look.note(f"No head is labelled {role}.")
                continue
            ordered = sorted(best, key=lambda e: (e.layer, e.head))
            score = headmap.rule(role).score
            content = look.part("best", entries=ordered, column=score, role=role, notes=[])
            look.html(look.chips([role]))
            pick.markup(content, f"circuit-{name}-{role}")
