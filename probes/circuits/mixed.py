"""A pass in which every reader sees the stream that a circuit's edges make, all others ablated.

What a reader is given is the ablated stream plus, for each writer whose edge to it is in the circuit,
what that writer adds in this pass beyond what it adds when ablated. With all edges that is the clean
pass, with none the ablated one; nothing is linearised. Every reader's copy of the stream goes through
the norm and the projections of its layer; attention itself is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from headscope.probes.circuits.anatomy import Block, replacing
from headscope.probes.circuits.gradients import reader_names, readers_of
from headscope.probes.circuits.stream import Writers, Written, head_parts
from headscope.probes.effects import measure
from headscope.probes.forward import Batch, answer_logits
from headscope.probes.fused import attend
from headscope.probes.inside import head_outputs, hidden_of
from headscope.probes.seam import AttentionCall, attach

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass(frozen=True)
class Mixer:
    """Runs one batch under any set of edges. U writers, B prompts, T rows, d hidden.

    Attributes:
        model: the model.
        blocks: its anatomy.
        batch: the prompts.
        start: the stream that enters the first layer, clean. [B, T, d]
        ablated: what each writer adds when ablated. [U, B, T, d]
        entering: the stream before each layer and after all, everything ablated. [L + 1] of [B, T, d]
        middle: the same before each MLP. [L] of [B, T, d]
    """

    model: Model
    blocks: Sequence[Block]
    batch: Batch
    start: Tensor
    ablated: Tensor
    entering: list[Tensor]
    middle: list[Tensor]

    @classmethod
    def of(
        cls,
        model: Model,
        blocks: Sequence[Block],
        batch: Batch,
        clean: Written,
        twin: Written,
        ablated: Tensor,
    ) -> Mixer:
        """From both passes of a batch, and what writers add when ablated: the twin's parts or others."""
        moved, writers = (ablated - twin.parts).cumsum(0), Writers(model.geometry)
        entering = [s.float() + moved[writers.before(i) - 1] for i, s in enumerate(twin.entering)]
        middle = [
            s.float() + moved[writers.before_mlp(i, block.parallel) - 1]
            for i, (s, block) in enumerate(zip(twin.middle, blocks, strict=True))
        ]
        return cls(model, blocks, batch, clean.entering[0], ablated, entering, middle)

    @torch.no_grad()
    def metrics(self, edges: Tensor) -> Tensor:
        """Metrics of the answers. [M, B]

        Args:
            edges: the share of each edge that is clean, 0 ... 1, in the order of `readers_of`. [edges]
        """
        run = _Run(self, edges)
        with run.running(), attach(self.model, _Idle(), attend=run.attend):
            logits = answer_logits(self.model, self.batch.ids, self.batch.rows)
        return measure(logits, self.batch.prompts)


class _Idle:
    """An observer that looks at nothing: the seam wants one."""

    def see(self, call: AttentionCall) -> None:
        del call


class _Run:
    """One mixed pass; `beyond` is what each writer has added beyond its ablated self. [U, B, T, d]"""

    def __init__(self, mixer: Mixer, edges: Tensor) -> None:
        self.mixer, self.geometry = mixer, mixer.model.geometry
        self.masks, at = dict[str, Tensor](), 0
        for name, seen in readers_of(self.geometry, mixer.blocks):
            self.masks[name] = edges[at : at + seen].to(mixer.ablated)
            at += seen
        self.beyond = torch.zeros_like(mixer.ablated)
        self.beyond[0] = mixer.start.float() - mixer.ablated[0]
        self.z: Tensor | None = None

    def mixed(self, base: Tensor, names: Sequence[str]) -> Tensor:
        """What the readers of one place are given, one after another. [R * B, T, d]"""
        mask = torch.stack([self.masks[name] for name in names])
        added = mask @ self.beyond[: mask.shape[1]].flatten(1)
        return (base + added.view(len(names), *base.shape)).flatten(0, 1)

    def running(self) -> ExitStack:
        """Hooks for one pass."""
        model, stack = self.mixer.model, ExitStack()
        stack.enter_context(head_outputs(model, self._keep))
        for layer, block in enumerate(self.mixer.blocks):
            self._attention(stack, layer, block)
            self._mlp(stack, layer, block)
        stack.callback(model.layer_modules[-1].register_forward_hook(self._last).remove)
        return stack

    def attend(self, call: AttentionCall) -> Tensor:
        """Attention of the readers' own queries, keys and values. [R * B, T, H, D]"""
        g = self.geometry
        copies = g.heads + 2 * g.kv_heads
        q, k, v = (
            torch.stack([tensor.unflatten(0, (copies, -1))[first + i, :, i] for i in range(count)], 1)
            for tensor, first, count in (
                (call.q, 0, g.heads), (call.k, g.heads, g.kv_heads),
                (call.v, g.heads + g.kv_heads, g.kv_heads),
            )
        )  # fmt: skip
        return attend(replace(call, q=q, k=k, v=v)).repeat(copies, 1, 1, 1)

    def _keep(self, layer: int, z: Tensor) -> None:
        self.z = z[: len(self.mixer.batch.prompts)]

    def _attention(self, stack: ExitStack, layer: int, block: Block) -> None:
        part, names = block.attention, reader_names(self.geometry, layer)

        def enter(given: Tensor) -> Tensor:
            return self.mixed(self.mixer.entering[layer], names).to(given.dtype)

        def leave(_: Any, __: Any, output: Any) -> Any:
            one = hidden_of(output)[: len(self.mixer.batch.prompts)]
            assert self.z is not None
            self._write(
                Writers(self.geometry).heads(layer), head_parts(self.mixer.model, layer, block, self.z, one)
            )
            return (one, *output[1:]) if isinstance(output, tuple) else one

        stack.callback(replacing(part.before or part.module, enter))
        stack.callback(part.module.register_forward_hook(leave).remove)

    def _mlp(self, stack: ExitStack, layer: int, block: Block) -> None:
        part, at = block.mlp, Writers(self.geometry).heads(layer).stop

        def enter(given: Tensor) -> Tensor:
            stream = self.mixed(self.mixer.middle[layer], [f"M{layer}"]).to(given.dtype)
            # `forward` runs the norm without its hooks, which may be those of the attention.
            return stream if part.before is None else hidden_of(part.before.forward(stream))

        def leave(_: Any, __: Any, output: Any) -> None:
            self._write(slice(at, at + 1), part.add(hidden_of(output)).float()[None])

        stack.callback(replacing(part.module, enter))
        stack.callback(part.module.register_forward_hook(leave).remove)

    def _write(self, where: slice, parts: Tensor) -> None:
        self.beyond[where] = parts - self.mixer.ablated[where]

    def _last(self, _: Any, __: Any, output: Any) -> Any:
        stream = self.mixed(self.mixer.entering[-1], ["logits"]).to(hidden_of(output).dtype)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream
