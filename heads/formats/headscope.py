"""headscope's own policy file, described by `docs/schemas/policy.schema.json`.

Imported, a policy is a map of what it decided: it can be shown and compared like any other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headscope.heads.exchange import FORMATS, Exported, Format, Options
from headscope.heads.foreign import check_size
from headscope.heads.headmap import ColumnInfo
from headscope.heads.imported import Content, Known, Score, per_query_head
from headscope.heads.policy import Policy
from headscope.probes import json_text


def read(path: Path, known: Known) -> Content:
    """What the policy decided, and the scores it was ranked by."""
    policy = Policy.open(path)
    g = policy.geometry
    check_size(path, g.layers, g.heads)
    keeps = np.array([[float(span is None) for span in row] for row in policy.retain])
    reads = np.array([[float(span is None) for span in row] for row in policy.compute])
    scores = {
        "keeps_all": Score(per_query_head(keeps, g), ColumnInfo(about="1 if its KV group keeps every key")),
        "reads_all": Score(reads, ColumnInfo(about="1 if the head reads every key")),
    }
    if policy.scores is not None:
        ranked = np.array([[np.nan if s is None else s for s in row] for row in policy.scores])
        about = f"what the policy ranked KV groups by: {policy.origin.by}"
        info = ColumnInfo(about=about, low=None, high=None)
        scores["policy_score"] = Score(per_query_head(ranked, g), info)
    return Content(known.model or policy.model, g, scores)


def from_policy(policy: Policy, path: Path, options: Options) -> Exported:
    """The policy, in the present version of its schema."""
    usage = f"policy = headscope.heads.Policy.open({str(path)!r})"
    return Exported({"": json_text(policy)}, (), usage)


FORMATS.add(Format("headscope", "headscope's own policy file", read, from_policy=from_policy))
