"""Retrieval heads (Wu et al. 2024, arXiv 2404.15574): heads that copy a fact out of a long context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from headscope.heads.detect import DETECTORS, Reading
from headscope.heads.headmap import ColumnInfo
from headscope.heads.rules import Condition, Rule
from headscope.probes import Geometry, Observation, over_prompts

_SOURCE = "Wu et al. 2024 (arXiv 2404.15574)"
_OTHER_TASKS = ("passkey", "keyvalue")


def copied(seen: Observation) -> NDArray[np.bool_]:
    """Whether a head copies the token: [L, H, answer rows].

    A head copies the answer token w when, in the row that predicts w, its heaviest key lies in
    the needle and holds w.
    """
    start, stop = seen.prompt.spans["needle"]
    ids = np.asarray(seen.prompt.ids)
    assert seen.prompt.answer is not None
    key = seen.exact["top_key"][..., 0]
    inside = (key >= start) & (key < stop)
    return np.asarray(inside & (ids[key] == ids[slice(*seen.prompt.answer)]))


def set_score(seen: Observation) -> NDArray[np.float64]:
    """|g ∩ k| / |k|: distinct copied tokens g over distinct needle tokens k that the answer repeats.

    The paper's definition. 0 ... 1. [L, H]
    """
    start, stop = seen.prompt.answer or (0, 0)
    tokens = np.asarray(seen.prompt.ids[start:stop])
    hit = copied(seen)
    distinct = np.unique(tokens)
    found = np.stack([hit[..., tokens == token].any(-1) for token in distinct], -1)
    return np.asarray(found.sum(-1) / len(distinct))


def sum_score(seen: Observation) -> NDArray[np.float64]:
    """Copies per needle token, repeated ones counted again: what the published code computes.

    Every decode step that copies adds 1 / (needle tokens that the answer repeats); above 1 when
    a token is copied more often than it stands in the needle. [L, H]
    """
    start, stop = seen.prompt.spans["value"]
    return np.asarray(copied(seen).sum(-1) / (stop - start))


def mass_score(seen: Observation) -> NDArray[np.float64]:
    """Mean mass on the needle's value over the rows that predict it: graded, less noisy. 0 ... 1"""
    return np.asarray(seen.exact["span_value"].mean(-1), np.float64)


_VARIANTS: dict[str, tuple[Callable[[Observation], NDArray[np.float64]], float | None, str]] = {
    "retrieval": (set_score, 1.0, "share of the needle's distinct answer tokens that the head copies"),
    "retrieval_sum": (sum_score, None, "copies per needle token, repeats counted, as published code does"),
    "retrieval_mass": (mass_score, 1.0, "mean attention on the needle's value while the answer is written"),
}


@DETECTORS.register
class Retrieval:
    """Scores over prompts that the model answers right; expect few heads, in upper-middle layers."""

    name = "retrieval"
    summary = "heads whose heaviest key, while the answer is written, is the token to copy"
    rules = (
        Rule(
            role="retrieval",
            score="retrieval",
            all_of=(Condition(column="retrieval", op=">=", threshold=0.1),),
            source=_SOURCE,
        ),
    )

    def read(self, seen: Sequence[Observation], geometry: Geometry) -> Reading:
        scores, about = {}, {}
        needles = _right(seen, "needle")
        for name, (score, high, text) in _VARIANTS.items() if needles else ():
            scores[name] = over_prompts([score(o) for o in needles])
            about[name] = ColumnInfo(
                about=text, high=high, tasks=("needle",), prompts=len(needles), source=_SOURCE
            )
        for task in _OTHER_TASKS:
            right = _right(seen, task)
            if right:
                scores[f"retrieval_{task}"] = over_prompts([set_score(o) for o in right])
                about[f"retrieval_{task}"] = ColumnInfo(
                    about=f"the retrieval score on {task} prompts", tasks=(task,), prompts=len(right),
                    source=_SOURCE,
                )  # fmt: skip
        return Reading(scores, about)


def _right(seen: Sequence[Observation], task: str) -> list[Observation]:
    return [o for o in seen if o.prompt.task == task and o.right]
