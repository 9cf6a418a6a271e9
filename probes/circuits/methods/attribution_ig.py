"""Attribution patching of heads with integrated gradients over what all heads put out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.method import (
    METHODS,
    Found,
    IntegratedSettings,
    MethodSettings,
    Progress,
    of_effects,
)
from headscope.probes.prompts import Prompt
from headscope.probes.screening import attribution_patching

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class IntegratedAttribution:
    """`attribution`, its gradient averaged over passes in which all heads are partly ablated.

    Scores of all heads sum to what ablating them all takes away, which is what faithfulness divides by.
    """

    name = "attribution-ig"
    summary = "attribution patching with integrated gradients over the ablation of all heads"
    source = "Sundararajan et al. 2017 (arXiv 1703.01365), on a share that all heads have in common"
    baseline = False
    settings = IntegratedSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        """A pass of the counterfactual (two towards the mean), and one with its gradient for each step."""
        assert isinstance(settings, IntegratedSettings)
        return Cost(forward=1 + (settings.towards == "mean") + settings.steps, backward=settings.steps)

    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        assert isinstance(settings, IntegratedSettings)
        total = len(prompts) * settings.steps
        return of_effects(
            attribution_patching(
                model, prompts, towards=settings.towards, steps=settings.steps,
                done=lambda count: progress(count, total),
            )
        )  # fmt: skip
