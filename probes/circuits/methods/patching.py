"""Exact activation patching of heads: the slow truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, of_effects
from headscope.probes.patch_heads import activation_patching
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class Patching:
    """One head's output taken from the counterfactual in all rows, everything after it live."""

    name = "patching"
    summary = "exact activation patching of every head"
    source = "Meng et al. 2022 (arXiv 2202.05262); Wang et al. 2022 (arXiv 2211.00593)"
    baseline = False
    settings = MethodSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """Two passes, and half a pass on average for every head: it begins at the head's layer."""
        return Cost(forward=2 + model.geometry.layers * model.geometry.heads / 2)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        total = len(prompts) * model.geometry.layers * model.geometry.heads
        return of_effects(activation_patching(model, prompts, done=lambda n: progress(n, total)))
