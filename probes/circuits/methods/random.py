"""Random scores: the baseline of baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headscope.probes.circuits.anatomy import anatomy
from headscope.probes.circuits.circuit import Cost, Edges
from headscope.probes.circuits.gradients import edge_names
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, head_nodes
from headscope.probes.errors import Refused
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class Random:
    """Uniform random scores for heads and, where the architecture has them, for edges."""

    name = "random"
    summary = "baseline: random scores"
    source = ""
    baseline = True
    settings = MethodSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        return Cost()

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        rng, g = np.random.default_rng(seed), model.geometry
        nodes = head_nodes(rng.random((g.layers, g.heads)))
        try:
            sources, targets = edge_names(g, anatomy(model))
        except Refused as error:
            return Found(nodes, unit="none", note=f"No edges: {error}")
        scores = tuple(rng.random(len(sources)).round(6).tolist())
        unknown = (None,) * len(sources)
        edges = Edges(source=tuple(sources), target=tuple(targets), score=scores, se=unknown)
        return Found(nodes, edges, unit="none")
