"""Circuits as text for a terminal, and the same words for report and dashboard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from headscope.app.looks import number, with_error
from headscope.app.tables import plain_table

if TYPE_CHECKING:
    from headscope.heads import TaskCircuits
    from headscope.probes import Circuit, Curve, Node

_BEST = 8
AT = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # sizes whose faithfulness is told
HEADERS = ("method", "prompts", "passes", "time", "largest heads, nats")
CURVE_HEADERS = ("method", *(f"{share:.0%}" for share in AT), "CPR", "CMD")


def cells(circuit: Circuit) -> tuple[str, ...]:
    """One circuit as text, in the order of `HEADERS`."""
    cost = circuit.cost
    passes = f"{cost.forward:g} + {cost.backward:g}" if cost.forward + cost.backward else "none"
    scored = {node.id: node for node in circuit.nodes}
    best = [_says(scored[str(head)], circuit.unit) for head in circuit.top(_BEST)]
    return circuit.method, str(circuit.prompts), passes, f"{cost.seconds:.1f} s", ", ".join(best)


def _says(node: Node, unit: str) -> str:
    if unit != "nats":
        return node.id
    return f"{node.id} {with_error(node.score, float('nan') if node.se is None else node.se)}"


def curve_cells(curve: Curve) -> tuple[str, ...]:
    """One curve as text, in the order of `CURVE_HEADERS`."""
    at = dict(zip(curve.share, curve.f, strict=True))
    error = float("nan") if curve.cpr_se is None else curve.cpr_se
    other = float("nan") if curve.cmd_se is None else curve.cmd_se
    return (
        curve.method,
        *(number(at[share], 2) if share in at else "–" for share in AT),
        with_error(curve.cpr, error), with_error(curve.cmd, other),
    )  # fmt: skip


def about(found: TaskCircuits) -> str:
    """How the circuits were found, in words."""
    c = next(iter(found.circuits.values()))
    does = "" if c.accuracy is None else f"the model answers {c.accuracy:.0%} of {c.tried} right; "
    known = [c for c in found.circuits.values() if c.clean is not None and c.counterfactual is not None]
    odds = [
        f"log-odds of right against wrong {c.clean:.2f} on the prompts, {c.counterfactual:.2f} on their "
        "counterfactuals; "
        for c in known[:1]
    ]
    return (
        f"{found.task}: {does}{''.join(odds)}a score is what is lost, in nats, when the node is taken "
        "from the counterfactual (in the method's estimate); negative scores work against the task."
    )


def about_curves(curves: Sequence[Curve]) -> str:
    """How faithfulness was measured, in words."""
    first = curves[0]
    return (
        f"On {first.prompts} other prompts: f is 1 for the whole model ({first.whole:.2f} nats) and 0 with "
        f"everything ablated ({first.nothing:.2f} nats); MLPs stay live where heads are ablated. CPR is the "
        "area under f over circuit size (higher is better), CMD that between f and 1 (0 is best)."
    )


def grouped(curves: Sequence[Curve]) -> list[tuple[str, list[Curve]]]:
    """Curves that can be compared, the best CPR first, and what they have in common."""
    ways = sorted({(c.grain, c.ablation) for c in curves}, key=lambda way: (way[0] != "heads", way[1]))
    return [
        (
            f"Faithfulness of so many {grain}, the rest ablated ({ablation})",
            sorted((c for c in curves if (c.grain, c.ablation) == (grain, ablation)), key=lambda c: -c.cpr),
        )
        for grain, ablation in ways
    ]


def print_circuits(console: Console, found: TaskCircuits) -> None:
    """What each method found and what its circuit keeps."""
    table = plain_table(f"Circuits of {found.task}", *HEADERS)
    table.columns[0].no_wrap = True
    for circuit in found.circuits.values():
        table.add_row(*map(Text, cells(circuit)))
    console.print(table)
    console.print(about(found), markup=False)
    console.print("Passes: forward + backward, per prompt.", markup=False)
    for name, curves in grouped(found.curves):
        faithful = plain_table(name, *CURVE_HEADERS)
        faithful.columns[0].no_wrap = True
        for column in faithful.columns[1:]:
            column.justify = "right"
        for curve in curves:
            faithful.add_row(*map(Text, curve_cells(curve)))
        console.print(faithful)
        console.print(about_curves(curves), markup=False)
