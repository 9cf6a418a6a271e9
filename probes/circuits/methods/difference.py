"""Difference of means: a baseline that looks at activations and asks for no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headscope.probes.circuits.circuit import Cost
from headscope.probes.circuits.method import METHODS, Found, MethodSettings, Progress, head_nodes
from headscope.probes.forward import Batch, answer_logits, batches
from headscope.probes.inside import recording
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
        for batch in batches(model, prompts):
            clean, twin = _means(model, batch), _means(model, batch.twin(model))
            for layer in range(g.layers):
                weight = model.output_weight(layer).float()
                moved = torch.einsum("bhd,hdo->bho", clean[layer] - twin[layer], weight)
                found[batch.index, layer] = moved.cpu()
            progress(max(batch.index) + 1, len(prompts))
        mean = found.mean(0)
        size = mean.norm(dim=-1)
        along = torch.einsum("plho,lho->plh", found, mean / size.clamp_min(1e-12)[..., None])
        error = along.std(0).numpy() / np.sqrt(len(prompts)) if len(prompts) > 1 else None
        return Found(
            head_nodes(size.double().numpy(), error), unit="length in the residual stream",
            note="Scores say how much a head's output differs, without a sign.",
        )  # fmt: skip


def _means(model: Model, batch: Batch) -> list[Tensor]:
    """Mean head outputs over the rows of each prompt. [B, H, D] a layer"""
    with recording(model) as record:
        answer_logits(model, batch.ids, batch.rows)
    inside = torch.arange(batch.ids.shape[1], device=batch.ids.device) <= batch.rows[:, None]
    share = inside.float() / inside.sum(1, keepdim=True)
    return [torch.einsum("bthd,bt->bhd", z.float(), share.to(z.device)) for z in record.z]
