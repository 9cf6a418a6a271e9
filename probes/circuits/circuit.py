"""A circuit: how much every node and edge of a model matters to a task, as one JSON file.

Nodes are named `embed`, `L12H3` (a query head), `M12` (an MLP), `logits`, and anything else a method
needs, such as `L12.z/f381` (a feature of an SAE) or `L12.z/error`. An edge leads from a node to an
input: `L12H3.q` (what one query head reads), `L12G1.k` and `L12G1.v` (what the heads that share KV
head 1 read: one edge however many they are), `M12`, `logits`, or a node itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, JsonValue, NonNegativeFloat, model_validator

from headscope.probes.errors import Refused
from headscope.probes.files import read_json, write_text
from headscope.probes.geometry import Geometry, HeadId

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd

    from headscope.probes.model import Model

Kind = Literal["embed", "head", "mlp", "logits", "feature", "error", "other"]


class Node(BaseModel):
    """One node and how much it matters.

    Attributes:
        id: its name.
        kind: what it is.
        layer: 0-based; -1 for embeddings, None where it has none.
        score: nats of the task's metric lost when the node is taken from the counterfactual, in the
            method's estimate, where its `unit` says nothing else. Negative: it works against the task.
        se: standard error over prompts; None where it is not known.
        meta: what else the method knows of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Kind
    layer: int | None = None
    score: FiniteFloat
    se: NonNegativeFloat | None = None
    meta: dict[str, JsonValue] = {}


class Edges(BaseModel):
    """All edges, as columns of equal length; scores and errors as in `Node`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    score: tuple[FiniteFloat, ...] = ()
    se: tuple[NonNegativeFloat | None, ...] = ()

    @model_validator(mode="after")
    def _even(self) -> Edges:
        if len({len(self.source), len(self.target), len(self.score), len(self.se)}) != 1:
            raise ValueError("the columns of edges differ in length")
        return self

    def __len__(self) -> int:
        return len(self.source)


class Cost(BaseModel):
    """What finding the circuit took.

    Attributes:
        forward, backward: passes of the model per prompt, as the method declares them.
        once: forward passes that do not depend on the number of prompts.
        seconds: wall clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    forward: NonNegativeFloat = 0
    backward: NonNegativeFloat = 0
    once: NonNegativeFloat = 0
    seconds: NonNegativeFloat = 0


class Circuit(BaseModel):
    """What a method found out about a task.

    Attributes:
        schema_version: layout of the file.
        method: name of the method in `METHODS`.
        settings: the method's own numbers.
        unit: what scores are in.
        task: the task of the prompts.
        accuracy: share of the task's prompts that the model answers right, before any were left out.
        tried: how many prompts that share is of; 0 where nobody asked.
        prompts: how many prompts the scores come from.
        seed: everything random follows from it.
        model, fingerprint, geometry: whose circuit it is.
        clean, counterfactual: mean log-odds of right against wrong answer on the prompts and on their
            counterfactuals, in nats; None where the method does not look.
        nodes: every node scored.
        edges: every edge scored; empty for methods that score nodes alone.
        cost: passes and seconds.
        versions: versions of the libraries.
        note: anything else a reader should know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    method: str
    settings: dict[str, JsonValue] = {}
    unit: str = "nats"
    task: str
    accuracy: float | None = None
    tried: int = 0
    prompts: int
    seed: int = 0
    model: str
    fingerprint: str
    geometry: Geometry
    clean: float | None = None
    counterfactual: float | None = None
    nodes: tuple[Node, ...]
    edges: Edges = Edges()
    cost: Cost = Cost()
    versions: dict[str, str] = {}
    note: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Circuit:
        names = {node.id for node in self.nodes}
        if len(names) != len(self.nodes):
            raise ValueError("a node is named twice")
        for node in self.nodes:
            if node.kind == "head" and not self.geometry.has(HeadId.parse(node.id)):
                raise ValueError(f"the model has no head {node.id}")
        return self

    def heads(self) -> pd.DataFrame:
        """`layer`, `head`, `score`, `score_se` of every head scored, in the model's order."""
        import pandas as pd

        rows = [
            (head.layer, head.head, node.score, float("nan") if node.se is None else node.se)
            for node in self.nodes
            if node.kind == "head"
            for head in [HeadId.parse(node.id)]
        ]
        columns = ["layer", "head", "score", "score_se"]
        return pd.DataFrame(rows, columns=columns).sort_values(["layer", "head"], ignore_index=True)

    def top(self, count: int) -> list[HeadId]:
        """The heads with the largest absolute scores, largest first; ties by position."""
        frame = self.heads()
        order = frame["score"].abs().sort_values(ascending=False, kind="stable").index[:count]
        return [HeadId(int(frame["layer"][i]), int(frame["head"][i])) for i in order]

    def edge_table(self) -> pd.DataFrame:
        """`source`, `target`, `score`, `score_se` of every edge, largest absolute score first."""
        import pandas as pd

        e = self.edges
        frame = pd.DataFrame(
            {"source": e.source, "target": e.target, "score": e.score, "score_se": pd.array(e.se, "Float64")}
        )
        return frame.sort_values("score", key=abs, ascending=False, kind="stable", ignore_index=True)

    def graph(self, edges: int | None = None) -> nx.DiGraph:
        """A networkx graph of all nodes and the `edges` largest edges; see `graph_of`."""
        from headscope.probes.circuits.graph import graph_of

        return graph_of(self, edges)

    def check(self, model: Model) -> None:
        """Refuse any model but the one this was found in.

        Raises:
            Refused: another shape or other weights.
        """
        if self.geometry != model.geometry or self.fingerprint != model.fingerprint:
            raise Refused(
                f"This {self.method!r} circuit belongs to {self.model!r} with weights {self.fingerprint}, "
                f"and {model.name!r} has other weights ({model.fingerprint})."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, whole or not at all; without indentation, since edges are many."""
        write_text(Path(path), self.model_dump_json() + "\n")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Circuit:
        """Read what `save` wrote.

        Raises:
            BadFile: missing, damaged, or not a circuit.
        """
        return read_json(Path(path), cls)

    def __repr_args__(self) -> Any:
        yield None, f"{self.method} of {self.task} in {self.model}"
        yield "nodes", len(self.nodes)
        yield "edges", len(self.edges)
