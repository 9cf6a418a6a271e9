"""Exact statistics of chosen attention rows, without the n x n matrix.

A *row* is one query's distribution over its keys. Given R rows per sequence the cost is
O(R x n): scores of those queries against all keys, one softmax, and a handful of reductions,
in float32 and in chunks of rows that fit a budget. This is the plain torch reference that every
faster path is tested against.

Identities used (Dao et al. 2022 for the log-sum-exp; the rest is algebra of the softmax):
the mass on any contiguous set of keys is a difference of two prefix sums of the row, and the
entropy is `lse - sum_j p_j s_j`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# Elements of one chunk of scores. Small chunks stay in the cache of a CPU core.
CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}
_HIDDEN = -1e30  # finite, so that 0 * score is 0 and not NaN


@dataclass(frozen=True)
class RowStatistics:
    """What was asked of the rows. B sequences, H query heads, R rows, D head_dim, N keys.

    Attributes:
        lse: natural log-sum-exp of the scaled scores, a learned sink included. [B, H, R]
        entropy: Shannon entropy in nats, 0 ... ln(visible keys); with a learned sink, the sink
            counts as one more outcome. [B, H, R]
        first: mass on the first k keys of the sequence, one column per asked k, 0 ... 1. [B, H, R, F]
        recent: mass on the last w visible keys, the row's own included. [B, H, R, W]
        span: mass on named key ranges. [B, H, R, S]
        offset: mass on the keys a named set of distances back; NaN where a row has none. [B, H, R, O]
        top_key, top_mass: the T heaviest keys, heaviest first; -1 and 0 past the visible ones.
            [B, H, R, T]
        received: mass each key got, summed over the rows. [B, H, N]
        output: attention output of the row before the output projection. [B, H, R, D]
        kept_mass: mass on sink + recent window, one column per (sink, recent) pair. [B, H, R, C]
        kept_output: the output if the row saw only sink + recent window, renormalised. [B, H, R, C, D]
    """

    lse: Tensor
    entropy: Tensor
    first: Tensor
    recent: Tensor
    span: Tensor
    offset: Tensor
    top_key: Tensor
    top_mass: Tensor
    received: Tensor
    output: Tensor
    kept_mass: Tensor
    kept_output: Tensor


@dataclass(frozen=True)
class _Rows:
    """The rows of one chunk in key coordinates: visible keys are `lo <= j < hi`. All [B, R]."""

    lo: Tensor
    hi: Tensor
    at: Tensor
    start: Tensor  # [B], the first real key of each sequence


def row_statistics(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Tensor,
    lo: Tensor,
    hi: Tensor,
    *,
    scaling: float,
    start: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    first: Sequence[int] = (),
    recent: Sequence[int] = (),
    spans: Tensor | None = None,
    offsets: Sequence[Sequence[int]] = (),
    keep: Sequence[tuple[int, int]] = (),
    top: int = 1,
    chunk_elements: int | None = None,
) -> RowStatistics:
    """Statistics of the rows `q` over the keys `k`, exact up to float32.

    Args:
        q: the chosen queries, after rotary embedding. [B, H, R, D]
        k, v: keys and values of the whole sequence, ungrouped heads not repeated. [B, Hkv, N, D]
        at: key index of each row's own token, used for windows and offsets. [B, R]
        lo, hi: each row sees the keys `lo <= j < hi`; at least one. [B, R]
        scaling: factor on q.k before the softmax.
        start: first real key of each sequence (left padding), 0 by default. [B]
        softcap: `c tanh(s / c)` on the scaled scores (Gemma 2).
        sinks: learned per-head logits in the denominator (gpt-oss). [H]
        first: ks for `first`, counted from `start`.
        recent: widths for `recent`.
        spans: key ranges [B, S, 2], half-open.
        offsets: sets of distances back for `offset`.
        keep: (sink, recent) pairs for `kept_mass` and `kept_output`.
        top: how many of the heaviest keys to name.
        chunk_elements: elements of one chunk of scores; bounds the memory to about four times
            that in float32.

    Returns:
        RowStatistics, float32 (keys int64), on the device of `q`.

    Raises:
        ValueError: the query heads are not a multiple of the key heads.
    """
    batch, heads, count, dim = q.shape
    if heads % k.shape[1]:
        raise ValueError(f"{heads} query heads cannot share {k.shape[1]} key heads evenly.")
    if start is None:
        start = torch.zeros(batch, dtype=torch.long, device=q.device)
    if spans is None:
        spans = torch.zeros(batch, 0, 2, dtype=torch.long, device=q.device)
    limit = chunk_elements or CHUNK_ELEMENTS.get(q.device.type, 1 << 24)
    step = max(1, limit // max(1, batch * heads * k.shape[2]))
    received = torch.zeros(batch, heads, k.shape[2], device=q.device)
    # Rows in order of their last key: a chunk then needs no key past its own last one.
    order = hi.amax(0).argsort()
    chunks = []
    for index in order.split(step):
        rows = _Rows(lo[:, index], hi[:, index], at[:, index], start)
        seen = int(rows.hi.max())
        scores = _scores(q[:, :, index], k[:, :, :seen], rows, scaling, softcap)
        weights, sink_mass, lse = _softmax(scores, sinks)
        received[:, :, :seen] += weights.sum(2)
        chunks.append(
            _reduce(scores, weights, sink_mass, lse, v[:, :, :seen], rows,
                    first, recent, spans, offsets, keep, top)
        )  # fmt: skip
    return _join(chunks, order.argsort(), received)


def _scores(
    q: Tensor, k: Tensor, rows: _Rows, scaling: float, softcap: float | None
) -> Tensor:
    """Scaled, soft-capped scores, hidden keys at a large negative number. [B, H, R, N]"""
    batch, heads, count, dim = q.shape
    grouped = (q.float() * scaling).reshape(batch, k.shape[1], -1, dim)
    scores = (grouped @ k.float().transpose(-1, -2)).view(batch, heads, count, -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    key = torch.arange(k.shape[2], device=q.device)
    hidden = (key < rows.lo[..., None]) | (key >= rows.hi[..., None])
    return scores.masked_fill_(hidden[:, None], _HIDDEN)


def _softmax(scores: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Weights over the keys [B, H, R, N], mass of the learned sink and log-sum-exp [B, H, R]."""
    if sinks is None:
        weights = torch.softmax(scores, -1)
        heaviest = weights.argmax(-1, keepdim=True)
        lse = scores.gather(-1, heaviest) - weights.gather(-1, heaviest).log()
        return weights, torch.zeros_like(lse[..., 0]), lse[..., 0]
    logit = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    lse = torch.logaddexp(torch.logsumexp(scores, -1, keepdim=True), logit)
    return (scores - lse).exp(), (logit - lse).exp()[..., 0], lse[..., 0]


def _reduce(
    scores: Tensor,
    weights: Tensor,
    sink_mass: Tensor,
    lse: Tensor,
    v: Tensor,
    rows: _Rows,
    first: Sequence[int],
    recent: Sequence[int],
    spans: Tensor,
    offsets: Sequence[Sequence[int]],
    keep: Sequence[tuple[int, int]],
    top: int,
) -> dict[str, Tensor]:
    keys = weights.shape[-1]
    prefix = torch.nn.functional.pad(weights.cumsum(-1), (1, 0))
    begin = rows.start[:, None].expand_as(rows.lo)
    ranges = [(begin, begin + size) for size in first]
    ranges += [(rows.hi - size, rows.hi) for size in recent]
    ranges += [(edge[:, :1].expand_as(rows.lo), edge[:, 1:].expand_as(rows.lo)) for edge in spans.unbind(1)]
    masses = _range_mass(prefix, ranges)
    sizes = [len(first), len(recent), spans.shape[1]]
    in_first, in_recent, in_span = masses.split(sizes, -1)
    mean_score = torch.linalg.vecdot(weights, scores)
    top_mass, top_key = weights.topk(min(top, keys), -1) if top > 1 else weights.max(-1, keepdim=True)
    top_mass, top_key = _fill(top_mass, 0.0, top), _fill(top_key, -1, top)
    kept = [_keep(weights, sink_mass, v, rows, pair) for pair in keep]
    return {
        "lse": lse,
        "entropy": lse - mean_score - torch.special.xlogy(sink_mass, sink_mass)
        - sink_mass * lse,
        "first": in_first,
        "recent": in_recent,
        "span": in_span,
        "offset": _offset_mass(weights, rows, offsets),
        "top_key": top_key.masked_fill(top_mass == 0, -1),
        "top_mass": top_mass,
        "output": _mix(weights, v),
        "kept_mass": torch.stack([m for m, _ in kept], -1) if kept else lse.new_zeros(*lse.shape, 0),
        "kept_output": torch.stack([o for _, o in kept], 3) if kept else lse.new_zeros(*lse.shape, 0, v.shape[-1]),
    }  # fmt: skip


def _mix(weights: Tensor, v: Tensor) -> Tensor:
    """Weighted values, query heads grouped over their key head. [B, H, R, D]"""
    batch, heads, count, keys = weights.shape
    return (weights.view(batch, v.shape[1], -1, keys) @ v.float()).view(batch, heads, count, -1)


def _range_mass(prefix: Tensor, ranges: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mass of each key range [B, R] from prefix sums [B, H, R, N + 1]. [B, H, R, len(ranges)]"""
    if not ranges:
        return prefix.new_zeros(*prefix.shape[:-1], 0)
    last = prefix.shape[-1] - 1
    lower = torch.stack([a for a, _ in ranges], -1).clamp(0, last)
    upper = torch.stack([b for _, b in ranges], -1).clamp(0, last)
    shape = (*prefix.shape[:-1], len(ranges))
    return prefix.gather(-1, upper[:, None].expand(shape)) - prefix.gather(-1, lower[:, None].expand(shape))


def _offset_mass(weights: Tensor, rows: _Rows, offsets: Sequence[Sequence[int]]) -> Tensor:
    """Mass on the keys at the given distances back; NaN where none is visible."""
    columns = []
    for distances in offsets:
        back = torch.as_tensor(list(distances), device=weights.device)
        key = rows.at[..., None] - back
        seen = (key >= rows.lo[..., None]) & (key < rows.hi[..., None])
        index = key.clamp(0, weights.shape[-1] - 1)[:, None].expand(*weights.shape[:-1], -1)
        mass = (weights.gather(-1, index) * seen[:, None]).sum(-1)
        columns.append(mass.masked_fill(~seen.any(-1)[:, None], torch.nan))
    return torch.stack(columns, -1) if columns else weights.new_zeros(*weights.shape[:-1], 0)


def _keep(
    weights: Tensor, sink_mass: Tensor, v: Tensor, rows: _Rows, pair: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Mass on sink + recent window [B, H, R] and the renormalised output [B, H, R, D]."""
    sink, window = pair
    key = torch.arange(weights.shape[-1], device=weights.device)
    dropped = (key >= (rows.start[:, None] + sink)[..., None]) & (key < (rows.hi - window)[..., None])
    kept = weights.masked_fill(dropped[:, None], 0.0)
    mass = kept.sum(-1)
    return mass, _mix(kept, v) / (mass + sink_mass).clamp_min(1e-30)[..., None]


def _fill(values: Tensor, value: float, width: int) -> Tensor:
    """Pad the last axis to `width` where there were fewer keys than asked for."""
    return torch.nn.functional.pad(values, (0, width - values.shape[-1]), value=value)


def _join(chunks: Sequence[dict[str, Tensor]], back: Tensor, received: Tensor) -> RowStatistics:
    """Put the chunks' rows back in the order they were asked for."""
    joined = {"received": received}
    for name in (f.name for f in fields(RowStatistics) if f.name != "received"):
        joined[name] = torch.cat([c[name] for c in chunks], 2).index_select(2, back)
    return RowStatistics(**joined)
