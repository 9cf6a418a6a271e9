"""Scores over training steps: one line for every head, or for every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from headscope.app.axes import layout, wide
from headscope.app.looks import title
from headscope.app.palette import NEUTRAL, Hue, Theme, alpha, hues

if TYPE_CHECKING:
    from headscope.heads import Training

_FEW = 12  # lines that can each be told apart; of more, all but the highest are faint
_BEST = 5
_COLOURED = ("sink", "induction", "retrieval", "echo", "previous_token")


def training_lines(
    training: Training, column: str, *, role: str | None = None, theme: Theme = "light"
) -> go.Figure:
    """A score of every head over training steps, with bands of two standard errors.

    Of many heads the five that end highest are in colour and the others faint, beside their median.

    Args:
        training: the scans of the checkpoints.
        column: a score column.
        role: the role whose hue a single head has.
        theme: the set of colours.

    Raises:
        UnknownName: no such column.
    """
    values = training.over(column)
    names = [f"L{head[0]}H{head[1]}" for head in values.columns]
    error = f"{column}_se"
    errors = training.over(error) if error in training.frame else values * np.nan
    hue = hues(training.last.roles)[role] if role else NEUTRAL
    return _lines(training.steps, values.to_numpy(float), errors.to_numpy(float), names, hue, theme)


def training_layers(training: Training, column: str, *, theme: Theme = "light") -> go.Figure:
    """A measure of the layer profile over training steps, one line for every layer."""
    wanted = training.layers.pivot(index="step", columns="layer", values=column)
    error = f"{column}_se"
    known = error in training.layers
    errors = training.layers.pivot(index="step", columns="layer", values=error) if known else wanted * np.nan
    names = [f"layer {layer}" for layer in wanted.columns]
    return _lines(training.steps, wanted.to_numpy(float), errors.to_numpy(float), names, NEUTRAL, theme)


def _lines(
    steps: Sequence[int],
    values: NDArray[np.float64],
    errors: NDArray[np.float64],
    names: Sequence[str],
    hue: Hue,
    theme: Theme,
) -> go.Figure:
    """S steps, N lines. [S, N] each"""
    figure = go.Figure(layout=layout(theme, 240))
    x = _places(steps)
    ends = np.nan_to_num(values[-1], nan=-np.inf)
    best = np.argsort(-ends, kind="stable")[: len(names) if len(names) <= _FEW else _BEST]
    if len(names) > _FEW:
        faint = [i for i in range(len(names)) if i not in best]
        figure.add_trace(_faint(x, values[:, faint], theme))
        figure.add_trace(_line(x, steps, np.nanmedian(values, 1), "median", NEUTRAL.on(theme), "dot"))
    colours = [h.on(theme) for h in hues(_COLOURED).values()]
    for place, i in enumerate(best):
        colour = hue.on(theme) if len(names) == 1 else colours[place % len(colours)]
        if np.isfinite(errors[:, i]).any():
            # Several bands lie on one another; fainter, they can still be told apart.
            figure.add_trace(
                _band(x, values[:, i], errors[:, i], alpha(colour, 0.2 if len(best) < 3 else 0.06))
            )
        figure.add_trace(_line(x, steps, values[:, i], names[i], colour, "solid"))
    if len(names) > 1:
        legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
        figure.update_layout(showlegend=True, legend=legend)
    named = [_short(s) for s in steps]
    figure.update_xaxes(title={"text": "training step"}, tickvals=x, ticktext=named, tickangle=0)
    figure.update_yaxes(showgrid=True, nticks=6)
    flat = values.ravel()
    if wide(flat):
        figure.update_yaxes(type="log", tickformat=",~g", nticks=0, dtick=1)
    elif np.nanmin(flat, initial=0.0) >= 0:
        figure.update_yaxes(rangemode="tozero")
    return figure


def _places(steps: Sequence[int]) -> NDArray[np.float64]:
    """Where the steps stand on a logarithmic axis; step 0 a usual gap before the first. [S]"""
    x = np.log10(np.maximum(steps, 1))
    if steps[0] == 0 and len(steps) > 1:
        gap = (x[-1] - x[1]) / (len(x) - 2) if len(x) > 2 else 1.0
        x[0] = x[1] - max(gap, 0.1)
    return x


def _line(
    x: NDArray[np.float64], steps: Sequence[int], y: NDArray[np.float64], name: str, colour: str, dash: str
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 5, "color": colour},
        customdata=np.array(steps),
        hovertemplate=f"{title(name)} at step %{{customdata:,}}<br>%{{y:.4g}}<extra></extra>",
    )


def _band(
    x: NDArray[np.float64], y: NDArray[np.float64], error: NDArray[np.float64], colour: str
) -> go.Scatter:
    spread = 2 * np.nan_to_num(error)
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([y + spread, (y - spread)[::-1]]),
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        hoverinfo="skip",
        mode="lines",
        showlegend=False,
    )


def _faint(x: NDArray[np.float64], values: NDArray[np.float64], theme: Theme) -> go.Scatter:
    """All other lines as one broken line. [S, N]"""
    gap = np.full((1, values.shape[1]), np.nan)
    return go.Scatter(
        x=np.tile(np.append(x, np.nan), values.shape[1]),
        y=np.concatenate([values, gap]).T.ravel(),
        mode="lines",
        line={"color": alpha(NEUTRAL.on(theme), 0.25), "width": 1},
        hoverinfo="skip",
        name="other heads",
        showlegend=False,
    )


def _short(step: int) -> str:
    """143000 as 143k."""
    return f"{step / 1000:g}k" if step >= 1000 and step % 100 == 0 else str(step)
