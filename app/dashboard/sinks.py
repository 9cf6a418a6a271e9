"""Where attention rests: extreme tokens over the layers, and heads that sleep and wake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app import figures
from headscope.app.dashboard import look, pick, rules, store
from headscope.app.layers import section_of
from headscope.app.looks import title
from headscope.app.roles import entries
from headscope.app.sections import KINDS, sleepers

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap

_ROLE = "active_dormant"


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    headmap = rules.judged(store.headmap(run))
    look.install(headmap)
    with left:
        look.heading(
            "Sinks", eyebrow=f"{headmap.meta.model}: tokens that draw attention without saying anything"
        )
    _layers(run)
    _resting(headmap)
    _kinds(headmap)


def _layers(run: Run) -> None:
    """Extreme tokens, layer by layer."""
    table = store.layers(run)
    found = section_of(table) if table is not None else None
    look.section("Extreme tokens over the layers", found.summary if found else "")
    if found is None:
        look.note(
            "This run has no table of layers, as imported maps have none; a scan of the model writes it."
        )
        return
    for row in range(0, len(found.measures), 3):
        for column, measure in zip(st.columns(3, gap="medium"), found.measures[row : row + 3], strict=False):
            with column:
                look.html(look.part("measure", title=measure.title, about=measure.about))
                st.plotly_chart(
                    measure.figure(look.theme()), theme=None, key=f"layers-{measure.column}",
                    config={"displayModeBar": False}, alt=measure.alt,
                )  # fmt: skip
    look.note("Bands are two standard errors.")
    with st.expander("Every layer in numbers, with the tokens and dimensions that peak"):
        look.html(look.part("table", headers=found.headers, rows=found.rows))


def _resting(headmap: HeadMap) -> None:
    """The heads that rest most, on the first token and on hidden ones."""
    roles = [r for r in ("sink", "hidden_sink") if r in headmap.roles]
    if not roles:
        return
    look.section("Heads that rest")
    for column, role in zip(st.columns(2, gap="large"), roles, strict=False):
        with column:
            count = int(headmap.frame[headmap.rule(role).column].sum())
            look.note(f"{count} of {len(headmap.frame)} heads are {title(role)} heads: {headmap.rule(role)}.")
            best = entries(headmap, role, 8)
            notes = list(best[0].notes) if best else []
            content = look.part("best", entries=best, column=headmap.rule(role).score, role=role, notes=notes)
            pick.markup(content, f"resting-{role}")


def _kinds(headmap: HeadMap) -> None:
    """Heads in which resting differs most between kinds of text."""
    prefixes = [p for p in KINDS if any(c.startswith(p) for c in headmap.meta.columns)]
    if _ROLE not in headmap.roles or not prefixes:
        return
    look.section(
        "Asleep or awake",
        "The heads whose attention on the first token differs most between kinds of text.",
    )
    heads = sleepers(headmap, _ROLE)
    for column, prefix in zip(st.columns(len(prefixes), gap="large"), prefixes, strict=True):
        with column:
            look.note(KINDS[prefix])
            figure = figures.kind_map(headmap, prefix, heads, role=_ROLE, theme=look.theme())
            st.plotly_chart(
                figure, theme=None, key=f"sleep-{prefix}", config={"displayModeBar": False},
                alt=f"{KINDS[prefix]} for {len(heads)} heads on every kind of text.",
            )  # fmt: skip
