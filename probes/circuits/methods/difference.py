"""Difference of means: a baseline that looks at activations and asks for no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, head_nodes
from headscope.probes.circuits.writes import mean_writes
from headscope.probes.forward import batches
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@METHODS.register
class Difference:
    """Length of the mean difference, over prompts and rows, of what a head adds to the stream.

    Clean minus counterfactual. Says where the two differ, not whether the answer depends on it.
    """

    name = "difference"
    summary = "baseline: length of the mean difference of a head's output"
    source = "difference of means; a baseline in Marks & Tegmark 2023 (arXiv 2310.06824)"
    baseline = True
    settings = MethodSettings

    def cost(self, model: Model, settings: MethodSettings) -> Cost:
        return Cost(forward=2)

    @torch.no_grad()
    def find(
        self, model: Model, prompts: Sequence[Prompt], settings: MethodSettings, seed: int, progress: Progress
    ) -> Found:
        g = model.geometry
        found = torch.zeros(len(prompts), g.layers, g.heads, g.hidden)
        for batch in batches(model, prompts, pictures=True):
            found[batch.index] = (mean_writes(model, batch) - mean_writes(model, batch.twin(model))).cpu()
            progress(max(batch.index) + 1, len(prompts))
        mean = found.mean(0)
        size = mean.norm(dim=-1)
        along = torch.einsum("plho,lho->plh", found, mean / size.clamp_min(1e-12)[..., None])
        error = along.std(0).numpy() / np.sqrt(len(prompts)) if len(prompts) > 1 else None
        return Found(
            head_nodes(size.double().numpy(), error), unit="length in the residual stream",
            note="Scores say how much a head's output differs, without a sign.",
        )  # fmt: skip
