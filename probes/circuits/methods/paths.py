"""Path patching of heads to the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from headscope.probes.circuits.circuit import Cost, Edges
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, of_effects
from headscope.probes.patch_paths import path_patching
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


class PathSettings(MethodSettings):
    """Attributes: mlps: whether MLPs on the way to the logits are recomputed or frozen."""

    mlps: Literal["recomputed", "frozen"] = "recomputed"


@METHODS.register
class Paths:
    """What a head says to the logits with all other heads held; edges lead from heads to the logits."""

    name = "paths"
    summary = "exact path patching of every head to the logits"
    source = "Wang et al. 2022 (arXiv 2211.00593), section 3.1"
    baseline = False
    settings = PathSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """Two passes of the prompt; the rest runs single rows."""
        return Cost(forward=2)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, PathSettings)
        total = len(prompts) * model.geometry.layers * model.geometry.heads
        effects = path_patching(model, prompts, mlps=settings.mlps, done=lambda n: progress(n, total))
        found = of_effects(effects, "Each score is that of the edge from the head to the logits.")
        heads = found.nodes
        edges = Edges(
            source=tuple(n.id for n in heads), target=("logits",) * len(heads),
            score=tuple(n.score for n in heads), se=tuple(n.se for n in heads),
        )  # fmt: skip
        return Found(heads, edges, clean=found.clean, counterfactual=found.counterfactual, note=found.note)
