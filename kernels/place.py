"""Where a new key goes in a head-wise cache, when only the device knows how many there are."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from headscope.kernels.backend import use_triton
from headscope.kernels.plan import HeadPlan, take
from headscope.kernels.ring import ring_slot
from headscope.kernels.stores import runs

Store: TypeAlias = tuple[Tensor, Tensor]  # k, v of some groups, ascending


def place(
    fresh: Store,
    dense: Store | None,
    stream: Store | None,
    plan: HeadPlan,
    clock: Tensor,
    starts: Tensor | None,
) -> None:
    """Store the keys and values of one new position: one launch on a GPU, plain torch elsewhere.

    Args:
        fresh: k, v of all groups. [B, Hkv, 1, D]
        dense: slot = position. [B, Hd, slots, D], changed in place
        stream: slots as `ring_slot` says. [B, Hs, C, D], changed in place
        plan: which group lies where.
        clock: the position, padding included, on the device of the stores. [1]
        starts: first real position of each sequence. [B]; None for no padding
    """
    if not use_triton(fresh[0]):
        place_reference(fresh, dense, stream, plan, clock, starts)
        return
    from headscope.kernels.place_triton import fused_place

    fused_place(*fresh, dense, stream, plan, clock, starts)


def place_reference(
    fresh: Store,
    dense: Store | None,
    stream: Store | None,
    plan: HeadPlan,
    clock: Tensor,
    starts: Tensor | None,
) -> None:
    """`place` in plain torch."""
    for store, x in zip(dense or (), fresh, strict=False):
        store.index_copy_(2, clock, take(x, plan.dense_groups))
    seen = (clock if starts is None else clock - starts).expand(len(fresh[0]))
    sinks = [plan.group_sink[g] for g in plan.streaming_groups]
    for store, x in zip(stream or (), fresh, strict=False):
        new = take(x, plan.streaming_groups)
        for places, sink in runs(sinks):
            slot = ring_slot(seen, sink, store.shape[2])[:, None, None, None]
            store[:, places].scatter_(2, slot.expand_as(new[:, places]), new[:, places])
