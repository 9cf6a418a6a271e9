"""Edge attribution patching: one gradient for all edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.edges import edge_attribution
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, TowardsSettings
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class EdgeAttribution:
    """What a writer adds times the gradient at each reader, gradients of the clean prompt."""

    name = "eap"
    summary = "edge attribution patching: gradients at the clean prompt"
    source = "Syed et al. 2023 (arXiv 2310.10348)"
    baseline = False
    settings = TowardsSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """Two passes that are taken apart (three towards the mean) and one with its gradient."""
        assert isinstance(settings, TowardsSettings)
        return Cost(forward=3 + (settings.towards == "mean"), backward=1)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, TowardsSettings)
        return edge_attribution(model, prompts, [1.0], settings.towards, progress)
