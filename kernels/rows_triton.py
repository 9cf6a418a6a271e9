"""Triton kernels of `kernels.rows_fused`: chosen rows against all keys, in one sweep.

`_sweep` is flash attention for rows that need not be neighbours: a tile holds a few rows of every
query head of a KV group, and beside the output it carries the mean score (for the entropy), the
heaviest key and the mass on M key ranges: FIXED ones, the same for every row, and windows that end
with the row. Long sequences are cut into splits, which `_join_splits` merges. `unit` turns a score
into bits: the softmax is in base 2.
"""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

# A hidden score, and the peak of a row that saw nothing yet: both finite, so that 0 * score is 0,
# and so far apart that a hidden score weighs nothing against either.
HIDDEN = tl.constexpr(-1e30)
NOTHING = tl.constexpr(-1e25)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _score(x, y, scale, cap, CAP: tl.constexpr, PRECISION: tl.constexpr):
    """Scores; `unit` turns them into bits. Without a soft cap they are not even scaled."""
    scores = tl.dot(x, tl.trans(y), input_precision=PRECISION)
    if CAP:
        scores = cap * (1 - 2 / (tl.exp2(scores * (2 / LN2 * scale / cap)) + 1))
    return scores


@triton.jit
def _sweep(
    q, k, v, part, order, lo, hi, fixed, widths,
    q_b, q_h, q_r, k_b, k_h, k_n, v_b, v_h, v_n,
    rows, heads, kv_heads, group, tile_rows, splits, split_keys, scale, cap, unit,
    FIXED: tl.constexpr, M: tl.constexpr, MP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, CAP: tl.constexpr, TOP: tl.constexpr,
    VALUES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
    split, g = tl.program_id(1), tl.program_id(2) % kv_heads
    batch = (tl.program_id(2) // kv_heads).to(tl.int64)
    member = tl.arange(0, BM)
    place = tile * tile_rows + member // group
    real = (member < tile_rows * group) & (place < rows)
    row = tl.load(order + place, mask=real, other=0)
    head = g * group + member % group
    low = tl.load(lo + batch * rows + row, mask=real, other=1 << 30)
    high = tl.load(hi + batch * rows + row, mask=real, other=0)
    furthest = tl.max(high, 0)
    begin = tl.maximum(tl.min(low, 0), split * split_keys)
    end = tl.minimum(furthest, (split + 1) * split_keys)
    if begin >= end:
        return
    inner_low = tl.max(tl.where(real, low, 0), 0)  # from here to inner_high every row sees all
    inner_high = tl.min(tl.where(real, high, 1 << 30), 0)
    # Hulls of the ranges: between them, no tile has to look at any.
    head_begin, head_end, recent_begin = 1 << 30, 0, furthest
    fixed += batch * FIXED * 2
    for m in tl.static_range(FIXED):
        head_begin = tl.minimum(head_begin, tl.load(fixed + 2 * m))
        head_end = tl.maximum(head_end, tl.load(fixed + 2 * m + 1))
    for m in tl.static_range(M - FIXED):
        recent_begin = tl.minimum(recent_begin, inner_high - tl.load(widths + m))

    dim = tl.arange(0, DP)
    real_dim = dim < D
    k += batch * k_b + g.to(tl.int64) * k_h
    v += batch * v_b + g.to(tl.int64) * v_h
    at = head.to(tl.int64) * q_h + row.to(tl.int64) * q_r
    cell = real[:, None] & real_dim[None, :]
    x = tl.load(q + batch * q_b + at[:, None] + dim[None, :], mask=cell, other=0.0)

    acc = tl.zeros((BM, DP), tl.float32)
    peak = tl.full((BM,), NOTHING, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    mean = tl.zeros((BM,), tl.float32)
    best = tl.full((BM,), -1, tl.int32)
    column = tl.arange(0, MP)
    masses = tl.zeros((BM, MP), tl.float32)
    for first in range(begin, end, BN):
        key = first + tl.arange(0, BN)
        there = (key < end)[:, None] & real_dim[None, :]
        y = tl.load(k + key.to(tl.int64)[:, None] * k_n + dim[None, :], mask=there, other=0.0)
        scores = _score(x, y, scale, cap, CAP, PRECISION)
        last = first + BN - 1
        if (first < inner_low) | (last >= inner_high) | (last >= end):
            seen = (key[None, :] >= low[:, None]) & (key[None, :] < tl.minimum(high, end)[:, None])
            scores = tl.where(seen, scores, HIDDEN)
        top = tl.max(scores, 1)
        if TOP:
            found = tl.min(tl.where(scores == top[:, None], key[None, :], 1 << 30), 1)
            best = tl.where(top > peak, found, best)
        higher = tl.maximum(peak, top)
        weights = tl.exp2(scores * unit - (higher * unit)[:, None])
        shrink = tl.exp2((peak - higher) * unit)
        total = total * shrink + tl.sum(weights, 1)
        mean = mean * shrink + tl.sum(weights * scores, 1)
        masses *= shrink[:, None]
        if ((last >= head_begin) & (first < head_end)) | (last >= recent_begin):
            for m in tl.static_range(M):
                if m < FIXED:
                    a, b = tl.load(fixed + 2 * m), tl.load(fixed + 2 * m + 1)
                    inside = ((key >= a) & (key < b))[None, :] & (high > 0)[:, None]
                else:
                    inside = key[None, :] >= (high - tl.load(widths + m - FIXED))[:, None]
                mass = tl.sum(tl.where(inside, weights, 0.0), 1)
                masses += tl.where(column[None, :] == m, mass[:, None], 0.0)
        if VALUES:
            z = tl.load(v + key.to(tl.int64)[:, None] * v_n + dim[None, :], mask=there, other=0.0)
            acc = tl.dot(weights.to(z.dtype), z, acc * shrink[:, None], input_precision=PRECISION)
        peak = higher

    WIDTH: tl.constexpr = D + M + 4
    line = part + (((batch * heads + head) * rows + row) * splits + split) * WIDTH
    if VALUES:
        tl.store(line[:, None] + dim[None, :], acc, mask=cell)
    tl.store(line[:, None] + (D + 4 + column)[None, :], masses, mask=real[:, None] & (column < M)[None, :])
    tl.store(line + D, peak * unit, mask=real)
    tl.store(line + D + 1, total, mask=real)
    tl.store(line + D + 2, mean * unit, mask=real)
    tl.store(line + D + 3, best.to(tl.float32, bitcast=True), mask=real)


@triton.jit
def _join_splits(
    part, sinks, lo, hi, lse, entropy, top_mass, top_key, masses, out,
    rows, heads, splits, split_keys,
    M: tl.constexpr, MP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, SP: tl.constexpr,
    SINKS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    row, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    split = tl.arange(0, SP)
    begin = split * split_keys
    used = (begin < tl.load(hi + batch * rows + row)) & (split < splits)
    used &= begin + split_keys > tl.load(lo + batch * rows + row)
    where = (batch * heads + head) * rows + row
    WIDTH: tl.constexpr = D + M + 4
    line = part + (where * splits + split) * WIDTH
    dim, column = tl.arange(0, DP), tl.arange(0, MP)
    if VALUES:
        x = tl.load(line[:, None] + dim[None, :], mask=used[:, None] & (dim < D)[None, :], other=0.0)
    c = tl.load(
        line[:, None] + (D + 4 + column)[None, :], mask=used[:, None] & (column < M)[None, :], other=0.0
    )
    peak = tl.load(line + D, mask=used, other=NOTHING)
    total = tl.load(line + D + 1, mask=used, other=0.0)
    mean = tl.load(line + D + 2, mask=used, other=0.0)
    best = tl.load(line + D + 3, mask=used, other=0.0).to(tl.int32, bitcast=True)

    top = tl.max(peak, 0)
    logit = NOTHING
    if SINKS:
        logit = tl.load(sinks + head).to(tl.float32) / LN2
    level = tl.maximum(top, logit)
    weights = tl.exp2(peak - level)
    whole = tl.sum(weights * total, 0) + tl.exp2(logit - level)
    bits = level + tl.log2(whole)
    sink = tl.exp2(logit - bits)
    surprise = tl.where(sink > 0, sink * tl.log2(tl.where(sink > 0, sink, 1.0)), 0.0)
    tl.store(lse + where, bits * LN2)
    tl.store(entropy + where, ((1 - sink) * bits - tl.sum(weights * mean, 0) / whole - surprise) * LN2)
    tl.store(top_mass + where, tl.exp2(top - bits))
    tl.store(top_key + where, tl.min(tl.where((peak == top) & used, best, 1 << 30), 0))
    if VALUES:
        tl.store(out + where * D + dim, tl.sum(x * weights[:, None], 0) / whole, mask=dim < D)
    tl.store(masses + where * M + column, tl.sum(c * weights[:, None], 0) / whole, mask=column < M)
