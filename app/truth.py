"""The truth table as text: which scores predict what a head's ablation does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from headscope.app.looks import number
from headscope.app.tables import plain_table

if TYPE_CHECKING:
    import pandas as pd

    from headscope.heads import AblationsMeta, TruthTable

HEADERS = ("score", "heads", "rank correlation", "overlap", "AUC")
_MEASURES = ("spearman", "overlap", "auc")
_DEAR = ("effect_", "causal")  # columns that are ablations themselves
_TITLES = {
    "effect_answer": "the fall of an answer's log-probability",
    "effect_text": "the rise of the loss on plain text",
}


def title_of(effect: str) -> str:
    """An effect in words."""
    return _TITLES.get(effect, effect)


def about(table: TruthTable, meta: AblationsMeta) -> str:
    """How the effects were measured."""
    r = meta.removal
    return (
        f"Each head of {meta.model} alone, {r.method}-ablated: while the answer of {r.prompts} {r.task} "
        f"prompts of {r.length:,} tokens is written, and in every row of {r.texts} windows of "
        f"{r.text_length} tokens of prose. Overlap and AUC: the {table.k} heads with the largest effect "
        f"(chance: {number(table.k / _heads(table), 2)} and 0.5). In brackets 95% intervals, heads and "
        "prompts drawn anew. A minus sign: the score is read from its low end."
    )


def _heads(table: TruthTable) -> int:
    return int(table.ceiling["heads"].max())


def verdict(table: TruthTable) -> list[str]:
    """Which score that needs no ablation finds the heads that matter best, a sentence an effect."""
    said = []
    for effect, rows in table.against.groupby("effect", sort=False):
        cheap = rows[~rows["score"].str.startswith(_DEAR)]
        if cheap.empty:
            continue
        best = cheap.iloc[0]
        top = table.ceiling[table.ceiling["effect"] == effect].iloc[0]
        score = f"{'a low ' if best['low'] else ''}{best['score']}"
        said.append(
            f"Of the scores that need no ablation, {score} finds the heads behind "
            f"{title_of(str(effect))} best: AUC {_measure(best, 'auc')}, rank correlation "
            f"{_measure(best, 'spearman')}; half of the prompts predict the other half with "
            f"{_measure(top, 'auc')} and {_measure(top, 'spearman')}."
        )
    return said


def rows_of(table: TruthTable, effect: str, top: int | None = None) -> list[list[str]]:
    """The scores against one effect as text, best first, under what a score could reach."""
    rows = table.against[table.against["effect"] == effect]
    ceiling = table.ceiling[table.ceiling["effect"] == effect]
    above = [_cells(row) for _, row in ceiling.iterrows()]
    return above + [_cells(row) for _, row in rows.head(top or len(rows)).iterrows()]


def print_truth(console: Console, table: TruthTable, meta: AblationsMeta, top: int | None = None) -> None:
    """One table per effect, and the verdict."""
    for effect in table.ceiling["effect"]:
        shown = plain_table(f"What predicts {title_of(effect)}", *HEADERS)
        for column in shown.columns[1:]:
            column.justify = "right"
        for cells in rows_of(table, effect, top):
            shown.add_row(*map(Text, cells))
        console.print(shown)
    console.print(about(table, meta), markup=False)
    for sentence in verdict(table):
        console.print(sentence, markup=False)


def markdown(table: TruthTable, meta: AblationsMeta, roles: Sequence[str] = ()) -> str:
    """Both effects against every score, and the scores against one another, as Markdown.

    Args:
        table: the table.
        meta: how the effects were measured.
        roles: the scores to set against one another, beside effects and estimates; all without any.
    """
    parts = [about(table, meta), *verdict(table)]
    for effect in table.ceiling["effect"]:
        parts += [f"## What predicts {title_of(effect)}", _grid(HEADERS, rows_of(table, effect))]
    named = dict.fromkeys([*table.between["a"], *table.between["b"]])
    shown = [n for n in named if not roles or n in roles or n.startswith(("effect_", "estimate_"))]
    words = "Rank correlations, ± half of the 95% interval (heads drawn anew)."
    parts += ["## Scores against one another", words, _matrix(table.between, shown)]
    return "\n\n".join(parts) + "\n"


def as_records(table: TruthTable, meta: AblationsMeta) -> dict[str, Any]:
    """Everything as plain values."""
    from headscope.app import machine

    return {
        "meta": meta.model_dump(mode="json"), "k": table.k,
        "against": machine.records(table.against), "ceiling": machine.records(table.ceiling),
        "between": machine.records(table.between),
    }  # fmt: skip


def _cells(row: pd.Series) -> list[str]:
    name = f"{'−' if row['low'] else ''}{row['score']}"
    return [name, str(int(row["heads"])), *(_measure(row, m) for m in _MEASURES)]


def _measure(row: pd.Series, name: str) -> str:
    value, low, high = (number(float(row[c]), 2) for c in (name, f"{name}_low", f"{name}_high"))
    return f"{value} ({low} … {high})".replace("-", "−")


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in headers[1:])]
    lines = [headers, rule, *([f"`{r[0]}`", *r[1:]] for r in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _matrix(between: pd.DataFrame, names: Sequence[str]) -> str:
    """A triangle: every named score against those before it."""
    found = {(r["a"], r["b"]): r for _, r in between.iterrows()}
    rows = []
    for i, a in enumerate(names):
        cells = [found.get((b, a), found.get((a, b))) for b in names[:i]]
        rows.append([a, *("" if r is None else _spread(r) for r in cells), *[""] * (len(names) - i)])
    return _grid(["", *(f"`{n}`" for n in names)], rows)


def _spread(row: pd.Series) -> str:
    half = (float(row["spearman_high"]) - float(row["spearman_low"])) / 2
    return f"{number(float(row['spearman']), 2)} ± {number(half, 2)}".replace("-", "−")
