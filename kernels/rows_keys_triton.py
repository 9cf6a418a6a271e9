"""Triton kernels of `kernels.rows_fused` beside the sweep.

`_receive` sums the weights of finished rows key by key; `_cut` attends from single rows to their
sink and window alone.
"""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl

from headscope.kernels.rows_triton import HIDDEN, LN2, NOTHING, _score


@triton.jit
def _receive(
    q, k, lse, received, order, lo, hi,
    q_b, q_h, q_r, k_b, k_h, k_n,
    rows, keys, heads, group, scale, cap, unit,
    D: tl.constexpr, DP: tl.constexpr, RP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    first, head, batch = tl.program_id(0) * BN, tl.program_id(1), tl.program_id(2).to(tl.int64)
    line = tl.arange(0, RP)
    every = batch * rows + tl.load(order + line, mask=line < rows, other=0)
    low = tl.load(lo + every, mask=line < rows, other=1 << 30)
    high = tl.load(hi + every, mask=line < rows, other=0)
    touched = (high > first) & (low < first + BN)
    begin = tl.min(tl.where(touched, line, RP), 0) // BM
    end = tl.cdiv(tl.max(tl.where(touched, line + 1, 0), 0), BM)
    partial = (high < first + BN) | (low > first)  # padding lines count as such
    clear_begin = tl.cdiv(tl.max(tl.where(partial & (line < rows), line + 1, 0), 0), BM)
    clear_end = rows // BM

    key, dim = first + tl.arange(0, BN), tl.arange(0, DP)
    real_dim = dim < D
    at = key.to(tl.int64)[:, None] * k_n + dim[None, :]
    k += batch * k_b + (head // group).to(tl.int64) * k_h
    y = tl.load(k + at, mask=(key < keys)[:, None] & real_dim[None, :], other=0.0)
    q += batch * q_b + head.to(tl.int64) * q_h
    where = (batch * heads + head) * rows
    acc = tl.zeros((BM, BN), tl.float32)
    for turn in range(begin, end):
        place = turn * BM + tl.arange(0, BM)
        real = place < rows
        row = tl.load(order + place, mask=real, other=0)
        bits = tl.load(lse + where + row, mask=real, other=0.0) / LN2
        cell = real[:, None] & real_dim[None, :]
        x = tl.load(q + row.to(tl.int64)[:, None] * q_r + dim[None, :], mask=cell, other=0.0)
        weights = tl.exp2(_score(x, y, scale, cap, CAP, PRECISION) * unit - bits[:, None])
        if (turn < clear_begin) | (turn >= clear_end):  # not every row sees every key
            row_low = tl.load(lo + batch * rows + row, mask=real, other=1 << 30)
            row_high = tl.load(hi + batch * rows + row, mask=real, other=0)
            seen = (key[None, :] >= row_low[:, None]) & (key[None, :] < row_high[:, None])
            weights = tl.where(seen, weights, 0.0)
        acc += weights
    tl.store(received + (batch * heads + head) * keys + key, tl.sum(acc, 0), mask=key < keys)


@triton.jit
def _cut(
    q, k, v, lo, hi, starts, lse, out,
    q_b, q_h, q_r, k_b, k_h, k_n, v_b, v_h, v_n,
    rows, heads, group, sink, window, cuts, scale, cap, unit,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    row, g, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    low, high = tl.load(lo + batch * rows + row), tl.load(hi + batch * rows + row)
    sink_end = tl.minimum(tl.load(starts + batch) + sink, high)
    left = tl.maximum(high - window, tl.maximum(sink_end, low))
    sink_tiles = tl.cdiv(tl.maximum(sink_end - low, 0), BN)
    tiles = sink_tiles + tl.cdiv(tl.maximum(high - left, 0), BN)

    member, dim = tl.arange(0, BM), tl.arange(0, DP)
    head, real_dim = g * group + member, dim < D
    cell = (member < group)[:, None] & real_dim[None, :]
    at = batch * q_b + row.to(tl.int64) * q_r + head.to(tl.int64)[:, None] * q_h
    x = tl.load(q + at + dim[None, :], mask=cell, other=0.0)
    k += batch * k_b + g.to(tl.int64) * k_h
    v += batch * v_b + g.to(tl.int64) * v_h
    acc = tl.zeros((BM, DP), tl.float32)
    peak = tl.full((BM,), NOTHING, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    for i in range(tiles):
        early = i < sink_tiles
        key = tl.where(early, low + i * BN, left + (i - sink_tiles) * BN) + tl.arange(0, BN)
        inside = key < tl.where(early, sink_end, high)
        there = inside[:, None] & real_dim[None, :]
        y = tl.load(k + key.to(tl.int64)[:, None] * k_n + dim[None, :], mask=there, other=0.0)
        scores = tl.where(inside[None, :], _score(x, y, scale, cap, CAP, PRECISION), HIDDEN)
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp2(scores * unit - (higher * unit)[:, None])
        shrink = tl.exp2((peak - higher) * unit)
        total = total * shrink + tl.sum(weights, 1)
        z = tl.load(v + key.to(tl.int64)[:, None] * v_n + dim[None, :], mask=there, other=0.0)
        acc = tl.dot(weights.to(z.dtype), z, acc * shrink[:, None], input_precision=PRECISION)
        peak = higher
    safe = tl.where(total > 0, total, 1.0)
    where = ((batch * heads + head) * rows + row) * cuts
    level = tl.where(total > 0, (peak * unit + tl.log2(safe)) * LN2, float("-inf"))
    tl.store(lse + where, level, mask=member < group)
    tl.store(out + where[:, None] * D + dim[None, :], acc / safe[:, None], mask=cell)
