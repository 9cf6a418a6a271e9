"""Causal tests and interventions as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from headscope.app.looks import number, with_error
from headscope.app.proof import HEADERS, about, cells
from headscope.app.tables import plain_table
from headscope.app.tokens import visible

if TYPE_CHECKING:
    import pandas as pd

    from headscope.app.beforeafter import BeforeAfter
    from headscope.heads import HeadMap, Proof
    from headscope.probes import Spec

_ALONE = 10


def print_proof(console: Console, headmap: HeadMap, proof: Proof) -> None:
    """The curves, how they were made, and the heads that matter most alone."""
    table = plain_table(f"{proof.meta.model}: what is lost without a role's heads", *HEADERS)
    for column in table.columns[1:]:
        column.justify = "right"
    for _, row in proof.curves.iterrows():
        table.add_row(*map(Text, cells(row)))
    console.print(table)
    console.print(about(proof), markup=False)
    best = headmap.top("causal", _ALONE)
    single = plain_table("Heads that matter most alone", "head", "causal", "± s.e.")
    for _, row in best.iterrows():
        name = f"L{int(row['layer'])}H{int(row['head'])}"
        single.add_row(*map(Text, (name, number(row["causal"]), number(row["causal_se"]))))
    console.print(single)
    console.print(f"causal: {headmap.meta.columns['causal'].about}", markup=False)


_EFFECT = ("", "right", "95%", "log-probability", "change", "loss on prose", "change")
_WHAT = {
    "untouched": "untouched",
    "intervention": "the intervention",
    "opposite": "its opposite",
    "random": "random heads",
}


def print_effect(console: Console, spec: Spec, found: pd.DataFrame, prompts: int) -> None:
    """Before, after, and the controls."""
    title = f"{spec.method} on {len(spec.heads)} heads of {spec.model}, {spec.positions} rows"
    headers, rows = effect_table(found.to_dict("records"))
    table = plain_table(title, *headers)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    names = " ".join(map(str, spec.heads[:_ALONE])) + (" …" if len(spec.heads) > _ALONE else "")
    console.print(f"Heads: {names}", markup=False)
    loss = ", loss in nats per token" if len(headers) == len(_EFFECT) else ""
    console.print(
        f"{prompts} prompts it has not learned from; log-probability in nats per answer token{loss}; changes "
        "are paired. Opposite: the same change with its sign turned round.",
        markup=False,
    )


def print_told(console: Console, found: pd.DataFrame, conflict: bool) -> None:
    """Which answers are given, before and after; in a conflict they are memory's and the context's."""
    table = plain_table("Answers, by their first token", *told_headers(conflict))
    for column in table.columns[1:]:
        column.justify = "right"
    for row in found.to_dict("records"):
        table.add_row(*map(Text, told_cells(row)))
    console.print(table)


def print_asked(console: Console, prompt: str, found: BeforeAfter) -> None:
    """What the model says to one prompt, before and after, and what it would say next."""
    for name, text in (("Asked", prompt), ("Before", found.before), ("After", found.after)):
        console.print(f"{name:<8}{text.strip()}", markup=False)
    table = plain_table(f"Next token: KL {number(found.kl)} nats", "", "before", "after")
    for column in table.columns[1:]:
        column.justify = "right"
    for token in found.tokens:
        table.add_row(Text(visible(token.token)), f"{token.before:.1%}", f"{token.after:.1%}")
    console.print(table)


def effect_table(found: Sequence[Mapping[Any, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headers and cells of the rows of `effect`, without the loss where there was no text to read."""
    count = len(_EFFECT) if any(float(row["loss"]) == float(row["loss"]) for row in found) else -2
    return _EFFECT[:count], [_effect_cells(row)[:count] for row in found]


def _effect_cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """One row of `effect`."""
    first, low, high = row["what"] == "untouched", float(row["right_low"]), float(row["right_high"])
    return (
        _WHAT[str(row["what"])],
        f"{row['right']:.0%}",
        f"{low:.0%} … {high:.0%}" if low == low else "–",
        with_error(row["logprob"], row["logprob_se"]),
        "" if first else with_error(row["change"], row["change_se"]),
        number(row["loss"]),
        "" if first else with_error(row["loss_change"], row["loss_change_se"]),
    )


def told_headers(conflict: bool) -> tuple[str, ...]:
    """What the answers are called; in a conflict they are memory's and the context's."""
    return ("", "memory", "context", "other") if conflict else ("", "right", "wrong", "other")


def told_cells(row: Mapping[Any, Any]) -> tuple[str, ...]:
    """One row of `told`, in the order of `told_headers`."""
    cells = [_WHAT[str(row["what"])]]
    for name in ("right", "wrong", "other"):
        low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
        interval = f" ({low:.0%} … {high:.0%})" if low == low else ""
        cells.append(f"{row[name]:.0%}{interval}")
    return tuple(cells)
