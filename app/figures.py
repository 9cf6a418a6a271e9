"""The figures: head maps and layer profiles, the same in report, notebook and dashboard.

Every function takes tables and returns a plotly figure. Colours are always explicit, so that no
host (Streamlit's theme, a notebook's template) replaces them; `theme` chooses the set.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from headscope.app.axes import height, layout, limits, step, wide
from headscope.app.looks import title
from headscope.app.palette import COLOURS, NEUTRAL, Theme, alpha, hues, ramp

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import HeadMap


def score_map(
    headmap: HeadMap,
    column: str,
    *,
    role: str | None = None,
    marks: Sequence[str] | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """One score as a map: layers from left to right, heads from top to bottom.

    Gaps set KV groups apart; heads that carry the label of a marked role are outlined.

    Args:
        headmap: the map.
        column: a score column.
        role: the role whose hue to use.
        marks: roles whose labels to mark: one in the colour of ink, several each in its hue, one
            inside the other. `role` alone without it.
        theme: the set of colours.
    """
    score = headmap.grid(column).T  # heads x layers
    info = headmap.meta.columns.get(column)
    hue = hues(headmap.roles)[role] if role else NEUTRAL
    low, high = limits(score.to_numpy(float), info.low if info else None)
    figure = go.Figure(_cells(headmap, column, score), layout=layout(theme, height(len(score))))
    figure.update_layout(
        coloraxis={
            "colorscale": ramp(hue, theme, diverging=low < 0),
            "cmin": low,
            "cmax": high,
            "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.84, "y": 0.42, "x": 1.01, "nticks": 5},
        }
    )
    _head_axes(figure, headmap)
    figure.add_trace(_group_gaps(headmap, theme))
    marked = ([role] if role else []) if marks is None else marks
    ink, colours = COLOURS[theme]["ink"], hues(headmap.roles)
    for i, name in enumerate(marked):
        colour = ink if len(marked) == 1 else colours[name].on(theme)
        figure.add_trace(_outlines(headmap, name, colour, 0.44 - 0.09 * (i % 4)))
    return figure


def layer_line(layers: pd.DataFrame, column: str, *, theme: Theme = "light", label: str = "") -> go.Figure:
    """One per-layer measure over depth, with a band of two standard errors where it has any."""
    x, y = layers["layer"].to_numpy(), layers[column].to_numpy(float)
    figure = go.Figure(layout=layout(theme, 210))
    colour = NEUTRAL.on(theme)
    if f"{column}_se" in layers:
        error = np.nan_to_num(layers[f"{column}_se"].to_numpy(float))
        band = np.concatenate([y + 2 * error, (y - 2 * error)[::-1]])
        if wide(y):  # a logarithmic axis has no place for what is below zero
            band = np.maximum(band, np.nanmin(y[y > 0]) / 2)
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([x, x[::-1]]),
                y=band,
                fill="toself",
                fillcolor=alpha(colour, 0.2),
                line={"width": 0},
                hoverinfo="skip",
                mode="lines",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 5, "color": colour},
            hovertemplate=f"layer %{{x}}<br>{label or title(column)} %{{y:.4g}}<extra></extra>",
        )
    )
    figure.update_xaxes(title={"text": "layer"}, dtick=step(len(x)), range=[x.min() - 0.6, x.max() + 0.6])
    figure.update_yaxes(showgrid=True, nticks=6)
    if wide(y):
        figure.update_yaxes(type="log", dtick=1, tickformat=",", nticks=0)
    if not wide(y) and np.nanmin(y) >= 0:
        figure.update_yaxes(rangemode="tozero")
    return figure


def kind_map(
    headmap: HeadMap,
    prefix: str,
    heads: Sequence[tuple[int, int]],
    *,
    role: str | None = None,
    theme: Theme = "light",
) -> go.Figure:
    """A score that exists once per kind of text (`<prefix><kind>` columns), for chosen heads."""
    kinds = [c.removeprefix(prefix) for c in headmap.meta.columns if c.startswith(prefix)]
    rows = headmap.frame.set_index(["layer", "head"]).loc[list(heads)]
    z = rows[[f"{prefix}{kind}" for kind in kinds]].to_numpy(float)
    errors = np.stack([rows.get(f"{prefix}{k}_se", rows[f"{prefix}{k}"] * np.nan) for k in kinds], -1)
    hue = hues(headmap.roles)[role] if role else NEUTRAL
    figure = go.Figure(
        go.Heatmap(
            z=z,
            x=[html.escape(kind) for kind in kinds],
            y=[f"L{layer}H{head}" for layer, head in heads],
            customdata=np.round(errors, 6),
            xgap=2,
            ygap=2,
            zmin=0,
            zmax=max(1.0, float(np.nanmax(z))) if z.size else 1,
            colorscale=ramp(hue, theme),
            showscale=False,
            texttemplate="%{z:.2f}",
            textfont={"size": 11},
            hovertemplate="%{y} on %{x}<br>%{z:.4f} ± %{customdata:.4f}<extra></extra>",
        ),
        layout=layout(theme, 60 + 24 * len(heads)),
    )
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    figure.update_xaxes(side="top", type="category")
    return figure


def _cells(headmap: HeadMap, column: str, score: pd.DataFrame) -> go.Heatmap:
    frame = headmap.frame
    error = headmap.grid(f"{column}_se").T if f"{column}_se" in frame else score * np.nan
    group = headmap.grid("kv_head").T
    extra = np.stack([error.to_numpy(float), group.to_numpy(float)], -1)
    more = " ± %{customdata[0]:.4f}" if f"{column}_se" in frame else ""
    return go.Heatmap(
        z=score.to_numpy(float),
        x=score.columns.to_numpy(),
        y=score.index.to_numpy(),
        customdata=extra,
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hoverongaps=False,
        hovertemplate=(
            "L%{x}H%{y} · KV head %{customdata[1]}<br>"
            f"{html.escape(column)} %{{z:.4f}}{more}<extra></extra>"
        ),
    )


def _outlines(headmap: HeadMap, role: str, colour: str, d: float) -> go.Scatter:
    """One broken line around all labelled cells, `d` from their centres: it scales as markers would not."""
    labelled = headmap.frame[headmap.frame[headmap.rule(role).column].astype(bool)]
    x: list[float | None] = []
    y: list[float | None] = []
    for layer, head in zip(labelled["layer"].tolist(), labelled["head"].tolist(), strict=True):
        x += [layer - d, layer + d, layer + d, layer - d, layer - d, None]
        y += [head - d, head - d, head + d, head + d, head - d, None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        line={"color": colour, "width": 1.5 if headmap.meta.geometry.heads <= 16 else 1},
        hoverinfo="skip",
        name=f"labelled {title(role)}",
    )


def _head_axes(figure: go.Figure, headmap: HeadMap) -> None:
    g = headmap.meta.geometry
    figure.update_xaxes(title={"text": "layer"}, dtick=step(g.layers), range=[-0.5, g.layers - 0.5])
    figure.update_yaxes(
        title={"text": "head"},
        range=[g.heads - 0.5, -0.5],
        dtick=1 if g.heads <= 16 else g.group_size,
    )


def _group_gaps(headmap: HeadMap, theme: Theme) -> go.Scatter:
    """Lines in the colour of the page between KV groups; a trace, so that outlines lie above it."""
    g = headmap.meta.geometry
    edges = [i * g.group_size - 0.5 for i in range(1, g.kv_heads)] if g.group_size > 1 else []
    return go.Scatter(
        x=[x for _ in edges for x in (-0.5, g.layers - 0.5, None)],
        y=[y for edge in edges for y in (edge, edge, None)],
        mode="lines",
        line={"color": COLOURS[theme]["paper"], "width": 6 if g.heads <= 16 else 3},
        hoverinfo="skip",
    )
