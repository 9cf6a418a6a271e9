"""DuoAttention's table of one score per KV group, which three programs read.

Each of them keeps whole the share of KV groups with the highest scores, so a table carries an order,
and a policy is the table of ones and zeros whose share is the policy's own.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headscope.heads.exchange import Options
from headscope.heads.foreign import bad, check_size, read_text
from headscope.heads.headmap import HeadMap
from headscope.heads.losses import Loss, compute_loss, one_window
from headscope.heads.policy import Policy, Window
from headscope.heads.ranking import DEFAULT, per_group, rank
from headscope.probes import HeadscopeError, unknown

_PREFERRED = ("gate", "error")  # a column of DuoAttention's own kind, or headscope's ranking
SETTINGS = ("sink_size", "recent_size")


def read_table_text(path: Path) -> NDArray[np.float64]:
    """A tab-separated table of finite numbers. [L, Hkv]

    Raises:
        BadFile: not such a table.
    """
    lines = read_text(path).removesuffix("\n").split("\n")
    rows = [line.removesuffix("\r").split("\t") for line in lines]
    width = len(rows[0])
    check_size(path, len(rows), width)
    table = np.empty((len(rows), width))
    for i, row in enumerate(rows):
        if len(row) != width:
            bad(path, f"has {len(row)} values in line {i + 1} and {width} in line 1")
        for j, field in enumerate(row):
            table[i, j] = _number(path, field, i + 1)
    return table


def table_text(table: NDArray[np.float64]) -> str:
    """The table as numpy's `savetxt` writes it, tab-separated, to the last bit. [L, Hkv]"""
    return "".join("\t".join(f"{value:.18e}" for value in row) + "\n" for row in table)


def table_of_map(headmap: HeadMap, options: Options) -> tuple[NDArray[np.float64], tuple[Loss, ...]]:
    """A score of every KV group, for programs that clip it to 0 ... 1. [L, Hkv]

    Scores far outside that range give way to their ranks, which keep the order: clipping would tie
    them. Groups without a score count as the highest.

    Raises:
        HeadscopeError: the map has no score of that kind and none was named.
    """
    name = options.score or next((n for n in _PREFERRED if _has(headmap, n)), None)
    if name is None:
        known = ", ".join(headmap.meta.columns) or "none"
        raise HeadscopeError(
            f"This head map has neither gates nor cut errors; name a score that is higher where a head "
            f"needs full attention, with --score. Known: {known}."
        )
    table = _scores(headmap, name)
    losses = []
    if name in headmap.frame and _differs(headmap, name):
        losses.append(Loss(f"Query heads of a KV group share one entry, the highest {name} of them"))
    table = np.where(np.isnan(table), max(1.0, float(np.nanmax(table, initial=0.0))), table)
    if table.min() < -0.01 or table.max() > 1.01:
        values, place = np.unique(table, return_inverse=True)
        table = place.reshape(table.shape) / max(len(values) - 1, 1)
        losses.append(Loss(f"{name} leaves 0 ... 1, so its ranks stand in its place"))
    tied = _tied(table, stream_share(headmap))
    if tied:
        where = f"tie at the cut of {stream_share(headmap):g}"
        text = f"The reader picks by chance among {tied} of {table.size} KV groups, whose scores {where}"
        losses.append(Loss(text, None))
    return table, tuple(losses)


def table_of_policy(policy: Policy) -> tuple[NDArray[np.float64], Window, float, tuple[Loss, ...]]:
    """Ones for groups that keep everything, zeros for the rest. [L, Hkv]

    Returns:
        The table, the common window, the share of zeros (with which every reader finds exactly
        these groups again), and what is lost.
    """
    table = np.array([[float(span is None) for span in row] for row in policy.retain])
    window, losses = one_window(policy)
    return table, window, 1 - float(table.mean()), (*losses, *compute_loss(policy))


def stream_share(headmap: HeadMap) -> float:
    """The share of KV groups that DuoAttention lets stream: half of them, 3/4 without grouping."""
    return 0.5 if headmap.meta.geometry.group_size > 1 else 0.75


def window_of(headmap: HeadMap) -> Window:
    """The window that came with an imported map, else the one headscope measures with."""
    sink, recent = (headmap.meta.settings.get(name) for name in SETTINGS)
    if isinstance(sink, int) and isinstance(recent, int) and 0 <= sink < 1 << 30 and 1 <= recent < 1 << 30:
        return Window(sink=sink, recent=recent)
    return DEFAULT


def _has(headmap: HeadMap, name: str) -> bool:
    return name in headmap.meta.columns or (name == "error" and "group_cut_error" in headmap.frame)


def _scores(headmap: HeadMap, name: str) -> NDArray[np.float64]:
    if name not in headmap.meta.columns and name != "error":
        raise unknown("score", name, headmap.meta.columns)
    return rank(headmap, name) if name == "error" else per_group(headmap, name)


def _differs(headmap: HeadMap, name: str) -> bool:
    """Whether query heads of one group have different scores."""
    g = headmap.meta.geometry
    heads = headmap.grid(name).to_numpy(np.float64).reshape(g.layers, g.kv_heads, -1)
    return bool((np.nan_to_num(heads) != np.nan_to_num(heads[..., :1])).any())


def _tied(table: NDArray[np.float64], share: float) -> int:
    """How many groups have the score at which the cut falls, if it falls between equals."""
    flat = np.sort(np.clip(table, 0, 1).reshape(-1))
    cut = round(share * flat.size)
    if not 0 < cut < flat.size or flat[cut - 1] != flat[cut]:
        return 0
    return int((flat == flat[cut]).sum())


def _number(path: Path, field: str, line: int) -> float:
    try:
        value = float(field.replace("_", "?"))  # Python alone reads 1_000 as a number
    except ValueError:
        bad(path, f"has {field[:30]!r} in line {line}, not a number")
    if not math.isfinite(value):
        bad(path, f"has {field[:30]!r} in line {line}, not a finite number")
    return value
