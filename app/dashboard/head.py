"""Everything known of one head."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import streamlit as st
from markupsafe import Markup

from headscope.app import headfigures
from headscope.app.dashboard import address, causes, freetext, look, pick, prompts, rules, store
from headscope.app.headview import Score, group_of, neighbour, row_of, scores_of, verdicts
from headscope.app.overlay import overlay, overlay_words

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap

_KINDS = {
    "sink_mass_": "Attention on the first token, by kind of text",
    "activity_": "What it adds, over what one ordinary value would add",
}


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    headmap = rules.judged(store.headmap(run))
    look.install(headmap)
    layer, head = _which(headmap)
    with left:
        _title(headmap, layer, head)
    _steps(headmap, layer, head)
    scores = scores_of(headmap, layer, head)
    profile, why = st.columns((1.25, 1), gap="large")
    with profile:
        _standing(headmap, scores, layer, head)
    with why:
        _why(headmap, layer, head)
        causes.alone(run, headmap, layer, head)
    prompts.show(run, headmap, layer, head)
    _pictures(run, layer, head)
    _by_kind(headmap, layer, head)
    _group(headmap, layer, head)
    _numbers(headmap, scores, layer, head)
    freetext.show(run, headmap, layer, head)


def _which(headmap: HeadMap) -> tuple[int, int]:
    """The head in the address; without one, the best head of the first role."""
    g = headmap.meta.geometry
    if address.asked("layer") or address.asked("head"):
        at = (address.index("layer"), address.index("head"))
        row_of(headmap, *at)
        return at
    best = headmap.top(headmap.roles[0], 1) if headmap.roles else headmap.frame[:0]
    at = (int(best["layer"][0]), int(best["head"][0])) if len(best) else (g.layers // 2, 0)
    address.put(layer=at[0], head=at[1])
    return at


def _title(headmap: HeadMap, layer: int, head: int) -> None:
    g = headmap.meta.geometry
    roles = [v.role for v in verdicts(headmap, layer, head) if v.has]
    words = look.chips(roles) if roles else Markup('<span class="hs-note">no role that this map knows</span>')
    group = f", KV head {g.kv_head(head)}" if g.kv_heads < g.heads else ""
    content = Markup('<header class="hs-head"><h1>L{}H{}</h1><p class="hs-eyebrow">{}{}</p></header>')
    look.html(content.format(layer, head, headmap.meta.model, group))
    look.html(Markup('<div class="hs-chips">{}</div>').format(words))


def _steps(headmap: HeadMap, layer: int, head: int) -> None:
    """To other heads: by the keys, or by number."""
    g = headmap.meta.geometry
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        for label, step, keys in (
            ("Previous head", -1, "Left"), ("Next head", 1, "Right"),
            ("Previous layer", -g.heads, "Shift+Left"), ("Next layer", g.heads, "Shift+Right"),
        ):  # fmt: skip
            to = neighbour(headmap, layer, head, step)
            st.button(label, key=f"step{step}", shortcut=keys, on_click=partial(_to, *to))
        for name, at, count in (("layer", layer, g.layers), ("head", head, g.heads)):
            st.session_state[f"go-{name}"] = at
            st.number_input(
                name.capitalize(), 0, count - 1, step=1, key=f"go-{name}", on_change=_typed, width=110
            )


def _to(layer: int, head: int) -> None:
    address.put(layer=layer, head=head)


def _typed() -> None:
    address.put(layer=st.session_state["go-layer"], head=st.session_state["go-head"])


def _standing(headmap: HeadMap, scores: list[Score], layer: int, head: int) -> None:
    look.section("Where it stands among all heads")
    shown = [s for s in scores if s.rank and s.info.low == 0 and s.info.high == 1 and "_mass_" not in s.name]
    ranking = [headmap.rule(r).score for r in headmap.roles]
    shown.sort(key=lambda s: s.name not in ranking)
    shown = shown[:14]
    if not shown:
        look.note("This map has no score between 0 and 1.")
        return
    best = min(shown, key=lambda s: s.rank)
    alt = f"Scores of L{layer}H{head} among all heads; best rank: {best.name}, {best.rank} of {best.of}."
    look.html(look.part("lines", figure=headfigures.standing(headmap, shown), alt=alt))
    look.note("Bars: the middle half and 90% of all heads. Dot: this head, with two standard errors.")


def _why(headmap: HeadMap, layer: int, head: int) -> None:
    look.section("Roles, and why")
    look.html(look.part("why", verdicts=verdicts(headmap, layer, head)))


def _pictures(run: Run, layer: int, head: int) -> None:
    """Where in the pictures of the scan it looks."""
    found = store.looks(run, (layer, head))
    if not found:
        return
    look.section(
        "Where in a picture it looks",
        "Left the picture, right its attention while the answer is written, strongest where it has most mass "
        "for the area. Outlined: visual sinks of the layer.",
    )
    for column, one in zip(st.columns(len(found), gap="large"), found, strict=True):
        with column:
            words = f"{overlay_words(one).capitalize()}."
            st.image(overlay(one), width="stretch", alt=f"A picture and where L{layer}H{head} looks. {words}")
            look.note(words)


def _by_kind(headmap: HeadMap, layer: int, head: int) -> None:
    there = [p for p in _KINDS if any(c.startswith(p) for c in headmap.meta.columns)]
    if not there:
        return
    look.section(
        "Kinds of text",
        "A head that rests on the first token adds next to nothing: it sleeps on that kind of text.",
    )
    role = "active_dormant" if "active_dormant" in headmap.roles else None
    for column, prefix in zip(st.columns(len(there), gap="large"), there, strict=True):
        with column:
            look.note(_KINDS[prefix])
            figure = headfigures.kind_bars(headmap, layer, head, prefix, role=role)
            look.html(look.part("lines", figure=figure, alt=f"{_KINDS[prefix]}, of L{layer}H{head}."))


def _group(headmap: HeadMap, layer: int, head: int) -> None:
    """The heads that share its keys and values."""
    mates = group_of(headmap, layer, head)
    if len(mates) < 2:
        return
    look.section(
        "Its KV group", "These heads share one key and value head, so dropping keys concerns all of them."
    )
    ranking = list(dict.fromkeys(headmap.rule(r).score for r in headmap.roles))[:7]
    shown = [_mate(headmap, layer, mate, ranking) | {"itself": mate == head} for mate in mates]
    pick.markup(look.part("group", mates=shown, columns=ranking), "group")


def _mate(headmap: HeadMap, layer: int, head: int, ranking: list[str]) -> dict[str, object]:
    row = row_of(headmap, layer, head)
    roles = [v.role for v in verdicts(headmap, layer, head) if v.has]
    return {"layer": layer, "head": head, "roles": roles, "values": [float(row[c]) for c in ranking]}


def _numbers(headmap: HeadMap, scores: list[Score], layer: int, head: int) -> None:
    """Every column of the map, this head's row."""
    look.section("Every score")
    with st.expander(f"All {len(scores)} scores with errors, ranks and sources"):
        look.html(look.part("scores", scores=scores))
        others = _others(headmap, layer, head)
        if others:
            look.note("Also in its row: " + ", ".join(f"{name} {value}" for name, value in others) + ".")


def _others(headmap: HeadMap, layer: int, head: int) -> list[tuple[str, object]]:
    """Columns that are neither keys, scores, errors nor labels."""
    known = {"layer", "head", "kv_head", *headmap.meta.columns, *(f"{c}_se" for c in headmap.meta.columns)}
    known |= {headmap.rule(r).column for r in headmap.roles}
    row = row_of(headmap, layer, head)
    return [(name, row[name]) for name in map(str, headmap.frame) if name not in known]
