"""The layer index: a baseline that looks at nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, head_nodes
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class LayerIndex:
    """Later heads score higher. What beats this has learned more than where circuits lie."""

    name = "layer"
    summary = "baseline: the layer's index"
    source = ""
    baseline = True
    settings = MethodSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        return Cost()

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        g = model.geometry
        depth = np.repeat(np.arange(1.0, g.layers + 1)[:, None], g.heads, 1)
        return Found(head_nodes(depth), unit="layers", note="Heads of one layer are tied.")
