"""Figures about one head: where it stands among all heads, and how it differs between kinds of text."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from headscope.app.axes import layout
from headscope.app.headview import Score
from headscope.app.palette import COLOURS, NEUTRAL, Theme, alpha, hues

if TYPE_CHECKING:
    from headscope.heads import HeadMap


def standing(headmap: HeadMap, scores: Sequence[Score], *, theme: Theme = "light") -> go.Figure:
    """Scores between 0 and 1 of one head, over the spread of all heads.

    One line per score: the middle half of all heads as a thick bar, the middle 90% as a thin one,
    and this head as a dot with two standard errors to either side, in the hue of the score's role.
    """
    figure = go.Figure(layout=layout(theme, 50 + 30 * len(scores)))
    grey, names = COLOURS[theme]["muted"], [html.escape(s.name) for s in scores]
    hue = hues(headmap.roles)
    of_role = {headmap.rule(r).score: hue[r] for r in headmap.roles}
    for low, high, width in ((0.05, 0.95, 3), (0.25, 0.75, 11)):
        ends = [headmap.frame[s.name].quantile([low, high]).tolist() for s in scores]
        figure.add_scatter(
            x=[x for pair in ends for x in (*pair, None)],
            y=[y for name in names for y in (name, name, None)],
            mode="lines", line={"color": alpha(grey, 0.38), "width": width}, hoverinfo="skip",
        )  # fmt: skip
    colours = [of_role.get(s.name, NEUTRAL).on(theme) for s in scores]
    for score, name, colour in zip(scores, names, colours, strict=True):
        error = 2 * score.error if np.isfinite(score.error) else 0.0
        figure.add_scatter(
            x=[score.value - error, score.value + error], y=[name] * 2, mode="lines",
            line={"color": colour, "width": 2}, hoverinfo="skip",
        )  # fmt: skip
    figure.add_scatter(
        x=[s.value for s in scores],
        y=names,
        mode="markers",
        marker={"color": colours, "size": 11, "line": {"color": COLOURS[theme]["paper"], "width": 1.5}},
        customdata=[[s.error, s.rank, s.of, html.escape(s.info.about)] for s in scores],
        hovertemplate=(
            "<b>%{y}</b> %{x:.4f} ± %{customdata[0]:.4f}<br>rank %{customdata[1]} of %{customdata[2]}"
            "<br>%{customdata[3]}<extra></extra>"
        ),
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(range=[-0.03, 1.03], showgrid=True, nticks=6)
    return figure


def kind_bars(
    headmap: HeadMap, layer: int, head: int, prefix: str, *, role: str | None = None, theme: Theme = "light"
) -> go.Figure:
    """A score that exists once per kind of text (`<prefix><kind>` columns), for one head."""
    frame = headmap.frame
    row = frame[(frame["layer"] == layer) & (frame["head"] == head)].iloc[0]
    kinds = [c.removeprefix(prefix) for c in headmap.meta.columns if c.startswith(prefix)]
    errors = [float(row.get(f"{prefix}{kind}_se", np.nan)) for kind in kinds]
    hue = hues(headmap.roles)[role] if role in headmap.roles else NEUTRAL
    figure = go.Figure(layout=layout(theme, 60 + 34 * len(kinds)))
    figure.add_bar(
        x=[float(row[f"{prefix}{kind}"]) for kind in kinds],
        y=[html.escape(kind) for kind in kinds],
        orientation="h",
        marker={"color": alpha(hue.on(theme), 0.75)},
        error_x={"array": [2 * e if np.isfinite(e) else 0.0 for e in errors], "color": COLOURS[theme]["ink"],
                 "thickness": 1.2, "width": 4},
        customdata=errors,
        hovertemplate="%{y} %{x:.4f} ± %{customdata:.4f}<extra></extra>",
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", type="category")
    bounded = all(headmap.meta.columns[f"{prefix}{kind}"].high == 1 for kind in kinds)
    figure.update_xaxes(
        showgrid=True, nticks=6, **({"range": [0, 1.03]} if bounded else {"rangemode": "tozero"})
    )
    return figure
