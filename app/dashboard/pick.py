"""Choosing a head with the mouse or the keys, and going to its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from markupsafe import Markup

from headscope.app.dashboard import navigation
from headscope.app.dashboard.look import theme
from headscope.app.scoremap import score_svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from headscope.heads import HeadMap

_HERE = Path(__file__).parent


def markup(content: Markup, key: str) -> None:
    """Show markup; a click on an element with `data-layer` and `data-head` opens that head.

    One on an element with `data-sae` and `data-feature` opens that feature, on the page it is on.
    """
    if not isinstance(content, Markup):
        raise TypeError("Only Markup can be shown.")
    data = {"content": str(content), "go": navigation.url("head"), "feature": navigation.url("circuits")}
    _component()(data=data, key=key)


def button(layer: int, head: int) -> Markup:
    """A head's name as something to click."""
    element = Markup('<button type="button" data-layer="{}" data-head="{}">L{}H{}</button>')
    return element.format(layer, head, layer, head)


def score_map(
    headmap: HeadMap, column: str, key: str, *, role: str | None, marks: Sequence[str] = (), alt: str
) -> None:
    """A score's map, in which a click on a cell opens that head."""
    markup(score_svg(headmap, column, role=role, marks=marks, theme=theme(), alt=alt), key)


def _component() -> Any:
    return st.components.v2.component(
        "headscope.pick",
        html='<div class="pick"></div>',
        css=(_HERE / "pick.css").read_text(encoding="utf-8"),
        js=(_HERE / "pick.js").read_text(encoding="utf-8"),
    )
