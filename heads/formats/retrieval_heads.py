"""The score lists of the retrieval-head paper: `{"16-19": [0.9, 1, ...], ...}` (Wu et al. 2024).

Per query head one score for every prompt that the model answered; a score sums over decode steps, so
it may pass 1. The file says neither which prompts they were nor the model's shape beyond the names.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.foreign import bad, check_size, head_id, is_number, read_foreign_json
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.imported import Content, Known, Score
from headscope.heads.losses import Loss, counted
from headscope.heads.rules import Condition, Rule
from headscope.probes import HeadscopeError, unknown

_LIMIT = 64 << 20  # bytes: 5,000 heads with 600 scores each
_SOURCE = "Wu et al. 2024 (arXiv 2404.15574), as its published code computes it"
_RULE = Rule(
    role="retrieval", score="retrieval_sum",
    all_of=(Condition(column="retrieval_sum", op=">=", threshold=0.1),), source=_SOURCE,
)  # fmt: skip


def read(path: Path, known: Known) -> Content:
    """Mean and standard error of every head's list."""
    found = read_foreign_json(path, _LIMIT)
    if not isinstance(found, dict) or not found:
        bad(path, "must hold a list of scores for every head, by names like 16-19")
    lists = {head_id(path, name): _scores(path, name, scores) for name, scores in found.items()}
    if len(lists) < len(found):
        bad(path, "names a head twice")
    layers, heads = (1 + max(each[i] for each in lists) for i in (0, 1))
    check_size(path, layers, heads)
    if len(lists) != layers * heads:
        bad(path, f"has {len(lists)} heads, which {layers} layers of {heads} heads do not make")
    geometry = known.geometry(path, layers=layers, heads=heads)
    mean, error = np.empty((layers, heads)), np.full((layers, heads), np.nan)
    for at, scores in lists.items():
        mean[at] = scores.mean()
        if len(scores) > 1:
            error[at] = scores.std(ddof=1) / np.sqrt(len(scores))
    info = ColumnInfo(
        about="copies per needle token, repeats counted, as published code does",
        high=None, tasks=("needle",), prompts=max(len(s) for s in lists.values()), source=_SOURCE,
    )  # fmt: skip
    score = Score(mean, info, error)
    return Content(known.model or path.stem, geometry, {"retrieval_sum": score}, rules=(_RULE,))


def _scores(path: Path, name: str, scores: object) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if not isinstance(scores, list) or not scores:
        bad(path, f"must give head {name} a list of scores; no prompt may have been answered")
    for score in scores:
        if not is_number(score):
            bad(path, f"has {str(score)[:40]!r} among the scores of head {name}, not a finite number")
    return np.asarray(scores, np.float64)


def from_map(headmap: HeadMap, path: Path, options: Options) -> Exported:
    """One score per head: `retrieval_sum`, what the file's readers expect, unless another is named."""
    name = options.score or next((n for n in ("retrieval_sum", "retrieval") if n in headmap.frame), None)
    if name is None:
        raise HeadscopeError(
            "This head map has no retrieval score; scan with needle prompts that the model answers, "
            "or name a score with --score."
        )
    if name not in headmap.meta.columns:
        raise unknown("score", name, headmap.meta.columns)
    rows = headmap.frame[["layer", "head", name]].dropna()
    losses = [Loss("Each head has the mean of its prompts as its only score; standard errors stay behind")]
    if len(rows) < len(headmap.frame):
        losses.append(Loss(f"0 stands for {counted(len(headmap.frame) - len(rows), 'head')} without a score"))
    scored = {(int(i), int(j)): float(s) for i, j, s in rows.itertuples(index=False)}
    lists = {
        f"{i}-{j}": [scored.get((int(i), int(j)), 0.0)]
        for i, j in headmap.frame[["layer", "head"]].itertuples(index=False)
    }
    return Exported(
        {"": json.dumps(lists)}, tuple(losses), f"head_list = json.loads(open({str(path)!r}).readline())"
    )


FORMATS.add(
    Format("retrieval-heads", "score lists of the retrieval-head paper", read, from_map, takes=("score",))
)  # fmt: skip
