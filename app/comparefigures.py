"""Figures about two maps: head against head, and depth against depth."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from headscope.app.axes import layout
from headscope.app.palette import COLOURS, NEUTRAL, Theme, alpha, hues

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import HeadMap

_MANY = 4000  # points above which error bars and SVG are too much for a browser


def against(a: HeadMap, b: HeadMap, column: str, *, theme: Theme = "light") -> go.Figure:
    """One dot per head: its score in map `a` and in map `b`, with standard errors; equal on the line."""
    keys = ["layer", "head"]
    both = a.frame.merge(b.frame, on=keys, suffixes=("_a", "_b"))
    few = len(both) <= _MANY
    role = next((r for r in a.roles if a.rule(r).score == column), None)
    colour = (hues(a.roles)[role] if role else NEUTRAL).on(theme)
    x, y = both[f"{column}_a"], both[f"{column}_b"]
    errors = {}
    for axis, side in (("error_x", "a"), ("error_y", "b")):
        if few and f"{column}_se_{side}" in both:
            bars = {"array": both[f"{column}_se_{side}"], "color": alpha(colour, 0.3)}
            errors[axis] = bars | {"thickness": 1, "width": 0}
    figure = go.Figure(layout=layout(theme, 380))
    low, high = float(np.nanmin([x.min(), y.min()])), float(np.nanmax([x.max(), y.max()]))
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", hoverinfo="skip",
        line={"color": COLOURS[theme]["line"], "width": 2},
    )  # fmt: skip
    figure.add_trace((go.Scatter if few else go.Scattergl)(
        x=x, y=y, mode="markers", marker={"color": alpha(colour, 0.75), "size": 6},
        text=[f"L{layer}H{head}" for layer, head in zip(both["layer"], both["head"], strict=True)],
        hovertemplate="%{text}<br>%{x:.4f} → %{y:.4f}<extra></extra>", **errors,
    ))  # fmt: skip
    figure.update_xaxes(title={"text": "first run"}, showgrid=True, nticks=6)
    figure.update_yaxes(title={"text": "second run"}, showgrid=True, nticks=6)
    return figure


def profiles(found: Mapping[str, pd.DataFrame], column: str, *, theme: Theme = "light") -> go.Figure:
    """The mean (full line) and the highest head (dotted) over depth, one hue per map.

    Args:
        found: tables of `by_depth`, by the name to show.
        column: what they hold, for the axis.
        theme: the set of colours.
    """
    figure = go.Figure(layout=layout(theme, 300))
    colours = list(hues([f"map {i}" for i in range(len(found))]).values())
    for (name, table), hue in zip(found.items(), colours, strict=True):
        for measure, dash in (("mean", "solid"), ("highest", "dot")):
            figure.add_scatter(
                x=table["depth"], y=table[measure], mode="lines", name=f"{html.escape(name)}, {measure}",
                line={"color": hue.on(theme), "width": 2, "dash": dash}, customdata=table["layer"],
                hovertemplate=(
                    f"{html.escape(name)}, layer %{{customdata}}<br>{measure} of {html.escape(column)} "
                    "%{y:.4f}<extra></extra>"
                ),
            )  # fmt: skip
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.16, "x": 0})
    figure.update_xaxes(title={"text": "depth: first layer to last"}, range=[-0.02, 1.02], nticks=6)
    figure.update_yaxes(showgrid=True, nticks=6)
    return figure
