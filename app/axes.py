"""Frames of the figures: layout, ranges and ticks, without any data."""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from headscope.app.palette import COLOURS, FONT, Theme


def layout(theme: Theme, height: int) -> go.Layout:
    """What all figures share: no grid, no zoom, the page's own ground; `height` in pixels."""
    c = COLOURS[theme]
    axis = {
        "showgrid": False,
        "zeroline": False,
        "showline": False,
        "gridcolor": c["line"],
        "ticks": "",
        "tickfont": {"color": c["muted"], "size": 11},
        "title": {"font": {"color": c["muted"], "size": 12}, "standoff": 6},
        "automargin": True,
        "fixedrange": True,
    }
    return go.Layout(
        template="none",
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=False,
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": c["muted"], "activecolor": c["ink"]},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        xaxis=axis,
        yaxis=axis,
        font={"family": FONT, "size": 12, "color": c["muted"]},
        hoverlabel={
            "bgcolor": c["paper"],
            "bordercolor": c["line"],
            "font": {"color": c["ink"], "family": FONT, "size": 13},
        },
    )


def limits(values: np.ndarray[Any, Any], floor: float | None) -> tuple[float, float]:
    """The ends of the colour scale: from the score's own floor, unless all heads lie far above it."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    if -low > high / 100:
        return -max(-low, high), max(-low, high)
    low = max(low, 0.0)  # so little below zero is noise, and no reason for two colours
    start = low if floor is None or float(np.quantile(known, 0.05)) > high / 2 else max(floor, 0.0)
    return start, high if high > start else start + 1


def height(heads: int) -> int:
    """Of a map with a row for each head of a layer, in pixels; rows grow thinner where they are many."""
    cell = 20 if heads <= 12 else 15 if heads <= 24 else 11 if heads <= 40 else 8
    return 56 + max(cell * heads, 90)


def step(count: int) -> int:
    """From one tick to the next, so that `count` rows or columns have at most 16 of them."""
    return next(s for s in (1, 2, 5, 10, 20, 50) if count <= 16 * s or s == 50)


def wide(y: np.ndarray[Any, Any]) -> bool:
    """Whether values, all of them positive, span so much that their axis has to be logarithmic."""
    positive = y[np.isfinite(y)]
    return (
        bool(positive.size)
        and bool((positive > 0).all())
        and float(positive.max()) > max(2.0, 30 * float(positive.min()))
    )
