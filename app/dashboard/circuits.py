"""Circuits: what methods of discovery found in this model, and what of the task their circuits keep."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import streamlit as st

from headscope.app.circuitfigures import SHOWN, circuit_graph, faithfulness_curves
from headscope.app.circuitsection import best_circuit, caption
from headscope.app.dashboard import address, features, look, pick, rules, store
from headscope.app.roles import Entry, entries
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
    from headscope.app.dashboard.shelf import Run
    from headscope.heads import HeadMap, TaskCircuits
    from headscope.probes import Circuit

# What a circuit's heads are labelled, from the first layers to the last; where it was described.
_KNOWN = {
    "Induction": (
        ("previous_token", "induction"),
        "A head that looks one token back tells the next layers what came before; an induction head then "
        "finds what followed last time (Olsson et al. 2022).",
    ),
    "Retrieval": (
        ("retrieval", "streaming"),
        "Few heads copy the answer out of a long context; most lose nothing when cut to the first and the "
        "most recent tokens (Wu et al. 2024; Xiao et al. 2024).",
    ),
}
_SHOWN = 8
_FEATURES = 15  # edges shown of a circuit of features, whose nodes stand in few columns


def show() -> None:
    """Draw the page."""
    left, right = st.columns((3, 1), vertical_alignment="bottom")
    with right:
        run = store.chosen_run()
    headmap = rules.judged(store.headmap(run))
    look.install(headmap)
    with left:
        look.heading("Circuits", eyebrow=f"{headmap.meta.model}: which heads work together")
    with st.spinner("Loading torch"):  # the first visit only
        tasks = store.circuit_tasks(run)
    if tasks:
        task = address.choose("Task", "task", tasks, tasks[0], buttons=True)
        _found(headmap, store.circuits(run, task))
    else:
        _none(run, headmap)
    features.show(run, headmap)


def _found(headmap: HeadMap, found: TaskCircuits) -> None:
    """One task: the graph with its threshold, the heads, and what circuits keep."""
    look.note(about(found))
    first = best_circuit(found).method
    left, right = st.columns((2, 1), vertical_alignment="bottom")
    with left:
        method = address.choose("Method", "method", list(found.circuits), first, buttons=True)
    circuit = found.circuits[method]
    usual = edges = _FEATURES if any(n.kind == "feature" for n in circuit.nodes) else SHOWN
    with right:
        if len(circuit.edges):
            most = min(200, len(circuit.edges))
            edges = int(
                address.slide("Largest edges shown", "edges", 1, most, min(usual, most), step=1, form="%d")
            )
    graph, best = st.columns((3, 1), gap="large")
    with graph:
        st.plotly_chart(
            circuit_graph(circuit, edges=edges, headmap=headmap, theme=look.theme()), theme=None,
            key="circuit-graph", config={"displayModeBar": False},
            alt=f"Graph of the circuit by {method}: " + ", ".join(map(str, circuit.top(_SHOWN))),
        )  # fmt: skip
        look.note(caption(circuit, edges))
    with best:
        content = look.part("best", entries=_entries(circuit), column=circuit.unit, role="", notes=[])
        pick.markup(content, f"circuit-{found.task}-{method}")
        features.of_circuit(circuit)
    _faithful(found)
    with st.expander("Every method in numbers"):
        look.html(look.part("table", headers=HEADERS, rows=[cells(c) for c in found.circuits.values()]))
        for _, curves in grouped(found.curves):
            look.html(look.part("table", headers=CURVE_HEADERS, rows=[curve_cells(c) for c in curves]))


def _faithful(found: TaskCircuits) -> None:
    for i, (name, curves) in enumerate(grouped(found.curves)):
        look.section(name, about_curves(curves))
        st.plotly_chart(
            faithfulness_curves(curves, theme=look.theme()), theme=None, key=f"faithful-{i}",
            config={"displayModeBar": False}, alt=f"{name}, by method.",
        )  # fmt: skip


def _entries(circuit: Circuit) -> list[Entry]:
    """The heads with the largest absolute scores."""
    frame, size = circuit.heads().set_index(["layer", "head"]), circuit.geometry.group_size
    rows = [(h, frame.loc[[(h.layer, h.head)]].iloc[0]) for h in circuit.top(2 * _SHOWN)]
    return [
        Entry(h.layer, h.head, h.head // size, float(row["score"]), float(row["score_se"]), True, {})
        for h, row in rows
    ]


def _none(run: Run, headmap: HeadMap) -> None:
    """How to find circuits, and the heads that known circuits are made of."""
    where = f" --out {shlex.quote(str(run.path))}" if run.folder else ""
    look.empty(
        "This run holds no circuit graph",
        "Circuits are found by patching: running a prompt and its counterfactual, and exchanging what heads "
        "say. Until then, here are the heads that known circuits are made of, as the map has them; the right "
        "order is no proof that one feeds the other.",
        f"headscope circuits {shlex.quote(headmap.meta.model)} --task ioi --method eap-ig{where}",
    )
    for name, (roles, words) in _KNOWN.items():
        if all(role in headmap.roles for role in roles):
            _candidates(headmap, name, roles, words)


def _candidates(headmap: HeadMap, name: str, roles: tuple[str, ...], about: str) -> None:
    look.section(name, about)
    for column, role in zip(st.columns(len(roles), gap="large"), roles, strict=True):
        with column:
            best = [e for e in entries(headmap, role, _SHOWN) if e.labelled]
            if not best:
                look.note(f"No head is labelled {role}.")
                continue
            ordered = sorted(best, key=lambda e: (e.layer, e.head))
            score = headmap.rule(role).score
            content = look.part("best", entries=ordered, column=score, role=role, notes=[])
            look.html(look.chips([role]))
            pick.markup(content, f"circuit-{name}-{role}")
