"""Attribution patching of heads: one gradient for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.method import (
    METHODS,
    Found,
    MethodSettings,
    Progress,
    TowardsSettings,
    of_effects,
)
from headscope.probes.prompts import Prompt
from headscope.probes.screening import attribution_patching

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class Attribution:
    """The change of a head's output towards what stands in for it times the metric's gradient."""

    name = "attribution"
    summary = "attribution patching: gradient times the change of every head's output"
    source = "Nanda 2023; Syed et al. 2023 (arXiv 2310.10348)"
    baseline = False
    settings = TowardsSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """A pass with its gradient and one of the counterfactual (two towards the mean)."""
        assert isinstance(settings, TowardsSettings)
        return Cost(forward=2 + (settings.towards == "mean"), backward=1)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, TowardsSettings)
        found = of_effects(attribution_patching(model, prompts, towards=settings.towards))
        progress(len(prompts), len(prompts))
        return found
