"""The map of all heads: roles or any score, thresholds to move, a click to the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st
from markupsafe import Markup

from headscope.app.dashboard import address, look, pick, rules, store
from headscope.app.labelmap import common, label_map
from headscope.app.looks import title
from headscope.app.roles import entries, roles_of

if TYPE_CHECKING:
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap

_ROLES = "roles"
_TOP = 15


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    own = store.headmap(run)
    headmap = rules.judged(own)
    look.install(headmap)
    with left:
        look.heading(headmap.meta.model, eyebrow=_eyebrow(headmap))
    of, marks = _controls(headmap)
    with st.container(key="map"):  # one below the other where it is narrow
        chart, side = st.columns((3.4, 1), gap="medium")
    with chart:
        _roles(run, headmap) if of == _ROLES else _score(headmap, of, marks)
        if own.roles:
            _thresholds(own, headmap, [of, *marks])
    with side:
        _legend(run, headmap) if of == _ROLES else _best(headmap, of)


def _eyebrow(headmap: HeadMap) -> str:
    meta, g = headmap.meta, headmap.meta.geometry
    right = [f"{task} {share:.0%} right" for task, share in meta.accuracy.items()]
    shape = f"{g.layers} layers × {g.heads} heads, {g.kv_heads} KV heads per layer"
    return " · ".join([shape, *([meta.preset] if meta.preset else []), *right])


def _controls(headmap: HeadMap) -> tuple[str, list[str]]:
    """What is drawn, and which roles are outlined on it."""
    a, b = st.columns((1, 2.6), vertical_alignment="bottom")
    scores = list(headmap.meta.columns)
    ranking = [rule.score for rule in headmap.meta.rules]
    ordered = [*dict.fromkeys(s for s in ranking if s in scores), *(s for s in scores if s not in ranking)]
    options = [_ROLES, *ordered] if headmap.roles or not ordered else ordered
    with a:
        of = address.choose("Show", "show", options, options[0], say=_say)
    if not headmap.roles:
        return of, []
    if of == _ROLES:
        return of, []
    with b:
        own = [r for r in headmap.roles if headmap.rule(r).score == of]
        return of, address.several("Outline heads labelled", "mark", headmap.roles, own, say=title)


def _say(column: str) -> str:
    return "all roles" if column == _ROLES else column


def _roles(run: Run, headmap: HeadMap) -> None:
    judged_by = " ".join(map(repr, headmap.meta.rules))
    pick.markup(_map(store.version(run), judged_by, headmap), "map-roles")
    many = common(headmap)
    faint = f", faintly where many heads share it ({', '.join(map(title, many))})" if many else ""
    g = headmap.meta.geometry
    gaps = " Gaps set KV groups apart." if 1 < g.kv_heads < g.heads else ""
    look.note(
        f"Every square is a head in the hue of its rarest role{faint}; dots are further roles.{gaps} "
        "Click one, or walk with the arrow keys and press Enter."
    )


@st.cache_resource(max_entries=8, show_spinner=False)
def _map(version: store.Stamp, rules: str, _headmap: HeadMap) -> Markup:
    return label_map(_headmap)


def _score(headmap: HeadMap, column: str, marks: list[str]) -> None:
    g, top = headmap.meta.geometry, headmap.top(column, 1)
    at = f"L{top['layer'][0]}H{top['head'][0]}" if len(top) else "no head"
    hue = next((r for r in headmap.roles if headmap.rule(r).score == column), None)
    pick.score_map(
        headmap, column, "map-score", role=hue, marks=marks,
        alt=f"Heat map of {column} over {g.layers} layers and {g.heads} heads, highest at {at}.",
    )  # fmt: skip
    info = headmap.meta.columns[column]
    look.note(f"{column}: {info.about}. From {info.prompts} prompts ({', '.join(info.tasks)}). {info.source}")


def _thresholds(own: HeadMap, headmap: HeadMap, shown: list[str]) -> None:
    """Sliders for the roles that are in view; all of them where all are."""
    roles = [r for r in own.roles if r in shown or own.rule(r).score in shown] or own.roles
    box = address.fold("Thresholds", "thresholds", rules.moved(own))
    if not box.open:  # sliders take the browser longer than the map does
        return
    with box:
        for row in range(0, len(roles), 3):
            for column, role in zip(st.columns(3), roles[row : row + 3], strict=False):
                with column:
                    rules.sliders(own, role)
                    count = int(headmap.frame[headmap.rule(role).column].sum())
                    look.note(f"{count} of {len(headmap.frame)} heads are {title(role)}.")
        rules.reset(own)


def _legend(run: Run, headmap: HeadMap) -> None:
    """Every role with its count and its best heads."""
    judged_by = " ".join(map(repr, headmap.meta.rules))
    pick.markup(_roles_listed(store.version(run), judged_by, headmap), "top-heads")


@st.cache_resource(max_entries=8, show_spinner=False)
def _roles_listed(version: store.Stamp, rules: str, _headmap: HeadMap) -> Markup:
    return look.part("legend", roles=roles_of(_headmap, 3))


def _best(headmap: HeadMap, column: str) -> None:
    role = next((r for r in headmap.roles if headmap.rule(r).score == column), "")
    best = entries(headmap, role or column, _TOP)
    pick.markup(look.part("best", entries=best, column=column, role=role, notes=[]), "top-heads")
