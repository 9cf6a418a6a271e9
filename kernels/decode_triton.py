"""Triton split-KV decode of mixed heads; `kernels.decode.attend_stores` is its reference.

Grid: splits x KV groups x sequences. The query heads of a group and their few new queries are the
rows of one small matrix product, so every key is read once. A group counts the keys it can see
(all of them, or sink + window, or its ring); splits beyond that leave at once, a group that fits in
one split writes its result directly, the others leave partials that a second kernel merges.
Positions count from each sequence's first real key.
"""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.backend import processors
from headscope.kernels.plan import HeadPlan, device_ints
from headscope.kernels.prefill_triton import LOG2E


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
    q, dense_k, dense_v, stream_k, stream_v, out, lse, part, part_lse,
    slots, group_sinks, group_windows, sinks, windows, starts,
    q_b, q_h, q_n, dk_b, dk_h, dk_n, dv_b, dv_h, dv_n, sk_b, sk_h, sk_n, sv_b, sv_h, sv_n,
    o_b, o_h, o_n,
    length, queries, capacity, heads, group, row_tiles, split_len, splits, scale, cap,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    RING: tl.constexpr, CAP: tl.constexpr, START: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    split, g = tl.program_id(0), tl.program_id(1) // row_tiles
    batch = tl.program_id(2).to(tl.int64)
    start = 0
    if START:
        start = tl.load(starts + batch)
    seen = length - start
    sink, skipped, count, ring = _keys_of_group(
        group_sinks, group_windows, g, seen, queries, capacity, RING
    )
    begin = split * split_len
    if (begin >= count) & (split > 0):
        return
    end = tl.minimum(begin + split_len, count)

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
    for first in range(begin, end, BN):
        index = first + tl.arange(0, BN)
        key = tl.where(index < sink, index, index + skipped)
        place = key + start
        if RING:
            lap = seen - 1 - (seen - 1 - index) % tl.maximum(capacity - sink, 1)
            key = tl.where(ring, tl.where(index < sink, index, lap), key)
            place = tl.where(ring, index, place)
        real = (index < end)[:, None] & real_dim[None, :]
        place = place.to(tl.int64)[:, None]
        y = tl.load(k + place * k_n + dim[None, :], mask=real, other=0.0)
        scores = tl.dot(x, tl.trans(y), input_precision=PRECISION) * scale
        if CAP:
            scores = cap * (1 - 2 / (tl.exp2(scores * (2 * 1.4426950408889634 / cap)) + 1))
            scores *= 1.4426950408889634
        back = position[:, None] - key[None, :]
        kept = (key[None, :] < row_sink[:, None]) | (back < reach[:, None])
        scores = tl.where((back >= 0) & kept & (index < end)[None, :], scores, float("-inf"))
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
    if count <= split_len:
        target = batch * o_b + head.to(tl.int64) * o_h + i * o_n
        tl.store(out + target[:, None] + dim[None, :], acc.to(out.dtype.element_ty), mask=cell)
        tl.store(lse + query, bits * 0.6931471805599453, mask=real_row)
    else:
        query = query * splits + split
        tl.store(part + query[:, None] * D + dim[None, :], acc, mask=cell)
        tl.store(part_lse + query, bits, mask=real_row)


@triton.jit
def _merge_splits(
    out, lse, part, part_lse, group_sinks, group_windows, starts,
    o_b, o_h, o_n, length, queries, capacity, heads, group, split_len, splits,
    D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, RING: tl.constexpr, START: tl.constexpr,
):  # fmt: skip
    head, i = tl.program_id(0) // queries, tl.program_id(0) % queries
    batch = tl.program_id(1).to(tl.int64)
    seen = length
    if START:
        seen -= tl.load(starts + batch)
    _, _, count, _ = _keys_of_group(
        group_sinks, group_windows, head // group, seen, queries, capacity, RING
    )
    if count <= split_len:
        return
    query = (batch * heads + head) * queries + i
    split, dim = tl.arange(0, BS), tl.program_id(2) * BD + tl.arange(0, BD)
    used = split * split_len < count
    cell = used[:, None] & (dim < D)[None, :]
    # Both loads are issued before the first reduction waits for either.
    bits = tl.load(part_lse + query * splits + split, mask=used, other=float("-inf"))
    x = tl.load(part + (query * splits + split)[:, None] * D + dim[None, :], mask=cell, other=0.0)
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


def blocks(dim: int, itemsize: int) -> dict[str, int]:
    """Tile size, warps and programs per multiprocessor, measured on an H100."""
    if itemsize > 2 or dim > 128:
        return {"BN": 32, "num_warps": 4, "num_stages": 2, "waves": 2}
    return {"BN": 64, "num_warps": 4, "num_stages": 3, "waves": 2}


def cut(keys: int, lanes: int, block: int, programs: int) -> tuple[int, int]:
    """(split length, number of splits): as many splits as keep `lanes * splits <= programs`.

    Splits are not rounded to blocks: equal shares keep every multiprocessor busy to the end.
    """
    splits = max(1, min(programs // lanes, triton.cdiv(keys, 2 * block), 256))
    length = triton.cdiv(triton.cdiv(keys, splits), 8) * 8
    return length, triton.cdiv(keys, length)


def split_decode(
    q: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    stream: tuple[Tensor, Tensor] | None,
    plan: HeadPlan,
    length: int,
    *,
    starts: Tensor | None,
    scale: float,
    softcap: float | None,
    return_lse: bool = True,
    tuning: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Launch both kernels. With `stream` None, `dense` is one full cache of all KV groups.

    Shapes and meaning as in `cached_decode`; `starts` is int32 [B] on q's device or None.
    """
    batch, heads, queries, dim = q.shape
    groups, ring = len(plan.group_window), stream is not None
    dense_groups = plan.dense_groups
    slot = {g: i for part in (dense_groups, plan.streaming_groups) for i, g in enumerate(part)}
    slots = tuple(slot[g] if ring else g for g in range(groups))
    stores = [_rows(x) for store in (dense or stream, stream or dense) for x in store or ()]
    capacity = stores[2].shape[2] if ring else 0
    size, padded = heads // groups, max(16, triton.next_power_of_2(dim))
    rows = min(64, max(16, triton.next_power_of_2(size * queries)))
    row_tiles = triton.cdiv(size * queries, rows)
    tuning = dict(tuning or blocks(padded, q.element_size()))
    programs = tuning.pop("waves") * processors(q.device)
    window = max(plan.group_window) + max(plan.group_sink) + queries
    lanes = batch * row_tiles * (len(dense_groups) or groups)
    split_len, splits = cut(length if dense_groups else min(length, window), lanes, tuning["BN"], programs)

    out = q.new_empty(q.shape)
    wide = {"dtype": torch.float32}
    lse = q.new_empty(q.shape[:3], **wide)
    part = q.new_empty((batch, heads, queries, splits, dim), **wide)
    part_lse = q.new_empty((batch, heads, queries, splits), **wide)
    policy = [device_ints(x, q.device) for x in (plan.group_sink, plan.group_window)]
    origin = policy[0] if starts is None else starts
    q = _rows(q)
    _split_decode[(splits, groups * row_tiles, batch)](
        q, *stores, out, lse, part, part_lse, device_ints(slots, q.device), *policy,
        device_ints(plan.sink, q.device), device_ints(plan.window, q.device), origin,
        *q.stride()[:3], *(s for x in stores for s in x.stride()[:3]), *out.stride()[:3],
        length, queries, capacity, heads, size, row_tiles, split_len, splits,
        scale if softcap else scale * LOG2E, softcap or 0.0,
        D=dim, DP=padded, BM=rows, RING=ring, CAP=softcap is not None, START=starts is not None,
        PRECISION="ieee" if q.element_size() > 2 else "tf32", **tuning,
    )  # fmt: skip
    if splits > 1:
        width = min(padded, 32)
        _merge_splits[(heads * queries, batch, padded // width)](
            out, lse, part, part_lse, *policy, origin, *out.stride()[:3],
            length, queries, capacity, heads, size, split_len, splits,
            D=dim, BD=width, BS=triton.next_power_of_2(splits), RING=ring,
            START=starts is not None, num_warps=4,
        )  # fmt: skip
    return out, lse if return_lse else None


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if each vector is contiguous, as the kernels assume, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
