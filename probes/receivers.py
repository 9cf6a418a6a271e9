"""Receivers of path patching: heads whose queries, keys or values are read from another pass."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from headscope.probes.effects import measure
from headscope.probes.errors import HeadscopeError
from headscope.probes.forward import Batch
from headscope.probes.fused import attend
from headscope.probes.geometry import HeadId
from headscope.probes.inside import Record, frozen_mlps, head_outputs, repeat
from headscope.probes.seam import AttentionCall, attach

if TYPE_CHECKING:
    from headscope.probes.model import Model


@dataclass(frozen=True)
class Receiver:
    """What one query head reads: its `q`, `k` or `v`.

    Heads of a KV group share keys and values in the model; here each reads its own copy, so that
    a receiver is one query head.
    """

    head: HeadId
    reads: str

    @classmethod
    def parse(cls, text: str) -> Receiver:
        """Read `L10H3.q`.

        Raises:
            HeadscopeError: it is written otherwise.
        """
        found = re.fullmatch(r"(L\d+H\d+)\.([qkv])", text)
        if not found:
            raise HeadscopeError(f"The receiver {text!r} is not written like 'L10H3.q', '.k' or '.v'.")
        return cls(HeadId.parse(found[1]), found[2])

    def __str__(self) -> str:
        return f"{self.head}.{self.reads}"


@dataclass
class _Listener:
    """Keeps what the receivers would read."""

    layers: set[int]
    heard: dict[int, AttentionCall] = field(default_factory=dict)

    def see(self, call: AttentionCall) -> None:
        if call.layer in self.layers:
            self.heard[call.layer] = call


@dataclass
class _Reader:
    """Lets the receivers read what was heard, and nobody else."""

    receivers: Sequence[Receiver]
    heard: dict[int, AttentionCall]

    def edit(self, call: AttentionCall) -> Tensor:
        here = [r for r in self.receivers if r.head.layer == call.layer]
        if not here:
            return call.output
        output, group = call.output.clone(), call.q.shape[1] // call.k.shape[1]
        for head in {r.head.head for r in here}:
            read = {r.reads: head if r.reads == "q" else head // group for r in here if r.head.head == head}
            swapped = {}
            for name, index in read.items():
                swapped[name] = getattr(call, name).clone()
                swapped[name][:, index] = getattr(self.heard[call.layer], name)[:, index]
            output[:, :, head] = attend(replace(call, **swapped))[:, :, head]
        return output


def through_receivers(
    model: Model,
    batch: Batch,
    clean: Record,
    twin: Tensor,
    layer: int,
    heads: Sequence[int],
    receivers: Sequence[Receiver],
) -> np.ndarray:
    """Metrics when receivers read what senders of one layer would make them read. [M, B, heads]

    Args:
        model: the model.
        batch: the prompts.
        clean: their clean pass; MLPs are frozen at its outputs where it has them.
        twin: the senders' layer's head outputs on the counterfactuals. [B, T, H, D]
        layer, heads: the senders, patched one at a time.
        receivers: who reads what.
    """
    n = len(heads)
    listener = _Listener({r.head.layer for r in receivers})
    copies = batch.times(model, n)

    def held(at: int, _: Tensor) -> Tensor:
        z = repeat(clean.z[at], n).clone()
        if at == layer:
            for i, head in enumerate(heads):
                z[i::n, :, head] = twin[:, :, head]
        return z

    with ExitStack() as stack:
        if clean.mlp:
            stack.enter_context(frozen_mlps(model, clean.mlp, n))
        stack.enter_context(attach(model, listener))
        stack.enter_context(head_outputs(model, held))
        copies.logits(model)
    with attach(model, _Reader(receivers, listener.heard)):
        logits = copies.logits(model)
    return measure(logits, copies.prompts).cpu().double().unflatten(1, (-1, n)).numpy()
