"""Running a sweep: every way of choosing a policy at every budget, on the same prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from headscope.heads import intervals
from headscope.heads.certify import UNSEEN
from headscope.heads.choose import window_of
from headscope.heads.headmap import HeadMap
from headscope.heads.policy import Policy
from headscope.heads.quality import Answer, answer, share
from headscope.heads.ranking import best_ranking
from headscope.heads.run import versions
from headscope.heads.sweeps import Sweep, SweepMeta
from headscope.probes import TASKS, HeadscopeError, Model


@dataclass(frozen=True)
class Grid:
    """What to sweep.

    Attributes:
        by: rankings; None takes the best the map has, `error`, `retrieval` and `random`, as far as
            the map has them.
        budgets: shares of the KV bytes at `length`.
        draws: random head sets.
        task, length, prompts: what is asked.
        sink, recent: what streaming groups keep; None as `HeadMap.policy` does.
        seed: of the prompts.
    """

    by: tuple[str, ...] | None = None
    budgets: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
    draws: int = 3
    task: str = "needle"
    length: int = 2048
    prompts: int = 12
    sink: int | None = None
    recent: int | None = None
    seed: int = 0


def sweep(
    model: Model,
    headmap: HeadMap,
    grid: Grid | None = None,
    *,
    haystack: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Sweep:
    """Measure how much is still right at each budget, for each way of choosing heads.

    Args:
        model: the model that was scanned.
        headmap: its map.
        grid: what to sweep.
        haystack: text to hide needles in, in place of the default one.
        progress: called with the prompts done and all of them.

    Raises:
        Refused: the map is of another model.
        HeadscopeError: no prompt is answered right even with full attention.
    """
    grid = grid or Grid()
    if headmap.meta.fingerprint:  # an imported map has none
        headmap.check(model)
    arms = sweep_policies(headmap, grid)
    task = TASKS[grid.task]
    asked = task.prompts(
        model.reader(task), lengths=[grid.length], per_length=grid.prompts, seed=grid.seed + UNSEEN,
        haystack=haystack,
    )  # fmt: skip
    full: list[Answer] = []
    cut: list[list[Answer]] = [[] for _ in arms]
    for done, prompt in enumerate(asked, 1):
        full.append(answer(model, None, prompt))
        for (_, _, _, policy), found in zip(arms, cut, strict=True):
            found.append(answer(model, policy, prompt))
        progress(done, len(asked))
    if not any(a.right for a in full):
        raise HeadscopeError(
            f"{model.name!r} answers none of the {len(asked)} {grid.task} prompts of {grid.length} tokens "
            "right, so there is nothing to keep; try a shorter length or another task."
        )
    rows = [
        {"by": by, "draw": draw, "budget": budget} | _point(policy, grid.length, full, found)
        for (by, draw, budget, policy), found in zip(arms, cut, strict=True)
    ]
    window = window_of(headmap, grid.sink, grid.recent)
    meta = SweepMeta(
        model=model.name, fingerprint=model.fingerprint, task=grid.task, length=grid.length,
        asked=len(full), right=sum(a.right for a in full),
        accuracy=sum(a.right for a in full) / len(full),
        logprob=float(np.mean([a.logprob for a in full])), sink=window.sink, recent=window.recent,
        seed=grid.seed, versions=versions(),
    )  # fmt: skip
    return Sweep(pd.DataFrame(rows), meta)


def sweep_policies(headmap: HeadMap, grid: Grid) -> list[tuple[str, int, float, Policy]]:
    """Every policy of a sweep: its ranking, its draw, its budget."""
    ways = grid.by or _ways(headmap, grid)
    return [
        (by, draw, budget, headmap.policy(
            kv_budget=budget, by=by, sink=grid.sink, recent=grid.recent, context=grid.length, seed=draw
        ))
        for by in ways
        for draw in range(grid.draws if by == "random" else 1)
        for budget in grid.budgets
    ]  # fmt: skip


def _ways(headmap: HeadMap, grid: Grid) -> tuple[str, ...]:
    best = best_ranking(headmap, window_of(headmap, grid.sink, grid.recent))
    needs = {"error": "group_cut_error", "retrieval": "retrieval"}
    others = [by for by, column in needs.items() if column in headmap.frame]
    return tuple(dict.fromkeys([best, *others, "random"]))


def _point(policy: Policy, length: int, full: Sequence[Answer], cut: Sequence[Answer]) -> dict[str, float]:
    kept = share([b.right for a, b in zip(full, cut, strict=True) if a.right])
    drop = np.array([a.logprob - b.logprob for a, b in zip(full, cut, strict=True)])
    return {
        "kv_share": policy.kv_share(length), "full_share": policy.full_share,
        "kept": kept.value, "kept_low": kept.low, "kept_high": kept.high,
        "accuracy": sum(b.right for b in cut) / len(cut),
        "logprob_drop": float(drop.mean()), "logprob_drop_se": intervals.standard_error(drop),
    }  # fmt: skip
