"""Plain torch attention with a sink + window policy per head: what every kernel is tested against.

Query i of Nq sits at position `Nk - Nq + i`. A head sees key j if `start <= j <= position` and
either `j < start + sink` or `j > position - window`. Work is done in blocks of rows and, for
streaming heads, only on the keys a block can see, so memory stays far below n x n and the cost of
a streaming head is linear. This is also the path taken without a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headscope.kernels.plan import HeadPlan

ROWS = 128  # query rows per block


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    plan: HeadPlan,
    *,
    scale: float,
    start: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of q [B, Hq, Nq, D] over k, v [B, Hkv, Nk, D] under the plan's policy.

    Returns the output in q's dtype and the natural log-sum-exp [B, Hq, Nq] in the dtype of the
    arithmetic, float32 or wider. A row that sees no key (padding) is 0 and -inf.
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    start = torch.zeros(q.shape[0], dtype=torch.long) if start is None else start
    start = start.to(q.device, torch.long)
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=wide)
    group = q.shape[1] // k.shape[1]
    for policy in sorted(set(zip(plan.sink, plan.window, strict=True))):
        pairs = enumerate(zip(plan.sink, plan.window, strict=True))
        heads = torch.tensor([h for h, pair in pairs if pair == policy], device=q.device)
        ks, vs = k[:, heads // group].to(wide), v[:, heads // group].to(wide)
        for rows in torch.split(torch.arange(q.shape[2], device=q.device), ROWS):
            position = rows + k.shape[2] - q.shape[2]
            spans = seen_keys(position, start, policy)
            keys = torch.cat([torch.arange(*span, device=position.device) for span in spans])
            seen = visible(position, keys, start, *policy)[:, None]
            x = q[:, heads[:, None], rows].to(wide)
            mixed, level = softmax_sum(x, ks[:, :, keys], vs[:, :, keys], seen, scale, softcap)
            out[:, heads[:, None], rows] = mixed.to(q.dtype)
            lse[:, heads[:, None], rows] = level
    return out, lse


def visible(position: Tensor, keys: Tensor, start: Tensor, sink: int, window: int) -> Tensor:
    """Which keys [..., N] each row [..., R] may see; `start` is [B]. [B, R, N]"""
    row, key, first = position[..., :, None], keys[..., None, :], start[:, None, None]
    kept = (key < first + sink) | (key > row - window)
    return (key >= first) & (key <= row) & kept


def softmax_sum(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Softmax attention over the visible keys: output and natural log-sum-exp."""
    scores = q @ k.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~seen, -torch.inf)
    lse = torch.logsumexp(scores, -1)
    weights = (scores - lse.masked_fill(lse == -torch.inf, 0)[..., None]).exp()
    return weights @ v, lse


def seen_keys(position: Tensor, start: Tensor, policy: tuple[int, int]) -> list[tuple[int, int]]:
    """Every key that some row of a block can see in some sequence: sinks, then the window."""
    sink, window = policy
    begin, end = int(start.min()), int(position[-1]) + 1
    sinks_end = max(begin, min(int(start.max()) + sink, end))
    recent = max(sinks_end, int(position[0]) - window + 1)
    return [(begin, sinks_end), (recent, max(recent, end))]
