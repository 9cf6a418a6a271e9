"""How much a method's answer depends on which examples it saw, and on how many."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from headscope.probes.circuits.circuit import Circuit
from headscope.probes.circuits.discover import discover
from headscope.probes.circuits.grading import jaccard, recall, roc_auc
from headscope.probes.circuits.method import Progress
from headscope.probes.circuits.pairs import Pairs
from headscope.probes.geometry import HeadId

if TYPE_CHECKING:
    from headscope.probes.model import Model

COUNTS = (5, 10, 50, 250)


def stability(
    model: Model,
    task: Pairs,
    methods: Sequence[str],
    *,
    counts: Sequence[int] = COUNTS,
    seeds: Sequence[int] = (0, 1, 2),
    truth: Collection[HeadId] = (),
    top: int = 10,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    progress: Progress = lambda done, total: None,
) -> pd.DataFrame:
    """Find the circuit again on random draws of the prompts, at several numbers of them.

    Args:
        model: the model.
        task: prompts to draw from; numbers above half of them are left out, since draws would coincide.
        methods: names in `METHODS`.
        counts: numbers of prompts.
        seeds: one draw and one run of the method each.
        truth: heads known to matter.
        top: how many heads make the circuit.
        settings: of the methods, by name.
        progress: called with the runs done and all of them.

    Returns:
        A row for each method and number: `method`, `prompts`, `jaccard` (mean overlap over union of the
        top heads of two seeds), `seconds` (mean of a run), and, with a truth, `auc`, `auc_sd`, `recall`,
        `recall_sd` (mean and standard deviation over seeds).
    """
    fitting = [n for n in counts if 2 * n <= len(task.prompts)]
    rows, done, total = [], 0, len(methods) * len(fitting) * len(seeds)
    for method in methods:
        for count in fitting:
            runs, began = list[Circuit](), time.perf_counter()
            for seed in seeds:
                drawn = np.random.default_rng([seed, count]).choice(len(task.prompts), count, replace=False)
                some = Pairs(task.task, tuple(task.prompts[i] for i in drawn), task.accuracy, task.tried)
                chosen = (settings or {}).get(method)
                runs.append(discover(model, some, method=method, settings=chosen, seed=seed))
                done += 1
                progress(done, total)
            row: dict[str, Any] = {
                "method": method, "prompts": count, "jaccard": jaccard(run.top(top) for run in runs),
                "seconds": (time.perf_counter() - began) / len(seeds),
            }  # fmt: skip
            if truth:
                for name, grade in (("auc", roc_auc), ("recall", recall)):
                    grades = [grade(run, truth) for run in runs]
                    row |= {name: float(np.mean(grades)), f"{name}_sd": float(np.std(grades, ddof=1))}
            rows.append(row)
    return pd.DataFrame(rows)
