"""Attention as the model itself would compute it, without n x n memory.

torch's fused kernel where it can express the layer; an exact pass in blocks of queries where it
cannot (soft-capped scores, learned sinks) or where a mask would have to be stored.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.integrations.sdpa_attention import sdpa_attention_forward

if TYPE_CHECKING:
    from headscope.probes.seam import AttentionCall

# Larger boolean masks than this are built a block of queries at a time.
MASK_ELEMENTS = 1 << 26
_EXACT_ELEMENTS = 1 << 24
_LEAST_ROWS = 128  # of a block, so that narrow windows do not mean many small products


def attend(call: AttentionCall) -> Tensor:
    """The heads' outputs of one call, [B, Tq, H, D]."""
    if call.softcap is not None or call.sinks is not None:
        return _in_blocks(call, _EXACT_ELEMENTS // call.q.shape[1], _exact)
    queries, keys = call.q.shape[2], call.k.shape[2]
    if _needs_mask(call) and call.q.shape[0] * queries * keys > MASK_ELEMENTS:
        return _in_blocks(call, MASK_ELEMENTS, _masked)
    return _fused(call, call.q, call.k, call.v, call.visible.fused(0, queries))


def attend_window(call: AttentionCall, sink: int, recent: int) -> Tensor:
    """The outputs if every row saw only its first `sink` and last `recent` keys. [1, Tq, H, D]

    What the layer hides anyway (its own sliding window) stays hidden. Queries go in blocks, each
    against the keys that its rows can see, so that time and memory are linear in the length;
    gradients flow through.

    Args:
        call: one sequence without padding, its cache complete.
        sink: how many keys from the start stay visible.
        recent: how many keys up to the row's own, at least 1.
    """
    compute = _fused if call.softcap is None and call.sinks is None else _exact
    offset, keys = call.visible.query_offset - call.visible.key_offset, call.k.shape[2]
    queries, step = call.q.shape[2], max(_LEAST_ROWS, sink + recent)
    key = torch.arange(keys, device=call.q.device)
    blocks = []
    for start in range(0, queries, step):
        stop = min(start + step, queries)
        near = max(0, start + offset - recent + 1)
        seen = torch.cat([key[: min(sink, near)], key[near : stop + offset]])
        at = key[start + offset : stop + offset, None]
        lo, hi = call.visible.ranges(at[:, 0] + call.visible.key_offset, keys)
        mask = (seen >= lo[:, None]) & (seen < hi[:, None]) & ((seen < sink) | (seen > at - recent))
        q, k, v = call.q[:, :, start:stop], call.k[:, :, seen], call.v[:, :, seen]
        blocks.append(compute(call, q, k, v, mask[None, None]))
    return torch.cat(blocks, 1)


def _needs_mask(call: AttentionCall) -> bool:
    probe = call.visible.arguments
    plain = probe.get("local_size") is None or probe["local_size"] > call.k.shape[2]
    square = call.q.shape[2] in (1, call.k.shape[2])
    return not (plain and square and probe.get("attention_mask") is None)


def _fused(call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    output: Tensor = sdpa_attention_forward(call.module, q, k, v, mask, scaling=call.scaling, dropout=0.0)[0]
    return output


def _in_blocks(call: AttentionCall, elements: int, compute: Callable[..., Tensor]) -> Tensor:
    """Queries in blocks, each against only the keys its rows can see.

    Where gradients are wanted, a block is computed again for them instead of being kept.
    """
    batch, _, queries, _ = call.q.shape
    step = max(1, elements // max(1, batch * call.k.shape[2]))
    block = partial(_block, call, step, compute)
    if torch.is_grad_enabled():
        block = partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)
    return torch.cat([block(start) for start in range(0, queries, step)], 1)


def _block(call: AttentionCall, step: int, compute: Callable[..., Tensor], start: int) -> Tensor:
    stop = min(start + step, call.q.shape[2])
    mask = call.visible.fused(start, stop)
    if mask is None:
        at = torch.arange(start, stop, device=call.q.device) + call.visible.query_offset
        key = torch.arange(call.k.shape[2], device=call.q.device) + call.visible.key_offset
        mask = (key <= at[:, None])[None, None]
    seen = mask.flatten(0, 2).any(0).nonzero()
    lo, hi = int(seen.min()), int(seen.max()) + 1
    q, k, v = call.q[:, :, start:stop], call.k[:, :, lo:hi], call.v[:, :, lo:hi]
    return compute(call, q, k, v, mask[..., lo:hi])


def _masked(call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return _fused(call, q, k, v, mask)


def _exact(call: AttentionCall, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention with soft cap and learned sinks, in float32."""
    batch, heads, queries, dim = q.shape
    groups = k.shape[1]
    scores = (q.float().reshape(batch, groups, -1, dim) @ k.float().transpose(-1, -2)) * call.scaling
    scores = scores.view(batch, heads, queries, -1)
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if call.sinks is not None:
        sink = call.sinks.float().view(1, -1, 1, 1).expand(batch, -1, queries, 1)
        weights = torch.softmax(torch.cat([scores, sink], -1), -1)[..., :-1]
    else:
        weights = torch.softmax(scores, -1)
    mixed = weights.reshape(batch, groups, -1, weights.shape[-1]) @ v.float()
    return mixed.view(batch, heads, queries, -1).transpose(1, 2).to(q.dtype)
