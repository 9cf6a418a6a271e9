"""MInference: per layer and query head a pattern, its two sizes and a score (Jiang et al. 2024).

The score's direction differs from file to file: whole numbers count outputs that changed (lower is
better), fractions are the attention kept (higher is better). It is a record of the search; the
program itself does not read it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.foreign import bad, is_number, read_foreign_json
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.imported import Content, Known, Score
from headscope.heads.losses import Loss
from headscope.heads.policy import Policy, Span
from headscope.probes import HeadscopeError

PATTERNS = ("stream_llm", "vertical_and_slash", "block_sparse")
_SOURCE = "MInference, Jiang et al. 2024 (arXiv 2407.02490)"
_ALL = 1 << 30  # a local window longer than any prompt: its kernel then computes dense attention
_DIRECTIONS = {
    "pattern_error": "outputs that the head's sparse pattern changes, lower is better",
    "pattern_recall": "attention that the head's sparse pattern keeps, higher is better",
    "pattern_score": "score of the head's sparse pattern; the file does not tell its direction",
}
_NOTES = ("pattern", "pattern_first", "pattern_second")


def read(path: Path, known: Known) -> Content:
    """The list of layers."""
    layers = read_foreign_json(path)
    if not isinstance(layers, list) or not layers or not all(isinstance(x, dict) and x for x in layers):
        bad(path, "must hold a list with the heads of every layer by number")
    width = len(layers[0])
    geometry = known.geometry(path, layers=len(layers), heads=width)
    entries = [[_entry(path, heads, i, j, width) for j in range(width)] for i, heads in enumerate(layers)]
    kinds = [[entry[0] for entry in row] for row in entries]
    first, second, scores = (
        np.array([[float(entry[i]) for entry in row] for row in entries]) for i in (1, 2, 3)
    )
    name = _direction([entry[3] for row in entries for entry in row])
    info = ColumnInfo(about=_DIRECTIONS[name], high=None, source=_SOURCE)
    notes = dict(zip(_NOTES, (np.array(kinds), first, second), strict=True))
    return Content(known.model or path.stem, geometry, {name: Score(scores, info)}, notes)


def _entry(path: Path, heads: dict[str, Any], layer: int, head: int, width: int) -> tuple[str, int, int, Any]:
    entry = heads.get(str(head))
    if len(heads) != width or entry is None:
        bad(path, f"must have heads 0 to {width - 1} in every layer, and layer {layer} has others")
    where = f"in layer {layer}, head {head}"
    if not isinstance(entry, list) or len(entry) != 4:
        bad(path, f"must give a pattern, two sizes and a score, but does not {where}")
    kind, first, second, score = entry
    if kind not in PATTERNS:
        bad(path, f"has the pattern {str(kind)[:40]!r} {where}; known: {', '.join(PATTERNS)}")
    for size in (first, second):
        if not is_number(size) or not isinstance(size, int) or not 0 <= size < 1 << 40:
            bad(path, f"has the size {str(size)[:40]} {where}, not a whole number")
    if not is_number(score):
        bad(path, f"has the score {str(score)[:40]!r} {where}, not a finite number")
    return kind, first, second, score


def _direction(scores: list[int | float]) -> str:
    if all(isinstance(score, int) and score >= 0 for score in scores):
        return "pattern_error"
    # A recall may round up past 1 by a little.
    return "pattern_recall" if all(0 <= score <= 1.01 for score in scores) else "pattern_score"


def from_map(headmap: HeadMap, path: Path, options: Options) -> Exported:
    """A map that came from such a file, as it was."""
    name = next((n for n in _DIRECTIONS if n in headmap.frame), None)
    if name is None or not set(_NOTES) <= set(headmap.frame):
        raise HeadscopeError(
            "minference files hold a sparse pattern for every query head, and this head map has none; "
            "give --ratio, or export a policy of it (HeadMap.policy)."
        )
    whole = name == "pattern_error"
    rows: list[dict[str, list[Any]]] = [{} for _ in range(headmap.meta.geometry.layers)]
    for layer, head, kind, first, second, score in headmap.frame[["layer", "head", *_NOTES, name]].itertuples(
        index=False
    ):
        rows[layer][str(head)] = [kind, int(first), int(second), int(score) if whole else float(score)]
    return Exported({"": json.dumps(rows)}, (), _usage(path, headmap.meta.model))


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """What every query head reads, as `stream_llm`: its window, or one that holds everything."""
    rows = [{str(head): _pattern(span) for head, span in enumerate(layer)} for layer in policy.compute]
    text = "Only prefill is sparse: every KV group keeps all its keys, and decoding reads them all"
    return Exported({"": json.dumps(rows)}, (Loss(text),), _usage(path, policy.model))


def _pattern(span: Span) -> list[Any]:
    return ["stream_llm", span.sink, span.recent, 0] if span else ["stream_llm", 0, _ALL, 0]


def _usage(path: Path, model: str) -> str:
    return (
        "from minference import MInference\n"
        f"model = MInference('minference', {model!r}, config_path={str(path)!r})(model)"
    )


FORMATS.add(
    Format(
        "minference", "MInference's sparse prefill pattern of every query head",
        read, from_map, from_policy,
    )
)  # fmt: skip
