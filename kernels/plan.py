"""Which launch serves which head: the host side of a mixed attention call.

A policy is two integers per query head: `sink`, the first keys it always sees, and `window`, the
most recent keys it sees (its own included); a negative window means every key. Dense heads go to
the fastest dense backend, which wants regularly strided heads, so they are cut into as few
arithmetic progressions as possible: slices, never copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import TypeAlias

import torch
from torch import Tensor

Ints: TypeAlias = Sequence[int] | Tensor
"""Small integers: a sequence, or a tensor (reading one that lives on a GPU costs a sync)."""

EVERYTHING = 1 << 30  # a window no context reaches


@dataclass(frozen=True)
class DenseRun:
    """One dense launch: the KV heads `kv`, and in each group the query heads at `offsets`."""

    kv: range
    offsets: range


@dataclass(frozen=True)
class HeadPlan:
    """Launches of one layer. `sink` and `window` are per query head, dense windows EVERYTHING.

    `group_sink` and `group_window` are what a KV group must hold so that each of its query heads
    finds its keys; they are what a decode step reads.
    """

    dense: tuple[DenseRun, ...]
    streaming: tuple[int, ...]
    sink: tuple[int, ...]
    window: tuple[int, ...]
    group_sink: tuple[int, ...]
    group_window: tuple[int, ...]

    @property
    def dense_groups(self) -> tuple[int, ...]:
        """KV heads with at least one dense query head, ascending."""
        return tuple(g for g, window in enumerate(self.group_window) if window == EVERYTHING)

    @property
    def streaming_groups(self) -> tuple[int, ...]:
        """KV heads whose every query head streams, ascending: their old keys can be dropped."""
        return tuple(g for g, window in enumerate(self.group_window) if window != EVERYTHING)


def ints(values: Ints) -> tuple[int, ...]:
    """The values as a hashable tuple."""
    return tuple(values.tolist() if isinstance(values, Tensor) else values)


def plan_heads(sink: Ints, window: Ints, kv_heads: int, keys: int | None = None) -> HeadPlan:
    """Plan the heads of one layer; with `keys`, windows that reach every key count as dense.

    Raises:
        ValueError: lengths differ, do not divide into groups, or a sink or window is out of range.
    """
    sinks, windows = ints(sink), ints(window)
    if len(sinks) != len(windows):
        raise ValueError(f"{len(sinks)} sinks but {len(windows)} windows; give one per query head.")
    if not sinks or kv_heads < 1 or len(sinks) % kv_heads:
        raise ValueError(f"{len(sinks)} query heads cannot share {kv_heads} KV heads evenly.")
    if min(sinks) < 0:
        raise ValueError(f"A sink size is negative ({min(sinks)}); the smallest is 0.")
    if 0 in windows:
        raise ValueError("A window of 0 sees nothing recent; use at least 1, or -1 for dense.")
    reach = EVERYTHING if keys is None else keys
    dense = tuple(w < 0 or s + w >= reach for s, w in zip(sinks, windows, strict=True))
    return _plan(
        tuple(0 if d else s for s, d in zip(sinks, dense, strict=True)),
        tuple(EVERYTHING if d else w for w, d in zip(windows, dense, strict=True)),
        kv_heads,
    )


@lru_cache(maxsize=1024)
def _plan(sink: tuple[int, ...], window: tuple[int, ...], kv_heads: int) -> HeadPlan:
    size = len(window) // kv_heads
    groups = [range(g * size, (g + 1) * size) for g in range(kv_heads)]
    where: dict[range, list[int]] = {}  # offsets within a group -> the KV heads that have them
    for g, group in enumerate(groups):
        for offsets in progressions([h - group.start for h in group if window[h] == EVERYTHING]):
            where.setdefault(offsets, []).append(g)
    return HeadPlan(
        dense=tuple(DenseRun(kv, o) for o, found in where.items() for kv in progressions(found)),
        streaming=tuple(h for h, w in enumerate(window) if w != EVERYTHING),
        sink=sink,
        window=window,
        group_sink=tuple(max(sink[h] for h in group) for group in groups),
        group_window=tuple(max(window[h] for h in group) for group in groups),
    )


def progressions(values: Sequence[int]) -> list[range]:
    """Cut ascending integers into few arithmetic progressions, the longest first."""
    left, runs = sorted(values), []
    while left:
        run = _longest(left)
        runs.append(run)
        left = [value for value in left if value not in run]
    return runs


def _longest(values: Sequence[int]) -> range:
    """The longest progression inside `values`; of equals, the smallest step and start."""
    present, best = set(values), range(values[0], values[0] + 1)
    for first, second in combinations(values, 2):
        step, stop = second - first, second
        while stop in present:
            stop += step
        run = range(first, stop, step)
        if (len(run), -step) > (len(best), -best.step):
            best = run
    return best


@lru_cache(maxsize=1024)
def device_ints(values: tuple[int, ...], device: torch.device) -> Tensor:
    """The integers as an int32 tensor on `device`, kept there for the next call."""
    return torch.tensor(values, dtype=torch.int32, device=device)


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless q [B, Hq, Nq, D] can attend k, v [B, Hkv, Nk, D] causally."""
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape:
        shapes = [tuple(x.shape) for x in (q, k, v)]
        raise ValueError(f"Expected q [B, Hq, Nq, D] and k, v [B, Hkv, Nk, D], got {shapes}.")
    if (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch or head_dim.")
    if not 1 <= q.shape[2] <= k.shape[2]:
        raise ValueError(f"{q.shape[2]} queries cannot end a sequence of {k.shape[2]} keys.")
