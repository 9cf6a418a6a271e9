"""The report's section on causal tests, and its figure: what is lost without a role's heads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from headscope.app.axes import layout
from headscope.app.charts import Chart, chart
from headscope.app.looks import number, story, title
from headscope.app.palette import NEUTRAL, Hue, Theme, alpha, hues

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import HeadMap, Proof

HEADERS = (
    "role", "heads", "with the role", "answers lost (95%)", "random heads (95%)", "with the role",
    "difference (95%)", "loss on prose", "random heads",
)  # fmt: skip


@dataclass(frozen=True)
class ProofSection:
    """One chart per role, and all numbers as text.

    Attributes:
        about: how the test was made, in words.
        charts: title and chart of every role.
        headers, rows: the table.
    """

    about: str
    charts: list[tuple[str, Chart]]
    headers: tuple[str, ...]
    rows: list[list[str]]


def proof_section(headmap: HeadMap, folder: Path | None) -> ProofSection | None:
    """Read `causal.parquet` of a run folder; None if there is none."""
    if folder is None or not (folder / "causal.parquet").exists():
        return None
    from headscope.heads import Proof

    proof = Proof.open(folder)
    roles = story(list(dict.fromkeys(proof.curves["role"])))
    return ProofSection(
        about(proof),
        [(title(role), _chart(proof, headmap, role)) for role in roles],
        HEADERS,
        [cells(row) for _, row in proof.curves.iterrows()],
    )


def about(proof: Proof) -> str:
    """How the test was made."""
    m = proof.meta
    where = "while the answer is written" if m.positions == "generated" else f"in {m.positions} rows"
    return (
        f"{m.prompts} {m.task} prompts of {m.length:,} tokens that the scan has not seen and the untouched "
        f"model answers right (it was asked {m.asked}). A role's best heads are ablated together "
        f"({m.method}, {where}), and against them {m.draws} draws of as many random heads of the same "
        f"layers{_whole(proof)}. Loss: on {m.texts} windows of {m.text_length} tokens of plain text, "
        f"ablated in every row; untouched {number(m.loss)} nats per token, a perplexity of "
        f"{np.exp(m.loss):.1f}."
    )


def _whole(proof: Proof) -> str:
    """What the random heads are, where a layer has few heads without the role, or too few heads."""
    mixed = proof.curves["control_labelled"].max() > 0
    lacking = bool(proof.curves["control_labelled"].isna().any())
    return (" without the role" if not mixed else ", without the role as far as a layer has such") + (
        "; there are none where a layer has too few other heads" if lacking else ""
    )


def proof_curve(
    proof: Proof, role: str, *, headmap: HeadMap | None = None, theme: Theme = "light"
) -> go.Figure:
    """Share of answers still right over the number of ablated heads, against random heads."""
    rows = proof.curves[proof.curves["role"] == role].sort_values("k")
    known = hues(headmap.roles) if headmap else {}
    figure = go.Figure(layout=layout(theme, 220))
    _line(figure, rows, "control_drop", NEUTRAL, "random heads", theme)
    _line(figure, rows, "drop", known.get(role, NEUTRAL), f"{title(role)} heads", theme)
    figure.update_xaxes(type="category", title={"text": "heads ablated"})
    figure.update_yaxes(range=[-0.04, 1.04], tickformat=".0%", showgrid=True, nticks=5)
    return figure


def _line(figure: go.Figure, rows: pd.DataFrame, column: str, hue: Hue, name: str, theme: Theme) -> None:
    kept = 1 - rows[column].to_numpy(float)
    # A missing end is an interval that could not be had; the point stands alone there.
    low = 1 - rows[f"{column}_high"].fillna(rows[column]).to_numpy(float)
    high = 1 - rows[f"{column}_low"].fillna(rows[column]).to_numpy(float)
    figure.add_trace(
        go.Scatter(
            x=rows["k"].astype(str).tolist(),
            y=kept,
            mode="lines+markers",
            name=name,
            line={"color": hue.on(theme), "width": 2, "dash": "dot" if column != "drop" else "solid"},
            marker={"size": 6, "color": hue.on(theme)},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": high - kept,
                "arrayminus": kept - low,
                "color": alpha(hue.on(theme), 0.5),
                "width": 4,
            },
            customdata=np.stack([low, high], -1),
            hovertemplate=(
                f"{name}: %{{x}} ablated<br>%{{y:.0%}} still right "
                "(%{customdata[0]:.0%} to %{customdata[1]:.0%})<extra></extra>"
            ),
        )
    )


def _chart(proof: Proof, headmap: HeadMap, role: str) -> Chart:
    last = proof.curves[proof.curves["role"] == role].sort_values("k").iloc[-1]
    alt = (
        f"Answers still right when {title(role)} heads are ablated: with {int(last['k'])} of them "
        f"{1 - last['drop']:.0%}, with random heads of the same layers {1 - last['control_drop']:.0%}."
    )
    return chart(f"proof-{role}", alt, lambda theme: proof_curve(proof, role, headmap=headmap, theme=theme))


def cells(row: pd.Series) -> list[str]:
    """One row of the curves as text, in the order of `HEADERS`."""
    return [
        title(str(row["role"])),
        str(int(row["k"])),
        str(int(row["labelled"])),
        _ranged(row, "drop"),
        _ranged(row, "control_drop"),
        _share(row["control_labelled"]),
        _ranged(row, "difference"),
        _rise(row, "loss_rise"),
        _rise(row, "control_loss_rise"),
    ]


def _share(value: float) -> str:
    return f"{value:.0%}" if np.isfinite(value) else "–"


def _ranged(row: pd.Series, column: str) -> str:
    low, high = float(row[f"{column}_low"]), float(row[f"{column}_high"])
    return _share(row[column]) + (f" ({100 * low:.0f}…{high:.0%})" if np.isfinite(low) else "")


def _rise(row: pd.Series, column: str) -> str:
    value, error = float(row[column]), float(row[f"{column}_se"])
    return f"{value:+.3f} ± {number(error)}" if np.isfinite(value) else "–"
