"""The report's section on extreme tokens: sinks, value drains and residual peaks over depth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from headscope.app import figures
from headscope.app.charts import Chart, chart
from headscope.app.looks import number, title

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from headscope.app.palette import Theme

_LABELS = {
    "sink_mass": ("Sink mass", "Mean attention on the first token, over heads."),
    "value_drain": (
        "Value drain",
        "Size of the first token's value over an ordinary token's; below 1 it is drained.",
    ),
    "residual_peak": ("Residual peak", "Largest norm of a token over the median norm."),
    "inf_norm": ("Largest entry", "Of the residual stream, in absolute value."),
    "kurtosis": ("Kurtosis", "Of all entries of the residual stream; 3 for a Gaussian."),
    "median_norm": ("Median norm", "Of a token in the residual stream."),
    "peak_token": ("peak tokens", ""),
    "peak_at": ("at positions", ""),
    "peak_dims": ("in dimensions", ""),
}


@dataclass(frozen=True, eq=False)
class Measure:
    """One measure over depth.

    Attributes:
        title, about: what it is called and what it means.
        column: its column in `layers`.
        alt: its figure in words.
        layers: the table.
    """

    title: str
    about: str
    column: str
    alt: str
    layers: pd.DataFrame

    @cached_property
    def chart(self) -> Chart:
        """Its figure, for a page in which the reader chooses the theme."""
        return chart(f"layer-{self.column}", self.alt, self.figure)

    def figure(self, theme: Theme) -> go.Figure:
        """Its figure in one theme."""
        return figures.layer_line(self.layers, self.column, theme=theme, label=self.title)


@dataclass(frozen=True)
class LayerSection:
    """All measures, and a table of what is text.

    Attributes:
        measures: one chart each.
        headers: the columns of the table.
        rows: its rows, as text.
        summary: where the residual peak is largest, in words; empty if that was not measured.
    """

    measures: list[Measure]
    headers: list[str]
    rows: list[list[str]]
    summary: str


def layer_section(folder: Path | None) -> LayerSection | None:
    """Read `layers.parquet` of a run folder; None if there is none."""
    file = folder / "layers.parquet" if folder else None
    if file is None or not file.exists():
        return None
    from headscope.heads import read_layers

    return section_of(read_layers(file))


def section_of(layers: pd.DataFrame) -> LayerSection | None:
    """What the table of layers says; None if it has none."""
    if layers.empty:
        return None
    numeric = [str(c) for c in layers.select_dtypes("number") if c != "layer" and not str(c).endswith("_se")]
    texts = [str(c) for c in layers if c not in layers.select_dtypes("number")]
    shown = ["layer", *numeric, *texts]
    return LayerSection(
        measures=[_measure(layers, c) for c in numeric if layers[c].notna().any()],
        headers=[label_of(c)[0] for c in shown],
        rows=[[_text(row[c]) for c in shown] for _, row in layers.iterrows()],
        summary=_summary(layers),
    )


def label_of(column: str) -> tuple[str, str]:
    """What a measure is called, and what it means."""
    return _LABELS.get(column, (title(column).capitalize(), ""))


def _measure(layers: pd.DataFrame, column: str) -> Measure:
    name, about = label_of(column)
    best = layers.iloc[int(layers[column].argmax())]
    where = f"highest in layer {int(best['layer'])} with {number(float(best[column]))}"
    alt = f"{name} over {len(layers)} layers, {where}."
    return Measure(name, about, column, alt, layers)


def _summary(layers: pd.DataFrame) -> str:
    if (
        not {"residual_peak", "peak_token", "peak_dims"} <= set(layers)
        or layers["residual_peak"].isna().all()
    ):
        return ""
    top = layers.iloc[int(layers["residual_peak"].argmax())]
    return (
        f"The residual stream peaks most before layer {int(top['layer'])}: one token's norm is "
        f"{float(top['residual_peak']):,.0f} times the median's. It is carried by {top['peak_token']}, "
        f"in dimensions {str(top['peak_dims']).replace(chr(39), '')}."
    )


def _text(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
