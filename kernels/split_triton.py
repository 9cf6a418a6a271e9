"""Triton kernels of split-KV decode with mixed heads; `kernels.decode_triton` launches them.

Grid: splits x KV groups x sequences. The query heads of a group and their few new queries are the
rows of one small matrix product, so every key is read once. A group counts the keys it can see
(all of them, or sink + window, or its ring). A short group is done by its first split, which writes
the result; in a long one split s takes the tiles s, s + splits, ..., so that all programs together
sweep memory in order, and a second kernel merges their partials. Positions count from each
sequence's first real key. With CLOCK the length is read from memory, so that a recorded launch can be
repeated as the sequence grows.
"""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _keys_of_group(group_sinks, group_windows, g, seen, queries, capacity, RING: tl.constexpr):
    """Keys the group reads: (sink keys, keys skipped after them, number of keys, is a ring)."""
    window = tl.load(group_windows + g)
    sink = tl.minimum(tl.load(group_sinks + g), seen)
    left = tl.maximum(seen - queries - window + 1, sink)
    count, skipped = seen - (left - sink), left - sink
    ring = RING & (window < (1 << 30))
    if RING:
        count = tl.where(ring, tl.minimum(seen, capacity), count)
    return sink, skipped, count, ring


@triton.jit
def _split_decode(
    q, dense_k, dense_v, stream_k, stream_v, out, lse, part,
    slots, group_sinks, group_windows, sinks, windows, starts,
    q_b, q_h, q_n, dk_b, dk_h, dk_n, dv_b, dv_h, dv_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n,
    o_b, o_h, o_n,
    length, queries, capacity, heads, group, row_tiles, splits, scale, cap,
    CLOCK: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    ALONE: tl.constexpr, RING: tl.constexpr, CAP: tl.constexpr, START: tl.constexpr, PRECISION: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    split, g = tl.program_id(0), tl.program_id(1) // row_tiles
    batch = tl.program_id(2).to(tl.int64)
    if CLOCK:
        length = tl.load(length).to(tl.int32)
    start = 0
    if START:
        start = tl.load(starts + batch)
    seen = length - start
    sink, skipped, count, ring = _keys_of_group(group_sinks, group_windows, g, seen, queries, capacity, RING)
    if OVERLAP:  # let the merge kernel take its place; it waits for this one's results
        tl.extra.cuda.gdc_launch_dependents()
    tiles = tl.cdiv(count, BN)
    alone = (tiles <= ALONE) | (splits == 1)
    if (split > 0) & (alone | (split >= tiles)):
        return
    stride = tl.where(alone, 1, splits)

    slot = tl.load(slots + g).to(tl.int64)
    if tl.load(group_windows + g) == 1 << 30:
        k, k_n = dense_k + batch * dk_b + slot * dk_h, dk_n
        v, v_n = dense_v + batch * dv_b + slot * dv_h, dv_n
    else:
        k, k_n = stream_k + batch * sk_b + slot * sk_h, sk_n
        v, v_n = stream_v + batch * sv_b + slot * sv_h, sv_n

    row = (tl.program_id(1) % row_tiles) * BM + tl.arange(0, BM)
    real_row = row < group * queries
    head, i = g * group + row // queries, row % queries
    position = seen - queries + i
    row_sink = tl.load(sinks + head, mask=real_row, other=0)
    reach = tl.load(windows + head, mask=real_row, other=0)
    dim = tl.arange(0, DP)
    real_dim = dim < D
    at = head.to(tl.int64) * q_h + i * q_n
    cell = real_row[:, None] & real_dim[None, :]
    x = tl.load(q + batch * q_b + at[:, None] + dim[None, :], mask=cell, other=0.0)

    acc = tl.zeros((BM, DP), tl.float32)
    peak = tl.full((BM,), -1e38, tl.float32)  # finite, so that a row without keys makes no NaN
    total = tl.zeros((BM,), tl.float32)
    for turn in range(tl.cdiv(tiles - split, stride)):
        index = (split + turn * stride) * BN + tl.arange(0, BN)
        key = tl.where(index < sink, index, index + skipped)
        place = key + start
        if RING:
            lap = seen - 1 - (seen - 1 - index) % tl.maximum(capacity - sink, 1)
            key = tl.where(ring, tl.where(index < sink, index, lap), key)
            place = tl.where(ring, index, place)
        real = (index < count)[:, None] & real_dim[None, :]
        place = place.to(tl.int64)[:, None]
        y = tl.load(k + place * k_n + dim[None, :], mask=real, other=0.0)
        scores = tl.dot(x, tl.trans(y), input_precision=PRECISION) * scale
        if CAP:
            scores = cap * (1 - 2 / (tl.exp2(scores * (2 * 1.4426950408889634 / cap)) + 1))
            scores *= 1.4426950408889634
        back = position[:, None] - key[None, :]
        kept = (key[None, :] < row_sink[:, None]) | (back < reach[:, None])
        scores = tl.where((back >= 0) & kept & (index < count)[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weights, 1)
        z = tl.load(v + place * v_n + dim[None, :], mask=real, other=0.0)
        acc = tl.dot(weights.to(z.dtype), z, acc * shrink[:, None], input_precision=PRECISION)
        peak = higher

    any_key = total > 0
    acc /= tl.where(any_key, total, 1.0)[:, None]
    bits = tl.where(any_key, peak + tl.log2(tl.where(any_key, total, 1.0)), float("-inf"))
    query = (batch * heads + head) * queries + i  # row of lse and of the partials
    if alone:
        target = batch * o_b + head.to(tl.int64) * o_h + i * o_n
        tl.store(out + target[:, None] + dim[None, :], acc.to(out.dtype.element_ty), mask=cell)
        tl.store(lse + query, bits * 0.6931471805599453, mask=real_row)
    else:
        query = query * splits + split
        tl.store(part + query[:, None] * (D + 1) + dim[None, :], acc, mask=cell)
        tl.store(part + query * (D + 1) + D, bits, mask=real_row)


@triton.jit
def _merge_splits(
    out, lse, part, group_sinks, group_windows, starts,
    o_b, o_h, o_n, length, queries, capacity, heads, group, splits,
    CLOCK: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, BN: tl.constexpr,
    ALONE: tl.constexpr, RING: tl.constexpr, START: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    head, i = tl.program_id(0) // queries, tl.program_id(0) % queries
    batch = tl.program_id(1).to(tl.int64)
    if CLOCK:
        length = tl.load(length).to(tl.int32)
    seen = length
    if START:
        seen -= tl.load(starts + batch)
    _, _, count, _ = _keys_of_group(group_sinks, group_windows, head // group, seen, queries, capacity, RING)
    tiles = tl.cdiv(count, BN)
    if OVERLAP:  # every program waits, so that this kernel never ends before the first
        tl.extra.cuda.gdc_wait()
    if tiles <= ALONE:
        return
    query = (batch * heads + head) * queries + i
    split, dim = tl.arange(0, BS), tl.program_id(2) * BD + tl.arange(0, BD)
    used = split < tl.minimum(tiles, splits)
    cell = used[:, None] & (dim < D)[None, :]
    # Both loads are issued before the first reduction waits for either.
    row = part + (query * splits + split) * (D + 1)
    bits = tl.load(row + D, mask=used, other=float("-inf"))
    x = tl.load(row[:, None] + dim[None, :], mask=cell, other=0.0)
    peak = tl.max(bits, 0)
    peak = tl.where(peak == float("-inf"), 0.0, peak)
    weights = tl.exp2(bits - peak)
    total = tl.sum(weights, 0)
    mixed = tl.sum(x * weights[:, None], 0) / tl.where(total > 0, total, 1.0)
    target = out + batch * o_b + head.to(tl.int64) * o_h + i * o_n + dim
    tl.store(target, mixed.to(out.dtype.element_ty), mask=dim < D)
    if tl.program_id(2) == 0:
        level = (peak + tl.log2(tl.where(total > 0, total, 1.0))) * 0.6931471805599453
        tl.store(lse + query, tl.where(total > 0, level, float("-inf")))
