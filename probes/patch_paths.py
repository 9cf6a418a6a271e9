"""Path patching: what a head says to the logits, or to other heads, without the detours.

The sender's output is taken from the counterfactual while all other heads are held at their
clean outputs. What MLPs make of the change either reaches the receiver (`recomputed`: the path
through any MLPs) or not (`frozen`: the direct path alone).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from headscope.probes.effects import METRICS, Effects, measure
from headscope.probes.errors import HeadscopeError, Refused
from headscope.probes.forward import Batch, answer_logits, batches
from headscope.probes.geometry import HeadId
from headscope.probes.inside import (
    Record,
    frozen_mlps,
    head_outputs,
    hidden_of,
    recording,
    repeat,
    resumed,
)
from headscope.probes.patch_heads import both
from headscope.probes.prompts import Prompt
from headscope.probes.receivers import Receiver, through_receivers

if TYPE_CHECKING:
    from headscope.probes.model import Model

Mlps = Literal["recomputed", "frozen"]
_AGREES = 1e-3  # nats by which the shortened pass may miss the whole one, float32


@torch.no_grad()
def path_patching(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    receivers: Sequence[Receiver | str] | None = None,
    mlps: Mlps = "recomputed",
    heads: Collection[HeadId] | None = None,
    done: Callable[[int], object] = lambda count: None,
) -> Effects:
    """The effect of each sender head on the answer along paths that pass no other head.

    To the logits, only the row that answers matters: with every other head held, nothing moves
    between rows. So one row is run instead of the prompt, through the MLPs above the sender
    (`recomputed`), or through the final norm alone (`frozen`), which is exact, not a linearisation.
    To receivers, two whole passes are needed for each sender: one that finds what the receivers
    would read, one in which they read it and everything after them is live.

    Args:
        model: the model.
        prompts: with counterfactuals.
        receivers: `L10H3.q`, `.k` or `.v` for what the receiving heads read; None for the logits.
        mlps: whether MLPs on the way are recomputed or frozen at their clean outputs.
        heads: the senders; None takes all that come before a receiver.
        done: called with the number of (prompt, head) pairs done.

    Raises:
        HeadscopeError: no prompts, no counterfactuals, an unknown receiver.
        Refused: a model in which something other than attention moves information between rows.
    """
    g = model.geometry
    if mlps not in ("recomputed", "frozen"):
        raise HeadscopeError(f"mlps is {mlps!r}; valid are 'recomputed' and 'frozen'.")
    readers = [r if isinstance(r, Receiver) else Receiver.parse(r) for r in receivers or ()]
    for reader in readers:
        if not g.has(reader.head):
            raise HeadscopeError(f"{model.name!r} has {g.layers} layers of {g.heads} heads, no {reader}.")
    limit = max((r.head.layer for r in readers), default=g.layers)
    chosen = {HeadId(i, j) for i in range(g.layers) for j in range(g.heads)} if heads is None else set(heads)
    clean, other = (np.zeros((len(METRICS), len(prompts))) for _ in range(2))
    change = np.full((len(METRICS), len(prompts), g.layers, g.heads), np.nan)
    count, held = 0, bool(readers) and mlps == "frozen"
    for batch in batches(model, prompts, pictures=True):
        before, twin, clean[:, batch.index], other[:, batch.index] = both(model, batch, held)
        row = None if readers else _Row(model, batch, before, twin, mlps)
        if row:
            row.check(clean[:, batch.index])
        for layer in sorted({h.layer for h in chosen if h.layer < limit}):
            here = sorted(h.head for h in chosen if h.layer == layer)
            if row is None:
                found = through_receivers(model, batch, before, twin.z[layer], layer, here, readers)
            else:
                found = row.through_mlps(layer, here) if mlps == "recomputed" else row.direct(layer, here)
            for i, head in enumerate(here):
                change[:, batch.index, layer, head] = found[:, :, i] - clean[:, batch.index]
            count += len(here) * len(batch.index)
            done(count)
    where = ", ".join(map(str, readers)) or "logits"
    return Effects(f"path patching to {where}, MLPs {mlps}", clean, other, change)


class _Row:
    """The answering rows of a batch, run alone with all head outputs held. B prompts."""

    def __init__(self, model: Model, batch: Batch, clean: Record, twin: Record, mlps: Mlps) -> None:
        self.model, self.batch = model, batch
        self.clean, self.twin = ([batch.last(z)[:, None] for z in record.z] for record in (clean, twin))
        self.ids = batch.ids.gather(1, batch.rows[:, None])
        with self._held(1), recording(model, mlps=mlps == "frozen") as self.record:
            self.alone = self._measure(1)[:, :, 0]
        self._added = self._additions() if mlps == "frozen" else []

    def check(self, expected: np.ndarray) -> None:
        """Refuse a model whose last row alone does not give the answer of the whole prompt."""
        wrong = np.abs(self.alone - expected).max()
        if self.model.hf.dtype == torch.float32 and not wrong <= _AGREES * max(1.0, np.abs(expected).max()):
            raise Refused(
                f"{self.model.name!r}: with all heads held, its last row alone gives another answer (off by "
                f"{wrong:.2g} nats), so paths to the logits cannot be told from that row."
            )

    def _held(self, times: int, patch: Callable[[int], Sequence[int]] = lambda layer: ()) -> Any:
        """All heads at their clean outputs; copy i of each prompt with head `patch(layer)[i]` patched."""

        def change(layer: int, _: Tensor) -> Tensor:
            z = repeat(self.clean[layer], times).clone()
            for i, head in enumerate(patch(layer)):
                z[i::times, :, head] = self.twin[layer][:, :, head]
            return z

        return head_outputs(self.model, change)

    def _measure(self, times: int) -> np.ndarray:
        """Metrics of the row, each prompt `times` times over. [M, B, times]"""
        ids, at = repeat(self.ids, times), repeat(self.batch.rows, times)
        logits = answer_logits(self.model, ids, torch.zeros_like(at), position_ids=at[:, None])
        copies = [prompt for prompt in self.batch.prompts for _ in range(times)]
        return measure(logits, copies).cpu().double().unflatten(1, (-1, times)).numpy()

    def through_mlps(self, layer: int, heads: Sequence[int]) -> np.ndarray:
        """With each sender patched in turn and the MLPs above it recomputed. [M, B, heads]"""
        n = len(heads)
        start = repeat(self.record.layer[layer - 1], n) if layer else None
        with resumed(self.model, layer, start), self._held(n, lambda at: heads if at == layer else ()):
            return self._measure(n)

    def direct(self, layer: int, heads: Sequence[int]) -> np.ndarray:
        """With what each sender itself adds to the last residual patched in turn. [M, B, heads]"""
        last = self.record.layer[-1]
        hidden = repeat(hidden_of(last), len(heads)) + self._added[layer][:, heads].flatten(0, 1)[:, None]
        final = (hidden, *last[1:]) if isinstance(last, tuple) else hidden
        with resumed(self.model, self.model.geometry.layers, final):
            return self._measure(len(heads))

    def _additions(self) -> list[Tensor]:
        """What patching each head changes in the sum that its layer adds. [B, H, hidden] a layer

        Measured, not computed from W_O, since some architectures normalise it on the way. With
        MLPs and heads held, a layer's addition depends on its own heads alone, so that one pass
        serves all layers.
        """
        n = self.model.geometry.heads
        with (
            frozen_mlps(self.model, self.record.mlp, n),
            self._held(n, lambda _: range(n)),
            recording(self.model) as patched,
        ):
            self._measure(n)
        before = [_added(*pair) for pair in zip(self.record.entering, self.record.layer, strict=True)]
        after = [_added(*pair) for pair in zip(patched.entering, patched.layer, strict=True)]
        return [(b - repeat(a, n)).unflatten(0, (-1, n)) for a, b in zip(before, after, strict=True)]


def _added(entering: Tensor, output: object) -> Tensor:
    """What a layer added to the residual stream of the only row. [B, hidden]"""
    return (hidden_of(output) - entering)[:, 0]
