"""Decode: one or a few new queries per sequence, heads under different policies, one pass.

Dense KV groups are cut into splits that fill the GPU and merged by log-sum-exp (flash-decoding,
Dao et al. 2023); a streaming group reads only its sink and window; the query heads of a group share
every key they read. The keys may lie in one full cache, or in two: dense groups with everything,
streaming groups with a ring of sink + recent slots (`kernels.ring`), which is what frees memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headscope.kernels.backend import use_triton
from headscope.kernels.plan import HeadPlan, Ints, check_shapes, plan_heads, take
from headscope.kernels.prefill import check_starts, mixed_prefill
from headscope.kernels.reference import softmax_sum, visible
from headscope.kernels.ring import ring_position

PACKED_ROWS = 64  # query heads of a group times new queries that one program takes


def mixed_decode(
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
    """`mixed_prefill` for few queries over one full cache: same arguments, same result."""
    check_shapes(q, k, v)
    rows = q.shape[1] // k.shape[1] * q.shape[2]
    if not use_triton(q) or rows > PACKED_ROWS:
        return mixed_prefill(q, k, v, sink, window, scale=scale, key_start=key_start,
                             softcap=softcap, return_lse=return_lse)  # fmt: skip
    from headscope.kernels.decode_triton import split_decode

    plan = plan_heads(sink, window, k.shape[1])
    _check_heads(plan, q)
    return split_decode(q, (k, v), None, plan, k.shape[2], starts=_starts(key_start, q, k.shape[2]),
                        scale=q.shape[-1] ** -0.5 if scale is None else scale,
                        softcap=softcap, return_lse=return_lse)  # fmt: skip


def cached_decode(
    q: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    stream: tuple[Tensor, Tensor] | None,
    sink: Ints,
    window: Ints,
    *,
    length: int,
    kv_heads: int,
    scale: float | None = None,
    key_start: Ints | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Decode over a head-wise cache that already holds the keys of the new queries.

    A KV group is dense if any of its query heads is; `plan_heads(...).dense_groups` lists them.

    Args:
        q: the last Nq queries of `length` positions. [B, Hq, Nq, D]
        dense: k, v of the dense groups in ascending order, slot = position. [B, Hd, >=length, D]
        stream: k, v of the streaming groups in ascending order, slots as `ring_slot` says. C is at
            least sink + window + Nq - 1 of every group. [B, Hs, C, D]
        sink, window: as in `mixed_prefill`. [Hq]
        length: positions so far, padding and new queries included.
        kv_heads: Hd + Hs.
        scale, key_start, softcap, return_lse: as in `mixed_prefill`.

    Returns:
        out [B, Hq, Nq, D] and lse [B, Hq, Nq] or None, as `mixed_prefill` over the full keys.

    Raises:
        ValueError: a cache is missing, too small, or does not match the policy; or more new
            queries than a decode step takes.
    """
    plan = plan_heads(sink, window, kv_heads)
    _check_heads(plan, q)
    _check_stores(q, dense, stream, plan, length)
    return decode_stores(
        q, dense, stream, plan, length, starts=_starts(key_start, q, length),
        scale=q.shape[-1] ** -0.5 if scale is None else scale, softcap=softcap, return_lse=return_lse,
    )  # fmt: skip


def decode_stores(
    q: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    stream: tuple[Tensor, Tensor] | None,
    plan: HeadPlan,
    length: int | Tensor,
    *,
    starts: Tensor | None,
    scale: float,
    softcap: float | None,
    return_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    """`cached_decode` for a caller that has a plan and stores that fit it; `starts` lies on q's device.

    So does `length` where it is a tensor [1]; a GPU then reads it, and the host need not know it.
    """
    options: dict[str, Any] = {"starts": starts, "scale": scale, "softcap": softcap}
    if not use_triton(q):
        out, lse = attend_stores(q, dense, stream, plan, int(length), **options)
        return out, lse if return_lse else None
    from headscope.kernels.decode_triton import split_decode

    return split_decode(q, dense, stream, plan, length, **options, return_lse=return_lse)


def attend_stores(
    q: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    stream: tuple[Tensor, Tensor] | None,
    plan: HeadPlan,
    length: int,
    *,
    starts: Tensor | None,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Plain torch reference of `split_decode`: KV groups of one policy together, keys by position."""
    size = q.shape[1] // len(plan.group_window)
    start = q.new_zeros(q.shape[0], dtype=torch.long) if starts is None else starts.to(q.device).long()
    position = torch.arange(length - q.shape[2], length, device=q.device) - start[:, None]
    origin = torch.zeros_like(start)  # positions here count from each sequence's first real key
    wide = torch.promote_types(q.dtype, torch.float32)
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=wide)
    for groups, store in ((plan.dense_groups, dense), (plan.streaming_groups, stream)):
        for policy, places in _alike(plan, groups).items():
            assert store is not None
            k, v = (take(x, places).to(wide) for x in store)
            if store is dense:
                k, v = k[:, :, :length], v[:, :, :length]
                keys = torch.arange(length, device=q.device) - start[:, None]
            else:
                keys = ring_position(length - start, plan.group_sink[groups[places[0]]], k.shape[2])
            for pair in set(policy):
                offsets = [i for i, each in enumerate(policy) if each == pair]
                heads = [groups[place] * size + i for place in places for i in offsets]
                seen = visible(position, keys, origin, *pair)[:, None, None]
                x = q[:, heads].to(wide).unflatten(1, (len(places), -1))
                mixed, level = softmax_sum(x, k[:, :, None], v[:, :, None], seen, scale, softcap)
                out[:, heads], lse[:, heads] = mixed.flatten(1, 2).to(q.dtype), level.flatten(1, 2)
    return out, lse


def _alike(plan: HeadPlan, groups: tuple[int, ...]) -> dict[tuple[tuple[int, int], ...], list[int]]:
    """Places in `groups` by the policies of the query heads there."""
    size = len(plan.sink) // len(plan.group_sink)
    found: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for place, g in enumerate(groups):
        heads = slice(g * size, (g + 1) * size)
        found.setdefault(tuple(zip(plan.sink[heads], plan.window[heads], strict=True)), []).append(place)
    return found


def _starts(key_start: Ints | None, q: Tensor, keys: int) -> Tensor | None:
    """Left padding as a tensor; one already on a GPU is trusted rather than waited for."""
    if isinstance(key_start, Tensor) and key_start.is_cuda:
        return key_start.to(torch.int32)
    starts = check_starts(key_start, q.shape[0], keys)
    return torch.tensor(starts, dtype=torch.int32, device=q.device) if starts else None


def _check_heads(plan: HeadPlan, q: Tensor) -> None:
    if len(plan.sink) != q.shape[1]:
        raise ValueError(f"The policy has {len(plan.sink)} heads, q has {q.shape[1]}.")


def _check_stores(
    q: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    stream: tuple[Tensor, Tensor] | None,
    plan: HeadPlan,
    length: int,
) -> None:
    """Raise ValueError unless each store holds the groups and the keys the policy reads."""
    rooms = [plan.group_sink[g] + plan.group_window[g] for g in plan.streaming_groups]
    needed = min(length, max(rooms, default=0) + q.shape[2] - 1)
    for name, groups, store, slots in (
        ("dense", plan.dense_groups, dense, length),
        ("stream", plan.streaming_groups, stream, needed),
    ):
        shapes = [tuple(x.shape) for x in store or ()]
        want = (q.shape[0], len(groups), slots, q.shape[3])
        fits = [(*s[:2], s[3]) == (*want[:2], want[3]) and s[2] >= slots for s in shapes]
        if bool(groups) != bool(store) or not all(fits) or len(set(shapes)) > 1:
            held = f"holds {shapes}" if store else "is missing"
            raise ValueError(f"The {name} cache needs k, v of at least {want} but {held}.")
