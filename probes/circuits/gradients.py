"""What each reader of the residual stream would make of a change: gradients, reader by reader.

A reader is a query head's q, a KV head's k or v, an MLP, or the logits. Its gradient is that of the
metric with respect to the stream as this reader alone sees it. One backward pass finds the gradients
of all queries, keys, values and MLP inputs; each is then pulled back through the projection and the
norm before it, which is a small part of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.circuits.anatomy import Block, replacing
from headscope.probes.circuits.stream import Writers
from headscope.probes.effects import measure
from headscope.probes.forward import Batch, answer_logits
from headscope.probes.geometry import Geometry
from headscope.probes.inside import hidden_of
from headscope.probes.seam import AttentionCall, attach

if TYPE_CHECKING:
    from headscope.probes.model import Model


def reader_names(geometry: Geometry, layer: int) -> list[str]:
    """The inputs of one layer's attention: every query head's, then every KV head's k, then its v."""
    queries = [f"L{layer}H{head}.q" for head in range(geometry.heads)]
    return queries + [f"L{layer}G{group}.{reads}" for reads in "kv" for group in range(geometry.kv_heads)]


def readers_of(geometry: Geometry, blocks: Sequence[Block]) -> list[tuple[str, int]]:
    """Every reader and how many writers it sees; edges are numbered reader by reader."""
    writers, found = Writers(geometry), list[tuple[str, int]]()
    for layer, block in enumerate(blocks):
        found += [(name, writers.before(layer)) for name in reader_names(geometry, layer)]
        found.append((f"M{layer}", writers.before_mlp(layer, block.parallel)))
    return [*found, ("logits", len(writers))]


def edge_names(geometry: Geometry, blocks: Sequence[Block]) -> tuple[list[str], list[str]]:
    """Sources and targets of all edges, in order."""
    names = [name for name, _, _ in Writers(geometry).names()]
    pairs = [(names[u], reader) for reader, seen in readers_of(geometry, blocks) for u in range(seen)]
    return [source for source, _ in pairs], [target for _, target in pairs]


@dataclass
class _Pass:
    """The tensors of one pass in the graph, by layer."""

    q: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    streams: list[Tensor] = field(default_factory=list)
    mlps: list[Tensor] = field(default_factory=list)
    mlp_streams: list[Tensor] = field(default_factory=list)
    last: list[Tensor] = field(default_factory=list)
    total: list[Tensor] = field(default_factory=list)

    def see(self, call: AttentionCall) -> None:
        self.q.append(call.q)
        self.k.append(call.k)
        self.v.append(call.v)


@dataclass(frozen=True)
class Slope:
    """The gradients of some readers of one layer. R readers.

    Attributes:
        names: of the readers.
        upstream: how many writers they see.
        gradient: of the metric's sum over prompts. [R, B, T, d]
    """

    names: list[str]
    upstream: int
    gradient: Tensor


def slopes(model: Model, blocks: Sequence[Block], batch: Batch, start: Tensor) -> Iterator[Slope]:
    """Gradients of the log-odds for all readers, layer by layer.

    Args:
        model: the model.
        blocks: its anatomy.
        batch: the prompts.
        start: the stream that enters the first layer; between the prompt's and the counterfactual's
            for integrated gradients. [B, T, d]
    """
    g, writers = model.geometry, Writers(model.geometry)
    with torch.enable_grad():
        seen = _run(model, blocks, batch, start)
        inner = [*seen.q, *seen.k, *seen.v, *seen.mlps, *seen.last]
        found = torch.autograd.grad(seen.total[0], inner, retain_graph=True)
        n = g.layers
        for layer in range(n):
            tensors = [part[layer] for part in (seen.q, seen.k, seen.v)]
            cotangents = [found[i * n + layer] for i in range(3)]
            gradient = torch.stack(
                [
                    _pulled(tensor, seen.streams[layer], _only(cotangent, head))
                    for tensor, cotangent in zip(tensors, cotangents, strict=True)
                    for head in range(tensor.shape[1])
                ]
            )
            yield Slope(reader_names(g, layer), writers.before(layer), gradient.float())
            upstream = writers.before_mlp(layer, blocks[layer].parallel)
            fed = _pulled(seen.mlps[layer], seen.mlp_streams[layer], found[3 * n + layer])
            yield Slope([f"M{layer}"], upstream, fed.float()[None])
        yield Slope(["logits"], len(writers), found[-1].float()[None])


def _run(model: Model, blocks: Sequence[Block], batch: Batch, start: Tensor) -> _Pass:
    """One pass from `start`, in which every reader has its own copy of what it reads."""
    seen = _Pass()

    def copied(into: list[Tensor]) -> Callable[[Tensor], Tensor]:
        def copy(given: Tensor) -> Tensor:
            into.append(given.clone())
            return into[-1]

        return copy

    leaf = start.detach().clone().requires_grad_()
    with ExitStack() as stack:
        stack.callback(replacing(model.layer_modules[0], lambda given: leaf.to(given.dtype)))
        for block in blocks:
            into, fed = block.attention, block.mlp
            stack.callback(replacing(into.before or into.module, copied(seen.streams)))
            if fed.before not in (None, into.before):
                stack.callback(replacing(fed.before or fed.module, copied(seen.mlp_streams)))
            stack.callback(replacing(fed.module, copied(seen.mlps)))
        keep = model.layer_modules[-1].register_forward_hook(lambda *a: seen.last.append(hidden_of(a[2])))
        stack.callback(keep.remove)
        stack.enter_context(attach(model, seen))
        logits = answer_logits(model, batch.ids, batch.rows)
    seen.total.append(measure(logits, batch.prompts)[0].sum())
    for layer, block in enumerate(blocks):
        if block.mlp.before is None:
            seen.mlp_streams.insert(layer, seen.mlps[layer])
        elif block.mlp.before is block.attention.before:
            seen.mlp_streams.insert(layer, seen.streams[layer])
    return seen


def _only(cotangent: Tensor, head: int) -> Tensor:
    masked = torch.zeros_like(cotangent)
    masked[:, head] = cotangent[:, head]
    return masked


def _pulled(output: Tensor, stream: Tensor, cotangent: Tensor) -> Tensor:
    """The gradient with respect to the stream of what only this output made of it."""
    if output is stream:
        return cotangent
    return torch.autograd.grad(output, stream, cotangent, retain_graph=True)[0]
