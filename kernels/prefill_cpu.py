"""Sink + window attention on a CPU: torch's fused attention, a block of rows against what it sees.

Each block of rows meets only the sinks and the keys some row of it has in its window, under a mask
that cuts the corners; cost is linear in the length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headscope.kernels.dense import attention
from headscope.kernels.plan import HeadPlan
from headscope.kernels.reference import seen_keys, visible

ROWS = 256  # of 64 ... 1024 the fastest at 64 + 256 keys of 4,096, one thread


def stream_cpu(
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: HeadPlan,
    *,
    scale: float,
    start: Tensor | None,
) -> None:
    """Fill the rows of the plan's streaming heads in `out` [B, Hq, Nq, D] and `lse` [B, Hq, Nq]."""
    group, past = q.shape[1] // k.shape[1], k.shape[2] - q.shape[2]
    first = torch.zeros(1, dtype=torch.long) if start is None else start.long()
    for policy in sorted({(plan.sink[h], plan.window[h]) for h in plan.streaming}):
        heads = [h for h in plan.streaming if (plan.sink[h], plan.window[h]) == policy]
        x, ks, vs = q[:, heads], *(t[:, [h // group for h in heads]] for t in (k, v))
        mixed, level = torch.zeros_like(x), lse.new_full(x.shape[:3], -torch.inf)
        for begin in range(0, q.shape[2], ROWS):
            rows = slice(begin, min(begin + ROWS, q.shape[2]))
            position = torch.arange(rows.start, rows.stop) + past
            spans = [slice(*span) for span in seen_keys(position, first, policy)]
            keys = torch.cat([torch.arange(s.start, s.stop) for s in spans])
            if not len(keys):  # a block of padding
                continue
            seen = visible(position, keys, first, *policy)[:, None]
            mask = torch.zeros(seen.shape, dtype=q.dtype).masked_fill(~seen, -torch.inf)
            here = [torch.cat([t[:, :, s] for s in spans], 2) for t in (ks, vs)]
            a, b = attention("cpu", x[:, :, rows], *here, causal=False, scale=scale, mask=mask)
            blind = ~seen.any(-1)  # padding: softmax over nothing
            mixed[:, :, rows] = a.masked_fill(blind[..., None], 0)
            level[:, :, rows] = b.masked_fill(blind, -torch.inf)
        out[:, heads], lse[:, heads] = mixed, level
