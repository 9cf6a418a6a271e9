"""Prefill of a layer whose heads follow different policies: dense, or sink + recent window.

Dense heads run on the best dense backend, streaming heads in a Triton kernel that visits only the
keys they see, both at once on two streams. Query i sits at position `Nk - Nq + i`, and a window
counts keys, not chunks, so the result does not depend on how a prompt was cut into chunks
(DuoAttention's evaluation code lacks both properties, Xiao et al. 2024, arXiv 2410.10819).
"""

from __future__ import annotations

import torch
from torch import Tensor

from headscope.kernels.backend import on_its_device, side_stream, use_triton
from headscope.kernels.dense import attention, backend, dense_into
from headscope.kernels.plan import DenseRun, HeadPlan, Ints, check_shapes, ints, plan_heads
from headscope.kernels.prefill_cpu import stream_cpu
from headscope.kernels.reference import attend


def mixed_prefill(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sink: Ints,
    window: Ints,
    *,
    scale: float | None = None,
    key_start: Ints | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Causal attention in which every query head has its own sink and window.

    Keys that every head's window has left may be missing from the middle: over the first `sink`
    and the last `window + Nq - 1` keys alone the result is the same, so a chunk can be run over a
    streaming cache.

    Args:
        q: queries of the last Nq positions, after rotary embedding. [B, Hq, Nq, D]
        k, v: keys and values of all Nk positions, KV heads not repeated. [B, Hkv, Nk, D]
        sink: how many of the first keys each query head sees, 0 or more. [Hq]
        window: how many recent keys it sees, its own included, 1 or more; -1 is dense. [Hq]
        scale: positive factor on q.k before the softmax, 1/sqrt(D) by default.
        key_start: first real key of each sequence (left padding); sinks count from it. [B]
        softcap: `c tanh(s / c)` on the scaled scores (Gemma 2).
        return_lse: also return the log-sum-exp, which lets results be merged (`merge`).

    Returns:
        out [B, Hq, Nq, D] in q's dtype and lse [B, Hq, Nq] (natural logarithm, float32 or wider)
        or None. Rows of padding are 0 and -inf.

    Raises:
        ValueError: shapes that do not fit together, or a sink or window out of range.
    """
    check_shapes(q, k, v)
    plan = plan_heads(sink, window, k.shape[1], keys=k.shape[2])
    if len(plan.sink) != q.shape[1]:
        raise ValueError(f"The policy has {len(plan.sink)} heads, q has {q.shape[1]}.")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    starts = check_starts(key_start, q.shape[0], k.shape[2])
    if not use_triton(q):
        out, lse = _in_torch(q, k, v, plan, scale, starts, softcap)
        return out, lse if return_lse else None
    return _on_gpu(q, k, v, plan, scale, starts, softcap, return_lse)


def check_starts(key_start: Ints | None, batch: int, keys: int) -> tuple[int, ...]:
    """Left padding per sequence; empty when there is none."""
    starts = () if key_start is None else ints(key_start)
    if starts and (len(starts) != batch or min(starts) < 0 or max(starts) > keys):
        raise ValueError(f"key_start needs {batch} values in 0 ... {keys}, got {starts}.")
    return starts if any(starts) else ()


def _in_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: HeadPlan,
    scale: float,
    starts: tuple[int, ...],
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Through the CPU's fused attention where that takes the tensors, plain torch elsewhere."""
    name = backend(q, k, v) if softcap is None and not q.is_cuda else None
    start = torch.tensor(starts) if starts else None
    if not name:
        return attend(q, k, v, plan, scale=scale, start=start, softcap=softcap)
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
    stream_cpu(out, lse, q, k, v, plan, scale=scale, start=start)
    for run in plan.dense:
        _dense_run(out, lse, name, run, q, k, v, scale, starts)
    return out, lse


@on_its_device
def _on_gpu(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: HeadPlan,
    scale: float,
    starts: tuple[int, ...],
    softcap: float | None,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    from headscope.kernels.prefill_triton import stream_prefill

    name = backend(q, k, v) if softcap is None and plan.dense else None
    if name and not plan.streaming and not starts and q.shape[2] == k.shape[2]:
        whole = attention(name, q, k, v, causal=True, scale=scale, lse=return_lse)
        return whole if return_lse else (whole[0], None)
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32) if return_lse else None
    runs = plan.dense if name else ()
    kernel = bool(plan.streaming) or not name

    here = torch.cuda.current_stream(q.device)
    streams = [side_stream(q.device, i) if kernel or i else here for i in range(len(runs))]
    for run, stream in zip(runs, streams, strict=True):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            _dense_run(out, lse, str(name), run, q, k, v, scale, starts)
    if kernel:
        stream_prefill(q, k, v, plan, out, lse, scale=scale, starts=starts, softcap=softcap, every=not runs)
    for stream in streams:
        here.wait_stream(stream)
    return out, lse


def _dense_run(
    out: Tensor,
    lse: Tensor | None,
    name: str,
    run: DenseRun,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    starts: tuple[int, ...],
) -> None:
    """One dense launch for the batch, or one per sequence where padding or strides forbid that."""
    size, past = q.shape[1] // k.shape[1], k.shape[2] - q.shape[2]
    kv = slice(run.kv.start, run.kv.stop, run.kv.step)
    if run.kv.step == 1 and len(run.offsets) == size and not starts:
        heads = slice(run.kv.start * size, run.kv.stop * size)
        rows = None if lse is None else lse[:, heads]
        dense_into(out[:, heads], rows, name, q[:, heads], k[:, kv], v[:, kv], scale)
        return
    offsets = slice(run.offsets.start, run.offsets.stop, run.offsets.step)
    for b in range(q.shape[0]):  # KV heads take the place of the batch, their queries that of heads
        first = starts[b] if starts else 0
        pad = max(0, first - past)
        x, o, rows = (
            None if t is None else t[b].view(-1, size, *t.shape[2:])[kv, offsets] for t in (q, out, lse)
        )
        assert x is not None and o is not None
        o[:, :, :pad] = 0
        if rows is not None:
            rows[:, :, :pad] = -torch.inf
            rows = rows[:, :, pad:]
        if pad < q.shape[2]:
            y, z = (t[b, kv, None, first:] for t in (k, v))
            dense_into(o[:, :, pad:], rows, name, x[:, :, pad:], y, z, scale)
