"""What later tests added to a run's head map, kept when the scan is finished again."""

from __future__ import annotations

from pathlib import Path

from headscope.heads.headmap import HeadMap
from headscope.probes import BadFile

_HEAD = ["layer", "head"]


def keep_added(fresh: HeadMap, file: Path) -> HeadMap:
    """`fresh` with the score columns that only the map in `file` has, such as `causal`.

    A file that is missing, damaged, or of other weights adds nothing.
    """
    try:
        old = HeadMap.open(file)
    except BadFile:
        return fresh
    added = {name: info for name, info in old.meta.columns.items() if name not in fresh.meta.columns}
    if old.meta.fingerprint != fresh.meta.fingerprint or not added:
        return fresh
    columns = [c for name in added for c in (name, f"{name}_se") if c in old.frame and c not in fresh.frame]
    frame = fresh.frame.merge(old.frame[[*_HEAD, *columns]], on=_HEAD, how="left")
    meta = fresh.meta.model_copy(update={"columns": fresh.meta.columns | added})
    return HeadMap(frame, meta, fresh.path)
