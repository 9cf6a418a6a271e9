"""The parts of fused row statistics that touch few keys or few rows, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

TOP_KEYS = 1 << 15  # keys per block where more than one heaviest key is asked for


@lru_cache(maxsize=256)
def device_ints(values: tuple[int, ...], device: torch.device) -> Tensor:
    """The integers as an int32 tensor on the device, copied there once."""
    return torch.tensor(values, dtype=torch.int32, device=device)


def _scores(q: Tensor, k: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """Soft-capped scores of q [..., 1 or G, D] and k [..., N, D] in float32. [..., G, N]"""
    scores = q.float() @ k.float().mT * scaling
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def offset_mass(
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
