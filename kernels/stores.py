"""Where the keys of a head-wise cache live: a store that grows, and rings that do not.

Both take whole chunks: `append` for the groups that keep everything, `ring_write` for those that
keep sink + recent, and `ring_read` lays a ring out so that a chunk can be run over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from headscope.kernels.ring import ring_position, ring_slot

SLACK = 256  # spare slots of a store that grows; a larger one grows by a 32nd


def append(store: Tensor | None, fresh: Tensor, length: int) -> Tensor:
    """Add `fresh` [B, H, n, D] after the first `length` slots of `store` [B, H, slots, D].

    Slots run out every 256 tokens, or every 32nd of the length, and only then is copied.
    """
    total = length + fresh.shape[2]
    if store is None or total > store.shape[2]:
        slots = total + max(SLACK, total // 32)
        empty = fresh.new_empty((*fresh.shape[:2], 0, fresh.shape[3]))
        store = grow(empty if store is None else store, slots, length)
    store[:, :, length:total] = fresh
    return store


def grow(store: Tensor, slots: int, length: int) -> Tensor:
    """The store with at least that many slots, of which the first `length` hold something."""
    if store.shape[2] >= slots:
        return store
    grown = store.new_empty((*store.shape[:2], slots, store.shape[3]))
    grown[:, :, :length] = store[:, :, :length]
    return grown


def ring_write(
    store: Tensor, fresh: Tensor, sinks: Sequence[int], length: int, starts: Tensor | None
) -> None:
    """Keep what the rings want of `fresh` [B, H, n, D], which follows `length` earlier positions.

    Args:
        store: slots as `ring_slot` says. [B, H, C, D], changed in place
        sinks: sink size of each of the H groups.
        length: positions before, padding included.
        starts: first real position of each sequence. [B]; None for no padding
    """
    capacity, n = store.shape[2], fresh.shape[2]
    for places, sink in runs(sinks):
        ring, new = store[:, places], fresh[:, places]
        if n == 1 and starts is None:
            slot = length if length < sink else sink + (length - sink) % (capacity - sink)
            ring[:, :, slot] = new[:, :, 0]
            continue
        begin = torch.zeros(1, dtype=torch.long, device=store.device) if starts is None else starts
        held = ring_position((length + n - begin).clamp_min(0), sink, capacity)  # [B or 1, C]
        source = held + begin[:, None] - length  # where in `fresh` each slot's key stands
        is_new = ((held >= 0) & (source >= 0))[:, None, :, None]
        index = source.clamp(0, n - 1)[:, None, :, None].expand(new.shape[0], new.shape[1], -1, new.shape[3])
        ring.copy_(torch.where(is_new, new.gather(2, index), ring))


def ring_read(
    store: Tensor, sinks: Sequence[int], reach: tuple[int, int], length: int, starts: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Lay rings out in order, so that a chunk can be appended and run with `mixed_prefill`.

    Args:
        store: [B, H, C, D]
        sinks: sink size of each of the H groups.
        reach: the largest sink and the largest window of the groups.
        length: positions written so far, padding included, 1 or more.
        starts: first real position of each sequence. [B]

    Returns:
        The last `sink + window` keys of the sequences, the first of them sinks where a sequence is
        longer than that, right-aligned [B, H, P, D]; and the first real place of each sequence [B], or
        None without padding. Places that no head of a group can see hold other keys.
    """
    sink, window = reach
    begin = torch.zeros(1, dtype=torch.long, device=store.device) if starts is None else starts
    seen = (length - begin).clamp_min(0)[:, None]
    places = min(length, sink + window)
    place = torch.arange(places, device=store.device)[None]
    position = torch.where((seen >= places) & (place < sink), place, seen - places + place)
    parts = []
    for run, size in runs(sinks):
        slot = ring_slot(position.clamp_min(0), size, store.shape[2])
        shape = store.shape[0], run.stop - run.start, -1, store.shape[3]
        parts.append(store[:, run].gather(2, slot[:, None, :, None].expand(shape)))
    return torch.cat(parts, 1), None if starts is None else (places - seen[:, 0]).clamp_min(0)


def runs(sinks: Sequence[int]) -> list[tuple[slice, int]]:
    """Neighbours with equal sinks."""
    edges = [i for i in range(len(sinks)) if i == 0 or sinks[i] != sinks[i - 1]] + [len(sinks)]
    return [(slice(a, b), sinks[a]) for a, b in pairwise(edges)]
