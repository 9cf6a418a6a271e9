"""MoA: per query head alpha and beta of the span alpha + beta * length it reads (Fu et al. 2024).

At run time a span is int(alpha + beta * (length + 1024)), at least 128, at most everything, rounded
up to 64, and 64 of it are sinks.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.foreign import bad, number_grid, read_foreign_json
from headscope.heads.headmap import ColumnInfo, HeadMap
from headscope.heads.imported import Content, Known, Score
from headscope.heads.losses import Loss, counted
from headscope.heads.policy import Policy, Span
from headscope.probes import HeadscopeError

_SINK, _BLOCK, _LEAST = 64, 64, 128  # tokens, fixed in MoA's kernels
_SOURCE = "MoA, Fu et al. 2024 (arXiv 2406.14909)"
_NAMES = {
    "alphas": ("moa_alpha", "tokens that the head's span has at any length"),
    "betas": ("moa_beta", "tokens by which the span grows with every token of the input; 1 reads everything"),
}


def read(path: Path, known: Known) -> Content:
    """Both grids."""
    found = read_foreign_json(path)
    if not isinstance(found, dict) or not set(_NAMES) <= set(found):
        bad(path, "must hold alphas and betas")
    grids = {name: number_grid(path, found[name], name) for name in _NAMES}
    if grids["alphas"].shape != grids["betas"].shape:
        bad(path, "has alphas and betas of different shapes")
    layers, heads = grids["alphas"].shape
    geometry = known.geometry(path, layers=layers, heads=heads)
    scores = {
        column: Score(grids[name], ColumnInfo(about=about, low=None, high=None, source=_SOURCE))
        for name, (column, about) in _NAMES.items()
    }
    return Content(known.model or path.stem.split(".moa")[0], geometry, scores)


def from_map(headmap: HeadMap, path: Path, options: Options) -> Exported:
    """A map that came from such a file, as it was."""
    columns = {name: column for name, (column, _) in _NAMES.items()}
    if not set(columns.values()) <= set(headmap.frame):
        raise HeadscopeError(
            "moa files hold the span of every query head, and this head map has none; "
            "give --ratio, or export a policy of it (HeadMap.policy)."
        )
    grids = {name: headmap.grid(column).to_numpy(np.float64).tolist() for name, column in columns.items()}
    return Exported({"": json.dumps(grids)}, (), _usage(path))


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """What every query head reads; windows grow to whole blocks, and their sinks become 64."""
    pairs = [[_pair(span) for span in row] for row in policy.compute]
    grids = {name: [[pair[i] for pair in row] for row in pairs] for i, name in enumerate(_NAMES)}
    spans = [span for row in policy.compute for span in row if span]
    losses = []
    if any(span.sink > _SINK for span in spans):
        losses.append(Loss(f"Sinks are the first {_SINK} tokens; further ones leave the window", None))
    grown = sum(span.sink < _SINK or (span.recent + _SINK) % _BLOCK > 0 for span in spans)
    if grown:
        text = f"Spans are {_SINK} sinks and whole blocks of {_BLOCK}, more than is needed by"
        losses.append(Loss(f"{text} {counted(grown, 'query head')}"))
    return Exported({"": json.dumps(grids)}, tuple(losses), _usage(path))


def _pair(span: Span) -> tuple[float, float]:
    if span is None:
        return 0.0, 1.0
    keys = max(_LEAST, _SINK + span.recent)
    return float(-(-keys // _BLOCK) * _BLOCK), 0.0


def _usage(path: Path) -> str:
    return (
        "from MoA.models.interface import update_model_function\n"
        "model = update_model_function(model, MODEL)\n"
        f"model.model.set_mixture_of_attention(json.load(open({str(path)!r})), permute_head=True)"
    )


FORMATS.add(Format("moa", "MoA's alpha and beta of every query head's span", read, from_map, from_policy))
