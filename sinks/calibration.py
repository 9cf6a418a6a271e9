"""Hidden sinks found while the model runs, and attention taken from them (ACT, Yu et al. 2024).

A key is a sink of a head when the queries that see it have given it several times the mass that
uniform attention would have. Every row is judged by the rows up to its own only, so that the
result is the same for a prompt in one piece, in chunks, and with a cache. In the row that is read
for the first answer token, the last one of the prompt, these are exactly the paper's sinks: the
mean over all queries that can see the key.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from headscope.probes import AttentionCall

_ELEMENTS = 1 << 22  # of one block of weights
_EMPTY = 1e-6  # a row with less mass than this off its sinks has nowhere to put theirs


@dataclass(frozen=True)
class SinkRule:
    """When a key counts as a sink.

    Attributes:
        alpha: how many times the mass of uniform attention it must have received. The paper's
            alpha / N on the mean mass is the same for late keys; early keys get more from uniform
            attention already, and are judged by that.
        least: mean mass it must have received in any case. 0 ... 1; 0.1 in the published code.
        min_queries: rows that must have seen it. A key that few have seen proves little.
    """

    alpha: float
    least: float
    min_queries: int


@dataclass
class Tally:
    """What the keys of one sequence have received so far; keys by unpadded position. h heads, N keys.

    Attributes:
        received: mass, summed over the rows. [h, N]
        uniform: what uniform attention would have given. [N]
        seen: rows that saw the key. [N]
        frozen: the sinks at the end of the prompt, once that has come. [h, N]
    """

    received: Tensor
    uniform: Tensor
    seen: Tensor
    frozen: Tensor | None = None

    @classmethod
    def empty(cls, heads: int, device: torch.device) -> Tally:
        zero = torch.zeros(0, device=device)
        return cls(zero.expand(heads, 0), zero, zero)

    def grow(self, keys: int) -> None:
        """Make room for `keys` keys."""
        more = (0, max(0, keys - len(self.seen)))
        self.received, self.uniform, self.seen = (
            pad(t, more) for t in (self.received, self.uniform, self.seen)
        )
        if self.frozen is not None:
            self.frozen = pad(self.frozen, more)


def weights_of(call: AttentionCall, b: int, heads: list[int], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Attention weights of some rows, and which keys they see.

    Args:
        call: the call.
        b: the sequence.
        heads: query heads.
        rows: rows of this call, none of them padding. [R]

    Returns:
        Weights [heads, R, N], which sum to 1, or to less beside a learned sink; and [R, N].
    """
    group = call.q.shape[1] // call.k.shape[1]
    k = call.k[b, [h // group for h in heads]].float()
    scores = (call.q[b, heads][:, rows].float() * call.scaling) @ k.transpose(-1, -2)
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    lo, hi = call.visible.ranges(rows + call.visible.query_offset, k.shape[1], b)
    key = torch.arange(k.shape[1], device=k.device)
    sees = (key >= lo[:, None]) & (key < hi[:, None])
    scores = scores.masked_fill(~sees, -torch.inf)
    if call.sinks is None:
        return scores.softmax(-1), sees
    learned = call.sinks[heads].float()[:, None, None].expand(-1, len(rows), 1)
    return torch.cat([scores, learned], -1).softmax(-1)[..., :-1], sees


def weights_at(call: AttentionCall, rows: Tensor) -> Tensor:
    """Attention weights of all heads in some rows of this call, all sequences at once, float32.

    Args:
        call: the call.
        rows: rows of this call. [R]

    Returns:
        Weights [B, H, R, N]; NaN in rows that are padding.
    """
    batch, heads, _, width = call.q.shape
    keys = call.k.shape[2]
    q = call.q[:, :, rows].float().reshape(batch, call.k.shape[1], -1, width) * call.scaling
    scores = (q @ call.k.float().transpose(-1, -2)).view(batch, heads, len(rows), keys)
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    mask = call.visible.fused(0, call.q.shape[2])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, rows], -torch.inf)
    elif call.q.shape[2] > 1:
        key = torch.arange(keys, device=rows.device)
        scores = scores.masked_fill(key > rows[:, None] + keys - call.q.shape[2], -torch.inf)
    if call.sinks is None:
        return scores.softmax(-1)
    learned = call.sinks.float()[None, :, None, None].expand(batch, -1, len(rows), 1)
    return torch.cat([scores, learned], -1).softmax(-1)[..., :-1]


def shift(
    call: AttentionCall, b: int, heads: list[int], rows: Tensor, tally: Tally, rule: SinkRule, end: int | None
) -> Tensor:
    """What the whole change adds to the heads' outputs: the mass of the sinks goes to the other keys.

    Sinks lose all their mass (strength 0), and the other visible keys, the first token included,
    get it in proportion to their own. The first token is never taken for a sink itself. Where no
    sink stands there, nothing else is spared in its stead.

    Args:
        rows: rows of this call, in order, none of them padding; the tally knows all before. [R]
        tally: is brought up to date.
        rule: what a sink is.
        end: rows from this unpadded position on keep the sinks of the row before; None lets the
            sinks of every row follow from all rows up to it.

    Returns:
        [R, heads, D], float32.
    """
    keys = call.k.shape[2]
    start = call.visible.starts(call.q.shape[0])[b]
    first = call.visible.key_offset - start  # unpadded position of the first key held
    group = call.q.shape[1] // call.k.shape[1]
    v = call.v[b, [h // group for h in heads]].float()
    tally.grow(first + keys)
    held = slice(max(0, first), first + keys)
    skip = max(0, -first)  # padding among the keys held
    found = []
    for part in rows.split(max(1, _ELEMENTS // (len(heads) * keys))):
        weights, sees = weights_of(call, b, heads, part)
        position = part + call.visible.query_offset - start
        sinks = _sinks(weights[..., skip:], sees[:, skip:], position, held, tally, rule, end)
        on_sinks = weights * pad(sinks, (skip, 0))
        rest = weights - on_sinks
        mass, left = on_sinks.sum(-1, keepdim=True), rest.sum(-1, keepdim=True)
        gain = torch.where(left > _EMPTY, mass / left.clamp_min(_EMPTY), 0.0)
        taken = torch.where(left > _EMPTY, on_sinks, 0.0)
        found.append(((rest * gain - taken) @ v).transpose(0, 1))
    return torch.cat(found)


def _sinks(
    weights: Tensor,
    sees: Tensor,
    position: Tensor,
    held: slice,
    tally: Tally,
    rule: SinkRule,
    end: int | None,
) -> Tensor:
    """The sinks of every row of a block, and the tally after it. [heads, R, N]"""
    seen = tally.seen[held] + sees.cumsum(0)
    uniform = tally.uniform[held] + (sees / sees.sum(-1, keepdim=True)).cumsum(0)
    received = tally.received[:, None, held] + weights.cumsum(1)
    needed = torch.maximum(rule.alpha * uniform, rule.least * seen)
    sinks = (received > needed) & (seen >= rule.min_queries) & sees
    if held.start == 0:
        sinks[..., 0] = False
    tally.seen[held], tally.uniform[held] = seen[-1].to(tally.seen.dtype), uniform[-1]
    tally.received = tally.received.clone()
    tally.received[:, held] = received[:, -1]
    if end is None:
        return sinks
    if bool((position == end - 1).any()):
        tally.frozen = torch.zeros_like(tally.received, dtype=torch.bool)
        tally.frozen[:, held] = sinks[:, position == end - 1][:, 0]
    late = position >= end
    if tally.frozen is not None and bool(late.any()):
        sinks = torch.where(late[:, None], tally.frozen[:, None, held] & sees, sinks)
    return sinks
