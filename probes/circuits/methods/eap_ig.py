"""Edge attribution patching with integrated gradients over the input embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.edges import edge_attribution
from headscope.probes.circuits.method import METHODS, Found, IntegratedSettings, MethodSettings, Progress
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class IntegratedEdges:
    """EAP with the gradient averaged on the way from the counterfactual's embeddings to the prompt's."""

    name = "eap-ig"
    summary = "edge attribution patching with integrated gradients (inputs)"
    source = "Hanna et al. 2024 (arXiv 2403.17806), eq. 4; EAP-IG-inputs of MIB (arXiv 2504.13151)"
    baseline = False
    settings = IntegratedSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """Two passes that are taken apart (three towards the mean), one with its gradient for each step."""
        assert isinstance(settings, IntegratedSettings)
        return Cost(forward=2 + (settings.towards == "mean") + settings.steps, backward=settings.steps)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, IntegratedSettings)
        places = [(i + 1) / settings.steps for i in range(settings.steps)]
        return edge_attribution(model, prompts, places, settings.towards, progress)
