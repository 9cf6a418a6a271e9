"""Attribution patching: all heads from one gradient, and the exact test of those it points at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.circuits.means import head_means, instead
from headscope.probes.circuits.method import Ablation
from headscope.probes.effects import METRICS, Effects, Metric, measure
from headscope.probes.forward import Batch, batches
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
    towards: Ablation = "counterfactual",
    steps: int = 1,
    live: NDArray[np.bool_] | None = None,
    done: Callable[[int], object] = lambda count: None,
) -> Effects:
    """First-order estimate of `activation_patching` for all heads at once.

    The change of a head's output times the gradient of the metric with respect to it, summed over
    rows (Nanda 2023). Costs two forward passes a prompt (three towards the `mean`) and `steps` backward
    ones for each metric. It misses what is not linear, saturated softmaxes above all: confirm what
    matters exactly. With more steps, gradients are averaged over passes in which every head puts out
    1/m, 2/m ... 1 of what it would beyond its replacement: the effects of all heads then sum, to the
    error of the sum over steps, to that of replacing them all (integrated gradients, Sundararajan et al.
    2017, arXiv 1703.01365, of a share that all heads have in common).

    Args:
        model: the model.
        prompts: with counterfactuals.
        positions: see `activation_patching`.
        metrics: for which to compute the change; the others are NaN.
        towards: what heads are patched with. `zero` makes it gradient × activation, with a minus
            sign: the estimated effect of removing a head; `mean` is that over the counterfactuals' rows,
            the first of which has its own.
        steps: passes to average gradients over.
        live: which heads are not replaced to begin with; all others are, in every pass, and their change
            is that of coming alive, turned round. [L, H]
        done: called after every batch and step with the number of (prompt, step) pairs done.

    Raises:
        HeadscopeError: see `activation_patching`.
    """
    g = model.geometry
    clean, other = (np.zeros((len(METRICS), len(prompts))) for _ in range(2))
    change = np.full((len(METRICS), len(prompts), g.layers, g.heads), np.nan)
    for metric in metrics:
        change[METRICS.index(metric)] = 0.0
    todo, count = list(batches(model, prompts, pictures=True)), 0
    shares = torch.ones(g.layers, g.heads) if live is None else torch.from_numpy(live).float()
    means = head_means(model, todo) if towards == "mean" else None
    for batch in todo:
        with torch.no_grad():
            _, twin, found = _outputs(model, batch.twin(model), batch)
        other[:, batch.index] = found.cpu().double().numpy()
        goal = [
            instead(z.permute(2, 0, 1, 3), towards, means, i).permute(1, 2, 0, 3) for i, z in enumerate(twin)
        ]
        rows = selected(batch, positions)[..., None]
        for step in range(steps):
            with torch.enable_grad():
                attached, held, said = _outputs(model, batch, batch, goal, shares * (step + 1) / steps)
            for i, metric in enumerate(metrics):
                total = said[METRICS.index(metric)].sum()
                gradients = torch.autograd.grad(total, attached, retain_graph=i + 1 < len(metrics))
                for layer, slope in enumerate(gradients):
                    product = (slope * (goal[layer] - held[layer])).sum(-1)  # [B, T, H]
                    effect = (product * rows).sum(1).cpu().double().numpy()
                    change[METRICS.index(metric), batch.index, layer] += effect / steps
            count += len(batch.index)
            done(count)
        clean[:, batch.index] = said.detach().cpu().double().numpy()
    how = {"counterfactual": "attribution patching", "zero": "gradient × activation"}.get(
        towards, "attribution patching towards the mean"
    )
    return Effects(f"{how} at {positions} rows", clean, other, change)


def _outputs(
    model: Model,
    batch: Batch,
    asked: Batch,
    goal: Sequence[Tensor] | None = None,
    shares: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Head outputs of one pass in the graph and out of it, [B, T, H, D] a layer; metrics [M, B].

    What goes on is a share of each head's output, [L, H], and the rest of its `goal`; kept out of the
    graph is the output itself.
    """
    attached, held = list[Tensor](), list[Tensor]()

    def keep(layer: int, z: Tensor) -> Tensor:
        held.append(z.detach())
        if goal is not None and shares is not None and bool((shares[layer] < 1).any()):
            z = torch.lerp(goal[layer], z, shares[layer].to(z)[:, None])
        if torch.is_grad_enabled() and not z.requires_grad:  # frozen weights: the graph begins here
            z = z.detach().requires_grad_()
        attached.append(z)
        return z

    with head_outputs(model, keep):
        logits = batch.logits(model)
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
