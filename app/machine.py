"""Machine output: plain JSON values, every number exactly the column's."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from headscope.app.roles import Role
    from headscope.heads import Comparison, HeadMap


def plain(value: Any) -> Any:
    """The same value in types that JSON has; NaN and infinity become null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, str):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One object per row."""
    return [plain(row) for row in frame.to_dict("records")]


def as_json(value: Any) -> str:
    """One JSON document."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def described(headmap: HeadMap) -> dict[str, Any]:
    """What a map says about itself."""
    meta = headmap.meta
    return {
        "model": meta.model,
        "fingerprint": meta.fingerprint,
        "preset": meta.preset,
        "seed": meta.seed,
        "context": meta.context,
        "geometry": {
            "layers": meta.geometry.layers,
            "heads": meta.geometry.heads,
            "kv_heads": meta.geometry.kv_heads,
            "head_dim": meta.geometry.head_dim,
        },
        "tasks": meta.tasks,
        "accuracy": meta.accuracy,
        "versions": meta.versions,
    }


def role(found: Role) -> dict[str, Any]:
    """One role: its rule, its count, its top heads."""
    return {
        "count": found.count,
        "rule": str(found.rule),
        "score": found.rule.score,
        "about": found.info.about if found.info else "",
        "source": found.rule.source,
        "top": [
            {
                "layer": e.layer,
                "head": e.head,
                "kv_head": e.kv_head,
                found.rule.score: e.score,
                f"{found.rule.score}_se": e.error,
                "labelled": e.labelled,
            }
            | e.notes
            for e in found.top
        ],
    }


def comparison(found: Comparison) -> dict[str, Any]:
    """Everything a comparison found."""
    return {
        "scores": records(found.scores),
        "labels": records(found.labels),
        "difference": records(found.difference),
    }
