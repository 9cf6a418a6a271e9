"""Two runs side by side: head by head where the models have the same shape, by depth where not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from headscope.app import comparefigures
from headscope.app.dashboard import address, look, pick, rules, store
from headscope.app.looks import title

if TYPE_CHECKING:
    from headscope.heads import Comparison, HeadMap

_SHOWN = 200  # changed heads listed


def show() -> None:
    """Draw the page."""
    look.heading("Compare")
    left, right = st.columns(2)
    with left:
        first = store.chosen_run(label="First run", hidden=False)
    with right:
        second = store.chosen_run("with", label="Second run", hidden=False, other_than=first.name)
    a, b = rules.judged(store.headmap(first)), rules.judged(store.headmap(second))
    look.install(a)
    shared = [c for c in a.meta.columns if c in b.meta.columns]
    if not shared:
        look.empty("Nothing in common", "These two maps share no score, so there is nothing to compare.")
        return
    if a.meta.fingerprint and a.meta.fingerprint == b.meta.fingerprint:
        look.note("Both runs are of the same weights: what differs comes from prompts, seeds and settings.")
    ranking = [a.rule(r).score for r in a.roles if a.rule(r).score in shared]
    options = [*dict.fromkeys(ranking), *(c for c in shared if c not in ranking)]
    column = address.choose("Score", "show", options, options[0])
    shapes = [(m.meta.geometry.layers, m.meta.geometry.heads) for m in (a, b)]
    if shapes[0] == shapes[1]:
        _head_by_head(a, b, column)
    else:
        look.note(
            f"{shapes[0][0]} × {shapes[0][1]} heads and {shapes[1][0]} × {shapes[1][1]}: the models are "
            "aligned by depth."
        )
    _by_depth({first.name: a, second.name: b}, column)


def _head_by_head(a: HeadMap, b: HeadMap, column: str) -> None:
    found = a.compare(b)
    look.section("Difference", f"{column} of the second run minus that of the first.")
    chart, scatter = st.columns((2, 1), gap="medium")
    with chart:
        pick.score_map(
            _difference(a, found), column, "map-difference", role=None, marks=(),
            alt=f"Heat map of the change of {column} from the first run to the second.",
        )  # fmt: skip
    with scatter:
        st.plotly_chart(
            comparefigures.against(a, b, column, theme=look.theme()), theme=None, key="against",
            config={"displayModeBar": False}, alt=f"{column} of every head in the first run and the second.",
        )  # fmt: skip
    look.section("Heads that changed role")
    _changed(found)
    look.section("Agreement, score by score")
    with st.expander("Rank correlation over heads, mean and largest change", expanded=len(found.labels) == 0):
        look.html(look.part("agreement", rows=found.scores.to_dict("records")))


def _difference(a: HeadMap, found: Comparison) -> HeadMap:
    """The difference as a map, so that it is drawn as one."""
    from headscope.heads import HeadMap

    frame = found.difference.copy()
    frame["kv_head"] = [a.meta.geometry.kv_head(int(head)) for head in frame["head"]]
    unbounded = {n: i.model_copy(update={"low": None, "high": None}) for n, i in a.meta.columns.items()}
    return HeadMap(frame, a.meta.model_copy(update={"rules": (), "columns": unbounded}))


def _changed(found: Comparison) -> None:
    if found.labels.empty:
        look.note("No head changed its label.")
        return
    counts = found.labels["role"].value_counts()
    words = ", ".join(f"{title(str(role))} {count}" for role, count in counts.items())
    look.note(f"{len(found.labels)} labels differ: {words}.")
    rows = found.labels.head(_SHOWN).to_dict("records")
    with st.container(height=min(420, 60 + 34 * len(rows)), border=False):
        pick.markup(look.part("changed", rows=rows, left=len(found.labels) - len(rows)), "changed")


def _by_depth(maps: dict[str, HeadMap], column: str) -> None:
    from headscope.heads import by_depth

    look.section("By depth", "Layers from first to last, whatever their number.")
    tables = {name: by_depth(headmap, column) for name, headmap in maps.items()}
    st.plotly_chart(
        comparefigures.profiles(tables, column, theme=look.theme()), theme=None, key="depth",
        config={"displayModeBar": False}, alt=f"Mean and highest {column} over depth in both runs.",
    )  # fmt: skip
    roles = [r for r in next(iter(maps.values())).roles if all(r in m.roles for m in maps.values())]
    if not roles:
        return
    shares = [
        [title(role), *(f"{m.frame[m.rule(role).column].mean():.1%}" for m in maps.values())]
        for role in roles
    ]
    look.html(look.part("table", headers=["share of heads", *maps], rows=shares))
