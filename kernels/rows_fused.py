"""Row statistics on a GPU: the same question as `kernels.rows.row_statistics`, fused.

One sweep over the keys yields log-sum-exp, entropy, output, heaviest key and every range mass; a
second one the mass each key received; sink + window cuts read only the keys they keep. Everything
is float32 except the weights that multiply the values, which take the values' dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from headscope.kernels.backend import device_ints, on_its_device, processors
from headscope.kernels.prefill_triton import LOG2E
from headscope.kernels.rows import RowStatistics
from headscope.kernels.rows_gather import OffsetKeys, heaviest_keys, offset_keys, offset_mass
from headscope.kernels.rows_keys_triton import _cut, _receive
from headscope.kernels.rows_triton import _join_splits, _sweep


@on_its_device
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
    prepared: dict[str, Any] | None = None,
) -> RowStatistics:
    """Arguments and result of `row_statistics`; groups of at most 64 query heads.

    Two extra switches spare work: without `values` there is no `output` and no `kept_output`,
    without `received` no `received` (they come back empty). More than one heaviest key costs a
    plain product of rows and keys: ask it of few rows. `prepared` is that of `rows_auto`. Nothing
    here waits for the GPU.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    prepared = {} if prepared is None else prepared
    if not prepared:
        prepared["where"] = _where(at, lo, hi, start, first, spans)
        prepared["offsets"] = offset_keys(at, lo, hi, k.shape[2], offsets)
    where: _Where = prepared["where"]
    back: OffsetKeys = prepared["offsets"]
    asked, fixed = _Rows(q, k, v, where, scaling, softcap, sinks), where.fixed
    swept = _swept(asked, fixed, device_ints(tuple(recent), q.device), top == 1, values)
    level, cuts = _cuts(asked, keep)
    heaviest, named = swept.mass[..., None], swept.key[..., None].long()
    if top == 0:
        named = torch.full_like(named, -1)
    elif top > 1:
        heaviest, named = heaviest_keys(q, k, where.lo, where.hi, swept.lse, scaling, softcap, top)
    sizes = [len(first), fixed.shape[1] - len(first), len(recent)]
    in_first, in_span, in_recent = swept.masses.split(sizes, -1)
    return RowStatistics(
        lse=swept.lse, entropy=swept.entropy, first=in_first, recent=in_recent, span=in_span,
        offset=offset_mass(q, k, back, swept.lse, scaling, softcap),
        top_key=named, top_mass=heaviest, output=swept.output,
        received=_received(asked, swept.lse) if received else swept.lse[..., :0],
        kept_mass=torch.exp(level - swept.lse[..., None]),
        kept_output=cuts if values else cuts[..., :0],
    )  # fmt: skip


class _Where(NamedTuple):
    """Which keys the rows see, all int32; the same for every layer that has these rows."""

    lo: Tensor
    hi: Tensor
    start: Tensor
    order: Tensor  # sorts the rows by their last key
    fixed: Tensor  # key ranges that are the same for every row of a sequence. [B, M, 2]


class _Rows(NamedTuple):
    """The rows and what they see."""

    q: Tensor
    k: Tensor
    v: Tensor
    where: _Where
    scaling: float
    softcap: float | None
    sinks: Tensor | None

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.q.device)

    @property
    def strides(self) -> tuple[int, ...]:
        return tuple(s for x in (self.q, self.k, self.v) for s in x.stride()[:3])

    @property
    def units(self) -> tuple[float, float, float]:
        """Scale before the soft cap, the cap, and what turns a score into bits."""
        if self.softcap is None:
            return self.scaling, 0.0, self.scaling * LOG2E
        return self.scaling, self.softcap, LOG2E

    @property
    def constants(self) -> dict[str, Any]:
        dim = self.q.shape[3]
        return {
            "D": dim, "DP": max(16, triton.next_power_of_2(dim)), "CAP": self.softcap is not None,
            "PRECISION": "ieee" if self.q.dtype == torch.float32 else "tf32",
        }  # fmt: skip


class _Swept(NamedTuple):
    """What one sweep knows of every row. [B, H, R, ...]"""

    lse: Tensor
    entropy: Tensor
    mass: Tensor  # of the heaviest key
    key: Tensor
    masses: Tensor
    output: Tensor


def _swept(asked: _Rows, fixed: Tensor, widths: Tensor, top: bool, values: bool) -> _Swept:
    (batch, heads, rows, dim), (_, kv_heads, keys, _) = asked.q.shape, asked.k.shape
    constants = asked.constants
    tuning = sweep_blocks(constants["DP"], asked.q.element_size(), values)
    tile_rows = max(1, tuning["BM"] // (heads // kv_heads))
    tiles = triton.cdiv(rows, tile_rows)
    share = max(1, 8 * processors(asked.q.device) // (tiles * kv_heads * batch))
    split_keys = max(512, triton.cdiv(triton.cdiv(keys, share), tuning["BN"]) * tuning["BN"])
    splits, count = triton.cdiv(keys, split_keys), fixed.shape[1] + len(widths)
    columns = {"M": count, "MP": max(1, triton.next_power_of_2(count)), "VALUES": values}
    part = asked.empty(batch, heads, rows, splits, dim + count + 4)
    _sweep[(tiles, splits, kv_heads * batch)](
        *asked[:3], part, asked.where.order, asked.where.lo, asked.where.hi, fixed, widths, *asked.strides,
        rows, heads, kv_heads, heads // kv_heads, tile_rows, splits, split_keys, *asked.units,
        FIXED=fixed.shape[1], TOP=top, **columns, **constants, **tuning,
    )  # fmt: skip
    lse, entropy, mass = asked.empty(3, batch, heads, rows).unbind(0)
    key = asked.empty(batch, heads, rows, dtype=torch.int32)
    masses = asked.empty(batch, heads, rows, count)
    output = asked.empty(batch, heads, rows, dim * values)
    _join_splits[(rows, heads, batch)](
        part, lse if asked.sinks is None else asked.sinks, asked.where.lo, asked.where.hi,
        lse, entropy, mass, key, masses, output, rows, heads, splits, split_keys,
        D=dim, DP=constants["DP"], SP=triton.next_power_of_2(splits),
        SINKS=asked.sinks is not None, num_warps=1, **columns,
    )  # fmt: skip
    return _Swept(lse, entropy, mass, key, masses, output)


def _received(asked: _Rows, lse: Tensor) -> Tensor:
    """Mass each key got, summed over the rows. [B, H, N]"""
    (batch, heads, rows, _), (_, kv_heads, keys, _) = asked.q.shape, asked.k.shape
    received = asked.empty(batch, heads, keys)
    tuning = receive_blocks(asked.constants["DP"], asked.q.element_size())
    _receive[(triton.cdiv(keys, tuning["BN"]), heads, batch)](
        asked.q, asked.k, lse, received, asked.where.order, asked.where.lo, asked.where.hi,
        *asked.strides[:6],
        rows, keys, heads, heads // kv_heads, *asked.units, RP=triton.next_power_of_2(rows),
        **asked.constants, **tuning,
    )  # fmt: skip
    return received


def _cuts(asked: _Rows, keep: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Log-sum-exp [B, H, R, C] over sink + window alone, and the output from there."""
    (batch, heads, rows, dim), kv_heads = asked.q.shape, asked.k.shape[1]
    level = asked.empty(batch, heads, rows, len(keep))
    cuts = asked.empty(batch, heads, rows, len(keep), dim)
    constants, group = asked.constants, heads // kv_heads
    for c, (sink, window) in enumerate(keep):
        _cut[(rows, kv_heads, batch)](
            *asked[:3], asked.where.lo, asked.where.hi, asked.where.start, level[..., c], cuts[..., c, :],
            *asked.strides, rows, heads, group, sink, window, len(keep), *asked.units,
            BM=max(16, triton.next_power_of_2(group)), BN=64 if constants["DP"] <= 128 else 32,
            num_warps=4, **constants,
        )  # fmt: skip
    if asked.sinks is not None:  # what is left beside the learned sink
        cuts *= torch.sigmoid(level - asked.sinks.float()[None, :, None, None])[..., None]
    return level, cuts


def _where(
    at: Tensor, lo: Tensor, hi: Tensor, start: Tensor | None, first: Sequence[int], spans: Tensor | None
) -> _Where:
    lo, hi = lo.int().contiguous(), hi.int().contiguous()
    start = torch.zeros(len(at), dtype=torch.int32, device=at.device) if start is None else start.int()
    ends = start[:, None] + device_ints(tuple(first), start.device)
    fixed = torch.stack([torch.zeros_like(ends), ends], -1)  # first, then spans
    if spans is not None:
        fixed = torch.cat([fixed, spans.int()], 1)
    return _Where(lo, hi, start, hi.amax(0).argsort().int(), fixed)


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
