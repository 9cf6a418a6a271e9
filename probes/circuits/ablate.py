"""Passes in which everything outside a set of heads, or of edges, is ablated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.circuits.anatomy import anatomy
from headscope.probes.circuits.means import instead, part_means, replacements
from headscope.probes.circuits.method import Progress
from headscope.probes.circuits.mixed import Mixer
from headscope.probes.circuits.stream import Writers, written
from headscope.probes.effects import measure
from headscope.probes.forward import batches
from headscope.probes.inside import head_outputs
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@torch.no_grad()
def head_runs(
    model: Model, prompts: Sequence[Prompt], sets: NDArray[np.bool_], ablation: str, progress: Progress
) -> NDArray[np.float64]:
    """Log-odds with only these heads live, MLPs recomputed. [sets, P]

    Args:
        model: the model.
        prompts: with counterfactuals.
        sets: which heads are live in each run. [sets, L * H]
        ablation: `counterfactual`, `mean` or `zero`.
        progress: called with the passes done and all of them.
    """
    g = model.geometry
    live = torch.from_numpy(sets.reshape(-1, g.layers, g.heads))
    found = np.zeros((len(sets), len(prompts)))
    todo = list(batches(model, prompts, pictures=True))
    replaced = replacements(model, todo, ablation)
    for done, (batch, twin) in enumerate(zip(todo, replaced, strict=True)):
        for i, mask in enumerate(live):

            def change(layer: int, z: Tensor, mask: Tensor = mask, twin: list[Tensor] = twin) -> Tensor:
                keep = mask[layer].to(z.device)[:, None]
                return torch.where(keep, z, twin[layer].permute(1, 2, 0, 3))

            with head_outputs(model, change):
                logits = batch.logits(model)
            found[i, batch.index] = measure(logits, batch.prompts)[0].cpu().double().numpy()
            progress(done * len(sets) + i + 1, len(todo) * len(sets))
    return found


@torch.no_grad()
def edge_runs(
    model: Model, prompts: Sequence[Prompt], sets: NDArray[np.bool_], ablation: str, progress: Progress
) -> NDArray[np.float64]:
    """Log-odds with only these edges live. [sets, P]

    Args:
        model: the model.
        prompts: with counterfactuals.
        sets: which edges are live in each run, in the order of `readers_of`. [sets, edges]
        ablation: `counterfactual`, `mean` or `zero`.
        progress: called with the passes done and all of them.
    """
    blocks, found = anatomy(model), np.zeros((len(sets), len(prompts)))
    todo = list(batches(model, prompts, Writers(model.geometry).tokens(model.device)))
    means = part_means(model, blocks, todo) if ablation == "mean" else None
    for done, batch in enumerate(todo):
        clean, twin = (written(model, blocks, b, batch) for b in (batch, batch.twin(model)))
        ablated = instead(twin.parts, ablation, means)
        mixer = Mixer.of(model, blocks, batch, clean, twin, ablated)
        for i, edges in enumerate(sets):
            metrics = mixer.metrics(torch.from_numpy(edges))
            found[i, batch.index] = metrics[0].cpu().double().numpy()
            progress(done * len(sets) + i + 1, len(todo) * len(sets))
    return found
