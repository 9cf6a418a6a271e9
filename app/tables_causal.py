"""Causal tests and interventions as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from headscope.app.looks import number
from headscope.app.proof import HEADERS, about, cells
from headscope.app.tables import plain_table

if TYPE_CHECKING:
    from headscope.heads import HeadMap, Proof

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
