"""Which KV groups need full attention most: one score per group, by several methods.

A cache can drop a group's old keys only if none of its query heads needs them, so scores live on
groups. A missing score (the map has none there) counts as the highest: what is not known is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headscope.heads.policy import Window
from headscope.probes import HeadscopeError, unknown

if TYPE_CHECKING:
    from headscope.heads.headmap import HeadMap

Scores: TypeAlias = NDArray[np.float64]
"""One score per KV group, higher = rather keep everything. [L, Hkv]"""

DEFAULT = Window(sink=64, recent=256)  # what DuoAttention deploys
INDUCTION_SHARE, ECHO_SHARE = 0.14, 0.01


def loss(headmap: HeadMap, window: Window) -> Scores:
    """Nats of the answer's log-probability lost when the group streams (`attribute` measures them)."""
    column = loss_column(window)
    if column not in headmap.frame:
        raise HeadscopeError(
            f"This head map has no {column} column, so its KV groups cannot be ranked by what streaming "
            f"costs: run headscope attribute with --sink {window.sink} --recent {window.recent}, or choose "
            "another ranking."
        )
    return per_group(headmap, column)


def loss_column(window: Window) -> str:
    """Where `attribute` puts what it measured for a window."""
    return f"streaming_loss_{window.sink}_{window.recent}"


def error(headmap: HeadMap, window: Window) -> Scores:
    """What a layer's output loses when the group streams, the worst head as guard.

    The larger of two relative errors: that of the summed contribution of the group's heads through
    W_O (errors of heads add or cancel, so the sum is what the layer loses), and that of its worst
    single head (a cancellation seen on a few prompts is no promise). Read on ordinary rows and
    on rows that write an answer, whichever is larger. Training-free.
    """
    columns = ("group_cut_error", "group_cut_error_answer", "cut_error", "cut_error_answer")
    found = [per_group(headmap, name) for name in columns if name in headmap.frame]
    if not any(name in headmap.frame for name in columns[:2]):
        raise HeadscopeError(
            "This head map has no group_cut_error column, so its KV groups cannot be ranked by error; "
            "scan with prompts of more than 384 tokens, or choose another ranking."
        )
    return np.fmax.reduce(found)


def gate(headmap: HeadMap, window: Window) -> Scores:
    """DuoAttention's trained gate (Xiao et al. 2024, arXiv 2410.10819). Needs a map with `gate`."""
    if "gate" not in headmap.frame:
        raise HeadscopeError(
            "This head map has no gate column: headscope gates trains gates and writes a run of its own, "
            "to choose from in this one's place."
        )
    return per_group(headmap, "gate")


def retrieval(headmap: HeadMap, window: Window) -> Scores:
    """The retrieval score of the group's best head (Wu et al. 2024, arXiv 2404.15574)."""
    return per_group(headmap, "retrieval")


def razor(headmap: HeadMap, window: Window) -> Scores:
    """RazorAttention's two lists (Tang et al. 2024, arXiv 2407.15891) as one ranking.

    It keeps the best 14% of KV groups by induction and the best 1% by echo. Growing both shares in
    that proportion, a group enters at a multiple m of them; the score is -m, so that -1 cuts at
    the published shares.
    """
    entered = [
        _rank_share(per_group(headmap, column)) / share
        for column, share in (("induction", INDUCTION_SHARE), ("echo", ECHO_SHARE))
    ]
    return -np.minimum(*entered)


RANKINGS: dict[str, Callable[[HeadMap, Window], Scores]] = {
    function.__name__: function for function in (loss, error, gate, retrieval, razor)
}


def best_ranking(headmap: HeadMap, window: Window) -> str:
    """The ranking to use where none is asked for: `loss` where it was measured, `gate` on a map that
    has nothing else, else `error`."""
    if loss_column(window) in headmap.frame:
        return "loss"
    return "gate" if "gate" in headmap.frame and "group_cut_error" not in headmap.frame else "error"


def rank(headmap: HeadMap, by: str, window: Window = DEFAULT, seed: int = 0) -> Scores:
    """Score every KV group.

    Args:
        headmap: where the scores come from.
        by: a name in `RANKINGS`; `random`, the control; or any score column of which high values
            speak for full attention (the group's highest head counts).
        window: what a streaming group will keep.
        seed: seed of `random`.

    Raises:
        UnknownName: neither a ranking nor a column of this map.
    """
    if by == "random":
        g = headmap.meta.geometry
        return np.random.default_rng(seed).random((g.layers, g.kv_heads))
    if by in RANKINGS:
        return RANKINGS[by](headmap, window)
    if by not in headmap.meta.columns:
        raise unknown("ranking or score", by, {*RANKINGS, "random", *headmap.meta.columns})
    return per_group(headmap, by)


def per_group(headmap: HeadMap, column: str) -> Scores:
    """The highest score among a group's heads; NaN where all are undefined. [L, Hkv]"""
    g = headmap.meta.geometry
    if column not in headmap.frame:
        raise unknown("score column", column, headmap.meta.columns)
    grid = headmap.grid(column).to_numpy(np.float64)
    return np.asarray(np.fmax.reduce(grid.reshape(g.layers, g.kv_heads, g.group_size), axis=-1))


def _rank_share(scores: Scores) -> Scores:
    """Share of groups that score at least as high, ties by layer and head. 0 < share <= 1"""
    place = np.empty(scores.size)
    place[descending(scores)] = np.arange(1, scores.size + 1)
    return place.reshape(scores.shape) / scores.size


def descending(scores: Scores) -> NDArray[np.int64]:
    """Flat indices of the groups, highest score first, unknown ones before all, ties by layer and head."""
    flat = np.where(np.isnan(scores), np.inf, scores).reshape(-1)
    return np.argsort(-flat, kind="stable")
