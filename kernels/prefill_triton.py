"""Triton prefill of sink + window heads; `kernels.reference.attend` is its reference.

One program computes BM query rows of one head. It walks the sink keys, then the keys from the left
edge of the first row's window to the diagonal, in tiles of BN; tiles that every row sees whole skip
the mask. The softmax is online and in base 2; `unit` turns a score into bits inside the exponent, so
that scaling costs no instruction of its own. A dense head is a window that reaches every key, so
the same kernel also serves what the dense backends refuse.
"""

# Triton's language has no static types: a kernel's arguments are pointers and scalars.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from headscope.kernels.plan import HeadPlan

LOG2E = math.log2(math.e)


@triton.jit
def _stream_prefill(
    q, k, v, out, lse, head_list, sinks, windows, starts,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, l_b, l_h, l_n,
    queries, keys, group, scale, cap, unit,
    D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    CAP: tl.constexpr, START: tl.constexpr, LSE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
    head = tl.load(head_list + tl.program_id(1)).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    sink, window = tl.load(sinks + head), tl.load(windows + head)
    start = 0
    if START:
        start = tl.load(starts + batch)

    row = tile * BM + tl.arange(0, BM)
    top = keys - queries + tile * BM  # position of the first row
    position = top + tl.arange(0, BM)
    end = tl.minimum(top + BM, keys)  # no row of the tile sees keys from here on
    sink_end = tl.minimum(start + sink, end)
    left = tl.maximum(top - window + 1, tl.maximum(sink_end, start))
    sink_tiles = tl.cdiv(tl.maximum(sink_end - start, 0), BN)
    tiles = sink_tiles + tl.cdiv(tl.maximum(end - left, 0), BN)

    dim = tl.arange(0, DP)
    real_dim = dim < D
    q += batch * q_b + head * q_h
    k += batch * k_b + (head // group) * k_h
    v += batch * v_b + (head // group) * v_h
    cell = (row < queries)[:, None] & real_dim[None, :]
    x = tl.load(q + row.to(tl.int64)[:, None] * q_n + dim[None, :], mask=cell, other=0.0)

    acc = tl.zeros((BM, DP), tl.float32)
    peak = tl.full((BM,), -1e30, tl.float32)  # finite, so that a row without keys makes no NaN
    total = tl.zeros((BM,), tl.float32)
    for i in range(tiles):
        in_sink = i < sink_tiles
        first = tl.where(in_sink, start + i * BN, left + (i - sink_tiles) * BN)
        limit = tl.where(in_sink, sink_end, end)
        reach = tl.where(in_sink, 1 << 30, window)
        key = first + tl.arange(0, BN)
        real = (key < limit)[:, None] & real_dim[None, :]
        at = key.to(tl.int64)[:, None]
        y = tl.load(k + at * k_n + dim[None, :], mask=real, other=0.0)
        scores = tl.dot(x, tl.trans(y), input_precision=PRECISION)
        if CAP:  # c tanh(s / c) with tanh(x) = 1 - 2 / (e^2x + 1)
            scores = cap * (1 - 2 / (tl.exp2(scores * (2 * 1.4426950408889634 * scale / cap)) + 1))
        last = first + BN - 1
        if (last > top) | (last >= limit) | (first <= top + BM - 1 - reach):
            back = position[:, None] - key[None, :]
            seen = (back >= 0) & (back < reach) & (key < limit)[None, :]
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp2(scores * unit - (higher * unit)[:, None])
        shrink = tl.exp2((peak - higher) * unit)
        total = total * shrink + tl.sum(weights, 1)
        z = tl.load(v + at * v_n + dim[None, :], mask=real, other=0.0)
        acc = tl.dot(weights.to(z.dtype), z, acc * shrink[:, None], input_precision=PRECISION)
        peak = higher

    acc /= tl.where(total > 0, total, 1.0)[:, None]
    out += batch * o_b + head * o_h
    tl.store(
        out + row.to(tl.int64)[:, None] * o_n + dim[None, :],
        acc.to(out.dtype.element_ty),
        mask=cell,
    )
    if LSE:
        bits = peak * unit + tl.log2(tl.where(total > 0, total, 1.0))
        level = tl.where(total > 0, bits * 0.6931471805599453, float("-inf"))
        tl.store(lse + batch * l_b + head * l_h + row * l_n, level, mask=row < queries)


def blocks(dim: int, itemsize: int) -> dict[str, int]:
    """Tile sizes and warps: the fastest of those tried on an H100 at head_dim 128, bfloat16."""
    if itemsize > 2 or dim > 128:
        return {"BM": 64, "BN": 32, "num_warps": 4, "num_stages": 2}
    return {"BM": 64, "BN": 64, "num_warps": 4, "num_stages": 2}


def stream_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: HeadPlan,
    out: Tensor | None = None,
    lse: Tensor | None = None,
    *,
    scale: float,
    starts: tuple[int, ...] = (),
    softcap: float | None = None,
    every: bool = False,
    tuning: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Attention of the streaming heads, or of `every` head, in their places in `out` and `lse`.

    Shapes as in `mixed_prefill`. Heads that are not computed keep what `out` and `lse` hold;
    without `out`, both are allocated.
    """
    if out is None:
        out, lse = (
            torch.empty_like(q),
            torch.empty(q.shape[:3], dtype=torch.float32, device=q.device),
        )
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    dim, queries, keys = q.shape[3], q.shape[2], k.shape[2]
    padded = max(16, triton.next_power_of_2(dim))
    tuning = tuning or blocks(padded, q.element_size())
    totals = q if lse is None else lse
    table = plan.on(q.device)
    heads = table.every if every else table.streaming
    start = torch.tensor(starts, dtype=torch.int32, device=q.device) if starts else table.sink
    _stream_prefill[(triton.cdiv(queries, tuning["BM"]), len(heads), q.shape[0])](
        q, k, v, out, totals, heads, table.sink, table.window, start,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *totals.stride()[:3],
        queries, keys, q.shape[1] // k.shape[1],
        scale, softcap or 0.0, LOG2E if softcap else scale * LOG2E,
        D=dim, DP=padded, CAP=softcap is not None, START=bool(starts), LSE=lse is not None,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32", **tuning,
    )  # fmt: skip
    return out, lse
