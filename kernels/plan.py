"""Which launch serves which head: the host side of a mixed attention call.

A policy is two integers per query head: `sink`, the first keys it always sees, and `window`, the
most recent keys it sees (its own included); a negative window means every key. Dense heads go to
the fastest dense backend, which wants regularly strided heads, so they are cut into as few
arithmetic progressions as possible: slices, never copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from headscope.kernels.backend import device_ints

Ints: TypeAlias = Sequence[int] | Tensor
"""Small integers: a sequence, or a tensor (reading one that lives on a GPU costs a sync)."""

EVERYTHING = 1 << 30  # a window no context reaches


@dataclass(frozen=True)
class DenseRun:
    """One dense launch: the KV heads `kv`, and in each group the query heads at `offsets`."""

    kv: range
    offsets: range


class DeviceTables(NamedTuple):
    """The plan as int32 tensors for a kernel: per query head, then per KV head."""

    every: Tensor  # 0 ... Hq - 1
    streaming: Tensor
    sink: Tensor
    window: Tensor
    group: Tensor  # 0 ... Hkv - 1
    group_sink: Tensor
    group_window: Tensor
    slot: Tensor  # place of the KV head among the dense, or among the streaming ones


@dataclass(frozen=True, eq=False)
class HeadPlan:
    """Launches of one layer. `sink` and `window` are per query head, dense windows EVERYTHING.

    `group_sink` and `group_window` are what a KV group must hold so that each of its query heads
    finds its keys; they are what a decode step reads. Plans are shared: equal policies give the
    same object.
    """

    dense: tuple[DenseRun, ...]
    streaming: tuple[int, ...]
    sink: tuple[int, ...]
    window: tuple[int, ...]
    group_sink: tuple[int, ...]
    group_window: tuple[int, ...]
    _tables: dict[torch.device, DeviceTables] = field(default_factory=dict)

    @cached_property
    def dense_groups(self) -> tuple[int, ...]:
        """KV heads with at least one dense query head, ascending."""
        return tuple(g for g, window in enumerate(self.group_window) if window == EVERYTHING)

    @cached_property
    def streaming_groups(self) -> tuple[int, ...]:
        """KV heads whose every query head streams, ascending: their old keys can be dropped."""
        return tuple(g for g, window in enumerate(self.group_window) if window != EVERYTHING)

    @cached_property
    def reach(self) -> int:
        """No streaming head, or group of them, sees more keys than this."""
        if not self.streaming:
            return 0
        return max(self.sink) + max(self.window[h] for h in self.streaming)

    def on(self, device: torch.device) -> DeviceTables:
        """The plan's tables on a device, copied there once."""
        if device not in self._tables:
            groups = range(len(self.group_sink))
            kinds = self.dense_groups, self.streaming_groups
            slot = [next(kind.index(g) for kind in kinds if g in kind) for g in groups]
            heads = range(len(self.sink)), self.streaming, self.sink, self.window
            rows = *heads, groups, self.group_sink, self.group_window, slot
            tensors = (torch.tensor(list(row), dtype=torch.int32, device=device) for row in rows)
            self._tables[device] = DeviceTables(*tensors)
        return self._tables[device]


def ints(values: Ints) -> tuple[int, ...]:
    """The values as a hashable tuple."""
    return tuple(values.tolist() if isinstance(values, Tensor) else values)


def plan_heads(sink: Ints, window: Ints, kv_heads: int, keys: int | None = None) -> HeadPlan:
    """Plan the heads of one layer; with `keys`, windows that reach every key count as dense.

    Raises:
        ValueError: lengths differ, do not divide into groups, or a sink or window is out of range.
    """
    plan = _checked_plan(ints(sink), ints(window), kv_heads)
    if keys is None or keys > plan.reach:
        return plan
    short = tuple(s + w >= keys for s, w in zip(plan.sink, plan.window, strict=True))
    return _plan(
        tuple(0 if d else s for s, d in zip(plan.sink, short, strict=True)),
        tuple(EVERYTHING if d else w for w, d in zip(plan.window, short, strict=True)),
        kv_heads,
    )


@lru_cache(maxsize=1024)
def _checked_plan(sink: tuple[int, ...], window: tuple[int, ...], kv_heads: int) -> HeadPlan:
    if len(sink) != len(window):
        raise ValueError(f"{len(sink)} sinks but {len(window)} windows; give one per query head.")
    if not sink or kv_heads < 1 or len(sink) % kv_heads:
        raise ValueError(f"{len(sink)} query heads cannot share {kv_heads} KV heads evenly.")
    if min(sink) < 0:
        raise ValueError(f"A sink size is negative ({min(sink)}); the smallest is 0.")
    if 0 in window:
        raise ValueError("A window of 0 sees nothing recent; use at least 1, or -1 for dense.")
    return _plan(
        tuple(0 if w < 0 else s for s, w in zip(sink, window, strict=True)),
        tuple(EVERYTHING if w < 0 else w for w in window),
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


def take(x: Tensor, heads: Sequence[int]) -> Tensor:
    """x[:, heads] for ascending heads: a view where they are evenly spaced, else a copy."""
    steps = {b - a for a, b in pairwise(heads)}
    if heads and len(steps) <= 1:
        return x[:, heads[0] : heads[-1] + 1 : steps.pop() if steps else 1]
    return x.index_select(1, device_ints(tuple(heads), x.device))


def check_shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless q [B, Hq, Nq, D] can attend k, v [B, Hkv, Nk, D] causally."""
    if q.dim() != 4 or k.dim() != 4 or k.shape != v.shape:
        shapes = [tuple(x.shape) for x in (q, k, v)]
        raise ValueError(f"Expected q [B, Hq, Nq, D] and k, v [B, Hkv, Nk, D], got {shapes}.")
    if (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise ValueError(f"q {tuple(q.shape)} and k {tuple(k.shape)} differ in batch or head_dim.")
    if not 1 <= q.shape[2] <= k.shape[2]:
        raise ValueError(f"{q.shape[2]} queries cannot end a sequence of {k.shape[2]} keys.")
