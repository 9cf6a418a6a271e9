"""Figures about policies: which KV groups keep everything, and how far methods agree about it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from headscope.app.axes import layout, step
from headscope.app.looks import number
from headscope.app.palette import COLOURS, NEUTRAL, Theme, hues, mix, ramp
from headscope.app.policyview import kept, votes

if TYPE_CHECKING:
    from headscope.heads import Policy


def policy_map(policy: Policy, *, theme: Theme = "light") -> go.Figure:
    """Layers from left to right, query heads from top to bottom; full attention in the strong hue.

    A head that streams although its group keeps everything is half as strong; layers with a
    sliding window of their own are left empty.
    """
    g = policy.geometry
    groups = np.repeat(kept(policy).astype(float), g.group_size, axis=1)
    reads = np.array([[span is None for span in row] for row in policy.compute], float)
    level = groups + reads  # 0 streams, 1 its group keeps what it does not read, 2 reads everything
    own = np.array([w is not None for w in g.windows])
    level[own] = np.nan
    words = [[_words(policy, layer, head) for layer in range(g.layers)] for head in range(g.heads)]
    empty, full = COLOURS[theme]["empty"], hues(["retrieval"])["retrieval"].on(theme)
    half = mix(empty, full, 0.45)
    scale = [[0, empty], [1 / 3, empty], [1 / 3, half], [2 / 3, half], [2 / 3, full], [1, full]]
    return _map(level.T, scale, 2, words, g.heads, g.group_size, theme)


def vote_map(policies: Mapping[str, Policy], *, theme: Theme = "light") -> go.Figure:
    """How many methods keep each KV group whole, at the same share of groups."""
    found, g = votes(policies), next(iter(policies.values())).geometry
    who = {name: kept(p) for name, p in policies.items()}
    words = [
        [
            f"layer {layer}, KV head {group}<br>kept by "
            + (", ".join(n for n, k in who.items() if k[layer, group]) or "none")
            for layer in range(g.layers)
        ]
        for group in range(g.kv_heads)
    ]
    return _map(found.T.astype(float), ramp(NEUTRAL, theme), len(policies), words, g.kv_heads, 1, theme)


def _words(policy: Policy, layer: int, head: int) -> str:
    g = policy.geometry
    group = g.kv_head(head)
    span, score = policy.compute[layer][head], policy.scores[layer][group] if policy.scores else None
    if g.windows[layer] is not None:
        does = f"has the model's own window of {g.windows[layer]}"
    else:
        does = f"reads {span.sink} first + {span.recent} recent keys" if span else "reads everything"
    ranked = f"<br>{html.escape(policy.origin.by)} {number(score)}" if score is not None else ""
    return f"<b>L{layer}H{head}</b> · KV head {group}<br>{does}{ranked}"


def _map(
    z: NDArray[Any], scale: list[list[Any]], top: float, words: list[list[str]], rows: int, every: int,
    theme: Theme,
) -> go.Figure:  # fmt: skip
    layers = z.shape[1]
    cell = 24 if rows <= 12 else 14 if rows <= 40 else 8
    figure = go.Figure(
        go.Heatmap(
            z=z, zmin=0, zmax=top, colorscale=scale, showscale=False, xgap=1, ygap=1, text=words,
            hovertemplate="%{text}<extra></extra>", hoverongaps=False,
        ),
        layout=layout(theme, 56 + max(cell * rows, 90)),
    )  # fmt: skip
    edges = [i - 0.5 for i in range(every, rows, every)] if every > 1 else []
    figure.add_scatter(
        x=[x for _ in edges for x in (-0.5, layers - 0.5, None)],
        y=[y for edge in edges for y in (edge, edge, None)],
        mode="lines", hoverinfo="skip",
        line={"color": COLOURS[theme]["paper"], "width": 6 if rows <= 16 else 3},
    )  # fmt: skip
    figure.update_xaxes(title={"text": "layer"}, dtick=step(layers), range=[-0.5, layers - 0.5])
    title = "head" if every > 1 else "KV head"
    figure.update_yaxes(title={"text": title}, range=[rows - 0.5, -0.5], dtick=1 if rows <= 16 else every)
    return figure
