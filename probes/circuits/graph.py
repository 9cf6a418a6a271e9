"""A circuit as a networkx graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from headscope.probes.geometry import Geometry, HeadId

if TYPE_CHECKING:
    import networkx as nx

    from headscope.probes.circuits.circuit import Circuit


def graph_of(circuit: Circuit, edges: int | None = None) -> nx.DiGraph:
    """All nodes, and the `edges` edges with the largest absolute scores (all without).

    Edges carry `score`, the largest of what they join, and `q`, `k`, `v` where the target is a head.
    What a KV head reads is drawn to every query head that shares it.
    """
    import networkx as nx

    graph = nx.DiGraph(model=circuit.model, task=circuit.task, method=circuit.method)
    for node in circuit.nodes:
        graph.add_node(node.id, kind=node.kind, layer=node.layer, score=node.score, se=node.se)
    columns = circuit.edges
    order = sorted(range(len(columns)), key=lambda i: -abs(columns.score[i]))[:edges]
    for i in order:
        source, score = columns.source[i], columns.score[i]
        for target, reads in readers(circuit.geometry, columns.target[i]):
            if not graph.has_edge(source, target):
                graph.add_edge(source, target, score=score)
            if reads:
                graph[source][target][reads] = score
    return graph


def readers(geometry: Geometry, target: str) -> list[tuple[str, str]]:
    """The nodes that read an input such as `L12G1.k`, each with `q`, `k`, `v` or nothing."""
    found = re.fullmatch(r"L(\d+)([HG])(\d+)\.([qkv])", target)
    if not found:
        return [(target, "")]
    layer, which, index, reads = int(found[1]), found[2], int(found[3]), found[4]
    size = geometry.group_size
    heads: Sequence[int] = [index] if which == "H" else range(index * size, (index + 1) * size)
    return [(str(HeadId(layer, head)), reads) for head in heads]
