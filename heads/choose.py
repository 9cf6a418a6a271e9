"""From scores to a policy: how many KV groups stay full, and which heads inside them still stream."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headscope.heads.policy import Origin, Policy, Span, Window
from headscope.heads.ranking import DEFAULT, Scores, best_ranking, descending, loss_column, rank
from headscope.probes import Geometry, HeadscopeError, unknown

if TYPE_CHECKING:
    from headscope.heads.headmap import HeadMap


def choose(
    headmap: HeadMap,
    *,
    ratio: float | None = None,
    kv_budget: float | None = None,
    max_error: float | None = None,
    by: str | None = None,
    sink: int | None = None,
    recent: int | None = None,
    context: int | None = None,
    seed: int = 0,
    compute: str = "group",
) -> Policy:
    """Choose the KV groups that keep everything; see `HeadMap.policy`.

    Raises:
        HeadscopeError: not exactly one of the three limits, or a value out of its range.
        UnknownName: an unknown ranking.
    """
    _check(ratio, kv_budget, max_error, sink, recent, context, compute)
    g, window = headmap.meta.geometry, window_of(headmap, sink, recent)
    by = by or best_ranking(headmap, window)
    if compute == "head" and by != "error":
        raise HeadscopeError(
            f"compute='head' compares errors of single heads, so it needs by='error', not {by!r}."
        )
    length = context or headmap.meta.context or g.context
    scores = rank(headmap, by, window, seed)
    free = np.array([w is None for w in g.windows])
    order = descending(scores)
    order = order[free[order // g.kv_heads]]
    if ratio is not None:
        count = math.floor(ratio * len(order) + 0.5)
    elif kv_budget is not None:
        count = _affordable(g, order, window, kv_budget, length)
    else:  # a NaN is not at most anything: it stays full
        count = int((~(scores.reshape(-1)[order] <= max_error)).sum())
    full = np.ones(scores.size, bool)
    full[order[count:]] = False
    retain = tuple(tuple(None if f else window for f in row) for row in full.reshape(scores.shape))
    return Policy(
        model=headmap.meta.model, fingerprint=headmap.meta.fingerprint, geometry=g, retain=retain,
        compute=_compute(headmap, retain, scores, window, compute),
        scores=tuple(
            tuple(float(s) if f and np.isfinite(s) else None for s in row)
            for row, f in zip(scores, free, strict=True)
        ),
        origin=Origin(
            by=by, ratio=ratio, kv_budget=kv_budget, max_error=max_error,
            context=length if kv_budget is not None else None,
            seed=seed if by == "random" else None,
            source=f"{headmap.meta.preset} map of {headmap.meta.model}".strip(),
            fingerprint=hashlib.sha256(scores.tobytes()).hexdigest()[:16],
        ),
    )  # fmt: skip


def window_of(headmap: HeadMap, sink: int | None, recent: int | None) -> Window:
    """The window asked for; else the only one whose loss was measured, else DuoAttention's."""
    if sink is None and recent is None:
        prefix = loss_column(DEFAULT).rsplit("_", 2)[0] + "_"
        found = [c.removeprefix(prefix).split("_") for c in headmap.meta.columns if c.startswith(prefix)]
        if len(found) == 1:
            return Window(sink=int(found[0][0]), recent=int(found[0][1]))
    return Window(
        sink=DEFAULT.sink if sink is None else sink, recent=DEFAULT.recent if recent is None else recent
    )


def _affordable(g: Geometry, order: NDArray[np.int64], window: Window, budget: float, length: int) -> int:
    """How many of the ranked groups can stay full within `budget` of the KV bytes.

    Raises:
        HeadscopeError: not even a policy that streams everywhere fits.
    """
    limits = np.array([min(length, w or length) for w in g.windows])
    whole = np.repeat(limits, g.kv_heads)
    cut = np.minimum(whole, window.keys)
    # Groups of layers with a window of their own are not ranked: they keep what the model gives them.
    least = whole.sum() - (whole - cut)[order].sum()
    if least > budget * whole.sum():
        raise HeadscopeError(
            f"kv_budget is {budget:g}, but sink + recent ({window.keys} keys) alone take "
            f"{least / whole.sum():.3f} of the KV bytes at {length} tokens; raise it or shrink the windows."
        )
    spent = least + np.cumsum((whole - cut)[order])
    return int((spent <= budget * whole.sum() * (1 + 1e-12)).sum())


def _compute(
    headmap: HeadMap, retain: tuple[tuple[Span, ...], ...], scores: Scores, window: Window, level: str
) -> tuple[tuple[Span, ...], ...]:
    """What every query head reads: what its group keeps, or less where the head alone needs less.

    A head of a full group streams if its own error is at most the highest that a streaming group
    was allowed, so that both levels stand under one threshold.
    """
    g = headmap.meta.geometry
    by_group = tuple(tuple(row[g.kv_head(h)] for h in range(g.heads)) for row in retain)
    cut = [s for row, kept in zip(scores, retain, strict=True) for s, k in zip(row, kept, strict=True) if k]
    if level == "group" or not cut:
        return by_group
    alone = np.fmax.reduce([
        headmap.grid(name).to_numpy(np.float64)
        for name in ("cut_error", "cut_error_answer") if name in headmap.frame
    ])  # fmt: skip
    less = np.array([[w is None] for w in g.windows]) & (alone <= max(cut))
    # Someone must read what a full group keeps: its worst head does.
    worst = alone.reshape(g.layers, g.kv_heads, -1).argmax(-1)
    np.put_along_axis(less.reshape(g.layers, g.kv_heads, -1), worst[..., None], False, -1)
    return tuple(
        tuple(window if span is None and s else span for span, s in zip(row, streams, strict=True))
        for row, streams in zip(by_group, less, strict=True)
    )


def _check(
    ratio: float | None,
    kv_budget: float | None,
    max_error: float | None,
    sink: int | None,
    recent: int | None,
    context: int | None,
    compute: str,
) -> None:
    limits = {"ratio": ratio, "kv_budget": kv_budget, "max_error": max_error}
    given = [name for name, value in limits.items() if value is not None]
    if len(given) != 1:
        raise HeadscopeError(
            f"Give exactly one of ratio, kv_budget and max_error, not {', '.join(given) or 'none of them'}."
        )
    for name in ("ratio", "kv_budget"):
        value = limits[name]
        if value is not None and not 0 <= value <= 1:
            raise HeadscopeError(f"{name} is {value:g}; it is a share, 0 ... 1.")
    if max_error is not None and not math.isfinite(max_error):
        raise HeadscopeError(f"max_error is {max_error}; it must be a finite number.")
    if sink is not None and sink < 0:
        raise HeadscopeError(f"sink is {sink}; it counts keys, 0 or more.")
    if recent is not None and recent < 1:
        raise HeadscopeError(f"recent is {recent}; it counts keys, the query's own included: 1 or more.")
    if context is not None and context < 1:
        raise HeadscopeError(f"context is {context}; it counts tokens, 1 or more.")
    if compute not in ("group", "head"):
        raise unknown("compute level", compute, ["group", "head"])
