"""The parts of fused row statistics that touch few keys or few rows, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from headscope.kernels.backend import device_ints
from headscope.kernels.largest import largest

TOP_KEYS = 1 << 15  # keys per block where more than one heaviest key is asked for


class OffsetKeys(NamedTuple):
    """The keys at some distances back from the rows, of all sets side by side."""

    batch: Tensor  # [B, 1, 1]
    key: Tensor  # within the keys held. [B, R, K]
    seen: Tensor  # [B, 1, R, K]
    none: Tensor  # whether no key of a set is visible. [B, 1, R, O]
    sizes: tuple[int, ...]  # of the O sets


def offset_keys(
    at: Tensor, lo: Tensor, hi: Tensor, keys: int, offsets: Sequence[Sequence[int]]
) -> OffsetKeys:
    """Where the asked distances lead from each row."""
    sizes = tuple(len(some) for some in offsets)
    key = at[..., None] - device_ints(tuple(d for some in offsets for d in some), at.device)
    seen = ((key >= lo[..., None]) & (key < hi[..., None]))[:, None]
    sets = [~s.any(-1) for s in seen.split(sizes, -1)]
    none = torch.stack(sets, -1) if sets else seen
    batch = torch.arange(len(at), device=at.device)[:, None, None]
    return OffsetKeys(batch, key.clamp(0, keys - 1), seen, none, sizes)


def offset_mass(
    q: Tensor, k: Tensor, back: OffsetKeys, lse: Tensor, scaling: float, softcap: float | None
) -> Tensor:
    """Mass on the keys at the given distances back, NaN where none is visible. [B, H, R, O]"""
    if not back.sizes:
        return lse.new_zeros(*lse.shape, 0)
    found = k.transpose(1, 2)[back.batch, back.key].permute(0, 3, 1, 2, 4)
    grouped = q.unflatten(1, (k.shape[1], -1)).transpose(2, 3)  # [B, Hkv, R, G, D]
    scores = grouped.float() @ found.float().mT * scaling
    scores = _capped(scores, softcap).transpose(2, 3).flatten(1, 2)
    mass = (scores - lse[..., None]).exp() * back.seen
    if set(back.sizes) != {1}:
        mass = torch.stack([w.sum(-1) for w in mass.split(back.sizes, -1)], -1)
    return mass.masked_fill(back.none, torch.nan)


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _products(q: Tensor, k: Tensor) -> Tensor:
    """q [B, G, R, D] times k [B, G, N, D] in float32. [B, G, R, N]"""
    if q.is_cuda and q.dtype == k.dtype and q.dtype in (torch.float16, torch.bfloat16):
        # Products of half-precision numbers are exact in float32, so no copy of the keys is needed.
        product = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT, out_dtype=torch.float32)
        return product.unflatten(0, q.shape[:2])
    return q.float() @ k.float().mT


def heaviest_keys(
    q: Tensor,
    k: Tensor,
    lo: Tensor,
    hi: Tensor,
    lse: Tensor,
    scaling: float,
    softcap: float | None,
    top: int,
) -> tuple[Tensor, Tensor]:
    """Mass and key of the `top` heaviest keys, heaviest first, block of keys by block.

    They are found among the plain products, whose order is that of the masses; `scaling` > 0.
    """
    batch, heads, rows, dim = q.shape
    best = q.new_full((*lse.shape, top), -torch.inf, dtype=torch.float32)
    key = torch.full(best.shape, -1, device=q.device)
    grouped = q.reshape(batch, k.shape[1], -1, dim)
    for first in range(0, k.shape[2], TOP_KEYS):
        block = k[:, :, first : first + TOP_KEYS]
        products = _products(grouped, block).view(batch, heads, rows, -1)
        index = torch.arange(first, first + block.shape[2], dtype=torch.int32, device=q.device)
        hidden = (index < lo[..., None]) | (index >= hi[..., None])
        products.masked_fill_(hidden[:, None], -torch.inf)
        found, where = largest(products, top)
        best, pick = torch.cat([best, found], -1).topk(top, -1)
        key = torch.cat([key, where + first], -1).gather(-1, pick)
    mass = (_capped(best * scaling, softcap) - lse[..., None]).exp()
    if softcap is not None:  # which maps what is hidden to a finite score
        mass = mass.masked_fill(best == -torch.inf, 0.0)
    return mass, key.masked_fill(mass == 0, -1)
