"""The report's section on a sweep, and its figure: quality against retained KV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from headscope.app.axes import layout
from headscope.app.charts import Chart, chart
from headscope.app.looks import with_error
from headscope.app.palette import NEUTRAL, Hue, Theme, alpha, hues

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import Sweep

_WAYS = {
    "loss": "what streaming costs the answer (integrated gradients)",
    "error": "change of the layer's output",
    "gate": "DuoAttention's gates",
    "retrieval": "retrieval score",
    "razor": "RazorAttention",
    "random": "random KV groups",
}
_HUES = ("retrieval", "induction", "echo", "previous_token", "sink", "active_dormant", "hidden_sink")


def way(by: str) -> str:
    """A ranking in words."""
    return _WAYS.get(by, by)


HEADERS = ("ranking", "KV kept", "groups full", "right answers kept", "95%", "log-probability lost")


def cells(row: pd.Series) -> list[str]:
    """One point of a sweep as text, in the order of `HEADERS`."""
    draw = f" {int(row['draw']) + 1}" if row["by"] == "random" else ""
    return [
        f"{row['by']}{draw}",
        f"{row['kv_share']:.0%}",
        f"{row['full_share']:.0%}",
        f"{row['kept']:.0%}",
        f"{row['kept_low']:.0%} … {row['kept_high']:.0%}",
        with_error(row["logprob_drop"], row["logprob_drop_se"]),
    ]


def about(sweep: Sweep) -> str:
    """How a sweep was made, and what it found."""
    m = sweep.meta
    ways = list(dict.fromkeys(sweep.points["by"]))
    found = []
    for by in ways:
        enough, knee = sweep.enough(by), sweep.knee(by)
        says = (
            f"at least 95% kept from {enough:.0%} of the KV bytes on" if enough else "95% at no budget tried"
        )
        found.append(f"{by}: {says}" + (f", knee at {knee:.0%}" if knee else ""))
    return (
        f"{m.asked} {m.task} prompts of {m.length:,} tokens, {m.right} of them right with full attention; "
        f"streaming KV groups keep {m.sink} + {m.recent} keys. {'; '.join(found)}."
    )


def sweep_curve(sweep: Sweep, *, theme: Theme = "light") -> go.Figure:
    """Share of right answers kept over retained KV bytes, one line for each ranking."""
    figure = go.Figure(layout=layout(theme, 320))
    palette = hues(_HUES)
    ways = list(dict.fromkeys(sweep.points["by"]))
    others = [by for by in ways if by != "random"]
    for by in ways:
        hue = NEUTRAL if by == "random" else palette[_HUES[others.index(by) % len(_HUES)]]
        _line(figure, sweep, by, hue, theme)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    named = f"KV bytes kept at {sweep.meta.length:,} tokens"
    figure.update_xaxes(title={"text": named}, tickformat=".0%", range=[0, 1.04])
    figure.update_yaxes(range=[-0.04, 1.04], tickformat=".0%", showgrid=True, nticks=6)
    return figure


def _line(figure: go.Figure, sweep: Sweep, by: str, hue: Hue, theme: Theme) -> None:
    curve = sweep.curve(by)
    mine = sweep.points[sweep.points["by"] == by].groupby("budget")
    low, high = mine["kept_low"].min().to_numpy(), mine["kept_high"].max().to_numpy()
    colour = hue.on(theme)
    figure.add_trace(
        go.Scatter(
            x=curve["kv_share"], y=curve["kept"], mode="lines+markers", name=way(by),
            line={"color": colour, "width": 2, "dash": "dot" if by == "random" else "solid"},
            marker={"size": 6, "color": colour},
            error_y={
                "type": "data", "symmetric": False, "array": high - curve["kept"],
                "arrayminus": curve["kept"] - low, "color": alpha(colour, 0.5), "width": 4,
            },
            customdata=np.stack([low, high], -1),
            hovertemplate=(
                f"{by}: %{{x:.0%}} of the KV bytes<br>%{{y:.0%}} of the right answers kept "
                "(%{customdata[0]:.0%} to %{customdata[1]:.0%})<extra></extra>"
            ),
        )
    )  # fmt: skip


@dataclass(frozen=True)
class SweepSection:
    """The report's section on a sweep.

    Attributes:
        about: how it was made and what it found, in words.
        chart: the curves.
        headers, rows: all points as text.
    """

    about: str
    chart: Chart
    headers: tuple[str, ...]
    rows: list[list[str]]


def sweep_section(folder: Path | None) -> SweepSection | None:
    """Read `sweep.parquet` of a run folder; None if there is none."""
    if folder is None or not (folder / "sweep.parquet").exists():
        return None
    from headscope.heads import Sweep

    sweep = Sweep.open(folder)
    drawn = chart("sweep-curve", about(sweep), lambda theme: sweep_curve(sweep, theme=theme))
    rows = [cells(row) for _, row in sweep.points.iterrows()]
    return SweepSection(about(sweep), drawn, HEADERS, rows)
