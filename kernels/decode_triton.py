"""Launches split-KV decode of mixed heads; `kernels.decode.attend_stores` is its reference."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from headscope.kernels.backend import on_its_device, overlap, processors
from headscope.kernels.plan import HeadPlan
from headscope.kernels.prefill_triton import LOG2E
from headscope.kernels.split_triton import _merge_splits, _split_decode

ALONE = 4  # tiles up to which one program does a whole group


def blocks(dim: int, itemsize: int) -> dict[str, int]:
    """Tile size, warps and programs per multiprocessor: the fastest of those tried on an H100."""
    if itemsize > 2 or dim > 128:
        return {"BN": 32, "num_warps": 4, "num_stages": 2, "waves": 2}
    return {"BN": 128, "num_warps": 8, "num_stages": 3, "waves": 128 // max(dim, 64)}


def count_splits(tiles: int, lanes: int, programs: int) -> int:
    """As many splits of `tiles` as keep `lanes * splits <= programs`, all with equal shares."""
    turns = triton.cdiv(tiles, max(1, programs // lanes))
    return int(triton.cdiv(tiles, turns))


@on_its_device
def split_decode(
    q: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    stream: tuple[Tensor, Tensor] | None,
    plan: HeadPlan,
    length: int | Tensor,
    *,
    starts: Tensor | None,
    scale: float,
    softcap: float | None,
    return_lse: bool = True,
    tuning: dict[str, int] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Launch both kernels. With `stream` None, `dense` is one full cache of all KV groups.

    Shapes and meaning as in `cached_decode`; `starts` is int32 [B] on q's device or None. A `length`
    that is a tensor [1] there is read by the kernels, and the splits are those of a full dense store.
    """
    batch, heads, queries, dim = q.shape
    groups, ring = len(plan.group_window), stream is not None
    q = _rows(q)
    stores = [_rows(x) for store in (dense or stream, stream or dense) for x in store or ()]
    size, padded = heads // groups, max(16, triton.next_power_of_2(dim))
    rows = min(64, max(16, triton.next_power_of_2(size * queries)))
    row_tiles = triton.cdiv(size * queries, rows)
    tuning = dict(tuning or blocks(padded, q.element_size()))
    programs = tuning.pop("waves") * processors(q.device)
    clock = isinstance(length, Tensor)
    held = stores[0].shape[2] if clock else length
    longest = held if plan.dense_groups else min(held, plan.reach + queries - 1)
    tiles = triton.cdiv(longest, tuning["BN"])
    lanes = batch * row_tiles * (len(plan.dense_groups) or groups)
    splits = 1 if tiles <= ALONE else count_splits(tiles, lanes, programs)

    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
    partials = (batch, heads, queries, splits, dim + 1) if splits > 1 else (1,)
    part = torch.empty(partials, dtype=torch.float32, device=q.device)
    table = plan.on(q.device)
    policy = (table.group_sink, table.group_window)
    origin = table.group_sink if starts is None else starts
    flags = {
        "ALONE": ALONE,
        "RING": ring,
        "START": starts is not None,
        "OVERLAP": overlap(q.device),
        "CLOCK": clock,
    }
    sizes = (length, queries, stores[2].shape[2], heads, size)
    _split_decode[(splits, groups * row_tiles, batch)](
        q, *stores, out, lse, part, table.slot if ring else table.group, *policy,
        table.sink, table.window, origin,
        *q.stride()[:3], *(s for x in stores for s in x.stride()[:3]), *out.stride()[:3],
        *sizes, row_tiles, splits, scale if softcap else scale * LOG2E, softcap or 0.0,
        D=dim, DP=padded, BM=rows, CAP=softcap is not None,
        PRECISION="ieee" if q.element_size() > 2 else "tf32", **flags, **tuning,
    )  # fmt: skip
    if splits > 1:
        width = min(padded, 32)
        early = {"launch_pdl": True} if flags["OVERLAP"] else {}
        _merge_splits[(heads * queries, batch, padded // width)](
            out, lse, part, *policy, origin, *out.stride()[:3], *sizes, splits,
            D=dim, BD=width, BS=triton.next_power_of_2(splits), BN=tuning["BN"],
            num_warps=4, **flags, **early,
        )  # fmt: skip
    return out, lse if return_lse else None


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if each vector is contiguous, as the kernels assume, else a copy."""
    return x if x.stride(-1) == 1 else x.contiguous()
