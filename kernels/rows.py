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
CHUNK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
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
    received: bool = True,
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
        top: how many of the heaviest keys to name; 0 gives the largest mass without its key.
        received: whether to sum up what each key got; without, `received` comes back empty.
        chunk_elements: elements of one chunk of scores; bounds the memory to about four times
            that in float32.

    Returns:
        RowStatistics, float32 (keys int64), on the device of `q`.

    Raises:
        ValueError: the query heads are not a multiple of the key heads.
    """
    batch, heads = q.shape[:2]
    if heads % k.shape[1]:
        raise ValueError(f"{heads} query heads cannot share {k.shape[1]} key heads evenly.")
    if start is None:
        start = torch.zeros(batch, dtype=torch.long, device=q.device)
    if spans is None:
        spans = torch.zeros(batch, 0, 2, dtype=torch.long, device=q.device)
    limit = chunk_elements or CHUNK_ELEMENTS.get(q.device.type, 1 << 24)
    step = max(1, limit // max(1, batch * heads * k.shape[2]))
    got = torch.zeros(batch, heads, k.shape[2] if received else 0, device=q.device)
    both = torch.cat([k, v], -1).float()
    ask = _Ask(scaling, softcap, sinks, first, recent, spans, offsets, keep, top)
    # Rows in order of their last key: a chunk then needs no key past its own last one, and only
    # the keys between its first and its last row's end have to be masked.
    order = hi.amax(0).argsort()
    chunks = []
    for index in order.split(step):
        rows = _Rows(lo[:, index], hi[:, index], at[:, index], start)
        seen = int(rows.hi.max())
        part, weights = _chunk(q[:, :, index], both[:, :, :seen], k.shape[3], rows, ask)
        if received:
            got[:, :, :seen] += (weights.new_ones(1, len(index)) @ weights)[:, :, 0]
        chunks.append(part)
    return _join(chunks, order.argsort(), got)


@dataclass(frozen=True)
class _Ask:
    """What `row_statistics` was asked for."""

    scaling: float
    softcap: float | None
    sinks: Tensor | None
    first: Sequence[int]
    recent: Sequence[int]
    spans: Tensor
    offsets: Sequence[Sequence[int]]
    keep: Sequence[tuple[int, int]]
    top: int


def _chunk(q: Tensor, both: Tensor, dim: int, rows: _Rows, ask: _Ask) -> tuple[dict[str, Tensor], Tensor]:
    """Everything about the rows of one chunk, and their weights [B, H, R, N]."""
    k, v = both.split([dim, both.shape[-1] - dim], -1)
    query = q.float() * ask.scaling
    scores = _scores(query, k, rows, ask.softcap)
    largest = scores.amax(-1)
    weights, sink_mass = _softmax(scores, ask.sinks)
    top_mass, top_key = _heaviest(weights, ask.top)
    lse = largest - top_mass[..., 0].log()
    if ask.softcap is None:  # the mean score is q . (mean key): one product serves key and value
        mean_key, output = _mix(weights, both).split([dim, v.shape[-1]], -1)
        mean_score = (query * mean_key).sum(-1)
    else:
        output = _mix(weights, v)
        mean_score = (weights * scores).sum(-1)
    masses = _range_mass(weights.cumsum(-1), _ranges(rows, ask))
    in_first, in_recent, in_span = masses.split([len(ask.first), len(ask.recent), ask.spans.shape[1]], -1)
    kept = [_keep(weights, sink_mass, v, rows, pair) for pair in ask.keep]
    return {
        "lse": lse,
        "entropy": (1 - sink_mass) * lse - mean_score - torch.special.xlogy(sink_mass, sink_mass),
        "first": in_first,
        "recent": in_recent,
        "span": in_span,
        "offset": _offset_mass(weights, rows, ask.offsets),
        "top_key": top_key,
        "top_mass": top_mass,
        "output": output,
        "kept_mass": torch.stack([m for m, _ in kept], -1) if kept else lse.new_zeros(*lse.shape, 0),
        "kept_output": torch.stack([o for _, o in kept], 3)
        if kept
        else lse.new_zeros(*lse.shape, 0, v.shape[-1]),
    }, weights  # fmt: skip


def _scores(query: Tensor, k: Tensor, rows: _Rows, softcap: float | None) -> Tensor:
    """Soft-capped scores of scaled queries, hidden keys at a large negative number. [B, H, R, N]"""
    batch, heads, count, dim = query.shape
    grouped = query.reshape(batch, k.shape[1], -1, dim)
    scores = (grouped @ k.transpose(-1, -2)).view(batch, heads, count, -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    keys = k.shape[2]
    begin, end = int(rows.lo.max()), int(rows.hi.min())
    for edge in (slice(0, begin), slice(max(begin, end), keys)) if begin <= end else (slice(0, keys),):
        key = torch.arange(keys, device=query.device)[edge]
        if len(key):
            hidden = (key < rows.lo[..., None]) | (key >= rows.hi[..., None])
            scores[..., edge].masked_fill_(hidden[:, None], _HIDDEN)
    return scores


def _softmax(scores: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights over the keys [B, H, R, N] and mass of the learned sink [B, H, R]."""
    if sinks is None:
        return torch.softmax(scores, -1), scores.new_zeros(scores.shape[:-1])
    logit = sinks.float().view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    lse = torch.logaddexp(torch.logsumexp(scores, -1, keepdim=True), logit)
    return (scores - lse).exp(), (logit - lse).exp()[..., 0]


def _heaviest(weights: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Mass and key of the `top` heaviest keys; with `top` 0, the largest mass and key -1."""
    if top == 0:
        mass = weights.amax(-1, keepdim=True)
        return mass, torch.full_like(mass, -1, dtype=torch.long)
    if top == 1:
        return weights.max(-1, keepdim=True)
    mass, key = weights.topk(min(top, weights.shape[-1]), -1)
    short = (0, top - mass.shape[-1])
    pad = torch.nn.functional.pad
    return pad(mass, short), pad(key.masked_fill(mass == 0, -1), short, value=-1)


def _mix(weights: Tensor, v: Tensor) -> Tensor:
    """Weighted sum over the keys, query heads grouped over their key head. [B, H, R, D]"""
    batch, heads, count, keys = weights.shape
    return (weights.reshape(batch, v.shape[1], heads // v.shape[1] * count, keys) @ v).view(
        batch, heads, count, -1
    )


def _ranges(rows: _Rows, ask: _Ask) -> Tensor:
    """First and one-past-last key of every range whose mass is wanted. [B, R, ranges, 2]"""
    begin = rows.start[:, None].expand_as(rows.lo)
    ranges = [torch.stack([begin, begin + size], -1) for size in ask.first]
    ranges += [torch.stack([rows.hi - size, rows.hi], -1) for size in ask.recent]
    ranges += [edge[:, None].expand(*rows.lo.shape, 2) for edge in ask.spans.unbind(1)]
    return torch.stack(ranges, 2) if ranges else rows.lo.new_zeros(*rows.lo.shape, 0, 2)


def _range_mass(prefix: Tensor, ranges: Tensor) -> Tensor:
    """Masses of key ranges from inclusive prefix sums [B, H, R, N]. [B, H, R, ranges]"""
    edge = ranges.clamp(0, prefix.shape[-1])[:, None].expand(*prefix.shape[:-1], -1, 2)
    flat = prefix.gather(-1, (edge - 1).clamp_min(0).flatten(-2)).view(edge.shape)
    sums = torch.where(edge > 0, flat, 0.0)
    return sums[..., 1] - sums[..., 0]


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
    # Only the sink and the stretch that any row's window touches have to be read again.
    middle = min(max(0, int((rows.start + sink).max())), weights.shape[-1])
    begin = min(max(middle, int((rows.hi - window).min())), weights.shape[-1])
    head, tail = weights[..., :middle], weights[..., begin:]
    key = torch.arange(begin, weights.shape[-1], device=weights.device)
    tail = tail * (key >= (rows.hi - window)[..., None])[:, None]
    if len(rows.start) > 1:  # sequences whose sinks end earlier than the last one's
        key = torch.arange(middle, device=weights.device)
        within = (key < (rows.start[:, None] + sink)[..., None]) | (key >= (rows.hi - window)[..., None])
        head = head * within[:, None]
    mass = head.sum(-1) + tail.sum(-1)
    mixed = _mix(head, v[:, :, :middle]) + _mix(tail, v[:, :, begin:])
    return mass, mixed / (mass + sink_mass).clamp_min(1e-30)[..., None]


def _join(chunks: Sequence[dict[str, Tensor]], back: Tensor, received: Tensor) -> RowStatistics:
    """Put the chunks' rows back in the order they were asked for."""
    joined = {"received": received}
    for name in (f.name for f in fields(RowStatistics) if f.name != "received"):
        joined[name] = torch.cat([c[name] for c in chunks], 2).index_select(2, back)
    return RowStatistics(**joined)
