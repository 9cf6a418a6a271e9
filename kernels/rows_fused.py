"""Row statistics on a GPU: the same question as `kernels.rows.row_statistics`, fused.

One sweep over the keys yields log-sum-exp, entropy, output, heaviest key and every range mass; a
second one the mass each key received; sink + window cuts read only the keys they keep. Everything
is float32 except the weights that multiply the values, which take the values' dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
from torch import Tensor

from headscope.kernels.backend import processors
from headscope.kernels.prefill_triton import LOG2E
from headscope.kernels.rows import RowStatistics
from headscope.kernels.rows_triton import _cut, _join_splits, _receive, _sweep

TOP_KEYS = 1 << 15  # keys per block where more than one heaviest key is asked for


def fused_row_statistics(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    at: Tensor,
    lo: Tensor,
    hi: Tensor,
    *,
    scaling: float,
    start: Tensor | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    first: Sequence[int] = (),
    recent: Sequence[int] = (),
    spans: Tensor | None = None,
    offsets: Sequence[Sequence[int]] = (),
    keep: Sequence[tuple[int, int]] = (),
    top: int = 1,
    values: bool = True,
    received: bool = True,
) -> RowStatistics:
    """Arguments and result of `row_statistics`; groups of at most 64 query heads.

    Two extra switches spare work: without `values` there is no `output` and no `kept_output`,
    without `received` no `received` (they come back empty). More than one heaviest key costs a
    plain product of rows and keys: ask it of few rows.
    """
    batch, heads, rows, dim = q.shape
    kv_heads, keys = k.shape[1], k.shape[2]
    group, device = heads // kv_heads, q.device
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    lo, hi = lo.int().contiguous(), hi.int().contiguous()
    begin = torch.zeros(batch, dtype=torch.int32, device=device) if start is None else start.int()
    fixed, widths = _fixed(begin, first, spans), device_ints(tuple(recent), device)
    order = hi.amax(0).argsort().int()
    padded, itemsize = max(16, triton.next_power_of_2(dim)), q.element_size()
    shared = {
        "D": dim, "DP": padded, "CAP": softcap is not None,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
    }  # fmt: skip
    units = (scaling, softcap or 0.0, LOG2E if softcap else scaling * LOG2E)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=device)

    tuning = sweep_blocks(padded, itemsize, values)
    tile_rows = max(1, tuning["BM"] // group)
    tiles = triton.cdiv(rows, tile_rows)
    share = max(1, 8 * processors(device) // (tiles * kv_heads * batch))
    split_keys = max(512, triton.cdiv(triton.cdiv(keys, share), tuning["BN"]) * tuning["BN"])
    splits, count = triton.cdiv(keys, split_keys), fixed.shape[1] + len(recent)
    columns = {"M": count, "MP": max(1, triton.next_power_of_2(count)), "VALUES": values}
    part = empty(batch, heads, rows, splits, dim + count + 4)
    _sweep[(tiles, splits, kv_heads * batch)](
        q, k, v, part, order, lo, hi, fixed, widths,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        rows, heads, kv_heads, group, tile_rows, splits, split_keys, *units,
        FIXED=fixed.shape[1], TOP=top == 1, **columns, **shared, **tuning,
    )  # fmt: skip
    lse, entropy, mass = empty(3, batch, heads, rows).unbind(0)
    key = empty(batch, heads, rows, dtype=torch.int32)
    masses, output = empty(batch, heads, rows, count), empty(batch, heads, rows, dim * values)
    _join_splits[(rows, heads, batch)](
        part, lse if sinks is None else sinks, lo, hi, lse, entropy, mass, key, masses, output,
        rows, heads, splits, split_keys, D=dim, DP=padded, SP=triton.next_power_of_2(splits),
        SINKS=sinks is not None, num_warps=1, **columns,
    )  # fmt: skip
    arrived = empty(batch, heads, keys * received)
    if received:
        tuning = receive_blocks(padded, itemsize)
        _receive[(triton.cdiv(keys, tuning["BN"]), heads, batch)](
            q, k, lse, arrived, order, lo, hi, *q.stride()[:3], *k.stride()[:3],
            rows, keys, heads, group, *units, RP=triton.next_power_of_2(rows), **shared, **tuning,
        )  # fmt: skip
    level = empty(batch, heads, rows, len(keep))
    cuts = empty(batch, heads, rows, len(keep), dim)
    for c, (sink, window) in enumerate(keep):
        _cut[(rows, kv_heads, batch)](
            q, k, v, lo, hi, begin, level[..., c], cuts[..., c, :],
            *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
            rows, heads, group, sink, window, len(keep), *units, **shared,
            BM=max(16, triton.next_power_of_2(group)), BN=64 if padded <= 128 else 32, num_warps=4,
        )  # fmt: skip
    if keep and sinks is not None:  # what is left beside the learned sink
        cuts *= torch.sigmoid(level - sinks.float()[None, :, None, None])[..., None]
    heaviest, named = mass[..., None], key[..., None].long()
    if top == 0:
        named = torch.full_like(named, -1)
    elif top > 1:
        heaviest, named = _top(q, k, lo, hi, lse, scaling, softcap, top)
    sizes = [len(first), fixed.shape[1] - len(first), len(recent)]
    in_first, in_span, in_recent = masses.split(sizes, -1)
    return RowStatistics(
        lse=lse, entropy=entropy, first=in_first, recent=in_recent, span=in_span,
        offset=_offsets(q, k, at, lo, hi, lse, scaling, softcap, offsets),
        top_key=named, top_mass=heaviest, received=arrived, output=output,
        kept_mass=torch.exp(level - lse[..., None]), kept_output=cuts if values else cuts[..., :0],
    )  # fmt: skip


def sweep_blocks(dim: int, itemsize: int, values: bool) -> dict[str, int]:
    """Tile sizes and warps of the sweep: the fastest of those tried on an H100 at head_dim 128."""
    if itemsize > 2 or dim > 128:
        return {"BM": 64, "BN": 32, "num_warps": 4, "num_stages": 2}
    return {"BM": 64, "BN": 64 if values else 128, "num_warps": 4, "num_stages": 3}


def receive_blocks(dim: int, itemsize: int) -> dict[str, int]:
    """Tile sizes and warps of the received mass, chosen likewise."""
    if itemsize > 2 or dim > 128:
        return {"BM": 64, "BN": 64, "num_warps": 4, "num_stages": 2}
    return {"BM": 64, "BN": 128, "num_warps": 4, "num_stages": 2}


@lru_cache(maxsize=256)
def device_ints(values: tuple[int, ...], device: torch.device) -> Tensor:
    """The integers as an int32 tensor on the device, copied there once."""
    return torch.tensor(values, dtype=torch.int32, device=device)


def _fixed(start: Tensor, first: Sequence[int], spans: Tensor | None) -> Tensor:
    """Key ranges that are the same for every row of a sequence: first, then spans. [B, M, 2]"""
    ends = start[:, None] + device_ints(tuple(first), start.device)
    ranges = torch.stack([torch.zeros_like(ends), ends], -1)
    return ranges if spans is None else torch.cat([ranges, spans.int()], 1)


def _scores(q: Tensor, k: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """Soft-capped scores of q [..., 1 or G, D] and k [..., N, D] in float32. [..., G, N]"""
    scores = q.float() @ k.float().mT * scaling
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _offsets(
    q: Tensor,
    k: Tensor,
    at: Tensor,
    lo: Tensor,
    hi: Tensor,
    lse: Tensor,
    scaling: float,
    softcap: float | None,
    offsets: Sequence[Sequence[int]],
) -> Tensor:
    """Mass on the keys at the given distances back, NaN where none is visible. [B, H, R, O]"""
    distances = tuple(d for some in offsets for d in some)
    if not distances:
        return lse.new_full((*lse.shape, len(offsets)), torch.nan)
    key = at[..., None] - device_ints(distances, q.device)
    seen = (key >= lo[..., None]) & (key < hi[..., None])
    batch = torch.arange(len(q), device=q.device)[:, None, None]
    found = k.transpose(1, 2)[batch, key.clamp(0, k.shape[2] - 1)].permute(0, 3, 1, 2, 4)
    grouped = q.unflatten(1, (k.shape[1], -1)).transpose(2, 3)  # [B, Hkv, R, G, D]
    scores = _scores(grouped, found, scaling, softcap).transpose(2, 3).flatten(1, 2)
    weights = (scores - lse[..., None]).exp() * seen[:, None]
    sizes = [len(some) for some in offsets]
    pairs = zip(weights.split(sizes, -1), seen.split(sizes, -1), strict=True)
    columns = [w.sum(-1).masked_fill(~s.any(-1)[:, None], torch.nan) for w, s in pairs]
    return torch.stack(columns, -1)


def _top(
    q: Tensor,
    k: Tensor,
    lo: Tensor,
    hi: Tensor,
    lse: Tensor,
    scaling: float,
    softcap: float | None,
    top: int,
) -> tuple[Tensor, Tensor]:
    """Mass and key of the `top` heaviest keys, heaviest first, block of keys by block."""
    batch, heads, rows, dim = q.shape
    mass = q.new_zeros(*lse.shape, top, dtype=torch.float32)
    key = torch.full(mass.shape, -1, device=q.device)
    for first in range(0, k.shape[2], TOP_KEYS):
        block = k[:, :, first : first + TOP_KEYS]
        grouped = q.reshape(batch, k.shape[1], -1, dim)
        scores = _scores(grouped, block, scaling, softcap).view(batch, heads, rows, -1)
        index = torch.arange(first, first + block.shape[2], device=q.device)
        seen = (index >= lo[..., None]) & (index < hi[..., None])
        weights = (scores - lse[..., None]).exp() * seen[:, None]
        found, where = weights.topk(min(top, weights.shape[-1]), -1)
        mass, pick = torch.cat([mass, found], -1).topk(top, -1)
        key = torch.cat([key, where + first], -1).gather(-1, pick)
    return mass, key.masked_fill(mass == 0, -1)
