"""Attribution patching: all heads from one gradient, and the exact test of those it points at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from headscope.probes.effects import METRICS, Effects, Metric, measure
from headscope.probes.forward import Batch, answer_logits, batches
from headscope.probes.geometry import HeadId
from headscope.probes.inside import head_outputs
from headscope.probes.patch_heads import activation_patching, selected
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


def attribution_patching(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    positions: str = "all",
    metrics: Sequence[Metric] = ("logit_diff",),
    towards: Literal["counterfactual", "zero"] = "counterfactual",
) -> Effects:
    """First-order estimate of `activation_patching` for all heads at once.

    The change of a head's output times the gradient of the metric with respect to it, summed over
    rows (Nanda 2023). Costs two forward passes a prompt and one backward pass for each metric. It
    misses what is not linear, saturated softmaxes above all: confirm what matters exactly.

    Args:
        model: the model.
        prompts: with counterfactuals.
        positions: see `activation_patching`.
        metrics: for which to compute the change; the others are NaN.
        towards: what heads are patched with. `zero` makes it gradient × activation, with a minus
            sign: the estimated effect of removing a head.

    Raises:
        HeadscopeError: see `activation_patching`.
    """
    g = model.geometry
    clean, other = (np.zeros((len(METRICS), len(prompts))) for _ in range(2))
    change = np.full((len(METRICS), len(prompts), g.layers, g.heads), np.nan)
    for batch in batches(model, prompts):
        with torch.no_grad():
            twin = batch.twin(model)
            _, target, found = _outputs(model, twin, batch)
            other[:, batch.index] = found.cpu().double().numpy()
        with torch.enable_grad():
            attached, held, said = _outputs(model, batch, batch)
            clean[:, batch.index] = said.detach().cpu().double().numpy()
            rows = selected(batch, positions)[..., None]
            for i, metric in enumerate(metrics):
                total = said[METRICS.index(metric)].sum()
                gradients = torch.autograd.grad(total, attached, retain_graph=i + 1 < len(metrics))
                for layer, slope in enumerate(gradients):
                    goal = target[layer] if towards == "counterfactual" else 0.0
                    product = (slope * (goal - held[layer])).sum(-1)  # [B, T, H]
                    effect = (product * rows).sum(1).cpu().double().numpy()
                    change[METRICS.index(metric), batch.index, layer] = effect
    how = "attribution patching" if towards == "counterfactual" else "gradient × activation"
    return Effects(f"{how} at {positions} rows", clean, other, change)


def _outputs(model: Model, batch: Batch, asked: Batch) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Head outputs of one pass in the graph and out of it, [B, T, H, D] a layer; metrics [M, B]."""
    attached, held = list[Tensor](), list[Tensor]()

    def keep(_: int, z: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not z.requires_grad:  # frozen weights: the graph begins here
            z = z.detach().requires_grad_()
        attached.append(z)
        held.append(z.detach())
        return z

    with head_outputs(model, keep):
        logits = answer_logits(model, batch.ids, batch.rows)
    return attached, held, measure(logits, asked.prompts)


@dataclass(frozen=True)
class Screening:
    """Heads that attribution patching pointed at, and their exact effects.

    Attributes:
        attribution: the estimates for all heads.
        exact: activation patching of the candidates; NaN for all other heads.
        candidates: what was confirmed, largest estimate first.
    """

    attribution: Effects
    exact: Effects
    candidates: list[HeadId]


def screen(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    candidates: int = 27,
    positions: str = "all",
    metric: Metric = "logit_diff",
) -> Screening:
    """Attribution patching of all heads, then activation patching of the largest.

    Args:
        model: the model.
        prompts: with counterfactuals.
        candidates: how many heads to confirm; a tenth of `smollm2`'s by default.
        positions: see `activation_patching`.
        metric: by whose change to choose them.

    Raises:
        HeadscopeError: see `activation_patching`.
    """
    cheap = attribution_patching(model, prompts, positions=positions, metrics=(metric,))
    chosen = cheap.top(candidates, metric)
    exact = activation_patching(model, prompts, heads=chosen, positions=positions)
    return Screening(cheap, exact, chosen)
