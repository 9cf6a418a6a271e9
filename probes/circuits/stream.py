"""The residual stream as a sum: what the embeddings, every head and every MLP add to it.

Nodes are numbered in the order in which they write: 0 is `embed`, then each layer's heads and its
MLP. A reader of layer l sees the first `1 + l (H + 1)` of them, the MLP its own layer's heads too
(except in layers whose attention and MLP run in parallel).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from headscope.probes.circuits.anatomy import Block
from headscope.probes.circuits.circuit import Kind
from headscope.probes.effects import measure
from headscope.probes.forward import Batch, answer_logits
from headscope.probes.geometry import Geometry, HeadId
from headscope.probes.inside import hidden_of, recording

if TYPE_CHECKING:
    from headscope.probes.model import Model

_FLOATS = 1 << 27  # of one array that holds what every node adds; half a GiB, 2 on a GPU


@dataclass(frozen=True)
class Writers:
    """The nodes that write to the stream, by number."""

    geometry: Geometry

    def __len__(self) -> int:
        return 1 + self.geometry.layers * (self.geometry.heads + 1)

    def before(self, layer: int) -> int:
        """How many write before `layer`."""
        return 1 + layer * (self.geometry.heads + 1)

    def heads(self, layer: int) -> slice:
        """Where a layer's heads stand; its MLP is the next one."""
        return slice(self.before(layer), self.before(layer) + self.geometry.heads)

    def before_mlp(self, layer: int, parallel: bool) -> int:
        """How many write before the MLP of `layer` reads."""
        return self.before(layer) + (0 if parallel else self.geometry.heads)

    def names(self) -> list[tuple[str, Kind, int]]:
        """Name, kind and layer of each."""
        found: list[tuple[str, Kind, int]] = [("embed", "embed", -1)]
        for layer in range(self.geometry.layers):
            found += [(str(HeadId(layer, head)), "head", layer) for head in range(self.geometry.heads)]
            found.append((f"M{layer}", "mlp", layer))
        return found

    def tokens(self, device: torch.device) -> int:
        """How many tokens of a batch keep the array of all contributions within bounds."""
        floats = _FLOATS * (4 if device.type == "cuda" else 1)
        return max(1, floats // (len(self) * self.geometry.hidden))


@dataclass(frozen=True)
class Written:
    """What one pass wrote. U writers, B prompts, T rows, d hidden.

    Attributes:
        parts: what each writer added, in float32. [U, B, T, d]
        entering: the stream before each layer, and last the one after all. [L + 1] of [B, T, d]
        middle: the stream that each MLP read. [L] of [B, T, d]
        metrics: of the answers. [M, B]
    """

    parts: Tensor
    entering: list[Tensor]
    middle: list[Tensor]
    metrics: Tensor


@torch.no_grad()
def written(model: Model, blocks: Sequence[Block], batch: Batch, asked: Batch) -> Written:
    """Run a batch and take the stream apart.

    Args:
        model: the model.
        blocks: its anatomy.
        batch: what to run.
        asked: the batch whose answers to measure, where `batch` is its counterfactual.
    """
    writers = Writers(model.geometry)
    attended, middle = list[Tensor](), list[Tensor]()
    with ExitStack() as stack:
        record = stack.enter_context(recording(model, mlps=True))
        for module in model.attention_modules:
            hook = module.register_forward_hook(lambda *a: attended.append(hidden_of(a[2])))
            stack.callback(hook.remove)
        logits = answer_logits(model, batch.ids, batch.rows)
    entering = [*record.entering, hidden_of(record.layer[-1])]
    parts = torch.empty(len(writers), *entering[0].shape, dtype=torch.float32, device=entering[0].device)
    parts[0] = entering[0].float()
    for layer, block in enumerate(blocks):
        heads = writers.heads(layer)
        parts[heads] = head_parts(model, layer, block, record.z[layer], attended[layer])
        middle.append(entering[layer] + (0 if block.parallel else block.attention.add(attended[layer])))
        parts[heads.stop] = block.mlp.add(hidden_of(record.mlp[layer])).float()
    return Written(parts, entering, middle, measure(logits, asked.prompts))


def head_parts(model: Model, layer: int, block: Block, z: Tensor, attended: Tensor) -> Tensor:
    """What each head of a layer adds to the stream, in float32. [H, B, T, d]

    Where a norm follows, it scales what each head adds by what it makes of their sum, so that the
    heads' shares still sum to what the layer adds.

    Args:
        model: the model.
        layer: which.
        block: its anatomy.
        z: head outputs. [B, T, H, D]
        attended: what the attention module put out. [B, T, d]
    """
    weight = model.output_weight(layer).to(z.device).float()
    parts = torch.einsum("bthd,hdo->hbto", z.float(), weight)
    if block.attention.after is not None:
        scale = block.attention.add(attended).float() / attended.float()
        parts *= torch.where(torch.isfinite(scale), scale, 0.0)
    return parts
