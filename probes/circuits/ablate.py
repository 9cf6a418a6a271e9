"""Passes in which everything outside a set of heads, or of edges, is ablated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.circuits.anatomy import anatomy
from headscope.probes.circuits.method import Progress
from headscope.probes.circuits.mixed import Mixer
from headscope.probes.circuits.stream import Writers, written
from headscope.probes.effects import measure
from headscope.probes.forward import Batch, answer_logits, batches
from headscope.probes.inside import head_outputs, recording
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass
class _Means:
    """Means over the rows of all prompts; the first row, where attention rests, has its own.

    Rows are the second last but one axis: values are [..., B, T, d].
    """

    first: list[Tensor] = field(default_factory=list)
    others: list[Tensor] = field(default_factory=list)
    prompts: int = 0
    rows: int = 0

    def add(self, values: Sequence[Tensor], batch: Batch) -> None:
        """Another batch, an entry for each layer."""
        inside = torch.arange(1, batch.ids.shape[1], device=batch.ids.device) <= batch.rows[:, None]
        first = [v[..., 0, :].sum(-2) for v in values]
        others = [(v[..., 1:, :] * inside[..., None].to(v)).sum((-3, -2)) for v in values]
        if self.prompts:
            first = [a + b for a, b in zip(self.first, first, strict=True)]
            others = [a + b for a, b in zip(self.others, others, strict=True)]
        self.first, self.others = first, others
        self.prompts += len(batch.prompts)
        self.rows += int(inside.sum())

    def like(self, values: Tensor, layer: int) -> Tensor:
        """The means in the place of these values of a layer."""
        made = (self.others[layer] / max(self.rows, 1))[..., None, None, :].expand_as(values).clone()
        made[..., 0, :] = (self.first[layer] / self.prompts)[..., None, :]
        return made


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
    todo = list(batches(model, prompts))
    means = _Means()
    if ablation == "mean":
        for batch in todo:
            means.add(_z(model, batch.twin(model)), batch)
    for done, batch in enumerate(todo):
        twin = _z(model, batch.twin(model))
        if ablation == "mean":
            twin = [means.like(z, layer) for layer, z in enumerate(twin)]
        elif ablation == "zero":
            twin = [torch.zeros_like(z) for z in twin]
        for i, mask in enumerate(live):

            def change(layer: int, z: Tensor, mask: Tensor = mask, twin: list[Tensor] = twin) -> Tensor:
                keep = mask[layer].to(z.device)[:, None]
                return torch.where(keep, z, twin[layer].permute(1, 2, 0, 3))

            with head_outputs(model, change):
                logits = answer_logits(model, batch.ids, batch.rows)
            found[i, batch.index] = measure(logits, batch.prompts)[0].cpu().double().numpy()
            progress(done * len(sets) + i + 1, len(todo) * len(sets))
    return found


def _z(model: Model, batch: Batch) -> list[Tensor]:
    """Head outputs. [H, B, T, D] a layer"""
    with recording(model) as record:
        answer_logits(model, batch.ids, batch.rows)
    return [z.permute(2, 0, 1, 3) for z in record.z]


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
    todo = list(batches(model, prompts, Writers(model.geometry).tokens()))
    means = _Means()
    if ablation == "mean":
        for batch in todo:
            means.add([written(model, blocks, batch.twin(model), batch).parts], batch)
    for done, batch in enumerate(todo):
        clean, twin = (written(model, blocks, b, batch) for b in (batch, batch.twin(model)))
        ablated = twin.parts
        if ablation == "mean":
            ablated = means.like(twin.parts, 0)
        elif ablation == "zero":
            ablated = torch.zeros_like(twin.parts)
        mixer = Mixer.of(model, blocks, batch, clean, twin, ablated)
        for i, edges in enumerate(sets):
            metrics = mixer.metrics(torch.from_numpy(edges))
            found[i, batch.index] = metrics[0].cpu().double().numpy()
            progress(done * len(sets) + i + 1, len(todo) * len(sets))
    return found
