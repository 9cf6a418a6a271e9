"""Roles put to the test: what happens to the answers when a role's heads are taken away.

The masking experiment of Wu et al. 2024 (arXiv 2404.15574) for every role of a head map, with a
control that leaves the role's heads out, on prompts the scan has not seen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from headscope.heads import intervals
from headscope.heads.controls import random_heads
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.proof import HeadSet, Outcome, Proof, ProofMeta, curves
from headscope.heads.run import versions
from headscope.probes import (
    TASKS,
    HeadId,
    HeadscopeError,
    Model,
    Positions,
    Prompt,
    Spec,
    Variant,
    answers,
    each_head,
    fit,
    losses,
    only,
)

_UNSEEN = 1_000_003  # added to seeds, so that no prompt is one of the scan's
_TRIES = 3  # candidates per prompt wanted
_TEXTS, _TEXT_LENGTH = 4, 128


@dataclass(frozen=True)
class Trial:
    """How to test a map.

    Attributes:
        roles: which; all that some head has when empty.
        ks: how many of a role's heads to ablate together.
        method: `mean`, `zero`, `resample` or `uniform`.
        positions: `generated` ablates while the answer is written, as the paper's code does, and
            shares one prefill between all sets; `all` ablates everywhere and costs a prefill each.
        task: a task whose prompts have answers.
        length: of its prompts, in tokens.
        prompts: how many, all of which the untouched model answers right.
        draws: random head sets for each set.
        head_length, head_prompts: the prompts on which every head is ablated alone.
        seed: everything random follows from it.
    """

    roles: tuple[str, ...] = ()
    ks: tuple[int, ...] = (1, 2, 5, 10, 20)
    method: str = "mean"
    positions: Positions = "generated"
    task: str = "needle"
    length: int = 2048
    prompts: int = 10
    draws: int = 3
    head_length: int = 512
    head_prompts: int = 8
    seed: int = 0


def prove(
    model: Model,
    run: str | os.PathLike[str],
    trial: Trial | None = None,
    *,
    haystack: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Proof:
    """Test the roles of a run and write what was found into it.

    Adds `causal.parquet` (the curves) and, to `headmap.parquet`, the column `causal`. Curves of other
    roles that a test of the same settings has left there stay; a test of other settings is replaced.

    Args:
        model: the model that was scanned.
        run: its run folder.
        trial: how to test.
        haystack: text to hide needles in, in place of the default one.
        progress: called with the prompts done and all of them.

    Raises:
        Refused: the run is of another model.
        HeadscopeError: a role nobody has, a task without answers, no prompt answered right.
    """
    trial, folder = trial or Trial(), Path(run)
    headmap = HeadMap.open(folder)
    headmap.check(model)
    sets = head_sets(headmap, trial)
    total = trial.prompts + trial.head_prompts
    everything = fit(model, trial.method, heads=_all(model), seed=trial.seed + _UNSEEN)
    found, meta = _curves(model, everything, sets, trial, haystack, lambda n: progress(n, total))
    proof = Proof(found, meta)
    scores = _alone(model, everything, trial, haystack, lambda n: progress(trial.prompts + n, total))
    proof.joined(folder).save(folder)
    # Read again: something else may have added a column meanwhile.
    _annotate(HeadMap.open(folder), scores, trial).save(folder / "headmap.parquet")
    return proof


def head_sets(headmap: HeadMap, trial: Trial) -> list[HeadSet]:
    """The top heads of every role at every k, each followed by its controls.

    Raises:
        UnknownName: no such role.
        HeadscopeError: no role at all.
    """
    counts = {r: int(headmap.frame[headmap.rule(r).column].sum()) for r in headmap.roles}
    roles = trial.roles or tuple(r for r, count in counts.items() if count)
    if not roles:
        raise HeadscopeError("No head of this map has a label, so there is no role to test.")
    sets: list[HeadSet] = []
    for role in roles:
        mine = headmap.frame[headmap.frame[headmap.rule(role).column].astype(bool)]
        labelled = set(_heads(mine))
        for k in trial.ks:
            top = _heads(headmap.top(role, k))
            sets.append(_set(role, k, None, top, labelled))
            for draw in range(trial.draws):
                rng = np.random.default_rng([trial.seed, headmap.roles.index(role), k, draw])
                other = random_heads(top, headmap.meta.geometry.heads, labelled, rng)
                if other:
                    sets.append(_set(role, k, draw, other, labelled))
    return sets


def _set(role: str, k: int, draw: int | None, heads: Sequence[HeadId], labelled: set[HeadId]) -> HeadSet:
    return HeadSet(role, k, draw, tuple(heads), sum(h in labelled for h in heads))


def _heads(frame: pd.DataFrame) -> list[HeadId]:
    return [HeadId(int(a), int(b)) for a, b in zip(frame["layer"], frame["head"], strict=True)]


def _all(model: Model) -> list[HeadId]:
    return [HeadId(a, b) for a in range(model.geometry.layers) for b in range(model.geometry.heads)]


def _curves(
    model: Model,
    everything: Spec,
    sets: Sequence[HeadSet],
    trial: Trial,
    haystack: str | None,
    progress: Callable[[int], object],
) -> tuple[pd.DataFrame, ProofMeta]:
    chosen, asked = answered(model, trial, trial.length, trial.prompts, haystack)
    specs = [only(everything, s.heads) for s in sets]
    late = [s.model_copy(update={"positions": trial.positions}) for s in specs]
    variants: list[Variant] = [(), *((s,) for s in late)]
    found = answers(model, chosen, variants, progress)
    texts = TASKS["prose"].prompts(
        model.tokenizer,
        lengths=[_TEXT_LENGTH],
        per_length=_TEXTS,
        seed=trial.seed + _UNSEEN,
        haystack=haystack,
    )
    loss = losses(model, texts, [(), *((s,) for s in specs)])
    outcomes = [
        Outcome(~found.right[i], found.logprob[0] - found.logprob[i], loss[i] - loss[0])
        for i in range(1, len(variants))
    ]
    meta = ProofMeta(
        model=model.name, fingerprint=model.fingerprint, method=trial.method, positions=trial.positions,
        task=trial.task, length=trial.length, seed=trial.seed, asked=asked, prompts=len(chosen),
        draws=trial.draws, texts=_TEXTS, text_length=_TEXT_LENGTH, loss=float(loss[0].mean()),
        versions=versions(),
    )  # fmt: skip
    return curves(sets, outcomes, trial.seed), meta


def answered(
    model: Model, trial: Trial, length: int, count: int, haystack: str | None
) -> tuple[list[Prompt], int]:
    """`count` prompts that the untouched model answers right, and how many it was asked."""
    task = TASKS[trial.task]
    candidates = task.prompts(
        model.reader(task), lengths=[length], per_length=count * _TRIES, seed=trial.seed + _UNSEEN,
        haystack=haystack,
    )  # fmt: skip
    order = np.random.default_rng([trial.seed, length]).permutation(len(candidates))
    right: list[Prompt] = []
    for asked, i in enumerate(order, 1):
        if answers(model, [candidates[i]], [()]).right[0, 0]:
            right.append(candidates[i])
        if len(right) == count:
            return right, asked
    if not right:
        raise HeadscopeError(
            f"{model.name!r} answers none of {len(candidates)} {trial.task!r} prompts of {length} tokens "
            "right, so nothing can be lost; try shorter prompts or another task."
        )
    return right, len(candidates)


def _alone(
    model: Model, everything: Spec, trial: Trial, haystack: str | None, progress: Callable[[int], object]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Fall of the answer's log-probability when one head is ablated while it is written. [L * H] each"""
    prompts, _ = answered(model, trial, trial.head_length, trial.head_prompts, haystack)
    drop = each_head(model, prompts, everything, progress)
    return drop.mean(1), np.array([intervals.standard_error(d) for d in drop]), len(prompts)


def _annotate(headmap: HeadMap, scores: tuple[np.ndarray, np.ndarray, int], trial: Trial) -> HeadMap:
    """The map with the column `causal`; heads are in the order of `_all`."""
    value, error, prompts = scores
    shape = headmap.meta.geometry.layers, headmap.meta.geometry.heads
    info = ColumnInfo(
        about=f"fall of the answer's log-probability, nats per token, when the head alone is ablated "
        f"({trial.method}) while the answer is written",
        low=None, high=None, tasks=(trial.task,), prompts=prompts,
        source="after Wu et al. 2024 (arXiv 2404.15574), head by head",
    )  # fmt: skip
    return headmap.with_score("causal", value.reshape(shape), error.reshape(shape), info)
