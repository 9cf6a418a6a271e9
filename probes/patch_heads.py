"""Activation patching: what a head's output from another prompt does to the answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headscope.probes.effects import METRICS, Effects, measure
from headscope.probes.errors import unknown
from headscope.probes.forward import Batch, batches
from headscope.probes.geometry import HeadId
from headscope.probes.inside import Record, head_outputs, recording, repeat, resumed
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model

_TOKENS = 4096  # of one forward pass, all patched copies of the prompts counted


@torch.no_grad()
def activation_patching(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    heads: Collection[HeadId] | None = None,
    positions: str = "all",
    done: Callable[[int], object] = lambda count: None,
) -> Effects:
    """Run each prompt with one head's output taken from its counterfactual, everything after it live.

    Costs two forward passes a prompt and one for each head, which begins at the head's layer.

    Args:
        model: the model.
        prompts: with counterfactuals, which tasks of pairs make.
        heads: which to patch; None patches all.
        positions: `all` rows, `last` (the row that answers), or the name of a span of the prompts.
        done: called after every batch and layer with the number of (prompt, head) pairs done.

    Raises:
        HeadscopeError: no prompts, no counterfactuals, or a span that a prompt lacks.
    """
    g = model.geometry
    chosen = {HeadId(i, j) for i in range(g.layers) for j in range(g.heads)} if heads is None else set(heads)
    clean, other = (np.zeros((len(METRICS), len(prompts))) for _ in range(2))
    change = np.full((len(METRICS), len(prompts), g.layers, g.heads), np.nan)
    count = 0
    for batch in batches(model, prompts, _TOKENS // g.heads, pictures=True):
        before, twin, clean[:, batch.index], other[:, batch.index] = both(model, batch)
        rows = selected(batch, positions)
        for layer in sorted({head.layer for head in chosen}):
            here = sorted(head.head for head in chosen if head.layer == layer)
            found = _patched(model, batch, before, twin.z[layer], layer, here, rows)
            for i, head in enumerate(here):
                change[:, batch.index, layer, head] = found[:, :, i] - clean[:, batch.index]
            count += len(here) * len(batch.index)
            done(count)
    return Effects(f"activation patching at {positions} rows", clean, other, change)


def both(model: Model, batch: Batch, mlps: bool = False) -> tuple[Record, Record, np.ndarray, np.ndarray]:
    """Clean and counterfactual passes of a batch, and the metrics of each. [M, B]"""
    with recording(model, mlps) as clean:
        first = measure(batch.logits(model), batch.prompts)
    with recording(model) as twin:
        second = measure(batch.twin(model).logits(model), batch.prompts)
    return clean, twin, first.cpu().double().numpy(), second.cpu().double().numpy()


def selected(batch: Batch, positions: str) -> Tensor:
    """The rows that `positions` names. [B, T] bool"""
    rows = torch.zeros_like(batch.ids, dtype=torch.bool)
    for b, prompt in enumerate(batch.prompts):
        last = int(batch.rows[b])
        if positions not in ("all", "last", *prompt.spans):
            raise unknown("position", positions, ("all", "last", *prompt.spans))
        named = {"all": (0, last + 1), "last": (last, last + 1), **prompt.spans}
        rows[b, slice(*named[positions])] = True
    return rows


def _patched(
    model: Model, batch: Batch, clean: Record, twin: Tensor, layer: int, heads: Sequence[int], rows: Tensor
) -> np.ndarray:
    """Metrics with each of `heads` of a layer patched in turn. [M, B, heads]"""
    n = len(heads)

    def change(at: int, z: Tensor) -> Tensor | None:
        if at != layer:
            return None
        z = z.clone()
        for i, head in enumerate(heads):
            z[i::n, :, head] = torch.where(rows[..., None], twin[:, :, head], z[i::n, :, head])
        return z

    copies = batch.times(model, n)
    start = repeat(clean.layer[layer - 1], n) if layer else None
    with resumed(model, layer, start), head_outputs(model, change):
        logits = copies.logits(model)
    return measure(logits, copies.prompts).cpu().double().unflatten(1, (-1, n)).numpy()
