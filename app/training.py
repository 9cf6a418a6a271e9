"""Checkpoints as text and as a section of the report: what emerges in training, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from headscope.app.charts import Chart, chart
from headscope.app.layers import label_of
from headscope.app.looks import number, title, with_error
from headscope.app.tables import plain_table
from headscope.app.trainingfigures import training_layers, training_lines

if TYPE_CHECKING:
    from headscope.heads import Training

_LAYERS = ("sink_mass", "value_drain", "residual_peak")
_KIND = "sink_mass_"
_SHOWN = 5  # heads in a table of one score


@dataclass(frozen=True)
class TrainingSection:
    """The report's section on training.

    Attributes:
        about: what was scanned, in words.
        charts: title, explanation and figure of every score shown.
        headers, rows: labelled heads at every step, as text.
    """

    about: str
    charts: list[tuple[str, str, Chart]]
    headers: list[str]
    rows: list[list[str]]


def training_section(training: Training | None) -> TrainingSection | None:
    """What the checkpoints say; None without any."""
    if training is None:
        return None
    headers, rows = label_rows(training)
    return TrainingSection(
        about=f"{len(training.steps)} checkpoints, scanned with the same prompts. Everything above is "
        f"the last one's, after {training.steps[-1]:,} steps.",
        charts=[*_role_charts(training), *_kind_charts(training), *_layer_charts(training)],
        headers=headers,
        rows=rows,
    )


def label_rows(training: Training) -> tuple[list[str], list[list[str]]]:
    """How many heads carry each label at every step: headers and cells."""
    counts = training.counts()
    rows = [
        [f"{step:,}", *("–" if np.isnan(n) else str(int(n)) for n in row)]
        for step, row in zip(training.steps, counts.to_numpy(float), strict=True)
    ]
    return ["step", *map(title, map(str, counts.columns))], rows


def print_training(console: Console, training: Training) -> None:
    """How many heads carry each label at every step."""
    headers, rows = label_rows(training)
    meta = training.last.meta
    name = f"{meta.model}: labelled heads of {meta.geometry.layers * meta.geometry.heads} over training"
    _print(console, name, headers, rows)


def print_score(console: Console, training: Training, name: str) -> None:
    """A role's score, or any score, over the steps: the mean over heads, and the highest at the end."""
    column = score_of(training, name)
    values = training.over(column).to_numpy(float)
    error = f"{column}_se"
    errors = training.over(error).to_numpy(float) if error in training.frame else values * np.nan
    heads = list(training.over(column).columns)
    best = np.argsort(-np.nan_to_num(values[-1], nan=-np.inf), kind="stable")[:_SHOWN]
    headers = [
        "step",
        *([] if len(heads) == 1 else ["mean"]),
        *(f"L{a}H{b}" for a, b in (heads[i] for i in best)),
    ]
    rows = []
    for step, row, spread in zip(training.steps, values, errors, strict=True):
        mean = [] if len(heads) == 1 else [number(float(np.nanmean(row))) if np.isfinite(row).any() else "–"]
        rows.append([f"{step:,}", *mean, *(with_error(float(row[i]), float(spread[i])) for i in best)])
    _print(console, f"{column} over training", headers, rows)
    info = training.last.meta.columns.get(column)
    if info:
        console.print(f"{column}: {info.about}. {info.source}", markup=False)


def as_records(training: Training, name: str | None) -> dict[str, Any]:
    """The same as plain values: labels per step, or one score of every head per step."""
    if name is None:
        counts = training.counts()
        return {"steps": training.steps, "labelled": {str(r): counts[r].tolist() for r in counts}}
    column = score_of(training, name)
    values = training.over(column)
    heads = {f"L{head[0]}H{head[1]}": values[head].tolist() for head in values.columns}
    return {"steps": training.steps, "score": column, "heads": heads}


def score_of(training: Training, name: str) -> str:
    """The ranking score of a role; any other name is a column's."""
    return training.last.rule(name).score if name in training.last.roles else name


def _print(console: Console, name: str, headers: list[str], rows: list[list[str]]) -> None:
    table = plain_table(name, *headers)
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _role_charts(training: Training) -> list[tuple[str, str, Chart]]:
    return [
        _head_chart(training, training.last.rule(role).score, title(role), role)
        for role in training.last.roles
        if training.over(training.last.rule(role).score).notna().any(axis=None)
    ]


def _kind_charts(training: Training) -> list[tuple[str, str, Chart]]:
    """Where sinks emerge: attention on the first token, kind of text by kind."""
    kinds = [c for c in training.last.meta.columns if c.startswith(_KIND)]
    return [_head_chart(training, c, f"Sink mass on {c.removeprefix(_KIND)} text") for c in kinds]


def _head_chart(training: Training, score: str, name: str, role: str | None = None) -> tuple[str, str, Chart]:
    info = training.last.meta.columns.get(score)
    alt = f"{score} over training: {_course(training, training.over(score).to_numpy(float))}."
    drawn = chart(
        f"training-{score}", alt, lambda theme: training_lines(training, score, role=role, theme=theme)
    )
    about = f"{info.about}." if info else ""
    return name[:1].upper() + name[1:], about[:1].upper() + about[1:], drawn


def _layer_charts(training: Training) -> list[tuple[str, str, Chart]]:
    there = [c for c in _LAYERS if c in training.layers and training.layers[c].notna().any()]
    return [_layer_chart(training, column) for column in there]


def _layer_chart(training: Training, column: str) -> tuple[str, str, Chart]:
    name, about = label_of(column)
    values = training.layers.pivot(index="step", columns="layer", values=column).to_numpy(float)
    alt = f"{name} over training: {_course(training, values)}."
    drawn = chart(
        f"training-layers-{column}", alt, lambda theme: training_layers(training, column, theme=theme)
    )
    return name, about, drawn


def _course(training: Training, values: np.ndarray) -> str:
    """From where to where the highest line went, in words. [S, N]"""
    first, last = (np.nanmax(values[i], initial=-np.inf) for i in (0, -1))
    return (
        f"the highest goes from {number(float(first))} at step {training.steps[0]:,} to "
        f"{number(float(last))} at step {training.steps[-1]:,}"
    )
