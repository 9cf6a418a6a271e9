"""Figures of circuits: the graph, layer by layer, and how much of the task a circuit keeps.

The graph shows the largest edges alone, and of those only what lies on a way from the embeddings to the
logits; nodes stand in lanes by role, so that what is drawn stays readable at any size of model.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from headscope.app.axes import layout
from headscope.app.looks import story, title, with_error
from headscope.app.palette import COLOURS, NEUTRAL, Hue, Theme, alpha, hues

if TYPE_CHECKING:
    import networkx as nx

    from headscope.heads import HeadMap
    from headscope.probes import Circuit, Curve

SHOWN = 40  # edges
_NODES = 24  # of methods that score no edges
_LANE, _WIDEST = 36, 9.0  # pixels a row; of the thickest edge
_GAP = 0.5  # rows between lanes
_FOR, _AGAINST = "retrieval", "induction"  # whose hues edges for and against the task have


@dataclass(frozen=True)
class _Place:
    x: float
    y: float


def roles_of_heads(headmap: HeadMap | None) -> dict[str, str]:
    """The rarest role of every labelled head, by its name; the same colour as on the map."""
    if headmap is None or not headmap.roles:
        return {}
    labels = headmap.labels()
    counts = {role: int(labels[role].sum()) for role in headmap.roles}
    found = {}
    for row in labels.to_dict("records"):
        mine = [role for role in headmap.roles if row[role]]
        if mine:
            found[f"L{row['layer']}H{row['head']}"] = min(mine, key=lambda role: counts[role])
    return found


def shown_graph(circuit: Circuit, edges: int = SHOWN) -> nx.DiGraph:
    """What is drawn of a circuit: its largest edges, without those that lead nowhere.

    Methods that score no edges give their largest nodes.
    """
    import networkx as nx

    graph = circuit.graph(edges)
    if not len(circuit.edges):
        best = sorted(circuit.nodes, key=lambda node: -abs(node.score))[:_NODES]
        return graph.subgraph([node.id for node in best]).copy()
    ends = [n for n in ("embed", "logits") if n in graph]
    useful = set(graph)
    if len(ends) == 2:
        useful = (nx.descendants(graph, "embed") | {"embed"}) & (nx.ancestors(graph, "logits") | {"logits"})
        if len(useful) < 3:  # hardly any whole way: show all that leads to the logits
            useful = nx.ancestors(graph, "logits") | {"logits"}
    found = graph.subgraph(useful).copy()
    found.remove_nodes_from([n for n in list(found) if not found.degree(n)])
    return found


def circuit_graph(
    circuit: Circuit, *, edges: int = SHOWN, headmap: HeadMap | None = None, theme: Theme = "light"
) -> go.Figure:
    """The circuit from the embeddings on the left to the logits on the right.

    Thickness of an edge and size of a node follow the absolute score; solid edges work for the task,
    dotted ones against it. Only layers in which something stands take up room.

    Args:
        circuit: what to draw.
        edges: how many of its largest edges.
        headmap: whose roles give the lanes and colours; kinds of nodes without one.
        theme: the set of colours.
    """
    graph, roles = shown_graph(circuit, edges), roles_of_heads(headmap)
    lanes = _lanes(graph, roles)
    places, rows, columns = _placed(graph, lanes)
    figure = go.Figure(layout=layout(theme, 110 + round(_LANE * max(rows, 4))))
    _draw_edges(figure, graph, places, theme)
    _draw_nodes(figure, graph, places, lanes, theme)
    _name_lanes(figure, lanes, places, theme)
    ticks = {column: x for x, column in enumerate(columns)}
    figure.update_xaxes(
        tickvals=[x for c, x in ticks.items() if 0 <= c < circuit.geometry.layers],
        ticktext=[str(c) for c in columns if 0 <= c < circuit.geometry.layers],
        title={"text": "layer (those with something to show)"}, range=[-1.9, len(columns) - 0.4],
    )  # fmt: skip
    figure.update_yaxes(visible=False, range=[rows - 0.2, -0.8])
    if graph.number_of_edges():
        figure.update_layout(
            showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0}
        )
    return figure


def _layer(name: str, data: Mapping[str, Any], last: int) -> int:
    if name == "logits":
        return last
    return -1 if data.get("layer") is None else int(data["layer"])


def _lanes(graph: nx.DiGraph, roles: Mapping[str, str]) -> dict[str, str]:
    """The lane of every node: its role, or what it is."""
    named = {"mlp": "MLP", "embed": "", "logits": "", "feature": "features", "error": "errors"}
    found = {}
    for name, data in graph.nodes(data=True):
        kind = data.get("kind") or ("logits" if name == "logits" else "other")
        found[name] = roles.get(name, "heads" if not roles else "other heads") if kind == "head" else (
            named.get(kind, "other")
        )  # fmt: skip
    return found


def _order(lanes: Mapping[str, str]) -> list[str]:
    """Lanes from top to bottom: roles in the order of their story, then other heads, MLPs, the rest."""
    last = ["heads", "other heads", "", "MLP", "features", "errors", "other"]
    present = set(lanes.values())
    return [*story([lane for lane in sorted(present) if lane not in last]),
            *(lane for lane in last if lane in present)]  # fmt: skip


def _placed(graph: nx.DiGraph, lanes: Mapping[str, str]) -> tuple[dict[str, _Place], float, list[int]]:
    """Where every node stands, how many rows there are, and which layer each column shows."""
    end = 1 + max(
        (int(d["layer"]) for _, d in graph.nodes(data=True) if d.get("layer") is not None), default=0
    )
    at = {name: _layer(name, data, end) for name, data in graph.nodes(data=True)}
    columns = sorted(set(at.values()))
    places, top = dict[str, _Place](), 0.0
    for lane in _order(lanes):
        mine = sorted((n for n in graph if lanes[n] == lane), key=lambda n: (at[n], n))
        stacks: dict[int, int] = {}
        for name in mine:
            depth = stacks.get(at[name], 0)
            places[name] = _Place(columns.index(at[name]), top + depth)
            stacks[at[name]] = depth + 1
        top += max(stacks.values(), default=0) + _GAP
    return places, top - _GAP, columns


def _draw_edges(figure: go.Figure, graph: nx.DiGraph, places: Mapping[str, _Place], theme: Theme) -> None:
    largest = max((abs(d["score"]) for _, _, d in graph.edges(data=True)), default=1.0) or 1.0
    colours = hues((_FOR, _AGAINST))
    for sign, (name, dash) in {
        _FOR: ("works for the task", "solid"),
        _AGAINST: ("against it", "dot"),
    }.items():
        figure.add_scatter(
            x=[None], y=[None], mode="lines", name=name, showlegend=True,
            line={"color": colours[sign].on(theme), "width": 3, "dash": dash},
        )  # fmt: skip
    for source, target, data in sorted(graph.edges(data=True), key=lambda e: abs(e[2]["score"])):
        a, b, score = places[source], places[target], float(data["score"])
        share = abs(score) / largest
        colour = colours[_FOR if score > 0 else _AGAINST].on(theme)
        t = np.linspace(0, 1, 24)
        ease = t * t * (3 - 2 * t)
        detour = 0.28 * np.sin(np.pi * t) * (1 if abs(a.y - b.y) < 0.5 and b.x - a.x > 1 else 0)
        figure.add_scatter(
            x=a.x + (b.x - a.x) * t, y=a.y + (b.y - a.y) * ease - detour, mode="lines",
            line={"width": 1 + (_WIDEST - 1) * share, "color": alpha(colour, 0.25 + 0.5 * share),
                  "dash": "solid" if score > 0 else "dot"},
            hoverinfo="text", text=_edge_says(source, target, data), showlegend=False,
        )  # fmt: skip


def _edge_says(source: str, target: str, data: Mapping[str, Any]) -> str:
    parts = ", ".join(f"{name} {data[name]:.3f}" for name in "qkv" if name in data)
    return html.escape(f"{source} → {target}: {parts or format(data['score'], '.3f')}")


def _draw_nodes(
    figure: go.Figure, graph: nx.DiGraph, places: Mapping[str, _Place], lanes: Mapping[str, str], theme: Theme
) -> None:
    c, names = COLOURS[theme], list(graph)
    scores = [float(graph.nodes[n].get("score") or 0.0) for n in names]
    inner = [abs(s) for n, s in zip(names, scores, strict=True) if n not in ("embed", "logits")]
    largest = max(inner, default=1.0) or 1.0
    palette = _palette(set(lanes.values()))
    sizes = [13 + 15 * min(1.0, abs(s) / largest) for s in scores]
    says = [
        f"{n}" + ("" if n == "logits" else f"<br>{with_error(s, graph.nodes[n].get('se') or float('nan'))}")
        for n, s in zip(map(html.escape, names), scores, strict=True)
    ]
    figure.add_scatter(
        x=[places[n].x for n in names], y=[places[n].y for n in names], mode="markers+text",
        marker={"size": sizes, "color": [palette[lanes[n]].on(theme) for n in names],
                "line": {"color": c["paper"], "width": 2}, "opacity": 1},
        text=[html.escape(n) for n in names], textposition="bottom center",
        textfont={"size": 10, "color": c["ink"]}, hovertext=says, hoverinfo="text", showlegend=False,
        cliponaxis=False,
    )  # fmt: skip


def _palette(lanes: set[str]) -> dict[str, Hue]:
    plain = {"heads", "other heads", "", "MLP", "features", "errors", "other"}
    return hues(sorted(lanes - plain)) | dict.fromkeys(plain, NEUTRAL)


def _name_lanes(
    figure: go.Figure, lanes: Mapping[str, str], places: Mapping[str, _Place], theme: Theme
) -> None:
    for i, lane in enumerate(_order(lanes)):
        rows = [places[n].y for n in lanes if lanes[n] == lane]
        if i:
            figure.add_hline(y=min(rows) - (1 + _GAP) / 2, line={"color": COLOURS[theme]["line"], "width": 1})
        if lane:
            figure.add_annotation(
                x=-1.85, y=(min(rows) + max(rows)) / 2, text=html.escape(title(lane)), showarrow=False,
                xanchor="left", font={"size": 12, "color": COLOURS[theme]["muted"]},
            )  # fmt: skip


def faithfulness_curves(curves: Sequence[Curve], *, theme: Theme = "light") -> go.Figure:
    """Faithfulness over the share of heads (or edges) in the circuit, a line for each method.

    Baselines are dotted; the thin line is what the whole model does.
    """
    figure = go.Figure(layout=layout(theme, 340))
    palette = list(hues([f"method {i}" for i in range(len(curves))]).values())
    for curve, hue in zip(curves, palette, strict=True):
        name, base = html.escape(curve.method), curve.method in ("random", "layer", "difference")
        colour = (NEUTRAL if curve.method == "random" else hue).on(theme)
        some = [i for i, n in enumerate(curve.count) if n]
        figure.add_scatter(
            x=[curve.share[i] for i in some], y=[curve.f[i] for i in some], mode="lines+markers",
            name=name, line={"color": colour, "width": 2, "dash": "dot" if base else "solid"},
            marker={"size": 6, "color": colour},
            error_y={"type": "data", "array": [1.96 * (curve.f_se[i] or 0.0) for i in some],
                     "color": alpha(colour, 0.45), "width": 3, "thickness": 1.5},
            customdata=[curve.count[i] for i in some],
            hovertemplate=f"{name}: %{{customdata}} {curve.grain}<br>%{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=1, line={"color": COLOURS[theme]["muted"], "width": 1})
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    grain = curves[0].grain if curves else "heads"
    figure.update_xaxes(title={"text": f"share of {grain} in the circuit"}, type="log", tickformat=".1%",
                        tickvals=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])  # fmt: skip
    figure.update_yaxes(title={"text": "faithfulness"}, showgrid=True, nticks=7)
    return figure
