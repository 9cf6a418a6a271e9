"""The report's section on circuits, and what the dashboard shares with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from headscope.app.charts import Chart, chart
from headscope.app.circuitfigures import SHOWN, circuit_graph, faithfulness_curves, shown_graph
from headscope.app.tables_circuits import (
    CURVE_HEADERS,
    HEADERS,
    about,
    about_curves,
    cells,
    curve_cells,
    grouped,
)

if TYPE_CHECKING:
    from headscope.heads import HeadMap, TaskCircuits
    from headscope.probes import Circuit, Curve


@dataclass(frozen=True)
class Faithful:
    """Curves that can be compared: what they are, how they were measured, figure, headers and rows."""

    name: str
    about: str
    chart: Chart
    table: tuple[tuple[str, ...], list[tuple[str, ...]]]


@dataclass(frozen=True)
class CircuitSection:
    """One task.

    Attributes:
        task: its name.
        about: how its circuits were found.
        graph, caption: the best circuit drawn, and what is drawn.
        headers, rows: every method in numbers.
        faithful: what the circuits keep of the task.
    """

    task: str
    about: str
    graph: Chart
    caption: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    faithful: list[Faithful]


def circuit_sections(headmap: HeadMap, folder: Path | None) -> list[CircuitSection]:
    """All circuits of a run folder, one section for each task."""
    if folder is None:
        return []
    from headscope.heads import open_circuits, tasks_with_circuits

    return [_section(headmap, open_circuits(folder, task)) for task in tasks_with_circuits(folder)]


def best_circuit(found: TaskCircuits) -> Circuit:
    """The one to show first: with edges where there are some, and the highest CPR of heads."""
    area = {c.method: c.cpr for c in found.curves if c.grain == "heads"}
    return max(
        found.circuits.values(),
        key=lambda c: (c.method != "random", len(c.edges) > len(c.nodes), area.get(c.method, -1.0)),
    )


def caption(circuit: Circuit, edges: int = SHOWN) -> str:
    """What the drawn graph leaves out."""
    graph = shown_graph(circuit, edges)
    if not len(circuit.edges):
        return f"The {len(graph)} nodes with the largest scores by {circuit.method}; it scores no edges."
    return (
        f"The {min(edges, len(circuit.edges))} largest of {len(circuit.edges):,} edges by {circuit.method}, "
        "without those that lead nowhere; thickness is the absolute score. Heads stand in the lane of their "
        "rarest role. What KV heads read is drawn to every query head that shares them."
    )


def _section(headmap: HeadMap, found: TaskCircuits) -> CircuitSection:
    best = best_circuit(found)
    words = f"Graph of the {found.task} circuit by {best.method}: " + ", ".join(map(str, best.top(8)))
    return CircuitSection(
        task=found.task,
        about=about(found),
        graph=chart(
            f"circuit-{found.task}", words, lambda theme: circuit_graph(best, headmap=headmap, theme=theme)
        ),
        caption=caption(best),
        headers=HEADERS,
        rows=[cells(circuit) for circuit in found.circuits.values()],
        faithful=[_faithful(found.task, i, *group) for i, group in enumerate(grouped(found.curves))],
    )


def _faithful(task: str, index: int, name: str, curves: list[Curve]) -> Faithful:
    return Faithful(
        name,
        about_curves(curves),
        chart(f"faithful-{task}-{index}", name, lambda theme: faithfulness_curves(curves, theme=theme)),
        (CURVE_HEADERS, [curve_cells(curve) for curve in curves]),
    )
