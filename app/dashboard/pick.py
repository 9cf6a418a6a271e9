"""Choosing a head with the mouse or the keys, and going to its page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from markupsafe import Markup, escape

from headscope.app import figures
from headscope.app.dashboard import navigation
from headscope.app.dashboard.look import theme
from headscope.app.looks import title

if TYPE_CHECKING:
    from collections.abc import Sequence

    import plotly.graph_objects as go

    from headscope.heads import HeadMap

_HERE = Path(__file__).parent
_MANY = 8000  # cells above which only WebGL keeps up


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
    """A score's map, in which a click on a cell opens that head; call `follow` first."""
    figure = figures.score_map(headmap, column, role=role, marks=marks, theme=theme())
    # Clicks on the cells themselves do not reach Python: the markers above them take over.
    figure.data[0].update(hoverinfo="skip", hovertemplate=None, customdata=None)
    figure.add_trace(_targets(headmap, column))
    roomy = 1.3 if headmap.meta.geometry.heads <= 24 else 1.0
    figure.update_layout(height=int(figure.layout.height * roomy))
    figure.update_layout(hovermode="closest", hoverdistance=60, dragmode=False, clickmode="event+select")
    st.plotly_chart(
        figure, theme=None, key=_fresh(key), on_select="rerun", selection_mode="points",
        config={"displayModeBar": False}, alt=alt,
    )  # fmt: skip


def follow(key: str) -> None:
    """Go where the last click on `score_map` pointed."""
    state: Any = st.session_state.get(_fresh(key))
    points = state["selection"]["points"] if state else []
    if points:
        # A new key each time: otherwise, coming back here, the same click would lead away again.
        st.session_state[f"visits-{key}"] = st.session_state.get(f"visits-{key}", 0) + 1
        navigation.go("head", layer=int(points[0]["x"]), head=int(points[0]["y"]))


def _fresh(key: str) -> str:
    return f"{key}-{st.session_state.get(f'visits-{key}', 0)}"


def _targets(headmap: HeadMap, column: str) -> go.Scatter:
    """An invisible marker on every cell, which takes the clicks and says what stands there."""
    import numpy as np
    import plotly.graph_objects as go

    frame = headmap.frame
    kind = go.Scattergl if len(frame) > _MANY else go.Scatter
    clear = {"opacity": 0}
    known = f"{column}_se" in frame
    numbers = [frame["kv_head"], frame[column], *([frame[f"{column}_se"]] if known else [])]
    above, labels = "<b>L%{x}H%{y}</b> · KV head %{customdata[0]}", "<br>%{text}" if headmap.roles else ""
    error = " ± %{customdata[2]:.4f}" if known else ""
    return kind(
        x=frame["layer"].to_numpy(),
        y=frame["head"].to_numpy(),
        mode="markers",
        marker={"symbol": "square", "size": 12, "opacity": 0},
        selected={"marker": clear},
        unselected={"marker": clear},
        customdata=np.stack([n.to_numpy(float) for n in numbers], -1),
        text=_roles(headmap),
        hovertemplate=f"{above}<br>{escape(column)} %{{customdata[1]:.4f}}{error}{labels}<extra></extra>",
    )


def _roles(headmap: HeadMap) -> list[str]:
    """What every head is labelled, in words."""
    words = [str(escape(title(role))) for role in headmap.roles]
    flags = headmap.labels()[headmap.roles].to_numpy(bool)
    return [", ".join(w for w, on in zip(words, row, strict=True) if on) or "no label" for row in flags]


def _component() -> Any:
    return st.components.v2.component(
        "headscope.pick",
        html='<div class="pick"></div>',
        css=(_HERE / "pick.css").read_text(encoding="utf-8"),
        js=(_HERE / "pick.js").read_text(encoding="utf-8"),
    )
