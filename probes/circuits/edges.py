"""Edge attribution patching: every edge's effect, to first order, from gradients at a few places.

The score of an edge from writer u to reader v is what u adds, clean minus counterfactual, times the
metric's gradient with respect to v's input, summed over rows: the log-odds that the edge is worth
(Syed et al. 2023, arXiv 2310.10348). EAP takes the gradient at the clean prompt; EAP-IG averages it
over streams between the counterfactual's embeddings and the prompt's (Hanna et al. 2024, arXiv
2403.17806, eq. 4).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from headscope.probes.circuits.anatomy import Block, anatomy
from headscope.probes.circuits.circuit import Edges, Node
from headscope.probes.circuits.gradients import edge_names, readers_of, slopes
from headscope.probes.circuits.means import instead, part_means
from headscope.probes.circuits.method import Ablation, Found, Progress
from headscope.probes.circuits.stream import Writers, written
from headscope.probes.forward import Batch, batches
from headscope.probes.prompts import Prompt

if TYPE_CHECKING:
    from headscope.probes.model import Model


def _short(value: float) -> float:
    """Six digits: float32 gives no more, and tens of thousands of edges are kept in a file."""
    return float(f"{value:.6g}")


class _Sum:
    """Mean and standard error of arrays that come prompt by prompt."""

    def __init__(self, size: int) -> None:
        self.count, self.total, self.squares = 0, np.zeros(size), np.zeros(size)

    def add(self, values: NDArray[np.float64]) -> None:
        """More prompts. [B, size]"""
        self.count += len(values)
        self.total += values.sum(0)
        self.squares += (values**2).sum(0)

    def mean(self) -> NDArray[np.float64]:
        return self.total / self.count

    def se(self) -> list[float | None]:
        if self.count < 2:
            return [None] * len(self.total)
        spread = np.maximum(self.squares - self.total**2 / self.count, 0.0)
        return [_short(x) for x in np.sqrt(spread / (self.count * (self.count - 1))).tolist()]


def edge_attribution(
    model: Model, prompts: Sequence[Prompt], places: Sequence[float], towards: Ablation, progress: Progress
) -> Found:
    """Score every edge, and every writer by the sum over its edges.

    Args:
        model: the model.
        prompts: with counterfactuals.
        places: where to take gradients: 0 at the counterfactual's embeddings, 1 at the prompt's.
        towards: what stands in for a writer; with other than the `counterfactual`, the embeddings that
            gradients begin at are replaced likewise.
        progress: called with the layers done, of all batches and places.

    Raises:
        Refused: an architecture whose layers do more than add to the residual stream.
    """
    blocks, writers = anatomy(model), Writers(model.geometry)
    sources, targets = edge_names(model.geometry, blocks)
    readers = readers_of(model.geometry, blocks)
    edges, nodes = _Sum(len(sources)), _Sum(len(writers))
    means = np.zeros(2)
    todo = list(batches(model, prompts, writers.tokens(model.device)))
    averages = part_means(model, blocks, todo) if towards == "mean" else None
    for done, batch in enumerate(todo):
        with torch.no_grad():
            clean = written(model, blocks, batch, batch)
            twin = written(model, blocks, batch.twin(model), batch)
        other = instead(twin.parts, towards, averages)
        difference, ends = clean.parts - other, (other[0].to(clean.entering[0], copy=True), clean.entering[0])
        means += [float(clean.metrics[0].sum()), float(twin.metrics[0].sum())]
        del clean, twin, other
        found = np.zeros((len(batch.prompts), len(sources)))
        for i, place in enumerate(places):
            found += _products(model, blocks, batch, torch.lerp(*ends, place), difference) / len(places)
            progress(done * len(places) + i + 1, len(todo) * len(places))
        edges.add(found)
        nodes.add(_by_source(found, readers, len(writers)))
    mean, errors = nodes.mean(), nodes.se()
    return Found(
        tuple(
            Node(id=name, kind=kind, layer=layer, score=float(mean[u]), se=errors[u])
            for u, (name, kind, layer) in enumerate(writers.names())
        ),
        Edges(
            source=tuple(sources), target=tuple(targets),
            score=tuple(_short(x) for x in edges.mean().tolist()), se=tuple(edges.se()),
        ),
        clean=float(means[0] / len(prompts)), counterfactual=float(means[1] / len(prompts)),
    )  # fmt: skip


def _products(
    model: Model, blocks: Sequence[Block], batch: Batch, start: Tensor, difference: Tensor
) -> NDArray[np.float64]:
    """Each prompt's edge scores with the gradients of one pass. [B, edges]"""
    found = []
    inside = torch.arange(difference.shape[2], device=start.device) <= batch.rows[:, None].to(start.device)
    for slope in slopes(model, blocks, batch, start):
        gradient = (slope.gradient * inside[..., None]).flatten(2).transpose(0, 1)  # [B, R, T d]
        parts = difference[: slope.upstream].flatten(2).transpose(0, 1)  # [B, U, T d]
        found.append((gradient @ parts.transpose(1, 2)).flatten(1).cpu())
    return torch.cat(found, 1).double().numpy()


def _by_source(
    found: NDArray[np.float64], readers: Sequence[tuple[str, int]], writers: int
) -> NDArray[np.float64]:
    """Sums over the edges that leave each writer. [B, writers]"""
    total, at = np.zeros((len(found), writers)), 0
    for _, seen in readers:
        total[:, :seen] += found[:, at : at + seen]
        at += seen
    return total
